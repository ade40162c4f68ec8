"""Invalid settings are refused in one sentence, before anything is created."""

import re
from pathlib import Path

import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.errors import HydraException
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from pbrl.run import train as run
from pbrl.run.validate import Draws, draws_of, validate
from pbrl.settings import Query, RunSettings, Schedule
from pbrl.training.engine import pick_device
from pbrl.types import UserError
from tests import forks
from tests.parts import build, config, phases
from tests.training.test_loop import BASE, command, train

ATTRIBUTES = ["algo=bc", "reward=attributes", "query.kind=attributes", "query.attributes=[speed]", "feedback=perfect"]
PLANNED = [*ATTRIBUTES, "algo=aligndiff", "algo.execute=4"]
POINT = "hydra.searchpath=[file://tests/configs]"


@pytest.mark.parametrize(
    "extra,says",
    [
        (["algo=cpl", "feedback=none"], "learns from answers"),
        (["algo=iql", "reward=ensemble", "feedback=none"], "learns from answers"),
        (["algo=ipl", "reward=ensemble"], "learns from the answers themselves"),
        (["algo=iql", "query.strategy=entropy", "query.kind=pair", "query.rounds=2"], "reward=ensemble"),
        (["algo=cpl", "query.kind=rating", "query.strategy=k_center"], "must be uniform"),
        (["algo=cpl", "query.kind=scores"], "pair, rating, ranking, attributes, triplet or spans"),
        (["algo=bc", "reward=attributes", "query.kind=pair"], r"query.attributes=\[speed,height\]"),
        (["algo=cpl", "query.kind=attributes", "query.attributes=[speed]"], "what reward=attributes learns from"),
        ([*ATTRIBUTES, "query.attributes=[]"], "attributes by name"),
        ([*ATTRIBUTES, "query.attributes=[speed,speed]"], "named once"),
        ([*ATTRIBUTES, "query.attributes=[speed,grace]"], "measures no grace; it measures speed, right, turn"),
        ([*ATTRIBUTES, "env=metaworld/button-press"], "measures no attributes.*feedback=people"),
        ([*ATTRIBUTES, "feedback=regret"], "about rewards"),
        ([*ATTRIBUTES, "objective@reward_objective=plackett_luce"], "compared in pairs"),
        ([*ATTRIBUTES, "algo=dppo"], "choose reward=transformer"),
        (["query.attributes=[speed]", "algo=cpl"], "leave them out"),
        (["algo=aligndiff", "feedback=none"], "add reward=attributes query.kind=attributes"),
        (["algo=aligndiff", "reward=ensemble", "query.kind=pair"], "add reward=attributes query.kind=attributes"),
        ([*PLANNED, "algo.target={height:1}"], "height: this planner knows speed"),
        ([*PLANNED, "algo.execute=8"], "algo.execute=8 of query.length=8"),
        ([*PLANNED, "objective=ipo"], "no objective to choose"),
        (["algo.wings=2"], "wings"),
        (["+algo.wings=2"], "has no wings"),
        (["algo=iql", "feedback=none", "objective=ipo"], "no objective to choose"),
        (["algo=iql", "feedback=none", "objective.bias=0.7"], "no objective to choose"),
        (["objective=robust", "objective.mistake=0.5"], "a half"),
        (["objective=plackett_luce", "query.kind=pair", "feedback=perfect"], "learns from lists"),
        (["objective=lipo_lambda", "objective.segments=2"], "3 or more"),
        (["objective@reward_objective=robust"], "no reward model"),
        (["reward=ensemble", "algo=iql", "objective@reward_objective=lipo_lambda", "query.kind=pair"], "from lists"),
        (["reward=surf", "algo=iql", "objective@reward_objective=plackett_luce"], "labels pairs"),
        (["reward=surf", "algo=iql", "reward.confidence=0.2"], "a half and 1"),
        (["feedback=stored"], "store="),
        (["feedback=stored", "feedback.count=0"], "null: all"),
        (["objective=kto"], "algo.reference=true"),
        (["algo.reference=true", "algo.pretrain_steps=0"], "relative to a clone"),
        (["feedback=mistake"], "query.kind=pair"),
        (["feedback=regret", "feedback.gamma=0.9"], "gamma=1"),
        (["feedback=mistake", "query.kind=pair", "feedback.mistake=1.5"], "0, 1"),
        (["reference.samples=4"], "differ by noise"),
        (["query.count=0"], "at least 1"),
        (["+query.foo=3"], "query has no foo"),
        (["algo=dtr", "reward=ensemble", "query.kind=pair", "algo.hidden=[]"], "the critic needs a hidden layer"),
        (["+reference.foo=3"], "reference has no foo"),
        (["feedback=perfect", "query.kind=pair", "feedback.reference.steps=many"], "feedback.reference.steps=many"),
        (["+eval_evry=3"], "has no eval_evry"),
        (["reward=ensemble", "algo=iql", "query.kind=pair", "query.strategy=entropy"], "earlier rounds"),
        (["env=gym/hopper"], "needs a scripted expert"),
        (["algo=td3bc", "feedback=none", "policy.std=0.2"], "policy.std=0"),
        (["only=dinner"], "null, data or answers"),
        (["eval_seed=-1"], "at least 0"),
        (["data.behaviour.strength=0.1", "data=offset", "data.behaviour.hold=0"], "at least one step"),
        (["algo=sarsa"], "algo/sarsa"),
        (["env=metaworld/juggle"], "metaworld/juggle"),
        (["device=abacus"], "no device"),
        (["seeds=0"], "at least 1"),
        (["seeds=1.5"], "seeds=1.5 must be a whole number"),
        (["seed=true"], "seed=True must be a whole number"),
        (["steps=abc"], "steps=abc must be a whole number"),
        (["bf16=7"], "bf16=7 must be true or false or auto"),
        (["compile=3"], "compile=3 must be text"),
        (["store=7"], "store=7 must be text or null"),
        (["algo=cpl", "reward=ensemble"], "algo=dppo"),
        (["algo=dppo"], "reward=transformer"),
        (["algo=uapa"], "reward=transformer"),
        (["algo=uapa", "reward=ensemble", "objective=kto"], "compares pairs"),
        (["algo=uapa", "reward=ensemble", "algo.reference=false"], "algo.reference=true"),
        (["algo=dppo", "reward=transformer", "feedback=none"], "learns from answers"),
        (["algo=fdpp", "feedback=none"], "policy=diffusion"),
        (
            [
                "algo=iql",
                "reward=ensemble",
                "query.kind=pair",
                "feedback=perfect",
                "query.rounds=2",
                "query.strategy=disagreement",
                "seeds=2",
            ],
            "each seed has its own",
        ),
        (["log_every=15"], "multiple of log_every"),
        (["steps=0"], "at least 1"),
        (["compile=sometimes"], "auto, always or never"),
        (["reward_scale=huge"], "reward_scale"),
        (["reward=ensemble", "algo=iql", "reward.normalize=huge"], "normalize"),
        (["data=file", "data.path=nowhere.hdf5", "data.behaviour=null"], "no data set at|behaviour"),
        (["data=file"], "path"),
    ],
    ids=str,
)
def test_invalid_settings_are_refused_before_anything_is_created(tmp_path, extra, says):
    extra = [e for e in extra if e != "data.behaviour=null"]
    with pytest.raises((UserError, HydraException, OmegaConfBaseException), match=says):
        base = [b for b in BASE if not (b.startswith("data") and "data=file" in extra)]
        with initialize_config_dir(str(Path("configs").absolute()), version_base="1.3"):
            config = compose("train", [*base, *extra, f"run={tmp_path / 'run'}", f"data_dir={tmp_path / 'data'}"])
        run.train(OmegaConf.to_container(config, resolve=True, throw_on_missing=True))  # type: ignore[arg-type]
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "extra,says",
    [
        (["algo=cpl", "feedback=none"], "learns from answers"),
        (["algo.wings=2"], "wings"),
        (["algo=td3bc", "feedback=none", "policy.std=0.2"], "policy.std=0"),
    ],
)
def test_the_command_prints_one_sentence(tmp_path, extra, says):
    done = forks.run(command(tmp_path, *extra), capture_output=True, text=True)
    assert done.returncode == 1 and says in done.stderr and "Traceback" not in done.stderr


@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU is there")
def test_a_gpu_that_is_not_there(tmp_path):
    with pytest.raises(UserError, match="no GPU here"):
        train(tmp_path, "device=cuda")


def test_devices():
    assert pick_device("cpu").type == "cpu" and pick_device("auto").type in ("cpu", "cuda")


def test_bad_schedules_and_queries():
    ask = dict(kind="pair", count=3, rounds=1, length=8, span=2, strategy="uniform", candidates=1, per_list=1,
               held_out=0.0, seed=0)  # fmt: skip
    for wrong in ({"rounds": 4}, {"held_out": 1.0}):
        with pytest.raises(UserError, match=next(iter(wrong))):
            Query(**{**ask, **wrong})  # type: ignore[arg-type]
    with pytest.raises(UserError, match="at least 1"):
        Schedule(steps=0, log_every=1, eval_every=1, checkpoint_every=1, eval_episodes=1, final_episodes=1)


@pytest.mark.parametrize(
    "name,changes,expected",
    [
        ("algo/bc", {}, Draws({"transitions"}, True)),
        ("algo/bc", {"weights": "filter"}, Draws({"rated"}, True)),
        ("algo/cpl", {}, Draws({"comparisons"}, True)),
        ("algo/cpl", {"objective": "kto", "reference": True}, Draws({"marked"}, True)),
        ("algo/cpl", {"objective": "plackett_luce"}, Draws({"comparisons"}, True)),
        ("algo/dppo", {}, Draws({"labelled_by_reward"}, True)),
        ("algo/dppo", {"objective": "kto", "reference": True}, Draws({"marked_by_reward"}, True)),
        ("algo/uapa", {"objective": "bradley_terry"}, Draws({"comparisons_with_win_rates"}, True)),
        ("algo/ipl", {}, Draws({"comparisons", "transitions"}, False)),
        ("algo/iql", {}, Draws({"transitions"}, False)),
        ("algo/dt", {}, Draws({"windows"}, False)),
        ("algo/dtr", {}, Draws({"windows"}, False)),
        ("reward/ensemble", {}, Draws({"comparisons"}, False)),
        ("reward/ensemble", {"objective": "kto"}, Draws({"marked"}, False)),
        ("reward/surf", {}, Draws({"comparisons", "unlabelled"}, False)),
        ("reward/discriminator", {}, Draws({"transitions"}, False)),
    ],
    ids=lambda value: "" if isinstance(value, Draws) else str(value),  # sets have no order
)
def test_what_a_learner_draws_is_found_by_drawing(name, changes, expected):
    assert draws_of(phases(build(name, **changes))) == expected


def test_settings_are_typed():
    settings = RunSettings.parse(config("steps=70", "query.count=9", "data_dir=somewhere", "run=here", "seeds=2"))
    assert settings.schedule.steps == 70 and settings.query.count == 9 and settings.seeds == 2
    assert settings.data_dir == Path("somewhere") and settings.run == Path("here") and settings.plain["steps"] == 70
    assert RunSettings.parse(config()).run is None
    assert set(settings.plain) - set(settings.identity) >= {"device", "run", "store", "grow"}


@pytest.mark.parametrize(
    "name,value,says",
    [
        ("seeds", 1.5, "seeds=1.5 must be a whole number"),
        ("seeds", 0, "seeds=0 must be a whole number, at least 1"),
        ("seed", True, "seed=True must be a whole number"),
        ("bf16", 7, "bf16=7 must be true or false or auto"),
        ("bf16", "fast", "bf16=fast must be true or false or auto"),
        ("steps", "abc", "steps=abc must be a whole number"),
        ("steps", 10.0, "steps=10.0 must be a whole number"),
        ("log_every", None, "log_every=None must be a whole number"),
        ("device", 0, "device=0 must be text"),
        ("reward_scale", None, "reward_scale=None must be text"),
        ("only", "dinner", "only=dinner: it is null, data or answers"),
        ("wings", 2, "the command line has no wings"),
    ],
)
def test_a_setting_of_the_wrong_kind_is_named(name, value, says):
    with pytest.raises(UserError, match=re.escape(says)):
        RunSettings.parse({**config(), name: value})


def test_a_setting_of_a_question_must_have_a_name_and_a_kind():
    with pytest.raises(UserError, match="query has no foo"):
        RunSettings.parse({**config(), "query": {**config()["query"], "foo": 3}})
    for name, value in (("count", 2.5), ("count", "many"), ("kind", 7), ("held_out", "some"), ("count", True)):
        with pytest.raises(UserError, match=f"query.{name}={value} must be"):
            RunSettings.parse({**config(), "query": {**config()["query"], name: value}})


@pytest.mark.parametrize(
    "flags",
    [
        ["seed=-1"], ["seed=2147483648"], ["data_seed=1.5"], ["seeds=1001"], ["threads=-1"], ["workers=-2"],
        ["steps=1e9"], ["eval_episodes=true"], ["final_episodes=0"], ["checkpoint_every=ten"], ["eval_seed=20001"],
        ["query.count=-3"], ["query.length=0"], ["query.held_out=1.0"], ["query.held_out=nan"], ["query.seed=-1"],
        ["query.rounds=0"], ["query.candidates=1e9"], ["query.per_list=0"], ["query.span=2.5"],
        ["data.episodes=0"], ["data.success=1.2"], ["data.behaviour.noise=-1"], ["data.behaviour.strength=nan"],
        ["data=medium", "data.sac.batch_size=0"], ["data=medium", "data.skill=2"],
        ["algo=iql", "algo.batch_size=0"], ["algo=iql", "algo.batch_size=2000000"], ["algo=iql", "algo.expectile=1"],
        ["algo=iql", "algo.hidden=[256,0]"], ["algo=iql", "algo.hidden=256"], ["algo=iql", "algo.lr=nan"],
        ["algo=iql", "algo.lr=true"], ["algo=iql", "algo.discount=1.01"], ["algo=iql", "algo.actor_cosine_steps=-1"],
        ["algo=td3bc", "policy.std=0", "algo.delay=0"], ["algo=dt", "algo.dropout=1.0"], ["algo=dt", "algo.width=64.0"],
        ["algo=cpl", "algo.pretrain_steps=-5"], ["algo=cpl", "algo.alpha=.inf"], ["policy.hidden=[a]"],
        ["policy.dropout=-0.1"], ["baseline.batch_size=0"], ["algo=cpl", "objective=hinge", "objective.margin=-1"],
        ["algo=cpl", "objective.bias=2"], ["algo=iql", "reward=ensemble", "reward.members=0"],
        ["algo=iql", "reward=ensemble", "reward.activation=swish"], ["algo=iql", "reward=lstm", "reward.steps=0"],
        ["algo=iql", "reward=surf", "reward.unlabelled=0"], ["feedback=skip", "feedback.skip=-0.5"],
        ["feedback=boltzmann", "feedback.beta=-1"], ["feedback=people", "feedback.port=0"],
        ["feedback=people", "feedback.strengths=[0.7,2]"], ["reference.steps=0"], ["reference.noise=-1"],
    ],
    ids=lambda flags: " ".join(flags),
)  # fmt: skip
def test_numbers_that_are_none_are_named_with_their_flag(flags):
    name, _, value = flags[-1].partition("=")
    with pytest.raises(UserError) as found:
        validate(RunSettings.parse(config(POINT, "env=tests/point", "algo=cpl", "feedback=perfect", *flags)))
    assert str(found.value).startswith(f"{name}=") and " must be " in str(found.value), found.value


@pytest.mark.parametrize(
    "flags,says",
    [
        (["~algo"], "there is no algo, which `~algo` on the command line takes away: choose one of configs/algo"),
        (["~reward"], "choose one of configs/reward"),
        (["~log_every"], "there is no log_every"),
        (["~query.count"], "there is no query.count"),
        (["~data.name"], "there is no data.name"),
        (["env=franka/lift", "env.style.speed=nan"], "env.style.speed=nan must be a number"),
    ],
)
def test_what_the_command_line_takes_away_or_makes_no_number_is_named(flags, says):
    with pytest.raises(UserError, match=re.escape(says)):
        RunSettings.parse(config(*flags))
