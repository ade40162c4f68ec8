"""Which values a setting takes: its annotation says it, and one check reads that, whichever part the setting is of.

`batch_size: Size` takes whole numbers from 1 to a million. Where an annotation names no range, as in other people's
parts, all numbers are in it but NaN. `True` is no number, 3.0 no whole number and "3" neither.
"""

import inspect
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

from pbrl.types import UserError

LARGEST = 2**31 - 1
PLAIN = {type(None): "null", int: "a whole number", float: "a number", bool: "true or false", str: "text"}
MANY = (list, tuple, Sequence)


@dataclass(frozen=True)
class Range:
    """From `least` to `most`, both included; `above` and `below`: without them."""

    least: float = -math.inf
    most: float = math.inf
    above: bool = False
    below: bool = False

    def __contains__(self, value: float) -> bool:
        over = value > self.least if self.above else value >= self.least
        return over and (value < self.most if self.below else value <= self.most)

    def __str__(self) -> str:
        words = [f"{'more than' if self.above else 'at least'} {self.least:g}"] if self.least > -math.inf else []
        most = f"{self.most:,}" if isinstance(self.most, int) else f"{self.most:g}"
        words += [f"{'less than' if self.below else 'at most'} {most}"] if self.most < math.inf else []
        return " and ".join(words)


Seed = Annotated[int, Range(0, LARGEST)]
Whole = Annotated[int, Range(0, LARGEST)]
Count = Annotated[int, Range(1, 10**9)]  # of updates, questions, episodes
Size = Annotated[int, Range(1, 10**6)]  # of batches, layers and segments, for which memory is needed
Port = Annotated[int, Range(1, 65535)]
Share = Annotated[float, Range(0, 1)]
ShareBelow1 = Annotated[float, Range(0, 1, below=True)]  # dropped or held out: something must be left
Positive = Annotated[float, Range(0, 1e9, above=True)]
NotNegative = Annotated[float, Range(0, 1e9)]
OpenShare = Annotated[float, Range(0, 1, above=True, below=True)]
NotNegativeOrInfinite = Annotated[float, Range(0)]
PositiveOrInfinite = Annotated[float, Range(0, above=True)]
Finite = Annotated[float, Range(-1e9, 1e9)]
ANY = Range()


def check_value(name: str, value: Any, hint: Any) -> None:
    """Raises UserError where a value is not of a kind or in a range that the annotation names."""
    if not _fits(value, hint):
        raise UserError(f"{name}={value} must be {describe(hint)}")


def check_values(values: Mapping[str, Any], hints: Mapping[str, Any], prefix: str = "") -> None:
    """The same of all values that have an annotation."""
    for name, value in values.items():
        if name in hints:
            check_value(f"{prefix}{name}", value, hints[name])


def hints(owner: type) -> dict[str, Any]:
    """The annotations of a class with their ranges, by name."""
    return get_type_hints(owner, include_extras=True)


def hints_of(parameters: Mapping[str, inspect.Parameter]) -> dict[str, Any]:
    """The annotations of parameters, by name, where they have any."""
    return {k: p.annotation for k, p in parameters.items() if p.annotation is not p.empty}


def describe(hint: Any) -> str:
    """A kind and range in words: "a whole number, at least 1 and at most 1,000,000"."""
    kind, range_, inner = _split(hint)
    if kind in (Union, UnionType):
        return " or ".join(dict.fromkeys(map(describe, inner)))
    if kind is Literal:
        return " or ".join(map(str, inner))
    if kind in MANY:
        return f"a list, each of which is {describe(inner[0])}"
    if kind in (int, float) and range_ is not None:
        return f"{PLAIN[kind]}, {range_}"
    return PLAIN.get(kind, "a mapping" if kind in (dict, Mapping) else str(kind))


def _split(hint: Any) -> tuple[Any, Range | None, tuple[Any, ...]]:
    """The kind that an annotation names, its range, and the annotations inside."""
    range_ = None
    if get_origin(hint) is Annotated:
        hint, *more = get_args(hint)
        range_ = next((x for x in more if isinstance(x, Range)), None)
    return get_origin(hint) or hint, range_, get_args(hint)


def _fits(value: Any, hint: Any) -> bool:
    kind, range_, inner = _split(hint)
    if kind in (Union, UnionType):
        return any(_fits(value, other) for other in inner)
    if kind is Literal:
        return value in inner
    if kind in MANY:
        return isinstance(value, (list, tuple)) and all(_fits(x, inner[0]) for x in value)
    if kind in (dict, Mapping):
        return isinstance(value, dict)
    if kind is int:
        return isinstance(value, int) and not isinstance(value, bool) and value in (range_ or ANY)
    if kind is float:
        is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
        return is_number and value in (range_ or ANY)
    return isinstance(value, kind) if kind in PLAIN else True
