"""Behavior cloning, of all episodes, of the best ones only ("10 % BC"), or of segments by how they were rated.

Pomerleau 1989; the percentage variant as a baseline from Chen et al. 2021, arXiv:2106.01345. With `weights` it clones
what raters rated high, as with a vision-language model's success probabilities of sub-trajectories (SFBC, from SFO,
2025, arXiv:2503.01062): `ratings` weighs each segment by its rating, `filter` leaves out those rated low.
"""

from torch import nn

from pbrl.distributed import all_reduce_mean
from pbrl.models.optim import Adam
from pbrl.models.policy import LikelihoodPolicy, check_single_steps
from pbrl.ranges import Positive, ShareBelow1, Size, Whole
from pbrl.training.batches import Data
from pbrl.types import Metrics, Phase, Segment, Spec, Transitions, UserError, Weighted


class BC(nn.Module):
    """Imitates the `fraction` of episodes with the highest true return; with `weights`, the rated segments instead.

    A rating counts by its rank among the rater's, from 0 for the lowest to 1 for the highest: see
    `Data.rated`. `weights=ratings` weighs the log-likelihood of a segment's steps by it; `weights=filter` imitates only
    segments whose rank is higher than `above`, all alike.
    """

    def __init__(
        self,
        spec: Spec,
        policy: LikelihoodPolicy,
        *,
        fraction: float,
        weights: str | None,
        above: ShareBelow1,
        lr: Positive,
        cosine_steps: Whole,
        batch_size: Size,
    ):
        super().__init__()
        if not 0 < fraction <= 1:
            raise UserError(f"algo.fraction is a share of the episodes in (0, 1], not {fraction}")
        if weights not in (None, "ratings", "filter"):
            raise UserError(f"algo.weights={weights}: it is null, ratings or filter")
        if weights and fraction < 1:
            raise UserError("algo.weights chooses by ratings, and algo.fraction by true returns: leave one of them out")
        if weights:
            check_single_steps(policy, "algo.weights")
        self.policy = policy
        self.optim = Adam(policy.parameters(), lr, cosine=cosine_steps)
        self.fraction, self.batch_size = fraction, batch_size
        self.weights, self.above = weights, above if weights == "filter" else None

    def phases(self, steps: int) -> list[Phase]:
        if self.weights:
            return [Phase("policy", steps, self.draw_rated, self.update_weighted)]
        if self.policy.horizon > 1:
            return [Phase("policy", steps, self.draw_chunks, self.update_chunks)]
        return [Phase("policy", steps, self.draw, self.update)]

    def draw(self, data: Data) -> Transitions:
        """`batch_size` transitions with images, of the best `fraction` of the episodes."""
        return data.transitions(self.batch_size, fraction=self.fraction, images=True)

    def update(self, batch: Transitions) -> Metrics:
        """Maximizes the log-likelihood of the actions."""
        loss = -self.policy.log_prob(batch.obs, batch.action).mean()
        self.optim.step(loss)
        self.policy.after_step()
        return {"bc": loss.detach()}

    def draw_chunks(self, data: Data) -> Segment:
        """`batch_size` chunks of the policy's horizon with images, of the best `fraction` of the episodes."""
        return data.chunks(self.batch_size, self.policy.horizon, fraction=self.fraction, images=True)

    def update_chunks(self, batch: Segment) -> Metrics:
        """Maximizes the log-likelihood of chunks of actions, or its bound, per step."""
        loss = -self.policy.score(batch).sum() / all_reduce_mean(batch.mask.sum())
        self.optim.step(loss)
        self.policy.after_step()
        return {"bc": loss.detach()}

    def draw_rated(self, data: Data) -> Weighted:
        """`batch_size` transitions with images and weights, of rated segments."""
        return data.rated(self.batch_size, above=self.above, images=True)

    def update_weighted(self, batch: Weighted) -> Metrics:
        """Maximizes the weighted log-likelihood of the actions: the mean of w log pi(a | s)."""
        loss = -(batch.weight * self.policy.log_prob(batch.steps.obs, batch.steps.action)).mean()
        self.optim.step(loss)
        self.policy.after_step()
        return {"bc": loss.detach()}
