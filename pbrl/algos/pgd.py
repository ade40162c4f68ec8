"""Policy-guided diffusion: IQL on steps that a diffusion model of the data draws, guided towards what the policy does.

Jackson et al. 2024, arXiv:2404.06356. Data show what their behaviors did; a policy that improves does something else,
and critics that never see it are wrong there. A model of windows draws new ones, whose actions are moved along the
gradient of the policy's log-likelihood: enough to be more like it, and no further than the model finds plausible. With
`reward=ensemble` the rewards that it models are those that were learnt from answers.

A row of a window is a step: state, action, reward, how the state changes, and whether the episode ends, each scaled by
its own spread. The paper's rows have no change of state; where control is fast, changes are small beside states, and
what a window says of them is noise.

What is guided is the clean window that the model expects of a noisy one: plus v grad log pi, v being the variance that
is left in a number of the window's spread. So a Gaussian is tilted by exp(guidance log pi) as it should be.
"""

from functools import partial
from typing import Any

import torch
from torch import Tensor

from pbrl.algos.iql import IQL
from pbrl.data.synthetic import SyntheticRollouts
from pbrl.data.table import scale_of
from pbrl.models.diffusion.average import Average
from pbrl.models.diffusion.denoiser import Denoiser
from pbrl.models.diffusion.guidance import Denoise
from pbrl.models.diffusion.process import EDM, Process, spread
from pbrl.models.diffusion.sampler import Sampler
from pbrl.models.gaussian import GaussianPolicy
from pbrl.models.optim import Adam
from pbrl.models.policy import LikelihoodPolicy
from pbrl.ranges import Count, NotNegative, OpenShare, Positive, Size, Whole
from pbrl.training.batches import Data
from pbrl.types import Metrics, Observation, Phase, Spec, Transitions, UserError, Windows

BATCH = 512  # windows that are drawn at once


class PGD(IQL):
    """First the model learns, for `model_steps`; then, in each of `iterations`, it draws `windows` of `horizon` steps.

    Raises UserError where the policy's likelihood has no gradient, or windows are longer than episodes.
    """

    mean: Tensor  # of a row's numbers, [2 O + A + 2]
    std: Tensor

    def __init__(
        self,
        spec: Spec,
        policy: LikelihoodPolicy,
        *,
        iterations: Count,
        windows: Size,
        horizon: Size,
        guidance: NotNegative,
        sample_steps: Size,
        network: str,
        width: Size,
        layers: Size,
        heads: Size,
        average: OpenShare,
        model_lr: Positive,
        model_steps: Whole,
        model_batch_size: Size,
        **iql: Any,
    ):
        if not isinstance(policy, GaussianPolicy):
            raise UserError("algo=pgd follows the gradient of a policy's likelihood: policy=mlp")
        super().__init__(spec, policy, **iql)
        if 1 < spec.max_steps < horizon:
            raise UserError(f"algo.horizon={horizon}, but the longest episode has {spec.max_steps} steps: lower it")
        self.sizes = [spec.obs_dim, spec.action_dim, 1, spec.obs_dim, 1]
        self.horizon, self.windows, self.guidance = horizon, windows, guidance
        shape = {"network": network, "horizon": horizon, "width": width, "layers": layers, "heads": heads}
        self.denoiser = Denoiser(EDM(), sum(self.sizes), (), **shape)
        self.average = Average(self.denoiser, average)
        self.sampler = Sampler(self.denoiser.process, method="heun", steps=sample_steps)
        self.model_optim = Adam(self.denoiser.parameters(), model_lr, cosine=model_steps)
        self.register_buffer("mean", torch.zeros(sum(self.sizes)))
        self.register_buffer("std", torch.ones(sum(self.sizes)))
        self.model_steps, self.model_batch_size = model_steps, model_batch_size
        self.rollouts = SyntheticRollouts(iterations, self.make)

    def phases(self, steps: int) -> list[Phase]:
        model = Phase("model", self.model_steps, self.draw_windows, self.update_model, before=self.scale)
        return [model, Phase("policy", steps, self.draw, self.update, rollouts=self.rollouts)]

    # The model of the data

    def scale(self, data: Data) -> None:
        """Takes note of the mean and spread of rewards and changes of state; those of states are the policy's own."""
        table, rows = data.table, data.table.rows
        reward, change = table.labels["reward"][rows, None], table.obs[rows + 1] - table.obs[rows]
        size, actions = self.sizes[0], self.sizes[1]
        for own, of_state, of_rest in (
            (self.mean, self.normalize.mean, [reward.mean(0), change.mean(0)]),
            (self.std, self.normalize.std, [scale_of(reward), scale_of(change)]),
        ):
            own[:size] = of_state
            own[size + actions : -1] = torch.cat(of_rest).to(own.device)

    def draw_windows(self, data: Data) -> Windows:
        """`model_batch_size` windows of `horizon` steps, and the state after them."""
        return data.windows(self.model_batch_size, self.horizon + 1)

    def update_model(self, batch: Windows) -> Metrics:
        """Minimizes EDM's error of the steps within the episodes."""
        state, place = batch.obs.state, torch.arange(self.horizon, device=batch.mask.device)
        is_end = batch.done[:, None] * (place == batch.last[:, None] - 1)
        change = state[:, 1:] - state[:, :-1]
        parts = state[:, :-1], batch.action[:, :-1], batch.reward[:, :-1, None], change, 2.0 * is_end[..., None] - 1
        rows = EDM.DATA_STD * (torch.cat(parts, -1) - self.mean) / self.std
        is_step = batch.before_last()[:, :-1, None]
        loss = (self.denoiser.loss(rows) * is_step).sum() / (is_step.sum() * rows.shape[-1])
        self.model_optim.step(loss)
        self.average.update(self.denoiser)
        return {"denoising": loss.detach()}

    # What it draws

    def draw(self, data: Data) -> Transitions:
        """`batch_size` synthetic steps."""
        return data.synthetic_transitions(self.batch_size)

    @torch.no_grad()
    def make(self, policy: LikelihoodPolicy, generator: torch.Generator) -> dict[str, Tensor]:
        """The steps of `windows` windows, up to an episode's end in them: on the CPU."""
        draw = partial(draw_noise, generator=generator, device=self.mean.device)
        clean = guide(self.average.module, self.denoiser.process, partial(self.slope, policy))
        counts = [min(BATCH, self.windows - i) for i in range(0, self.windows, BATCH)]
        drawn = torch.cat([self.sampler(clean, (n, self.horizon, len(self.mean)), draw=draw) for n in counts])
        state, action, reward, change, end = self.split(drawn)
        is_end = end[..., 0] > 0
        kept = is_end.long().cumsum(1) - is_end.long() == 0  # nothing follows an end
        made = {
            "state": state,
            "action": action.clamp(-1, 1),
            "reward": reward[..., 0],
            "next_state": state + change,
            "done": is_end.float(),
        }
        return {name: value[kept].cpu() for name, value in made.items()}

    def split(self, windows: Tensor) -> tuple[Tensor, ...]:
        """Windows [..., H, 2 O + A + 2] → states, actions, rewards, changes of state, and ends, which are above 0."""
        return (windows / EDM.DATA_STD * self.std + self.mean).split(self.sizes, -1)

    def slope(self, policy: LikelihoodPolicy, clean: Tensor) -> Tensor:
        """`guidance` times the gradient of log pi, of the actions of clean windows alone: [..., H, 2 O + A + 2]."""
        with torch.enable_grad():
            clean = clean.detach().requires_grad_()
            state, action, *_ = self.split(clean)
            total = policy.log_prob(Observation(state.detach()), action).sum()
            (found,) = torch.autograd.grad(total, clean)
        return self.guidance * found


def guide(denoise: Denoise, process: Process, slope: Any) -> Denoise:
    """A denoiser whose clean array is moved along `slope`, as far as its noise leaves it open."""

    def guided(x: Tensor, time: Tensor, condition: Any, mask: Any) -> Tensor:
        clean = denoise(x, time, condition, mask)
        signal, noise = (EDM.DATA_STD * process.alpha(time)).square(), process.sigma(time).square()
        return clean + spread(EDM.DATA_STD**2 * noise / (signal + noise)) * slope(clean)

    return guided


def draw_noise(shape: Any, *, generator: torch.Generator, device: torch.device) -> Tensor:
    """Normal numbers, drawn on the CPU: the same everywhere."""
    return torch.randn(tuple(shape), generator=generator).to(device)
