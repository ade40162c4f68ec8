"""A stage description: yaml that says into which stages a task falls, and what costs in each.

For each task a list of stages. A stage is over once its `done` holds: two keypoints within a distance. Its `costs` are
of these kinds, numbers without unit, 0 for what is wanted:

- distance (`between`): how near two keypoints came, as a share of how far they were when the stage began
- path (`of`): how much longer its way was than the straight one; 1 is twice as long
- height (`of`, `above` or `below`, m): share of steps in which it was higher, or lower
- speed (`of`, `above`, m/s): share of steps in which it was faster
- collision (`between`, `nearer`, m, `flat`: seen from above): share of steps in which they were nearer
- contact (`between`, `farther`, m): share of steps in which they were farther apart

A cost counts `weight` times (1) what it has beyond its `tolerance` (0). Most kinds are those of GRAPE, Zhang et al.
2024, arXiv:2411.19309, in definitions of ours.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import yaml

from pbrl.types import UserError

KINDS = {  # settings of each kind that must be given, and may be
    "distance": ({"between"}, set[str]()),
    "path": ({"of"}, set[str]()),
    "height": ({"of"}, {"above", "below"}),
    "speed": ({"of", "above"}, set[str]()),
    "collision": ({"between", "nearer"}, {"flat"}),
    "contact": ({"between", "farther"}, set[str]()),
}
ALWAYS = {"kind", "weight", "tolerance"}


@dataclass(frozen=True)
class Cost:
    """What costs in a stage."""

    kind: str
    keypoints: tuple[str, ...]
    limit: float = 0.0  # m or m/s
    is_above: bool = True  # of a height
    flat: bool = False
    weight: float = 1.0
    tolerance: float = 0.0


@dataclass(frozen=True)
class Stage:
    """Part of a task. It is over once the keypoints `done` are within `within` m; the last is over with the episode."""

    name: str
    costs: tuple[Cost, ...]
    done: tuple[str, ...] = ()
    within: float = 0.0


Stages = Mapping[str, Sequence[Stage]]  # by task


def load_stages(name: str) -> Stages:
    """The description `name` of this package, as mt10, or the yaml file of that path. Raises UserError."""
    packaged = resources.files("pbrl.stages") / f"{name}.yaml"
    path = packaged if packaged.is_file() else Path(name).expanduser()
    try:
        found = yaml.safe_load(path.read_text())
    except OSError as error:
        names = (own.name for own in resources.files("pbrl.stages").iterdir())
        known = sorted(own.removesuffix(".yaml") for own in names if own.endswith(".yaml"))
        raise UserError(
            f"there is no stage description {name} ({error.strerror}): give a yaml file, or one of {', '.join(known)}"
        ) from None
    except yaml.YAMLError as error:
        raise UserError(f"{name} is no yaml: {' '.join(str(error).split())}") from None
    return parse_stages(found, name)


def parse_stages(found: Any, name: str) -> Stages:
    """What a yaml file holds, checked. Raises UserError, with the place of what is wrong."""
    if not isinstance(found, dict) or not all(isinstance(own, list) and own for own in found.values()):
        raise UserError(f"{name}: a stage description has a list of stages for each task, by its name")
    return {
        str(task): tuple(_stage(one, f"{name}, {task}, stage {i + 1}", i == len(own) - 1) for i, one in enumerate(own))
        for task, own in found.items()
    }


def _stage(found: Any, where: str, is_last: bool) -> Stage:
    if (
        not isinstance(found, dict)
        or set(found) - {"name", "costs", "done"}
        or not isinstance(found.get("costs"), list)
    ):
        raise UserError(f"{where}: a stage has a name, costs (a list) and, unless it is the last, done")
    if is_last != ("done" not in found):
        what = "the last stage is over with the episode: it has no done" if is_last else "what ends it? done is missing"
        raise UserError(f"{where}: {what}")
    costs = tuple(_cost(one, where) for one in found["costs"])
    name = str(found.get("name", ""))
    if is_last:
        return Stage(name, costs)
    done = found["done"]
    if not isinstance(done, dict) or set(done) != {"between", "within"}:
        raise UserError(f"{where}: done has between, two keypoints, and within, m")
    return Stage(name, costs, _pair(done["between"], where), _number(done["within"], "within", where))


def _cost(found: Any, where: str) -> Cost:
    kind = found.get("kind") if isinstance(found, dict) else None
    if kind not in KINDS:
        raise UserError(f"{where}: a cost is of kind {', '.join(KINDS)}, not {kind}")
    must, may = KINDS[kind]
    given = set(found) - ALWAYS
    if given - must - may or must - given or (kind == "height" and len(given & may) != 1):
        takes = sorted(must) + (["above or below"] if kind == "height" else sorted(may))
        raise UserError(f"{where}: a {kind} has {', '.join(takes)}, and perhaps weight and tolerance")
    keypoints = _pair(found["between"], where) if "between" in found else (str(found["of"]),)
    limits = [key for key in ("above", "below", "nearer", "farther") if key in found]
    return Cost(
        kind,
        keypoints,
        limit=_number(found[limits[0]], limits[0], where) if limits else 0.0,
        is_above="below" not in found,
        flat=bool(found.get("flat", False)),
        weight=_number(found.get("weight", 1.0), "weight", where),
        tolerance=_number(found.get("tolerance", 0.0), "tolerance", where),
    )


def _pair(found: Any, where: str) -> tuple[str, ...]:
    if not isinstance(found, list) or len(found) != 2:
        raise UserError(f"{where}: between has two keypoints, as [hand, puck], not {found}")
    return tuple(map(str, found))


def _number(found: Any, name: str, where: str) -> float:
    if isinstance(found, bool) or not isinstance(found, int | float) or not 0 <= found < 1e6:
        raise UserError(f"{where}: {name}={found} is no number from 0 on")
    return float(found)


def keypoints_of(stages: Sequence[Stage]) -> set[str]:
    """The keypoints that the stages of a task speak of."""
    return {name for stage in stages for name in (*stage.done, *(k for cost in stage.costs for k in cost.keypoints))}
