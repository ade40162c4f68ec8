"""Which pairs learners see, and how a reward model is judged."""

import numpy as np
import pytest
import torch

from pbrl.training.batches import Preferences
from pbrl.types import UserError
from tests import toy


class Sure:
    """A reward model by whose scores a pair's truly better segment leads by `lead`."""

    def __init__(self, lead: float):
        self.lead = lead

    def score(self, obs, action):
        right = (obs[..., 0, 0] == obs[..., 0, 0].amax(1, keepdim=True)).float()  # [B, 2]: starts farther right
        return (self.lead * right)[None]


def test_calibration_is_the_gap_between_confidence_and_being_right():
    table = toy.table(40)
    preferences = Preferences(table, kind="pair", length=4, held_out=0.5, seed=0)
    places = table.segment_starts(4)
    starts = places[torch.randint(len(places), (4000, 2), generator=torch.Generator().manual_seed(0))]
    better = (table.obs[starts[:, 1], 0] > table.obs[starts[:, 0], 0]).double().numpy()
    wrong = np.random.default_rng(0).random(4000) < 0.2
    preferences.add(starts.numpy(), np.where(wrong, 1 - better, better))
    judged = preferences.judge(Sure(np.log(0.95 / 0.05)))
    assert judged["held_out_accuracy"] == pytest.approx(0.8, abs=0.03)
    assert judged["calibration_error"] == pytest.approx(0.15, abs=0.03)  # says 95 %, is right in 80 %
    assert preferences.judge(Sure(np.log(4)))["calibration_error"] < 0.03


def test_a_learnt_reward_answers_for_segments_nobody_was_asked_about():
    table = toy.table(40)
    table.learned = -table.obs[:, 0]  # farther left is better
    preferences = Preferences(table, kind="pair", length=4, held_out=0.0, seed=0)
    batch = preferences.sample_judged(table.learned, 2000, torch.Generator().manual_seed(0))
    lead = -batch.obs[..., 0].sum(-1).diff(dim=1)[:, 0]
    clear = lead.abs() > 1e-5  # beyond rounding
    assert clear.float().mean() > 0.95 and torch.equal(batch.label[clear], (lead[clear] > 0).float())
    assert len(batch.obs[:, 0, 0].unique(dim=0)) > 500 and len(preferences) == 0


def test_rankings_compare_within_their_list():
    table = toy.table(40)
    preferences = Preferences(table, kind="ranking", length=4, held_out=0.0, seed=0)
    preferences.add(np.array([[0], [1], [2]]), np.array([0.0, 1.0, 1.0]))
    preferences.add(np.array([[40], [41]]), np.array([5.0, 4.0]))
    starts, label = preferences._drawn(preferences.train, 3000, torch.Generator().manual_seed(0))
    found = {(a, b, y) for (a, b), y in zip(starts.tolist(), label.tolist(), strict=True)}
    expected = {(0, 1, 1.0), (0, 2, 1.0), (1, 2, 0.5), (40, 41, 0.0)}
    assert found == expected | {(b, a, 1 - y) for a, b, y in expected}
    again = Preferences(table, kind="ranking", length=4, held_out=0.0, seed=0)
    again.load_state_dict(preferences.state_dict())
    again.add(np.array([[50], [51]]), np.array([0.0, 1.0]))
    assert again.train.group.tolist() == [0, 0, 0, 1, 1, 2, 2]


def test_lists_hold_distinct_segments_of_one_ranking():
    table = toy.table(40)
    preferences = Preferences(table, kind="ranking", length=4, held_out=0.0, seed=0)
    preferences.add(np.array([[0], [1], [2]]), np.array([5.0, 6.0, 7.0]))
    preferences.add(np.array([[40], [41], [42], [43]]), np.arange(4.0))
    starts, worth = preferences._drawn(preferences.train, 6000, torch.Generator().manual_seed(0), 3)
    assert {tuple(sorted(row)) for row in starts.tolist()} == {
        (0, 1, 2), (40, 41, 42), (40, 41, 43), (40, 42, 43), (41, 42, 43),
    }  # fmt: skip
    own = torch.where(starts < 40, starts + 5, starts - 40)
    assert torch.equal(worth, own.float())
    for order in set(map(tuple, starts.tolist())):  # 3 of 7 first draws fall on the short list's 6 orders, and so on
        share = (starts == torch.tensor(order)).all(1).float().mean().item()
        assert share == pytest.approx(3 / 7 / 6 if order[0] < 40 else 4 / 7 / 24, abs=0.012)
    with pytest.raises(UserError, match="objective.segments=4, but a list holds 3"):
        preferences.sample(8, torch.Generator(), 4)


@pytest.mark.parametrize("kind", ["rating", "ranking", "spans"])
def test_what_is_learnt_from_by_itself_is_good_above_the_mean_of_its_list(kind):
    preferences = Preferences(toy.table(40), kind=kind, length=4, held_out=0.0, seed=0)
    preferences.add(np.array([[0], [1], [2]]), np.array([1.0, 2.0, 3.0]))
    preferences.add(np.array([[40], [41], [42], [43]]), np.array([1.0, 1.0, 5.0, 5.0]))
    starts, good = preferences._drawn(preferences.train, 2000, torch.Generator().manual_seed(0), 1)
    found = dict(zip(starts.flatten().tolist(), good.flatten().tolist(), strict=True))
    middle = 0.5 if kind == "ranking" else 0.0  # the mean of its list is 2, of all it is 18 / 7
    assert found == {0: 0.0, 1: middle, 2: 1.0, 40: 0.0, 41: 0.0, 42: 1.0, 43: 1.0}
    assert starts.shape == good.shape == (2000, 2) and (starts[:, 0] != starts[:, 1]).all()


def test_a_pairs_winner_is_good_and_its_loser_bad_and_so_a_learnt_reward_says():
    table = toy.table(40)
    preferences = Preferences(table, kind="pair", length=4, held_out=0.0, seed=0)
    preferences.add(np.array([[0, 40], [1, 41]]), np.array([1.0, 0.5]))
    batch = preferences.sample(50, torch.Generator().manual_seed(0), 1)
    assert {tuple(row) for row in batch.label.tolist()} == {(0.0, 1.0), (0.5, 0.5)}
    table.learned = table.obs[:, 0]
    batch = preferences.sample_judged(table.learned, 2000, torch.Generator().manual_seed(0), 1)
    sums = batch.obs[..., 0].sum(-1)
    assert torch.equal(batch.label, (sums > 4 * table.learned.mean()).float())


def test_pairs_nobody_was_asked_about_have_no_answer():
    preferences = Preferences(toy.table(40), kind="pair", length=4, held_out=0.0, seed=0)
    batch = preferences.sample_unasked(50, torch.Generator().manual_seed(0))
    assert batch.obs.shape[:3] == (50, 2, 4) and (batch.label == 0.5).all()
