"""Receding horizon: of a planned chunk some actions are carried out before the next plan is made."""

from collections.abc import Callable

from torch import Tensor


class ChunkQueue:
    """The actions of a plan that are still to be carried out, for policies that plan several at once."""

    def __init__(self, execute: int):
        self.execute = execute
        self.reset()

    def reset(self) -> None:
        """Starts an episode: nothing is planned."""
        self.chunk: Tensor | None = None
        self.done = 0

    def next(self, plan: Callable[[], Tensor]) -> Tensor:
        """The next action of every episode [B, A]; `plan` makes a chunk [B, K, A] where none is left.

        Episodes that act together plan together.
        """
        if self.chunk is None or self.done == min(self.execute, self.chunk.shape[1]):
            self.chunk, self.done = plan(), 0
        self.done += 1
        return self.chunk[:, self.done - 1]
