"""All experience as contiguous tensors on the training device. A segment is a start row and a length, never a copy.

An episode of T steps fills T + 1 rows; the last holds where it ended and no step. So the next observation of row r is
row r + 1, and nothing that starts at one of `segment_starts` crosses an episode's end.
"""

import copy
from collections.abc import Sequence
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor
from torch.utils._pytree import tree_map

from pbrl.data.episodes import episode_id
from pbrl.types import Clip, Episode, Observation, RewardModel, Spec, Transitions, UserError, Windows

T = TypeVar("T")
ROW_BYTES = 32  # of a row beside observation and action: rewards, return to go, end, its own and its episode's number
NORMALIZE = ("none", "std", "zscore", "minmax")


class Table:
    """R rows: `obs` [R, O], `action` [R, A], `reward`, `learned`, `returns_to_go` (of `learned`) and `done` [R].

    Beside them, where there are cameras, `image` [R, C, H, W, 3] uint8, what they saw. All lie on the device `target`
    if half of its memory holds them, else on the host (`device` says where); batches are on `target`. Per
    episode, on the host: `first` and `steps` [N] int64, `seed`, `success` (reached at any time) and `returns` (true),
    and per row the simulator's `state` [R, S], where the data set has one.
    """

    def __init__(
        self, episodes: Sequence[Episode], device: str | torch.device = "cpu", frames: np.ndarray | None = None
    ):
        if not episodes:
            raise UserError("the data set holds no episode")
        self.target = torch.device(device)
        rows, row = sum(len(e.obs) for e in episodes), episodes[0]
        numbers = row.obs[0].nbytes + row.action[0].nbytes + ROW_BYTES
        self.device = home(self.target, rows * numbers + (0 if frames is None else frames.nbytes))
        self.steps = np.array([len(e.action) for e in episodes])
        self.first = np.concatenate([[0], np.cumsum(self.steps + 1)[:-1]])
        self.seed = np.array([e.seed for e in episodes])
        self.source = [e.source for e in episodes]
        self.ids = [episode_id(e) for e in episodes]
        self._place = {name: i for i, name in reversed(list(enumerate(self.ids)))}
        self.returns = np.array([e.reward.sum() for e in episodes], np.float64)
        known = all(e.success is not None for e in episodes)
        self.success = np.array([e.success.any() for e in episodes]) if known else None  # type: ignore[union-attr]
        with_state = all(e.state is not None for e in episodes)
        self.state = np.concatenate([e.state for e in episodes]) if with_state else None  # type: ignore[misc]

        closed = [pad(e.action, 1) for e in episodes]
        done = [np.append(np.zeros(len(e.action) - 1, np.float32), [float(e.terminated), 0.0]) for e in episodes]
        self.obs = self._tensor([e.obs for e in episodes])
        self.action = self._tensor(closed)
        self.reward = self._tensor([pad(e.reward, 1) for e in episodes])
        self.done = self._tensor(done)

        holds_step = np.ones(len(self.obs), bool)
        holds_step[self.first + self.steps] = False
        self.rows = torch.from_numpy(np.flatnonzero(holds_step)).to(self.device)  # [M], rows that hold a step
        self.episode = torch.from_numpy(np.repeat(np.arange(len(episodes)), self.steps + 1)).to(self.device)  # [R]
        self.opening = torch.from_numpy(self.first).to(self.device)  # [N], each episode's first row
        self.closing = torch.from_numpy(self.first + self.steps).to(self.device)  # [N], each episode's last row
        self.learned = self.reward.clone()
        self.image = None if frames is None else torch.from_numpy(frames).to(self.device)

    def _tensor(self, parts: list[np.ndarray]) -> Tensor:
        return torch.from_numpy(np.concatenate(parts).astype(np.float32, copy=False)).to(self.device)

    @property
    def learned(self) -> Tensor:
        """The reward that learners see [R], zero in rows that hold no step; `relabel` replaces it."""
        return self._learned

    @learned.setter
    def learned(self, values: Tensor) -> None:
        self._learned = values.clone()
        self._learned[self.closing] = 0.0
        earned = self._learned.double().cumsum(0)
        self.returns_to_go = (earned[self.closing[self.episode]] - earned + self._learned).float()

    def view(self) -> "Table":
        """The same experience with a learnt reward of its own."""
        return copy.copy(self)

    def __len__(self) -> int:
        """The number of steps (not of rows)."""
        return len(self.rows)

    def spec(self) -> Spec:
        """Sizes and observation statistics over all rows; a component that hardly moves is left unscaled."""
        mean, std = self.obs.mean(0), self.obs.std(0)
        std = torch.where(std < 1e-3, torch.ones_like(std), std)
        sizes = self.obs.shape[1], self.action.shape[1]
        image = () if self.image is None else tuple(self.image.shape[1:])
        return Spec(
            *sizes, tuple(mean.tolist()), tuple(std.tolist()), int(self.steps.max()), image, bool(self.done.any())
        )

    def seen(self, rows: Tensor) -> Tensor | Observation:
        """What a policy observes at rows [...]: the state [..., O], with the images where there are cameras."""
        if self.image is None:
            return self.obs[rows]
        return Observation(self.obs[rows], self.image[rows])

    def near(self, batch: T) -> T:
        """The batch where learners are; from the host it goes through pinned memory, and nobody waits for it."""
        if self.device == self.target:
            return batch
        return tree_map(lambda x: x.pin_memory().to(self.target, non_blocking=True), batch)

    def transitions(self, rows: Tensor) -> Transitions:
        """rows [B] → the steps there, with the reward that learners see."""
        return self.near(
            Transitions(self.seen(rows), self.action[rows], self.learned[rows], self.obs[rows + 1], self.done[rows])
        )

    def windows(self, starts: Tensor, length: int) -> Windows:
        """starts [B], rows that hold a step → up to `length` rows from there to the episode's end."""
        episode = self.episode[starts]
        closing = self.closing[episode]
        rows = starts[:, None] + torch.arange(length, device=self.device)  # [B, K]
        holds = (rows < closing[:, None]).float()
        rows = torch.minimum(rows, closing[:, None])
        return self.near(Windows(
            self.obs[rows], self.action[rows], self.learned[rows], self.returns_to_go[rows],
            step=rows - self.opening[episode][:, None], last=rows[:, -1] - starts, holds=holds,
            done=self.done[rows[:, -1] - 1],
        ))  # fmt: skip

    def segments(self, starts: Tensor, length: int) -> Tensor:
        """starts [...] → the rows of each segment [..., L], to index `obs`, `action`, `reward` with."""
        return starts[..., None] + torch.arange(length, device=self.device)

    segment_rows = segments

    def clips(self, starts: Tensor | np.ndarray, length: int) -> list[Clip]:
        """The clips of `length` steps that begin at rows starts [Q]."""
        rows = np.asarray(starts)
        episode = np.searchsorted(self.first, rows, side="right") - 1
        return [Clip(self.ids[e], int(row - self.first[e]), length) for row, e in zip(rows, episode, strict=True)]

    def holds(self, clip: Clip) -> bool:
        """Whether the clip's episode is here and long enough."""
        e = self._place.get(clip.episode)
        return e is not None and clip.first + clip.length <= self.steps[e]

    def row(self, clip: Clip) -> int:
        """The row at which a clip begins."""
        return int(self.first[self._place[clip.episode]]) + clip.first

    def segment_starts(self, length: int) -> Tensor:
        """Every row [K] at which a segment of `length` steps fits into its episode. Raises UserError if none does."""
        starts = [np.arange(f, f + n - length + 1) for f, n in zip(self.first, self.steps, strict=True) if n >= length]
        if not starts:
            raise UserError(
                f"no episode is {length} steps long (the longest has {self.steps.max()}): lower query.length"
            )
        return torch.from_numpy(np.concatenate(starts)).to(self.device)

    def best_rows(self, fraction: float) -> Tensor:
        """The step rows of the `fraction` of episodes with the highest true return, at least one episode."""
        if not 0 < fraction <= 1:
            raise UserError(f"algo.fraction is a share of the episodes in (0, 1], not {fraction}")
        keep = np.argsort(-self.returns, kind="stable")[: max(1, round(fraction * len(self.returns)))]
        spans = [np.arange(f, f + n) for f, n in zip(self.first[keep], self.steps[keep], strict=True)]
        return torch.from_numpy(np.concatenate(spans)).to(self.device)

    @torch.no_grad()
    def map(self, model: RewardModel, chunk: int = 65536) -> Tensor:
        """Each member's reward of every row, seen after the `model.context - 1` rows before it: [E, R]."""
        parts = []
        for rows in torch.arange(len(self.obs), device=self.device).split(max(1, chunk // model.context)):
            start = torch.maximum(rows - model.context + 1, self.opening[self.episode[rows]])
            seen = start[:, None] + torch.arange(model.context, device=self.device)  # what comes after `rows` is unseen
            seen = torch.minimum(seen, rows[:, None])
            obs, action = self.near((self.obs[seen], self.action[seen]))
            reward = model.reward(obs, action).to(self.device)  # [E, n, context]
            parts.append(reward[:, torch.arange(len(rows), device=self.device), rows - start])
        return torch.cat(parts, 1)

    def relabel(self, model: RewardModel) -> None:
        """Replaces `learned` by the members' mean reward, each first normalised over all steps by `model.normalize`.

        none: as it is · std: divided by its standard deviation · zscore: centred too · minmax: to [0, 1].
        Preferences between segments of one length leave the reward's offset open, and it matters where episodes can
        terminate: centring can make dying early pay. `auto` is minmax where they do, else none.
        """
        normalize = model.normalize
        if normalize == "auto":
            normalize = "minmax" if self.done.any() else "none"
        members = self.map(model)
        self.learned = standardize(members, members[:, self.rows], normalize).mean(0)

    def relabel_true(self, normalize: str) -> None:
        """Replaces `learned` by the true reward, normalised in the same ways."""
        self.learned = standardize(self.reward[None], self.reward[None, self.rows], normalize)[0]


def home(device: torch.device, size: int) -> torch.device:
    """Where so many bytes of experience lie: on the device if half of its memory holds them, else on the host.

    Half of all, not of what is free, since a run that goes on later must find them where they were.
    """
    fits = device.type != "cuda" or 2 * size <= torch.cuda.mem_get_info(device)[1]
    return device if fits else torch.device("cpu")


def standardize(values: Tensor, reference: Tensor, how: str) -> Tensor:
    """values [E, R] scaled by the statistics of reference [E, M], member by member."""
    if how not in NORMALIZE:
        raise UserError(f"normalize={how}: it is one of {', '.join(NORMALIZE)}")
    if how == "none":
        return values
    if how == "minmax":
        low, high = reference.amin(1, keepdim=True), reference.amax(1, keepdim=True)
        return (values - low) / (high - low).clamp(min=1e-6)
    mean = reference.mean(1, keepdim=True) if how == "zscore" else 0.0
    return (values - mean) / reference.std(1, keepdim=True).clamp(min=1e-6)


def pad(x: np.ndarray, rows: int) -> np.ndarray:
    """x with `rows` rows of zeros appended."""
    return np.concatenate([x, np.zeros((rows, *x.shape[1:]), x.dtype)])
