"""What README and docs say, done: examples train, pages of questions open, answers are exchanged, the site builds."""

import os
import pickle
import re
import shutil
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import h5py
import numpy as np
import pytest

from pbrl.data import episodes
from pbrl.data.table import Table
from pbrl.feedback.questions import Question, Value
from pbrl.feedback.store.answers import Answer
from pbrl.feedback.store.store import Store
from pbrl.types import Clip
from tests import forks
from tests.pages import COMMANDS, ROOT, of, write_modules

FILE_OF = re.compile(r"^\*\*([\w/.]+)\*\*\n\n```\w+\n(.*?)^```", re.M | re.S)


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
@pytest.mark.long
def test_the_examples_of_contributing_train_together(tmp_path):
    """A newcomer's algorithm, reward model, teacher and environment, from the page alone."""
    project, page = project_copy(tmp_path), (ROOT / "docs/contributing.md").read_text()
    files = FILE_OF.findall(page)
    assert len(files) == 8
    for name, content in files:
        (project / name).write_text(content)
    for i, command in enumerate([c for c in COMMANDS if c.page == "docs/contributing.md" and "env=mine" in c.words]):
        execute([*command.words[1:], f"run=runs/{i}", "workers=0"], project)
        assert (project / f"runs/{i}/result.json").exists() and (project / f"runs/{i}/policy.pt").exists()
    assert i == 1


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


def make_recordings(folder: Path) -> Path:
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
    "data=random": ["data.episodes=3"],
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
            words[i] = f"data.path={make_recordings(tmp_path / word.partition('=')[2])}"
    extra = ["workers=0", "query.count=3", f"data_dir={tmp_path}/data", f"cache={tmp_path}/clips", "port=8900"]
    path = f"{ROOT}{os.pathsep}{write_modules(tmp_path / 'readers')}"
    env = {**os.environ, "PYTHONPATH": path, "PYTHONUNBUFFERED": "1", "OMP_NUM_THREADS": "1"}
    serving = forks.Program([*words, *SMALL[data], *extra], cwd=tmp_path, env=env, text=True,
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
        assert b"<html" in fetch(re.sub(r"//[^:/]+:", "//127.0.0.1:", urls[0]))
    finally:
        serving.terminate()
        serving.wait(timeout=30)


def fetch(url: str) -> bytes:
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


def answer_questions(url: str) -> None:
    """A store with two answered pairs."""
    store, clips = Store(url), [Clip(f"{i:032x}", 0, 8) for i in range(4)]
    asked = store.ask([Question("pair", (clips[0], clips[1])), Question("pair", (clips[2], clips[3]))])
    store.add_rater("me", "human")
    store.append([Answer(f"{i}", name, "me", Value("answer", 1.0)) for i, name in enumerate(asked)])


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
                answer_questions(f"sqlite:///{words[2]}")
        env = {**os.environ, "PYTHONPATH": str(ROOT)}
        done = forks.run(words, cwd=tmp_path, env=env, capture_output=True, text=True)
        assert done.returncode == 0 and "2" in done.stdout, f"{command.text}: {done.stdout}{done.stderr}"
        actions.add(words[3])
    assert actions == {"counts", "export", "import"}


def write_answers(folder: Path) -> Path:
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
    imported = (*command.words[:3], write_answers(tmp_path / ("came" if "--export" in command.words else folder)).name,
                data, store)  # fmt: skip
    for words in dict.fromkeys([imported, command.words]):
        done = forks.run(words[1:], cwd=tmp_path, env=env, capture_output=True, text=True)
        assert done.returncode == 0 and done.stdout.startswith("3 answers"), done.stdout + done.stderr


def hopper_file(path: Path) -> None:
    """Random numbers of Hopper's sizes, in D4RL's format."""
    random = np.random.default_rng(0)
    with h5py.File(path, "w") as file:
        file["observations"] = random.normal(size=(2000, 11)).astype(np.float32)
        file["actions"] = random.uniform(-1, 1, (2000, 3)).astype(np.float32)
        file["rewards"] = random.normal(size=2000).astype(np.float32)
        file["terminals"], file["timeouts"] = np.zeros(2000, bool), np.arange(2000) % 100 == 99


@pytest.mark.slow
def test_the_python_example_of_the_readme_runs(tmp_path):
    """The block between the marks, in a folder of its own."""
    block = re.search(r"<!-- python-example -->\s*```python\n(.*?)```\s*<!-- /python-example -->",
                      (ROOT / "README.md").read_text(), re.S)  # fmt: skip
    assert block, "README.md has no python-example"
    assert len(block[1].splitlines()) <= 20
    code = re.sub(r"(steps|episodes)=\d+", r"\1=5", block[1])  # the same calls, of fewer updates and episodes
    code = code.replace('"ensemble"', '"ensemble", steps=5').replace('"cpl", ', '"cpl", pretrain_steps=5, ')
    (tmp_path / "example.py").write_text(code)
    hopper_file(tmp_path / re.findall(r'"([\w.-]+hdf5)"', code)[0])
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = forks.run(["example.py"], cwd=tmp_path, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
def test_a_robots_own_videos_train_as_the_labelling_page_says(tmp_path):
    """The block between the marks, on answers of the page's store about videos with numbers beside them."""
    block = re.search(r"<!-- robot-example -->\s*```python\n(.*?)```", (ROOT / "docs/labelling.md").read_text(), re.S)
    assert block
    folder = make_recordings(tmp_path / "my-robot")
    random = np.random.default_rng(0)
    for video in folder.glob("*.mp4"):
        np.savez(video.with_suffix(".npz"), obs=random.normal(size=(80, 3)), action=random.uniform(-1, 1, (79, 2)))
    store = Store(f"sqlite:///{tmp_path / 'labels.sqlite'}")
    clips = Table(episodes.read(folder)).clips(np.arange(0, 40, 5), 20)
    asked = store.ask([Question("pair", (a, b)) for a, b in zip(clips[::2], clips[1::2], strict=True)])
    store.add_rater("me", "human")
    store.append([Answer(f"{i}", name, "me", Value("answer", i % 2)) for i, name in enumerate(asked)])
    code = block[1].replace("steps=6000", "steps=5").replace('"ensemble"', '"ensemble", steps=5')
    (tmp_path / "example.py").write_text(code + "assert action.shape == (2,) and action.abs().max() <= 1\n")
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = forks.run(["example.py"], cwd=tmp_path, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
@pytest.mark.long
def test_the_site_builds_without_a_warning(tmp_path):
    """Broken links and anchors between pages, and docstrings that are no text, are warnings there.

    In Sphinx's own theme and without the sources, which cannot warn: `make docs` takes a theme that draws each page's
    navigation anew, two thirds of its time.
    """
    pytest.importorskip("sphinx")
    pytest.importorskip("furo")
    project = project_copy(tmp_path)
    plain = ["-D", "html_theme=basic", "-D", "extensions=myst_parser,sphinx.ext.autodoc,sphinx.ext.apidoc"]
    execute(["-m", "sphinx", "-W", "--keep-going", "-q", "-b", "html", *plain, "docs", "site"], project)
    index = (project / "site/searchindex.js").read_text()
    assert "quickstart" in index and "api/pbrl/pbrl.algos.cpl" in index
    settings = (project / "site/settings.html").read_text()
    assert "pretrain_steps" in settings and "query.strategy" in settings
