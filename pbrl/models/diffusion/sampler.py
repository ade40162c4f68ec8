"""From noise to samples in few steps: DDPM's ancestral sampling, DDIM, DPM-Solver++ (2M), Euler and Heun.

Every step is written in x_t = alpha x + sigma eps and the clean x that a denoiser expects, so each sampler serves each
process. Euler's step along the probability-flow ODE in EDM's or in flow matching's coordinates, and the exponential
integrator of first order, are all the step of DDIM (Song et al. 2021, arXiv:2010.02502).
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from pbrl.models.diffusion.guidance import Condition, Denoise, Guidance, guided
from pbrl.models.diffusion.known import Known
from pbrl.models.diffusion.process import Process, spread
from pbrl.types import UserError

Predict = Callable[[Tensor, Tensor], Tensor]  # noisy x, time [] → clean x
Draw = Callable[[Sequence[int]], Tensor]  # shape → standard normal numbers


class Sampler:
    """Draws with `method` (ancestral, ddim, dpm_solver, euler or heun) in `steps` steps; `clip` bounds the clean x at
    each of them (None: not). Raises UserError."""

    def __init__(self, process: Process, *, method: str, steps: int, clip: float | None = None):
        if method not in METHODS:
            raise UserError(f"sampler={method}: it is one of {', '.join(METHODS)}")
        process.grid(steps)
        self.process, self.method, self.steps, self.clip = process, method, steps, clip

    def __call__(
        self,
        denoise: Denoise,
        shape: Sequence[int],
        condition: Condition | None = None,
        mask: Tensor | None = None,
        guidance: Guidance = 1.0,
        *,
        known: Known | None = None,
        draw: Draw | None = None,
        last: Tensor | None = None,
        skip: int = 0,
    ) -> Tensor:
        """Samples of a shape [..., H, D], without gradients unless the caller wants them.

        `condition` are N tensors [..., C_i] and `mask` [..., N] says which of them count; both broadcast over the
        leading axes of `shape`, of which candidates may be one. `known` entries are exact in the end. `draw` makes the
        noise; by default torch.randn. Warm start: `last` [..., H, D] is noised to where the first `skip` steps lead.
        """
        times = self.process.grid(self.steps)
        eps = torch.randn(tuple(shape), device=times.device) if draw is None else draw(shape)
        clean = guided(denoise, condition, mask, guidance)

        def predict(x: Tensor, time: Tensor) -> Tensor:
            out = clean(x, time.expand(x.shape[:-2]))
            out = out if self.clip is None else out.clamp(-self.clip, self.clip)
            return out if known is None else known.put(out)

        times = times[skip:]
        x = self.process.start_std * eps if last is None else self.process.noise(last, times[0], eps)
        if known is not None:
            x = torch.where(known.where, self.process.noise(known.value, times[0], eps), x)
            return known.put(METHODS[self.method](self.process, predict, known.shown(x), times, known.shown, draw))
        return METHODS[self.method](self.process, predict, x, times, lambda x: x, draw)


def step(process: Process, x: Tensor, clean: Tensor, time: Tensor, then: Tensor) -> Tensor:
    """From one time to the next along the line that x and the clean x are on: DDIM's eq. 12 without noise."""
    ratio = process.sigma(then) / process.sigma(time)
    return process.alpha(then) * clean + ratio * (x - process.alpha(time) * clean)


def ddim(process: Process, predict: Predict, x: Tensor, times: Tensor, show: Callable, draw: Draw | None) -> Tensor:
    """Deterministic steps: DDIM, and Euler's method."""
    for time, then in zip(times, times[1:], strict=False):
        x = show(step(process, x, predict(x, time), time, then))
    return x


def ancestral(
    process: Process, predict: Predict, x: Tensor, times: Tensor, show: Callable, draw: Draw | None
) -> Tensor:
    """Each step draws from q(x_s | x_t, clean x): DDPM's eq. 7 where the steps are single, DDIM with eta = 1 else."""
    for time, then in zip(times, times[1:], strict=False):
        mean, std = posterior(process, x, predict(x, time), time, then)
        eps = torch.randn_like(x) if draw is None else draw(x.shape)
        x = show(mean + std * eps)
    return x


def posterior(process: Process, x: Tensor, clean: Tensor, time: Tensor, then: Tensor) -> tuple[Tensor, Tensor]:
    """Mean [..., H, D] and standard deviation [..., 1, 1] of q(x_s | x_t, clean x), from time t to s: [...] each."""
    ratio = process.alpha(time) / process.alpha(then)
    was, becomes = process.sigma(time).square(), process.sigma(then).square()
    added = (was - ratio.square() * becomes).clamp(min=0.0)  # the noise of this step alone
    kept = spread(ratio * becomes / was) * (x - spread(process.alpha(time)) * clean)
    return spread(process.alpha(then)) * clean + kept, spread((added * becomes / was).sqrt())


def dpm_solver(
    process: Process, predict: Predict, x: Tensor, times: Tensor, show: Callable, draw: Draw | None
) -> Tensor:
    """DPM-Solver++ (2M), Lu et al. 2022, arXiv:2211.01095, alg. 2: the clean x is extrapolated from the last two.

    The first step and the last are of first order.
    """
    before: Tensor | None = None
    snr = process.alpha(times).log() - process.sigma(times).log()  # infinite at the end, and where flow begins
    for i in range(len(times) - 1):
        clean = now = predict(x, times[i])
        if before is not None and i < len(times) - 2:
            clean = now + 0.5 * (snr[i + 1] - snr[i]) / (snr[i] - snr[i - 1]) * (now - before)
        x, before = show(step(process, x, clean, times[i], times[i + 1])), now
    return x


def heun(process: Process, predict: Predict, x: Tensor, times: Tensor, show: Callable, draw: Draw | None) -> Tensor:
    """Heun's method, of second order: EDM's alg. 1. Twice the evaluations, but for the last step."""
    scale, level = process.scale(times), process.sigma(times) / process.scale(times)
    for i in range(len(times) - 1):
        slope = (x / scale[i] - predict(x, times[i])) / level[i]
        ahead = show(scale[i + 1] * (x / scale[i] + (level[i + 1] - level[i]) * slope))
        if i < len(times) - 2:
            other = (ahead / scale[i + 1] - predict(ahead, times[i + 1])) / level[i + 1]
            ahead = show(scale[i + 1] * (x / scale[i] + (level[i + 1] - level[i]) * 0.5 * (slope + other)))
        x = ahead
    return x


METHODS = {"ddim": ddim, "euler": ddim, "ancestral": ancestral, "dpm_solver": dpm_solver, "heun": heun}
