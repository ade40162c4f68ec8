"""Who may know whom: which part of the project imports which, read from the source of every file."""

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PARTS = ("pbrl", "robots", "sim", "real")
LEARNING = ("pbrl.algos", "pbrl.rewards", "pbrl.feedback", "pbrl.training", "pbrl.run")
FORBIDDEN: dict[str, tuple[str, ...]] = {  # a package: what nothing in it imports, anywhere in a file
    "pbrl": ("sim", "robots", "real"),
    "robots": ("sim", "real", "pbrl.data", "pbrl.models", *LEARNING),
    "sim": ("real", *LEARNING),
    "real": ("sim", *LEARNING),  # it runs a saved policy, and does not know how that was trained
    "pbrl.algos": ("pbrl.rewards", "pbrl.feedback"),
    "pbrl.rewards": ("pbrl.algos", "pbrl.feedback"),
    "pbrl.feedback": ("pbrl.algos", "pbrl.rewards"),
}
ALLOWED: dict[tuple[str, str], str] = {  # exceptions that stay
    ("real.mock", "sim"): "the mock of an arm is a simulation",
    ("real.record", "sim"): "an episode without camera images is shown as a rendered arm",
}
KNOWN: dict[tuple[str, str], str] = {}  # (module, what it imports): violations that are to go; keep it empty
ONLY_IN: dict[str, str] = {  # a name as it stands in source: the one package or module that may use it
    "torch.compile": "pbrl.training",
    "torch._dynamo": "pbrl.training",
    "torch.cuda.CUDAGraph": "pbrl.training",
    "torch.cuda.graph": "pbrl.training",
    "torch.distributed": "pbrl.distributed",
}


def is_in(module: str, package: str) -> bool:
    return module == package or module.startswith(f"{package}.")


@cache
def modules() -> dict[str, ast.Module]:
    """The syntax tree of every module of the project."""
    found = {}
    for path in sorted(path for part in PARTS for path in (ROOT / part).rglob("*.py")):
        name = ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
        found[name] = ast.parse(path.read_text())
    return found


def is_type_checking(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING")


def nodes(tree: ast.AST, at_import_only: bool) -> Iterator[ast.AST]:
    """All nodes below; or those that run when the module is imported."""
    for node in ast.iter_child_nodes(tree):
        later = isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)) or is_type_checking(node)
        if not (at_import_only and later):
            yield node
            yield from nodes(node, at_import_only)


def imports(module: str, at_import_only: bool = False) -> set[str]:
    """The modules that a module imports: of the project's own by their full names, of others as they are written."""
    found = set()
    for node in nodes(modules()[module], at_import_only):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0 and node.module is not None, f"{module}: relative imports are not used here"
            below = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= {name if name in modules() else node.module for name in below}
    return found


def violations() -> set[tuple[str, str]]:
    """(module, what it imports) against FORBIDDEN, but for ALLOWED."""
    return {
        (module, imported)
        for module in modules()
        for package, forbidden in FORBIDDEN.items()
        if is_in(module, package)
        for imported in imports(module)
        if any(is_in(imported, other) for other in forbidden)
        and not any(is_in(module, part) and is_in(imported, other) for part, other in ALLOWED)
    }


def test_every_part_is_checked():
    assert {name.split(".")[0] for name in modules()} == set(PARTS) and len(modules()) > 100
    assert "pbrl.types" in imports("robots.arm") and "mujoco" in imports("robots.kinematics")
    assert "real.mock.process" in imports("real.deployment"), "imports in functions count"
    assert "real.mock.process" not in imports("real.deployment", at_import_only=True)


def test_imports_follow_the_rules():
    new = violations() - set(KNOWN)
    assert not new, f"against the import rules: {sorted(new)}"


def test_known_violations_are_still_there():
    gone = set(KNOWN) - violations()
    assert not gone, f"mended: take it out of KNOWN: {sorted(gone)}"
    allowed = {pair: any(is_in(m, pair[0]) and is_in(i, pair[1]) for m in modules() for i in imports(m))
               for pair in ALLOWED}  # fmt: skip
    assert all(allowed.values()), f"not needed any more: {allowed}"


@pytest.mark.parametrize("name", ONLY_IN)
def test_names_reserved_for_one_module(name):
    """Compilation, CUDA graphs and process groups."""
    users = {module for module, tree in modules().items() if is_in(module, "pbrl") and uses(tree, name)}
    assert users <= {module for module in users if is_in(module, ONLY_IN[name])}, f"{name}: {sorted(users)}"


def uses(tree: ast.AST, name: str) -> bool:
    """Whether a name is imported or written out."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and is_in(ast.unparse(node), name):
            return True
        if isinstance(node, ast.Import) and any(is_in(alias.name, name) for alias in node.names):
            return True
        if isinstance(node, ast.ImportFrom) and any(is_in(f"{node.module}.{a.name}", name) for a in node.names):
            return True
    return False


def test_no_circles():
    """What a module imports when it is imported never leads back to it."""
    graph = {}
    for module in modules():
        found = imports(module, at_import_only=True)
        parents = {imported.rsplit(".", n)[0] for imported in found for n in range(1, imported.count(".") + 1)}
        graph[module] = {i for i in found | parents if i in modules() and not is_in(module, i)}
    done: set[str] = set()

    def walk(module: str, path: tuple[str, ...]) -> None:
        assert module not in path, f"a circle: {' → '.join((*path[path.index(module) :], module))}"
        if module not in done:
            for imported in sorted(graph[module]):
                walk(imported, (*path, module))
            done.add(module)

    for module in sorted(graph):
        walk(module, ())
