"""Policy-guided diffusion: how far a policy moves what is drawn, and that what is drawn obeys the world."""

from typing import Any

import pytest
import torch

from pbrl.algos.pgd import guide
from pbrl.data.synthetic import PARTS
from pbrl.models.diffusion.process import EDM
from pbrl.models.diffusion.sampler import Sampler
from pbrl.training.batches import Data
from pbrl.types import UserError
from tests.algos.test_aligndiff import strollers
from tests.parts import build, made_up_data

SIZES = {"horizon": 8, "width": 32, "layers": 1, "windows": 64, "model_batch_size": 64, "model_lr": 3e-3}


@pytest.mark.parametrize("slope", [0.0, 1.5, -3.0])
def test_a_gaussian_is_tilted_by_a_likelihood_that_is_linear(slope):
    """N(0, s^2) times exp(c x) is N(c s^2, s^2)."""
    process = EDM()

    def exact(x: torch.Tensor, time: torch.Tensor, condition: Any, mask: Any) -> torch.Tensor:
        noise = process.sigma(time).square()[..., None, None]
        return x * EDM.DATA_STD**2 / (EDM.DATA_STD**2 + noise)

    torch.manual_seed(0)
    drawn = Sampler(process, method="heun", steps=40)(guide(exact, process, lambda x: slope + 0 * x), (40_000, 1, 1))
    assert drawn.mean().item() == pytest.approx(slope * EDM.DATA_STD**2, abs=0.02)
    assert drawn.std().item() == pytest.approx(EDM.DATA_STD, rel=0.03)


@pytest.fixture(scope="module")
def learned():
    """A model of points that move straight on, paid by how far right they are, and a policy that always goes right."""
    table = strollers()
    table.set_label("reward", table.obs[:, 0])
    pgd = build("algo/pgd", table.spec(), **SIZES, model_steps=500)
    data = Data(table, torch.Generator().manual_seed(0))
    model, _ = pgd.phases(1)
    model.before(data)
    for _ in range(model.steps):
        model.update(model.draw(data))
    pgd.policy.log_prob = lambda obs, action: -(action - torch.tensor([1.0, 0.0])).square().sum(-1)
    return pgd


def make(pgd: Any, guidance: float) -> dict[str, torch.Tensor]:
    pgd.guidance = guidance
    return pgd.make(pgd.policy, torch.Generator().manual_seed(0))


def test_what_is_drawn_moves_and_pays_as_the_world_does(learned):
    own = make(learned, 0.0)
    assert set(own) == set(PARTS) and len(own["reward"]) == 64 * 8 and not own["done"].any()
    assert error(own) < 0.3 * (own["next_state"] - own["state"]).abs().mean()
    assert torch.corrcoef(torch.stack([own["reward"], own["state"][:, 0]]))[0, 1] > 0.9


def error(own: dict[str, torch.Tensor]) -> float:
    """How far a step ends from where its action leads."""
    return (own["next_state"] - own["state"] - 0.1 * own["action"]).abs().mean().item()


def test_what_is_drawn_is_more_like_the_policy_the_more_it_is_guided(learned):
    """And still obeys the world."""
    right = {guidance: make(learned, guidance)["action"][:, 0].mean().item() for guidance in (0.0, 0.3, 1.0)}
    assert abs(right[0.0]) < 0.2 and right[0.0] + 0.1 < right[0.3] < right[1.0] - 0.1
    own = make(learned, 1.0)
    assert error(own) < 0.4 * (own["next_state"] - own["state"]).abs().mean()


def test_the_same_numbers_are_drawn_in_any_state_of_chance(learned):
    torch.manual_seed(1)
    one = make(learned, 0.3)
    torch.manual_seed(2)
    assert all(torch.equal(value, make(learned, 0.3)[name]) for name, value in one.items())


def test_nothing_follows_an_end_and_the_model_learns_where_ends_are():
    pgd = build("algo/pgd", **SIZES)
    ends = torch.full((2, 8, 14), -0.5)
    ends[0, 3, -1] = 0.5  # the window's fourth step is its last
    pgd.windows, pgd.sampler = 2, lambda *args, **kwargs: ends
    own = pgd.make(pgd.policy, torch.Generator())
    assert own["done"].tolist() == [0, 0, 0, 1] + 8 * [0]
    data, pgd = made_up_data("pair"), build("algo/pgd", **SIZES)
    batch = pgd.draw_windows(data)
    shown: list[torch.Tensor] = []
    pgd.denoiser.loss = lambda x: shown.append(x) or (x * 0 + sum(p.sum() for p in pgd.denoiser.parameters()))
    pgd.update_model(batch)
    end = (shown[0][..., -1] > 0).nonzero().tolist()
    assert end == [[i, int(batch.last[i]) - 1] for i in range(64) if batch.done[i]] and end


def test_what_cannot_be_guided():
    with pytest.raises(UserError, match="policy=mlp"):
        build("algo/pgd", policy="diffusion")
    with pytest.raises(UserError, match="longest episode has 30"):
        build("algo/pgd", horizon=40)
