"""Contrastive Preference Learning: a policy straight from preferences, with no reward model and no RL.

Hejna et al. 2023, arXiv:2310.13639. Under the regret model a segment scores sum_t alpha * log pi(a_t | s_t), so
"b over a" is a contrastive loss on the policy itself. `bc_weight` > 0 is the paper's CPL-BC, `reference` its CPL-KL:
scores are then relative to the cloned policy, as in DPO. The loss on the scores is any of `objective=`. With a reward
model beside it (`algo=cpl reward=transformer`) pairs come from all data and that model answers: DPPO, An et al. 2023,
arXiv:2301.12842.
"""

import copy

from torch import Tensor, nn

from pbrl.models.gaussian import Likelihood
from pbrl.models.optim import Adam
from pbrl.objectives import Objective, agreement, compared
from pbrl.types import Metrics, PreferenceBatch, Spec, UserError


class CPL(nn.Module):
    batch = PreferenceBatch
    images = True

    def __init__(
        self,
        spec: Spec,
        policy: Likelihood,
        *,
        objective: Objective,
        alpha: float,
        bc_weight: float,
        reference: bool,
        lr: float,
        lr_after: float,
        warmup: int,
        cosine_steps: int,
        pretrain_steps: int,
        batch_size: int,
    ):
        super().__init__()
        if reference and not pretrain_steps:
            raise UserError("algo.reference=true is relative to a clone: algo.pretrain_steps=1 or more makes it")
        self.policy = policy
        self.reference = copy.deepcopy(policy).requires_grad_(False).eval() if reference else None
        self.optim = Adam(policy.parameters(), lr, warmup=warmup, cosine=cosine_steps)
        self.objective, self.segments = objective, compared(objective)
        self.alpha, self.bc_weight, self.lr_after = alpha, bc_weight, lr_after
        self.pretrain_steps, self.batch_size = pretrain_steps, batch_size

    def pretrain(self, batch: PreferenceBatch) -> Metrics:
        """Clones both segments, preferred or not."""
        loss = -self.policy.log_prob(batch.obs, batch.action).mean()
        self.optim.step(loss)
        return {"bc": loss.detach()}

    def begin(self) -> None:
        """After cloning: the clone becomes the reference, and the optimiser starts anew."""
        if self.reference is not None:
            self.reference.load_state_dict(self.policy.state_dict())
        self.optim.restart(self.lr_after)

    def update(self, batch: PreferenceBatch) -> Metrics:
        logp = self.policy.log_prob(batch.obs, batch.action)  # [B, K, L], where K is 2 for pairs
        scores = self.scores(logp, batch)  # [B, K]
        cpl = self.objective(scores, batch.label).mean()
        bc = -logp.mean()
        self.optim.step(cpl + self.bc_weight * bc)
        return {"cpl": cpl.detach(), "bc": bc.detach(), "train_accuracy": agreement(scores, batch.label)}

    def scores(self, logp: Tensor, batch: PreferenceBatch) -> Tensor:
        """alpha * sum_t log pi, less the reference's for CPL-KL: [B, K]."""
        if self.reference is not None:
            logp = logp - self.reference.log_prob(batch.obs, batch.action)
        return self.alpha * logp.sum(-1)
