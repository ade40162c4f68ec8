"""Behavior cloning, of all episodes or of the best ones only ("10 % BC").

Pomerleau 1989; the percentage variant as a baseline from Chen et al. 2021, arXiv:2106.01345.
"""

from torch import nn

from pbrl.models.optim import Adam
from pbrl.models.policy import LikelihoodPolicy
from pbrl.ranges import Positive, Size, Whole
from pbrl.training.batches import Data
from pbrl.types import Metrics, Phase, Spec, Transitions, UserError


class BC(nn.Module):
    """Imitates the `fraction` of episodes with the highest true return."""

    def __init__(
        self,
        spec: Spec,
        policy: LikelihoodPolicy,
        *,
        fraction: float,
        lr: Positive,
        cosine_steps: Whole,
        batch_size: Size,
    ):
        super().__init__()
        if not 0 < fraction <= 1:
            raise UserError(f"algo.fraction is a share of the episodes in (0, 1], not {fraction}")
        self.policy = policy
        self.optim = Adam(policy.parameters(), lr, cosine=cosine_steps)
        self.fraction, self.batch_size = fraction, batch_size

    def phases(self, steps: int) -> list[Phase]:
        return [Phase("policy", steps, self.draw, self.update)]

    def draw(self, data: Data) -> Transitions:
        """`batch_size` transitions with images, of the best `fraction` of the episodes."""
        return data.transitions(self.batch_size, fraction=self.fraction, images=True)

    def update(self, batch: Transitions) -> Metrics:
        """Maximizes the log-likelihood of the actions."""
        loss = -self.policy.log_prob(batch.obs, batch.action).mean()
        self.optim.step(loss)
        return {"bc": loss.detach()}
