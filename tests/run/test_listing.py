"""Help, lists and nearest names: complete, quick, and true to what Hydra composes."""

import json
import os
import subprocess
import sys

import pytest
from hydra.errors import InstantiationException

from pbrl.configs import compose_config
from pbrl.run import choices, listing
from pbrl.run.validate import validate
from pbrl.settings import RunSettings
from pbrl.types import UserError
from sim.tasks import tasks

ALL = [(group.folder, choice) for group in choices.groups() for choice in choices.choices(group.folder)]


@pytest.fixture(scope="module")
def whole():
    """The config of `python train.py`, with no flags."""
    return compose_config()


def command(*flags: str, **environment: str) -> subprocess.CompletedProcess:
    """`python train.py <flags>`, which also says whether PyTorch or MuJoCo was imported."""
    code = (
        "import runpy, sys; runpy.run_path('train.py', run_name='__main__'); "
        "print(sorted({'torch', 'mujoco'} & set(sys.modules)), file=sys.stderr)"
    )
    return subprocess.run(
        [sys.executable, "-c", code, *flags], capture_output=True, text=True, env={**os.environ, **environment}
    )


@pytest.mark.parametrize(("folder", "choice"), ALL)
def test_every_choice_is_described(folder, choice):
    words = choices.description(folder, choice)
    assert len(words) > 8 and "\n" not in words and words[0] not in "#\"'"


def test_the_main_settings_are_described():
    _, notes = choices.load("", "train")
    assert all(notes.get(key) for key in listing.MAIN)
    assert all(group.description for group in choices.groups())


@pytest.mark.parametrize("flags", listing.EXAMPLES)
def test_the_examples_of_the_help_could_start(flags):
    words = [word for word in flags.split() if word != "-m" and not word.startswith("hydra/")]
    validate(RunSettings.parse(compose_config(*(word.split(",")[0] for word in words))))


def test_help_and_lists_load_neither_torch_nor_a_simulator(tmp_path):
    here = {"PBRL_CACHE": str(tmp_path), "MUJOCO_GL": "disabled"}
    found = command("list", "env", "gym", **here)
    assert found.returncode == 0 and "halfcheetah" in found.stdout  # this once Gymnasium's names are asked for
    assert json.loads((tmp_path / "tasks.json").read_text())["gym"] == list(tasks("gym"))
    for flags in (["--help"], ["list"], ["list", "algo"], ["list", "algo", "cpl"], ["list", "env", "gym"]):
        found = command(*flags, **here)
        assert found.returncode == 0 and found.stderr.splitlines()[-1] == "[]", (flags, found.stderr)
    assert "halfcheetah" in found.stdout


def test_a_list_of_a_group_names_all_its_choices():
    for group in choices.groups():
        text = listing.listing([group.name], tasks)
        assert all(f"  {choice} " in text for choice in choices.choices(group.folder))
    assert "algo.expectile=0.7" in listing.listing(["algo", "iql"], tasks)
    assert "button-press" in listing.listing(["env", "metaworld"], tasks)
    assert "env.horizon=250" in listing.listing(["env", "metaworld/button-press"], tasks)


def test_a_task_of_another_simulator_is_found():
    assert "did you mean multitask/mt10?" in listing._no_choice("env/metaworld/mt10", tasks)


@pytest.mark.parametrize(
    ("names", "says"),
    [(["algoo"], "did you mean algo"), (["algo", "cplx"], "did you mean cpl"), (["env", "metaworl"], "metaworld"),
     (["env", "metaworld", "buton-press"], "metaworld/button-press")],
)  # fmt: skip
def test_a_list_of_an_unknown_group(names, says):
    with pytest.raises(LookupError, match=says):
        listing.listing(names, tasks)


@pytest.mark.parametrize(
    ("flag", "says"),
    [
        ("algo=cplx", "algo=cplx is no choice: did you mean cpl? See python train.py list algo"),
        ("env=metaworld/buton-press", "did you mean metaworld/button-press "),
        ("env=metawrld/door-open", "did you mean metaworld/door-open"),
        ("stepz=3", "there is no setting stepz: did you mean steps?"),
        (
            "query.cuont=3",
            "there is no setting query.cuont: did you mean count? query takes attributes, candidates, clips, count,",
        ),
        ("algo.expectlie=0.9", "there is no setting algo.expectlie. algo takes alpha,"),
        ("data=file", "data.path has no default: add data.path="),
        ("steps=[3", "cannot read steps=[3"),
        ("nonsense/x=3", "nonsense/x"),
        ("~steps", "algo.cosine_steps follows another setting (Interpolation key 'steps' not found)"),
    ],
)
def test_command_line_errors_are_one_sentence(flag, says):
    with pytest.raises(UserError) as found:
        compose_config(flag)
    words = listing.explain(found.value.__cause__, tasks)  # type: ignore[arg-type]
    assert words is not None and says in words and "\n" not in words


def test_a_missing_id_is_asked_for():
    with pytest.raises(UserError, match=r"^env\.id has no default: add env\.id=…$"):
        compose_config("env=gymnasium")


def test_a_mistake_in_code_that_is_made_keeps_its_traceback():
    """An environment or a learner of the user's own, whose constructor raises: no flag is to blame."""
    error = InstantiationException("Error in call to target 'mine.Env'")
    assert listing.explain(error, tasks) is None


def test_an_environment_of_a_package_of_ones_own_is_known_by_its_id():
    config = compose_config("env=gymnasium", "env.id=Mine-v0", "env.module=mine")
    assert choices.names(config)["env"] == "gymnasium/Mine-v0"
    found = {setting.key: setting for setting in choices.settings(config) if setting.differs}
    assert found["env"].value == "gymnasium" and found["env.id"].value == "Mine-v0" and "env.module" in found


def test_other_errors_are_not_explained_away():
    assert listing.explain(ZeroDivisionError("x"), tasks) is None


@pytest.mark.parametrize(("folder", "choice"), [one for one in ALL if one[0] not in ("env", "experiment")])
def test_a_choice_is_known_by_its_values(folder, choice, whole):
    """A run's folder holds values, and the report names the choices that they came from."""
    values = choices.resolve(choices.load(folder, choice)[0] | ({"path": "x"} if folder == "data" else {}), whole)
    assert choices.find_choice(folder, values, whole) == choice


def test_the_settings_that_differ_are_those_that_were_given():
    def differences(*flags):
        return {s.key: (s.value, s.default) for s in choices.settings(compose_config(*flags)) if s.differs}

    assert differences() == {}
    assert differences("steps=123", "algo=iql", "algo.expectile=0.9", "query.kind=pair", "env=tabletop/lift") == {
        "steps": ("123", "6000"), "algo": ("iql", "cpl"), "algo.expectile": ("0.9", "0.7"),
        "query.kind": ("pair", "rating"), "env": ("tabletop/lift", "metaworld/button-press"),
    }  # fmt: skip
    assert differences("reward=lstm", "reward.width=8", "query.length=9").keys() == {
        "reward", "reward.width", "query.length",
    }  # fmt: skip  # reward.context fits query.length by itself


@pytest.mark.parametrize("simulator", [name for name in choices.choices("env") if name.endswith("/")])
def test_a_task_of_each_simulator_is_known_by_its_name(simulator):
    """franka is tabletop with a Panda, and by its other values the same."""
    task = tasks(simulator.rstrip("/"))[0]
    found = {s.key: s for s in choices.settings(compose_config(f"env={simulator}{task}")) if s.differs}
    assert found.keys() == {"env"} and found["env"].value == simulator + task


def test_comments_of_a_yaml():
    text = (
        'a: "# no"  # of a\n             # and more\nb: # of b\n  c: [1, 2]  # of c\n  d: 1\n# top\ne: null  # of e\n'
    )
    assert choices.comments(text) == {"a": "of a and more", "b": "of b", "b.c": "of c", "e": "of e"}
