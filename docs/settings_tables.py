"""Tables of all settings, read from configs/ when the site is built, so that no page repeats what a yaml says."""

import re
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sphinx.application import Sphinx

CONFIGS = Path(__file__).parent.parent / "configs"
MARK = "<!-- the tables of configs/ stand here in the built site -->"
GROUPS = (
    "data",
    "feedback",
    "vlm",
    "reward",
    "pretraining",
    "algo",
    "objective",
    "policy",
    "env",
    "experiment",
    "logger",
    "robot",
)
WHOLE = {
    "train": "python train.py",
    "label": "python -m pbrl.label",
    "label_vlm": "python -m pbrl.label.vlm",
    "judge": "python -m pbrl.judge",
    "diversity": "python -m pbrl.diversity",
    "online": "python -m pbrl.online",
    "deploy": "python -m real.deploy",
}
LINE = re.compile(r"^(?P<indent> *)(?P<key>[A-Za-z_]\w*):(?:\s+(?P<value>[^#\s][^#]*?))?\s*(?:#\s*(?P<says>.*))?$")
HIDDEN = ("_target_", "_partial_", "defaults", "hydra", "name")


def fill(app: "Sphinx", page: str, source: list[str]) -> None:
    """Puts the tables in place of the mark in a page's text, which is read again when a yaml has changed."""
    if MARK in source[0]:
        for path in (Path(__file__), *CONFIGS.rglob("*.yaml")):
            app.env.note_dependency(str(path))
        source[0] = source[0].replace(MARK, tables())


def tables() -> str:
    """Markdown: one table for each command's own settings, then one for each choice of each group."""
    parts = []
    for name, command in WHOLE.items():
        parts += [f"## Settings of `{command}`\n", table(CONFIGS / f"{name}.yaml")]
    for group in (*GROUPS, "hydra/launcher"):
        parts.append(f"## `{group}=`\n")
        for path in sorted((CONFIGS / group).rglob("*.yaml")):
            choice = path.relative_to(CONFIGS / group).with_suffix("").as_posix().replace("/base", "/…")
            parts += [f"### `{group}={choice}`\n", first_comment(path) + base(group, path), table(path)]
    return "\n".join(parts)


def first_comment(path: Path) -> str:
    """The comment that a file begins with."""
    lines = path.read_text().splitlines()
    first = next((i for i, line in enumerate(lines) if not line.startswith("#")), len(lines))
    comment = [line.lstrip("# ") for line in lines[:first] if "@package" not in line]
    return escape_cell(" ".join(comment)) + "\n" if comment else ""


def base(group: str, path: Path) -> str:
    """Which other choice of the group a file builds on."""
    found = re.search(r"^defaults: \[(\w+), _self_\]", path.read_text(), re.M)
    return f"\nIt is `{group}={found[1]}` but for:\n" if found else ""


def table(path: Path) -> str:
    """Name, default and meaning of each setting of a yaml file."""
    rows = [row for row in settings(path.read_text()) if row[1] or row[2]]  # a group's own line may say nothing
    if not rows:
        return ""
    body = [f"| `{name}` | {code(value)} | {escape_cell(says)} |" for name, value, says in rows]
    return "\n".join(["| setting | default | meaning |", "|---|---|---|", *body, ""])


def settings(text: str) -> list[tuple[str, str, str]]:
    """(dotted name, default, meaning) of each line; a comment that goes on below belongs to the line above."""
    rows: list[tuple[str, str, str]] = []
    parents: list[tuple[int, str]] = []
    for line in text.splitlines():
        found = LINE.match(line)
        if found is None:
            if rows and re.match(r"^ {8,}# ", line):
                rows[-1] = (*rows[-1][:2], f"{rows[-1][2]} {line.split('# ', 1)[1]}")
            continue
        depth = len(found["indent"])
        parents = [(place, key) for place, key in parents if place < depth] + [(depth, found["key"])]
        if parents[0][1] not in HIDDEN and found["key"] not in HIDDEN:
            rows.append((".".join(key for _, key in parents), (found["value"] or "").strip(), found["says"] or ""))
    return rows


def code(value: str) -> str:
    """A default as code; a text of several lines is left to the yaml."""
    more = " …" if value.endswith(",") else ""
    return f"`{value}{more}`" if value not in ("", "|") else ""


def escape_cell(text: str) -> str:
    """As Markdown takes it in a cell."""
    return re.sub(r"([|<*_\[])", r"\\\1", text)
