"""Any registered Gymnasium environment: what it observes, what it takes, whether it can be restored, its frames."""

import os
from pathlib import Path

import av
import gymnasium
import numpy as np
import pytest
from gymnasium.spaces import Box, Dict

from pbrl.data import collect, frames
from pbrl.data.behaviours import Behaviour, Noise, Offset, Random
from pbrl.data.episodes import episode_id, read
from pbrl.data.rendering import Renderers
from pbrl.data.rollout import RolloutWorkers, rollout
from pbrl.data.table import Table
from pbrl.data.video import read_frames, read_video_info
from pbrl.feedback.page.clips import Clips, Look
from pbrl.feedback.sources.reference import Reference
from pbrl.models.policy import load_policy
from pbrl.run import train as run
from pbrl.types import UserError
from sim.gymnasium_env import Gymnasium, fit
from sim.spaces import ActionScale, ObservationParts
from tests import forks
from tests.parts import config
from tests.sim import worlds

OURS = {"module": "tests.sim.worlds"}
RUN = ("env=gymnasium", "env.module=tests.sim.worlds", "feedback=perfect", "workers=0", "compile=never",
       "compare=false", "steps=6", "eval_every=3", "eval_episodes=2", "final_episodes=2", "query.count=12",
       "query.length=4", "data.episodes=6", "algo.pretrain_steps=2")  # fmt: skip


def make(name: str, **more) -> Gymnasium:
    return Gymnasium(f"{name}-v0", **OURS, **more)


def env_of(name: str, *flags: str) -> dict:
    return config("env=gymnasium", "env.module=tests.sim.worlds", f"env.id={name}-v0", *flags)["env"]


def collect_data(folder, name: str, *flags: str, episodes: int = 4):
    env = env_of(name, *flags)
    data = config("data=random", f"data.episodes={episodes}")["data"]
    return env, *collect.load_dataset(env, data, folder=folder, seed=0, workers=0)


def test_a_vector_and_custom_bounds():
    env = make("Puck")
    first, info = env.reset(seed=3)
    assert first.dtype == np.float32 and first in env.observation_space and info == {"success": False}
    assert env.action_space.shape == (3,) and (env.horizon, env.control_hz) == (20, 10.0)
    obs, _, _, truncated, info = env.step(np.array([1.0, -1.0, 0.3]))  # the third has one value alone
    np.testing.assert_allclose(obs[:2] - first[:2], [0.1, -0.1], atol=1e-6)
    assert not truncated and info["success"] in (True, False)
    assert np.array_equal(env.reset(seed=3)[0], first), "an episode depends on its seed alone"
    assert [env.step(np.zeros(3))[3] for _ in range(20)] == [False] * 19 + [True]


def test_a_dict_is_flattened_in_its_order():
    env = make("GoalPuck")
    obs, _ = env.reset(seed=0)
    raw = env.full_obs
    np.testing.assert_allclose(obs, [*raw["desired_goal"], 0, 0, 1, *raw["observation"]], atol=1e-6)


def test_success_only_where_it_is_reported():
    assert make("Puck").has_success and not make("Puck", kwargs={"reports_success": False}).has_success
    env = make("Puck", kwargs={"reports_success": False})
    assert "success" not in env.reset(seed=0)[1] and "success" not in env.step(np.zeros(3))[4]
    assert rollout([env], Random(), [0])[0].success is None
    named = make("Puck", success="is_success")
    named.reset(seed=0)
    assert "success" in named.step(np.zeros(3))[4]


@pytest.mark.parametrize(("name", "restored"), [
    ("Puck", False), ("RestorablePuck", True), ("ForgetfulPuck", False), ("PixelPuck", False),
])  # fmt: skip
def test_restoring_is_tried(name, restored):
    env = make(name)
    env.reset(seed=0)
    assert env.can_restore == restored == (env.save_state() is not None)
    if not restored:
        with pytest.raises(UserError, match="cannot be restored.*env.frames=true"):
            env.restore(0, np.zeros(2))


@pytest.mark.parametrize("flags", [
    {"id": "Hopper-v5"}, {"id": "FetchReach-v4", "module": "gymnasium_robotics"},
    {"id": "RestorablePuck-v0", **OURS},
])  # fmt: skip
def test_a_restored_state_goes_on_to_the_bit(flags):
    env, actions = Gymnasium(**flags), np.random.default_rng(1).uniform(-1, 1, (12, 4))
    actions = actions[:, : env.action_space.shape[0]]
    env.reset(seed=7)
    steps, states = [], [env.save_state()]
    for action in actions:
        steps.append(env.step(action))
        states.append(env.save_state())
    env.reset(seed=8)
    env.restore(7, states[5], 5)
    for step, action in zip(steps[5:], actions[5:], strict=True):
        obs, reward, *rest, info = env.step(action)
        np.testing.assert_array_equal(obs, step[0])
        assert (reward, *rest, info.get("success")) == (*step[1:4], step[4].get("success"))
    env.close()


def test_a_mujoco_environment_that_is_restored_nearly_is_so_on_demand():
    """The gripper of FetchPickAndPlace is moved by where it was a substep ago."""
    exact, near = (Gymnasium("FetchPickAndPlace-v4", module="gymnasium_robotics", restore=how)
                   for how in ("auto", "always"))  # fmt: skip
    assert not exact.can_restore and near.can_restore
    obs, _ = near.reset(seed=0)
    for _ in range(5):
        obs = near.step(np.ones(4))[0]
    state = near.save_state()
    near.reset(seed=1)
    np.testing.assert_allclose(near.restore(0, state, 5), obs, atol=0.02)


@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        ({"id": "ButtonPuck-v0"}, r"actions in Discrete\(4\)"),
        ({"id": "BoundlessPuck-v0"}, "without bounds.*finite bounds"),
        ({"id": "PairPuck-v0"}, "observes Tuple.*TransformObservation"),
        ({"id": "FloatPixelPuck-v0"}, "read neither as numbers nor as an image"),
        ({"id": "EndlessPuck-v0"}, "env.horizon=200"),
        ({"id": "Nowhere-v0"}, "no Gymnasium environment Nowhere-v0.*not in tests.sim.worlds"),
        ({"id": "Nowhere-v0", "module": None}, "env.module=my_package"),
        ({"id": "Puck-v0", "module": "no_such_package"}, "no_such_package cannot be imported.*PYTHONPATH"),
        ({"id": "Puck-v0", "kwargs": {"color": "red"}}, "env.kwargs"),
        ({"id": "Puck-v0", "expert": "tests.sim.worlds:nothing"}, "package.module:function"),
        ({"id": "Puck-v0", "expert": "homing"}, "package.module:function|cannot be imported"),
        ({"id": "Puck-v0", "restore": "maybe"}, "auto, always, never"),
        ({"id": "PixelPuck-v0", "images": []}, r"env.images=\[pixels\]"),
        ({"id": "PixelPuck-v0", "images": ["front"]}, "no image front; it observes pixels"),
        ({"id": "PixelPuck-v0", "images": ["pixels"], "frames": False}, "env.frames=true"),
    ],
)
def test_unsupported_spaces_are_explained(flags, sentence):
    with pytest.raises(UserError, match=sentence):
        Gymnasium(**{**OURS, **flags})


def test_what_the_spaces_do_not_say_is_explained():
    """Mistakes of one's own environment or expert: an observation or an action of another shape."""
    parts = ObservationParts(Dict({"near": Box(-1, 1, (2,)), "far": Box(-1, 1, (1,))}), "Mine-v0")
    for observation, words in (
        ({"near": [0, 0], "far": [0, 0]}, "Mine-v0 returned an observation of 4 numbers.*observation_space has 3"),
        ({"near": [0, 0]}, "without far"),
        ([0, 0, 0], "without near|without far"),
    ):
        with pytest.raises(UserError, match=words):
            parts.state(observation)
    with pytest.raises(UserError, match=r"shape \(3,\), and actions are \(2,\)"):
        ActionScale(Box(-1, 1, (2,)), "Mine-v0").from_environment([0, 0, 0])


def test_images_of_cameras():
    env = make("CameraPuck", images=["cameras.gray", "cameras.color"], image_size=16)
    obs, _ = env.reset(seed=0)
    assert obs in env.observation_space and list(obs["images"]) == ["cameras.gray", "cameras.color"]
    assert obs["state"].shape == (2,)
    color = env.full_obs["cameras"]["color"]
    np.testing.assert_allclose(obs["images"]["cameras.color"], color.reshape(16, 2, 16, 2, 3).mean((1, 3)), atol=1)
    assert np.ptp(obs["images"]["cameras.gray"], axis=2).max() == 0
    assert make("CameraPuck").reset(seed=0)[0].shape == (2,), "images are left out unless they are asked for"


def test_a_scripted_expert_on_the_environments_own_observations():
    for expert, least in (("homing", 0.9), ("Hesitant", 0.6)):
        env = make("Puck", expert=f"tests.sim.worlds:{expert}")
        episodes = rollout([env], Behaviour(), range(10))
        assert np.mean([e.success.any() for e in episodes]) >= least
        assert all(np.abs(e.action).max() <= 1 for e in episodes)
    still = [e.action[:5, :2] for e in episodes]
    assert np.abs(still).max() < 1e-6, "each episode has an expert of its own"
    noisy = rollout([make("Puck", expert="tests.sim.worlds:homing")], Noise(strength=2.0), range(10))
    assert np.mean([e.reward.sum() for e in noisy]) < np.mean([e.reward.sum() for e in episodes])
    with pytest.raises(UserError, match="env.expert=my_package:my_expert"):
        rollout([make("Puck")], Behaviour(), [0])


def test_an_offset_needs_to_know_where_objects_are():
    given = {"expert": "tests.sim.worlds:homing"}
    with pytest.raises(UserError, match=r"env.objects=\[\[4,7\]\]"):
        rollout([make("Puck", **given)], Offset(bias=[1, 1, 1], hold=None, strength=0.1), [0])
    displaced = rollout([make("Puck", **given, objects=[[1, 4]])], Offset(bias=[0, 0, 0], hold=None, strength=0.5), [0])
    assert not np.array_equal(displaced[0].action, rollout([make("Puck", **given)], Behaviour(), [0])[0].action)


def test_frames_are_kept_while_playing(tmp_path):
    env, episodes, dataset = collect_data(tmp_path, "Puck", "env.instruction=to the target")
    folder = next(tmp_path.glob("gymnasium-Puck-v0-random-*"))
    world = make("Puck")
    for episode in episodes:
        assert episode.state is None and episode.video is not None and episode.video.is_relative_to(folder)
        assert episode.instruction == "to the target"
        source = read_video_info(episode.video)
        assert len(source.shown) == len(episode.obs) and source.fps == pytest.approx(10)
        world.reset(seed=episode.seed)
        for t, frame in enumerate(read_frames(episode.video, source, first=0, last=21, height=None)):
            assert np.abs(frame.astype(float) - world.render(98, 98)).mean() < 6
            if t < 20:
                world.step(episode.action[t])
    with av.open(str(episodes[0].video)) as container:
        assert container.streams.video[0].codec_context.pix_fmt == "yuv420p"
    assert not list(tmp_path.glob(".frames-*")), "nothing is left beside the data set"
    again, same = collect.load_dataset(env, config("data=random", "data.episodes=4")["data"], folder=tmp_path, seed=0,
                                       workers=0)  # fmt: skip
    assert same == dataset and [episode_id(e) for e in again] == [episode_id(e) for e in episodes]
    source = {"env": env, "data": {"path": str(folder)}, "folder": tmp_path, "seed": 0, "workers": 0}
    clips = Clips(Renderers(source), tmp_path / "clips", look=Look(64, 10), limit_mb=10)
    try:
        assert len(read_video_info(clips.get("a", 24, 8).result()).shown) == 8
    finally:
        clips.renderers.close()
    episodes[1].video.unlink()
    with pytest.raises(UserError, match="damaged.*delete it"):
        read(folder)


def test_frames_can_be_left_out(tmp_path):
    for name, flag in (("Puck", "env.frames=false"), ("SilentPuck", "env.frames=true"), ("RestorablePuck", "seed=0")):
        _, episodes, _ = collect_data(tmp_path, name, flag)
        assert all(e.video is None for e in episodes) and (episodes[0].state is None) == (name != "RestorablePuck")
    table = Table(collect_data(tmp_path, "SilentPuck")[1])
    with pytest.raises(UserError, match="cannot be restored: choose feedback=perfect"):
        Reference(table, RolloutWorkers(env_of("Puck"), 0), dataset="x", folder=tmp_path, discount=0.9, policy=None,
                  steps=5)  # fmt: skip


def test_observed_images_are_kept_to_the_bit(tmp_path):
    name, images = "CameraPuck", ["cameras.color", "cameras.gray"]
    flags = ["env.images=[cameras.color,cameras.gray]", "env.image_size=32"]
    env, episodes, dataset = collect_data(tmp_path, name, *flags)
    found = frames.load_images(env, episodes, dataset, folder=tmp_path, workers=0)
    world = make(name, images=images, image_size=32)
    row = 0
    for episode in episodes:
        obs, _ = world.reset(seed=episode.seed)
        for t in range(len(episode.obs)):
            for camera in images:
                np.testing.assert_array_equal(found[camera][row + t], obs["images"][camera])
            obs = world.step(episode.action[t])[0] if t < len(episode.action) else obs
        row += len(episode.obs)
    assert row == len(found["cameras.gray"])


def test_pixels_alone_train_a_policy(tmp_path):
    result = run.train(config(*RUN, "env.id=PixelPuck-v0", "env.images=[pixels]", "env.image_size=32", "data=random",
                              "algo=cpl", f"run={tmp_path / 'run'}", f"data_dir={tmp_path}"))  # fmt: skip
    assert result["policy"]["last"]["episodes"] == 2 and load_policy(tmp_path / "run").spec.obs_dim == 0
    assert len(read_video_info(tmp_path / "run" / "policy.mp4").shown) > 20


def test_a_regret_teacher_with_a_custom_expert(tmp_path):
    flags = ["env.id=RestorablePuck-v0", "env.expert=tests.sim.worlds:homing", "data=noise", "data.success=null",
             "data.behaviour.strength=0.5", "feedback=regret", "reference.steps=5", "video=false"]  # fmt: skip
    flags = [*RUN, *flags, f"run={tmp_path / 'run'}", f"data_dir={tmp_path}"]
    assert run.train(config(*flags))["answers"]["answered"] == 12


def test_processes_make_the_same_episodes(tmp_path):
    env, episodes, dataset = collect_data(tmp_path / "a", "Puck", "env.frames=false", episodes=6)
    data = config("data=random", "data.episodes=6")["data"]
    assert collect.load_dataset(env, data, folder=tmp_path / "b", seed=0, workers=2)[1] == dataset


def test_a_frame_fits():
    wide = np.full((10, 40, 3), 200, np.uint8)
    found = fit(wide, 20, 20)
    assert found.shape == (20, 20, 3) and (found[8:12] == 200).all() and not found[:7].any() and not found[13:].any()


def test_a_custom_package_from_the_command_line(tmp_path):
    (tmp_path / "my_package.py").write_text(Path(worlds.__file__).read_text())
    command = ["train.py", "env=gymnasium", "env.id=Puck-v0", "env.module=my_package", "data=random",
               "data.episodes=3", "feedback=perfect", "only=data", f"data_dir={tmp_path}"]  # fmt: skip
    done = forks.run(command, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": str(tmp_path)})
    assert done.returncode == 0 and "3 episodes" in done.stdout, done.stderr


def test_without_a_renderer_the_error_says_what_to_do(tmp_path, monkeypatch):
    def render(self):
        raise gymnasium.error.DependencyNotInstalled("pygame is not installed")

    monkeypatch.setattr(worlds.Puck, "render", render)
    with pytest.raises(UserError, match="pygame is not installed.*env.frames=false"):
        rollout([make("Puck")], Random(), [0], tmp_path)
    assert rollout([make("Puck", frames=False)], Random(), [0], tmp_path)[0].video is None
