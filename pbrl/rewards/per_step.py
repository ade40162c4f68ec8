"""What reward models share that give each step a reward: how they are trained, and how they label a table."""

from collections.abc import Callable, Sequence
from typing import Literal

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from pbrl.data.table import Table
from pbrl.models.optim import Adam
from pbrl.objectives import Objective
from pbrl.training.batches import Data
from pbrl.types import Comparisons, Metrics, Observation, Phase, Segment, UserError

CHUNK_ROWS = 65536  # rows times context that go through the network at once
Actions = bool | Literal["auto"]  # whether a reward depends on actions


def sees_actions(actions: Actions, length: int) -> bool:
    """Whether a reward depends on actions that learns from segments of `length` steps.

    With `auto` it does where segments have several steps. Of answers about single steps, some wrong, a reward of
    actions too explains the mistakes by actions, and a policy follows what it says of actions first of all.
    """
    return length > 1 if actions == "auto" else actions


class PerStepReward(nn.Module):
    """A step's reward depends on the last `context` steps up to its own; a segment's score is their sum by default."""

    gives = "reward"

    def __init__(self, *, context: int, normalize: str):
        super().__init__()
        self.context, self.normalize = context, normalize

    def reward(self, obs: Observation, action: Tensor) -> Tensor:
        """obs [..., L, O], action [..., L, A] → reward of each step by each member [E, ..., L]."""
        raise NotImplementedError

    def score(self, segment: Segment) -> Tensor:
        """segment [..., L, …] → what comparisons compare, of each member: [E, ...]."""
        return (self.reward(segment.obs, segment.action) * segment.mask).sum(-1)

    @torch.no_grad()
    def score_at(self, table: Table, starts: Tensor, length: int) -> Tensor:
        """The same of the table's segments that begin at rows `starts` [N, ...]: [E, N, ...] where the table lies."""
        parts = starts.split(max(1, CHUNK_ROWS // max(1, length * starts[0].numel())))
        scores = [self.score(table.to_target(self.segments(table, part, length))) for part in parts]
        return torch.cat(scores, 1).to(table.device)

    def log_odds(self, table: Table, starts: Tensor, length: int) -> Tensor:
        """Of each question about segments at rows `starts` [C, 2], each member's log-odds that the second is preferred;
        of triplets [C, 3], that the third is more like the first than the second is: [E, C]. Raises UserError where it
        learns from no such questions."""
        if starts.shape[-1] != 2:
            raise UserError("only reward=rapl says what is more alike, by which query.strategy chooses triplets")
        return self.score_at(table, starts, length).diff(dim=-1)[..., 0]

    def segments(self, table: Table, starts: Tensor, length: int) -> Segment:
        """What the reward sees of the segments of `length` steps at rows `starts` [...]."""
        return table.segments(starts, length)

    @torch.no_grad()
    def label(self, table: Table) -> Tensor:
        """Each member's reward of every row, given the `context - 1` rows before it: [E, R]."""
        chunks = torch.arange(table.row_count, device=table.device).split(max(1, CHUNK_ROWS // self.context))
        return torch.cat([self._label_rows(table, rows) for rows in chunks], 1)

    def _label_rows(self, table: Table, rows: Tensor) -> Tensor:
        """The same of `rows` [n]: [E, n]."""
        start = torch.maximum(rows - self.context + 1, table.opening[table.episode[rows]])
        window = start[:, None] + torch.arange(self.context, device=table.device)
        window = torch.minimum(window, rows[:, None])  # what comes after `rows` is hidden
        obs, action = table.to_target((table.observe(window), table.action[window]))
        reward = self.reward(obs, action).to(table.device)  # [E, n, context]
        return reward[:, torch.arange(len(rows), device=table.device), rows - start]


class ComparedReward(PerStepReward):
    """One that an objective teaches: `steps` updates on `batch_size` comparisons follow each round of answers."""

    def __init__(self, objective: Objective, *, context: int, normalize: str, steps: int, batch_size: int):
        super().__init__(context=context, normalize=normalize)
        self.objective, self.steps, self.batch_size = objective, steps, batch_size

    def phases(self) -> list[Phase]:
        return [Phase("reward", self.steps, self.draw, self.update)]

    def draw(self, data: Data) -> Comparisons:
        """`batch_size` answers in the objective's form: pairs, lists or ratings."""
        return self.objective.draw(data, self.batch_size)

    def update(self, batch: Comparisons) -> Metrics:
        """A gradient step on the objective; returns the loss and the accuracy on the batch."""
        raise NotImplementedError


def descend(
    batch: Comparisons, size: int, optims: Sequence[Adam], look: Callable[[Comparisons], tuple[Tensor, Tensor]]
) -> tuple[Tensor, Tensor]:
    """A step of each optimizer down the loss of a batch, of which `size` answers are looked at together.

    `look` gives scores [..., B, K] and the mean loss of a part, of each member. Returns the same of the batch.
    """
    count, found, losses, grads = len(batch.label), [], [], []
    params = [p for optim in optims for p in optim.params]
    for begin in range(0, count, size):
        part: Comparisons = tree_map(lambda x, i=begin: x[i : i + size], batch)
        scores, loss = look(part)
        share = loss * (len(part.label) / count)
        grads.append(torch.autograd.grad(share.sum(), params))
        found.append(scores.detach())
        losses.append(share.detach())
    total = [torch.stack(own).sum(0) for own in zip(*grads, strict=True)]
    for optim in optims:
        optim.step_along(total[: len(optim.params)])
        total = total[len(optim.params) :]
    return torch.cat(found, -2), torch.stack(losses).sum(0)
