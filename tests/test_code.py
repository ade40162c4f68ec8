"""Style, types, and what STYLE asks of functions: short, and documented where they are public."""

import ast
import statistics
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import NamedTuple

import pytest

CODE = ("pbrl", "sim", "robots", "real", "train.py")
MEDIAN_LINES, MOST_LINES, SHARE_DOCUMENTED = 7, 60, 0.95
PROTOCOLS = ("pbrl/types.py", "pbrl/vlm/judging.py", "real/robot.py")
STANDARD = {
    "Module": {"forward", "state_dict", "load_state_dict"},  # torch.nn
    "Env": {"reset", "step", "render", "close"},  # gymnasium
}
Function = ast.FunctionDef | ast.AsyncFunctionDef


class Found(NamedTuple):
    """A function: its file and class, the number of its lines without docstring, if it is public, and documented."""

    file: Path
    node: Function
    owner: ast.ClassDef | None
    lines: int
    is_public: bool
    is_documented: bool

    @property
    def where(self) -> str:
        owner = f"{self.owner.name}." if self.owner else ""
        return f"{self.file}:{self.node.lineno} {owner}{self.node.name}"


def functions() -> Iterator[Found]:
    for file in files():
        if "migrations" not in file.parts:  # steps of a schema are long, and called by Alembic alone
            yield from _functions(file, tree(file), owner=None, is_public=True)


def _functions(file: Path, parent: ast.AST, owner: ast.ClassDef | None, is_public: bool) -> Iterator[Found]:
    for node in ast.iter_child_nodes(parent):
        shown = is_public and not (getattr(node, "name", None) or "").startswith("_")
        if isinstance(node, Function):
            text = ast.get_docstring(node)
            body = node.body[1:] if text is not None else node.body
            lines = body[-1].end_lineno - body[0].lineno + 1 if body else 0  # type: ignore[operator]
            yield Found(file, node, owner, lines, shown, text is not None)
            yield from _functions(file, node, owner=None, is_public=False)
        else:
            yield from _functions(file, node, node if isinstance(node, ast.ClassDef) else owner, shown)


def files() -> list[Path]:
    return [f for name in map(Path, CODE) for f in ([name] if name.is_file() else sorted(name.rglob("*.py")))]


@cache
def tree(file: Path) -> ast.Module:
    return ast.parse(file.read_text())


def ancestors(file: Path, node: ast.ClassDef) -> Iterator[tuple[str, ast.ClassDef | None]]:
    """Every class above one: its name, and its definition if it is ours."""
    for base in node.bases:
        base = base.value if isinstance(base, ast.Subscript) else base
        found = _resolved(file, ast.unparse(base))
        yield ast.unparse(base).split(".")[-1], found[1] if found else None
        if found:
            yield from ancestors(*found)


def _resolved(file: Path, name: str) -> tuple[Path, ast.ClassDef] | None:
    """The class that a (dotted) name means in a file: defined there, or imported from a file of ours."""
    first, _, rest = name.partition(".")
    for node in ast.walk(tree(file)):
        if isinstance(node, ast.ClassDef) and node.name == name:
            return file, node
        if isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            for alias in node.names:
                if (alias.asname or alias.name) == first:
                    inside = _module(f"{node.module}.{alias.name}") if rest else _module(node.module)
                    return _resolved(inside, rest or alias.name) if inside else None
    return None


def _module(dotted: str) -> Path | None:
    path = Path(*dotted.split("."))
    return next((f for f in (path.with_suffix(".py"), path / "__init__.py") if f in files()), None)


def _methods(node: ast.ClassDef, is_documented: bool = False) -> set[str]:
    found = (n for n in node.body if isinstance(n, Function))
    return {n.name for n in found if not is_documented or ast.get_docstring(n) is not None}


def _protocols(methods: set[str]) -> Iterator[ast.ClassDef]:
    """The protocols of which a class with these methods has all of their own."""
    for node in (n for file in PROTOCOLS for n in tree(Path(file)).body if isinstance(n, ast.ClassDef)):
        if any("Protocol" in ast.unparse(base) for base in node.bases) and _methods(node) <= methods:
            yield node


def _is_inherited(found: Found) -> bool:
    """True if a method implements one that is documented: of an ancestor, of a protocol, of torch or gymnasium."""
    if found.owner is None:
        return False
    above = list(ancestors(found.file, found.owner))
    classes = [found.owner, *(node for _, node in above if node)]  # its own: a property's setter
    classes += _protocols(set().union(*map(_methods, classes)))
    documented = set().union(*(_methods(node, is_documented=True) for node in classes))
    return found.node.name in documented.union(*(STANDARD.get(name, set()) for name, _ in above))


def test_functions_are_short():
    found = list(functions())
    assert len(found) > 500
    assert statistics.median(f.lines for f in found) <= MEDIAN_LINES
    assert not [f.where for f in found if f.lines > MOST_LINES]


def test_public_functions_are_documented():
    """A method needs no words of its own if it implements a documented one."""
    public = [f for f in functions() if f.is_public]
    missing = [f.where for f in public if not f.is_documented and not _is_inherited(f)]
    assert len(missing) <= (1 - SHARE_DOCUMENTED) * len(public), "\n".join(missing)


def test_ruff():
    for command in (["check"], ["format", "--check"]):
        done = subprocess.run([sys.executable, "-m", "ruff", *command, "."], capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.slow
@pytest.mark.long
def test_pyright():
    done = subprocess.run(
        [sys.executable, "-m", "pyright", "--pythonpath", sys.executable], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
