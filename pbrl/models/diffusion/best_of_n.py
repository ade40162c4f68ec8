"""A diffusion policy that draws several chunks and carries out the one that a critic values most.

Value-guided sampling: the policy stays a clone, and what is best in it is chosen while it acts (IDQL, Hansen-Estruch et
al. 2023, arXiv:2304.10573; for language models, VAS and DeAL).
"""

from typing import Any

import torch
from torch import Tensor

from pbrl.models.diffusion.policy import DiffusionPolicy
from pbrl.models.layers import MLP, Normalize
from pbrl.ranges import Size
from pbrl.types import Observation, Spec, UserError


class BestOfN(DiffusionPolicy):
    """Draws `candidates` chunks; two critics of layers `hidden` value the actions of each that are carried out.

    Raises UserError where the policy has images, which the critics do not look at.
    """

    def __init__(self, spec: Spec, *, candidates: Size, hidden: list[Size], **diffusion: Any):
        super().__init__(spec, **diffusion)
        if spec.images:
            raise UserError("policy=best_of_n values states and not images: drop env.images, or policy=diffusion")
        self.settings |= {"candidates": candidates, "hidden": hidden}
        self.candidates = candidates
        self.normalize = Normalize(spec.obs_mean, spec.obs_std)
        self.q = MLP(spec.obs_dim + self.execute * spec.action_dim, 1, hidden, ensemble=2)

    @torch.no_grad()
    def plan(self, obs: Observation) -> Tensor:
        """obs [B, O] → the best chunk of `candidates` [B, K, A]."""
        chunks = self.draw_chunks(obs, self.candidates)  # [N, B, K, A]
        best = self.value(obs.state, chunks[..., : self.execute, :]).amin(0).argmax(0)  # [B]
        return chunks[best, torch.arange(len(best), device=best.device)]

    def value(self, state: Tensor, action: Tensor) -> Tensor:
        """state [B, O], actions to carry out [..., B, execute, A] → the expected return by each critic [2, ..., B]."""
        chunk = action.flatten(-2)
        seen = self.normalize(state).expand(*chunk.shape[:-1], -1)
        return self.q(torch.cat([seen, chunk], -1)).float().squeeze(-1)
