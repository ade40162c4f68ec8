"""Cloning by ratings: weights by their ranks, what is drawn, and that a rated clone is the better one."""

import numpy as np
import pytest
import torch

from pbrl.training.batches import Data
from pbrl.training.weights import rank, scale
from pbrl.types import UserError
from tests import toy
from tests.parts import build, config, labels, made_up_data, train

LENGTH = 8
SETTINGS = {"lr": 1e-2, "cosine_steps": 0, "batch_size": 64}


@pytest.fixture(scope="module")
def world():
    """Episodes of the point: half of them walk home, half away."""
    return toy.table(80)


def rated_segments(table, sign=1.0, **more) -> Data:
    """Ratings of 400 segments by how much nearer to the origin they end than they begin, on a log-odds-like scale."""
    places = table.segment_starts(LENGTH)
    starts = places[torch.randint(len(places), (400,), generator=torch.Generator().manual_seed(0))]
    gain = table.obs[starts].norm(dim=-1) - table.obs[starts + LENGTH].norm(dim=-1)
    data = Data(table.view(), torch.Generator().manual_seed(0))
    data.set_labels(labels("rating", starts[:, None].numpy(), (sign * gain * 9).exp().numpy(), length=LENGTH, **more))
    return data


def test_ranks_are_among_a_raters_own_and_of_any_scale():
    value = torch.tensor([-9.0, 3.0, 3.0, 700.0, 1.0, 5.0, 2.0, 2.0])
    rater = torch.tensor([0, 0, 0, 0, 1, 1, 2, 2])
    expected = torch.tensor([0, 0.5, 0.5, 1, 0, 1, 0.5, 0.5])  # places 0, 1.5, 1.5, 3; 0, 1; and no difference
    torch.testing.assert_close(rank(value, rater), expected)
    torch.testing.assert_close(rank(torch.sigmoid(value / 100), rater), expected)
    assert rank(torch.zeros(0), torch.zeros(0, dtype=torch.long)).shape == (0,)


def test_weights_have_a_mean_of_one_and_there_must_be_some():
    torch.testing.assert_close(scale(torch.tensor([0.0, 1.0, 3.0])), torch.tensor([0.0, 0.75, 2.25]))
    for none in (torch.zeros(0), torch.zeros(3)):
        with pytest.raises(UserError, match="algo.above"):
            scale(none)


def test_steps_are_of_rated_segments_with_the_weight_of_their_segment(world):
    starts = world.segment_starts(LENGTH)[:: LENGTH * 3][:6]
    data = Data(world.view(), torch.Generator().manual_seed(0))
    confidence = np.array([1, 1, 1, 1, 0.5, 1])
    value = np.arange(6.0)
    data.set_labels(labels("rating", starts[:, None].numpy(), value, length=LENGTH, confidence=confidence))
    ranks = torch.tensor([0, 0.2, 0.4, 0.6, 0.8 * 0.5, 1])
    of_row = {int(s) + t: w for s, w in zip(starts, ranks / ranks.mean(), strict=True) for t in range(LENGTH)}
    steps, weight = data.rated(4000)
    rows = (steps.obs.state[:, None] == world.obs).all(-1).float().argmax(1)
    torch.testing.assert_close(weight, torch.tensor([of_row[int(row)] for row in rows]))
    assert set(rows.tolist()) == set(of_row) and weight.mean().item() == pytest.approx(1, abs=0.03)
    steps, weight = data.rated(4000, above=0.7)
    rows = (steps.obs.state[:, None] == world.obs).all(-1).float().argmax(1)
    assert set(rows.tolist()) == {int(s) + t for s in starts[4:] for t in range(LENGTH)}
    assert sorted(set(weight.tolist())) == pytest.approx([0.5 / 0.75, 1 / 0.75])


def test_weights_of_zero_and_one_are_cloning_of_the_subset():
    """Ratings of 0 and 1 rank 0 and 1: the loss is the one over the steps that were rated 1."""
    bc = build("algo/bc", weights="ratings", batch_size=4000)
    data = made_up_data("rating")
    good = data.train.value == 1
    rows = data.table.segment_rows(data.train.starts[good, 0], 8).flatten()
    with torch.no_grad():
        subset = data.table.transitions(rows)
        expected = -bc.policy.log_prob(subset.obs, subset.action).mean().item()
        batch = bc.draw_rated(data)
        log_prob = bc.policy.log_prob(batch.steps.obs, batch.steps.action)
    counted = batch.weight > 0
    assert batch.weight[counted].unique().tolist() == pytest.approx([len(good) / good.sum().item()])
    loss = bc.update_weighted(batch)["bc"].item()
    assert loss == pytest.approx(-(batch.weight * log_prob).mean().item(), rel=1e-5)
    assert loss == pytest.approx(expected, rel=0.05)
    same = build("algo/bc", weights="filter", batch_size=4000)
    batch = same.draw_rated(made_up_data("rating"))
    assert (batch.weight == 1).all()
    assert same.update_weighted(batch)["bc"].item() == pytest.approx(expected, rel=0.05)


def test_equal_weights_are_plain_cloning():
    plain, weighted = build("algo/bc"), build("algo/bc", weights="ratings")
    batch = weighted.draw_rated(made_up_data("rating"))
    steps = batch.steps
    expected = plain.update(steps)["bc"].item()
    found = weighted.update_weighted(batch._replace(weight=torch.ones_like(batch.weight)))["bc"].item()
    assert found == pytest.approx(expected, rel=1e-6)
    for a, b in zip(plain.parameters(), weighted.parameters(), strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("weights", ["ratings", "filter"])
def test_a_rated_clone_walks_home_and_one_of_reversed_ratings_does_not(world, weights):
    def learn(sign, **changes):
        bc = build("algo/bc", world.spec(), **SETTINGS, **changes)
        return toy.distance_after(train(bc, rated_segments(world, sign), 400).policy)

    right, plain, reversed_ = learn(1, weights=weights), learn(1), learn(-1, weights=weights)
    assert right < 0.7 * plain and reversed_ > 1.3 * plain, (right, plain, reversed_)


def test_comparisons_are_no_ratings():
    with pytest.raises(UserError, match="query.kind=rating"):
        made_up_data("pair").rated(10)


def test_settings_that_make_no_sense_are_refused():
    with pytest.raises(UserError, match="null, ratings or filter"):
        build("algo/bc", weights="rating")
    with pytest.raises(UserError, match="leave one"):
        build("algo/bc", weights="ratings", fraction=0.5)
    assert config("algo=bc")["algo"]["weights"] is None and config()["baseline"]["weights"] is None


def test_ratings_that_are_all_alike_filter_nothing_and_say_so(world):
    data = Data(world.view(), torch.Generator().manual_seed(0))
    starts = world.segment_starts(LENGTH)[:5, None].numpy()
    data.set_labels(labels("rating", starts, np.full(5, 3.0), length=LENGTH))
    assert (data.rated(10).weight == 1).all()
    with pytest.raises(UserError, match="all ratings are alike"):
        data.rated(10, above=0.5)
