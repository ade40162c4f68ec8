"""One look at every data set as it comes in, whatever its format; and the report of what it holds.

Readers hand over episodes as their files have them. Numbers that are not finite, shapes and lengths that do not fit,
actions without bounds or beyond them, and differences that float32 cannot hold are refused with the file, the array,
the episode and the step, or counted and reported.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from pbrl.data import action_bounds
from pbrl.data.action_bounds import ActionUnits, Bounds
from pbrl.types import Episode, UserError

EPSILON = float(np.finfo(np.float32).eps)
NOISE = 1e-12  # what calculating in double precision leaves of numbers of size one that cancel
RESOLUTION = 4 * EPSILON  # a column whose standard deviation is less, relative to its largest number, is constant
GLITCH = 300  # standard deviations
SAMPLE = 10_000  # rows that are looked at for differences that float32 loses
MEND = "mend it, or leave the episode out"
UNUSED, SATURATED = 0.02, 0.5  # of the range of actions; of the numbers


class Raw(NamedTuple):
    """An episode as a file has it: arrays of any numbers, and actions in the file's own units."""

    where: str  # as in "episode 3"
    episode: Episode


class Names(NamedTuple):
    """What a format calls the arrays."""

    obs: str = "obs"
    action: str = "action"
    reward: str = "reward"


@dataclass(frozen=True)
class DataSet:
    """Episodes that were looked at, where they are from, their actions' bounds, and what was noticed on the way."""

    episodes: list[Episode]
    name: str
    bounds: Bounds | None = None
    clipped: int = 0  # numbers of actions
    notes: list[str] = field(default_factory=list)


def inspect(
    file: Path | str,
    raw: Sequence[Raw],
    names: Names,
    units: ActionUnits,
    declared: tuple[np.ndarray, np.ndarray] | None = None,
    notes: Sequence[str] = (),
) -> DataSet:
    """The episodes of a file with vectors of float32 and actions in [-1, 1].

    `declared` are the bounds [A] of actions, if the file says any; `notes` are what the reader noticed. Raises
    UserError for what cannot be learnt from.
    """
    if not raw:
        raise UserError(f"{file} holds no episode")
    actions = [check_continuous(file, names.action, one.episode.action, units) for one in raw]
    given = [one.episode._replace(action=a) for one, a in zip(raw, actions, strict=True)]
    for one, episode in zip(raw, given, strict=True):
        check_episode(f"{file}, {one.where}", names, episode)
    _check_widths(file, raw)
    notes = [*notes, *check_precision(file, names, given)]
    bounds = None
    clipped = 0
    if actions[0].shape[1]:
        bounds = action_bounds.choose_bounds(file, actions, units, declared)
        clipped = action_bounds.scale(file, [one.where for one in raw], actions, bounds, units.clip)
        notes += _compare_bounds(bounds, units, is_declared=declared is not None)
    with np.errstate(over="ignore"):  # what becomes infinite is refused below
        episodes = [
            e._replace(obs=e.obs.astype(np.float32), action=a.astype(np.float32), reward=e.reward.astype(np.float32))
            for e, a in zip(given, actions, strict=True)
        ]
    for one, episode in zip(raw, episodes, strict=True):
        check_finite(f"{file}, {one.where}", names, episode)  # again: float32 has a largest number
    return DataSet(episodes, str(file), bounds, clipped, notes)


def to_float32(episode: Episode) -> Episode:
    """The episode with observations, actions and rewards of the type that is learnt from."""
    obs, action, reward = (np.asarray(part, np.float32) for part in (episode.obs, episode.action, episode.reward))
    return episode._replace(obs=obs, action=action, reward=reward)


def check_episodes(name: Path | str, episodes: Sequence[Episode]) -> None:
    """Raises UserError where episodes do not have what `Episode` promises."""
    for i, episode in enumerate(episodes):
        where = f"{name}, episode {i}"
        check_episode(where, Names(), episode)
        far = np.abs(episode.action).max(1, initial=0) > 1
        if far.any():
            step = int(far.argmax())
            raise UserError(f"{where}, step {step}: an action is {episode.action[step]}, beyond [-1, 1]: scale actions")
    _check_widths(name, [Raw(f"episode {i}", episode) for i, episode in enumerate(episodes)])


def check_episode(where: str, names: Names, episode: Episode) -> None:
    """Raises UserError where an episode's arrays do not fit each other, or hold what is no finite number."""
    steps = len(episode.action)
    if not steps:
        raise UserError(f"{where} has no step: take it out")
    for name, array in zip(names, (episode.obs, episode.action), strict=False):
        if array.ndim != 2:
            raise UserError(f"{where}: {name} has shape {array.shape}, and each row must be a vector of numbers")
    for name, array in ((names.reward, episode.reward), ("success", episode.success)):
        if array is not None and array.ndim != 1:
            raise UserError(f"{where}: {name} has shape {array.shape}, and must hold one number for each step")
    lengths = {names.obs: (episode.obs, (steps + 1,)), names.reward: (episode.reward, (steps,))}
    lengths |= {"state": (episode.state, (steps + 1,)), "success": (episode.success, (steps, steps + 1))}
    for name, (array, fitting) in lengths.items():
        if array is not None and len(array) not in fitting:
            raise UserError(
                f"{where}: {steps} actions need {fitting[-1]} rows of {name}, and there are {len(array)}"
                + (" (the last observation is where the episode ended)" if name == names.obs else "")
            )
    check_finite(where, names, episode)


def check_finite(where: str, names: Names, episode: Episode) -> None:
    """Raises UserError at the first number of an episode that is not finite, with the array, the step and the place."""
    parts = {names.obs: episode.obs, names.action: episode.action, names.reward: episode.reward}
    for name, array in {**parts, "state": episode.state}.items():
        if array is not None:
            refuse_non_finite(array, lambda row, name=name: f"{where}, step {row}: {name}")


def refuse_non_finite(array: np.ndarray, locate: Callable[[int], str], advice: str = MEND) -> None:
    """Raises UserError at the first number of an array that is not finite; `locate(row)` says where that is."""
    if array.dtype.kind not in "fc" or np.isfinite(array).all():
        return
    row, *place = (int(x) for x in np.argwhere(~np.isfinite(array))[0])
    column = f"[{', '.join(map(str, place))}]" if place else ""
    raise UserError(
        f"{locate(row)}{column} is {array[(row, *place)]}, and must be a finite number of float32: {advice}"
    )


def to_numbers(file: Path | str, name: str, array: Any) -> np.ndarray:
    """An array of numbers, as it is. Raises UserError for text, objects and complex numbers."""
    found = np.asarray(array)
    if found.dtype.kind not in "iufb":
        raise UserError(f"{file}: {name} holds {found.dtype}, and must hold numbers")
    return found


def to_vectors(file: Path | str, name: str, array: Any) -> np.ndarray:
    """Rows of numbers [N, W]; of one number each where there is one axis. Raises UserError for images and text."""
    found = to_numbers(file, name, array)
    if found.ndim == 1:
        return found[:, None]
    if found.ndim == 2:
        return found
    kind = "images" if found.ndim == 4 and found.dtype == np.uint8 else "no vectors"
    raise UserError(
        f"{file}: {name} has shape {found.shape}: these are {kind}, and what is not plain vectors must be flattened or "
        "left out first (videos are read by data=recordings)"
    )


def to_column(file: Path | str, name: str, array: Any) -> np.ndarray:
    """One number for each step [T], of shape [T] or [T, 1]. Raises UserError for other shapes, and for text."""
    found = to_numbers(file, name, array)
    if not found.ndim or found.size != len(found):
        raise UserError(f"{file}: {name} has shape {found.shape}, and must hold one number for each step")
    return found.ravel()


def to_flags(file: Path | str, name: str, array: Any) -> np.ndarray:
    """Flags [T] of 0 and 1, of any type. Raises UserError for other numbers, as NaN, which would count as true."""
    flags = to_column(file, name, array)
    strange = np.flatnonzero((flags != 0) & (flags != 1))
    if len(strange):
        raise UserError(f"{file}: {name}[{strange[0]}] is {flags[strange[0]]}, and flags are 0 or 1")
    return flags.astype(bool)


def check_continuous(file: Path | str, name: str, actions: np.ndarray, units: ActionUnits) -> np.ndarray:
    """Actions [T, A], of one axis or more. Raises UserError where they are whole numbers, unless bounds are stated."""
    actions = actions[:, None] if actions.ndim == 1 else actions.reshape(len(actions), int(np.prod(actions.shape[1:])))
    if actions.size and actions.dtype.kind in "iub" and units.low is None and units.high is None:
        low, high = actions.min(), actions.max()
        raise UserError(
            f"{file}: {name} holds {actions.dtype} from {low} to {high}: these look like discrete actions, and actions "
            f"must be continuous. If these are: {action_bounds.advice(actions.shape[1])}"
        )
    return actions


def _check_widths(file: Path | str, raw: Sequence[Raw]) -> None:
    sizes: dict[tuple[int, ...], str] = {}
    for one in raw:
        sizes.setdefault((one.episode.obs.shape[1], one.episode.action[0].size), one.where)
    if len(sizes) > 1:
        (first, here), (other, there) = list(sizes.items())[:2]
        raise UserError(
            f"{file}: the numbers of an observation and an action are {first} in {here} and {other} in {there}, and "
            "must be the same in all"
        )


def check_precision(file: Path | str, names: Names, episodes: Sequence[Episode]) -> list[str]:
    """Notes on observations that float32 cannot tell apart. Raises UserError for rewards that it cannot."""
    reward = lost_in_float32([e.reward[:, None] for e in episodes])
    if reward.any():
        size = max(float(np.abs(e.reward).max()) for e in episodes)
        raise UserError(
            f"{file}: {names.reward} is about {size:.3g} and differs by less than float32 can hold there (parts of "
            f"{size * EPSILON:.2g}), so all answers would be ties: subtract a constant from all of them"
        )
    columns = np.flatnonzero(lost_in_float32([e.obs for e in episodes]))
    if not len(columns):
        return []
    return [f"observation columns {_list(columns)} lose their differences in float32: subtract an offset from them"]


def lost_in_float32(parts: Sequence[np.ndarray]) -> np.ndarray:
    """Which columns [W] of the rows [N, W] in all parts differ by less than float32's steps at their size."""
    kinds = {part.dtype for part in parts}
    if all(np.can_cast(kind, np.float32) for kind in kinds):
        return np.zeros(parts[0].shape[1], bool)
    every = -(-sum(map(len, parts)) // SAMPLE)
    rows = np.concatenate(parts)[::every].astype(np.float64)
    with np.errstate(over="ignore"):  # what is too large is refused as not finite
        error = np.quantile(np.abs(rows.astype(np.float32) - rows), 0.9, axis=0)
    low, high = np.quantile(rows, (0.1, 0.9), axis=0)
    spread = np.where(high > low, high - low, rows.std(0))
    differs = spread > NOISE * np.abs(rows).max(0)
    return differs & (error > 0.05 * spread)


def _compare_bounds(bounds: Bounds, units: ActionUnits, is_declared: bool) -> list[str]:
    """A note where the bounds of a file are others than the environment's."""
    environment = units.of_environment(len(bounds.low)) if is_declared and not bounds.is_unit else None
    if environment is None or (np.allclose(bounds.low, environment.low) and np.allclose(bounds.high, environment.high)):
        return []
    return [
        f"-1 and 1 are {bounds} by {bounds.origin}, and {environment} in the environment: if both mean the same unit, "
        f"{action_bounds.flags(environment)}"
    ]


# The report


@dataclass(frozen=True)
class Report:
    """What a data set holds, to be read in ten seconds; `warnings` are what may be wrong with it."""

    rows: dict[str, str]
    warnings: list[str]

    def lines(self) -> list[tuple[str, str]]:
        """Name and text of each line; warnings come last."""
        return [*self.rows.items(), *(("WARNING", text) for text in self.warnings)]

    def to_dict(self) -> dict[str, Any]:
        """The same as JSON has it."""
        return {"rows": self.rows, "warnings": self.warnings}


def report(data: DataSet) -> Report:
    """The report of a data set."""
    episodes = data.episodes
    obs, action = (np.concatenate([getattr(e, part) for e in episodes]) for part in ("obs", "action"))
    columns, reward = Columns.of(obs), np.concatenate([e.reward for e in episodes])
    terminals = sum(e.terminated for e in episodes)
    rows = {
        "data": f"{data.name}: {_count(len(episodes), 'episode')}, {_count(len(action), 'step')}, {_lengths(episodes)}",
        "ends": f"{_count(terminals, 'true terminal')}, {len(episodes) - terminals} cut off by time",
        "obs": _describe_obs(columns),
        "actions": _describe_actions(data, action),
        "rewards": _describe_rewards(episodes, reward),
        "besides": _describe_rest(episodes),
    }
    return Report(rows, [*data.notes, *_warnings(data, columns, action)])


class Columns(NamedTuple):
    """The smallest, the largest, the mean and the standard deviation of each column [W]."""

    low: np.ndarray
    high: np.ndarray
    mean: np.ndarray
    std: np.ndarray

    @classmethod
    def of(cls, rows: np.ndarray) -> "Columns":
        """Of the columns of rows [N, W]."""
        exact: Mapping[str, Any] = {"axis": 0, "dtype": np.float64}
        return cls(rows.min(0), rows.max(0), rows.mean(**exact), rows.std(**exact))

    def is_constant(self) -> np.ndarray:
        """Which [W] differ by no more than float32's rounding."""
        largest = np.maximum(np.abs(self.low), np.abs(self.high))
        return (self.low == self.high) | (self.std <= np.maximum(RESOLUTION * largest, NOISE))


def _describe_obs(columns: Columns) -> str:
    if not len(columns.low):
        return "no numbers"
    constant = np.flatnonzero(columns.is_constant())
    words = f"{_count(len(columns.low), 'number')}, {columns.low.min():.3g} to {columns.high.max():.3g}"
    moving = columns.std[~columns.is_constant()]
    if len(moving):
        words += f", standard deviations {moving.min():.2g} to {moving.max():.2g}"
    return words + (f"; {len(constant)} constant: {_list(constant)}" if len(constant) else "")


def _describe_actions(data: DataSet, action: np.ndarray) -> str:
    if not action.shape[1]:
        return "no numbers"
    bounds = data.bounds
    meaning = "" if bounds is None or bounds.is_unit else f"; -1 and 1 are {bounds} ({bounds.origin})"
    clipped = f"; {data.clipped} of {action.size:,} numbers clipped" if data.clipped else ""
    return f"{_count(action.shape[1], 'number')}, {action.min():.3g} to {action.max():.3g}{meaning}{clipped}"


def _describe_rewards(episodes: Sequence[Episode], reward: np.ndarray) -> str:
    if reward.min() == reward.max():
        return f"all {reward[0]:.3g}: scripted teachers and the true reward tell nothing apart"
    returns = [float(e.reward.sum(dtype=np.float64)) for e in episodes]
    return (
        f"{reward.min():.3g} to {reward.max():.3g}, mean {reward.mean(dtype=np.float64):.3g}; returns "
        f"{min(returns):.4g} to {max(returns):.4g}"
    )


def _describe_rest(episodes: Sequence[Episode]) -> str:
    success = [bool(e.success.any()) for e in episodes if e.success is not None]
    found = [f"success of {np.mean(success):.0%}"] if len(success) == len(episodes) else []
    has = {"simulator states": "state", "videos": "video"}
    found += [name for name, part in has.items() if all(getattr(e, part) is not None for e in episodes)]
    found += ["instructions"] if all(e.instruction for e in episodes) else []
    return ", ".join(found) or "no success, states, videos or instructions"


def _warnings(data: DataSet, columns: Columns, action: np.ndarray) -> list[str]:
    found, constant = [], columns.is_constant()
    if data.clipped:
        found.append(f"{data.clipped} of {action.size:,} numbers of actions were beyond the bounds and were clipped")
    blurred = np.flatnonzero(constant & (columns.low != columns.high))
    if len(blurred):
        found.append(f"observation columns {_list(blurred)} differ by float32's rounding alone, taken as constant")
    std = np.where(constant, np.inf, columns.std)
    far = np.flatnonzero(np.maximum(columns.high - columns.mean, columns.mean - columns.low) > GLITCH * std)
    if len(far):
        found.append(
            f"observation columns {_list(far)} reach beyond {GLITCH} standard deviations: glitches of a sensor?"
        )
    if action.size and 0 < np.abs(action).max() < UNUSED:
        found.append(f"actions use {np.abs(action).max():.1%} of their range: are the bounds those of these actions?")
    if action.size and len(action) > 1 and (action == action[0]).all():
        found.append("actions are the same in every step: there is nothing to learn from them")
    if action.size and (np.abs(action) >= 1).mean() > SATURATED:
        found.append(f"{(np.abs(action) >= 1).mean():.0%} of the numbers of actions are -1 or 1")
    return found


def _lengths(episodes: Sequence[Episode]) -> str:
    steps = [len(e.action) for e in episodes]
    return f"{min(steps)} to {max(steps)} an episode" if min(steps) < max(steps) else f"{steps[0]} an episode"


def _count(number: int, what: str) -> str:
    return f"{number:,} {what}{'s' * (number != 1)}"


def _list(places: np.ndarray) -> str:
    """Numbers with runs as a range: 0, 3 to 7."""
    runs = np.split(places, np.flatnonzero(np.diff(places) != 1) + 1)
    words = [f"{run[0]}" if len(run) == 1 else f"{run[0]} to {run[-1]}" for run in runs]
    return ", ".join(words[:8]) + (" …" if len(words) > 8 else "")
