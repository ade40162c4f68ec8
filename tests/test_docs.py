"""What README and docs say can be done: commands parse, pass the project's own checks and run; links lead somewhere.

Commands are taken from fenced blocks and from inline code. `…` stands for what the reader fills in, and is left out.
"""

import argparse
import dataclasses
import importlib.util
import itertools
import os
import pickle
import re
import runpy
import shlex
import shutil
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import h5py
import numpy as np
import pytest
import yaml
from hydra import compose, initialize_config_dir
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import OmegaConf

import pbrl
import sim.configs
from docs.settings_tables import WHOLE, settings
from pbrl.feedback.store.store import Store
from pbrl.run import validate
from real import safety

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
CONFIGS = ROOT / "configs"
MAX_LINES, MAX_NUMBERS = 150, 25
FENCE = re.compile(r"^```(\w*)[^\n]*\n(.*?)^```", re.M | re.S)
STARTS = ("python ", "make ", "torchrun ", "pytest ")
FILE_OF = re.compile(r"^\*\*([\w/.]+)\*\*\n\n```\w+\n(.*?)^```", re.M | re.S)

sim.configs.register()


class Command(NamedTuple):
    page: str
    line: int
    words: tuple[str, ...]

    @property
    def text(self) -> str:
        return shlex.join(self.words)


# Reading pages


def fenced(text: str, *languages: str) -> Iterator[tuple[int, str]]:
    """The line and the content of each fenced block in one of the languages; "" is none."""
    for block in FENCE.finditer(text):
        if block[1] in languages:
            yield text[: block.start(2)].count("\n") + 1, block[2]


def prose(text: str) -> str:
    """A page without its fenced blocks, whose lines stay as empty ones."""
    return FENCE.sub(lambda block: "\n" * block[0].count("\n"), text)


def lines_of_code(text: str) -> Iterator[tuple[int, str]]:
    """The line and the content of each line in a block of commands, and of each piece of inline code."""
    for first, block in fenced(text, "", "bash", "sh"):
        for i, line in enumerate(block.replace("\\\n", "  ").splitlines()):
            yield first + i, line
    plain = prose(text)
    for code in re.finditer(r"`([^`]+)`", plain):
        yield plain[: code.start()].count("\n") + 1, " ".join(code[1].split())


def commands(page: Path) -> Iterator[Command]:
    """Every command of a page, without comments, placeholders and settings of the environment."""
    for line, code in lines_of_code(page.read_text()):
        code = re.sub(r"^(\w+=\S+ )+", "", code.strip())
        if code.startswith(STARTS):
            words = shlex.split(code, comments=True)
            kept = [word for word in words if not word.endswith("…") or "/…" in word and "=" not in word]
            yield Command(page.relative_to(ROOT).as_posix(), line, tuple(kept))


COMMANDS = list(itertools.chain.from_iterable(map(commands, PAGES)))


def of(*starts: str) -> list[Any]:
    """Parameters: the different commands that begin so; those of the examples are run by a test of their own."""
    found = {c.text: c for c in COMMANDS if c.text.startswith(starts) and "algo=mine" not in c.words}
    return [pytest.param(c, id=f"{c.page}:{c.line}") for c in found.values()]


# Checking a command


MY_PACKAGE = """
import gymnasium
import numpy as np
from gymnasium.spaces import Box


class MyEnv(gymnasium.Env):
    observation_space, action_space = Box(-1, 1, (3,), np.float32), Box(-1, 1, (2,), np.float32)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return self.np_random.uniform(-1, 1, 3).astype(np.float32), {}

    def step(self, action):
        return self.np_random.uniform(-1, 1, 3).astype(np.float32), 0.0, False, False, {}


gymnasium.register("MyEnv-v0", MyEnv, max_episode_steps=50)
"""


@pytest.fixture(autouse=True)
def package_of_a_reader(tmp_path, monkeypatch):
    """`my_package` with `MyEnv-v0`, which the pages take as an example of a reader's own."""
    (tmp_path / "readers").mkdir()
    (tmp_path / "readers/my_package.py").write_text(MY_PACKAGE)
    monkeypatch.syspath_prepend(tmp_path / "readers")


def composed(name: str, overrides: list[str]) -> list[dict[str, Any]]:
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
    words = [word for word in words if word not in ("-m", "--help", "--cfg", "job")]
    for config in composed("train", words):
        validate.check(config)


class Parsed(Exception):
    """The arguments were understood; nothing more is run."""


def check_module(module: str, words: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Of `python -m module`: argparse takes the words, or Hydra composes them."""
    if module == "pbrl.label":
        assert len(composed("label", words)) == 1
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
def test_a_python_command_would_run(command, monkeypatch, capsys):
    words = list(command.words[1:])
    if words[0] == "train.py":
        check_train(words[1:])
    elif words[0] == "-m":
        check_module(words[1], words[2:], monkeypatch)
    else:
        assert (ROOT / words[0]).exists(), f"{command.page}:{command.line}: no {words[0]}"


def known_settings() -> set[str]:
    """Dotted names of all settings of all choices in configs/, and of the groups themselves."""
    found = {name for file in WHOLE for name, *_ in settings((CONFIGS / f"{file}.yaml").read_text())}
    found |= {f"safety.{field.name}" for field in dataclasses.fields(safety.Settings)}
    for path in CONFIGS.rglob("*/*.yaml"):
        group = path.relative_to(CONFIGS).parts[0]
        also = {"objective": ("objective", "reward_objective"), "algo": ("algo", "baseline")}.get(group, (group,))
        found |= {f"{name}.{key}" for name in also for key, *_ in settings(path.read_text())}
    return found | {path.name for path in CONFIGS.iterdir() if path.is_dir()} | {"hydra/launcher"}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_settings_in_the_text_are_there(page):
    """Inline code such as `algo.lr=1e-4` or `feedback=perfect`: the name exists, and so does the choice of a group."""
    known = known_settings()
    for line, code in lines_of_code(prose(page.read_text())):
        for name, value in re.findall(r"(?:^| )([a-z][\w./]*)(?:@\w+)?=([^\s…]*)(?= |$)", code):
            assert name in known, f"{page.name}:{line}: there is no setting {name}"
            if (CONFIGS / name).is_dir() and value and "mine" not in value:
                is_file = (CONFIGS / name / f"{value}.yaml").exists()
                assert is_file or composed("train", [f"{name}={value}"]), f"{page.name}:{line}: no {name}={value}"


@pytest.mark.parametrize("command", of("torchrun "))
def test_a_run_of_several_processes_would_start(command):
    words = list(command.words)
    check_train(words[words.index("train.py") + 1 :])


@pytest.mark.filterwarnings("ignore:.*found in sys.modules.*")
@pytest.mark.parametrize("command", of("make "))
def test_what_make_would_run(command, monkeypatch, capsys):
    """`make -n` says what it would run; that is checked as if the page said it."""
    said = subprocess.run(
        ["make", "-n", "PYTHON=python3", *command.words[1:]], cwd=ROOT, capture_output=True, text=True
    )
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


def slug(heading: str) -> str:
    """The anchor that GitHub gives a heading."""
    plain = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).replace("`", "").strip().lower()
    return re.sub(r"[^\w\- ]", "", plain).replace(" ", "-")


def anchors(page: Path) -> set[str]:
    return {slug(heading) for heading in re.findall(r"^#{1,6} (.+)$", prose(page.read_text()), re.M)}


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


def numbers(text: str) -> list[str]:
    """What a reader has to take in: numbers in prose, tables and output, not in commands, code, links or names.

    `80%`, `1,600` and `2.13.0` are one each; `walker2d`, `TD3` and `ROS 2`, a name, are none.
    """
    output = "\n".join(block for _, block in fenced(text, "text"))
    plain = re.sub(r"\]\([^)]*\)|`[^`]*`|<!--.*?-->|\bROS [12]", " ", prose(text), flags=re.S)
    return re.findall(r"(?<![\w.])-?\d[\d,.]*\b", f"{plain}\n{output}")


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


# Running


def project_copy(folder: Path) -> Path:
    """The project's files in another place, as a newcomer has them."""
    ignored = shutil.ignore_patterns(".git", ".venv", "site", "runs", "datasets", "api", "__pycache__", "*.egg-info")
    return Path(shutil.copytree(ROOT, folder / "pbrl", ignore=ignored))


def execute(words: list[str], folder: Path, timeout: float = 600) -> str:
    """Runs a command with the copy in `folder`; returns what it prints."""
    env = {**os.environ, "PYTHONPATH": str(folder), "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, *words], cwd=folder, env=env, capture_output=True, text=True,
                          timeout=timeout)  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


@pytest.mark.slow
def test_the_examples_of_contributing_train_together(tmp_path):
    """A newcomer's algorithm, reward model, teacher and environment, from the page alone."""
    project, page = project_copy(tmp_path), (ROOT / "docs/contributing.md").read_text()
    files = FILE_OF.findall(page)
    assert len(files) == 8
    for name, content in files:
        (project / name).write_text(content)
    (command,) = [c for c in COMMANDS if c.page == "docs/contributing.md" and "algo=mine" in c.words]
    execute([*command.words[1:], "run=runs/mine", "workers=0"], project)
    assert (project / "runs/mine/result.json").exists() and (project / "runs/mine/policy.pt").exists()


def written_examples(page: str) -> list[tuple[str, str]]:
    return [(name, content) for name, content in FILE_OF.findall(page) if name.endswith(".py")]


def test_examples_are_formatted(tmp_path):
    for name, content in written_examples((ROOT / "docs/contributing.md").read_text()):
        file = tmp_path / name.replace("/", "_")
        file.write_text(content)
        for command in (["check"], ["format", "--check"]):
            ruff = [sys.executable, "-m", "ruff", *command, "--config", str(ROOT / "pyproject.toml"), str(file)]
            done = subprocess.run(ruff, capture_output=True, text=True)
            assert done.returncode == 0, f"{name}: {done.stdout}"


def recordings(folder: Path) -> Path:
    """Three short videos of a robot's own, without numbers."""
    from pbrl.data.video import write_mp4

    folder.mkdir(parents=True)
    for i in range(3):
        frames = [np.full((64, 64, 3), (20 * i + 3 * t) % 255, np.uint8) for t in range(80)]
        write_mp4(folder / f"{i}.mp4", frames, fps=20)
    return folder


SMALL = {  # what makes a documented page of questions small enough to be tried: the last of two values counts
    "data=medium_replay": ["data.sac={steps:300,keep_every:100,learning_starts:100,hidden:[16],batch_size:16}"],
    "data=recordings": [],
    "data=sample": ["data.episodes=2", "env.horizon=70"],
}


@pytest.mark.slow
@pytest.mark.parametrize("command", of("python -m pbrl.label"))
def test_a_page_of_questions_opens(command, tmp_path):
    """`python -m pbrl.label …` of the pages serves a page, is asked for it, and is stopped."""
    words = list(command.words[1:])
    data = next((word for word in words if word.startswith("data=")), "data=sample")
    for i, word in enumerate(words):
        if word.startswith("data.path="):
            words[i] = f"data.path={recordings(tmp_path / word.partition('=')[2])}"
    extra = ["workers=0", "query.count=3", f"data_dir={tmp_path}/data", f"cache={tmp_path}/clips", "port=8900"]
    env = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1", "OMP_NUM_THREADS": "1"}
    serving = subprocess.Popen([sys.executable, *words, *SMALL[data], *extra], cwd=tmp_path, env=env, text=True,
                               stdout=subprocess.PIPE, stderr=subprocess.STDOUT)  # fmt: skip
    try:
        said = []
        assert serving.stdout is not None
        for line in serving.stdout:
            said.append(line)
            if "stop with Ctrl-C" in line:
                break
        urls = re.findall(r"http://\S+", "".join(said))
        assert urls, "".join(said)
        assert b"<html" in fetched(re.sub(r"//[^:/]+:", "//127.0.0.1:", urls[0]))
    finally:
        serving.terminate()
        serving.wait(timeout=30)


def fetched(url: str) -> bytes:
    """The page at an address, which may take a moment to open, and may give a cookie first."""
    browser = urllib.request.build_opener(urllib.request.HTTPCookieProcessor())
    for _ in range(100):
        try:
            with browser.open(url, timeout=5) as answer:
                return answer.read()
        except urllib.error.HTTPError as error:
            raise AssertionError(f"{url}: {error} {error.read().decode()}") from error
        except urllib.error.URLError:
            time.sleep(0.2)
    raise AssertionError(f"nothing answers at {url}")


def answered(url: str) -> None:
    """A store with two answered pairs."""
    Store(url).record(
        dataset="d", length=8, kind="pair", strategy="uniform", round_=0, starts=np.array([[0, 9], [3, 20]]),
        author="me", label=np.array([1.0, 0.5]), outcome=np.array(["answer", "tie"], object), first=0,
    )  # fmt: skip


@pytest.mark.slow
def test_answers_are_exchanged_as_the_pages_say(tmp_path):
    """Every `python -m pbrl.feedback.exchange …`, in the order of the pages."""
    found = [c for c in COMMANDS if c.words[:3] == ("python", "-m", "pbrl.feedback.exchange")]
    actions = set()
    for command in found:
        words = list(command.words[1:])
        if words[3] != "import":
            words[2] = f"{tmp_path}/{words[2].replace('…', 'a')}"
            if not Path(words[2]).exists():
                Path(words[2]).parent.mkdir(parents=True, exist_ok=True)
                answered(f"sqlite:///{words[2]}")
        env = {**os.environ, "PYTHONPATH": str(ROOT)}
        done = subprocess.run([sys.executable, *words], cwd=tmp_path, env=env, capture_output=True, text=True)
        assert done.returncode == 0 and "2" in done.stdout, f"{command.text}: {done.stdout}{done.stderr}"
        actions.add(words[3])
    assert actions == {"counts", "export", "import"}


def published(folder: Path) -> Path:
    """Three comparisons of segments of 64 steps, as Uni-RLHF publishes them."""
    folder.mkdir()
    parts = {"indices_1": np.array([0, 5, 110]), "indices_2": np.array([10, 120, 20]), "human_label": [0, 1, -1]}
    for name, part in parts.items():
        (folder / f"{name}_domain_mujoco_env_x_num_3_len_64_ab.pkl").write_bytes(pickle.dumps(part))
    return folder


def d4rl_file(path: Path) -> Path:
    """Four episodes of a hundred steps, each ended by a timeout."""
    obs = np.arange(400, dtype=np.float32)[:, None]
    with h5py.File(path, "w") as file:
        file["observations"], file["actions"], file["rewards"] = obs, np.zeros((400, 1), np.float32), obs[:, 0]
        file["terminals"], file["timeouts"] = np.zeros(400, bool), np.arange(400) % 100 == 99
    return path


@pytest.mark.slow
@pytest.mark.parametrize("command", of("python -m pbrl.feedback.unirlhf"))
def test_answers_of_others_are_read_and_written_as_the_pages_say(command, tmp_path):
    folder, data, store = command.words[3:6]
    d4rl_file(tmp_path / data)
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    imported = (*command.words[:3], published(tmp_path / ("came" if "--export" in command.words else folder)).name,
                data, store)  # fmt: skip
    for words in dict.fromkeys([imported, command.words]):
        done = subprocess.run([sys.executable, *words[1:]], cwd=tmp_path, env=env, capture_output=True, text=True)
        assert done.returncode == 0 and done.stdout.startswith("3 answers"), done.stdout + done.stderr


@pytest.mark.slow
def test_the_python_example_of_the_readme_runs(tmp_path):
    """The block between the marks, in a folder of its own."""
    block = re.search(r"<!-- python-example -->\s*```python\n(.*?)```\s*<!-- /python-example -->",
                      (ROOT / "README.md").read_text(), re.S)  # fmt: skip
    assert block, "README.md has no python-example"
    assert len(block[1].splitlines()) <= 20
    (tmp_path / "example.py").write_text(block[1])
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "example.py"], cwd=tmp_path, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
def test_the_site_builds_without_a_warning(tmp_path):
    """Broken links and anchors between pages, and docstrings that are no text, are warnings there."""
    pytest.importorskip("sphinx")
    project = project_copy(tmp_path)
    execute(["-m", "sphinx", "-W", "--keep-going", "-q", "-b", "html", "docs", "site"], project)
    index = (project / "site/searchindex.js").read_text()
    assert "quickstart" in index and "api/pbrl/pbrl.algos.cpl" in index
    settings = (project / "site/settings.html").read_text()
    assert "pretrain_steps" in settings and "query.strategy" in settings
