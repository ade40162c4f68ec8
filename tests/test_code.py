"""Style, types, and what STYLE asks of functions: short, and documented where they are public."""

import ast
import statistics
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

CODE = ("pbrl", "sim", "robots", "real", "train.py")
MEDIAN_LINES, MOST_LINES, SHARE_DOCUMENTED = 7, 60, 0.95
Function = ast.FunctionDef | ast.AsyncFunctionDef


class Found(NamedTuple):
    """A function: where it is, the number of its lines without docstring, whether it is public and has a docstring."""

    where: str
    name: str
    lines: int
    is_public: bool
    is_documented: bool


def functions() -> Iterator[Found]:
    for name in CODE:
        path = Path(name)
        for file in [path] if path.is_file() else sorted(path.rglob("*.py")):
            if "migrations" not in file.parts:  # steps of a schema are long, and called by Alembic alone
                yield from _functions(file, ast.parse(file.read_text()), is_public=True)


def _functions(file: Path, parent: ast.AST, is_public: bool) -> Iterator[Found]:
    for node in ast.iter_child_nodes(parent):
        shown = is_public and not getattr(node, "name", "").startswith("_")
        if isinstance(node, Function):
            text = ast.get_docstring(node)
            body = node.body[1:] if text is not None else node.body
            lines = body[-1].end_lineno - body[0].lineno + 1 if body else 0  # type: ignore[operator]
            yield Found(f"{file}:{node.lineno} {node.name}", node.name, lines, shown, text is not None)
            yield from _functions(file, node, is_public=False)
        else:
            yield from _functions(file, node, shown)


def test_functions_are_short():
    found = list(functions())
    assert len(found) > 500
    assert statistics.median(f.lines for f in found) <= MEDIAN_LINES
    assert not [f.where for f in found if f.lines > MOST_LINES]


def test_public_functions_are_documented():
    """A method that implements a documented one of the same name needs no words of its own."""
    public = [f for f in functions() if f.is_public]
    documented = {f.name for f in public if f.is_documented}
    missing = [f.where for f in public if not f.is_documented and f.name not in documented]
    assert len(missing) <= (1 - SHARE_DOCUMENTED) * len(public), "\n".join(missing)


def test_ruff():
    for command in (["check"], ["format", "--check"]):
        done = subprocess.run([sys.executable, "-m", "ruff", *command, "."], capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.slow
def test_pyright():
    done = subprocess.run(
        [sys.executable, "-m", "pyright", "--pythonpath", sys.executable], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
