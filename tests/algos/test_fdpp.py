"""FDPP, and DPPO, which it is without a divergence: their formulas, and what they learn from their own episodes."""

import copy

import numpy as np
import pytest
import torch
from torch.distributions import Normal, kl_divergence

from pbrl.algos.fdpp import estimate_advantages
from pbrl.data.chains import ChainActor, Chains, to_chains
from pbrl.data.rollout import RolloutWorkers
from pbrl.data.scenes import play_scenes
from pbrl.data.table import Table
from pbrl.models.policy import save_policy
from pbrl.run.validate import validate
from pbrl.settings import RunSettings
from pbrl.training.batches import Data
from pbrl.types import Observation, UserError
from tests import toy
from tests.parts import build, config, draw_batches, made_up_chains, made_up_data

ENV = {"_target_": "tests.toy.Point", "horizon": 10}


def make(**changes):
    return build("algo/fdpp", policy="diffusion", **changes)


def moved(fdpp):
    """The same learner, whose policy has moved since it played."""
    with torch.no_grad():
        for p in fdpp.policy.model.parameters():
            p.add_(0.02 * torch.randn_like(p))
    return fdpp


def gaussians(fdpp, model, batch):
    mean, std = fdpp.denoising.transition(model.denoiser, batch.before, batch.step, (model.told(batch.obs),))
    return Normal(mean.double(), std.double().expand_as(mean))


@pytest.mark.parametrize("per_number", [True, False])
def test_fdpp_is_its_formula(per_number):
    fdpp = make(alpha=0.3, denoising_discount=0.8, per_number=per_number, ratio_clip=0.02, ratio_clip_first=0.001)
    (batch,) = draw_batches(fdpp, 1)
    moved(fdpp)
    new, old = (gaussians(fdpp, model, batch) for model in (fdpp.policy.model, fdpp.reference))
    counts = torch.ones_like(new.mean)
    last = batch.step == 9
    counts[last] = batch.mask[last][..., None].double().expand(-1, -1, 2)
    assert 0 < last.sum() < len(last) and (counts[last] == 0).any(), "what is not carried out does not count"
    log_prob = (counts * new.log_prob(batch.after.double())).sum((1, 2))
    log_prob = log_prob / counts.sum((1, 2)) if per_number else log_prob
    ratio = (log_prob - batch.log_prob).exp()
    clip = 0.001 + 0.019 * ((3 * batch.step / 9).exp() - 1) / (np.exp(3.0) - 1)
    advantage = batch.advantage * 0.8 ** (9 - batch.step)
    gain = torch.minimum(ratio * advantage, torch.maximum(torch.minimum(ratio, 1 + clip), 1 - clip) * advantage).mean()
    kl = 10 * kl_divergence(new, old).sum((1, 2)).mean()
    losses = []
    fdpp.tuner.step = losses.append
    metrics = fdpp.update(batch)
    assert metrics["gain"].item() == pytest.approx(gain.item(), rel=1e-3, abs=1e-5)
    assert metrics["kl"].item() == pytest.approx(kl.item(), rel=1e-3) and kl > 0
    assert losses[0].item() == pytest.approx((0.3 * kl - gain).item(), rel=1e-3)
    assert 0 < metrics["clipped"] <= 1 and metrics["ratio"].item() == pytest.approx(ratio.mean().item(), rel=1e-4)
    error = ((fdpp.value(batch.obs.state) - batch.target) / fdpp.value_std).square().mean()
    assert metrics["value_loss"] > error.item(), "the value function has learnt since"


def test_ratios_begin_at_one_and_grow_apart_from_noise_to_the_last_step():
    fdpp = make(alpha=1.0, ratio_clip=0.1, ratio_clip_first=0.01, ratio_clip_rate=2.0)
    (batch,) = draw_batches(fdpp, 1)
    torch.testing.assert_close(fdpp.log_prob(batch), batch.log_prob, rtol=0, atol=1e-5)
    metrics = fdpp.update(batch)
    assert metrics["ratio"].item() == pytest.approx(1, abs=1e-5) and metrics["clipped"] == 0 and metrics["kl"] == 0
    clip = fdpp.clip_of(torch.arange(10))
    assert clip[0].item() == pytest.approx(0.01) and clip[-1].item() == pytest.approx(0.1)
    assert (clip.diff() > 0).all() and clip[5] < 0.055


def made(rewards, *, terminated: bool) -> Chains:
    """One episode of as many decisions as there are rewards, and one that ended after the first."""
    count = len(rewards)
    mask = torch.ones(2, count, 1)
    mask[1, 1:] = 0
    chain = torch.zeros(2, count, 2, 1, 1)
    reward, over = torch.tensor([rewards, [5.0] + [0.0] * (count - 1)]), torch.tensor([terminated, True])
    return Chains(torch.zeros(2, count + 1, 1), chain, mask, reward, over, over, reward.sum(1))


def test_advantages_are_their_closed_form():
    """Of V = 1, 2, 3, 4, rewards 1, 0, 2, gamma 0.5 and lambda 0.8: deltas of 1, -0.5, and 1 or -1 at the end."""
    value = torch.tensor([[1.0, 2.0, 3.0, 4.0], [2.0, 9.0, 9.0, 9.0]])
    for terminated, delta in ((False, (1.0, -0.5, 1.0)), (True, (1.0, -0.5, -1.0))):
        found = estimate_advantages(made([1.0, 0.0, 2.0], terminated=terminated), value, 0.5, 0.8)
        a, b, c = delta
        expected = [a + 0.4 * b + 0.16 * c, b + 0.4 * c, c]
        assert found[0].tolist() == pytest.approx(expected)
        assert found[1, 0].item() == pytest.approx(5 - 2), "nothing follows a true terminal"
    whole = estimate_advantages(made([1.0, 0.0, 2.0], terminated=True), value, 0.5, 1.0)
    assert whole[0].tolist() == pytest.approx([1 + 0.25 * 2 - 1, 0.5 * 2 - 2, 2 - 3]), "the return less the value"


def test_what_is_learnt_from_is_of_the_episodes():
    fdpp = make()
    own = made_up_chains(fdpp.policy)
    judged = fdpp.judge(own)
    advantage = judged.advantage[own.made]
    assert advantage.mean().item() == pytest.approx(0, abs=1e-6) and advantage.std().item() == pytest.approx(1)
    data = made_up_data("pair")
    data.set_chains(own, judged)
    drawn = data.denoising_steps(3000)
    for batch in range(0, 3000, 100):
        place = (own.state[:, :-1] == drawn.obs.state[batch]).all(-1).nonzero()
        assert len(place) == 1
        i, d = place[0].tolist()
        j = int(drawn.step[batch])
        assert own.made[i, d] and torch.equal(drawn.before[batch], own.chain[i, d, j])
        assert torch.equal(drawn.after[batch], own.chain[i, d, j + 1])
        assert drawn.log_prob[batch] == judged.log_prob[i, d, j] and drawn.advantage[batch] == judged.advantage[i, d]
    assert (drawn.step.bincount() > 200).all(), "each step as often as another"


def test_chains_are_those_that_acted():
    """The last array of a chain is what was carried out, and rewards are summed over the steps of each decision."""
    spec = toy.table(5).spec()
    policy = build("policy/diffusion", spec, horizon=4, execute=3)
    fdpp = build("algo/fdpp", spec, policy=policy)
    actor = ChainActor(policy.eval(), fdpp.denoising)
    played = play_scenes(RolloutWorkers(ENV, 1), actor, range(40, 43), 2, salt=1)
    own = to_chains(played, [np.arange(10.0, dtype=np.float32)] * 6, 3)
    assert own.reward[0].tolist() == [3, 12, 21, 9] and own.mask[0].sum(-1).tolist() == [3, 3, 3, 1]
    for i, (episode, _) in enumerate(played):
        np.testing.assert_array_equal(own.state[i, :-1], episode.obs[:10:3])
        np.testing.assert_array_equal(own.state[i, -1], episode.obs[10])
        acted = own.chain[i, :, -1].clamp(-1, 1)[own.mask[i] > 0]
        np.testing.assert_allclose(acted, episode.action, atol=1e-6)
    assert not np.array_equal(played[0][0].action, played[1][0].action), "samples of a scene differ"
    torch.testing.assert_close(fdpp.judge(own).log_prob[own.made].mean(), torch.tensor(0.0), atol=3.0, rtol=0)


def test_a_step_makes_what_went_well_more_likely_and_the_rest_less():
    fdpp = make(alpha=0.0, lr_after=1e-4)
    (batch,) = draw_batches(fdpp, 1)
    is_good = torch.arange(len(batch.step)) % 2 == 0
    batch = batch._replace(advantage=torch.where(is_good, 1.0, -1.0))
    fdpp.update(batch)
    change = fdpp.log_prob(batch) - batch.log_prob
    assert change[is_good].mean() > 0 > change[~is_good].mean()


def test_it_begins_as_the_policy_that_acted():
    fdpp, data = make(), made_up_data("pair")
    clone, tune = fdpp.phases(4)
    for _ in range(3):
        clone.update(clone.draw(data))
    tune.before(data)
    model, average = fdpp.policy.model, dict(fdpp.policy.average.module.named_buffers())
    assert all(torch.equal(p, average[name]) for name, p in model.named_parameters())
    assert all(torch.equal(p, q) for p, q in zip(model.parameters(), fdpp.reference.parameters(), strict=True))
    assert fdpp.value_std > 0 and fdpp.value_mean != 0


def test_it_starts_from_the_policy_of_a_run(tmp_path):
    first, data = build("policy/diffusion"), made_up_data("pair")
    with torch.no_grad():
        for name, _ in first.model.named_parameters():
            first.average.module.get_buffer(name).add_(0.01)
    save_policy(first, tmp_path / "policy.pt")
    fdpp = make(start_from=str(tmp_path))
    clone, tune = fdpp.phases(8)
    assert clone.steps == 0
    tune.before(data)
    obs = Observation(torch.randn(2, 5))
    for policy in (fdpp.policy, first):
        policy.reset()
    assert torch.equal(fdpp.policy.plan(obs), first.plan(obs))


@pytest.mark.parametrize("policy", ["mlp", "vla"])
def test_it_tunes_diffusion_policies_alone(policy):
    with pytest.raises(UserError, match="policy=diffusion"):
        build("algo/fdpp", policy=policy)


def test_an_encoder_of_the_run_s_own_pictures_cannot_see_its_episodes():
    words = ("env=tests/point", "data=noise", "algo=fdpp", "policy=diffusion", "reward=image", "query.kind=pair")
    seen = ("reward.encoder=resnet18", "reward.weights=simulation")
    settings = config(*words, *seen, "feedback=perfect", "hydra.searchpath=[file://tests/configs]")
    with pytest.raises(UserError, match="must see the policy's own episodes"):
        validate(RunSettings.parse(settings))


@pytest.fixture(scope="module")
def clone():
    """A policy cloned from episodes of which half walk away from the goal; and the data."""
    table = Table(toy.episodes(60))
    kind = {"process": "edm", "horizon": 4, "execute": 4, "width": 32, "layers": 1, "sample_steps": 5, "average": 0.98}
    policy = build("policy/diffusion", table.spec(), **kind)
    settings = {"scenes": 48, "alpha": 0.0, "lr": 3e-3, "lr_after": 1e-3, "ratio_clip": 0.1, "ratio_clip_first": 0.01}
    fdpp = build("algo/fdpp", table.spec(), policy=policy, hidden=[32], **settings)
    data = Data(table, torch.Generator().manual_seed(0))
    first, tune = fdpp.phases(1)
    for _ in range(200):
        first.update(first.draw(data))
    tune.before(data)
    return fdpp, data


def learn(cloned, sign: float, iterations: int = 4, alpha: float = 0.0):
    fdpp, data = copy.deepcopy(cloned)
    fdpp.alpha = alpha
    workers = RolloutWorkers({**ENV, "horizon": 16}, 1)
    plan = fdpp.phases(1)[1].rollouts
    for iteration in range(1, iterations + 1):
        played = plan.play(workers, fdpp.policy, 0, iteration, lambda own: [sign * e.reward for e in own])
        plan.give(data, [played])
        for _ in range(40):
            metrics = fdpp.update(fdpp.draw(data))
    return fdpp.policy, metrics


def test_a_policy_gets_better_by_its_own_episodes_and_worse_by_wrong_rewards(clone):
    before = toy.distance_after(clone[0].policy)
    better, worse = (toy.distance_after(learn(clone, sign)[0]) for sign in (1.0, -1.0))
    assert better < before - 0.5 and worse > before + 0.1, (before, better, worse)


def test_the_divergence_keeps_it_near_the_clone(clone):
    (_, free), (_, held) = (learn(clone, 1.0, iterations=1, alpha=alpha) for alpha in (0.0, 1.0))
    assert held["kl"] < 0.3 * free["kl"]
