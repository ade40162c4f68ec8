"""Preference inversion: what a person prefers as a few numbers that a planner is told, the planner itself frozen.

Ng et al. 2025, arXiv:2503.18347. A planner of algo=aligndiff knows how to be fast, high or gentle; answers of another
person, who just says which clip is better, find how fast, high and gentle that person likes it. A segment scores by how
much less noise is left in it when the planner is told these strengths than when it is told nothing. The paper inverts
to an embedding; here it is a mixture of the bins' embeddings of each attribute, whose mean is a strength that can be
read and steered.
"""

import torch
from torch import Tensor, nn

from pbrl.models.optim import Adam
from pbrl.models.planner import Planner, PreferredPlanner
from pbrl.models.policy import load_policy
from pbrl.objectives import Objective, agreement
from pbrl.ranges import Positive, Size
from pbrl.training.batches import Data
from pbrl.types import Comparisons, Metrics, Phase, Segment, Spec, UserError


class PreferenceInversion(nn.Module):
    """`start_from` is the folder of a run of algo=aligndiff, or its policy. Raises UserError where it is another."""

    def __init__(
        self,
        spec: Spec,
        *,
        objective: Objective,
        start_from: str | None,
        alpha: Positive,
        lr: Positive,
        batch_size: Size,
    ):
        super().__init__()
        if not start_from:
            raise UserError("algo=preference_inversion asks a planner: algo.start_from=<folder of an aligndiff run>")
        planner = load_policy(start_from)
        if not isinstance(planner, Planner):
            raise UserError(f"algo.start_from={start_from} is a {type(planner).__name__}: a run of algo=aligndiff is")
        if objective.is_unpaired or objective.segments != 2:
            raise UserError(f"preferences are of pairs, and objective={objective.name} is not: bradley_terry is")
        self.policy = PreferredPlanner(planner.spec, **{**planner.settings, "target": None}).requires_grad_(False)
        self.policy.load_state_dict({**self.policy.state_dict(), **planner.state_dict()})
        self.policy.preferred.requires_grad_(True)
        self.optim = Adam([self.policy.preferred], lr)
        self.objective, self.alpha, self.batch_size = objective, alpha, batch_size

    def phases(self, steps: int) -> list[Phase]:
        return [Phase("policy", steps, self.draw, self.update, before=self.check)]

    def check(self, data: Data) -> None:
        """Raises UserError where the planner is of another environment, or clips are shorter than its plans."""
        ours, found = self.policy.spec, data.table.spec()
        if (ours.obs_dim, ours.action_dim) != (found.obs_dim, found.action_dim):
            raise UserError(
                f"the planner takes {ours.obs_dim} numbers per observation and {ours.action_dim} per action, and the "
                f"data have {found.obs_dim} and {found.action_dim}: choose the env and data that it was trained on"
            )
        if data.length < self.policy.horizon:
            raise UserError(
                f"clips of query.length={data.length} steps are shorter than plans: query.length={self.policy.horizon}"
            )

    def draw(self, data: Data) -> Comparisons:
        """`batch_size` comparisons."""
        return data.comparisons(self.batch_size)

    def update(self, batch: Comparisons) -> Metrics:
        """Minimizes the objective on scores, by the preferred strengths alone."""
        scores = self.alpha * self.score(batch.segments)
        loss = self.objective(scores, batch.label, batch.confidence)
        self.optim.step(loss)
        preferred = self.policy.strengths_preferred().detach()
        found = {f"prefers_{name}": preferred[i] for i, name in enumerate(self.policy.attributes)}
        return {"loss": loss.detach(), "train_accuracy": agreement(scores, batch.label), **found}

    def score(self, segment: Segment) -> Tensor:
        """segment [B, 2, L, …] → how much the strengths explain of its whole plans, noise shared by a pair: [B, 2]."""
        policy, steps = self.policy, self.policy.horizon
        whole = segment.mask.shape[-1] // steps * steps
        plan = torch.cat([policy.scaled(segment.obs.state), segment.action], -1)[..., :whole, :]
        plan = plan.unflatten(-2, (-1, steps))  # [B, 2, W, H, O + A]
        steps_there = segment.mask[..., :whole].unflatten(-1, (-1, steps))
        told = list(policy.preferred.softmax(-1))  # M mixtures of bins
        given = torch.ones(len(told), device=plan.device)
        denoiser, known = policy.average.module, policy.known(plan)
        time = denoiser.process.draw((len(plan), 1, plan.shape[2]), plan.device)
        eps = torch.randn(len(plan), 1, *plan.shape[2:], device=plan.device)
        shared = {"time": time, "eps": eps, "known": known}
        gain = denoiser.loss(plan, told, 0 * given, **shared) - denoiser.loss(plan, told, given, **shared)
        return (gain.sum(-1) * steps_there).sum((-2, -1))
