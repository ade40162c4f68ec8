"""Which actions of a data set are -1 and 1: by bounds that are stated, declared by the file, or the environment's."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from pbrl.types import UserError

ROUNDING = 1e-5  # of half the range: what is this little beyond a bound lies on it
SLIGHTLY, FEW = 0.1, 0.005  # of half the range, of all numbers: what may be clipped without being asked for


class Bounds(NamedTuple):
    """The actions that become -1 and 1, and who says so. Where both are equal, the number is fixed and becomes 0."""

    low: np.ndarray  # [A]
    high: np.ndarray  # [A]
    origin: str

    @property
    def is_unit(self) -> bool:
        """Whether actions are in [-1, 1] as they are."""
        return bool((self.low == -1).all() and (self.high == 1).all())

    def __str__(self) -> str:
        return f"[{_numbers(self.low)}, {_numbers(self.high)}]"


@dataclass(frozen=True)
class ActionUnits:
    """What is known of a data set's actions besides the file.

    `low` and `high` are what a user states: a number, or one for each of an action's. `clip` cuts off what is beyond
    them, as an environment may have done. `environment` says what the environment's own actions lie between, if there
    is one.
    """

    low: Any = None
    high: Any = None
    clip: bool = False
    environment: Callable[[], Bounds | None] = lambda: None

    def stated(self, size: int) -> Bounds | None:
        """The bounds that a user states of actions of `size` numbers. Raises UserError where they are no bounds."""
        if self.low is None and self.high is None:
            return None
        try:
            low, high = (np.broadcast_to(np.asarray(part, np.float64), size) for part in (self.low, self.high))
        except (TypeError, ValueError):
            low, high = np.full(size, np.nan), np.zeros(size)
        if not (np.isfinite(low).all() and np.isfinite(high).all() and (low <= high).all()):
            raise UserError(
                f"data.action_low={self.low} data.action_high={self.high}: both are a number, or a list of {size}, and "
                "low lies below high"
            )
        return Bounds(low, high, "data.action_low and data.action_high")

    def of_environment(self, size: int) -> Bounds | None:
        """The environment's bounds, if it takes actions of `size` numbers."""
        found = self.environment()
        return found if found is not None and len(found.low) == size else None


class Beyond(NamedTuple):
    """How many numbers of the actions are beyond bounds, the share, and how far, in halves of the range."""

    count: int
    share: float
    excess: float
    where: tuple[int, int]  # episode and step of the first

    @property
    def is_slight(self) -> bool:
        """Whether they are few, and a little beyond: what a driver's rounding or a late limit leaves."""
        return self.share <= FEW and self.excess <= SLIGHTLY


def beyond(actions: Sequence[np.ndarray], bounds: Bounds) -> Beyond:
    """What of the actions [T, A] of each episode is beyond the bounds."""
    half = np.maximum(0.5 * (bounds.high - bounds.low).astype(np.float64), 1e-9 * np.abs(bounds.high) + 1e-30)
    count, excess, where = 0, 0.0, (0, 0)
    for i, action in enumerate(actions):
        far = np.maximum(bounds.low - action.astype(np.float64), action - bounds.high.astype(np.float64)) / half
        out = far > ROUNDING
        if out.any():
            where = where if count else (i, int(out.any(1).argmax()))
            count, excess = count + int(out.sum()), max(excess, float(far.max()))
    return Beyond(count, count / max(1, sum(action.size for action in actions)), excess, where)


def choose_bounds(
    file: Any, actions: Sequence[np.ndarray], units: ActionUnits, declared: tuple[np.ndarray, np.ndarray] | None
) -> Bounds:
    """The bounds of a data set's actions [T, A]: stated, else declared by the file, else [-1, 1] or the environment's.

    Raises UserError, with the range that was found, where none of these fits, or two of them do.
    """
    size = actions[0].shape[1]
    stated = units.stated(size)
    if stated is not None:
        return stated
    if declared is not None:
        if len(declared[0]) != size:
            raise UserError(
                f"{file} declares actions of {len(declared[0])} numbers, and they have {size}: its space of actions is "
                f"not that of its actions. {advice(size)}"
            )
        if not (np.isfinite(declared[0]).all() and np.isfinite(declared[1]).all()):
            bounds = Bounds(*declared, "the file")
            raise UserError(
                f"{file} declares actions without bounds, {bounds}; they are {found_range(actions)}. {advice(size)}"
            )
        return Bounds(*declared, "the file")
    return _assumed(file, actions, units.of_environment(size))


def _assumed(file: Any, actions: Sequence[np.ndarray], environment: Bounds | None) -> Bounds:
    """Of a file that declares none: [-1, 1] where the actions are within, or the environment's own bounds."""
    size = actions[0].shape[1]
    unit = Bounds(-np.ones(size), np.ones(size), "as they are")
    fits_unit = beyond(actions, unit).is_slight
    if environment is None or environment.is_unit:
        return unit  # what is far beyond is refused when it is scaled
    fits_environment = beyond(actions, environment).is_slight
    if fits_unit and fits_environment:
        raise UserError(
            f"{file} has actions that are {found_range(actions)}, and the environment's own lie in {environment}: "
            f"are they scaled to [-1, 1] already? Then data.action_low=-1 data.action_high=1; or are they the "
            f"environment's? Then {flags(environment)}"
        )
    return environment if fits_environment else unit


def scale(file: Any, names: Sequence[str], actions: list[np.ndarray], bounds: Bounds, clip: bool) -> int:
    """Scales each episode's actions [T, A] in place in the list, to float32 in [-1, 1]; returns how many were clipped.

    `names` are the episodes'. Raises UserError where more than a few numbers are slightly beyond the bounds, unless
    `clip`.
    """
    out = beyond(actions, bounds)
    if out.count and not (clip or out.is_slight):
        episode, step = out.where
        raise UserError(
            f"{file} has actions that are {found_range(actions)}: {out.share:.2g} of the numbers are beyond {bounds} "
            f"({bounds.origin}), the first in {names[episode]}, step {step}. {advice(len(bounds.low))}, or "
            "data.clip_actions=true where the environment cut them off itself"
        )
    low, span = bounds.low, bounds.high - bounds.low
    for i, action in enumerate(actions):
        if not bounds.is_unit:
            action = np.divide(2 * (action - low), span, out=np.ones(action.shape, _float(action, low)), where=span > 0)
            action = action - 1
        actions[i] = np.clip(action, -1, 1).astype(np.float32)
    return out.count


def _float(*parts: np.ndarray) -> np.dtype:
    """The type in which they are reckoned with."""
    return np.result_type(*parts, np.float32 if parts[0].dtype.kind == "f" else np.float64)


def found_range(actions: Sequence[np.ndarray]) -> str:
    """From where to where the actions are."""
    low, high = (np.array([getattr(a, how)(0) for a in actions]) for how in ("min", "max"))
    return f"in {Bounds(low.min(0), high.max(0), '')}"


def advice(size: int) -> str:
    """How to state bounds."""
    each = f" (numbers, or lists of {size})" if size > 1 else ""
    return f"State which actions are -1 and 1: data.action_low=… data.action_high=…{each}"


def flags(bounds: Bounds) -> str:
    """The flags that state these bounds."""
    low, high = (_numbers(part).replace(" ", "") for part in (bounds.low, bounds.high))
    return f"data.action_low={low} data.action_high={high}"


def _numbers(values: np.ndarray) -> str:
    """A number, where all are the same; else a list of the first few."""
    words = [f"{float(x):.4g}" for x in values]
    return words[0] if len(set(words)) == 1 else f"[{', '.join(words)}]"
