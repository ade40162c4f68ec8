"""Receding horizon: of a planned chunk some actions are carried out before the next plan is made."""

from collections.abc import Callable

from torch import Tensor
from torch.nn.functional import pad

from pbrl.types import Observation, Segment


class ChunkQueue:
    """The actions of a plan that are still to be carried out, for policies that plan several at once."""

    def __init__(self, execute: int):
        self.execute = execute
        self.reset()

    def reset(self) -> None:
        """Starts an episode: nothing is planned."""
        self.chunk: Tensor | None = None
        self.done = 0

    def is_empty(self) -> bool:
        """Whether the next action begins a plan."""
        return self.chunk is None or self.done == min(self.execute, self.chunk.shape[1])

    def next(self, plan: Callable[[], Tensor]) -> Tensor:
        """The next action of every episode [B, A]; `plan` makes a chunk [B, K, A] where none is left.

        Episodes that act together plan together.
        """
        if self.is_empty():
            self.chunk, self.done = plan(), 0
        assert self.chunk is not None
        self.done += 1
        return self.chunk[:, self.done - 1]


def to_chunks(segment: Segment, horizon: int) -> Segment:
    """A segment [..., L, …] as chunks that follow each other: obs [..., D, O], action [..., D, K, A], mask [..., D, K].

    Each is told what is observed at its own first step; beyond the segment's end the last one is padded, where the mask
    is 0. Of observations that are those of first steps alone, there may be as few as chunks.
    """
    steps, lead = segment.mask.shape[-1], segment.mask.ndim - 1
    beyond = -steps % horizon
    mask = pad(segment.mask, (0, beyond)).unflatten(-1, (-1, horizon))
    action = pad(segment.action, (0, 0, 0, beyond)).unflatten(-2, (-1, horizon))
    starts = (slice(None),) * lead + (slice(None, None, horizon),)
    images, text = ({k: v[starts] for k, v in part.items()} for part in (segment.obs.images, segment.obs.text))
    return Segment(Observation(segment.obs.state[starts], images, text), action, mask)
