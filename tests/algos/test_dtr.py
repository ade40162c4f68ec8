"""The decision transformer as a policy, and DTR's losses, against loops that follow the paper."""

import pytest
import torch
from torch.utils._pytree import tree_map

from pbrl.models.policy import load_policy, save_policy
from pbrl.types import Observation, UserError, Windows
from tests import toy
from tests.parts import SPEC, build, draw_batches


def without_dropout(name, **changes):
    return build(name, dropout=0.0, **changes)


def test_no_row_sees_a_later_one_or_its_own_action():
    dt = without_dropout("algo/dt", context=6)
    policy, (batch,) = dt.policy, draw_batches(dt, 1)
    action, next_obs = policy.predict(batch)
    changed = tree_map(torch.clone, batch)
    for x in (changed.obs.state, changed.action, changed.returns_to_go, changed.step):
        x[:, 4:] += 1
    changed.action[:, 3] += 1
    again, next_again = policy.predict(changed)
    torch.testing.assert_close(again[:, :4], action[:, :4])
    torch.testing.assert_close(next_again[:, :3], next_obs[:, :3])
    assert not torch.allclose(next_again[:, 3], next_obs[:, 3]) and not torch.allclose(again[:, 4], action[:, 4])


def test_the_step_embedding_does_not_drown_the_return():
    """At first, a return that is a deviation higher moves its token more than any step does."""
    net = build("algo/dt", width=64, heads=4).policy.net
    with torch.no_grad():
        when, one = net.embed_step.weight, net.embed_return(torch.ones(1))
        tokens = net.norm(torch.stack([when, when + one]))  # a return of 0 and of 1, at every step: [2, T, W]
        moved = (tokens[1] - tokens[0]).norm(dim=-1).mean()
        apart = (tokens[1] - tokens[1].mean(0)).norm(dim=-1).mean()
    assert moved > 3 * apart


def test_it_acts_as_it_predicts():
    """Played step by step, longer than it remembers, it acts as it predicts from its window."""
    table = toy.table(4)
    policy = without_dropout("algo/dt", spec=table.spec(), targets=[0.8]).policy
    policy.measure_returns(table)
    best = table.labels["return_to_go"][table.opening].max()
    obs = table.obs[:9].repeat(2, 1, 1).transpose(0, 1)  # nine steps of two episodes that are the same
    policy.reset()
    acts = torch.stack([policy.act(Observation(o)) for o in obs])[:, 1]
    for t in range(9):
        past = torch.arange(max(0, t - 3), t + 1)
        target = best * 0.8 * (1 - past / 30)
        window = Windows(Observation(table.obs[past][None]), acts[past][None], target[None], target[None], past[None],
                         torch.tensor([len(past) - 1]), torch.ones(1, len(past)), torch.zeros(1))  # fmt: skip
        torch.testing.assert_close(policy.predict(window)[0][0, -1], acts[t])
    policy.reset()
    torch.testing.assert_close(policy.act(Observation(obs[0]))[1], acts[0])


def test_the_critic_chooses_among_target_returns():
    policy = without_dropout("algo/dtr", targets=[0.5, 1.0, 2.0]).policy
    policy.return_max.fill_(50.0)
    single = [without_dropout("algo/dt", targets=[target]).policy for target in policy.targets]
    for one in single:
        one.net.load_state_dict(policy.net.state_dict())
        one.return_max.fill_(50.0)
    obs = Observation(torch.randn(6, 5))
    choices = torch.stack([one.act(obs) for one in single])  # [3, 6, 2]
    best = policy.value(obs.state.expand(3, -1, -1), choices).amin(0).argmax(0)
    assert len(best.unique()) > 1
    torch.testing.assert_close(policy.act(obs), choices[best, torch.arange(6)])


def test_or_a_target_return_is_drawn_by_the_critic():
    """As in the released code: in proportion to exp(Q), and the same in every run."""
    policy = without_dropout("algo/dtr", targets=[0.5, 1.0, 2.0], choose="softmax").policy
    policy.return_max.fill_(50.0)
    single = [without_dropout("algo/dt", targets=[target]).policy for target in policy.targets]
    for one in single:
        one.net.load_state_dict(policy.net.state_dict())
        one.return_max.fill_(50.0)
    obs = torch.randn(1, 5).expand(4000, -1)
    choices = torch.stack([one.act(Observation(obs[:1]))[0] for one in single])  # [3, 2]
    with torch.no_grad():
        policy.q.layers[-1].weight.mul_(20)  # else all are worth about the same
        chance = policy.value(obs[:3], choices).amin(0).softmax(0)
    drawn = policy.act(Observation(obs))
    share = torch.stack([(drawn - choice).abs().amax(-1) < 1e-5 for choice in choices]).float().mean(1)
    torch.testing.assert_close(share, chance, rtol=0, atol=0.03)
    policy.reset()
    assert torch.equal(policy.act(Observation(obs)), drawn)
    with pytest.raises(UserError, match="argmax or softmax"):
        without_dropout("algo/dtr", choose="best")


def test_one_step_is_too_short_for_a_critic_and_no_trouble_without():
    with pytest.raises(UserError, match="one step ahead"):
        without_dropout("algo/dtr", context=1)
    table = toy.table(4)
    learner = without_dropout("algo/dt", spec=table.spec(), context=1, state_weight=1.0)
    found = learner.update(table.windows(table.rows[:16], 1))
    assert all(torch.isfinite(value) for value in found.values())


def test_returns_are_summed_to_the_windows_end_and_valued_there():
    dtr = without_dropout("algo/dtr", discount=0.9, batch_size=64)
    (batch,) = draw_batches(dtr, 1)
    found = dtr.returns(batch)
    with torch.no_grad():
        action = dtr.target.predict(batch)[0]
    assert batch.done.any() and not batch.done.all() and len(batch.last.unique()) == 3
    for b in range(64):
        last = int(batch.last[b])
        q = dtr.target.q(torch.cat([batch.obs.state[b, last], action[b, last]])).min().detach()
        for i in range(last):
            rewards = sum(0.9 ** (j - i) * batch.reward[b, j] for j in range(i, last))
            torch.testing.assert_close(found[b, i], rewards + 0.9 ** (last - i) * (1 - batch.done[b]) * q)


def test_dtr_is_its_formulas():
    dtr = without_dropout("algo/dtr", eta=2.0, eta_steps=10, imitation=0.5, state_weight=0.3)
    dtr.turn.fill_(5.0)
    (batch,) = draw_batches(dtr, 1)
    rows = [(b, i) for b in range(16) for i in range(4)]
    before = [(b, i) for b, i in rows if i < batch.last[b]]
    holds = [(b, i) for b, i in rows if batch.mask[b, i]]
    assert len(before) < len(holds) < len(rows)
    with torch.no_grad():
        goal = dtr.returns(batch)
        q = dtr.policy.value(batch.obs.state, batch.action)
        critic = sum((q[k, b, i] - goal[b, i]) ** 2 for b, i in before for k in (0, 1)) / len(before)
        action, next_obs = dtr.policy.predict(batch)
        clone = sum((action[b, i] - batch.action[b, i]).square().mean() for b, i in holds) / len(holds)
        state = [(next_obs[b, i] - batch.obs.state[b, i + 1]).square().mean() for b, i in before]
    metrics = dtr.update(batch)
    torch.testing.assert_close(metrics["critic_loss"], critic)
    torch.testing.assert_close(metrics["imitation"], clone + 0.3 * sum(state) / len(state))
    with torch.no_grad():  # the critics have moved before the policy does
        q = dtr.policy.value(batch.obs.state, action)
        mean_q = torch.stack([q[k][batch.mask > 0].mean() for k in (0, 1)])
    torch.testing.assert_close(metrics["q"], mean_q.mean())


@pytest.mark.parametrize("eta_steps,turn,eta", [(10, 0, 0.0), (10, 5, 1.5), (10, 40, 3.0), (0, 0, 3.0)])
def test_the_critic_pulls_more_and_more(eta_steps, turn, eta):
    """With imitation off, the policy's gradient is eta times one critic's mean over the other's mean size."""
    torch.manual_seed(0)
    dtr = without_dropout("algo/dtr", eta=3.0, eta_steps=eta_steps, imitation=0.0, lr=1e-12)
    dtr.turn.fill_(turn)
    losses = []
    dtr.actor_optim.step = lambda loss: losses.append(loss.detach())
    (batch,) = draw_batches(dtr, 1)
    with torch.no_grad():
        q = dtr.policy.value(batch.obs.state, dtr.policy.predict(batch)[0])[:, batch.mask > 0]
        mean_q, size = q.mean(1), q.abs().mean(1)
    dtr.update(batch)
    expected = [-eta * mean_q[0] / size[1], -eta * mean_q[1] / size[0]]
    assert any(torch.allclose(losses[0], e, atol=1e-6) for e in expected)


def test_targets_follow_slowly():
    dtr = without_dropout("algo/dtr", tau=0.1, policy_tau=0.2)
    old = [[p.clone() for p in net.parameters()] for net in (dtr.target.q, dtr.target.net)]
    dtr.update(draw_batches(dtr, 1)[0])
    for net, new, before, tau in zip(
        (dtr.policy.q, dtr.policy.net), (dtr.target.q, dtr.target.net), old, (0.1, 0.2), strict=True
    ):
        for p, t, b in zip(net.parameters(), new.parameters(), before, strict=True):
            torch.testing.assert_close(t, b + tau * (p - b))


def test_it_is_saved_with_all_it_needs(tmp_path):
    table = toy.table(4)
    policy = build("algo/dtr", spec=table.spec()).policy
    policy.measure_returns(table)
    save_policy(policy, tmp_path / "policy.pt")
    again = load_policy(tmp_path)
    obs = Observation(torch.randn(3, 2))
    for _ in range(6):
        torch.testing.assert_close(again.act(obs), policy.act(obs))


def test_impossible_settings():
    with pytest.raises(UserError, match="targets"):
        build("algo/dt", targets=[0.5, 1.0])
    with pytest.raises(UserError, match="multiple of heads"):
        build("algo/dt", width=15)
    assert SPEC.max_steps == 30
