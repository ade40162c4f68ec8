"""What benchmarks make of their runs."""

import numpy as np
import pytest

from benchmarks.aggregate import interval, iqm, profile


def test_the_interquartile_mean_leaves_out_a_quarter_at_each_end():
    scores = np.array([[0.0, 10.0, 20.0, 30.0], [40.0, 50.0, 60.0, 1000.0]])
    assert iqm(scores) == pytest.approx((20 + 30 + 40 + 50) / 4)


def test_seeds_are_resampled_within_their_task():
    apart = np.array([[0.0, 0.0, 0.0], [100.0, 100.0, 100.0]])  # seeds agree: nothing to be unsure of
    assert interval(apart) == (iqm(apart), iqm(apart))
    low, high = interval(np.array([[0.0, 50.0, 100.0], [10.0, 40.0, 90.0]]))
    assert low < iqm(np.array([[0.0, 50.0, 100.0], [10.0, 40.0, 90.0]])) < high


def test_a_profile_falls_from_one_to_nothing():
    found = profile(np.array([[10.0, 20.0], [30.0, 40.0]]), np.array([0.0, 15.0, 30.0, 40.0]))
    assert found.tolist() == [1.0, 0.75, 0.25, 0.0]
