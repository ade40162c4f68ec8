"""What README and docs say can be done: commands parse and pass the project's own checks, links lead somewhere."""

import argparse
import importlib.util
import itertools
import os
import re
import runpy
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from hydra import compose, initialize_config_dir
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import OmegaConf

import pbrl
import sim.configs
from docs.settings_tables import WHOLE, settings
from pbrl.run.validate import validate
from pbrl.settings import RunSettings
from tests.pages import COMMANDS, PAGES, ROOT, anchors, lines_of_code, numbers, of, prose, write_modules

CONFIGS = ROOT / "configs"
MAX_LINES, MAX_NUMBERS = 150, 25

sim.configs.register()


@pytest.fixture(autouse=True)
def modules_of_a_reader(tmp_path, monkeypatch):
    """What the pages take as an example of a reader's own modules can be imported."""
    monkeypatch.syspath_prepend(write_modules(tmp_path / "readers"))
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "readers"), prepend=os.pathsep)
    monkeypatch.setenv("OPENAI_API_KEY", "of-a-reader")


def compose_all(name: str, overrides: list[str]) -> list[dict[str, Any]]:
    """What Hydra makes of overrides: one config for each run of a sweep."""
    parsed = [o for o in OverridesParser.create().parse_overrides(overrides)]
    choices = [
        [f"{o.key_or_group}={v}" for v in o.sweep_string_iterator()] if o.is_sweep_override() else [o.input_line]
        for o in parsed
    ]
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        runs = [compose(name, list(choice)) for choice in itertools.product(*choices)]  # type: ignore[arg-type]
    return [OmegaConf.to_container(run, resolve=True) for run in runs]  # type: ignore[misc]


def check_train(words: list[str]) -> None:
    """Of `train.py`: what could not work raises UserError."""
    if words[:1] == ["list"] or "--help" in words:
        return
    words = [word for word in words if word not in ("-m", "--cfg", "job")]
    for config in compose_all("train", words):
        validate(RunSettings.parse(config))


class Parsed(Exception):
    """The arguments were understood; nothing more is run."""


def check_module(module: str, words: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Of `python -m module`: argparse takes the words, or Hydra composes them."""
    config = {"pbrl.label": "label", "pbrl.label.vlm": "label_vlm", "pbrl.judge": "judge",
              "pbrl.diversity": "diversity", "pbrl.online": "online"}.get(module)  # fmt: skip
    if config:
        assert len(compose_all(config, [word for word in words if word != "--dry-run"])) == 1
        return
    spec = importlib.util.find_spec(module)
    assert spec and spec.origin, f"there is no module {module}"
    if "__init__" not in spec.origin and "argparse" not in Path(spec.origin).read_text():
        assert not words, f"{module} takes no arguments"
        return
    found = run_module(module, ["--help"], monkeypatch)
    assert found == 0, f"python -m {module} --help ended with {found}"
    parse = argparse.ArgumentParser.parse_args
    for name in ("parse_args", "parse_intermixed_args"):
        monkeypatch.setattr(argparse.ArgumentParser, name, stop_after(getattr(argparse.ArgumentParser, name)))
    with pytest.raises(Parsed) as stopped:
        run_module(module, words, monkeypatch)
    given = stopped.value.args[0]
    monkeypatch.setattr(argparse.ArgumentParser, "parse_args", parse)
    if module == "real.deploy":
        settings: Any = OmegaConf.load(CONFIGS / "deploy.yaml")
        OmegaConf.set_struct(settings, True)
        OmegaConf.set_struct(settings["safety"], False)
        OmegaConf.merge(settings, OmegaConf.from_dotlist(given.settings))


def stop_after(parse: Any) -> Any:
    """A parser's method that raises what it parsed."""

    def parse_and_stop(self: argparse.ArgumentParser, *args: Any, **kwargs: Any) -> None:
        raise Parsed(parse(self, *args, **kwargs))

    return parse_and_stop


def run_module(module: str, words: list[str], monkeypatch: pytest.MonkeyPatch) -> Any:
    """Runs a module as `python -m` does, in this process; returns its exit status."""
    monkeypatch.setattr(sys, "argv", [module, *words])
    try:
        runpy.run_module(module, run_name="__main__", alter_sys=True)
    except SystemExit as end:
        return end.code or 0
    return 0


@pytest.mark.filterwarnings("ignore:.*found in sys.modules.*")
@pytest.mark.parametrize("command", of("python "))
def test_a_python_command_would_run(command, monkeypatch, capsys, tmp_path):
    words = list(command.words[1:])
    if words[0] == "train.py":
        check_train(words[1:])
    elif words[0] == "-m":
        check_module(words[1], words[2:], monkeypatch)
    else:
        places = [ROOT, tmp_path / "readers"]
        assert any((place / words[0]).exists() for place in places), f"{command.page}:{command.line}: no {words[0]}"


def known_settings() -> set[str]:
    """Dotted names of all settings of all choices in configs/, and of the groups themselves."""
    found = {name for file in WHOLE for name, *_ in settings((CONFIGS / f"{file}.yaml").read_text())}
    found |= {f"safety.{name}" for name in re.findall(r"^    (\w+): ", (ROOT / "real/safety.py").read_text(), re.M)}
    for path in CONFIGS.rglob("*/*.yaml"):
        group = path.relative_to(CONFIGS).parts[0]
        also = {"objective": ("objective", "reward_objective"), "algo": ("algo", "baseline"),
                "pretraining": ("reward.pretraining",)}.get(group, (group,))  # fmt: skip
        found |= {f"{name}.{key}" for name in also for key, *_ in settings(path.read_text())}
    return found | {path.name for path in CONFIGS.iterdir() if path.is_dir()} | {"hydra/launcher"}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_settings_in_the_text_are_there(page):
    """Inline code such as `algo.lr=1e-4` or `feedback=perfect`: the name exists, and so does the choice of a group."""
    known = known_settings()
    for line, code in lines_of_code(prose(page.read_text())):
        for name, value in re.findall(r"(?:^| )([a-z][\w./]*)(?:@\w+)?=([^\s…<]*)(?= |$)", code):
            assert name in known, f"{page.name}:{line}: there is no setting {name}"
            if (CONFIGS / name).is_dir() and value and "mine" not in value:
                is_file = (CONFIGS / name / f"{value}.yaml").exists()
                assert is_file or compose_all("train", [f"{name}={value}"]), f"{page.name}:{line}: no {name}={value}"


@pytest.mark.parametrize("command", of("torchrun "))
def test_a_run_of_several_processes_would_start(command):
    words = list(command.words)
    check_train(words[words.index("train.py") + 1 :])


@pytest.mark.filterwarnings("ignore:.*found in sys.modules.*")
@pytest.mark.parametrize("command", of("make "))
def test_what_make_would_run(command, monkeypatch, capsys):
    """`make -n` says what it would run; that is checked as if the page said it."""
    asked = ["make", "-n", "PYTHON=python3", *command.words[1:]]
    env = {key: value for key, value in os.environ.items() if not key.startswith(("MAKE", "MFLAGS", "ARGS"))}
    said = subprocess.run(asked, cwd=ROOT, env=env, capture_output=True, text=True)  # not those of `make test ARGS=…`
    assert said.returncode == 0, said.stderr
    last = [line for line in said.stdout.splitlines() if "/bin/python " in line][-1]
    words = shlex.split(last)[1:]
    if words[0] == "train.py":
        check_train(words[1:])
    elif words[1].startswith(("pbrl.", "benchmarks.")):
        check_module(words[1], words[2:], monkeypatch)
    else:
        assert words[1] in ("pytest", "sphinx"), last


@pytest.mark.parametrize("command", of("pytest "))
def test_tests_that_are_named_are_there(command):
    missing = [word for word in command.words[1:] if word.startswith("tests/") and not (ROOT / word).exists()]
    assert not missing, f"{command.page}:{command.line}: {missing}"


def test_commands_are_found():
    """Each kind of command is there, so that none of these tests has nothing to look at."""
    modules = {c.words[2] for c in COMMANDS if c.words[:2] == ("python", "-m")}
    assert {"pbrl.label", "pbrl.feedback.exchange", "pbrl.feedback.unirlhf", "real.deploy"} <= modules
    assert {"train", "test", "label", "docs"} <= {c.words[1] for c in COMMANDS if c.words[0] == "make"}
    assert len([c for c in COMMANDS if "train.py" in c.words]) > 20


# Links, length, numbers


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)\s]+)\)", prose(page.read_text())):
        if target.startswith(("http://", "https://")):
            continue
        place, _, anchor = target.partition("#")
        file = (page.parent / place).resolve() if place else page
        assert file.exists(), f"{page.name}: there is no {target}"
        assert not anchor or anchor in anchors(file), f"{page.name}: {file.name} has no #{anchor}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_files_that_are_named_are_there(page):
    """Inline code that looks like a path of the project is one."""
    folders = ("pbrl/", "sim/", "robots/", "real/", "configs/", "benchmarks/", "tests/", "docs/")
    for _, code in lines_of_code(page.read_text()):
        if code.startswith(folders) and re.fullmatch(r"[\w/.-]+", code) and not re.search(r"/(x|mine)(\.\w+|/)", code):
            assert (ROOT / code).exists(), f"{page.name}: there is no {code}"


def test_numbers_are_counted():
    text = "A 1,600 of `42` [7](8.md) in walker2d, TD3 and ROS 2.\n```\nmake x 9\n```\n```text\nBC 6% [2%, 16%]\n```\n"
    assert numbers(text) == ["1,600", "7", "6", "2", "16"]


def test_the_readme_is_short():
    text = (ROOT / "README.md").read_text()
    assert len(text.splitlines()) <= MAX_LINES
    assert max(map(len, text.splitlines())) <= 200 and len(numbers(text)) <= MAX_NUMBERS, numbers(text)


def test_the_citation_is_of_this_version():
    cited = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert {"cff-version", "message", "title", "authors"} <= set(cited)
    assert cited["version"] == pbrl.__version__ and cited["license"] == "MIT"
