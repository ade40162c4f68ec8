"""Minari sets of other people: spaces, bounds, and what is not finite."""

import json

import h5py
import numpy as np
import pytest
from gymnasium.spaces import Box, Discrete, MultiBinary

from pbrl.data import episodes
from pbrl.data.action_bounds import ActionUnits
from pbrl.types import UserError
from tests.data.foreign import write_minari_set

ACTIONS = np.tanh(np.random.default_rng(0).standard_normal((20, 2))).astype(np.float32)
UNIT = Box(-1, 1, (2,), np.float32)


@pytest.mark.parametrize(
    "actions, space, match",
    [
        (ACTIONS, Box(-np.inf, np.inf, (2,), np.float32), r"without bounds, \[-inf, inf\].*data.action_low"),
        (np.abs(ACTIONS), Box(0, np.inf, (2,), np.float32), r"without bounds, \[0, inf\]"),
        (np.arange(20) % 4, Discrete(4), "must be continuous"),
        (np.ones((20, 3), np.int8), MultiBinary(3), "must be continuous"),
        (1.3 * np.sign(ACTIONS), UNIT, r"in \[-1.3, 1.3\]: 1 of the numbers are beyond \[-1, 1\].*episode 0, step 0"),
    ],
)
def test_actions_without_bounds_or_beyond_them(tmp_path, actions, space, match):
    with pytest.raises(UserError, match=match) as error:
        episodes.read(write_minari_set(tmp_path, actions, space))
    assert "damaged" not in str(error.value)


def test_bounds_that_a_user_states(tmp_path):
    path = write_minari_set(tmp_path, ACTIONS, Box(-np.inf, np.inf, (2,), np.float32))
    read = episodes.read(path, ActionUnits(low=[-2, -4], high=[2, 4]))
    np.testing.assert_allclose(read[0].action, ACTIONS / [2, 4], atol=1e-6)


def test_a_number_that_is_fixed_is_zero_and_others_are_scaled(tmp_path):
    actions = np.stack([0.4 * ACTIONS[:, 0], np.full(20, 7, np.float32)], 1)
    space = Box(np.array([-0.4, 7], np.float32), np.array([0.4, 7], np.float32))
    read = episodes.read(write_minari_set(tmp_path, actions, space))
    np.testing.assert_allclose(read[0].action, np.stack([ACTIONS[:, 0], np.zeros(20)], 1), atol=1e-6)


def test_a_few_numbers_slightly_beyond_are_clipped_and_counted(tmp_path):
    actions = np.zeros((400, 2), np.float32)
    actions[7, 1] = 1.02
    data = episodes.read_dataset(write_minari_set(tmp_path, actions, UNIT))
    assert data.clipped == 3 and data.episodes[0].action.max() == 1  # in each of three episodes


def test_what_is_not_finite_is_named(tmp_path):
    obs = np.zeros((21, 4), np.float32)
    obs[17, 3] = np.nan
    with pytest.raises(UserError, match=r"episode 0, step 17: observations\[3\] is nan"):
        episodes.read(write_minari_set(tmp_path, ACTIONS, UNIT, observations=obs))


def test_a_true_terminal_within_an_episode_is_said(tmp_path):
    ends = np.arange(20) == 5
    data = episodes.read_dataset(write_minari_set(tmp_path, ACTIONS, UNIT, terminations=ends))
    assert "3 episodes go on after a true terminal" in data.notes[0]


def test_another_version_a_cut_file_and_a_missing_part(tmp_path):
    path = write_minari_set(tmp_path, ACTIONS, UNIT)
    file, metadata = path / "data" / "metadata.json", path / "data" / "main_data.hdf5"
    text, whole = file.read_text(), metadata.read_bytes()
    file.write_text(json.dumps(json.loads(text) | {"minari_version": "9.0"}))
    with pytest.raises(UserError, match=r"another version of Minari \(9.0\).*pip install -U minari"):
        episodes.read(path)
    file.write_text(text[:100])
    with pytest.raises(UserError, match="metadata.json is cut off"):
        episodes.read(path)
    file.write_text(text)
    metadata.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UserError, match="main_data.hdf5 is cut off"):
        episodes.read(path)
    metadata.unlink()
    with pytest.raises(UserError, match="main_data.hdf5 cannot be read"):
        episodes.read(path)
    file.unlink()
    with pytest.raises(UserError, match="no metadata.json"):
        episodes.read(path)


@pytest.mark.parametrize(
    "more, match",
    [
        ({"infos": {"success": np.r_[np.zeros(19), np.nan]}}, r"episode 0: success\[19\] is nan, and flags are 0 or 1"),
        ({"infos": {"success": np.full(20, 0.3)}}, r"success\[0\] is 0.3, and flags are 0 or 1"),
        ({"infos": {"success": np.zeros((20, 3), bool)}}, r"success has shape \(20, 3\)"),
        ({"infos": {"success": np.zeros(10, bool)}}, "20 actions need 21 rows of success, and there are 10"),
        ({"terminations": np.r_[np.zeros(19), np.nan]}, r"terminations\[19\] is nan"),
        ({"terminations": np.zeros(3, bool)}, "20 actions need 20 rows of terminations, and there are 3"),
        ({"rewards": np.zeros((20, 2))}, r"rewards has shape \(20, 2\)"),
        ({"rewards": np.r_[np.zeros(19), np.inf]}, "episode 0, step 19: rewards is inf"),
    ],
)
def test_flags_and_columns_that_are_none(tmp_path, more, match):
    with pytest.raises(UserError, match=match) as error:
        episodes.read(write_minari_set(tmp_path, ACTIONS, UNIT, **more))
    assert "damaged" not in str(error.value)


def test_columns_of_one_number_a_row(tmp_path):
    success, reward = np.arange(20)[:, None] > 17, np.arange(20)[:, None] / 2
    read = episodes.read(write_minari_set(tmp_path, ACTIONS, UNIT, rewards=reward, infos={"success": success}))
    assert read[0].reward.tolist() == [i / 2 for i in range(20)] and read[0].success is not None
    assert read[0].success.tolist() == [False] * 18 + [True] * 2


@pytest.mark.parametrize("name, values", [("actions", [[b"1", b"0"]] * 20), ("rewards", [b"1.0"] * 20)])
def test_text_is_no_number(tmp_path, name, values):
    path = write_minari_set(tmp_path, ACTIONS, UNIT)
    with h5py.File(path / "data" / "main_data.hdf5", "a") as file:
        del file[f"episode_1/{name}"]
        file[f"episode_1/{name}"] = np.array(values)
    with pytest.raises(UserError, match=rf"episode 1: {name} holds \|S., and must hold numbers"):
        episodes.read(path)


def test_a_space_of_other_actions(tmp_path):
    with pytest.raises(UserError, match="declares actions of 3 numbers, and they have 2"):
        episodes.read(write_minari_set(tmp_path, ACTIONS, Box(-1, 1, (3,), np.float32)))
