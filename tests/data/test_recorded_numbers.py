"""Numbers beside a video are compared with its frames, never reshaped until they fit."""

import os

import numpy as np
import pytest

from pbrl.data import episodes
from pbrl.data.recorded_numbers import read_numbers
from pbrl.data.video import write_mp4
from pbrl.types import UserError

T = 50
RANDOM = np.random.default_rng(0)
OBS, ACTION = RANDOM.standard_normal((T + 1, 7)), np.tanh(RANDOM.standard_normal((T, 4)))
BAD = np.arange(T)[:, None] == 20


def read(tmp_path, frames=T + 1, **arrays):
    np.savez(tmp_path / "a.npz", **{"obs": OBS, "action": ACTION, **arrays})
    return read_numbers(tmp_path / "a.npz", tmp_path / "a.mp4", frames)


def test_what_fits_is_read(tmp_path):
    for more in ({}, {"obs": OBS.astype(np.float16), "action": ACTION.astype(np.float16)}, {"frames": T}):
        found = read(tmp_path, **more)
        np.testing.assert_allclose(found.obs, OBS, atol=1e-2)
        np.testing.assert_allclose(found.action, ACTION, atol=1e-2)
        assert found.success is None and found.reward.shape == (T,)
    found = read(tmp_path, obs=OBS[:, 0], action=ACTION > 0, reward=np.ones((T, 1)), success=np.zeros(T + 1, int))
    assert found.obs.shape == (T + 1, 1) and set(found.action.ravel()) == {0, 1} and found.reward.shape == (T,)
    assert found.success is not None and found.success.dtype == bool
    assert read(tmp_path, frames=T, obs=np.ones((T + 1, 8, 8, 3))).obs.shape == (T + 1, 192)
    assert read_numbers(tmp_path / "none.npz", tmp_path / "none.mp4", 9).obs.shape == (9, 0)


@pytest.mark.parametrize(("arrays", "sentence"), [
    ({"obs": OBS.T}, r"a.npz: obs has shape \[7, 51\], and must have 51 rows \(is time on its second axis"),
    ({"obs": OBS.T, "action": ACTION.T}, r"action has shape \[4, 50\], and must have 50 rows.*second axis"),
    ({"obs": OBS[:-1]}, r"obs has shape \[50, 7\], and must have 51 rows \(one more than there are steps"),
    ({"obs": RANDOM.standard_normal((50, 51))}, r"obs has shape \[50, 51\], and must have 51 rows"),  # as many numbers
    ({"obs": np.zeros((50, 17, 3))}, r"obs has shape \[50, 17, 3\], and must have 51 rows"),
    ({"action": np.zeros((25, 8))}, r"51 frames and a.npz 25 steps: action has shape \[25, 8\]"),
    ({"action": np.float64(0)}, r"action has shape \[\], and must have 50 rows"),
    ({"reward": np.ones((25, 2))}, r"reward has shape \[25, 2\], and must have shape \[50\]"),
    ({"reward": np.ones(51)}, r"reward has shape \[51\], and must have shape \[50\]"),
    ({"success": np.zeros(50)}, r"success has shape \[50\], and must have shape \[51\] \(one more"),
    ({"success": np.full(51, np.nan)}, "step 0 of success holds nan .*neither true nor false"),
    ({"obs": np.where(np.append(BAD, [[False]], 0), np.nan, OBS)}, r"step 20 of obs holds nan \(7 in all\)"),
    ({"action": np.where(BAD, np.inf, ACTION)}, "step 20 of action holds inf .*not finite"),
    ({"action": np.where(BAD, -3.0, ACTION)}, r"step 20 of action holds -3 .*beyond \[-1, 1\]: scale them"),
    ({"obs": OBS.astype(str)}, "obs is of type <U"),
    ({"obs": OBS.astype(complex)}, "obs is of type complex128"),
    ({"obs": np.array([{}] * 51)}, "cannot be read: Object arrays"),
])  # fmt: skip
def test_what_does_not_fit_is_named(tmp_path, arrays, sentence):
    with pytest.raises(UserError, match=sentence):
        read(tmp_path, **arrays)


def test_files_that_hold_no_arrays(tmp_path):
    np.savez(tmp_path / "a.npz", observation=OBS, action=ACTION)
    whole = (tmp_path / "a.npz").read_bytes()
    for content, sentence in (
        (whole, "it has observation, action, and no obs"),
        (b"", "it is empty"),
        (whole[: len(whole) // 2], "it is cut off"),
        (b"0.1,0.2\n", "it is text"),
    ):
        (tmp_path / "a.npz").write_bytes(content)
        with pytest.raises(UserError, match=f"a.npz must hold .*{sentence}"):
            read_numbers(tmp_path / "a.npz", tmp_path / "a.mp4", 51)
    np.save(tmp_path / "a.npy", OBS)
    (tmp_path / "a.npy").rename(tmp_path / "a.npz")
    with pytest.raises(UserError, match="a single NumPy array"):
        read_numbers(tmp_path / "a.npz", tmp_path / "a.mp4", 51)


def write_recording(folder, **arrays):
    """A folder with a video of 51 frames and these arrays beside it."""
    write_mp4(folder / "a.mp4", [np.full((48, 64, 3), i, np.uint8) for i in range(51)], 20)
    np.savez(folder / "a.npz", **{"obs": OBS, "action": ACTION, **arrays})
    return folder


def test_differences_that_float32_loses_are_named_as_in_other_files(tmp_path):
    reward = 1e9 + np.random.default_rng(0).standard_normal(50)
    with pytest.raises(UserError, match="reward is about 1e.09 .*all answers would be ties"):
        episodes.read(write_recording(tmp_path, reward=reward))
    np.savez(tmp_path / "a.npz", obs=np.column_stack([OBS, 1.7e9 + np.arange(51)]), action=ACTION)
    found = episodes.read_dataset(tmp_path)
    assert found.notes[0].startswith(f"observation columns {OBS.shape[1]} lose their differences")
    assert found.episodes[0].obs.dtype == np.float32


@pytest.mark.parametrize(
    "content, match",
    [
        (b'{"cameras": ["front"]}', "cameras is a list and no object"),
        (b'{"cameras": {"front": "../../b.mp4"}}', "camera front is the name of a file, not '../../b.mp4'"),
        (b'{"about": "x"}', "about is a str and no object"),
        (b"[" * 100_000, "must hold an object of JSON"),
        (None, "cannot be read .Is a directory"),
    ],
)
def test_a_json_beside_that_is_none(tmp_path, content, match):
    write_recording(tmp_path)
    (tmp_path / "a.json").mkdir() if content is None else (tmp_path / "a.json").write_bytes(content)
    with pytest.raises(UserError, match=f"a.json .*{match}"):
        episodes.read(tmp_path)


def test_a_json_beside_with_a_mark_and_gaps_and_a_pipe_that_is_no_video(tmp_path):
    write_recording(tmp_path)
    os.mkfifo(tmp_path / "b.mp4")  # opening it would wait for ever
    (tmp_path / "a.json").write_bytes(b'\xef\xbb\xbf{"instruction": "lift", "about": null, "cameras": null}')
    assert [episode.instruction for episode in episodes.read(tmp_path)] == ["lift"]
