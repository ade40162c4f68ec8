"""Plans of states and actions whose attributes are as strong as is wished: what AlignDiff acts with.

Dong et al. 2023, arXiv:2310.02054. From the present state many plans are drawn, told the strengths by classifier-free
guidance; the one that the attribute model reads as nearest to them is begun. Nothing here is trained (pbrl/algos/).
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from pbrl.models.attributes import Strengths
from pbrl.models.chunks import ChunkQueue
from pbrl.models.diffusion.average import Average
from pbrl.models.diffusion.denoiser import Denoiser
from pbrl.models.diffusion.known import Known
from pbrl.models.diffusion.noise import EpisodeNoise
from pbrl.models.diffusion.process import EDM
from pbrl.models.diffusion.sampler import Sampler
from pbrl.models.layers import Normalize
from pbrl.types import Observation, Segment, Spec, UserError

Targets = Mapping[str, float | None]  # attribute: strength from 0 to 1, or None: any


class Planner(nn.Module):
    """Draws `candidates` plans of `horizon` steps in `sample_steps` steps, and carries out `execute` of the best one.

    `attributes` are names, `target` the strengths that are wished in the beginning; `strengths` are the attribute
    model's sizes. A strength is told as its place between two of `bins` learnt embeddings, whose own strengths are
    `knots` [M, bins]. `guidance` is the weight of what is told; `warm_start` is how many of the sampling steps a plan
    saves that begins with the last one. Raises UserError.
    """

    knots: Tensor

    reads_words = False

    def __init__(
        self,
        spec: Spec,
        *,
        attributes: Sequence[str],
        strengths: dict[str, Any],
        target: dict[str, float | None] | None,
        horizon: int,
        execute: int,
        candidates: int,
        guidance: float,
        sampler: str,
        sample_steps: int,
        warm_start: int,
        network: str,
        width: int,
        layers: int,
        heads: int,
        bins: int,
        average: float,
    ):
        super().__init__()
        self._check(spec, horizon, execute, sample_steps, warm_start, bins)
        self.settings: dict[str, Any] = {
            "attributes": list(attributes), "strengths": dict(strengths), "target": None, "horizon": horizon,
            "execute": execute, "candidates": candidates, "guidance": guidance, "sampler": sampler,
            "sample_steps": sample_steps, "warm_start": warm_start, "network": network, "width": width,
            "layers": layers, "heads": heads, "bins": bins, "average": average,
        }  # fmt: skip
        self.spec, self.attributes, self.horizon, self.bins = spec, tuple(attributes), horizon, bins
        self.candidates, self.guidance, self.warm_start = candidates, guidance, warm_start
        self.normalize = Normalize(spec.obs_mean, spec.obs_std)
        size, sizes = spec.obs_dim + spec.action_dim, (bins,) * len(attributes)
        shape = {"network": network, "horizon": horizon, "width": width, "layers": layers, "heads": heads}
        self.denoiser = Denoiser(EDM(), size, sizes, **shape)
        self.average = Average(self.denoiser, average)
        self.strengths = Strengths(spec, len(attributes), **strengths).requires_grad_(False)
        self.sampler = Sampler(self.denoiser.process, method=sampler, steps=sample_steps)
        self.register_buffer("knots", torch.linspace(0, 1, bins).repeat(len(attributes), 1))
        self.queue, self.noise = ChunkQueue(execute), EpisodeNoise()
        self.last: Tensor | None = None
        self.set_targets(target or {})

    @staticmethod
    def _check(spec: Spec, horizon: int, execute: int, sample_steps: int, warm_start: int, bins: int) -> None:
        if execute >= horizon:
            raise UserError(f"algo.execute={execute} of query.length={horizon} planned steps: fewer than all of them")
        if 1 < spec.max_steps < horizon:  # 1: nothing is known of the data yet
            raise UserError(
                f"plans of query.length={horizon} steps, but the longest episode has {spec.max_steps}: lower it"
            )
        if warm_start >= sample_steps:
            raise UserError(f"algo.warm_start={warm_start} of algo.sample_steps={sample_steps}: fewer than all of them")
        if bins < 2:
            raise UserError(f"algo.bins={bins}: a strength lies between two of them, so 2 or more")

    # Targets

    def set_targets(self, targets: Targets) -> None:
        """Plans for these strengths from now on; what is not named, or None, may be as it will. Raises UserError."""
        self.targets = self.check_targets(targets)
        self.settings["target"] = dict(self.targets)
        self.queue.reset()  # what is planned already was for others
        self.last = None

    def check_targets(self, targets: Targets) -> dict[str, float]:
        """The strengths that are named, within 0 and 1; what may be any is left out. Raises UserError."""
        unknown = [name for name in targets if name not in self.attributes]
        if unknown:
            raise UserError(f"{', '.join(unknown)}: this planner knows {', '.join(self.attributes)}")
        return {name: clip(name, value) for name, value in targets.items() if value is not None}

    def wish(self, device: torch.device) -> tuple[Tensor, Tensor]:
        """The targets [M], 0 where there is none, and where there are any [M] float."""
        values = [self.targets.get(name) for name in self.attributes]
        given = torch.tensor([float(value is not None) for value in values], device=device)
        return torch.tensor([value or 0.0 for value in values], device=device), given

    # Acting

    def reset(self) -> None:
        """Starts episodes."""
        self.queue.reset()
        self.noise.reset()
        self.last = None

    def looks(self) -> bool:
        """Always: it reads each observation."""
        return True

    @torch.no_grad()
    def act(self, obs: Observation, explore: bool | Tensor = False) -> Tensor:
        """obs [B, O] → action [B, A] in [-1, 1]. Plans are always drawn, by noise of the episode's own."""
        return self.queue.next(lambda: self.plan(obs))

    @torch.no_grad()
    def plan(self, obs: Observation) -> Tensor:
        """obs [B, O] → the actions that are to be carried out, [B, K, A]."""
        plans = self.imagine(obs)
        target, given = self.wish(plans.device)
        error = (self.strength(plans) - target).square() @ given  # [N, B]
        best = plans[error.argmin(0), torch.arange(plans.shape[1], device=plans.device)]
        self.last = best.roll(-self.queue.execute, 1)
        self.last[:, -self.queue.execute :] = best[:, -1:]
        return best[:, : self.queue.execute, self.spec.obs_dim :].clamp(-1, 1)

    @torch.no_grad()
    def imagine(self, obs: Observation) -> Tensor:
        """obs [B, O] → the candidates, [N, B, H, O + A], which begin in what is observed."""
        self.noise.begin(obs.state)
        count, size = len(obs.state), self.spec.obs_dim + self.spec.action_dim
        first = nn.functional.pad(self.scaled(obs.state), (0, self.spec.action_dim))[:, None]  # [B, 1, O + A]
        target, given = self.wish(first.device)
        is_warm = self.last is not None and len(self.last) == count
        return self.sampler(
            self.average.module,
            (self.candidates, count, self.horizon, size),
            self.told(target),
            given,
            self.guidance,
            known=self.known(first),
            draw=lambda shape: self.noise.draw(shape, first.device),
            last=self.last if is_warm else None,
            skip=self.warm_start if is_warm else 0,
        )

    def strength(self, plans: Tensor) -> Tensor:
        """Plans [..., H, O + A] → how strong the attribute model reads each attribute: [..., M]."""
        state = plans[..., : self.spec.obs_dim] / EDM.DATA_STD
        state = state * self.normalize.std + self.normalize.mean
        mask = torch.ones(state.shape[:-1], device=state.device)
        return self.strengths.strength(Segment(Observation(state), plans[..., self.spec.obs_dim :], mask))

    # What plans are made of

    def scaled(self, state: Tensor) -> Tensor:
        """Observed states as plans hold them, with the deviation that EDM expects of data: [..., O] → [..., O]."""
        return EDM.DATA_STD * self.normalize(state)

    def known(self, plan: Tensor) -> Known:
        """What is known of plans [..., H or 1, O + A]: the state of the first step."""
        step, number = torch.arange(self.horizon, device=plan.device), torch.arange(plan.shape[-1], device=plan.device)
        return Known(plan, (step[:, None] == 0) & (number < self.spec.obs_dim))

    def told(self, strength: Tensor) -> list[Tensor]:
        """Strengths [..., M] as conditions: how near each is to each of the bins, M times [..., bins]."""
        strength = strength[..., None].clamp(0, 1)  # [..., M, 1]
        below = (strength >= self.knots[:, 1:-1]).sum(-1)  # [..., M], place of the last knot that is not above
        attribute = torch.arange(len(self.knots), device=strength.device)
        low, high = self.knots[attribute, below], self.knots[attribute, below + 1]
        place = below + ((strength[..., 0] - low) / (high - low).clamp(min=1e-6)).clamp(0, 1)
        near = 1 - (place[..., None] - torch.arange(self.bins, device=strength.device)).abs()
        return list(near.clamp(min=0.0).unbind(-2))

    def place_knots(self, strength: Tensor) -> None:
        """Spreads the bins so that between any two lie as many of these strengths [N, M] of the data."""
        share = torch.linspace(0, 1, self.bins, device=strength.device)
        self.knots.copy_(strength.float().quantile(share, dim=0).T)
        self.knots[:, 0], self.knots[:, -1] = 0.0, 1.0


class PreferredPlanner(Planner):
    """A planner that asks for the strengths it has learnt to be preferred, where no target is named."""

    def __init__(self, spec: Spec, **settings: Any):
        super().__init__(spec, **settings)
        self.preferred = nn.Parameter(torch.zeros(len(self.attributes), self.bins))  # log-odds of each bin

    def strengths_preferred(self) -> Tensor:
        """The mean of the bins' strengths, by how much each is preferred: [M]."""
        return (self.preferred.softmax(-1) * self.knots).sum(-1)

    def wish(self, device: torch.device) -> tuple[Tensor, Tensor]:
        """The targets [M], and the preferred strengths where none is named; all of them are given [M]."""
        target, given = super().wish(device)
        return torch.where(given > 0, target, self.strengths_preferred()), torch.ones_like(given)


def clip(name: str, strength: float) -> float:
    """The strength within what the data have, from 0 to 1; says so where it was not. Raises UserError."""
    if isinstance(strength, bool) or not isinstance(strength, (int, float)) or strength != strength:
        raise UserError(f"{name}={strength}: a strength is a number from 0 to 1, or null where it may be any")
    within = min(max(float(strength), 0.0), 1.0)
    if within != strength:
        print(f"{name}={strength:g} is beyond what the data have, from 0 to 1: {within:g} is taken")
    return within
