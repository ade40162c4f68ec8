"""The vocabulary: what flows between the parts, and what each part must offer.

Shape letters: B batch · E ensemble · L segment steps · K window rows · O observation · A action · T episode steps ·
R rows · S state · C cameras · H W image.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor

Metrics = dict[str, Tensor]
Update = Callable[[Any], Metrics]


class UserError(Exception):
    """Something the user can mend; the message says how. Printed without a traceback."""


class Episode(NamedTuple):
    """One episode of T steps. `obs`, `state` and `success` have T + 1 rows: the last is where the episode ended."""

    seed: int  # resetting the environment with it rebuilds the scene
    obs: np.ndarray  # [T+1, O] float32
    action: np.ndarray  # [T, A] float32, in [-1, 1]
    reward: np.ndarray  # [T] float32, the true reward
    terminated: bool  # a true terminal; running out of time is not
    success: np.ndarray | None = None  # [T+1] bool, where the task has a notion of it
    state: np.ndarray | None = None  # [T+1, S] float64, simulator state
    source: str = ""  # which behaviour made it
    video: Path | None = None  # its frames, where a camera recorded it: one for each row of obs


class Clip(NamedTuple):
    """A stretch of an episode. It belongs to the episode, not to a data set that happens to hold it."""

    episode: str  # id: the hash of the episode's content
    first: int  # step
    length: int  # steps


class Observation(NamedTuple):
    """What is observed where there are cameras. It stands in place of `obs` [..., O], which is the state alone."""

    state: Tensor  # [..., O]
    image: Tensor  # [..., C, H, W, 3] uint8


class Transitions(NamedTuple):
    """Single steps. `done` is a true terminal. Images are in `obs` only: who looks does not look ahead."""

    obs: Any  # [B, O], or an Observation
    action: Tensor  # [B, A]
    reward: Tensor  # [B]
    next_obs: Tensor  # [B, O]
    done: Tensor  # [B] float, 0 or 1


class Windows(NamedTuple):
    """K rows of one episode, from any step on. Rows after `last` lie beyond its end and repeat its last one."""

    obs: Tensor  # [B, K, O]
    action: Tensor  # [B, K, A]
    reward: Tensor  # [B, K]
    returns_to_go: Tensor  # [B, K], undiscounted
    step: Tensor  # [B, K] long, since the episode's start
    last: Tensor  # [B] long, at least 1: place in the window of its last row
    holds: Tensor  # [B, K] float: whether the row holds a step; the row where an episode ended does not
    done: Tensor  # [B] float: whether the last row is a true terminal

    def before_last(self) -> Tensor:
        """Which rows are followed by another one in the window: [B, K] float."""
        return (torch.arange(self.step.shape[1], device=self.last.device) < self.last[:, None]).float()


class PreferenceBatch(NamedTuple):
    """Pairs of segments, with P(the second is preferred), 0.5 being a tie.

    Or lists of K, with what each is worth; or two that have nothing to do with each other, and how good each is.
    """

    obs: Any  # [B, 2 or K, L, O], or an Observation
    action: Tensor  # [B, 2 or K, L, A]
    label: Tensor  # [B], of pairs alone; else [B, 2 or K]


class PairsAndSteps(NamedTuple):
    """Answers, and beside them steps from anywhere in the data."""

    pairs: PreferenceBatch
    steps: Transitions


class PairsAndUnasked(NamedTuple):
    """Answers, and beside them pairs from anywhere in the data that nobody has judged."""

    pairs: PreferenceBatch
    unasked: PreferenceBatch


@dataclass(frozen=True)
class Spec:
    """What a network must know of its data: sizes, the observation's mean and standard deviation, [O] each, the number
    of steps in the longest episode, the images' shape [C, H, W, 3], where there are any, and whether episodes can
    terminate."""

    obs_dim: int
    action_dim: int
    obs_mean: tuple[float, ...]
    obs_std: tuple[float, ...]
    steps: int
    image: tuple[int, ...] = ()
    terminates: bool = False


class Policy(Protocol):
    """Acts. What it saves is enough to run it."""

    def reset(self) -> None: ...
    def act(self, obs: Tensor | Observation) -> Tensor:
        """obs [B, O] → action [B, A] in [-1, 1]."""
        ...


class Learner(Protocol):
    """Anything the loop can train: an `nn.Module`, so that its `state_dict` is all there is to save.

    `batch` is the batch type it eats; one that learns from lists says how many `segments` they hold (1: it takes each
    segment by itself), and one whose policy alone reads observations says `images = True`: the policy then may look at
    images. `update` is compiled into one graph: no `.item()`, no data-dependent shapes. A learner that cannot be
    compiled says `eager = True`.
    """

    batch: type
    batch_size: int

    def update(self, batch: Any) -> Metrics: ...
    def state_dict(self) -> dict[str, Any]: ...
    def load_state_dict(self, state: dict[str, Any]) -> Any: ...


class RewardModel(Learner, Protocol):
    """Learns a reward from preferences. `context` is how many rows, up to its own, a step's reward depends on."""

    steps: int  # updates after each round of answers
    normalize: str  # how `Table.relabel` makes one reward of the members'
    context: int

    def reward(self, obs: Tensor, action: Tensor) -> Tensor:
        """obs [..., L, O], action [..., L, A] → reward of each step from each member [E, ..., L]."""
        ...

    def score(self, obs: Tensor, action: Tensor) -> Tensor:
        """obs [..., L, O], action [..., L, A] → what preferences between segments compare [E, ...]."""
        ...


class Algorithm(Learner, Protocol):
    """Learns a policy. May offer `pretrain_steps`, `pretrain(batch)` and `begin()`, run once before the updates, and
    `measure(table)`, run whenever the table's rewards have changed."""

    policy: Any
