"""Closed forms of the preference losses."""

import math

import numpy as np
import pytest
import torch

from pbrl.objectives import bradley_terry, conservative

A, B = torch.tensor([0.3, -1.2, 2.0]), torch.tensor([1.1, -1.0, -3.0])


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


@pytest.mark.parametrize("label", [0.0, 0.25, 0.5, 1.0])
def test_bradley_terry_is_the_cross_entropy(label):
    p = sigmoid((B - A).double().numpy())
    expected = -(label * np.log(p) + (1 - label) * np.log(1 - p))
    np.testing.assert_allclose(bradley_terry(A, B, torch.full((3,), label)), expected, rtol=1e-5)


def test_conservative_with_bias_one_is_bradley_terry():
    label = torch.tensor([0.0, 0.5, 1.0])
    torch.testing.assert_close(conservative(A, B, label, bias=1.0), bradley_terry(A, B, label))


def test_conservative_is_equation_seven():
    a, b, bias = A.double().numpy(), B.double().numpy(), 0.5  # the second is preferred
    expected = -np.log(np.exp(b) / (np.exp(b) + np.exp(bias * a)))
    np.testing.assert_allclose(conservative(A, B, torch.ones(3), bias=bias), expected, rtol=1e-5)


@pytest.mark.parametrize("bias", [0.5, 1.0])
def test_swapping_segments_and_label_changes_nothing(bias):
    label = torch.tensor([0.0, 0.3, 1.0])
    torch.testing.assert_close(conservative(A, B, label, bias=bias), conservative(B, A, 1 - label, bias=bias))


def test_a_tie_pulls_both_scores_together():
    a = A.clone().requires_grad_()
    bradley_terry(a, B, torch.full((3,), 0.5)).sum().backward()
    assert torch.equal(torch.sign(a.grad), torch.sign(A - B))
    assert bradley_terry(A, A, torch.full((3,), 0.5)).tolist() == pytest.approx([math.log(2)] * 3)


def test_a_low_bias_prefers_likely_segments():
    """Shifting both scores leaves Bradley-Terry as it is; with bias < 1 higher likelihood costs less."""
    label = torch.ones(3)
    torch.testing.assert_close(bradley_terry(A + 1, B + 1, label), bradley_terry(A, B, label))
    assert (conservative(A + 1, B + 1, label, bias=0.5) < conservative(A, B, label, bias=0.5)).all()
