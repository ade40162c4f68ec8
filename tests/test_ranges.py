"""A setting is of the kind and in the range that its annotation names, or a sentence says so, with the flag's name."""

import math
import re
from typing import Annotated, Any, Literal, Optional

import pytest

from pbrl.ranges import Count, Finite, Positive, Range, Seed, Share, ShareBelow1, Size, Whole, check_value, describe
from pbrl.types import UserError

MaybeCount = Optional[Count]  # noqa: UP007, UP045  as `Count | None` is within an annotation
MaybePositive = Optional[Positive]  # noqa: UP007, UP045
TAKEN = [
    (Count, 1), (Count, 10**9), (Seed, 0), (Seed, 2**31 - 1), (Share, 0), (Share, 1.0), (ShareBelow1, 0.999),
    (Positive, 1e-9), (list[Size], [256, 256]), (list[Size], []), (MaybeCount, None),
    (bool | Literal["auto"], "auto"), (bool | Literal["auto"], False),
    (Annotated[float, Range(0)], math.inf), (float, -3), (float, math.inf), (int, -1), (Whole, 0), (str, ""),
    (dict[str, Any], {}), (Any, ...), (Share | list[Share], [0.5, 1]),
]  # fmt: skip
REFUSED = [
    (Count, 0), (Count, -1), (Count, 1.0), (Count, True), (Count, "3"), (Count, 10**9 + 1), (Count, None),
    (Count, math.nan), (Count, 1e9), (Seed, -1), (Seed, 2**31), (Share, 1.1), (Share, -0.1), (Share, math.nan),
    (Share, True), (Share, "0.5"), (ShareBelow1, 1.0), (Positive, 0), (Positive, math.inf), (list[Size], 256),
    (list[Size], [256, 0]), (list[Size], [1.5]), (MaybeCount, 0), (bool | Literal["auto"], "yes"), (bool, 1),
    (Annotated[float, Range(0)], math.nan), (Finite, math.inf), (float, "1"), (float, math.nan), (Whole, -1),
    (int, 2.0), (str, 3),
    (dict[str, Any], 5), (Share | list[Share], [0.5, 2]),
]  # fmt: skip


@pytest.mark.parametrize("hint,value", TAKEN, ids=str)
def test_values_that_a_setting_takes(hint, value):
    check_value("x", value, hint)


@pytest.mark.parametrize("hint,value", REFUSED, ids=str)
def test_values_that_a_setting_refuses(hint, value):
    with pytest.raises(UserError, match=re.escape(f"algo.x={value} must be ")):
        check_value("algo.x", value, hint)


@pytest.mark.parametrize(
    "hint,words",
    [
        (Count, "a whole number, at least 1 and at most 1,000,000,000"),
        (ShareBelow1, "a number, at least 0 and less than 1"),
        (MaybePositive, "a number, more than 0 and at most 1e+09 or null"),
        (list[Count], "a list, each of which is a whole number, at least 1 and at most 1,000,000,000"),
        (bool | Literal["auto"], "true or false or auto"),
        (float, "a number"),
    ],
    ids=str,
)
def test_what_is_said_of_them(hint, words):
    assert describe(hint) == words
