"""What the command line offers, read from the files in `configs/` alone: groups, choices, descriptions, defaults.

A description is written once: the comment at the top of a choice's yaml, else the first line of the docstring of what
its `_target_` names; a setting's is the comment beside it. Neither torch nor a simulator is imported.
"""

import ast
import json
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import yaml
from omegaconf import OmegaConf
from omegaconf.errors import InterpolationResolutionError

from pbrl import configs

CONFIGS, CODE = configs.FOLDER, Path(__file__).parents[2]
OWN = ("_target_", "_partial_", "task", "name")  # keys that the choice itself sets
ENTRY = re.compile(r"  - (?:optional )?([\w/@]+): (\S+)(?:\s+# (.*))?")  # in the defaults of train.yaml


class Group(NamedTuple):
    """A group of choices: `name` as on the command line, the `folder` of its files, and the `part` of the config."""

    name: str
    folder: str
    part: str
    default: str  # "null": none
    description: str


class Setting(NamedTuple):
    """One value of a run: its dotted key, the value, the default, what it means, and whether the two values differ."""

    key: str
    value: str
    default: str
    description: str
    differs: bool


@cache
def groups() -> list[Group]:
    """The groups of `configs/train.yaml`, in its order."""
    found = []
    for name, default, comment in ENTRY.findall((CONFIGS / "train.yaml").read_text()):
        folder, _, part = name.partition("@")
        if (CONFIGS / folder).is_dir():
            found.append(Group(name, folder, part or folder, default, comment))
    return found


def choices(folder: str) -> list[str]:
    """The choices of a group, by name; a choice that is a folder (a simulator) ends with a slash."""
    place = CONFIGS / folder
    files = [path.stem for path in place.glob("*.yaml") if path.stem != "base"]
    return sorted([*files, *(f"{path.name}/" for path in place.iterdir() if path.is_dir())])


def description(folder: str, choice: str) -> str:
    """One sentence on a choice, or nothing."""
    path = _path(folder, choice)
    head = re.match(r"(?:#.*\n)*", text := path.read_text())
    words = [line.strip("# ") for line in (head.group() if head else "").splitlines() if "@package" not in line]
    if words:
        return first_sentence(" ".join(words))
    target = (yaml.safe_load(text) or {}).get("_target_")
    return docstring(target) if target else ""


def first_sentence(text: str) -> str:
    """The first sentence that says something; one of a word or two ("GPU.") keeps the next."""
    parts = re.split(r"(?<=\.)\s+(?=[A-Z])", re.split(r"\s+python train\.py|\s{3,}", text)[0])
    return (parts[0] if len(parts[0]) > 12 or len(parts) == 1 else f"{parts[0]} {parts[1]}").rstrip(":")


def docstring(target: str) -> str:
    """The first line of the docstring of a class, a function, or else of its module; read, not imported."""
    module, _, name = target.rpartition(".")
    place = CODE / module.replace(".", "/")
    path = place / "__init__.py" if place.is_dir() else place.with_suffix(".py")
    if not path.is_file():
        return ""
    tree = ast.parse(path.read_text())
    own = [node for node in tree.body if isinstance(node, (ast.ClassDef, ast.FunctionDef)) and node.name == name]
    found = next(filter(None, map(ast.get_docstring, [*own, tree])), "")
    return found.splitlines()[0] if found else ""


@cache
def load(folder: str, choice: str) -> tuple[dict[str, Any], dict[str, str]]:
    """The values of a choice with those it inherits, interpolations unresolved; and the comments, by dotted key."""
    text = _path(folder, choice).read_text()
    own: Any = OmegaConf.to_container(OmegaConf.create(text))
    notes = comments(text)
    values: dict[str, Any] = {}
    parents = own.pop("defaults", [])
    for parent in parents if "_self_" in parents else [*parents, "_self_"]:
        if parent == "_self_":
            values = merge(values, own)
        elif isinstance(parent, str):
            name = parent.partition("@")[0]  # as in /env/tabletop/base@_here_
            inherited, noted = load("", name[1:]) if name.startswith("/") else load(folder, name)
            values, notes = merge(values, inherited), noted | notes
    return values, notes


def comments(text: str) -> dict[str, str]:
    """The comment beside each key of a yaml, with the comment lines that follow, by dotted key."""
    lines, root = text.splitlines(), yaml.compose(text)
    return dict(_comments(lines, root, "")) if isinstance(root, yaml.MappingNode) else {}


def _comments(lines: list[str], node: yaml.MappingNode, prefix: str) -> Iterator[tuple[str, str]]:
    for key, value in node.value:
        block = isinstance(value, yaml.CollectionNode) and not value.flow_style
        end = key.end_mark if block else value.end_mark
        words = [lines[end.line][end.column :].partition("# ")[2]]
        for line in lines[end.line + 1 :]:
            if not words[0] or not re.match(r"\s+# ", line):
                break
            words.append(line.strip(" #"))
        if words[0]:
            yield prefix + key.value, " ".join(words)
        if isinstance(value, yaml.MappingNode):
            yield from _comments(lines, value, f"{prefix}{key.value}.")


def merge(old: dict[str, Any], new: dict[str, Any]) -> dict[str, Any]:
    """`old` with the values of `new`, nested dictionaries merged."""
    both = {k: merge(old[k], v) for k, v in new.items() if isinstance(v, dict) and isinstance(old.get(k), dict)}
    return {**old, **new, **both}


def flatten(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested dictionaries as one, by dotted key."""
    found: dict[str, Any] = {}
    for key, value in values.items():
        found |= flatten(value, f"{prefix}{key}.") if isinstance(value, dict) and value else {prefix + str(key): value}
    return found


def find_choice(folder: str, part: dict[str, Any], config: dict[str, Any]) -> str:
    """Which choice of a group a run's `part` was made from: the one that differs in the fewest values; "" if none."""
    known, name = _names(folder), str(part.get("name"))
    if "/" in name and f"{name.partition('/')[0]}/base" in known:  # two may differ in nothing but their name
        return name
    named = {choice: load(folder, choice)[0] for choice in known}
    own = {key: part.get(key) for key in ("_target_", "name")}
    same = {c: v for c, v in named.items() if all(_may_be(v.get(key, value), value) for key, value in own.items())}
    if not same:
        return ""
    have = flatten(part)
    # the original wins a tie
    found = min(same, key=lambda c: (_distance(have, flatten(resolve(same[c], config))), _inherits(folder, c)))
    return f"{found.removesuffix('/base')}/{part['task']}" if found.endswith("/base") else found


@cache
def _inherits(folder: str, choice: str) -> bool:
    """Whether another choice's yaml says what this one makes."""
    return "_target_" not in _path(folder, choice).read_text()


def _may_be(written: Any, value: Any) -> bool:
    """Whether a choice's value, as its yaml writes it, may have become this one."""
    return written == value or "${" in str(written)


def names(config: dict[str, Any]) -> dict[str, str]:
    """The choice of each group that a run was made from, by part; a class's name where it is none of the choices."""
    parts = {group.part: config[group.part] for group in groups() if isinstance(config.get(group.part), dict)}
    folders = {group.part: group.folder for group in groups()}
    found = {part: find_choice(folders[part], own, config) or _class_name(own) for part, own in parts.items()}
    if "/" in str(name := parts["env"].get("name")):  # of a package of the user's own: gymnasium/MyEnv-v0
        found["env"] = name
    return found


def _class_name(part: dict[str, Any]) -> str:
    name = str(part.get("_target_") or part.get("name") or "none")
    return f"{name}/{part['task']}" if part.get("task") else name


def resolve(values: dict[str, Any], config: dict[str, Any]) -> dict[str, Any]:
    """Values with interpolations such as `${steps}` replaced by what the run's `config` has there, if it has."""
    text = str(values)
    if "${" not in text:
        return values
    needed, beside = set(re.findall(r"\$\{(\w+)", text)), set(re.findall(r"\$\{\.(\w+)", text))
    interpolated = {key: value for key, value in values.items() if key in beside or "${" in str(value)}
    root = OmegaConf.create({key: config[key] for key in needed & set(config)} | {"_default_": interpolated})
    try:
        found: Any = OmegaConf.to_container(root._default_, resolve=True)
    except InterpolationResolutionError:  # the run is older than the setting
        return values
    return {**values, **found}


def settings(config: dict[str, Any]) -> list[Setting]:
    """Every value of a run's config beside its default: a choice first, then the values that differ within it."""
    values, notes = load("", "train")
    parts = {group.part: group for group in groups()}
    found = [
        _setting(k, v, resolve({"x": values.get(k)}, config)["x"], notes.get(k, ""))
        for k, v in config.items()
        if k not in parts and not isinstance(v, dict)
    ]
    for key, value in config.items():
        if key in parts and isinstance(value, dict):
            found += _part_settings(parts[key], value, config)
        elif isinstance(value, dict):
            found += _values(key, value, values.get(key, {}), notes, config)
    return found


def _part_settings(group: Group, part: dict[str, Any], config: dict[str, Any]) -> list[Setting]:
    choice = find_choice(group.folder, part, config)
    if not choice:
        return _values(group.part, part, part, {}, config)
    values, notes = load(group.folder, choice)
    notes = {f"{group.part}.{key}": words for key, words in notes.items()}
    head = _setting(group.name, choice, group.default, description(group.folder, choice))
    return [head, *_values(group.part, part, values, notes, config)]


def _values(prefix: str, have: dict, default: dict, notes: dict[str, str], config: dict[str, Any]) -> list[Setting]:
    usual = flatten(resolve(default, config))
    found = {key: value for key, value in flatten(have).items() if key.rpartition(".")[2] not in OWN}
    return [
        _setting(
            f"{prefix}.{key}", value, "none: it must be given" if usual.get(key) == "???" else usual.get(key), words
        )
        for key, value in found.items()
        for words in [notes.get(f"{prefix}.{key}", "")]
    ]


def _setting(key: str, value: Any, default: Any, words: str) -> Setting:
    return Setting(key, format_value(value), format_value(default), words, value != default)


def format_value(value: Any) -> str:
    """A value as one would type it on the command line."""
    return value if isinstance(value, str) else json.dumps(value)


@cache
def _names(folder: str) -> list[str]:
    place = CONFIGS / folder
    return sorted(str(path.relative_to(place).with_suffix("")) for path in place.rglob("*.yaml"))


def _path(folder: str, choice: str) -> Path:
    path = CONFIGS / folder / f"{choice.rstrip('/')}.yaml"
    if path.is_file():
        return path
    return (path.with_suffix("") if path.with_suffix("").is_dir() else path.parent) / "base.yaml"


def _distance(have: dict[str, Any], default: dict[str, Any]) -> int:
    return sum(have.get(key) != value for key, value in default.items()) + len(set(have) - set(default))
