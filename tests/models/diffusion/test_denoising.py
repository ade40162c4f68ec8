"""Denoising as a Markov decision process: its densities, and that it is ancestral sampling."""

import pytest
import torch
from torch.distributions import Normal, kl_divergence

from pbrl.models.diffusion import denoising
from pbrl.models.diffusion.denoiser import Denoiser
from pbrl.models.diffusion.denoising import Denoising
from pbrl.models.diffusion.process import make_process
from pbrl.models.diffusion.sampler import Sampler

STEPS = 4


@pytest.fixture(params=["ddpm", "edm", "flow"])
def denoiser(request):
    torch.manual_seed(0)
    process = make_process(request.param, betas="squared_cosine", train_steps=20)
    return Denoiser(process, 2, (3,), network="unet", horizon=4, width=8, layers=1, heads=1)


def told():
    return (torch.randn(5, 3, generator=torch.Generator().manual_seed(1)),)


def noise(seed: int = 2):
    random = torch.Generator().manual_seed(seed)
    return lambda shape: torch.randn(shape, generator=random)


def test_a_chain_is_ancestral_sampling(denoiser):
    """With no least deviation its end is, to the bit, what the sampler draws with the same noise."""
    chain = Denoising(STEPS, 1.0, 0.0).draw(denoiser, (5, 4, 2), told(), noise())
    assert chain.shape == (5, STEPS + 1, 4, 2)
    sampler = Sampler(denoiser.process, method="ancestral", steps=STEPS, clip=1.0)
    with torch.no_grad():
        torch.testing.assert_close(chain[:, -1], sampler(denoiser, (5, 4, 2), told(), draw=noise()), rtol=0, atol=1e-6)
    assert torch.equal(chain[:, 0], denoiser.process.start_std * noise()((5, 4, 2)))


def test_the_density_of_a_chain_is_a_product_of_gaussians(denoiser):
    own = Denoising(STEPS, 1.0, 0.1)
    chain, total, expected = own.draw(denoiser, (5, 4, 2), told(), noise()), 0.0, 0.0
    draw = noise()
    draw((5, 4, 2))
    for j in range(STEPS):
        mean, std = own.transition(denoiser, chain[:, j], torch.full((5,), j), told())
        assert (std >= 0.1).all() and std.shape == (5, 1, 1)
        torch.testing.assert_close(chain[:, j + 1], mean + std * draw((5, 4, 2)))
        total = total + denoising.log_density(chain[:, j + 1], mean, std).sum((-2, -1))
        expected = expected + Normal(mean, std.expand_as(mean)).log_prob(chain[:, j + 1]).sum((-2, -1))
    torch.testing.assert_close(total, expected)
    assert torch.equal(std, torch.full_like(std, 0.1)), "the last step alone would draw nothing"


def test_steps_of_several_places_at_once_are_those_of_each(denoiser):
    own, x = Denoising(STEPS, 1.0, 0.1), torch.randn(5, 4, 2)
    place = torch.tensor([3, 0, 2, 1, 0])
    means, stds = own.transition(denoiser, x, place, told())
    for i, j in enumerate(place):
        mean, std = own.transition(denoiser, x[i : i + 1], j[None], (told()[0][i : i + 1],))
        torch.testing.assert_close((mean[0], std[0]), (means[i], stds[i]))


def test_divergence_of_two_gaussians():
    one, other, std = torch.randn(5, 4, 2), torch.randn(5, 4, 2), torch.rand(5, 1, 1) + 0.1
    expected = kl_divergence(Normal(one, std.expand_as(one)), Normal(other, std.expand_as(one)))
    torch.testing.assert_close(denoising.kl_divergence(one, other, std), expected)
