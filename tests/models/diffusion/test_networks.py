"""The networks, what they are told, and the average of their parameters."""

import copy
import re
from typing import Any

import pytest
import torch

from pbrl.models.diffusion.average import Average
from pbrl.models.diffusion.conditions import Conditions
from pbrl.models.diffusion.denoiser import Denoiser
from pbrl.models.diffusion.process import Flow
from pbrl.models.diffusion.unet import Convolution, GroupNorm
from pbrl.models.optim import Adam
from pbrl.types import UserError
from tests.pages import ROOT

KIND = {"horizon": 8, "width": 16, "layers": 2, "heads": 2}


def moved(network="unet", sizes=(3, 2)):
    """A denoiser whose parameters are not at their start, where it says zero."""
    torch.manual_seed(0)
    denoiser = Denoiser(Flow(), 4, sizes, network=network, **KIND)
    with torch.no_grad():
        for p in denoiser.parameters():
            p.add_(0.1 * torch.randn_like(p))
    return denoiser


@pytest.mark.parametrize("network", ["unet", "dit"])
def test_a_network_starts_at_zero_and_takes_any_leading_axes(network):
    torch.manual_seed(0)
    start = Denoiser(Flow(), 4, (3,), network=network, **KIND)
    x, time = torch.randn(5, 2, 8, 4), torch.rand(5, 2)
    torch.testing.assert_close(start(x, time, (torch.randn(5, 2, 3),)), x)  # no velocity
    denoiser = moved(network)
    given = torch.randn(5, 2, 3), torch.randn(5, 2, 2)
    out = denoiser(x, time, given)
    assert out.shape == x.shape and (out - x).abs().max() > 0.01
    flat = denoiser(x.flatten(0, 1), time.flatten(), tuple(part.flatten(0, 1) for part in given))
    torch.testing.assert_close(out.flatten(0, 1), flat, rtol=1e-4, atol=1e-5)
    shared = denoiser(x, time, tuple(part[:1] for part in given))  # conditions broadcast over candidates
    torch.testing.assert_close(shared[0], out[0], rtol=1e-4, atol=1e-5)
    assert not torch.allclose(shared[1], out[1])


@pytest.mark.parametrize("network", ["unet", "dit"])
def test_a_masked_condition_is_none(network):
    denoiser = moved(network)
    x, time = torch.randn(6, 8, 4), torch.rand(6)
    a, b = torch.randn(6, 3), torch.randn(6, 2)
    unconditional = denoiser(x, time)
    torch.testing.assert_close(denoiser(x, time, (a, b), torch.zeros(6, 2)), unconditional)
    torch.testing.assert_close(denoiser(x, time, (a, b), torch.ones(6, 2)), denoiser(x, time, (a, b)))
    unknown = torch.full_like(b, torch.nan)
    first = torch.tensor([1.0, 0.0]).expand(6, 2)
    torch.testing.assert_close(denoiser(x, time, (a, unknown), first), denoiser(x, time, (a, b), first))
    assert not torch.allclose(denoiser(x, time, (a, b), first), unconditional)
    loss = denoiser.loss(x, (a, unknown), first).sum()
    grads = torch.autograd.grad(loss, list(denoiser.parameters()))
    assert all(grad.isfinite().all() for grad in grads) and grads[0].any()


def test_conditions_are_counted():
    with pytest.raises(ValueError, match="zip"):
        Conditions((3, 2), 8)(torch.zeros(2), (torch.zeros(2, 3),), None)


def test_convolution_and_norm_are_pytorchs():
    torch.manual_seed(0)
    ours, theirs = Convolution(16, 8), torch.nn.Conv1d(16, 8, 3, padding=1)
    weight = ours.linear.weight.view(3, 16, 8).permute(2, 1, 0)
    theirs.weight.data, theirs.bias.data = weight.detach(), ours.linear.bias.detach()  # type: ignore[union-attr]
    x = torch.randn(5, 6, 16)
    torch.testing.assert_close(ours(x), theirs(x.mT).mT, rtol=1e-4, atol=1e-5)
    theirs.stride = (2,)
    torch.testing.assert_close(ours(x, stride=2), theirs(x.mT).mT, rtol=1e-4, atol=1e-5)
    norm, other = GroupNorm(16), torch.nn.GroupNorm(8, 16)
    norm.gain.data = torch.randn(16)
    other.load_state_dict({"weight": norm.gain.detach(), "bias": norm.shift.detach()})
    torch.testing.assert_close(norm(x), other(x.mT).mT, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("changes,sentence", [
    ({"network": "rnn"}, "network=rnn: it is unet or dit"),
    ({"network": "unet", "horizon": 7}, "horizon=7 cannot be halved 1 times"),
    ({"network": "unet", "width": 12}, "multiple of 8"),
    ({"network": "dit", "heads": 3}, "multiple of heads=3"),
])  # fmt: skip
def test_what_cannot_be_is_a_sentence(changes, sentence):
    with pytest.raises(UserError, match=sentence):
        Denoiser(Flow(), 4, (3,), **{**KIND, **changes})


def test_a_denoiser_learns_what_a_condition_says():
    """Rows that are the condition: after some updates the clean x follows it, and is their mean without it."""
    denoiser = moved(sizes=(1,))
    optim = Adam(denoiser.parameters(), 3e-3)
    for _ in range(150):
        c = torch.randn(64, 1).sign()
        mask = (torch.rand(64, 1) < 0.8).float()
        optim.step(denoiser.loss(c[:, None].expand(64, 8, 4).contiguous(), (c,), mask).mean())
    noisy, late = torch.randn(2, 8, 4), torch.full((2,), 0.95)
    c = torch.tensor([[1.0], [-1.0]])
    told = denoiser(noisy, late, (c,), torch.ones(2, 1)).mean((1, 2))
    torch.testing.assert_close(told, c[:, 0], atol=0.3, rtol=0)
    assert denoiser(noisy, late).mean((1, 2)).abs().max() < 0.6


def test_the_average_is_its_closed_form():
    torch.manual_seed(0)
    network, decay = torch.nn.Linear(3, 2), 0.6
    average = Average(network, decay)
    expected = network.weight.detach().clone()
    for n in range(1, 12):
        with torch.no_grad():
            network.weight.add_(torch.randn(2, 3))
        average.update(network)
        d = min(decay, (1 + n) / (10 + n))
        expected = d * expected + (1 - d) * network.weight.detach()
        torch.testing.assert_close(average.module.weight, expected)
    assert not list(average.parameters())
    assert {"module.weight", "module.bias", "count"} == set(average.state_dict())
    again = Average(torch.nn.Linear(3, 2), decay)
    again.load_state_dict(average.state_dict())
    for one in (average, again, copy.deepcopy(again)):
        one.update(network)
        torch.testing.assert_close(one.module(torch.ones(3)), again.module(torch.ones(3)), atol=1, rtol=1)
    assert torch.equal(average.module.weight, again.module.weight)


def test_the_example_of_the_page_runs():
    (code,) = re.findall(r"```python\n(.*?)```", (ROOT / "docs/diffusion.md").read_text(), re.S)
    names: dict[str, Any] = {}
    torch.manual_seed(0)
    exec(code, names)
    assert names["loss"].shape == (2, 32, 7) and not names["loss"][:, 0].any()
    for drawn in (names["drawn"], names["again"]):
        assert drawn.isfinite().all()
        assert torch.equal(drawn[:, :, 0], names["plans"][:, 0].expand(16, 2, 7))
