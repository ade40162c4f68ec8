"""The vocabulary: what flows between the parts, and what each part must offer.

Shape letters: B batch · E ensemble · L segment steps · K candidates, window rows or action chunk · O observation ·
A action · T episode steps · R rows · S state · H W image · Q answers.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, TypeAlias

import numpy as np

if TYPE_CHECKING:  # PyTorch among them: what renders clips for people does without
    from torch import Tensor

    from pbrl.data.rollout import RolloutWorkers
    from pbrl.data.table import Table
    from pbrl.feedback.labels import Selection
    from pbrl.feedback.questions import Question
    from pbrl.feedback.sources.context import Context
    from pbrl.models.sentences import Sentences
    from pbrl.settings import Query
    from pbrl.training.batches import Data

Metrics: TypeAlias = "dict[str, Tensor]"
Update = Callable[[Any], Metrics]
RewardOf: TypeAlias = "Callable[[Sequence[Episode]], list[np.ndarray]]"  # what learners see of each step: [T] each


class UserError(Exception):
    """Something the user can mend; the message says how. Printed without a traceback."""


# Experience


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
    instruction: str = ""  # the task in words, where it is given
    filmed: bool = False  # a camera's recording, whose video alone says which episode it is
    person: np.ndarray | None = None  # [T] bool: steps that a person decided, who had taken over


class Observation(NamedTuple):
    """What a policy observes; each part may be absent: a state of no numbers, no cameras, no text."""

    state: Tensor  # [..., O]
    images: dict[str, Tensor] = {}  # camera: [..., H, W, 3] uint8
    text: dict[str, Tensor] = {}  # "tokens" [..., N] long: the words of the instruction, see pbrl/models/text.py; or
    # "sentence" [..., S]: its embedding, see pbrl/models/sentences.py; or "utf8" [..., N] uint8: the instruction
    # itself, for policies on a server; "quality" [...] long: how what is done shall turn out: 1 well, 0 badly, -1 not
    # told


class Segment(NamedTuple):
    """L steps of an episode; where segments differ in length, `mask` is 0 beyond their end."""

    obs: Observation  # [..., L, O]
    action: Tensor  # [..., L, A]
    mask: Tensor  # [..., L] float, 1 for steps


class Clip(NamedTuple):
    """A stretch of an episode. It belongs to the episode, not to a data set that happens to hold it."""

    episode: str  # id: the hash of the episode's content
    first: int  # step
    length: int  # steps


# Batches


class Transitions(NamedTuple):
    """Single steps. `done` is a true terminal."""

    obs: Observation  # [B, O]
    action: Tensor  # [B, A]
    reward: Tensor  # [B]
    next_obs: Observation  # [B, O], without images
    done: Tensor  # [B] float, 0 or 1


class Weighted(NamedTuple):
    """Single steps, and how much each counts: 1 in the mean over all that are drawn from."""

    steps: Transitions
    weight: Tensor  # [B]


class Windows(NamedTuple):
    """K rows of one episode, from any step on. Rows after `last` lie beyond its end and repeat its last one."""

    obs: Observation  # [B, K, O]
    action: Tensor  # [B, K, A]
    reward: Tensor  # [B, K]
    returns_to_go: Tensor  # [B, K], undiscounted
    step: Tensor  # [B, K] long, since the episode's start
    last: Tensor  # [B] long, at least 1: place in the window of its last row
    mask: Tensor  # [B, K] float: whether the row holds a step; the row where an episode ended does not
    done: Tensor  # [B] float: whether the last row is a true terminal

    def before_last(self) -> Tensor:
        """Which rows are followed by another one in the window: [B, K] float."""
        return (self.step - self.step[:, :1] < self.last[:, None]).float()


class Comparisons(NamedTuple):
    """Pairs of segments with P(the second is preferred), 0.5 being a tie.

    Or lists of K with the worth of each; or, of unpaired objectives, two segments and how good each is; or triplets
    with P(the third is more like the first than the second is).
    """

    segments: Segment  # [B, K, L, …], K = 2 for pairs and 3 for triplets
    label: Tensor  # [B] of pairs and triplets, else [B, K]
    rater: Tensor  # [B] long, place in the raters of the answers; -1 where no rater answered
    confidence: Tensor  # [B], the weight of the answer


class AttributeComparisons(NamedTuple):
    """Pairs of segments with P(the second has more) of each of M attributes; where `mask` is 0, it says nothing."""

    segments: Segment  # [B, 2, L, …]
    label: Tensor  # [B, M], 0.5 where the mask is 0
    mask: Tensor  # [B, M] float, 0 or 1
    rater: Tensor  # [B] long, place in the raters of the answers
    confidence: Tensor  # [B], the weight of the answer


class AttributeWindows(NamedTuple):
    """Windows of episodes, and how strong each of M attributes is in them, from 0 to 1 in the data."""

    segments: Segment  # [B, L, …]
    strength: Tensor  # [B, M]


class TrajectoryComparisons(NamedTuple):
    """Pairs of a policy's episodes, or of parts of them, D decisions each, as `Comparisons` are pairs of segments."""

    chunks: Segment  # obs [B, 2, D, O], action [B, 2, D, K, A], mask [B, 2, D, K]: 1 for what was carried out
    label: Tensor  # [B] P(the second is better), or, of unpaired objectives, how good each is: [B, 2]
    confidence: Tensor  # [B]: 0 where there was nothing to compare
    log_prob: Tensor  # [B, 2, D], of what was carried out, by the policy that did it
    is_compared: Tensor  # [B, 2, D]: 1 for decisions that are compared, 0 for others
    success: Tensor  # [B, 2] bool


class DenoisingSteps(NamedTuple):
    """Single steps of the denoising by which a policy drew its own chunks, J for each chunk."""

    obs: Observation  # [B, O], where the chunk was decided
    before: Tensor  # [B, K, A], noisier
    after: Tensor  # [B, K, A]
    step: Tensor  # [B] long, from 0, the noisiest, to J - 1
    mask: Tensor  # [B, K] float, 1 for actions of the chunk that were carried out
    log_prob: Tensor  # [B], by the policy that played
    advantage: Tensor  # [B], of the chunk
    target: Tensor  # [B], of its value


@dataclass(frozen=True)
class Spec:
    """What a network must know of its data: sizes, the observation's mean and standard deviation, [O] each, the number
    of steps in the longest episode, the shape [H, W, 3] of each camera's image, whether episodes can terminate, and the
    words of their instructions or, where a frozen encoder reads these, embeddings."""

    obs_dim: int
    action_dim: int
    obs_mean: tuple[float, ...]
    obs_std: tuple[float, ...]
    max_steps: int
    images: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    terminates: bool = False
    vocabulary: tuple[str, ...] = ()
    sentences: Sentences | None = None


# What trains


class Policy(Protocol):
    """Acts. What it saves is enough to run it."""

    spec: Spec
    reads_words: bool  # whether it acts by the instruction, in `obs.text`

    def reset(self) -> None:
        """Starts an episode."""
        ...

    def looks(self) -> bool:
        """Whether the next `act` reads the images it is given; within a chunk it does not."""
        ...

    def act(self, obs: Observation, explore: bool | Tensor = False) -> Tensor:
        """obs [B, O] → action [B, A] in [-1, 1]; with `explore`, or where it is true [B], drawn from the policy's
        distribution."""
        ...

    def plan(self, obs: Observation) -> Tensor:
        """obs [B, O] → the next actions as a chunk [B, K, A]; K is 1 where the policy decides step by step."""
        ...

    def log_prob(self, obs: Observation, action: Tensor) -> Tensor:
        """obs [..., O], action [..., A] → the log-likelihood of each action, or a bound of it: [...]."""
        ...

    def score(self, segment: Segment) -> Tensor:
        """segment [..., L, …] → log-likelihood of its actions, or a bound of it: [...]."""
        ...


class Rollouts(Protocol):
    """The policy's own episodes that a phase learns from: anew ahead of each of `iterations` equal parts of it.

    What is learnt of an iteration is kept in the run's folder, from which a run that was killed reads it back.
    """

    @property
    def iterations(self) -> int: ...

    @property
    def keep(self) -> bool:
        """Whether the episodes of earlier iterations are learnt from, too."""
        ...

    def play(
        self, workers: RolloutWorkers, policy: Any, seed: int, iteration: int, reward_of: RewardOf
    ) -> dict[str, Any]:
        """What is learnt of an iteration, as tensors by name; the same in any number of processes. Raises UserError."""
        ...

    def is_complete(self, played: Mapping[str, Any]) -> bool:
        """Whether these tensors are all, and not those of an earlier version."""
        ...

    def give(self, data: Data, played: Sequence[dict[str, Any]]) -> tuple[dict[str, float], str]:
        """The data are drawn from these iterations from now on; what is logged of the last one, and that in a line."""
        ...


@dataclass(frozen=True)
class Phase:
    """Part of a learner's training: `steps` updates, each on a batch that `draw` takes from the data.

    `before` runs once, ahead of the first update. With `query.rounds` the last phase is split, and `on_labels` runs
    ahead of every part: whenever rewards or answers have changed. With `rollouts` it is split in the same way, and
    ahead of every part the policy plays.
    """

    name: str
    steps: int
    draw: Callable[[Data], Any]
    update: Update
    before: Callable[[Data], None] | None = None
    on_labels: Callable[[Data], None] | None = None
    compiles: bool = True
    rollouts: Rollouts | None = None


class Learner(Protocol):
    """What the loop trains: an `nn.Module`, so that its `state_dict` is all there is to save.

    A phase's `update` is compiled into one graph: no `.item()`, no data-dependent shapes. Where that cannot be, the
    phase says `compiles=False`, or the policy `eager = True`.
    """

    def state_dict(self) -> dict[str, Any]:
        """All that training goes on from: parameters, buffers and the state of the optimizers."""
        ...

    def load_state_dict(self, state: Mapping[str, Any]) -> Any:
        """Goes on from a `state_dict` of the same learner."""
        ...


class Algorithm(Learner, Protocol):
    """Learns a policy."""

    policy: Policy

    def phases(self, steps: int) -> list[Phase]:
        """The phases in their order; the last, of `steps` updates, trains the policy that is evaluated."""
        ...


class RewardModel(Learner, Protocol):
    """Learns a reward from answers, or how strong several attributes are."""

    gives: str  # the label that `Table.relabel` sets: reward, or attributes
    normalize: str  # how one reward is made of the members': none, std, zscore, minmax, auto

    def phases(self) -> list[Phase]:
        """What happens after each round of answers."""
        ...

    def score(self, segment: Segment) -> Tensor:
        """segment [..., L, …] → what comparisons compare: [E, ...], or [E, ..., M] of M attributes."""
        ...

    def score_at(self, table: Table, starts: Tensor, length: int) -> Tensor:
        """The same of the table's segments of `length` steps that begin at rows `starts` [...], without gradients."""
        ...

    def log_odds(self, table: Table, starts: Tensor, length: int) -> Tensor:
        """Of candidates for questions at rows `starts` [C, k], each member's log-odds of the answer: [E, C]."""
        ...

    def label(self, table: Table) -> Tensor:
        """The reward of every row by each member: [E, R]; or the attributes of the window at every row: [R, M]."""
        ...


# Answers


class FeedbackSource(Protocol):
    """Answers questions, into the store, as a rater; the loop reads labels from the store alone.

    A run calls `check` before anything is made, `start` once, `answer` in each round, and `stop` in the end. Answers
    may come, change and be taken back at any time: the loop reads them again whenever the store has new events.
    """

    kinds: tuple[str, ...]  # of the questions that it answers; none: nothing is asked, its answers are stored already
    selection: Selection  # which of the store's answers are learnt from, and how

    def check(self, query: Query, env: Environment) -> None:
        """Raises UserError where it cannot answer what the query asks about episodes of this environment."""
        ...

    def start(self, context: Context) -> None:
        """Gets ready for a run: makes its rater known, opens what people need. Raises UserError."""
        ...

    def form(self, question: Question) -> Question:
        """The question with its wording, the number of answers that are wanted, and which kind of rater may answer."""
        ...

    def answer(self, questions: Sequence[str]) -> None:
        """Answers these questions of the store, or waits until enough of them are answered."""
        ...

    def stop(self) -> None:
        """Ends what `start` began."""
        ...


# Worlds


class Expert(Protocol):
    """A scripted expert for one episode. `objects` are the places of objects' positions in what it observes."""

    objects: tuple[slice, ...]

    def act(self, obs: Any) -> np.ndarray:
        """An environment's `full_obs` → action [A] in [-1, 1]."""
        ...


class Environment(Protocol):
    """A Gymnasium environment, reset by seed alone, with actions in [-1, 1].

    An observation is the state [O] float32, or, with `images`, {"state": [O], "images": {camera: [H, W, 3] uint8}}.
    """

    name: str  # as env=… names it
    task: str  # the episode's
    observation_space: Any
    action_space: Any
    action_bounds: tuple[np.ndarray, np.ndarray]  # [A] each: what -1 and 1 are in the environment's own units
    horizon: int  # steps until truncation
    control_hz: float
    instruction: str  # the episode's task in words, or ""; episodes keep what `reset` reports as info["instruction"]
    has_success: bool  # `info["success"]` is there
    cameras: tuple[str, ...]  # the first is the default
    images: tuple[str, ...]  # cameras that are observed
    renders: bool  # whether observations hold their images; a rollout turns it off where its policy would not look
    can_restore: bool  # `save_state` and `restore` work; else frames are kept while playing
    full_obs: Any  # what an expert observes, also where a policy observes less
    attributes: tuple[str, ...]  # of behaviour, which `measure` measures, as in speed, height, gentleness

    @property
    def expert(self) -> Callable[..., Expert] | None:
        """Makes a scripted expert for an episode, perhaps in another style; None where there is none."""
        ...

    @property
    def style(self) -> Mapping[str, float] | None:
        """Settings of the expert; None where it has none."""
        ...

    @property
    def double(self) -> Callable[..., Environment] | None:
        """Makes a second simulator of this task, or of another that a given generator draws; None where it cannot."""
        ...

    def reset(self, *, seed: int | None = None) -> tuple[Any, dict[str, Any]]:
        """Starts an episode, whose scene follows from the seed alone; returns observation and info."""
        ...

    def step(self, action: np.ndarray) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """action [A] in [-1, 1] → observation, true reward, terminated, truncated, info."""
        ...

    def save_state(self) -> np.ndarray | None:
        """The state [S] float64 that `restore` takes; None where it cannot."""
        ...

    def restore(self, episode_seed: int, state: np.ndarray, t: int = 0) -> Any:
        """Goes to step `t` of an episode; returns the observation there."""
        ...

    def measure(self, episode_seed: int, states: np.ndarray) -> dict[str, np.ndarray]:
        """The `attributes` of the steps between states [T+1, S] of an episode: [T] float64 each, NaN where undefined.

        An environment that measures some restores its states. It is left somewhere in that episode.
        """
        ...

    def keypoints(self, episode_seed: int, states: np.ndarray) -> dict[str, np.ndarray]:
        """Where things are in the states [T+1, S] of an episode, by name: [T+1, 3] m each; none where it names none.

        It is left somewhere in that episode.
        """
        ...

    def change_view(self, *, turn_deg: float = 0.0, light: Sequence[float] = (1.0, 1.0, 1.0)) -> None:
        """Pictures from now on are of a camera that was moved so many degrees round what it looks at, and in a light
        whose red, green and blue are scaled. Raises UserError where they cannot be."""
        ...

    def frames(self) -> tuple[np.ndarray | None, dict[str, np.ndarray]]:
        """What is kept while playing where states cannot be restored: a frame to show, and the images observed."""
        ...

    def render(self, width: int = 256, height: int = 256, camera: str | None = None) -> np.ndarray:
        """A frame [height, width, 3] uint8 of the present state; of the first camera if none is named."""
        ...

    def render_at(
        self, episode_seed: int, state: np.ndarray, t: int = 0, *, width: int, height: int, camera: str | None = None
    ) -> np.ndarray:
        """What `render` shows after `restore`; before it steps again the environment must be reset or restored."""
        ...

    def close(self) -> None:
        """Frees the simulator and its renderer."""
        ...
