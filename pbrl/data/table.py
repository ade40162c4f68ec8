"""All experience as contiguous tensors on the training device. A segment is a start row and a length, never a copy.

An episode of T steps fills T + 1 rows; the last holds where it ended and no step. So the next observation of row r is
row r + 1, and no segment that starts at one of `segment_starts` crosses an episode's end.
"""

import copy
from collections.abc import Mapping, Sequence
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor
from torch.utils._pytree import tree_map

from pbrl.data.episodes import episode_id
from pbrl.data.inspection import NOISE, RESOLUTION, Names, check_finite
from pbrl.models.sentences import Sentences
from pbrl.models.text import tokenize, vocabulary_of
from pbrl.types import Clip, Episode, Observation, RewardModel, Segment, Spec, Transitions, UserError, Windows

T = TypeVar("T")
ROW_BYTES = 32  # of a row beside observation and action: rewards, return to go, end, its own and its episode's number
NORMALIZE = ("none", "std", "zscore", "minmax")
NO_PICTURES = (
    "a reward of pictures has none of this data to look at: a table has those of pbrl.api.load_table(path, camera=…), "
    "or of Table(episodes, pictures=…)"
)
PICTURES = "pictures"  # what an image reward sees, in an observation
Images = Mapping[str, np.ndarray]  # camera: [R, H, W, 3] uint8


class Table:
    """R rows: `obs` [R, O], `action` [R, A], `reward` (the true one) and `done` [R]; per camera `images` [R, H, W, 3].

    `pictures` is what an image reward looks at, besides the images that a policy observes: [R, H, W, 3] uint8, or the
    features [R, F] that a frozen encoder made of them.

    `labels` [R, …] by name is what is known of the rows besides: "reward" is the reward that learners see, with
    "return_to_go" beside it. All lie on the device `target` if half of its memory holds them, else on the host
    (`device` says where); batches are on `target`. Per episode, on the host: `ids` (hashes of their content), `first`
    row and `steps` [N] int64, `seed`, `success` (reached at any time) and `returns` (true), and per row the simulator's
    `state` [R, S], where the data set has one.
    """

    def __init__(
        self,
        episodes: Sequence[Episode],
        device: str | torch.device = "cpu",
        *,
        images: Images | None = None,
        pictures: np.ndarray | None = None,
        capacity: int = 0,
        beside: "Table | None" = None,
        sentences: Sentences | None = None,
    ):
        """`capacity` rows are reserved for episodes that are appended later; beyond it the table is copied.

        `beside` is another data set, which preferred videos are named in: see pbrl/rewards/preferred.py.
        `sentences` are embeddings of instructions, for policies that read these and not words. Raises UserError if
        there is no episode, or a number is not finite.
        """
        if not episodes:
            raise UserError("the data set holds no episode")
        for i, episode in enumerate(episodes):
            check_finite(f"the data set, episode {i}", Names(), episode)
        images = images or {}
        self.beside, self.sentences = beside, sentences
        self.target = torch.device(device)
        columns = _columns(episodes)
        shown = [*images.values(), *([] if pictures is None else [pictures])]
        size = sum(column[0].nbytes for column in (*columns.values(), *shown)) + ROW_BYTES
        self.device = choose_device(self.target, max(len(columns["obs"]), capacity) * size)
        self.ids: list[str] = []
        self.source: list[str] = []
        self.instruction: list[str] = []
        self.first, self.steps, self.seed = (np.empty(0, np.int64) for _ in range(3))
        self.returns = np.empty(0, np.float64)
        self.success: np.ndarray | None = np.empty(0, bool)
        self.person = np.empty(0, bool)  # [R], steps that a person decided
        self.state: np.ndarray | None = None
        self.labels: dict[str, Tensor] = {}
        self.normalize = "none"  # how the true reward is, where it is the label
        self.vocabulary = () if sentences else vocabulary_of(episode.instruction for episode in episodes)
        self._images = {name: torch.from_numpy(column).to(self.device) for name, column in images.items()}
        self.pictures = None if pictures is None else torch.from_numpy(pictures).to(self.device)
        self._storage = {name: torch.from_numpy(column).to(self.device) for name, column in columns.items()}
        self._reserve(capacity)
        self._index(episodes)
        self.set_label("reward", self.reward)

    # Growing

    def append(self, episode: Episode, labels: Mapping[str, np.ndarray] | None = None) -> None:
        """Adds an episode of T steps; `labels` [T, …] by name. Labels that are not given are NaN until they are set.

        Clips of earlier episodes and all labels stay valid. Raises UserError where its sizes are not the table's, a
        number is not finite, or the table has images.
        """
        sizes, ours = (episode.obs.shape[1], episode.action.shape[1]), (self.obs.shape[1], self.action.shape[1])
        if sizes != ours:
            raise UserError(f"an episode of {sizes} numbers per observation and action does not fit a table of {ours}")
        check_finite(f"an appended episode (seed {episode.seed})", Names(), episode)
        if self._images or self.pictures is not None:
            raise UserError("a table with images cannot grow: make a data set of all episodes")
        rows, more = self.row_count, _columns([episode])
        self._reserve(rows + len(more["obs"]), grow=True)
        for name, column in more.items():
            self._storage[name][rows : rows + len(column)] = torch.from_numpy(column).to(self.device)
        before = self.labels
        self._index([episode])
        self.labels = {}
        for name, values in before.items():
            new = values.new_full((self.row_count - rows, *values.shape[1:]), torch.nan)
            if labels and name in labels:
                new[:-1] = torch.from_numpy(labels[name]).to(values)
            self.labels[name] = torch.cat([values, new])
        if "reward" in before:
            self.set_label("reward", self.labels["reward"])

    def _reserve(self, rows: int, grow: bool = False) -> None:
        """Makes room for so many rows; when it grows, for twice as many as there are."""
        held = len(self._storage["obs"])
        if rows <= held:
            return
        rows = max(rows, 2 * held) if grow else rows
        for name, column in self._storage.items():
            self._storage[name] = torch.cat([column, column.new_zeros(rows - held, *column.shape[1:])])

    def _index(self, episodes: Sequence[Episode]) -> None:
        """Takes note of episodes whose rows are there."""
        steps = np.array([len(e.action) for e in episodes])
        begin = int(self.first[-1] + self.steps[-1] + 1) if len(self.first) else 0
        first = begin + np.concatenate([[0], np.cumsum(steps + 1)[:-1]])
        self.first, self.steps = np.append(self.first, first), np.append(self.steps, steps)
        self.seed = np.append(self.seed, [e.seed for e in episodes])
        self.returns = np.append(self.returns, [e.reward.sum(dtype=np.float64) for e in episodes])
        self.ids = [*self.ids, *map(episode_id, episodes)]
        self.source = [*self.source, *(e.source for e in episodes)]
        self.instruction = [*self.instruction, *(e.instruction for e in episodes)]
        self.text = {}  # of each episode, what its instruction is to policies, as in Observation: [N, …]
        if self.sentences is not None:
            self.text["sentence"] = torch.from_numpy(self.sentences.encode(self.instruction)).to(self.device)
        elif self.vocabulary:
            self.text["tokens"] = torch.from_numpy(tokenize(self.instruction, self.vocabulary)).to(self.device)
        success = [e.success.any() for e in episodes if e.success is not None]
        known = self.success is not None and len(success) == len(episodes)
        self.success = np.append(self.success, success) if known else None  # type: ignore[arg-type]
        person = [np.append(np.zeros(len(e.action), bool) if e.person is None else e.person, False) for e in episodes]
        self.person = np.concatenate([self.person, *person])
        self.state = _append_states(self.state, [e.state for e in episodes], begin)
        self._place = {own: i for i, own in reversed(list(enumerate(self.ids)))}

        holds_step = np.ones(int(first[-1] + steps[-1] + 1), bool)
        holds_step[self.first + self.steps] = False
        self.rows = torch.from_numpy(np.flatnonzero(holds_step)).to(self.device)  # [M], rows that hold a step
        self.episode = torch.from_numpy(np.repeat(np.arange(len(self.first)), self.steps + 1)).to(self.device)  # [R]
        rows = len(self.episode)
        self.obs, self.action = self._storage["obs"][:rows], self._storage["action"][:rows]
        self.reward, self.done = self._storage["reward"][:rows], self._storage["done"][:rows]
        self.opening = torch.from_numpy(self.first).to(self.device)  # [N], each episode's first row
        self.closing = torch.from_numpy(self.first + self.steps).to(self.device)  # [N], each episode's last row

    # Columns

    @property
    def images(self) -> dict[str, Tensor]:
        """The images of every row, by camera: [R, H, W, 3] uint8."""
        return self._images

    def set_label(self, name: str, values: Tensor) -> None:
        """Sets what every row is labelled with [R, …]: zero in rows that hold no step.

        The label "reward" is what learners see; "return_to_go" follows from it.
        """
        values = values.to(self.device, copy=True)
        values[self.closing] = 0.0
        self.labels = {**self.labels, name: values}
        if name == "reward":
            total = values.double().cumsum(0)
            self.labels["return_to_go"] = (total[self.closing[self.episode]] - total + values).float()

    def view(self) -> "Table":
        """The same experience with labels of its own."""
        return copy.copy(self)

    def __len__(self) -> int:
        """The number of steps (not of rows)."""
        return len(self.rows)

    @property
    def row_count(self) -> int:
        """R, the number of rows in use."""
        return len(self.episode)

    def spec(self) -> Spec:
        """Sizes and observation statistics over all rows; a column that is constant is left unscaled."""
        mean, std = self.obs.mean(0), scale_of(self.obs)
        return Spec(
            self.obs.shape[1],
            self.action.shape[1],
            tuple(mean.tolist()),
            tuple(std.tolist()),
            int(self.steps.max()),
            {name: tuple(column.shape[1:]) for name, column in self.images.items()},
            bool(self.done.any()),
            self.vocabulary,
            self.sentences,
        )

    # Clips

    def clips(self, starts: np.ndarray, length: int) -> list[Clip]:
        """The clips of `length` steps that begin at rows [n]."""
        index = self.episode.cpu().numpy()[starts]
        return [Clip(self.ids[i], int(row - self.first[i]), length) for i, row in zip(index, starts, strict=True)]

    def has_clip(self, clip: Clip) -> bool:
        """Whether the clip's episode is in the table and long enough."""
        i = self._place.get(clip.episode)
        return i is not None and clip.first >= 0 and clip.first + clip.length <= self.steps[i]

    def row(self, clip: Clip) -> int:
        """The row at which a clip begins. Raises UserError if the table does not hold it."""
        if not self.has_clip(clip):
            raise UserError(
                f"the data set has no episode {clip.episode} with steps {clip.first} to {clip.first + clip.length}"
            )
        return int(self.first[self._place[clip.episode]]) + clip.first

    # Batches

    def observe(self, rows: Tensor, images: bool = False) -> Observation:
        """The observation at rows [...]; with `images`, also what cameras show and what the task is in words."""
        if not images:
            return Observation(self.obs[rows])
        shown = {name: column[rows] for name, column in self.images.items()}
        return Observation(self.obs[rows], shown, {name: x[self.episode[rows]] for name, x in self.text.items()})

    def to_target(self, batch: T) -> T:
        """The batch on the learners' device; from the host it goes through pinned memory, asynchronously."""
        if self.device == self.target:
            return batch
        return tree_map(lambda x: x.pin_memory().to(self.target, non_blocking=True), batch)

    def transitions(self, rows: Tensor, images: bool = False) -> Transitions:
        """rows [B] → the steps there, with the reward that learners see; `images` are of `obs` only."""
        return self.to_target(
            Transitions(
                self.observe(rows, images),
                self.action[rows],
                self.labels["reward"][rows],
                self.observe(rows + 1),
                self.done[rows],
            )
        )

    def windows(self, starts: Tensor, length: int) -> Windows:
        """starts [B], rows that hold a step → up to `length` rows from there to the episode's end."""
        episode = self.episode[starts]
        closing = self.closing[episode]
        rows = starts[:, None] + torch.arange(length, device=self.device)  # [B, K]
        mask = (rows < closing[:, None]).float()
        rows = torch.minimum(rows, closing[:, None])
        return self.to_target(
            Windows(
                self.observe(rows),
                self.action[rows],
                self.labels["reward"][rows],
                self.labels["return_to_go"][rows],
                step=rows - self.opening[episode][:, None],
                last=rows[:, -1] - starts,
                mask=mask,
                done=self.done[rows[:, -1] - 1],
            )
        )

    def chunks(self, starts: Tensor, length: int, images: bool = False) -> Segment:
        """starts [B], rows that hold a step → the observation there [B, 1, O], and the actions [B, K, A] from there on.

        Beyond the episode's end its last action is repeated, and the mask is 0.
        """
        rows = self.segment_rows(starts, length)
        closing = self.closing[self.episode[starts]][:, None]
        within = torch.minimum(rows, closing - 1)
        observed = self.observe(starts[:, None], images)
        return self.to_target(Segment(observed, self.action[within], (rows < closing).float()))

    def segment_rows(self, starts: Tensor, length: int) -> Tensor:
        """starts [...] → the rows of each segment [..., L], to index `obs`, `action`, `reward` with."""
        return starts[..., None] + torch.arange(length, device=self.device)

    def segments(self, starts: Tensor, length: int, images: bool = False) -> Segment:
        """starts [...] → the segments [..., L, …] that begin there."""
        rows = self.segment_rows(starts, length)
        mask = torch.ones(rows.shape, device=self.device)
        return Segment(self.observe(rows, images), self.action[rows], mask)

    def picture_segments(
        self, starts: Tensor, length: int, *, frames: int = 0, stack: int = 1, generator: torch.Generator | None = None
    ) -> Segment:
        """starts [...] → segments of their pictures, at `frames` of their steps (0: at all): [..., frames, stack, …].

        Each of so many equal parts of a segment shows one step, drawn by the `generator` or, without one, from its
        middle; `mask` says for how many steps it stands, so that sums over a segment are unbiased. A step is shown with
        the `stack` - 1 before it, of which the first repeats where the episode begins. Raises UserError without any.
        """
        if self.pictures is None:
            raise UserError(NO_PICTURES)
        count = min(frames, length) or length
        chance = torch.full((*starts.shape, count), 0.5, device=self.device)
        if generator is not None and count < length:
            chance = torch.rand((*starts.shape, count), generator=generator, device=self.device)
        step = ((torch.arange(count, device=self.device) + chance) * (length / count)).long().clamp(max=length - 1)
        rows = starts[..., None] + step  # [..., frames]
        mask = torch.full(rows.shape, length / count, device=self.device)
        before = rows[..., None] - torch.arange(stack - 1, -1, -1, device=self.device)
        shown = torch.maximum(before, self.opening[self.episode[rows]][..., None])
        return Segment(Observation(self.obs[rows], {PICTURES: self.pictures[shown]}), self.action[rows], mask)

    def segment_starts(self, length: int) -> Tensor:
        """Every row [K] at which a segment of `length` steps fits into its episode. Raises UserError if none does."""
        starts = [np.arange(f, f + n - length + 1) for f, n in zip(self.first, self.steps, strict=True) if n >= length]
        if not starts:
            longest = int(self.steps.max())
            raise UserError(
                f"no episode is {length} steps long (the longest: {longest}): add query.length={max(1, longest // 2)}"
            )
        return torch.from_numpy(np.concatenate(starts)).to(self.device)

    def separate_starts(self, length: int) -> Tensor:
        """Rows [K] at which segments of `length` steps begin that follow each other in their episodes: a sample of all.

        Raises UserError where none fits.
        """
        starts = self.segment_starts(length)
        return starts[(starts - self.opening[self.episode[starts]]) % length == 0]

    def best_rows(self, fraction: float) -> Tensor:
        """The step rows of the `fraction` of episodes with the highest true return, at least one episode."""
        if not 0 < fraction <= 1:
            raise UserError(f"algo.fraction is a share of the episodes in (0, 1], not {fraction}")
        keep = np.argsort(-self.returns, kind="stable")[: max(1, round(fraction * len(self.returns)))]
        spans = [np.arange(f, f + n) for f, n in zip(self.first[keep], self.steps[keep], strict=True)]
        return torch.from_numpy(np.concatenate(spans)).to(self.device)

    # Rewards

    def relabel(self, model: RewardModel) -> None:
        """Sets the label that the model gives: the strength of attributes, or the reward.

        That is the members' mean, each first normalized over all steps by `model.normalize`.

        none: as it is · std: divided by its standard deviation · zscore: centered too · minmax: to [0, 1].
        Preferences between segments of one length leave the reward's offset open, and it matters where episodes can
        terminate: centering can make early termination pay. `auto` is minmax where they do, else none.
        """
        if model.gives != "reward":
            self.set_label(model.gives, model.label(self))
            return
        members = model.label(self)
        self._set_reward(self, members, members, model.normalize)

    def relabel_true(self, normalize: str) -> None:
        """Sets the reward to the true one, normalized in the same ways."""
        self.normalize = normalize
        self._set_reward(self, self.reward[None], self.reward[None], normalize)

    def relabel_like(self, other: "Table", model: RewardModel | None) -> None:
        """Sets the reward as another table's is, with its numbers of normalization: a model's, or the true one."""
        if model is None or model.gives != "reward":
            self._set_reward(other, self.reward[None], other.reward[None], other.normalize)
        else:
            self._set_reward(other, model.label(self), model.label(other), model.normalize)

    def _set_reward(self, other: "Table", members: Tensor, others: Tensor, normalize: str) -> None:
        """The mean of members [E, R], normalized by what they are in all steps of the other table [E, R']."""
        if normalize == "auto":
            normalize = "minmax" if other.done.any() else "none"
        self.set_label("reward", standardize(members, others[:, other.rows], normalize).mean(0))


def _columns(episodes: Sequence[Episode]) -> dict[str, np.ndarray]:
    """What a table stores of each row."""
    ends = [np.append(np.zeros(len(e.action) - 1), [float(e.terminated), 0.0]) for e in episodes]
    parts = {
        "obs": [e.obs for e in episodes],
        "action": [_pad(e.action) for e in episodes],
        "reward": [_pad(e.reward) for e in episodes],
        "done": ends,
    }
    return {name: np.concatenate(part).astype(np.float32, copy=False) for name, part in parts.items()}


def _pad(x: np.ndarray) -> np.ndarray:
    """x with a row of zeros appended."""
    return np.concatenate([x, np.zeros((1, *x.shape[1:]), x.dtype)])


def _append_states(held: np.ndarray | None, more: Sequence[np.ndarray | None], rows: int) -> np.ndarray | None:
    """Simulator states of `rows` and more, if they are known of all."""
    known = [state for state in more if state is not None]
    if len(known) < len(more) or (rows and held is None):
        return None
    return np.concatenate(known if held is None else [held, *known])


def choose_device(device: torch.device, size: int) -> torch.device:
    """Where so many bytes of experience lie: on the device if half of its memory holds them, else on the host.

    Half of all, not of what is free, since a run that goes on later must find them where they were.
    """
    fits = device.type != "cuda" or 2 * size <= torch.cuda.mem_get_info(device)[1]
    return device if fits else torch.device("cpu")


def standardize(values: Tensor, reference: Tensor, how: str) -> Tensor:
    """values [E, R] scaled by the statistics of reference [E, M], member by member. Raises UserError."""
    if how not in NORMALIZE:
        raise UserError(f"normalize={how}: it is one of {', '.join(NORMALIZE)}")
    if how == "none":
        return values
    if how == "minmax":
        low, high = reference.amin(1, keepdim=True), reference.amax(1, keepdim=True)
        return (values - low) / torch.where(high > low, high - low, torch.ones_like(low))
    mean = reference.mean(1, keepdim=True) if how == "zscore" else 0.0
    return (values - mean) / scale_of(reference.T)[:, None]


def scale_of(rows: Tensor) -> Tensor:
    """The standard deviation of each column of rows [N, W], and 1 of a column that is constant: [W].

    Constant is what differs by no more than float32's rounding at the size of its numbers, however small they are.
    """
    std, largest = rows.std(0), rows.abs().amax(0)
    is_constant = (rows.amax(0) == rows.amin(0)) | (std <= (RESOLUTION * largest).clamp(min=NOISE))
    return torch.where(is_constant, torch.ones_like(std), std)
