"""Evaluation against closed forms, clips that play, and reference values."""

import os
import threading

import av
import numpy as np
import pytest
import torch

from pbrl.data.rollout import PolicyActor, RolloutWorkers, rollout
from pbrl.data.table import Table
from pbrl.data.video import frames, write_gif, write_mp4
from pbrl.feedback.sources import reference
from pbrl.feedback.sources.reference import Reference
from pbrl.models.gaussian import GaussianPolicy
from pbrl.models.policy import save_policy
from pbrl.training.evaluate import evaluate, evaluation_seeds, summarize
from pbrl.types import UserError
from tests import toy
from tests.data.test_episodes import POINT, Still
from tests.parts import SPEC


def test_summary_of_known_episodes():
    collected = toy.episodes(40)
    found = summarize(collected)
    returns = np.array([e.reward.sum() for e in collected])
    assert found.return_mean == pytest.approx(returns.mean()) and found.success == np.mean(
        [e.success.any() for e in collected]
    )
    assert found.success_at_end == np.mean([e.success[-1] for e in collected])
    assert found.return_iqm == pytest.approx(np.sort(returns)[10:30].mean())
    low, high = found.return_interval
    assert low < returns.mean() < high and high - low == pytest.approx(4 * returns.std() / 40**0.5, rel=0.15)
    k, n, z = found.success * 40, 40, 1.959964  # Wilson's interval
    centre, half = (k + z * z / 2) / (n + z * z), z / (n + z * z) * np.sqrt(k * (n - k) / n + z * z / 4)
    assert found.success_interval == pytest.approx((centre - half, centre + half), abs=1e-6)


def test_evaluation_is_seeded_and_the_same_in_any_number_of_processes():
    one, two = RolloutWorkers(POINT, 0), RolloutWorkers(POINT, 2)
    try:
        policy = GaussianPolicy(toy.table(4).spec(), hidden=[8], dropout=0.0, std=0.0)
        a, b, c = evaluate(one, policy, 20), evaluate(two, policy, 20), evaluate(one, policy, 20, seed=5)
        still = evaluate(one, Still(), 20)
    finally:
        two.close()
    assert a == b and a.episodes == 20
    assert a.return_mean != c.return_mean
    assert still.return_mean == pytest.approx(30, abs=1e-4)
    assert evaluate(one, policy, 1).episodes == 1


def test_workers_leave_the_threads_of_updates_alone():
    """A second owner of OpenMP threads would let all of them sleep between the products of an update."""

    def others() -> set[str]:
        python = {str(thread.native_id) for thread in threading.enumerate()}
        return {task for task in os.listdir("/proc/self/task") if task not in python}

    threads, workers = torch.get_num_threads(), RolloutWorkers(POINT, 2)
    torch.set_num_threads(2)
    try:
        torch.randn(256, 256).relu()
        before = others()
        evaluate(workers, GaussianPolicy(toy.table(4).spec(), hidden=[256, 256], dropout=0.0, std=0.0), 4)
        assert others() <= before
    finally:
        workers.close()
        torch.set_num_threads(threads)


class Rememberer:
    """Keeps all it is shown, as a transformer does, and walks on."""

    spec, reads_words = SPEC, False

    def reset(self):
        self.observed = []

    def looks(self):
        return True

    def act(self, obs, explore=False):
        self.observed.append(obs.state)
        return torch.full((len(obs.state), 2), 0.3)


def test_observations_given_to_a_policy_do_not_change():
    policy = Rememberer()
    episodes = rollout([toy.Point(), toy.Point()], PolicyActor(policy), [1, 2])
    np.testing.assert_array_equal(torch.stack(policy.observed, 1), [e.obs[:-1] for e in episodes])


def test_the_reference_value_is_the_expert_return(tmp_path):
    table, workers = Table(toy.episodes(6)), RolloutWorkers({**POINT, "horizon": 1000}, 0)
    settings = {"dataset": "x", "folder": tmp_path, "discount": 0.9, "policy": None, "steps": 60}
    first = Reference(table, workers, **settings)
    rows = np.array([[0, 5], [31, 40]])
    found = first.values(rows)
    position, expected = table.obs[torch.from_numpy(rows)].double().numpy(), 0.0
    arrived = np.zeros(rows.shape, bool)
    for t in range(500):  # by axes: a tenth a step, and half of what is left once that is less; then it stays there
        position = np.where(arrived[..., None], position, position - 0.1 * np.clip(5 * position, -1, 1))
        arrived |= np.linalg.norm(position, axis=-1) < 0.3
        expected = expected + 0.9**t * (2 - np.linalg.norm(position, axis=-1))
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    assert first.values(rows[0]).tolist() == found[0].tolist()
    assert Reference(table, workers, **settings).known == first.known  # kept for the next run


def test_runs_that_share_a_reference_keep_each_others_values(tmp_path):
    table, workers = Table(toy.episodes(6)), RolloutWorkers(POINT, 0)
    settings = {"dataset": "x", "folder": tmp_path, "discount": 0.9, "policy": None, "steps": 20}
    one, two = Reference(table, workers, **settings), Reference(table, workers, **settings)
    one.values(np.arange(10))
    two.values(np.arange(10, 20))
    assert sorted(Reference(table, workers, **settings).known) == list(range(20))


def test_an_interrupted_reference_rollout_loses_little(tmp_path, monkeypatch):
    table, workers = Table(toy.episodes(6)), RolloutWorkers(POINT, 0)
    settings = {"dataset": "x", "folder": tmp_path, "discount": 0.9, "policy": None, "steps": 20}
    monkeypatch.setattr(reference, "KEEP_EVERY", 0.0)
    whole = workers.map

    def stopped(*args):
        for i, found in whole(*args):
            if i == 2:
                raise KeyboardInterrupt
            yield i, found

    monkeypatch.setattr(workers, "map", stopped)
    with pytest.raises(KeyboardInterrupt):
        Reference(table, workers, **settings).values(np.arange(40))
    assert sorted(Reference(table, workers, **settings).known) == list(range(16))


def test_a_learnt_policy_may_be_the_reference(tmp_path):
    table, workers = Table(toy.episodes(6)), RolloutWorkers({**POINT, "horizon": 1000}, 0)
    policy = GaussianPolicy(table.spec(), hidden=[4], dropout=0.0, std=0.0)
    for p in policy.parameters():
        p.data.zero_()  # stands still
    save_policy(policy, tmp_path / "policy.pt")
    learnt = Reference(table, workers, dataset="x", folder=tmp_path, discount=0.9, policy=str(tmp_path), steps=50)
    distance = table.obs[7].norm().item()
    assert learnt.values(np.array([7]))[0] == pytest.approx(10 * (2 - distance), rel=1e-4)


def test_reference_value_is_the_mean_of_noisy_rollouts(tmp_path):
    table, workers = Table(toy.episodes(6)), RolloutWorkers(POINT, 0)
    settings = {"dataset": "x", "discount": 0.9, "policy": None, "steps": 20, "noise": 0.5}
    rows = np.arange(0, 120, 4)
    few = Reference(table, workers, folder=tmp_path, samples=8, **settings).values(rows)
    again = Reference(table, workers, folder=tmp_path / "b", samples=8, **settings).values(rows[::-1])[::-1]
    many = Reference(table, workers, folder=tmp_path, samples=32, **settings).values(rows)
    exact = Reference(table, workers, folder=tmp_path, **{**settings, "noise": 0.0}).values(rows)
    assert (few == again).all() and (few != many).all() and (many < exact).all()
    assert np.abs(few - many).mean() < 0.25 * (exact - many).mean()
    with pytest.raises(UserError, match="several differ by noise"):
        Reference(table, workers, folder=tmp_path, samples=4, **{**settings, "noise": 0.0})


def test_without_states_there_is_no_reference_value(tmp_path):
    table = Table([e._replace(state=None) for e in toy.episodes(3)])
    with pytest.raises(UserError, match="feedback=perfect"):
        Reference(table, RolloutWorkers(POINT, 0), dataset="x", folder=tmp_path, discount=0.9, policy=None, steps=50)


def test_a_clip_plays(tmp_path):
    import sim  # noqa: F401
    from pbrl.data.behaviours import Random
    from pbrl.data.rollout import rollout
    from sim.gym import Gym

    env = Gym("hopper")
    episode = rollout([env], Random(), [3])[0]
    images = list(frames(env, episode, width=96, height=64))
    write_mp4(tmp_path / "clip.mp4", images, fps=25)
    with av.open(str(tmp_path / "clip.mp4")) as container:
        stream = container.streams.video[0]
        decoded = [frame.to_ndarray(format="rgb24") for frame in container.decode(stream)]
        assert stream.codec_context.name == "h264" and stream.codec_context.pix_fmt == "yuv420p"
    assert len(decoded) == len(images) == len(episode.obs)
    assert np.abs(decoded[5].astype(float) - images[5]).mean() < 12
    write_gif(tmp_path / "clip.gif", images[:5], fps=10)
    assert (tmp_path / "clip.gif").stat().st_size > 500
    env.close()


def test_evaluation_seeds_are_none_of_one_another():
    first, second = set(evaluation_seeds(50)), set(evaluation_seeds(50, seed=1))
    assert len(first) == 50 and not first & second
