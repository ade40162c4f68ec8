"""Behaviour cloning, of all episodes or of the best ones only ("10 % BC").

Pomerleau 1989; the percentage variant as a baseline from Chen et al. 2021, arXiv:2106.01345.
"""

from torch import Tensor, nn

from pbrl.data.table import Table
from pbrl.models.gaussian import Likelihood
from pbrl.models.optim import Adam
from pbrl.types import Metrics, Spec, Transitions


class BC(nn.Module):
    batch = Transitions
    images = True

    def __init__(
        self, spec: Spec, policy: Likelihood, *, fraction: float, lr: float, cosine_steps: int, batch_size: int
    ):
        super().__init__()
        self.policy = policy
        self.optim = Adam(policy.parameters(), lr, cosine=cosine_steps)
        self.fraction, self.batch_size = fraction, batch_size

    def rows(self, table: Table) -> Tensor:
        """The rows to imitate: of the episodes with the highest true return, `fraction` of all."""
        return table.best_rows(self.fraction)

    def update(self, batch: Transitions) -> Metrics:
        loss = -self.policy.log_prob(batch.obs, batch.action).mean()
        self.optim.step(loss)
        return {"bc": loss.detach()}
