"""What each learner computes, against its paper's formulas."""

import copy
import math
from dataclasses import replace

import pytest
import torch
from torch.utils._pytree import tree_map

from pbrl.objectives import bradley_terry
from pbrl.run import build as parts
from pbrl.types import Observation, Segment, UserError
from tests.parts import SPEC, build, config, draw_batches, made_up_data


def test_cpl_is_its_formula():
    cpl = build("algo/cpl", alpha=0.3, bc_weight=0.7)
    (batch,) = draw_batches(cpl, 1)
    assert len(batch.label.unique()) == 3
    mean = cpl.policy.mean(batch.segments.obs)
    score = -0.3 * (mean - batch.segments.action).square().sum((-1, -2))  # [B, 2]
    a, b = score.detach().double().unbind(1)
    y = batch.label.double()
    expected = (
        -y * torch.log(b.exp() / (b.exp() + (0.5 * a).exp()))
        - (1 - y) * torch.log(a.exp() / (a.exp() + (0.5 * b).exp()))
    ).mean()
    metrics = cpl.update(batch)
    assert metrics["cpl"].item() == pytest.approx(expected.item(), rel=1e-5)
    error = (mean - batch.segments.action).square().sum() / batch.segments.mask.sum()
    assert metrics["bc"].item() == pytest.approx(error.item(), rel=1e-5)


def test_later_steps_of_a_segment_are_discounted():
    cpl = build("algo/cpl", discount=0.9, bc_weight=0.0, objective=bradley_terry)
    (batch,) = draw_batches(cpl, 1)
    steps = cpl.policy.log_prob(batch.segments.obs, batch.segments.action)  # [B, 2, L]
    score = cpl.alpha * (steps * 0.9 ** torch.arange(steps.shape[-1])).sum(-1)
    gap = (score[:, 1] - score[:, 0]).detach()
    expected = -(batch.label * gap.sigmoid().log() + (1 - batch.label) * (-gap).sigmoid().log()).mean()
    assert cpl.update(batch)["cpl"].item() == pytest.approx(expected.item(), rel=1e-5)


def test_cpl_kl_starts_at_indifference():
    """Relative to itself the cloned policy scores every segment zero: the loss is log 2 for any label."""
    cpl = build("algo/cpl", reference=True, objective=bradley_terry)
    clone, policy = cpl.phases(1)
    for batch in draw_batches(cpl, 3, phase=0):
        clone.update(batch)
    policy.before(made_up_data("pair"))
    assert policy.update(draw_batches(cpl, 1)[0])["cpl"].item() == pytest.approx(0.6931, abs=1e-4)
    assert all(not p.requires_grad for p in cpl.reference.parameters())


def test_uapa_is_the_posterior_of_answers_and_a_beta_prior():
    uapa = build("algo/uapa", objective=bradley_terry, prior=2.5, alpha=0.3)
    (batch,) = draw_batches(uapa, 1)
    with torch.no_grad():
        uapa.reference.log_std = None
        for p in uapa.reference.parameters():
            p.mul_(0.5)  # another policy than the one that learns
        pairs, win_rate = batch.pairs, batch.win_rate.double()
        policies = uapa.policy, uapa.reference
        a, b = [-(p.mean(pairs.segments.obs) - pairs.segments.action).square().sum((-1, -2)) for p in policies]
        scores = 0.3 * (a - b).double()
        lead = scores[:, 1] - scores[:, 0]
        answers = torch.distributions.Bernoulli(logits=lead, validate_args=False).log_prob(pairs.label.double())
        beta, wins = torch.distributions.Beta(1 + 2.5 * win_rate, 1 + 2.5 * (1 - win_rate)), scores.sigmoid()
        prior = (beta.log_prob(wins) - beta.log_prob(torch.full_like(wins, 0.5)) - 2.5 * math.log(2)).sum(1)
    metrics = uapa.update(batch)
    assert metrics["cpl"].item() == pytest.approx(-answers.mean().item(), rel=1e-5)
    assert 2.5 * metrics["prior"].item() == pytest.approx(-prior.mean().item(), rel=1e-5)


def test_cfgrl_tells_what_raters_preferred():
    """Ties are not told, nor is what is dropped; the loss is the bound's, per step."""
    cfgrl = build("algo/cfgrl", policy="diffusion quality", drop=0.0)
    (batch,) = draw_batches(cfgrl, 1)
    told = cfgrl.tell(batch).obs.text["quality"]
    expected = {0.0: 0, 0.5: -1, 1.0: 1}
    assert told[..., 0].flatten().tolist() == [expected[label] for label in batch.label.flatten().tolist()]
    assert (told == told[..., :1]).all() and told.shape == batch.segments.mask.shape
    cfgrl.drop = 0.25
    drawn = torch.stack([cfgrl.tell(batch).obs.text["quality"][..., 0] for _ in range(200)])
    assert (drawn[:, batch.label != 0.5] == -1).float().mean().item() == pytest.approx(0.25, abs=0.03)
    assert (drawn[:, batch.label == 0.5] == -1).all()
    with pytest.raises(UserError, match="policy.quality=true"):
        build("algo/cfgrl", policy="diffusion")
    with pytest.raises(UserError, match="answers or reward"):
        build("algo/cfgrl", policy="diffusion quality", by="return")


@pytest.mark.parametrize("own", ["policy", "reference"])
def test_sopo_compares_what_was_preferred_with_what_is_drawn_there(own):
    sopo = build("algo/sopo", policy="diffusion", own=own)
    (batch,) = draw_batches(sopo, 1)
    with torch.no_grad():
        for average in (sopo.policy.average, sopo.reference.average):
            for p in average.module.buffers():
                p.add_(0.1 * torch.randn_like(p))
    torch.manual_seed(3)
    pairs = sopo.compare_with_own(batch)
    torch.manual_seed(3)
    drawn = torch.randn(16, 2, 4, 2)  # 8 steps are two chunks of four
    for i, label in enumerate(batch.label.tolist()):
        won = tree_map(lambda x, i=i, k=int(label > 0.5): x[i, k], batch.segments)
        assert torch.equal(pairs.segments.obs.state[i, 0], won.obs.state)
        assert torch.equal(pairs.segments.obs.state[i, 1], won.obs.state)
        assert torch.equal(pairs.segments.action[i, 1], won.action)
        model = sopo.policy if own == "policy" else sopo.reference
        chunks = model.sample(Observation(won.obs.state[::4]), draw=lambda shape, i=i: drawn[i])
        torch.testing.assert_close(pairs.segments.action[i, 0], chunks.flatten(0, 1))
        assert pairs.confidence[i] == (label != 0.5) and pairs.label[i] == 1
    for changes, says in (({"policy": "mlp"}, "policy=diffusion"), ({"own": "data"}, "policy or reference")):
        with pytest.raises(UserError, match=says):
            build("algo/sopo", **{"policy": "diffusion", **changes})


def test_iql_is_its_formulas():
    iql = build("algo/iql", expectile=0.8, beta=2.0, batch_size=64)
    (batch,) = draw_batches(iql, 1)
    with torch.no_grad():
        pair = torch.cat([batch.obs.state, batch.action], -1)
        q, v = iql.q_target(pair).amin(0)[:, 0], iql.v(batch.obs.state)[:, 0]
        error = q - v
        v_loss = (torch.where(error > 0, 0.8, 0.2) * error**2).mean()
        target = batch.reward + 0.99 * (1 - batch.done) * iql.v(batch.next_obs.state)[:, 0]
        q_loss = ((iql.q(pair)[..., 0] - target) ** 2).mean()
        weight = torch.exp(2.0 * error).clamp(max=100)
        actor = (weight * (iql.policy.mean(batch.obs) - batch.action).square().sum(-1)).mean()
        before = [p.clone() for p in iql.q_target.parameters()]
    assert batch.done.any()
    metrics = iql.update(batch)
    for key, expected in (("v_loss", v_loss), ("q_loss", q_loss), ("actor_loss", actor)):
        torch.testing.assert_close(metrics[key], expected)
    for old, target, online in zip(before, iql.q_target.parameters(), iql.q.parameters(), strict=True):
        torch.testing.assert_close(target, old + 0.005 * (online - old))


def test_critics_of_chunks_are_iqls_over_the_steps_carried_out():
    """Each window by itself: rewards until its last row, and the value there, unless the episode truly ended."""
    idql = build("algo/idql", policy="best_of_n", expectile=0.8, discount=0.9, batch_size=64)
    (batch,) = draw_batches(idql, 1)
    windows, state = batch.windows, batch.windows.obs.state
    assert windows.done.any() and (windows.last < 2).any()
    v_loss = q_loss = 0.0
    with torch.no_grad():
        for i in range(64):
            last, chunk, target = int(windows.last[i]), torch.zeros(2, 2), 0.0
            for k in range(last):
                chunk[k] = windows.action[i, k]
                target += 0.9**k * windows.reward[i, k]
            if not windows.done[i]:
                target += 0.9**last * idql.v(state[i, last])[0]
            pair = torch.cat([state[i, 0], chunk.flatten()])
            error = idql.q_target(pair).amin() - idql.v(state[i, 0])[0]
            v_loss += (0.8 if error > 0 else 0.2) * error**2 / 64
            q_loss += (idql.policy.q(pair)[:, 0] - target).square().mean() / 64
    metrics = idql.update(batch)
    torch.testing.assert_close(metrics["v_loss"], v_loss)
    torch.testing.assert_close(metrics["q_loss"], q_loss)
    with pytest.raises(UserError, match="policy=best_of_n"):
        build("algo/idql", policy="diffusion")


def test_td3bc_is_its_formulas():
    td3bc = build("algo/td3bc", target_noise=0.0, alpha=2.0, batch_size=64)
    (batch,) = draw_batches(td3bc, 1)
    assert batch.done.any()
    with torch.no_grad():
        next_pair = torch.cat([batch.next_obs.state, td3bc.policy.mean(batch.next_obs)], -1)
        target = batch.reward + 0.99 * (1 - batch.done) * td3bc.q_target(next_pair).amin(0)[:, 0]
        q_loss = ((td3bc.q(torch.cat([batch.obs.state, batch.action], -1))[..., 0] - target) ** 2).mean()
        action = td3bc.policy.mean(batch.obs)
        size = td3bc.q(torch.cat([batch.obs.state, batch.action], -1))[0].abs().mean()
    metrics = td3bc.update(batch)
    torch.testing.assert_close(metrics["q_loss"], q_loss)
    with torch.no_grad():
        q = td3bc.q(torch.cat([batch.obs.state, action], -1))[0, :, 0]  # the critic has moved before the policy does
        expected = ((action - batch.action) ** 2).mean() - 2.0 * q.mean() / size
    torch.testing.assert_close(metrics["actor_loss"], expected)


def test_td3bc_wants_a_deterministic_policy():
    policy = build("policy/mlp", std=0.2)
    with pytest.raises(UserError, match="policy.std=0"):
        parts.build(config("algo=td3bc")["algo"], SPEC, policy)


def test_td3bc_moves_its_policy_at_every_second_update():
    td3bc, moved = build("algo/td3bc"), []
    for batch in draw_batches(td3bc, 4):
        parts = (td3bc.policy, td3bc.policy_target, td3bc.q_target, td3bc.q)
        before = [torch.cat([p.flatten() for p in part.parameters()]).clone() for part in parts]
        td3bc.update(batch)
        after = [torch.cat([p.flatten() for p in part.parameters()]) for part in parts]
        moved.append([not torch.equal(a, b) for a, b in zip(before, after, strict=True)])
    assert moved == [[True] * 4, [False, False, False, True]] * 2
    assert td3bc.actor_optim.count == 2


def test_td3bc_clips_the_noise_on_its_targets():
    """With a critic that is the action itself, targets lie within the clip of the target policy's action."""
    td3bc = build("algo/td3bc", target_noise=9.0, target_clip=0.1)
    (batch,) = draw_batches(td3bc, 1)
    noisy_actions = []
    td3bc.q_target.forward = lambda pair: (noisy_actions.append(pair[:, 5:]), torch.zeros(2, len(pair), 1))[1]  # type: ignore
    with torch.no_grad():
        mean = td3bc.policy_target.mean(batch.next_obs)
    td3bc.update(batch)
    assert 0.09 < (noisy_actions[0] - mean).abs().max() <= 0.1 + 1e-6


def test_awac_is_its_formulas():
    awac = build("algo/awac", temperature=0.5, batch_size=64)
    (batch,) = draw_batches(awac, 1)
    assert batch.done.any()
    with torch.no_grad():
        next_pair = torch.cat([batch.next_obs.state, awac.policy.mean(batch.next_obs)], -1)
        target = batch.reward + 0.99 * (1 - batch.done) * awac.q_target(next_pair).amin(0)[:, 0]
        q = awac.q(torch.cat([batch.obs.state, batch.action], -1))[..., 0]
        value = awac.q(torch.cat([batch.obs.state, awac.policy.mean(batch.obs)], -1)).amin(0)[:, 0]
        weight = ((q.amin(0) - value) / 0.5).exp().clamp(max=100)
        actor = (weight * (awac.policy.mean(batch.obs) - batch.action).square().sum(-1)).mean()
    metrics = awac.update(batch)
    torch.testing.assert_close(metrics["q_loss"], ((q - target) ** 2).mean())
    torch.testing.assert_close(metrics["actor_loss"], actor)


def test_ipl_is_its_formulas():
    ipl = build("algo/ipl", penalty=0.3, usual_reward=0.5, discount=0.9, expectile=0.8, beta=2.0, step_batch_size=64)
    (batch,) = draw_batches(ipl, 1)
    pairs, steps = batch
    state, act = pairs.segments.obs.state, pairs.segments.action
    assert steps.done.any()
    with torch.no_grad():

        def reward(obs, action, next_obs, done):
            v = ipl.v(next_obs)[..., 0]
            return ipl.q(torch.cat([obs, action], -1))[..., 0] - 0.9 * (1 - done) * v

        of_pairs = reward(state[:, :, :-1], act[:, :, :-1], state[:, :, 1:], 0.0)  # [2, B, 2, L - 1]
        other = reward(steps.obs.state, steps.action, steps.next_obs.state, steps.done)  # [2, B]
        gap = of_pairs.sum(-1)[..., 1] - of_pairs.sum(-1)[..., 0]
        p = torch.sigmoid(gap)
        preference = -(pairs.label * p.log() + (1 - pairs.label) * (1 - p).log()).mean(1).sum()
        size = (torch.cat([of_pairs.flatten(1), other], 1) - 0.5).square().mean(1).sum()
        obs = torch.cat([state[:, :, :-1].flatten(0, 2), steps.obs.state])
        action = torch.cat([act[:, :, :-1].flatten(0, 2), steps.action])
        error = ipl.q_target(torch.cat([obs, action], -1)).amin(0)[:, 0] - ipl.v(obs)[:, 0]
        weight = torch.exp(2.0 * error).clamp(max=100)
        actor = (weight * (ipl.policy.mean(Observation(obs)) - action).square().sum(-1)).mean()
        v_loss = (torch.where(error > 0, 0.8, 0.2) * error**2).mean()
    metrics = ipl.update(batch)
    for key, expected in (("preference", preference), ("reward_size", size), ("actor_loss", actor), ("v_loss", v_loss)):
        torch.testing.assert_close(metrics[key], expected)


def test_ipls_usual_reward_is_positive_where_episodes_can_terminate():
    """Else the average step would cost, and early termination would score best."""
    mortal = replace(SPEC, terminates=True)
    assert build("algo/ipl", mortal).usual_reward == 1.0 and build("algo/ipl").usual_reward == 0.0
    assert build("algo/ipl", mortal, usual_reward=0.0).usual_reward == 0.0


def test_a_policy_with_a_deviation_is_sampled():
    policy = build("policy/mlp", std=0.2)
    torch.manual_seed(0)
    obs = Observation(torch.zeros(4000, 5))
    drawn, mean = policy.sample(obs), policy.mean(obs)
    assert (drawn - mean).std().item() == pytest.approx(0.2, rel=0.05)
    torch.testing.assert_close((drawn - mean).mean().item(), 0.0, atol=0.01, rtol=0)


def test_cpl_weighs_an_answer_by_its_confidence():
    """At half of it an answer's gradient is half as large, at none it is gone."""
    cpl = build("algo/cpl", bc_weight=0.0)
    (batch,) = draw_batches(cpl, 1)
    losses = []
    cpl.optim.step = losses.append

    def gradient(confidence):
        cpl.update(batch._replace(confidence=confidence))
        return torch.cat([g.flatten() for g in torch.autograd.grad(losses[-1], cpl.optim.params)])

    ones = torch.ones(16)
    whole, first = gradient(ones), gradient((torch.arange(16) < 8).float())
    assert whole.abs().max() > 0 and not gradient(0 * ones).any()
    torch.testing.assert_close(gradient(0.5 * ones), 0.5 * whole)
    torch.testing.assert_close(first + gradient((torch.arange(16) >= 8).float()), whole)
    few = tree_map(lambda x: x[:8], batch)
    cpl.update(few)
    alone = torch.cat([g.flatten() for g in torch.autograd.grad(losses[-1], cpl.optim.params)])
    torch.testing.assert_close(first, 0.5 * alone)


def test_cpl_does_not_count_masked_steps():
    cpl = build("algo/cpl", bc_weight=0.5)
    (batch,) = draw_batches(cpl, 1)
    obs, action, mask = batch.segments
    short = Segment(Observation(obs.state[:, :, :5]), action[:, :, :5], mask[:, :, :5])
    other = copy.deepcopy(cpl)
    found = cpl.update(batch._replace(segments=Segment(obs, action, mask * (torch.arange(8) < 5))))
    expected = other.update(batch._replace(segments=short))
    for key in expected:
        torch.testing.assert_close(found[key], expected[key])


def test_ipl_leaves_out_masked_steps():
    """Segments of five steps that count are segments of five steps, in every loss."""
    ipl = build("algo/ipl", usual_reward=0.5)
    (batch,) = draw_batches(ipl, 1)
    obs, action, mask = batch.pairs.segments
    masked = Segment(obs, action, mask * (torch.arange(8) < 5))
    short = Segment(Observation(obs.state[:, :, :5]), action[:, :, :5], mask[:, :, :5])
    updates = [
        copy.deepcopy(ipl).update(batch._replace(pairs=batch.pairs._replace(segments=segments)))
        for segments in (masked, short, batch.pairs.segments)
    ]
    for key, found in updates[0].items():
        torch.testing.assert_close(found, updates[1][key])
    assert updates[0]["preference"] != updates[2]["preference"]


def test_ipl_weighs_an_answer_by_its_confidence():
    ipl = build("algo/ipl")
    (batch,) = draw_batches(ipl, 1)

    def preference(pairs):
        metrics = copy.deepcopy(ipl).update(batch._replace(pairs=pairs))
        return metrics["preference"]

    half = (torch.arange(16) < 8).float()
    weighed = batch.pairs._replace(confidence=half)
    torch.testing.assert_close(preference(weighed), 0.5 * preference(tree_map(lambda x: x[:8], batch.pairs)))
    torch.testing.assert_close(preference(batch.pairs._replace(confidence=0.5 * half)), 0.5 * preference(weighed))


def test_iswbc_is_its_formulas():
    iswbc = build("algo/iswbc", exponent=1.5, max_weight=3.0, step_batch_size=64)
    (batch,) = draw_batches(iswbc, 1)
    marked, steps = batch
    mask, confidence = marked.segments.mask.clone(), torch.linspace(0, 1, 16)
    mask[..., 6:] = 0
    batch = batch._replace(marked=marked._replace(confidence=confidence, segments=marked.segments._replace(mask=mask)))
    with torch.no_grad():
        of_good = torch.sigmoid(iswbc.logit(marked.segments.obs.state[:, :, :6], marked.segments.action[:, :, :6]))
        of_all = torch.sigmoid(iswbc.logit(steps.obs.state, steps.action))
        good = (marked.label * confidence[:, None])[..., None].expand(-1, -1, 6)
        error = -(good * of_good.log()).sum() / good.sum() - (1 - of_all).log().mean()
        weight = (of_all / (1 - of_all)).pow(1.5).clamp(max=3.0)
        weight = weight / weight.mean()
        actor = (weight * (iswbc.policy.mean(steps.obs) - steps.action).square().sum(-1)).mean()
    metrics = iswbc.update(batch)
    for key, expected in (("discriminator_loss", error), ("actor_loss", actor), ("max_weight", weight.max())):
        torch.testing.assert_close(metrics[key], expected)
