"""Evaluation against closed forms, clips that play, and a network of values that is right."""

import av
import numpy as np
import pytest
import torch
from scipy.stats import spearmanr

from pbrl import reference
from pbrl.evaluate import evaluate, summarize
from pbrl.rollout import Players
from pbrl.table import Table
from pbrl.video import frames, write_gif, write_mp4
from tests import toy
from tests.test_episodes import POINT, Still


def test_summary_of_known_episodes():
    made = toy.episodes(40)
    found = summarize(made)
    returns = np.array([e.reward.sum() for e in made])
    assert found.return_mean == pytest.approx(returns.mean()) and found.success == np.mean(
        [e.success.any() for e in made]
    )
    assert found.success_at_end == np.mean([e.success[-1] for e in made])
    assert found.return_iqm == pytest.approx(np.sort(returns)[10:30].mean())
    low, high = found.return_interval
    assert low < returns.mean() < high and high - low == pytest.approx(4 * returns.std() / 40**0.5, rel=0.15)
    k, n, z = found.success * 40, 40, 1.959964  # Wilson's interval
    centre, half = (k + z * z / 2) / (n + z * z), z / (n + z * z) * np.sqrt(k * (n - k) / n + z * z / 4)
    assert found.success_interval == pytest.approx((centre - half, centre + half), abs=1e-6)


def test_evaluation_is_seeded_and_the_same_in_any_number_of_processes():
    one, two = Players(POINT, 0), Players(POINT, 2)
    try:
        a, b, c = evaluate(one, Still(), 20), evaluate(two, Still(), 20), evaluate(one, Still(), 20, seed=5)
    finally:
        two.close()
    assert a == b and a.return_mean == pytest.approx(30, abs=1e-4) and a.episodes == 20 and a != c or a.success == 0


def test_the_reference_value_is_the_experts():
    table = Table(toy.episodes(60))
    settings = {
        "policy": None,
        "rollouts": 60,
        "steps": 30,
        "hidden": [64, 64],
        "lr": 3e-3,
        "batch_size": 128,
        "updates": 800,
    }
    obs, returns = reference.play_on(table, POINT, settings, workers=0, discount=0.9)
    value, error = reference.fit(table.spec(), obs, returns, settings)
    assert error < 0.05
    points = torch.rand(200, 2) * 2 - 1
    distance = points.norm(dim=1)
    assert spearmanr(value(points).detach(), -distance).statistic > 0.97
    assert value(torch.zeros(1, 2)).item() == pytest.approx(20.0, abs=0.4)  # 2 / (1 - discount), at home for good


def test_a_clip_plays(tmp_path):
    import sim  # noqa: F401
    from pbrl.behaviours import Random
    from pbrl.rollout import rollout
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
