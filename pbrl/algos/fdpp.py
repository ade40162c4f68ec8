"""Policy optimization of a diffusion policy by its own episodes, on the true reward or on one learnt from preferences.

DPPO, Diffusion Policy Policy Optimization, Ren et al. 2024, arXiv:2409.00588 (not algo=dppo, which is Direct
Preference-based Policy Optimization): PPO, Schulman et al. 2017, arXiv:1707.06347, where each step of denoising is a
decision, as is each chunk that the steps end in. FDPP, Chen et al. 2025, arXiv:2501.08259: the same on a reward that
`reward=` learns from preferences, plus alpha times the KL divergence of all steps of denoising from those of the
cloned policy; with alpha = 0 it is DPPO.

All steps of denoising are tuned, as DPPO does where it samples by DDIM: to tune the last ones alone, a policy would
have to keep its former self for the others. Several epochs are updates on steps that are drawn with replacement. The
denoising steps' log-likelihoods are means over a chunk's numbers, and the ratio's clip grows from the noisiest step to
the last one: both are in the released code; `per_number=false` is the paper's likelihood. There, numbers that are not
carried out count in no step; here they do not in the last one alone, as later steps are told of them in all others.
"""

import copy
import math

import torch
from torch import Tensor, nn
from torch.nn.functional import mse_loss

from pbrl.data.chains import ChainRollouts, Chains, Judged, draw_steps
from pbrl.distributed import all_reduce_mean
from pbrl.models.diffusion.denoising import Denoising, kl_divergence, log_density
from pbrl.models.diffusion.policy import ActionDenoiser, DiffusionPolicy
from pbrl.models.layers import MLP, Normalize
from pbrl.models.optim import Adam
from pbrl.models.policy import LikelihoodPolicy, load_same
from pbrl.ranges import Count, NotNegative, Positive, Share, Size, Whole
from pbrl.training.batches import Data
from pbrl.types import DenoisingSteps, Metrics, Phase, Segment, Spec, UserError

BATCH = 4096  # steps of denoising whose likelihood is computed at once


class FDPP(nn.Module):
    """Clones the data, then plays `scenes` `samples` times each in each of `iterations`, and learns from that.

    `start_from` is the folder of a run whose policy is tuned, and then nothing is cloned first. Raises UserError where
    the policy is no diffusion policy of states.
    """

    value_mean: Tensor
    value_std: Tensor

    def __init__(
        self,
        spec: Spec,
        policy: LikelihoodPolicy,
        *,
        iterations: Count,
        scenes: Size,
        samples: Size,
        alpha: NotNegative,
        least_std: Positive,
        discount: Share,
        trace: Share,
        denoising_discount: Share,
        ratio_clip: Positive,
        ratio_clip_first: Positive,
        ratio_clip_rate: Positive,
        per_number: bool,
        hidden: list[Size],
        start_from: str | None,
        lr: Positive,
        lr_after: Positive,
        lr_value: Positive,
        clip: NotNegative,
        pretrain_steps: Whole,
        pretrain_batch_size: Size,
        batch_size: Size,
    ):
        super().__init__()
        if not isinstance(policy, DiffusionPolicy) or policy.reads_words:
            raise UserError("algo=fdpp tunes how a diffusion policy denoises, by states alone: policy=diffusion")
        self.policy = policy
        self.reference = copy.deepcopy(policy.model).requires_grad_(False)
        self.normalize, self.net = Normalize(spec.obs_mean, spec.obs_std), MLP(spec.obs_dim, 1, hidden)
        self.register_buffer("value_mean", torch.zeros(()))
        self.register_buffer("value_std", torch.ones(()))
        self.cloner = Adam(policy.parameters(), lr, cosine=pretrain_steps)
        self.tuner = Adam(policy.parameters(), lr_after, clip=clip)
        self.critic = Adam(self.net.parameters(), lr_value, clip=clip)
        self.denoising = Denoising(policy.sampler.steps, policy.sampler.clip, least_std)
        self.rollouts = ChainRollouts(iterations, scenes, samples, self.denoising, self.judge)
        self.alpha, self.discount, self.trace, self.denoising_discount = alpha, discount, trace, denoising_discount
        self.ratio_clip = ratio_clip_first, ratio_clip, ratio_clip_rate
        self.per_number = per_number
        self.pretrain_steps, self.start_from = 0 if start_from else pretrain_steps, start_from
        self.batch_size, self.pretrain_batch_size = batch_size, pretrain_batch_size

    def phases(self, steps: int) -> list[Phase]:
        clone = Phase("pretrain", self.pretrain_steps, self.draw_data, self.clone)
        tune = Phase("policy", steps, self.draw, self.update, before=self.start, rollouts=self.rollouts)
        return [clone, tune]

    def draw_data(self, data: Data) -> Segment:
        """Chunks of the data."""
        return data.chunks(self.pretrain_batch_size, self.policy.horizon)

    def clone(self, batch: Segment) -> Metrics:
        """Minimizes the denoising error of the data's actions, per step."""
        loss = -self.policy.score(batch).sum() / all_reduce_mean(batch.mask.sum())
        self.cloner.step(loss)
        self.policy.after_step()
        return {"bc": loss.detach()}

    def start(self, data: Data) -> None:
        """After cloning: what is tuned is the policy that acted so far, and that is the reference.

        The value function is told the mean and spread of what is left to come in the data, and learns the rest.
        """
        if self.start_from:
            self.policy.load_state_dict(load_same(self.start_from, self.policy).state_dict())
        self.policy.average.give(self.policy.model)
        self.reference.load_state_dict(self.policy.model.state_dict())
        to_come = data.table.labels["return_to_go"][data.table.rows]
        self.value_mean.copy_(to_come.mean())
        self.value_std.copy_(to_come.std().clamp(min=1e-6))

    # What the policy's own episodes are worth

    def value(self, state: Tensor) -> Tensor:
        """Observations [..., O] → the discounted reward that is expected from there on: [...]."""
        return self.value_mean + self.value_std * self.net(self.normalize(state)).squeeze(-1).float()

    @torch.no_grad()
    def judge(self, own: Chains) -> Judged:
        """Advantages, of mean 0 and deviation 1, and what the value function shall learn; and log-likelihoods."""
        value = self.value(own.state)
        advantage = estimate_advantages(own, value, self.discount, self.trace)
        of_made = advantage[own.made]
        scaled = (advantage - of_made.mean()) / of_made.std().clamp(min=1e-6)
        unknown = advantage.new_zeros(*advantage.shape, self.denoising.steps)
        judged = Judged(unknown, scaled, advantage + value[:, :-1])
        every = torch.arange(unknown.numel(), device=unknown.device).split(BATCH)
        steps = (draw_steps(own, judged, part // unknown.shape[-1], part % unknown.shape[-1]) for part in every)
        return judged._replace(log_prob=torch.cat([self.log_prob(part) for part in steps]).view(unknown.shape))

    # Learning from them

    def draw(self, data: Data) -> DenoisingSteps:
        """`batch_size` steps of denoising of the policy's own episodes."""
        return data.denoising_steps(self.batch_size)

    def log_prob(self, batch: DenoisingSteps) -> Tensor:
        """The log-likelihood of each step by the present policy: [B]."""
        return self._log_prob(*self._transition(self.policy.model, batch), batch)

    def _transition(self, model: ActionDenoiser, batch: DenoisingSteps) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation of each step; in float32, as ratios are of small differences."""
        with torch.autocast(batch.before.device.type, enabled=False):
            return self.denoising.transition(model.denoiser, batch.before, batch.step, (model.told(batch.obs),))

    def _log_prob(self, mean: Tensor, std: Tensor, batch: DenoisingSteps) -> Tensor:
        is_last = (batch.step == self.denoising.steps - 1)[:, None]
        counts = torch.where(is_last, batch.mask, 1.0)[..., None].expand_as(mean)  # [B, K, A]
        total = (counts * log_density(batch.after, mean, std)).sum((-2, -1))
        return total / counts.sum((-2, -1)) if self.per_number else total

    def clip_of(self, step: Tensor) -> Tensor:
        """By how much a ratio may change at steps [...]: exponentially more from the noisiest step to the last."""
        first, last, rate = self.ratio_clip
        part = step / max(self.denoising.steps - 1, 1)
        return first + (last - first) * torch.expm1(rate * part) / math.expm1(rate)

    def update(self, batch: DenoisingSteps) -> Metrics:
        """PPO's clipped objective less alpha times the divergence from the clone; and the value function's error."""
        mean, std = self._transition(self.policy.model, batch)
        with torch.no_grad():
            before, _ = self._transition(self.reference, batch)
        ratio = (self._log_prob(mean, std, batch) - batch.log_prob).exp()
        ahead = self.denoising.steps - 1 - batch.step
        advantage = batch.advantage * self.denoising_discount**ahead
        most = self.clip_of(batch.step)
        gain = torch.minimum(ratio * advantage, ratio.clamp(1 - most, 1 + most) * advantage).mean()
        kl = self.denoising.steps * kl_divergence(mean, before, std).sum((-2, -1)).mean()  # of all steps of a chunk
        self.tuner.step(self.alpha * kl - gain)
        self.policy.after_step()
        value_loss = mse_loss(self.value(batch.obs.state) / self.value_std, batch.target / self.value_std)
        self.critic.step(value_loss)
        clipped = ((ratio - 1).abs() > most).float().mean()
        metrics = {"gain": gain, "kl": kl, "ratio": ratio.mean(), "clipped": clipped, "value_loss": value_loss}
        return {name: value.detach() for name, value in metrics.items()}


def estimate_advantages(own: Chains, value: Tensor, discount: float, trace: float) -> Tensor:
    """Generalised advantage estimates of decisions [N, D], given the value of what was observed [N, D + 1].

    Schulman et al. 2016, arXiv:1506.02438, eq. 16. Nothing follows a true terminal; where time ran out, the value does.
    """
    is_last, goes_on = own.is_last, 1.0 - (own.is_last & own.terminated[:, None]).float()
    delta = own.reward + discount * goes_on * value[:, 1:] - value[:, :-1]
    found, following = [], torch.zeros_like(delta[:, 0])
    for d in reversed(range(delta.shape[1])):
        following = delta[:, d] + discount * trace * following * ~is_last[:, d]
        found.append(following)
    return torch.stack(found[::-1], 1)
