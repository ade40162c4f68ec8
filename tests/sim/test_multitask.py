"""Several tasks in one environment: which one, where and in which words follows from the seed alone."""

import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

from pbrl.data.rollout import make_environment
from pbrl.types import UserError
from sim import multitask
from sim.instructions import METAWORLD, PHRASINGS
from sim.multitask import ROBOT, SETS
from tests.parts import config

MT10 = SETS["mt10"]


def make(*flags: str):
    return make_environment(config("env=multitask/mt10", *flags)["env"])


@pytest.fixture(scope="module")
def env():
    made = make()
    yield made
    made.close()


def test_seeds_take_tasks_in_turn(env):
    tasks = []
    for seed in range(20):
        obs, info = env.reset(seed=seed)
        tasks.append(info["task"])
        assert env.task == info["task"] and env.instruction == info["instruction"]
        assert info["instruction"] in PHRASINGS[info["task"]].training and info["success"] is False
        assert obs.shape == (39,) and env.observation_space.contains(obs)
    assert tasks == [*MT10, *MT10]


def test_a_seed_says_all_whatever_came_before(env):
    first, info = env.reset(seed=12)
    env.reset(seed=3), env.step(np.ones(4)), env.reset(seed=22)
    again, same = env.reset(seed=12)
    np.testing.assert_array_equal(first, again)
    assert info == same
    assert not np.array_equal(first, env.reset(seed=32)[0]), "another scene of the same task"


def test_its_episodes_are_restored_to_the_bit(env):
    for seed in (1, 4):  # of tasks whose states are of different sizes
        env.reset(seed=seed)
        expert, kept = env.expert(), []
        for _ in range(12):
            kept.append((env.save_state(), env.full_obs.copy()))
            action = expert.act(env.full_obs)
            after = env.step(action)[0]
        state, _ = kept[-1]
        env.reset(seed=9)
        env.restore(seed, state, 11)
        assert env.task == MT10[seed % 10]
        np.testing.assert_array_equal(env.step(action)[0], after)
    assert kept[0][0].shape == (64,)
    places = env.keypoints(4, np.stack([state for state, _ in kept]))
    np.testing.assert_allclose(places["hand"], [obs[:3] for _, obs in kept], atol=1e-7)
    np.testing.assert_allclose(places["object"], [obs[4:7] for _, obs in kept], atol=1e-7)


def test_environments_share_simulators_and_disturb_none():
    """Of sixteen in lockstep each plays one task at a time, so twenty simulators do for ten tasks."""
    envs = [make() for _ in range(12)]
    alone = make()
    for wave in range(3):
        seeds = [100 + 12 * wave + i for i in range(12)]
        for env, seed in zip(envs, seeds, strict=True):
            env.reset(seed=seed)
        for _ in range(3):
            stepped = [env.step(np.full(4, 0.3))[0] for env in envs]
        for i in (0, 5, 11):
            alone.reset(seed=seeds[i])
            for _ in range(3):
                after = alone.step(np.full(4, 0.3))[0]
            np.testing.assert_array_equal(after, stepped[i])
    assert len({id(env.env) for env in (*envs, alone)}) == 13, "none is used by two"
    assert sum(len(idle) for idle in multitask._idle.values()) < 40


def test_layouts_repeat():
    env = make("env.layouts=2", "env.tasks=[reach,push]")
    scenes = [env.reset(seed=seed)[0] for seed in range(8)]
    np.testing.assert_array_equal(scenes[0], scenes[4])
    np.testing.assert_array_equal(scenes[3], scenes[7])
    assert not np.array_equal(scenes[0], scenes[2])
    assert [env.describe(seed)[0] for seed in range(4)] == ["reach", "push"] * 2
    assert (scenes[0] == make("env.tasks=[reach]").reset(seed=0)[0]).all(), "a scene of the whole"
    env.close()


def test_held_out_phrasings_are_of_known_words_and_never_trained_with():
    held_out = make("env.phrasings=held_out")
    for task, words in PHRASINGS.items():
        assert not set(words.training) & set(words.held_out) and METAWORLD[task] == words.training[0]
        assert len(words.training) >= 3 and len(words.held_out) >= 2
    known = {word for words in PHRASINGS.values() for text in words.training for word in text.split()}
    assert {word for words in PHRASINGS.values() for text in words.held_out for word in text.split()} <= known
    for text in (text for words in PHRASINGS.values() for text in words.new_words):
        assert len(set(text.split()) - known) >= 2, f"{text} has two words at least that no training has"
    told = {held_out.describe(seed)[2] for seed in range(400)}
    assert told == {text for words in PHRASINGS.values() for text in words.held_out}
    every = [text for words in PHRASINGS.values() for kind in words for text in kind]
    assert len(set(every)) == len(every), "no two tasks are told alike"


def test_a_robot_without_measured_objects_sees_its_hand_alone():
    env = make("env.state=robot")
    obs = env.reset(seed=0)[0]
    assert obs.shape == env.observation_space.shape == (ROBOT,)
    np.testing.assert_array_equal(obs, env.full_obs[:ROBOT].astype(np.float32))
    env.close()


def test_images_of_every_task(monkeypatch):
    env = make("env.images=[corner2]", "env.image_size=32", "env.tasks=[reach,door-open]")
    shown = [env.reset(seed=seed)[0]["images"]["corner2"] for seed in range(2)]
    assert all(image.shape == (32, 32, 3) and image.std() > 10 for image in shown)
    assert not np.array_equal(*shown) and env.observation_space.contains(env.reset(seed=0)[0])
    env.renders = False
    assert env.step(np.zeros(4))[0]["images"] == {}
    env.close()


def test_it_is_a_gymnasium_environment(env):
    check_env(env, skip_render_check=True)


@pytest.mark.parametrize(
    ("flag", "message"),
    [("env.tasks=[reach,juggle]", "mt10 has no juggle; it has reach"), ("env.tasks=[]", "needs one task at least"),
     ("env.phrasings=rude", "training, held_out, new_words or all"), ("env.state=none", "full or robot"),
     ("env.layouts=-1", "a number of scenes")],
)  # fmt: skip
def test_settings_that_make_no_environment(flag, message):
    with pytest.raises(UserError, match=message):
        make(flag)
