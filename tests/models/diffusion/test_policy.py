"""policy=diffusion: its score, what is shared in a comparison, how it acts, what it learns where averages fail."""

import copy
import pickle
from dataclasses import replace
from typing import Any

import pytest
import torch

from pbrl.algos.bc import BC
from pbrl.data.table import Table
from pbrl.models.policy import load_policy, save_policy
from pbrl.objectives import bradley_terry
from pbrl.training.batches import Data
from pbrl.training.vmap import LearnerStack
from pbrl.types import Observation, Segment, UserError
from tests import toy
from tests.parts import POLICIES, SPEC, build, draw_batches, made_up_data, phases


def policy(**changes: Any):
    torch.manual_seed(0)
    made = build("policy/diffusion", **POLICIES["diffusion"] | changes)
    with torch.no_grad():
        for p in made.model.parameters():
            p.add_(0.05 * torch.randn_like(p))
    return made


def segments(*lead, length=10):
    torch.manual_seed(1)
    mask = torch.ones(*lead, length)
    return Segment(Observation(torch.randn(*lead, length, 5)), torch.rand(*lead, length, 2) * 2 - 1, mask)


@pytest.mark.parametrize("process", ["ddpm", "edm", "flow"])
def test_the_score_is_the_bound_chunk_by_chunk(process):
    made, segment = policy(process=process, times=3), segments(6, 2)
    segment.mask[0, 0, 7:] = 0
    chance = made.draw_chance(segment)
    assert chance.time.shape == (3, 6, 1, 3) and chance.eps.shape == (3, 6, 1, 3, 4, 2)
    found, expected = made.score(segment, chance), torch.zeros(6, 2)
    told = made.model.told(segment.obs)
    denoiser = made.model.denoiser
    for m in range(3):
        for w, first in enumerate((0, 4, 8)):
            for k in range(2):
                chunk = torch.zeros(6, 4, 2)
                rows = min(4, 10 - first)
                chunk[:, :rows] = segment.action[:, k, first : first + rows]
                eps, time = chance.eps[m, :, 0, w], chance.time[m, :, 0, w]
                error = denoiser.loss(chunk, (told[:, k, first],), time=time, eps=eps).sum(-1)[:, :rows]
                expected[:, k] -= (error * segment.mask[:, k, first : first + rows]).sum(-1) / 3
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


def test_of_several_chunks_the_one_that_is_valued_most_is_carried_out():
    """Both critics count, the lower one; a single candidate is the diffusion policy's own plan."""
    obs, one = Observation(torch.randn(6, 5)), {"horizon": 4, "execute": 2, "layers": 1, "hidden": [16]}
    many = build("policy/best_of_n", **one, candidates=5)
    chunks = many.draw_chunks(obs, 5)
    worth = torch.stack([
        torch.stack([many.q(torch.cat([obs.state[b], chunks[n, b, :2].flatten()])).amin() for n in range(5)])
        for b in range(6)
    ])  # fmt: skip
    many.reset()
    expected = torch.stack([chunks[n, b] for b, n in enumerate(worth.argmax(1))])
    torch.testing.assert_close(many.plan(obs), expected)
    assert len(worth.argmax(1).unique()) > 1
    single, plain = build("policy/best_of_n", **one, candidates=1), build("policy/diffusion", **POLICIES["diffusion"])
    plain.model.load_state_dict(single.model.state_dict())
    plain.average.load_state_dict(single.average.state_dict())
    torch.testing.assert_close(single.plan(obs), plain.plan(obs))
    with pytest.raises(UserError, match="not images"):
        build("policy/best_of_n", replace(SPEC, images={"front": (16, 16, 3)}), **one, candidates=2)


def test_guidance_goes_from_nothing_told_beyond_what_turns_out_well():
    """D(obs) + w (D(obs, well) - D(obs)): with one step of noise, plans lie on a line through those of w = 0 and 1."""
    obs = Observation(torch.randn(6, 5))

    def plan(guidance, quality=None):
        made = policy(quality=True, guidance=guidance, process="edm", sample_steps=1)
        made.sampler.clip = None
        made.average.module.load_state_dict(made.model.state_dict())
        return made.plan(obs if quality is None else obs._replace(text={"quality": torch.full((6,), quality)}))

    clone, well, beyond = plan(0.0), plan(1.0), plan(3.0)
    torch.testing.assert_close(beyond, clone + 3 * (well - clone), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(plan(1.0, quality=1), well)
    torch.testing.assert_close(plan(1.0, quality=-1), clone)
    different = well - clone, plan(1.0, quality=0) - clone, plan(1.0, quality=0) - well
    assert all(part.abs().mean() > 1e-3 for part in different)
    with pytest.raises(UserError, match="policy.quality=true"):
        policy(guidance=2.0)


def test_noise_and_time_are_shared_in_a_comparison_and_with_the_reference():
    """A segment against itself scores the same; so does a policy against a copy of it. Lists do not share."""
    made, one = policy(), segments(6, 1)
    twice = Segment(
        Observation(one.obs.state.expand(6, 2, 10, 5)), one.action.expand(6, 2, 10, 2), one.mask.expand(6, 2, 10)
    )
    score = made.score(twice)
    torch.testing.assert_close(score[:, 0], score[:, 1])
    assert not torch.allclose(made.score(twice), score)  # drawn anew
    same = Segment(Observation(one.obs.state[:1].expand(6, 2, 10, 5)), one.action[:1].expand(6, 2, 10, 2), twice.mask)
    assert made.score(same)[:, 0].std() > 0.01
    chance = made.draw_chance(twice)
    assert torch.equal(made.score(twice, chance), copy.deepcopy(made).score(twice, chance))


def test_cpl_with_a_reference_is_diffusion_dpo():
    """-log sigmoid(-alpha (d_winner - d_loser)) with d = the policy's error less the reference's at the same noise."""
    cpl = build("algo/cpl", policy=policy(), reference=True, alpha=0.3, objective=bradley_terry)
    (batch,) = draw_batches(cpl, 1)
    start = copy.deepcopy(cpl)
    start.start_finetuning(made_up_data("pair"))
    assert start.update(batch)["cpl"].item() == pytest.approx(0.6931, abs=1e-4)
    with torch.no_grad():
        for p in cpl.policy.model.parameters():
            p.add_(0.05 * torch.randn_like(p))
    torch.manual_seed(5)
    chance = cpl.policy.draw_chance(batch.segments)
    torch.manual_seed(5)
    error, frozen = -cpl.policy.score(batch.segments, chance), -cpl.reference.score(batch.segments, chance)
    d = (error - frozen).detach()
    gap = -0.3 * (d[:, 1] - d[:, 0])
    expected = -(batch.label * gap.sigmoid().log() + (1 - batch.label) * (-gap).sigmoid().log()).mean()
    torch.testing.assert_close(cpl.update(batch)["cpl"], expected, rtol=1e-4, atol=1e-5)
    assert cpl.policy.average.count == 1 and cpl.reference.average.count == 0


def test_it_plans_a_chunk_and_carries_out_a_part_of_it():
    made, obs = policy(), Observation(torch.randn(3, 5))
    plan = made.plan(obs)
    assert plan.shape == (3, 4, 2) and plan.abs().max() <= 1
    made.reset()
    acted = [made.act(Observation(obs.state + i)) for i in range(4)]
    assert torch.equal(acted[0], plan[:, 0]) and torch.equal(acted[1], plan[:, 1])
    assert not torch.allclose(acted[2], plan[:, 2])  # planned anew from what was observed then
    whole = policy(execute=4)
    kept = torch.stack([whole.act(obs) for _ in range(4)], 1)
    assert torch.equal(kept, plan)


def test_an_episode_can_be_redone_alone():
    """Its noise follows from its first observation, whoever acts beside it; another episode has other noise."""
    made, obs = policy(process="flow"), torch.randn(3, 5)
    together = torch.stack([made.act(Observation(obs)) for _ in range(5)], 1)
    made.reset()
    alone = torch.stack([made.act(Observation(obs[1:2])) for _ in range(5)], 1)
    torch.testing.assert_close(together[1:2], alone)
    assert not torch.allclose(together[:, 0], together[:, 2])  # the third is of a second plan
    sent = pickle.loads(pickle.dumps(made))  # to a process that rolls out, in mid-episode
    assert torch.equal(sent.act(Observation(obs[1:2])), made.act(Observation(obs[1:2])))


def test_it_acts_with_the_average(tmp_path):
    made, obs = policy(), Observation(torch.randn(3, 5))
    before = made.plan(obs)
    with torch.no_grad():
        for p in made.model.parameters():
            p.add_(1.0)
    made.reset()
    assert torch.equal(made.plan(obs), before)
    made.after_step()
    save_policy(made, tmp_path / "policy.pt")
    again = load_policy(tmp_path / "policy.pt")
    made.reset()
    assert torch.equal(again.plan(obs), made.plan(obs)) and not torch.equal(made.plan(obs), before)


def test_chunks_end_with_their_episode():
    data = made_up_data("pair")
    chunks = data.chunks(200, 4, images=True)
    assert chunks.obs.state.shape == (200, 1, 5) and chunks.action.shape == (200, 4, 2)
    assert 0 < chunks.mask.mean() < 1 and (chunks.mask[:, 0] == 1).all()
    table = data.table
    starts = torch.tensor([0, int(table.closing[0]) - 1])
    first, last = table.chunks(starts, 3).action
    assert torch.equal(first, table.action[:3]) and torch.equal(last, table.action[starts[1]].expand(3, 2))
    assert table.chunks(starts, 3).mask.tolist() == [[1, 1, 1], [1, 0, 0]]


def test_several_seeds_learn_as_each_alone():
    """In the sense of the stack: each moves, by its own noise, from its own parameters."""
    learners = [build("algo/bc", policy="diffusion") for _ in range(2)]
    phase = phases(learners[0])[-1]
    batch = phase.draw(made_up_data("pair"))
    both = Segment(
        Observation(torch.stack([batch.obs.state] * 2)), torch.stack([batch.action] * 2), torch.stack([batch.mask] * 2)
    )
    before = learners[1].policy.model.denoiser.network.out.weight.clone()
    stack = LearnerStack(learners)
    update = stack.update(BC.update_chunks, both)  # type: ignore[arg-type]
    loss = update(both)["bc"]
    assert loss.shape == (2,) and loss[0] != loss[1]
    own = [learner.policy.model.denoiser.network.out.weight for learner in learners]
    assert not torch.equal(own[1], before) and not torch.equal(own[0], own[1])
    for learner in learners:
        assert learner.policy.average.count == 1


@pytest.mark.parametrize("make,sentence", [
    (lambda: policy(execute=5), "policy.execute=5 actions of a chunk of policy.horizon=4"),
    (lambda: policy(horizon=32), "the longest episode has 30 steps"),
    (lambda: build("algo/iql", policy="diffusion"), "algo=iql weighs single steps, and policy.horizon=4"),
    (lambda: build("algo/awac", policy="diffusion"), "algo=awac moves the mean of a Gaussian policy: policy=mlp"),
    (lambda: build("algo/bc", policy="diffusion", weights="ratings"), "algo.weights weighs single steps"),
])  # fmt: skip
def test_what_cannot_be_is_a_sentence(make, sentence):
    with pytest.raises(UserError, match=sentence):
        make()


def test_single_actions_train_by_weights_too():
    """With a horizon of 1 the bound of a single action weighs advantages, as in IDQL."""
    single = build("policy/diffusion", horizon=1, execute=1)
    iql = build("algo/iql", policy=single)
    (batch,) = draw_batches(iql, 1)
    assert iql.update(batch)["actor_loss"].isfinite() and single.average.count == 1
    assert single.log_prob(batch.obs, batch.action).shape == batch.reward.shape


def train_on_forks(choice, steps, **changes):
    table = Table(toy.forks())
    bc = build(
        "algo/bc", table.spec(), policy=build(f"policy/{choice}", table.spec(), **changes), lr=3e-3, batch_size=64
    )
    data = Data(table, torch.Generator().manual_seed(0))
    (phase,) = bc.phases(steps)
    for _ in range(steps):
        phase.update(phase.draw(data))
    return bc.policy


def test_a_mean_drives_into_the_pillar_and_a_diffusion_policy_passes_on_either_side():
    beside, _ = toy.share_past_the_pillar(train_on_forks("mlp", 500, hidden=[64, 64]))
    assert beside < 0.3
    diffusion = train_on_forks("diffusion", 500, process="edm", horizon=4, execute=4, width=32, layers=1)
    beside, left = toy.share_past_the_pillar(diffusion)
    assert beside > 0.9 and 0.25 < left < 0.75


def test_it_looks_through_cameras():
    """What is drawn and scored depends on the image of a chunk's first step, and on no other."""
    torch.manual_seed(0)
    spec = replace(SPEC, images={"front": (32, 32, 3)})
    made = build("policy/diffusion", spec, process="flow", channels=4, features=8, **POLICIES["diffusion"])
    with torch.no_grad():
        for p in [*made.model.parameters(), *made.average.module.buffers()]:
            if p.is_floating_point() and p.ndim:
                p.add_(0.1 * torch.randn_like(p))
    images = torch.randint(0, 256, (6, 2, 8, 32, 32, 3), dtype=torch.uint8)
    segment = segments(6, 2, length=8)
    seen = segment._replace(obs=Observation(segment.obs.state, {"front": images}))
    chance = made.draw_chance(seen)
    score = made.score(seen, chance)
    for row, changes in ((1, False), (4, True)):
        other = images.clone()
        other[:, :, row] = 255 - other[:, :, row]
        changed = made.score(seen._replace(obs=Observation(segment.obs.state, {"front": other})), chance)
        assert torch.allclose(changed, score) != changes
    state = segment.obs.state[:, 0, 0]
    first = made.plan(Observation(state, {"front": images[:, 0, 0]}))
    made.reset()
    assert not torch.allclose(first, made.plan(Observation(state, {"front": 255 - images[:, 0, 0]})))
