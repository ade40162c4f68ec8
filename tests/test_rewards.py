"""Reward models, against their papers' formulas."""

import torch

from pbrl.types import PreferenceBatch
from tests.parts import batches, build


def test_reward_members_learn_apart():
    """One update of the ensemble is the update of each member alone."""
    together = build("reward/ensemble")
    batch = batches(PreferenceBatch, 1)[0]
    singles = []
    for e in range(3):
        one = build("reward/ensemble", members=1)
        one.net.load_state_dict({k: v[e : e + 1] for k, v in together.net.state_dict().items()})
        singles.append(one)
    for batch in batches(PreferenceBatch, 3):
        together.update(batch)
        for one in singles:
            one.update(batch)
    for e, one in enumerate(singles):
        for key, value in one.net.state_dict().items():
            torch.testing.assert_close(together.net.state_dict()[key][e : e + 1], value, rtol=1e-4, atol=1e-6)
