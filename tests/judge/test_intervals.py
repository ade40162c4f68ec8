"""Bootstrap intervals: how often they hold the truth, and what is resampled together."""

import numpy as np
import pytest

from pbrl.judge.intervals import bootstrap, wilson


def test_intervals_hold_the_truth_as_often_as_they_say():
    rng = np.random.default_rng(0)
    hits, trials = 0, 250
    for seed in range(trials):
        right = (rng.random(80) < 0.8).astype(float)
        found, _ = bootstrap(lambda taken, x=right: x[taken].mean(), np.arange(80), resamples=300, seed=seed)
        hits += found[0] <= 0.8 <= found[1]
    assert 0.90 <= hits / trials <= 0.985, "95 %, give or take three standard errors and the percentiles' own bias"


def test_what_belongs_together_is_resampled_together():
    """Twenty questions answered ten times in the same way are twenty facts: √10 times as wide as two hundred."""
    rng = np.random.default_rng(1)
    right = np.repeat(rng.random(20) < 0.5, 10).astype(float)

    def width(units: np.ndarray) -> float:
        (low, high), _ = bootstrap(lambda taken: right[taken].mean(), units, resamples=2000, seed=0)
        return high - low

    assert width(np.repeat(np.arange(20), 10)) / width(np.arange(200)) == pytest.approx(10**0.5, rel=0.15)


def test_pairs_of_few_episodes_know_less_than_their_number_says():
    """Right or wrong by the first clip's episode alone, of which there are six: 95 % intervals that hold the truth."""
    rng, hits = np.random.default_rng(2), 0
    for seed in range(100):
        effect, episode = rng.normal(size=12), rng.integers(12, size=(300, 2))
        value = effect[episode].sum(1) + rng.normal(size=300)
        found, _ = bootstrap(lambda taken, x=value: x[taken].mean(), episode, resamples=200, seed=seed)
        hits += found[0] <= 0 <= found[1]
    assert hits >= 88


def test_the_seed_decides():
    x = np.random.default_rng(3).random(50)
    both = [bootstrap(lambda t: x[t].mean(), np.arange(50), resamples=100, seed=seed)[0] for seed in (5, 5, 6)]
    assert both[0] == both[1] != both[2]


def test_there_is_no_interval_of_one_unit_nor_of_what_is_mostly_undefined():
    assert bootstrap(lambda taken: 1.0, np.zeros(9, int), resamples=50, seed=0)[0] is None
    found, why = bootstrap(lambda taken: np.nan, np.arange(9), resamples=50, seed=0)
    assert found is None and why


def test_a_share_of_one_is_no_certainty():
    low, high = wilson(20, 20)
    assert high == 1 and low == pytest.approx(20 / (20 + 1.959964**2), abs=1e-4)
