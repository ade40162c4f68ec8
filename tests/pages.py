"""README and docs, read: their commands, code, headings and numbers.

Commands are taken from fenced blocks and from inline code. `…` and `<name>` stand for what the reader fills in, and
are left out.
"""

import itertools
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
FENCE = re.compile(r"^```(\w*)[^\n]*\n(.*?)^```", re.M | re.S)
STARTS = ("python ", "make ", "torchrun ", "pytest ")


class Command(NamedTuple):
    page: str
    line: int
    words: tuple[str, ...]

    @property
    def text(self) -> str:
        return shlex.join(self.words)


def fenced_blocks(text: str, *languages: str) -> Iterator[tuple[int, str]]:
    """The line and the content of each fenced block in one of the languages; "" is none."""
    for block in FENCE.finditer(text):
        if block[1] in languages:
            yield text[: block.start(2)].count("\n") + 1, block[2]


def prose(text: str) -> str:
    """A page without its fenced blocks, whose lines stay as empty ones."""
    return FENCE.sub(lambda block: "\n" * block[0].count("\n"), text)


def lines_of_code(text: str) -> Iterator[tuple[int, str]]:
    """The line and the content of each line in a block of commands, and of each piece of inline code."""
    for first, block in fenced_blocks(text, "", "bash", "sh"):
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
            kept = [word for word in words if "<" not in word and not is_open(word)]
            yield Command(page.relative_to(ROOT).as_posix(), line, tuple(kept))


def is_open(word: str) -> bool:
    """Whether the reader has to fill in a setting; in a path, `…` may be any name."""
    return word.endswith("…") and not ("/…" in word and "=" not in word)


COMMANDS = list(itertools.chain.from_iterable(map(commands, PAGES)))


def of(*starts: str) -> list[Any]:
    """Parameters: the different commands that begin with such words; a test of their own runs those of the examples."""
    words = tuple(f"{start.rstrip()} " for start in starts)
    found = {c.text: c for c in COMMANDS if f"{c.text} ".startswith(words) and "env=mine" not in c.words}
    return [pytest.param(c, id=f"{c.page}:{c.line}") for c in found.values()]


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
MODULES = {"my_reach": "class Reach(", "my_restorable": "class RestorableReach(", "my_data": 'write(Path("my-data")'}


def write_modules(folder: Path) -> Path:
    """Writes `my_package`, which the README speaks of, and the modules of docs/environments.md, known by a line."""
    folder.mkdir(exist_ok=True)
    (folder / "my_package.py").write_text(MY_PACKAGE)
    blocks = [block for _, block in fenced_blocks((ROOT / "docs/environments.md").read_text(), "python")]
    for name, line in MODULES.items():
        (code,) = [block for block in blocks if line in block]
        (folder / f"{name}.py").write_text(code)
    return folder


def slug(heading: str) -> str:
    """The anchor that GitHub gives a heading."""
    plain = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).replace("`", "").strip().lower()
    return re.sub(r"[^\w\- ]", "", plain).replace(" ", "-")


def anchors(page: Path) -> set[str]:
    return {slug(heading) for heading in re.findall(r"^#{1,6} (.+)$", prose(page.read_text()), re.M)}


def numbers(text: str) -> list[str]:
    """What a reader has to take in: numbers in prose, tables and output, not in commands, code, links or names.

    `80%`, `1,600` and `2.13.0` are one each; `walker2d`, `TD3` and `ROS 2`, a name, are none.
    """
    output = "\n".join(block for _, block in fenced_blocks(text, "text"))
    plain = re.sub(r"\]\([^)]*\)|`[^`]*`|<!--.*?-->|\bROS [12]", " ", prose(text), flags=re.S)
    return re.findall(r"(?<![\w.])-?\d[\d,.]*\b", f"{plain}\n{output}")
