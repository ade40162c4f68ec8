"""What a judge is held against, and what it said: arrays about the episodes of a data set.

Episodes are known by their place in the data set, from 0. An episode of T steps has T + 1 frames, the last being where
it ended. Shape letters: N episodes, M steps of all of them, R = M + N frames, Q questions.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from pbrl.types import UserError

if TYPE_CHECKING:
    from pbrl.judge.visual import Visual


@dataclass(frozen=True)
class Clips:
    """Q times k clips: their episode [Q, k], first step [Q, k], and number of steps [Q]."""

    episode: np.ndarray
    first: np.ndarray
    length: np.ndarray

    def __len__(self) -> int:
        return len(self.length)

    def take(self, which: np.ndarray) -> Clips:
        """Those at these places."""
        return Clips(self.episode[which], self.first[which], self.length[which])


@dataclass(frozen=True)
class Truth:
    """What is known of a data set of N episodes.

    `reward` [M] is the true reward of each step, None where it is unknown. `succeeded_at` [N] is the frame of an
    episode's first success, its number of steps where only that it succeeded is known, and -1 where it failed; None
    where success is unknown. Raises UserError where the sizes do not fit.
    """

    steps: np.ndarray  # [N] of each episode
    reward: np.ndarray | None = None
    succeeded_at: np.ndarray | None = None

    def __post_init__(self) -> None:
        if not len(self.steps) or np.min(self.steps) < 1:
            raise UserError("there is nothing to judge by: give the steps of at least one episode, each at least 1")
        if self.reward is not None:
            check_numbers("the true reward", self.reward, int(np.sum(self.steps)))
        if self.succeeded_at is not None:
            check_numbers("succeeded_at", self.succeeded_at, len(self.steps))
            if np.any(self.succeeded_at > self.steps):
                raise UserError("succeeded_at names a frame of each episode, from 0 to its number of steps, or -1")

    @cached_property
    def opening(self) -> np.ndarray:
        """The place of each episode's first step in arrays of all steps [N]."""
        return np.concatenate([[0], np.cumsum(self.steps)[:-1]])

    @property
    def is_success(self) -> np.ndarray | None:
        """Which episodes succeed [N]."""
        return None if self.succeeded_at is None else np.asarray(self.succeeded_at) >= 0

    @property
    def returns(self) -> np.ndarray | None:
        """The true return of each episode [N]."""
        return None if self.reward is None else self.add_up(self.reward)

    def add_up(self, reward: np.ndarray) -> np.ndarray:
        """reward [M] → the return of each episode [N]."""
        return np.add.reduceat(np.asarray(reward, np.float64), self.opening)

    def split(self, values: np.ndarray) -> list[np.ndarray]:
        """values [M] or [R] → those of each episode, [T] or [T + 1]. Raises UserError for another number of them."""
        steps, frames = int(self.steps.sum()), int(self.steps.sum() + len(self.steps))
        if len(values) not in (steps, frames):
            raise UserError(
                f"{len(values)} values fit neither the {steps} steps of this data set nor its {frames} rows (an "
                "episode has one more, where it ended): score this data set, in its order"
            )
        check_numbers("what scores them", np.asarray(values), len(values))
        sizes = self.steps + (len(values) == frames)
        return np.split(np.asarray(values, np.float64), np.cumsum(sizes)[:-1])

    def returns_of(self, clips: Clips, reward: np.ndarray) -> np.ndarray:
        """reward [M] → the sums over clips [Q, k]."""
        total = np.concatenate([[0.0], np.cumsum(reward, dtype=np.float64)])
        start = self.opening[clips.episode] + clips.first
        return total[start + clips.length[:, None]] - total[start]

    def check_clips(self, clips: Clips) -> None:
        """Raises UserError where clips lie beyond their episodes."""
        is_known = (clips.episode >= 0) & (clips.episode < len(self.steps)) & (clips.first >= 0)
        last = clips.first + clips.length[:, None]
        is_inside = is_known & (last <= self.steps[np.where(is_known, clips.episode, 0)]) & (clips.length[:, None] > 0)
        if not is_inside.all():
            q, k = np.argwhere(~is_inside)[0]
            raise UserError(
                f"clip {k} of question {q} is of steps {clips.first[q, k]} to {last[q, k]} of episode "
                f"{clips.episode[q, k]}, which this data set does not have"
            )


@dataclass(frozen=True)
class Answers:
    """A rater's answers to Q pairs of clips, or pairs that follow from its rankings."""

    clips: Clips  # k = 2
    preferred: np.ndarray  # [Q] P(second preferred), ½ for a tie, NaN for a question that was skipped
    question: np.ndarray | None = None  # [Q] int: the question that an answer belongs to; None: each to its own
    shown_first: np.ndarray | None = None  # [Q] 0 or 1: which clip was shown first; -1 where that is unknown
    orders: np.ndarray | None = None  # [Q, 2] P(second preferred) as asked, and asked in swapped order; NaN: unknown


@dataclass(frozen=True)
class Ratings:
    """A judge's values of Q single clips."""

    clips: Clips  # k = 1
    value: np.ndarray  # [Q], NaN where it was skipped


@dataclass(frozen=True)
class Source:
    """What a judge said, in one of four forms; the others are None.

    `reward` [M] of each step · `value` of each step [M] or frame [R]: progress, a probability of success, a value
    function · `answers` to pairs · `ratings` of clips. `probability` gives P(second preferred) [Q] of clips [Q, 2] for
    a judge of rewards or values that has one. `trained_on` are pairs that the judge has learnt from.

    Of a reward that reads pictures: `reversed_reward` [M], of the same episodes' frames in reversed order, and
    `changed_reward` [M] by what was changed (camera, light), of the same states in other pictures. `visual` is the
    model itself, if there is one.
    """

    reward: np.ndarray | None = None
    value: np.ndarray | None = None
    answers: Answers | None = None
    ratings: Ratings | None = None
    probability: Callable[[Clips], np.ndarray] | None = None
    trained_on: frozenset[tuple] = frozenset()
    reversed_reward: np.ndarray | None = None
    changed_reward: Mapping[str, np.ndarray] = field(default_factory=dict)
    visual: Visual | None = None
    about: dict[str, Any] = field(default_factory=dict)  # what it is, for the report

    def __post_init__(self) -> None:
        forms = ("reward", "value", "answers", "ratings")
        given = [name for name in forms if getattr(self, name) is not None]
        if len(given) != 1:
            raise UserError(f"a source gives one of {', '.join(forms)}, not {', '.join(given) or 'nothing'}")

    @property
    def form(self) -> str:
        """reward, value, answers or ratings."""
        return next(n for n in ("reward", "value", "answers", "ratings") if getattr(self, n) is not None)


def draw_pairs(truth: Truth, *, length: int, count: int, seed: int) -> Clips:
    """`count` pairs of different clips of `length` steps from anywhere in the data. Raises UserError."""
    room = np.maximum(truth.steps - length + 1, 0)
    places = int(room.sum())
    if places < 2:
        raise UserError(
            f"query.length={length}: {places} clips of that length fit into the data, whose longest episode has "
            f"{truth.steps.max()} steps; choose a smaller query.length"
        )
    rng = np.random.default_rng(seed)
    first = rng.integers(places, size=count)
    drawn = np.stack([first, (first + rng.integers(1, places, size=count)) % places], 1)
    end = np.cumsum(room)
    episode = np.searchsorted(end, drawn, side="right")
    return Clips(episode, drawn - (end - room)[episode], np.full(count, length))


def check_numbers(name: str, values: np.ndarray, count: int) -> None:
    """Raises UserError where values are not so many finite numbers."""
    if np.shape(values) != (count,):
        raise UserError(f"{name} has the shape {np.shape(values)}, and this data set wants ({count},)")
    if not np.isfinite(values).all():
        raise UserError(f"{name} holds a number that is not finite, at place {int(np.argmin(np.isfinite(values)))}")
