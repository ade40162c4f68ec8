"""`python train.py --help` and `python train.py list …`: what there is to choose; and names near a misspelt one."""

import re
import shutil
import textwrap
from collections.abc import Callable, Iterable
from difflib import get_close_matches

from hydra.errors import (
    CompactHydraException,
    InstantiationException,
    MissingConfigException,
    OverrideParseException,
)
from omegaconf.errors import (
    InterpolationResolutionError,
    InterpolationToMissingValueError,
    MissingMandatoryValue,
    OmegaConfBaseException,
)

from pbrl.run import choices
from pbrl.run.choices import Group

MISSING = re.compile(r"Missing mandatory value: ([\w.]+)")
Tasks = Callable[[str], Iterable[str]]  # the names of a simulator's tasks

ABOUT = """\
python train.py [group=choice …] [setting=value …]

Trains a robot policy from preferences, from start to end: it collects or loads episodes, asks which segments are
better, learns a reward model or a policy straight from the answers, compares with a baseline, evaluates in simulation,
and writes policy, curve, video and a report into one folder. The same command resumes a run that was stopped."""
EXAMPLES = {
    "": "CPL on Meta-World's button-press; a script answers",
    "env=franka/lift algo=iql reward=ensemble feedback=perfect": "a reward model, then offline RL on it",
    "feedback=people query.kind=pair query.count=50": "you answer, in the browser",
    "env=gym/hopper data=medium_replay algo=iql feedback=none": "offline RL on the true reward",
    "algo=cpl seeds=8 steps=20000 query.count=500": "eight seeds trained at once",
    "-m algo=cpl,iql seed=0,1,2 hydra/launcher=local": "a sweep of six runs, several at a time",
}
MAIN = ("steps", "seed", "seeds", "device", "only", "compare", "video", "query.kind", "query.count", "query.length",
        "query.rounds", "query.strategy", "store", "run")  # fmt: skip
MORE = """\
More
  python train.py list                  every group with its choices; list algo: one group, with what each choice is
  python train.py list env metaworld    the tasks of a simulator;  list algo cpl: the settings of a choice
  python train.py --cfg job …           the whole configuration that a command would run with
  python train.py --hydra-help          flags of Hydra, which reads the command line
  python -m pbrl.run.report runs/a …    the report of a run, or a page that compares several"""


def help_page() -> str:
    """The text of `--help`."""
    notes = choices.load("", "train")
    defaults = choices.flatten(notes[0])
    examples = [(f"python train.py {flags}".strip(), words) for flags, words in EXAMPLES.items()]
    flags = [(f"{key}={choices.format_value(defaults[key])}", notes[1].get(key, "")) for key in MAIN]
    sections = [
        ABOUT,
        "Examples\n" + "\n".join(f"  {command}\n      {words}" for command, words in examples),
        "Groups\n" + overview(),
        "Main settings\n" + table(flags),
        MORE,
    ]
    return "\n\n".join(sections)


def overview() -> str:
    """Every group with its default, its purpose and its choices."""
    rows = []
    for group in _all_groups():
        default = f" [{group.default}]" if group.default != "null" else ""
        found = f"as {group.folder}" if "@" in group.name else ", ".join(choices.choices(group.folder))
        rows.append((f"{group.name}=", f"{group.description}{default}: {found}"))
    return table(rows)


def listing(names: list[str], tasks: Tasks) -> str:
    """What `python train.py list <names>` prints. Raises LookupError, with a sentence, for a name that is none."""
    if not names:
        return overview() + "\n\nMore on a group: python train.py list algo"
    groups = {group.name: group for group in _all_groups()}
    known = {**{group.part: group for group in groups.values()}, **groups}  # baseline is algo@baseline
    if names[0] not in known:
        raise LookupError(f"there is no group {names[0]}{suggest(names[0], groups)}; there are {', '.join(groups)}")
    group = known[names[0]]
    if len(names) > 1:
        return _choice(group, "/".join(names[1:]).rstrip("/"), tasks)
    rows = [(choice, choices.description(group.folder, choice)) for choice in choices.choices(group.folder)]
    more = next((name for name, _ in rows if name.endswith("/")), rows[0][0]).rstrip("/")
    return f"{group.name}=…  {group.description}\n{table(rows)}\n\nMore: python train.py list {names[0]} {more}"


def _choice(group: Group, choice: str, tasks: Tasks) -> str:
    """One choice: what it is, the tasks of a simulator, and the settings."""
    there = [name.rstrip("/") for name in choices.choices(group.folder)]
    simulator, _, task = choice.partition("/")
    is_simulator = f"{simulator}/" in choices.choices(group.folder)
    found = list(tasks(simulator)) if is_simulator else []
    if simulator not in there or (task and task not in found):
        suggestion = suggest(choice, [*there, *(f"{simulator}/{name}" for name in found)])
        raise LookupError(f"{group.name} has no {choice}{suggestion}; see python train.py list {group.folder}")
    values, notes = choices.load(group.folder, choice)
    flat = {
        k: v
        for k, v in choices.flatten(values).items()
        if k.rpartition(".")[2] not in ("_target_", "_partial_", "task")
    }
    rows = [(f"{group.part}.{key}={choices.format_value(value)}", notes.get(key, "")) for key, value in flat.items()]
    parts = [
        f"{group.name}={choice}{'/<task>' if is_simulator and not task else ''}  "
        f"{choices.description(group.folder, choice)}"
    ]
    if found and not task:
        parts.append(f"Tasks\n{columns(found)}")
    if rows:
        parts.append(f"Settings\n{table(rows)}")
    return "\n\n".join(parts)


def _all_groups() -> list[Group]:
    launcher = Group("hydra/launcher", "hydra/launcher", "launcher", "null", "how the runs of a sweep (-m) are started")
    return [*choices.groups(), launcher]


def table(rows: Iterable[tuple[str, str]]) -> str:
    """Two columns, the second one wrapped to the screen; a first one that is too wide has a line of its own."""
    rows, screen = list(rows), max(60, min(120, shutil.get_terminal_size((120, 24)).columns))
    wide = min(30, max(len(name) for name, _ in rows))
    lines = []
    for name, words in rows:
        found = textwrap.wrap(words, screen - wide - 4, break_on_hyphens=False) or [""]
        first = [f"  {name:{wide}}  {found[0]}"] if len(name) <= wide else [f"  {name}", f"  {'':{wide}}  {found[0]}"]
        lines += [*first, *(f"  {'':{wide}}  {line}" for line in found[1:])]
    return "\n".join(line.rstrip() for line in lines)


def columns(names: list[str]) -> str:
    """Names side by side, read downwards."""
    wide = max(map(len, names)) + 2
    count = max(1, (min(120, shutil.get_terminal_size((120, 24)).columns) - 2) // wide)
    height = -(-len(names) // count)
    rows = (names[i::height] for i in range(height))
    return "\n".join("  " + "".join(f"{name:{wide}}" for name in row).rstrip() for row in rows)


def suggest(name: str, known: Iterable[str]) -> str:
    """`: did you mean …?` with the nearest of the known names, or nothing where none is near."""
    matches = get_close_matches(name, list(known), n=3, cutoff=0.7)
    return f": did you mean {' or '.join(matches)}?" if matches else ""


def explain(error: Exception, tasks: Tasks) -> str | None:
    """A sentence on what a command line got wrong; None for an error that is not the command line's."""
    if isinstance(error, MissingMandatoryValue):
        return f"{error.full_key} has no default: add {error.full_key}=…"
    if isinstance(error, MissingConfigException) and error.missing_cfg_file:
        return _no_choice(error.missing_cfg_file, tasks)
    if isinstance(error, InterpolationToMissingValueError) and (missing := MISSING.search(str(error))):
        return f"{missing[1]} has no default: add {missing[1]}=…"
    if isinstance(error, InstantiationException):
        return None  # a mistake in the code of what is made: its own traceback tells
    if isinstance(error, InterpolationResolutionError):
        words = str(error).splitlines()[0]
        return f"{error.full_key} follows another setting ({words}): give that one a value, or leave out its `~`"
    if isinstance(error, OverrideParseException):
        return f"cannot read {error.override}: a value with spaces or signs needs quotes, as in 'run=\"my run\"'"
    if isinstance(error, CompactHydraException):
        cause = error.__cause__
        if isinstance(cause, OmegaConfBaseException) and cause.full_key and cause.parent_node is not None:
            return _no_key(cause.full_key, list(cause.parent_node))
        return f"{str(error).splitlines()[0]} (see python train.py --help)"
    return None


def _no_choice(path: str, tasks: Tasks) -> str:
    """`path` is group/choice, as in env/metaworld/buton-press."""
    group = next((group for group in _all_groups() if path.startswith(f"{group.folder}/")), None)
    if group is None:
        return f"there is no {path}; see python train.py list"
    choice, known = path.removeprefix(f"{group.folder}/"), choices.choices(group.folder)
    for simulator in [name for name in known if name.endswith("/")]:
        known += [simulator + task for task in tasks(simulator.rstrip("/"))]
    see = " ".join(
        [group.folder, *(name.rstrip("/") for name in known if name.endswith("/") and choice.startswith(name))]
    )
    named = [name for name in known if not name.endswith("/")]
    elsewhere = [name for name in named if name.rpartition("/")[2] == choice.rpartition("/")[2]]  # of other simulators
    suggestion = suggest(elsewhere[0], elsewhere) if elsewhere else suggest(choice, named)
    return f"{group.folder}={choice} is no choice{suggestion or '.'} See python train.py list {see}"


def _no_key(key: str, beside: list[str]) -> str:
    """`beside` are the keys that there are where `key` was looked for."""
    prefix, _, name = key.rpartition(".")
    beside = [one for one in beside if one != "_target_"]
    if not prefix:
        return f"there is no setting {key}{suggest(key, beside) or '.'} See python train.py --help"
    return f"there is no setting {key}{suggest(name, beside) or '.'} {prefix} takes {', '.join(sorted(beside))}"
