"""Reward models, against their papers' formulas."""

import pytest
import torch

from pbrl.objectives import bradley_terry
from pbrl.types import PairsAndUnasked, PreferenceBatch, UserError
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


def test_linear_bradley_terry_is_a_ratio():
    """P(second) = what the second earns, 1 + tanh a step, out of what both earn (LiRE, eq. 4)."""
    model = build("reward/linear", members=1)
    batch = batches(PreferenceBatch, 1)[0]
    reward = model.reward(batch.obs, batch.action)[0].detach().double()
    assert (reward > 0).all() and (reward < 2).all()
    earned = reward.sum(-1)  # [B, 2]
    p = earned[:, 1] / earned.sum(1)
    expected = -(batch.label * p.log() + (1 - batch.label) * (1 - p).log()).mean()
    assert model.update(batch)["loss"].item() == pytest.approx(expected.item(), rel=1e-5)
    with pytest.raises(UserError, match="bounded"):
        build("reward/linear", bounded=False)


@pytest.mark.parametrize("name", ["reward/transformer", "reward/lstm"])
def test_a_reward_that_remembers_sees_nothing_that_comes_later(name):
    model = build(name, context=8)
    batch = batches(PreferenceBatch, 1)[0]
    before = model.reward(batch.obs, batch.action)
    assert before.shape == (1, 4, 2, 8)
    later = batch.obs.clone()
    later[..., 5:, :] += 1
    after = model.reward(later, batch.action)
    torch.testing.assert_close(after[..., :5], before[..., :5])
    assert not torch.allclose(after[..., 5], before[..., 5])
    torch.testing.assert_close(model.reward(batch.obs[..., :3, :], batch.action[..., :3, :]), before[..., :3])
    earlier = batch.obs.clone()
    earlier[..., 0, :] += 1
    assert not torch.allclose(model.reward(earlier, batch.action)[..., 7], before[..., 7])


def test_preference_attention_is_the_papers():
    """Weights are the mean over queries of softmaxes over the whole segment; the score is what they weigh."""
    model = build("reward/transformer", context=8, dropout=0.0)
    batch = batches(PreferenceBatch, 1)[0]
    obs, action = batch.obs[0, 0], batch.action[0, 0]
    net, made = model.net, []
    net.out.register_forward_hook(lambda module, given, found: made.append(given[0].detach()))
    with torch.no_grad():
        reward, weight = net(obs, action)
        x = made[0][0]  # [L, W]
        q, k = (x @ net.query_key.weight.T).chunk(2, -1)
        expected = torch.stack([torch.softmax(k @ q[i] / 16**0.5, 0) for i in range(8)]).mean(0)
    torch.testing.assert_close(weight, expected)
    assert weight.sum().item() == pytest.approx(1.0, rel=1e-5)
    torch.testing.assert_close(model.score(obs, action)[0], (weight * reward).sum())
    torch.testing.assert_close(model.reward(obs, action)[0], reward)


def test_dropout_rests_while_a_reward_is_read():
    model = build("reward/transformer", context=8, dropout=0.5)
    batch = batches(PreferenceBatch, 1)[0]
    torch.testing.assert_close(model.score(*batch[:2]), model.score(*batch[:2]))
    torch.testing.assert_close(model.reward(*batch[:2]), model.reward(*batch[:2]))
    assert model.training


def test_surf_answers_only_where_a_member_is_sure():
    """Its loss is that on the answers, and `weight` times the sum over the sure pairs divided by the number of all."""
    batch = batches(PairsAndUnasked, 1)[0]
    model = build("reward/surf", crop=0, confidence=0.6, weight=0.7)
    ensemble = {k: v for k, v in model.net.state_dict().items()}
    by_hand = build("reward/ensemble")
    by_hand.net.load_state_dict(ensemble)
    scores, more = by_hand.score(*batch.pairs[:2]), by_hand.score(*batch.unasked[:2])
    p = torch.sigmoid(more[..., 1] - more[..., 0]).detach()
    sure = (p - 0.5).abs() >= 0.1
    assert 0 < sure.float().mean() < 1
    guess = torch.where(sure, bradley_terry(more, (p > 0.5).float()), torch.zeros(()))
    by_hand.optim.step((bradley_terry(scores, batch.pairs.label).mean(1) + 0.7 * guess.mean(1)).sum())
    assert model.update(batch)["sure"].item() == pytest.approx(sure.float().mean().item())
    for key, value in by_hand.net.state_dict().items():
        torch.testing.assert_close(model.net.state_dict()[key], value)


def test_surf_compares_equally_long_parts():
    model = build("reward/surf", crop=3)
    torch.manual_seed(0)
    cut = model.cut(torch.zeros(4000, 2, 8, 1))
    long = cut.sum(-1)
    assert torch.equal(long[:, 0], long[:, 1]) and set(long.unique().tolist()) == {5.0, 6.0, 7.0, 8.0}
    begins, short = cut.argmax(-1), long[:, 0] == 5
    assert set(begins[short].unique().tolist()) == {0, 1, 2, 3} and (begins[short, 0] != begins[short, 1]).any()
    assert (cut.diff(dim=-1).abs().sum(-1) + cut[..., 0] + cut[..., -1] == 2).all()  # each in one piece
    assert build("reward/surf", crop=20).cut(torch.zeros(500, 2, 8, 1)).sum(-1).min() == 1
