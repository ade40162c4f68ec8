"""D4RL's files: read right, or refused with the array, the episode and the step."""

import numpy as np
import pytest

from pbrl.data import episodes
from pbrl.data.table import Table
from pbrl.types import UserError
from tests.data.foreign import d4rl_arrays, write_d4rl


@pytest.mark.parametrize(
    "name, place, value, match",
    [
        ("observations", (77, 2), np.nan, r"episode 1, step 37 \(row 77\): observations\[2\] is nan"),
        ("rewards", 40, np.nan, r"episode 1, step 0 \(row 40\): rewards is nan"),
        ("actions", (3, 1), np.inf, r"episode 0, step 3 \(row 3\): actions\[1\] is inf"),
        ("next_observations", (149, 0), -np.inf, r"episode 2, step 59 \(row 149\): next_observations\[0\] is -inf"),
    ],
)
def test_what_is_not_finite_is_named(tmp_path, name, place, value, match):
    arrays = d4rl_arrays()
    arrays[name][place] = value
    with pytest.raises(UserError, match=match):
        episodes.read(write_d4rl(tmp_path / "a.hdf5", arrays))


def test_what_float32_cannot_hold_is_not_finite_either(tmp_path):
    arrays = d4rl_arrays()
    arrays["observations"] = arrays["observations"].astype(np.float64)
    arrays["observations"][60, 1] = 1e39
    arrays["next_observations"] = None
    with pytest.raises(UserError, match=r"episode 1 \(from row 40\), step 20: observations\[1\] is inf"):
        episodes.read(write_d4rl(tmp_path / "a.hdf5", arrays))


@pytest.mark.parametrize(
    "changes, match",
    [
        ({"rewards": np.zeros(149)}, "rewards 149"),
        ({"actions": np.zeros((155, 2))}, "actions 155"),
        ({"timeouts": np.zeros(140, bool)}, "timeouts 140"),
        ({"rewards": np.zeros((150, 2))}, r"rewards has shape \(150, 2\)"),
        ({"actions": np.arange(150) % 4}, "int64 from 0 to 3.*continuous"),
        ({"actions": np.ones((150, 2), bool)}, "continuous"),
        ({"observations": np.zeros((150, 8, 8, 3), np.uint8), "next_observations": None}, "these are images"),
        ({"terminals": np.full(150, np.nan)}, r"terminals\[0\] is nan, and flags are 0 or 1"),
        ({"timeouts": np.arange(150)}, r"timeouts\[2\] is 2"),
        ({"observations": np.zeros(150, complex), "next_observations": None}, "complex128, and must hold numbers"),
        ({"next_observations": np.zeros((150, 3))}, "differ in shape"),
        ({name: array[:0] for name, array in d4rl_arrays().items()}, "holds no step"),
        ({"actions": None}, "no D4RL file: actions is missing; it holds next_observations, observations"),
        ({"rewards": 1e8 + np.random.default_rng(0).standard_normal(150)}, "about 1e.08.*ties"),
    ],
)
def test_shapes_lengths_and_types_that_do_not_fit(tmp_path, changes, match):
    arrays = d4rl_arrays() | changes
    with pytest.raises(UserError, match=match) as error:
        episodes.read(write_d4rl(tmp_path / "a.hdf5", arrays))
    assert "damaged" not in str(error.value) and "a.hdf5" in str(error.value)


def test_shapes_and_types_that_fit(tmp_path):
    """[N, 1], double precision, flags as floats, one number without an axis of its own: the same numbers."""
    arrays = d4rl_arrays(terminal=(1,))
    plain = episodes.read(write_d4rl(tmp_path / "plain.hdf5", arrays))
    other = {name: array.astype(np.float64) for name, array in arrays.items()}
    other |= {name: other[name][:, None] for name in ("rewards", "terminals", "timeouts")}
    assert episodes.content_hash(plain) == episodes.content_hash(
        episodes.read(write_d4rl(tmp_path / "other.hdf5", other))
    )
    flat = arrays | {name: arrays[name][:, 0] for name in ("observations", "next_observations", "actions")}
    first = episodes.read(write_d4rl(tmp_path / "flat.hdf5", flat))[1]
    assert first.obs.shape == (51, 1) and first.action.shape == (50, 1) and first.terminated
    assert np.array_equal(first.obs[:-1, 0], arrays["observations"][40:90, 0])


@pytest.mark.parametrize("kind", [np.float32, np.float16])
def test_ends_that_nothing_marks_are_where_next_observations_leave_the_rows(tmp_path, kind):
    lengths = (40, 40, 25, 40, 40)
    arrays = d4rl_arrays(lengths, terminal=(2,))
    arrays["timeouts"][:] = False
    arrays["observations"] = arrays["observations"].astype(kind)  # rounded: still the row that follows
    data = episodes.read_dataset(write_d4rl(tmp_path / "a.hdf5", arrays))
    assert [len(e.action) for e in data.episodes] == list(lengths)
    assert [e.terminated for e in data.episodes] == [False, False, True, False, False]
    assert np.array_equal(data.episodes[0].obs[-1], arrays["next_observations"][39])
    assert len(Table(data.episodes).segment_starts(20)) == 4 * 21 + 6
    assert data.notes[0].startswith("3 ends of episodes are marked nowhere")  # the last one is the file's


def test_marked_ends_alone_are_no_news(tmp_path):
    assert episodes.read_dataset(write_d4rl(tmp_path / "a.hdf5", d4rl_arrays(terminal=(0,)))).notes == []


def test_rows_in_no_order_are_refused(tmp_path):
    arrays = d4rl_arrays()
    order = np.random.default_rng(0).permutation(150)
    with pytest.raises(UserError, match="not in the order of time"):
        episodes.read(write_d4rl(tmp_path / "a.hdf5", {name: array[order] for name, array in arrays.items()}))


def test_no_end_at_all_is_said(tmp_path):
    arrays = d4rl_arrays() | {"next_observations": None, "timeouts": np.zeros(150, bool)}
    data = episodes.read_dataset(write_d4rl(tmp_path / "a.hdf5", arrays))
    assert len(data.episodes) == 1 and "no end of an episode is marked" in data.notes[0]


def test_episodes_that_nothing_is_left_of_are_counted(tmp_path):
    """Without next observations a timeout's last step is left out: of 1, 40 and 1 steps 39 are read."""
    arrays = d4rl_arrays(lengths=(1, 40, 1)) | {"next_observations": None}
    found = episodes.read_dataset(write_d4rl(tmp_path / "a.hdf5", arrays))
    assert [len(e.action) for e in found.episodes] == [39]
    assert found.notes[0].startswith("2 episodes of a single step are left out")


def test_numbers_too_large_are_refused_without_warnings(tmp_path, recwarn):
    arrays = d4rl_arrays()
    arrays["observations"] = arrays["observations"].astype(np.float64)
    arrays["observations"][60, 1] = 1e300
    with pytest.raises(UserError, match=r"observations\[1\] is inf"):
        episodes.read(write_d4rl(tmp_path / "a.hdf5", arrays))
    assert not recwarn.list
