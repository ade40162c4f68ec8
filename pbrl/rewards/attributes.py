"""How strong each of several attributes of behaviour is, from answers to "which of two clips is faster, higher, …".

AlignDiff's attribute model, Dong et al. 2023, arXiv:2310.02054: an ensemble of transformers reads the states of a
segment, and a summary token at the end gives c tanh(x / c) for each attribute. Two segments are compared by one
attribute under the Bradley-Terry model, apart from the others; what an answer leaves open adds nothing to the loss.
"""

import torch
from torch import Tensor

from pbrl.data.table import Table
from pbrl.models.attributes import Strengths
from pbrl.models.optim import Adam
from pbrl.objectives import Objective
from pbrl.ranges import Count, NotNegative, Positive, Size
from pbrl.training.batches import Data
from pbrl.types import AttributeComparisons, Metrics, Phase, Segment, Spec, UserError

CHUNK_STEPS = 65536  # of segments that go through the network at once


class AttributeModel(Strengths):
    """`members` transformers trained on the same batches from different starts; `context` steps are a window.

    `low` and `high` [M] are the least and the greatest strength in the table that was labelled last.
    """

    gives, normalize = "attributes", "minmax"

    def __init__(
        self,
        spec: Spec,
        objective: Objective,
        *,
        attributes: list[str] | None,
        context: Size,
        members: Size,
        layers: Count,
        heads: Count,
        width: Size,
        bound: Positive,
        lr: Positive,
        weight_decay: NotNegative,
        steps: Count,
        batch_size: Size,
    ):
        if not attributes:
            raise UserError("reward=attributes learns attributes by name: query.attributes=[speed,height] or others")
        if objective.is_unpaired or objective.segments != 2:
            raise UserError("attributes are compared in pairs: choose an objective@reward_objective of pairs")
        shape = {"context": context, "members": members, "layers": layers, "heads": heads, "width": width}
        super().__init__(spec, len(attributes), **shape, bound=bound)
        self.objective, self.attributes = objective, tuple(attributes)
        self.steps, self.batch_size = steps, batch_size
        self.optim = Adam(self.net.parameters(), lr, weight_decay=weight_decay)

    def phases(self) -> list[Phase]:
        return [Phase("reward", self.steps, self.draw, self.update)]

    def draw(self, data: Data) -> AttributeComparisons:
        """`batch_size` comparisons."""
        return data.attribute_comparisons(self.batch_size)

    def update(self, batch: AttributeComparisons) -> Metrics:
        """Minimizes the sum over attributes of the members' mean losses."""
        scores = self.score(batch.segments)  # [E, B, 2, M]
        losses = self.objective.loss(scores.transpose(-1, -2), batch.label)  # [E, B, M]
        weight = batch.mask * batch.confidence[:, None]
        loss = (losses * weight).mean(1).sum(-1)  # [E]
        self.optim.step(loss.sum())
        gap = scores.detach().mean(0).diff(dim=1)[:, 0]  # [B, M]
        clear = (batch.label != 0.5).float()
        right = ((gap > 0) == (batch.label > 0.5)).float() * clear
        return {"loss": loss.detach().mean(), "train_accuracy": right.sum() / clear.sum().clamp(min=1)}

    @torch.no_grad()
    def score_at(self, table: Table, starts: Tensor, length: int) -> Tensor:
        """The scores of the table's segments that begin at rows `starts` [N, ...]: [E, N, ..., M].

        Beyond its end an episode has no steps to read.
        """
        parts = starts.split(max(1, CHUNK_STEPS // max(1, length * starts[0].numel())))
        return torch.cat([self._score_part(table, part, length) for part in parts], 1).to(table.device)

    def log_odds(self, table: Table, starts: Tensor, length: int) -> Tensor:
        """Raises UserError: each pair has as many answers as there are attributes."""
        raise UserError("questions about several attributes are drawn at random: query.strategy=uniform")

    def _score_part(self, table: Table, starts: Tensor, length: int) -> Tensor:
        windows = table.windows(starts.flatten(), length)
        found = self.score(Segment(windows.obs, windows.action, windows.mask))  # [E, n, M]
        return found.reshape(len(found), *starts.shape, -1)

    @torch.no_grad()
    def label(self, table: Table) -> Tensor:
        """The strength of the window of `context` steps that begins at each row, from 0 to 1 in this table: [R, M].

        Rows at which none begins have that of their episode's last window.
        """
        rows = torch.arange(table.row_count, device=table.device)
        latest = table.closing[table.episode] - self.context
        begins = torch.maximum(torch.minimum(rows, latest), table.opening[table.episode])
        begins, place = begins.unique(return_inverse=True)
        found = self.score_at(table, begins, self.context).mean(0)
        self.low.copy_(found.amin(0))
        self.high.copy_(found.amax(0))
        return self._scale(found.to(self.low.device)).to(table.device)[place]
