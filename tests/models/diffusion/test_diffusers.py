"""Each step of each sampler against the schedulers of Hugging Face's `diffusers`, with the same made-up network."""

import pytest
import torch

from pbrl.models.diffusion.process import DDPM, EDM, Flow, Process
from pbrl.models.diffusion.sampler import Sampler

schedulers = pytest.importorskip("diffusers")
SHAPE, STEPS = (3, 8, 2), 10
LINEAR = {"num_train_timesteps": 1000, "beta_schedule": "linear", "beta_start": 1e-4, "beta_end": 0.02}
COSINE = {"num_train_timesteps": 100, "beta_schedule": "squaredcos_cap_v2"}
KARRAS = {"sigma_min": 0.002, "sigma_max": 80.0, "sigma_data": 0.5, "rho": 7.0, "sigma_schedule": "karras"}


class MadeUp:
    """A network that depends on its input and on how often it was called; keeps what it was given."""

    def __init__(self):
        self.seen = []

    def __call__(self, x, time):
        self.seen.append(x)
        return 0.6 * torch.tanh(x.flip(-2)) - 0.3 * x.cos() + 0.05 * len(self.seen)


def ours(process: Process, method: str, clip=None):
    """Inputs of the network at each step, and the end."""
    network = MadeUp()
    torch.manual_seed(0)
    sampler = Sampler(process, method=method, steps=STEPS if method != "single" else 100, clip=clip)
    end = sampler(lambda x, time, *_: process.denoise(network, x, time), SHAPE)
    return [*network.seen, end]


def theirs(scheduler, begin=1.0, scale=False, **kwargs):
    """The same of a scheduler; `begin` is the deviation of its first noise."""
    network = MadeUp()
    torch.manual_seed(0)
    x = begin * torch.randn(SHAPE)
    for time in scheduler.timesteps:
        given = scheduler.scale_model_input(x, time) if scale else x
        x = scheduler.step(network(given, time), time, x, **kwargs).prev_sample
    return [*network.seen, x]


def assert_same(ours, theirs):
    assert len(ours) == len(theirs)
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=2e-4, atol=2e-4)


@pytest.mark.parametrize("clip", [True, False])
def test_ddim(clip):
    scheduler = schedulers.DDIMScheduler(**COSINE, clip_sample=clip, timestep_spacing="trailing")
    scheduler.set_timesteps(STEPS)
    process = DDPM(betas="squared_cosine", train_steps=100)
    found = theirs(scheduler, use_clipped_model_output=True)
    if clip:
        assert_same(ours(process, "ddim", clip=1.0), found)
    else:  # the first step divides by 5e-4
        for a, b in zip(ours(process, "ddim"), found, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-3, atol=0.05)


def test_ancestral_is_ddim_with_eta_1():
    scheduler = schedulers.DDIMScheduler(**COSINE, clip_sample=True, timestep_spacing="trailing")
    scheduler.set_timesteps(STEPS)
    found = theirs(scheduler, use_clipped_model_output=True, eta=1.0)
    assert_same(ours(DDPM(betas="squared_cosine", train_steps=100), "ancestral", clip=1.0), found)


@pytest.mark.parametrize("betas,schedule", [("squared_cosine", "squaredcos_cap_v2"), ("linear", "linear")])
def test_ancestral_is_ddpm_at_single_steps(betas, schedule):
    settings = {"num_train_timesteps": STEPS, "beta_schedule": schedule, "beta_start": 0.01, "beta_end": 0.999}
    if betas == "linear":
        settings |= {"num_train_timesteps": 1000, "beta_start": 1e-4, "beta_end": 0.02}
    scheduler = schedulers.DDPMScheduler(**settings, clip_sample=True)
    process = DDPM(betas=betas, train_steps=settings["num_train_timesteps"])
    torch.testing.assert_close(process.alphas[1:] ** 2, scheduler.alphas_cumprod, rtol=1e-3, atol=1e-6)
    if betas == "squared_cosine":
        scheduler.set_timesteps(STEPS)
        assert_same(ours(process, "ancestral", clip=1.0), theirs(scheduler))


def test_dpm_solver():
    scheduler = schedulers.DPMSolverMultistepScheduler(
        **LINEAR, algorithm_type="dpmsolver++", solver_order=2, timestep_spacing="trailing", final_sigmas_type="zero"
    )
    scheduler.set_timesteps(STEPS)
    assert_same(ours(DDPM(betas="linear", train_steps=1000), "dpm_solver"), theirs(scheduler))


def test_heun_of_ddpm():
    scheduler = schedulers.HeunDiscreteScheduler(**LINEAR, timestep_spacing="trailing")
    scheduler.set_timesteps(STEPS)
    process = DDPM(betas="linear", train_steps=1000)
    begin = 1 / process.alphas[-1].item()  # its coordinates are x / alpha
    assert_same(ours(process, "heun"), theirs(scheduler, begin=begin, scale=True))


def test_edm_euler():
    scheduler = schedulers.EDMEulerScheduler(**KARRAS)
    scheduler.set_timesteps(STEPS)
    torch.testing.assert_close(EDM().grid(STEPS), scheduler.sigmas.float(), rtol=1e-5, atol=1e-6)
    assert_same(ours(EDM(), "euler"), theirs(scheduler, begin=80.0, scale=True))


def test_edm_dpm_solver():
    scheduler = schedulers.EDMDPMSolverMultistepScheduler(**KARRAS, solver_order=2, final_sigmas_type="zero")
    scheduler.set_timesteps(STEPS)
    assert_same(ours(EDM(), "dpm_solver"), theirs(scheduler, begin=80.0, scale=True))


def test_flow_euler():
    scheduler = schedulers.FlowMatchEulerDiscreteScheduler()
    scheduler.set_timesteps(sigmas=[1 - i / STEPS for i in range(STEPS)])
    assert_same(ours(Flow(), "euler"), theirs(scheduler))


def test_flow_heun():
    scheduler = schedulers.FlowMatchHeunDiscreteScheduler()
    scheduler.set_timesteps(STEPS)
    sigmas = torch.cat([scheduler.sigmas[:1], scheduler.sigmas[1::2]]).float()

    class Theirs(Flow):
        """At their times."""

        def grid(self, steps):
            return sigmas

    assert len(sigmas) == STEPS + 1
    assert_same(ours(Theirs(), "heun"), theirs(scheduler))
