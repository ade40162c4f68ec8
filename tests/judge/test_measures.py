"""Measures: closed forms, cases worked by hand, and counts of pairs in place of ranks."""

import itertools
import math

import numpy as np
import pytest
from scipy import stats

from pbrl.judge import measures


def test_ranks_are_counted_by_hand():
    """Ranks of a: 1, 2.5, 2.5, 4; of b: 1, 2, 4, 3: products 3 of sums of squares 4.5 and 5."""
    a, b = [1, 5, 5, 9], [0.0, 0.1, 0.4, 0.3]
    assert measures.spearman(a, b) == pytest.approx(3 / math.sqrt(4.5 * 5))
    assert measures.spearman([1, 2, 3], [3, 2, 1]) == -1
    assert math.isnan(measures.spearman([1, 1, 1], [1, 2, 3]))


def test_tau_is_counted_by_hand():
    """Of six pairs one is tied in a; of the other five, four agree and one does not."""
    assert measures.kendall_tau([1, 5, 5, 9], [0.0, 0.1, 0.4, 0.3]) == pytest.approx(3 / math.sqrt(5 * 6))
    assert measures.kendall_tau([1, 2, 3], [1, 2, 3]) == 1
    assert measures.kendall_tau([3, 2, 1], [1, 2, 3]) == -1
    assert measures.kendall_tau([7, 7, 7], [1, 2, 3]) == 0, "a constant orders nothing"
    assert math.isnan(measures.kendall_tau([1, 2, 3], [7, 7, 7]))


def test_ranks_and_tau_with_many_ties_against_scipy_and_a_count_of_pairs():
    rng = np.random.default_rng(0)
    for _ in range(20):
        a, b = rng.integers(0, 6, 30), rng.integers(0, 4, 30)
        assert measures.spearman(a, b) == pytest.approx(stats.spearmanr(a, b)[0], abs=1e-12)
        signs = [(np.sign(a[i] - a[j]), np.sign(b[i] - b[j])) for i, j in itertools.combinations(range(30), 2)]
        untied = [sum(bool(sign[k]) for sign in signs) for k in (0, 1)]
        assert measures.kendall_tau(a, b) == pytest.approx(sum(x * y for x, y in signs) / math.sqrt(math.prod(untied)))


def test_the_area_under_the_curve_is_a_count_of_pairs():
    rng = np.random.default_rng(1)
    for _ in range(20):
        score, success = rng.integers(0, 8, 40), rng.random(40) < 0.3
        pairs = [np.sign(a - b) for a in score[success] for b in score[~success]]
        assert measures.roc_auc(score, success) == pytest.approx(0.5 + 0.5 * np.mean(pairs))
    assert measures.roc_auc([1, 2, 3, 4], [False, False, True, True]) == 1
    assert measures.roc_auc([4, 3, 2, 1], [False, False, True, True]) == 0
    assert measures.roc_auc([1, 1, 1], [True, False, False]) == 0.5
    assert math.isnan(measures.roc_auc([1, 2], [True, True]))


def test_a_value_that_grows_is_in_order_and_a_constant_one_is_not():
    assert measures.value_order_correlation([0.1, 0.2, 0.8]) == pytest.approx(1)
    assert measures.value_order_correlation([3, 2, 1]) == pytest.approx(-1)
    assert measures.value_order_correlation([5, 5, 5]) == 0
    assert measures.value_order_correlation([0, 0, 1]) == pytest.approx(math.sqrt(3) / 2), "ranks 1.5, 1.5, 3"


def test_right_wrong_tied_and_undecidable():
    right = measures.is_right([0.9, 0.9, 0.5, 0.2, 1.0], [2.0, -2.0, 1.0, -1.0, 0.0])
    assert np.array_equal(right, [1, 0, 0.5, 1, np.nan], equal_nan=True)


def test_sums_that_differ_by_rounding_are_equal():
    a = np.full(100, 0.1).sum()
    assert np.array_equal(measures.difference([[a, 10.0], [0.0, 0.0], [1.0, 1.001], [-5e3, 5e3]])[:2], [0, 0])
    assert measures.difference([[1.0, 1.001]])[0] == pytest.approx(0.001)


def test_calibration_is_counted_by_hand():
    """Bins of 0.2 (two pairs, one true) and 0.9 (two, both true): |0.2 - 0.5| and |0.9 - 1|, half each."""
    probability, outcome = [0.2, 0.2, 0.9, 0.9], [1, 0, 1, 1]
    assert measures.calibration_error(probability, outcome) == pytest.approx(0.2)
    assert measures.brier_score(probability, outcome) == pytest.approx((0.64 + 0.04 + 0.01 + 0.01) / 4)
    mean, share, count = measures.reliability(probability, outcome)
    assert np.allclose(mean, [0.2, 0.9]) and np.allclose(share, [0.5, 1.0]) and count.tolist() == [2, 2]
    assert measures.calibration_error([1.0, 0.0], [1, 0]) == 0 == measures.brier_score([1.0, 0.0], [1, 0])
    assert measures.brier_score([0.5, 0.5], [1, 0]) == 0.25


def test_probabilities_that_come_true_are_calibrated():
    """Outcomes that are drawn by the probabilities: no error but sampling's, and Brier's score is p (1 - p)'s mean."""
    rng = np.random.default_rng(2)
    probability = rng.random(200_000)
    outcome = rng.random(200_000) < probability
    assert measures.calibration_error(probability, outcome) < 0.005
    assert measures.brier_score(probability, outcome) == pytest.approx(1 / 6, abs=0.003)


def test_few_pairs_look_uncalibrated():
    """One bin of 100 outcomes at 0.5: the share's mean absolute deviation is 0.5 √(2 / (100 π))."""
    floor = measures.calibration_floor(np.full(100, 0.5), seed=0, draws=4000)
    assert floor == pytest.approx(0.5 * math.sqrt(2 / (100 * math.pi)), rel=0.03)
    assert measures.calibration_floor([0.0, 1.0], seed=0) == 0


def test_bias_towards_the_first_clip():
    better = np.array([True] * 50 + [False] * 50)
    assert measures.position_bias(better, better) == 0
    assert measures.position_bias(np.ones(100), better) == 0.5, "always the first"
    assert measures.position_bias(np.zeros(100), better) == -0.5
    assert measures.position_bias(np.where(better, 1.0, 0.4), better) == pytest.approx(0.2)


def test_errors_without_a_side_are_no_bias_wherever_the_truth_lies():
    better = np.array([True] * 90 + [False] * 10)
    assert measures.position_bias(np.where(better, 0.7, 0.3), better) == pytest.approx(0)
    assert math.isnan(measures.position_bias([1.0, 1.0], [True, True]))


def test_bias_by_both_orders():
    """Asked as it is, the first clip is shown first: P(second) falls by the bias; swapped, it rises by it."""
    assert np.allclose(measures.position_bias_of_orders([0.6 - 0.2, 0.5], [0.6 + 0.2, 0.5]), [0.2, 0.0])
