"""Measures learnt from triplets, on a planar arm whose end point a linear projection of its features gives exactly."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from pbrl.data.table import Table
from pbrl.diversity.projection import Learning, Projection, describe, fit, learn
from pbrl.feedback.labels import split
from pbrl.types import Episode, UserError
from tests.parts import labels, objective

LEARNING = Learning(frames=0, steps=300, batch_size=64, lr=1e-2, weight_decay=3.0)


def reach(angles: np.ndarray) -> tuple[Tensor, np.ndarray]:
    """Joint angles [N, J] rad of an arm of unit links → features [N, 2 J], cosine and sine of each link's direction,
    and the end point [N, 2] m, which is the sum of each."""
    direction = np.cumsum(angles, 1)
    features = np.concatenate([np.cos(direction), np.sin(direction)], 1)
    return torch.from_numpy(features).float(), np.stack([np.cos(direction).sum(1), np.sin(direction).sum(1)], 1)


def ask(place: np.ndarray, n: int) -> tuple[np.ndarray, Tensor]:
    """Triplets [n, 3] of places [N, 2], and 1 where the third is closer to the first, else 0."""
    random = np.random.default_rng(1)
    asked = np.stack([random.permutation(len(place))[:3] for _ in range(n)])
    second, third = (np.linalg.norm(place[asked[:, i]] - place[asked[:, 0]], axis=1) for i in (1, 2))
    return asked, torch.from_numpy(third < second).float()


def explained(measures: Tensor, place: np.ndarray) -> float:
    """R² of places by linear regression on measures."""
    known = np.c_[measures.detach().numpy(), np.ones(len(place))]
    error = place - known @ np.linalg.lstsq(known, place, rcond=None)[0]
    return 1 - error.var() / place.var()


@pytest.fixture(scope="module")
def arm() -> tuple[Tensor, np.ndarray]:
    return reach(np.random.default_rng(0).uniform(-np.pi, np.pi, (1000, 6)))


def begin(features: Tensor) -> Projection:
    return Projection(features, generator=torch.Generator().manual_seed(0))


def learnt(arm: tuple[Tensor, np.ndarray], label: Tensor, asked: np.ndarray, confidence: Tensor | None = None,
           loss: str = "bradley_terry", **changes) -> float:  # fmt: skip
    """R² of the end point by measures that have learnt from these answers."""
    features, place = arm
    projection, sure = begin(features), torch.ones_like(label) if confidence is None else confidence
    learning = replace(LEARNING, **{k: v for k, v in changes.items() if k != "margin"})
    loss_ = objective(loss, **{k: v for k, v in changes.items() if k == "margin"})
    fit(projection, features[asked], label, sure, loss_, learning, torch.Generator().manual_seed(0))
    return explained(projection(features), place)


def test_measures_are_the_end_point_up_to_a_linear_map(arm):
    """Of a random projection, and of answers by chance, they are not."""
    asked, label = ask(arm[1], 300)
    assert explained(begin(arm[0])(arm[0]), arm[1]) < 0.5
    assert learnt(arm, label, asked) > 0.95
    assert learnt(arm, torch.from_numpy(np.random.default_rng(2).integers(0, 2, 300)).float(), asked) < 0.5


def test_the_hinge_of_the_paper_finds_them_too(arm):
    asked, label = ask(arm[1], 300)
    assert learnt(arm, label, asked, loss="hinge", margin=0.05) > 0.95


def test_an_answer_counts_by_its_confidence(arm):
    """Half of the answers are wrong: with a confidence of 0 they are as if they were not there."""
    asked, label = ask(arm[1], 600)
    wrong = torch.arange(600) % 2 == 0
    given = torch.where(wrong, 1 - label, label)
    assert learnt(arm, given, asked, (~wrong).float()) > 0.95 and learnt(arm, given, asked) < 0.5


def test_scores_are_squared_distances_to_the_first():
    projection = Projection(torch.tensor([[0.0, 0.0], [2.0, 2.0]]))
    with torch.no_grad():
        projection.weight.copy_(torch.eye(2) * projection.std[:, None])
    found = projection.scores(torch.tensor([[[1.0, 1.0], [1.0, 3.0], [4.0, 5.0]]]))
    torch.testing.assert_close(found, torch.tensor([[-4.0, -25.0]]))


def test_turning_keeps_distances_and_puts_the_widest_axis_first(arm):
    features, _ = arm
    projection = begin(features)
    before = torch.pdist(projection(features))
    projection.turn(features)
    after = projection(features).detach()
    torch.testing.assert_close(torch.pdist(after), before, rtol=1e-4, atol=1e-4)
    spread = torch.cov(after.T)
    assert spread[0, 0] > spread[1, 1] and abs(spread[0, 1]) < 1e-4 * spread[0, 0]
    first = projection.weight.detach().clone()
    with torch.no_grad():
        projection.weight.copy_(projection.weight @ torch.tensor([[0.6, -0.8], [0.8, 0.6]]))
    projection.turn(features)
    torch.testing.assert_close(projection.weight.detach(), first, rtol=1e-3, atol=1e-4)


def test_features_are_moments_or_observations_at_equal_distances():
    obs = torch.tensor([[1.0, 0.0], [3.0, 0.0], [5.0, 6.0]])
    torch.testing.assert_close(describe(obs, 0), torch.tensor([3.0, 2.0, (8 / 3) ** 0.5, 8**0.5]))
    torch.testing.assert_close(describe(obs, 2), torch.tensor([1.0, 0.0, 5.0, 6.0]))
    assert describe(torch.zeros(4, 7, 3, 2), 5).shape == (4, 7, 10)


def arm_table(arm: tuple[Tensor, np.ndarray]) -> Table:
    """Arms that stand still for two steps."""
    still = np.repeat(arm[0].numpy()[:, None], 3, 1)
    return Table([Episode(i, obs, np.zeros((2, 1), np.float32), np.zeros(2, np.float32), False)
                  for i, obs in enumerate(still)])  # fmt: skip


def test_what_is_held_out_tests_and_does_not_teach(arm):
    table, (asked, label) = arm_table(arm), ask(arm[1], 400)
    given = labels("triplet", 3 * asked, label.numpy(), length=2)
    projection, found = learn(table, given, objective("bradley_terry"), LEARNING, held_out=0.25, seed=0)
    assert 250 < found["answers"] < 350 and found["train_accuracy"] > 0.9 and found["held_out_accuracy"] > 0.85
    still = describe(table.obs[table.segment_rows(table.segment_starts(2), 2)], 0)
    assert explained(projection(still), arm[1]) > 0.95
    is_test = np.isin(given.question, split(given, 0.25)[1].question)
    flipped = given._replace(value=np.where(is_test, 1 - given.value, given.value))
    again = learn(table, flipped, objective("bradley_terry"), LEARNING, held_out=0.25, seed=0)[1]
    assert again["train_accuracy"] == found["train_accuracy"]
    assert again["held_out_accuracy"] == pytest.approx(1 - found["held_out_accuracy"])


def test_without_triplets_nothing_is_learnt(arm):
    none = labels("triplet", np.empty((0, 3)), np.empty(0), length=2)
    with pytest.raises(UserError, match="no triplets to learn from"):
        learn(arm_table(arm), none, objective("bradley_terry"), LEARNING, held_out=0.0, seed=0)
