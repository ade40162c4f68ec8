"""Trajectory-wise preference optimization: its formula, and what it learns from its own episodes."""

import copy

import numpy as np
import pytest
import torch

from pbrl.algos.tpo import CLONE
from pbrl.data.rollout import RolloutWorkers
from pbrl.data.table import Table
from pbrl.data.trajectories import play_iteration
from pbrl.models.policy import LikelihoodPolicy, save_policy
from pbrl.objectives import bradley_terry
from pbrl.run.validate import draws_of
from pbrl.training.batches import Data
from pbrl.types import Episode, Observation, UserError
from tests import toy
from tests.parts import build, draw_batches, made_up_data, made_up_trajectories

ENV = {"_target_": "tests.toy.Point", "horizon": 16, "goal_radius": 0.5}
LEARN = {"pretrain_steps": 200, "lr": 3e-3, "lr_after": 3e-3, "batch_size": 16, "scenes": 48, "samples": 4,
         "beta": 0.1, "kl_weight": 1.0}  # fmt: skip


def test_tpo_is_its_formula():
    """-log sigmoid(beta (log pi(w) - log pi_ref(w) - log pi(l) + log pi_ref(l))), over all that was carried out."""
    tpo = build("algo/tpo", policy="vla", objective=bradley_terry, beta=0.3, bc_weight=0.5, kl_weight=2.0)
    (batch,) = draw_batches(tpo, 1)
    with torch.no_grad():
        for p in tpo.policy.parameters():
            p.add_(0.1 * torch.randn_like(p))  # no longer the policy that played
    own, policy = batch.own, tpo.policy
    log_prob = torch.zeros(16, 2, 3)
    for b in range(16):
        for k in range(2):
            for d in range(3):
                steps = policy.log_prob_steps(
                    own.chunks.obs._replace(state=own.chunks.obs.state[b, k, d][None]), own.chunks.action[b, k, d][None]
                )[0]
                log_prob[b, k, d] = (steps * own.chunks.mask[b, k, d]).sum()
    gain = (log_prob - own.log_prob).double()
    there = own.chunks.mask.any(-1)
    assert torch.equal(there[:, 0], there[:, 1]) and 0 < there.sum() < there.numel(), "as far as both go"
    ratio = (gain * own.is_compared).sum(-1)
    lead = torch.where(own.label == 1, ratio[:, 1] - ratio[:, 0], ratio[:, 0] - ratio[:, 1])
    expected = -torch.log(torch.sigmoid(0.3 * lead)).mean()
    bc = -policy.score(batch.chunks).sum() / batch.chunks.mask.sum()
    metrics = tpo.update(batch)
    assert metrics["tpo"].item() == pytest.approx(expected.item(), rel=1e-4)
    assert metrics["kl"].item() == pytest.approx(-gain.sum().item() / own.chunks.mask.sum().item(), rel=1e-4)
    assert metrics["bc"].item() == pytest.approx(bc.item(), rel=1e-4)
    assert abs(expected - np.log(2)) > 0.02, "not where it began"


@pytest.mark.parametrize("objective", ["bradley_terry", "kto"])
def test_the_divergence_keeps_what_was_played_likely(objective):
    """Without it, both episodes of a pair grow less likely, or one does by much more."""
    lost = []
    for weight in (0.0, 3.0):
        tpo = build("algo/tpo", policy="vla", objective=objective, beta=1.0, kl_weight=weight, lr_after=1e-2)
        batches = draw_batches(tpo, 30)
        for batch in batches:
            metrics = tpo.update(batch)
        lost.append(metrics["kl"].item())
    assert lost[0] > 2 * max(lost[1], 0.0) and lost[0] > 0.05


@pytest.mark.parametrize("clone", [None, *CLONE])
def test_a_run_knows_ahead_what_it_draws(clone):
    tpo = build("algo/tpo", policy=build("policy/vla", quality=True), clone=clone)
    assert draws_of(tpo.phases(1)).images


def test_it_begins_at_indifference():
    tpo = build("algo/tpo", policy="vla")
    (batch,) = draw_batches(tpo, 1)
    metrics = tpo.update(batch)
    assert metrics["tpo"].item() == pytest.approx(np.log(2), abs=1e-5) and abs(metrics["ratio"]) < 1e-4


def test_per_step_scores_do_not_depend_on_length():
    tpo = build("algo/tpo", policy="vla", objective=bradley_terry, per_step=True, beta=1.0)
    (batch,) = draw_batches(tpo, 1)
    steps = batch.own.chunks.mask.sum(-1)
    assert len((steps * batch.own.is_compared).sum(-1).unique()) > 1
    shifted = batch._replace(own=batch.own._replace(log_prob=batch.own.log_prob - 0.7 * steps))
    before = copy.deepcopy(tpo).update(batch)["tpo"]
    assert tpo.update(shifted)["tpo"].item() == pytest.approx(before.item(), abs=1e-5)


def test_filtered_cloning_reads_winners_alone():
    tpo = build("algo/tpo", policy="vla", clone="winners")
    (batch,) = draw_batches(tpo, 1)
    success = batch.own.success
    success[0] = True  # both did: the better one counts
    won = success & torch.stack([batch.own.label < 0.5, batch.own.label > 0.5], 1)
    assert won.any(1).all() and not won.all(1).any() and batch.own.label[0] != 0.5
    other = batch.own.chunks.action.clone()
    other[~won] = -other[~won]
    changed = batch._replace(own=batch.own._replace(chunks=batch.own.chunks._replace(action=other)))
    log_prob, steps = tpo.policy.score_chunks(batch.own.chunks).sum(-1), batch.own.chunks.mask.sum((-2, -1))
    expected = -(won * log_prob).sum() / (won * steps).sum()
    assert copy.deepcopy(tpo).update(batch)["winners_bc"].item() == pytest.approx(expected.item(), rel=1e-5)
    assert copy.deepcopy(tpo).update(changed)["winners_bc"].item() == pytest.approx(expected.item(), rel=1e-5)


def test_weighted_cloning_draws_by_the_softmax_of_scores():
    """Among three episodes of a scene that score 0, 1 and 2: e^0, e^2 and e^4 at a temperature of a half."""
    tpo, data = build("algo/tpo", policy="vla", clone="weighted", temperature=0.5), made_up_data("pair")
    own = made_up_trajectories(tpo.policy)
    data.set_trajectories(own, margin=0.0, same_scene=True)
    own.scene, own.score = torch.arange(24) // 3, torch.arange(24)[:, None] % 3.0
    own.chunks.obs.state[..., 0] = own.score + 10 * own.scene[:, None]  # to be recognised by
    drawn = data.trajectories_by_score(6000, 0.5).obs.state[:, 0, 0]
    shares = torch.tensor([(drawn % 10 == score).float().mean() for score in range(3)])
    torch.testing.assert_close(shares, torch.tensor([0.0, 2.0, 4.0]).softmax(0), atol=0.02, rtol=0)
    scenes = (drawn // 10).long().bincount()
    assert (scenes > 0.8 * 6000 / len(scenes)).all(), "no scene counts more than another"
    metrics = tpo.update(tpo.draw(data))
    assert metrics["own_bc"] > 0


def test_episodes_are_told_how_they_turned_out():
    tpo = build("algo/tpo", policy=build("policy/vla", quality=True), clone="conditioned", lr_after=1e-2)
    data, own = made_up_data("pair"), made_up_trajectories(tpo.policy)
    own.scene, own.score = torch.arange(24) // 3, torch.tensor([0.0, 1.0, 2.0] * 4 + [1.0] * 12)[:, None]
    own.success = torch.arange(24) >= 18
    data.set_trajectories(own, margin=0.0, same_scene=True)
    own.chunks.obs.state[..., 0] = torch.arange(24.0)[:, None]
    drawn = data.graded_trajectories(600)
    place, quality = drawn.obs.state[:, 0, 0].long(), drawn.obs.text["quality"]
    assert quality.shape == drawn.mask.shape[:2] and len(place.unique()) == 24
    expected = [0, 0, 1] * 4 + [0] * 6 + [1] * 6  # all of a scene alike: as they succeeded
    assert torch.equal(quality[:, 0], torch.tensor(expected)[place])
    policy = tpo.policy
    before = policy.plan(Observation(own.chunks.obs.state[:, 0]))
    for _ in range(40):
        tpo.update(tpo.draw(data))
    well, badly = (
        policy.log_prob(Observation(own.chunks.obs.state[:, 0], {}, {"quality": torch.full((24,), q)}), before)
        for q in (1, 0)
    )
    assert not torch.allclose(well, badly), "it tells them apart"
    assert torch.equal(well, policy.log_prob(Observation(own.chunks.obs.state[:, 0]), before)), "and acts as told: well"


def test_a_bound_is_compared_with_the_policy_that_played_by_the_same_noise():
    tpo = build("algo/tpo", policy="diffusion whole", objective=bradley_terry, beta=0.3, kl_weight=0.0)
    (batch,) = draw_batches(tpo, 1)
    own = batch.own
    assert own.log_prob.abs().max() == 0, "a bound is not known from playing"
    with torch.no_grad():
        for p in tpo.policy.model.parameters():
            p.add_(0.05 * torch.randn_like(p))  # no longer the policy that played
    torch.manual_seed(5)
    chance = tpo.policy.draw_chance_of_chunks(own.chunks)
    errors = [
        model.loss(own.chunks.obs, own.chunks.action, type(chance)(chance.time[0], chance.eps[0])).sum(-1)
        for model in (tpo.policy.model, tpo.reference.model)
    ]  # [B, 2, D, K] each
    gain = ((errors[1] - errors[0]) * own.chunks.mask).sum((-2, -1))
    lead = 0.3 * gain.diff(dim=1)[:, 0].detach()
    expected = torch.nn.functional.binary_cross_entropy_with_logits(lead, own.label, reduction="none") * own.confidence
    torch.manual_seed(5)
    metrics = tpo.update(batch)
    assert metrics["tpo"].item() == pytest.approx(expected.mean().item(), rel=1e-4)
    assert metrics["ratio"].abs() > 1e-3
    tpo.take_reference(made_up_data("pair"))
    assert tpo.gain(own).abs().max() == 0


def test_where_nothing_can_be_compared_nothing_is_learnt():
    tpo = build("algo/tpo", policy="vla")
    (batch,) = draw_batches(tpo, 1)
    tied = batch._replace(own=batch.own._replace(label=torch.full((16,), 0.5), confidence=torch.zeros(16)))
    before = copy.deepcopy(tpo.policy.state_dict())
    assert tpo.update(tied)["tpo"] == 0
    assert all(torch.equal(value, before[key]) for key, value in tpo.policy.state_dict().items())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"policy": "mlp"}, "always acts alike: policy.std"),
        ({"policy": "diffusion"}, "so policy.execute=4"),
        ({"policy": "diffusion whole", "compare": "branches"}, "diffusion knows none"),
        ({"policy": "diffusion whole", "confidence": 1.0}, "algo.confidence=0"),
        ({"samples": 1}, "2 or more of each"),
        ({"objective": "plackett_luce"}, "compares two episodes"),
        ({"compare": "stages"}, "says which stages there are"),
        ({"compare": "steps"}, "it is episodes, stages, branches"),
        ({"clone": "losers"}, "it is null, winners, weighted, conditioned"),
        ({"clone": "conditioned"}, "policy.quality=true"),
    ],
)
def test_settings_that_cannot_be_learnt_from(changes, message):
    with pytest.raises(UserError, match=message):
        build("algo/tpo", **{"policy": "vla"} | changes)


def test_it_starts_from_the_policy_of_a_run(tmp_path):
    first, data = build("policy/vla"), made_up_data("pair")
    with torch.no_grad():
        first.place.add_(1.0)
    save_policy(first, tmp_path / "policy.pt")
    tpo = build("algo/tpo", policy="vla", start_from=str(tmp_path))
    clone, tune = tpo.phases(8)
    assert clone.steps == 0
    tune.before(data)
    assert torch.equal(tpo.policy.place, first.place)
    other = build("algo/tpo", policy=build("policy/vla", bins=9), start_from=str(tmp_path))
    with pytest.raises(UserError, match=r"another policy .*bins \(8, here 9\)"):
        other.start(data)
    with pytest.raises(UserError, match="there is no policy at"):
        build("algo/tpo", policy="vla", start_from=str(tmp_path / "none")).start(data)


def wins(policy: LikelihoodPolicy) -> float:
    episodes = play_iteration(
        RolloutWorkers(ENV, 1), policy, build("algo/tpo", policy="vla").rollouts._replace(scenes=64), 9, 9
    )
    return episodes.success.float().mean().item()


@pytest.fixture(scope="module")
def clone():
    """A policy cloned from episodes of which half walk away from the goal; and the data."""
    table = Table(toy.episodes(60))
    tpo = build("algo/tpo", table.spec(), policy=build("policy/vla", table.spec(), **SIZES), **LEARN)
    data = Data(table, torch.Generator().manual_seed(0))
    first = tpo.phases(1)[0]
    for _ in range(first.steps):
        first.update(first.draw(data))
    return tpo.policy, data


def rewards(episodes: list[Episode]) -> list[np.ndarray]:
    """The true ones."""
    return [episode.reward for episode in episodes]


SIZES = {"horizon": 4, "execute": 4, "bins": 16, "width": 32, "layers": 1}


def learn(cloned, *, is_wrong: bool = False, **changes) -> LikelihoodPolicy:
    policy, data = copy.deepcopy(cloned)
    if changes.get("clone") == "conditioned":
        told = build("policy/vla", policy.spec, **SIZES, quality=True)
        told.load_state_dict(policy.state_dict(), strict=False)
        policy = told
    tpo = build("algo/tpo", policy.spec, policy=policy, **LEARN | changes)
    plan = tpo.rollouts
    for iteration in range(1, 3):
        own = play_iteration(RolloutWorkers(ENV, 1), policy, plan, 0, iteration, rewards)
        own.score = -own.score if is_wrong else own.score
        own.success = ~own.success if is_wrong else own.success
        data.set_trajectories(own, margin=0.0, same_scene=plan.same_scene)
        tpo.take_reference(data)
        for _ in range(40):
            tpo.update(tpo.draw(data))
    return policy


@pytest.mark.parametrize(
    ("changes", "gain"),
    [
        ({"objective": "bradley_terry"}, 0.2),
        ({"clone": "winners"}, 0.2),
        ({"clone": "weighted"}, 0.05),  # of scenes where none succeeded it clones, too
        ({"clone": "conditioned"}, 0.1),
        ({"compare": "branches"}, 0.1),  # of each episode it learns about two decisions alone
        ({"objective": "kto"}, 0.1),
    ],
    ids=str,
)
def test_a_policy_gets_better_by_its_own_episodes(clone, changes, gain):
    before, after = wins(clone[0]), wins(learn(clone, **changes))
    assert 0.2 < before < 0.7 and after > before + gain


def test_wrong_scores_make_it_worse(clone):
    assert wins(learn(clone, is_wrong=True)) < wins(clone[0]) - 0.1


@pytest.fixture(scope="module")
def diffusion():
    """The same of a diffusion policy."""
    table = Table(toy.episodes(60))
    kind = {"process": "edm", "horizon": 4, "execute": 4, "width": 32, "layers": 1, "average": 0.98, "sample_steps": 5}
    policy = build("policy/diffusion", table.spec(), **kind)
    tpo = build("algo/tpo", table.spec(), policy=policy, **LEARN | {"pretrain_steps": 500})
    data = Data(table, torch.Generator().manual_seed(0))
    first = tpo.phases(1)[0]
    for _ in range(first.steps):
        first.update(first.draw(data))
    return tpo.policy, data


@pytest.mark.parametrize(
    ("changes", "gain"),
    [
        ({"objective": "bradley_terry"}, 0.2),
        ({"clone": "weighted", "success": 0.0, "return_weight": 5.0}, 0.1),  # advantage-weighted matching
    ],
    ids=str,
)
def test_a_diffusion_policy_gets_better_by_its_own_episodes(diffusion, changes, gain):
    before, after = wins(diffusion[0]), wins(learn(diffusion, **changes))
    assert 0.2 < before < 0.7 and after > before + gain, (before, after)
