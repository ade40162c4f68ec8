"""A policy's own episodes as it decided them."""

import copy

import numpy as np
import pytest
import torch

from pbrl.data.rollout import PolicyActor, RolloutWorkers, rollout
from pbrl.data.scenes import scenes_of
from pbrl.data.trajectories import (
    ComparedRollouts,
    by_stages,
    from_state,
    join,
    likelihood,
    measure,
    play,
    play_iteration,
    score,
    take,
    to_state,
    to_trajectories,
)
from pbrl.stages.costs import Part
from pbrl.training.batches import Data
from pbrl.training.evaluate import evaluation_seeds
from pbrl.training.own_data import better_pairs
from pbrl.types import Spec
from tests import toy
from tests.parts import build, made_up_data

PLAN = ComparedRollouts(2, 6, 3, success=5.0, time=0.0, confidence=0.0, stages=0.0, margin=0.0, same_scene=True)
ENV = {"_target_": "tests.toy.Point", "horizon": 10, "goal_radius": 0.8}
SCENES = range(40, 46)


def chunky(images: bool = False):
    spec = Spec(2, 2, (0.0,) * 2, (1.0,) * 2, 10, {"above": (32, 32, 3)} if images else {})
    return build("policy/vla", spec, horizon=4, execute=3)


def test_a_trajectory_is_its_episode():
    policy = chunky(images=True)
    workers = RolloutWorkers({**ENV, "images": ["above"], "image_size": 32}, 1)
    played = play(workers, policy, SCENES, 2)
    own = to_trajectories(played, policy, 2, horizon=12)
    assert own.chunks.mask.shape == (12, 4, 4) and own.scene.tolist() == [i // 2 for i in range(12)]
    for i, (episode, images, *_) in enumerate(played):
        assert episode.seed == SCENES[i // 2] and len(episode.action) == 10
        until = np.argmax(episode.success) if episode.success.any() else 10
        made = -(-until // 3)
        np.testing.assert_array_equal(own.chunks.obs.state[i, :made], episode.obs[:until:3])
        carried_out = own.chunks.action[i][own.chunks.mask[i] > 0]
        np.testing.assert_array_equal(carried_out, episode.action[:until], "up to success")
        env = toy.Point(images=["above"], image_size=32)
        for d in range(made):
            env.restore(0, episode.state[3 * d], 3 * d)
            np.testing.assert_array_equal(own.chunks.obs.images["above"][i, d], env.render(32, 32))
        np.testing.assert_array_equal(images["above"][:made], own.chunks.obs.images["above"][i, :made])
        assert own.success[i] == episode.success.any()
        assert own.steps[i] == (np.argmax(episode.success) if episode.success.any() else 10)
    assert own.success.any() and not own.success.all()
    assert (own.chunks.mask[~own.success][:, -1].sum(-1) == 1).all(), "of the last chunk one action"
    torch.testing.assert_close(own.log_prob, policy.score_chunks(own.chunks))
    torch.testing.assert_close(likelihood(policy, own.chunks), own.log_prob)
    assert own.log_prob.shape == (12, 4) and torch.equal(own.part == 0, own.chunks.mask.any(-1))


def test_samples_of_a_scene_begin_alike_and_differ_then():
    played = play(RolloutWorkers(ENV, 1), chunky(), SCENES, 2)
    for one, other in zip(played[::2], played[1::2], strict=True):
        np.testing.assert_array_equal(one.episode.obs[0], other.episode.obs[0])
        assert not np.array_equal(one.episode.action, other.episode.action)
    again = play(RolloutWorkers(ENV, 1), chunky(), SCENES, 2)
    assert all(np.array_equal(a.episode.action, b.episode.action) for a, b in zip(played, again, strict=True))
    salted = play(RolloutWorkers(ENV, 1), chunky(), SCENES, 2, salt=1)
    assert not any(np.array_equal(a.episode.action, b.episode.action) for a, b in zip(played, salted, strict=True))


@pytest.mark.slow
def test_any_number_of_processes_plays_the_same():
    policies = {"vla": chunky(), "mlp": build("policy/mlp", chunky().spec, std=0.5)}
    for name, policy in policies.items():
        workers = RolloutWorkers(ENV, 2)
        together, alone = play(workers, policy, range(20), 2), play(RolloutWorkers(ENV, 1), policy, range(20), 2)
        workers.close()
        for a, b in zip(together, alone, strict=True):
            np.testing.assert_array_equal(a.episode.action, b.episode.action, name)


def test_scenes_are_no_others():
    used = [set(scenes_of(seed, iteration, 1000)) for seed in range(3) for iteration in range(1, 4)]
    assert sum(map(len, used)) == len(set().union(*used))
    assert not set().union(*used) & set(evaluation_seeds(1000, 20_000)) and max(map(max, used)) < 2**31


def test_scores():
    policy = chunky()
    own = to_trajectories(play(RolloutWorkers(ENV, 1), policy, SCENES, 2), policy, 2, 10)
    won = torch.arange(12) % 3 == 0
    own.success, own.steps = won, torch.arange(12)
    found = score(own, PLAN._replace(time=1.0, confidence=0.5), 10).score
    per_step = own.log_prob.sum(-1) / own.chunks.mask.sum((-2, -1))
    expected = 5.0 * won - torch.arange(12) / 10 + 0.5 * per_step
    torch.testing.assert_close(found[:, 0], expected)
    assert measure(score(own, PLAN, 10))["telling_scenes"] == pytest.approx(4 / 6)
    again = from_state(to_state(own))
    assert torch.equal(again.chunks.action, own.chunks.action) and torch.equal(again.log_prob, own.log_prob)


def test_only_episodes_that_scored_differently_in_one_scene_are_compared():
    own = play_iteration(RolloutWorkers(ENV, 1), chunky(), PLAN, 0, 1)
    own.score = torch.tensor([0.0, 1.0, 3.0] * 2 + [2.0] * 12)[:, None]
    assert better_pairs(own, 0.0, True)[:, :2].tolist() == [[0, 1], [0, 2], [1, 2], [3, 4], [3, 5], [4, 5]]
    assert better_pairs(own, 1.0, True)[:, :2].tolist() == [[0, 2], [1, 2], [3, 5], [4, 5]]
    assert len(better_pairs(own, 0.0, False)) > 50
    data = made_up_data("pair")
    data.set_trajectories(own, margin=0.0, same_scene=True)
    drawn = data.trajectory_comparisons(200)
    assert set(drawn.label.tolist()) == {0.0, 1.0} and drawn.confidence.all()
    marked = data.trajectory_comparisons(200, unpaired=True)
    assert marked.label.sum(1).tolist() == [1.0] * 200
    own.score = torch.zeros(18, 1)
    data.set_trajectories(own, margin=0.0, same_scene=True)
    assert not data.trajectory_comparisons(8).confidence.any(), "nothing to compare"


def test_the_label_is_of_the_second_episode():
    own = play_iteration(RolloutWorkers(ENV, 1), chunky(), PLAN, 0, 1)
    own.score = torch.arange(18.0)[:, None]
    own.log_prob = torch.arange(18.0)[:, None].expand(18, own.part.shape[1])  # to be recognised by
    data = Data(made_up_data("pair").table, torch.Generator().manual_seed(0))
    data.set_trajectories(own, margin=0.0, same_scene=True)
    for unpaired in (False, True):
        drawn = data.trajectory_comparisons(100, unpaired=unpaired)
        is_second_better = drawn.log_prob[:, 1, 0] > drawn.log_prob[:, 0, 0]
        label = drawn.label[:, 1] if unpaired else drawn.label
        assert torch.equal(label, is_second_better.float()) and 20 < label.sum() < 80
    data.set_trajectories(own, margin=0.0, same_scene=True, mistake=1.0)
    wrong = data.trajectory_comparisons(100)
    better = wrong.log_prob[:, 1, 0] > wrong.log_prob[:, 0, 0]
    assert torch.equal(wrong.label, 1 - better.float()), "all say the opposite"
    data.set_trajectories(own, margin=0.0, same_scene=True, mistake=0.3)
    mixed = data.trajectory_comparisons(2000)
    better = mixed.log_prob[:, 1, 0] > mixed.log_prob[:, 0, 0]
    assert 0.1 < (mixed.label != better.float()).float().mean() < 0.5


def test_branches_are_one_episode_until_they_begin():
    plan = PLAN._replace(compare="branches", branch=2, scenes=12, confidence=1.0)
    policy, never = chunky(), {**ENV, "goal_radius": 0.0}
    own = play_iteration(RolloutWorkers(never, 1), policy, plan, 0, 1)
    decided, drawn = own.part.shape[1], own.part == 0
    assert decided == 4 and set(own.part.unique().tolist()) == {-1, 0}
    begins = drawn.float().argmax(-1)
    assert len(begins.unique()) == decided and set(drawn.sum(-1).tolist()) == {1, 2}, "each as often as another"
    for scene in range(12):
        one, *others = (scene * 3 + i for i in range(3))
        begin = int(begins[one])
        for other in others:
            assert torch.equal(drawn[one], drawn[other])
            assert torch.equal(own.chunks.obs.state[one, : begin + 1], own.chunks.obs.state[other, : begin + 1])
            assert torch.equal(own.chunks.action[one, :begin], own.chunks.action[other, :begin])
            assert not torch.equal(own.chunks.action[one, begin], own.chunks.action[other, begin])
        for d in range(decided):  # all that is not drawn is what the policy likes best there
            if not drawn[one, d]:
                policy.reset()
                planned = policy.plan(take(own.chunks, torch.tensor([one])).obs._replace(
                    state=own.chunks.obs.state[one, d][None]))  # fmt: skip
                mask = own.chunks.mask[one, d][:, None]
                assert torch.equal(own.chunks.action[one, d] * mask, planned[0] * mask)
    data = made_up_data("pair")
    data.set_trajectories(own, margin=0.0, same_scene=True)
    batch = data.trajectory_comparisons(64)
    assert set(batch.is_compared.sum(-1).flatten().tolist()) == {1.0, 2.0}
    torch.testing.assert_close(policy.score_chunks(batch.chunks), batch.log_prob)


def test_stages_are_compared_with_each_other():
    """Two of a scene: one does its first stage until step 6 and succeeds, the other comes to the second at step 3."""
    own = play_iteration(RolloutWorkers(ENV, 1), chunky(), PLAN._replace(scenes=1, samples=3), 0, 1)
    own.success = torch.tensor([True, False, False])
    parts = [
        [Part(0, 6, 0.5, True), Part(6, 10, 0.2, False)],
        [Part(0, 3, 0.1, True), Part(3, 10, 0.4, False)],
        [Part(0, 10, 0.3, False), Part(10, 10, 1.0, False)],
    ]
    plan = PLAN._replace(stages=1.0, compare="stages")
    found = by_stages(own, parts, plan, execute=3)
    assert found.part.tolist() == [[0, 0, 1, 1], [0, 1, 1, 1], [0, 0, 0, 0]]
    cost = torch.tensor([[0.5, 0.2], [0.1, 0.4], [0.3, 1.0]])
    good = torch.tensor([[True, True], [True, False], [False, False]])
    torch.testing.assert_close(found.score, 5.0 * good + (-cost).exp())
    pairs = [[2, 0, 0], [0, 1, 0], [2, 1, 0], [1, 0, 1]]  # worse, better, stage; the third never came to the second
    assert sorted(better_pairs(found, 0.0, True).tolist()) == sorted(pairs)
    data = made_up_data("pair")
    data.set_trajectories(found, margin=0.0, same_scene=True)
    batch = data.trajectory_comparisons(100)
    steps = (batch.chunks.mask.sum(-1) * batch.is_compared).sum(-1).long()
    assert {tuple(sorted(row)) for row in steps.tolist()} == {(3, 6), (6, 10), (3, 10), (4, 7)}


def test_episodes_of_several_iterations_are_joined():
    workers = RolloutWorkers(ENV, 1)
    first, second = (play_iteration(workers, chunky(), PLAN, 0, i) for i in (1, 2))
    own = join([first, second])
    assert len(own) == 36 and own.scene.tolist() == [i // 3 for i in range(36)]
    assert torch.equal(own.chunks.action[18:], second.chunks.action) and torch.equal(own.score[:18], first.score)
    assert join([first]) is first


def test_images_are_rendered_only_where_a_policy_looks(monkeypatch):
    policy, drawn = chunky(images=True), []
    render = toy.Point.render
    monkeypatch.setattr(toy.Point, "render", lambda self, *args: drawn.append(self.t) or render(self, *args))
    env = toy.Point(horizon=10, images=["above"], image_size=32)
    seen = copy.copy(env)
    (episode,) = rollout([env], PolicyActor(policy), [7])
    assert drawn == [0, 3, 6, 9] and len(episode.obs) == 11
    assert seen.renders and env.renders
