"""What a robot did is read as what it was: numbers, cameras, lists, and other formats."""

import json
import os
import re
import time
from pathlib import Path

import numpy as np
import pytest

from pbrl.data import episodes
from pbrl.data.video import read_frames, read_video_info
from real.record import Recorder, Step, export, journal
from real.record.__main__ import main
from tests.real.recorded import HZ, grey, numbers, read_json_files, shade, shades, step, whole


@pytest.fixture(scope="module")
def session(tmp_path_factory) -> tuple[Path, dict[str, list[Step]]]:
    """A recorder's folder, and what it was given for each kind of episode."""
    folder, given = tmp_path_factory.mktemp("session") / "films", {}
    with Recorder(folder, "panda", keep_s=0.5) as recorder:

        def episode(kind: str, outcome: str, steps: list[Step], clip_at: int = -1) -> None:
            given[kind] = steps
            recorder.begin({"kind": kind, "seed": 3, "where": Path("here")})
            for i, each in enumerate(steps):
                assert recorder.add(each)
                if i == clip_at:
                    recorder.save_last(0.2)
                    recorder.save_last(60.0)
            recorder.end(outcome)

        episode("plain", "success", [step(i) for i in range(25)], clip_at=18)
        broken = {3: {"action": np.array([np.nan, 7, -np.inf])}, 4: {"obs": np.array([0, np.nan, 1, np.inf, 1e300])}}
        episode("broken", "failure", [step(i, **broken.get(i, {})) for i in range(8)])
        two = [{**grey(i, (49, 65)), "/wrist cam": np.full((30, 40, 3), 90, np.uint8)} for i in range(12)]
        two[0], two[1], two[7] = {}, {"front": two[1]["front"]}, {}  # cameras begin late, and miss one
        episode("cameras", "success", [step(i, two[i]) for i in range(12)])
        episode("blind", "success", [step(i, {}) for i in range(6)])
        episode("stopped", "aborted:user stop", [step(i) for i in range(5)])
        episode("short", "success", [step(0)])
        episode("empty", "failure", [])
        assert not recorder.add(step(0)), "no episode is open"
    assert recorder.error is None and recorder.close() == (7, 25 + 8 + 12 + 6 + 5 + 1, 1, None)
    assert not list((folder / ".part").iterdir())
    return folder, given


def find(folder: Path, kind: str) -> Path:
    """The npz of an episode."""
    (name,) = (
        name for name, one in read_json_files(folder).items() if one["about"]["kind"] == kind and not one["clip_of"]
    )
    return folder / f"{name}.npz"


def test_a_recording_is_read_as_it_was(session):
    folder, given = session
    assert len(whole(folder)) == 4
    read = {e.source: e for e in episodes.read(folder)}
    steps, file = given["plain"], find(folder, "plain")
    e = read[file.stem]
    assert np.array_equal(e.obs, [s.obs for s in steps]) and np.array_equal(e.action, [s.action for s in steps[:-1]])
    assert e.success is not None and e.success.tolist() == [False] * 24 + [True]
    assert not np.any(read[find(folder, "broken").stem].success)
    columns = numbers(file)
    for name in (*journal.SINGLE, "sent", "q", "dq"):
        assert np.array_equal(columns[name], [getattr(s, name) for s in steps]), name
    assert np.array_equal(columns["action_raw"], [s.action for s in steps])
    assert columns["why"].tolist() == ["" if i % 4 < 3 else "step,late" for i in range(25)]
    assert columns["mode"].tolist() == ["move"] * 25 and columns["index"].tolist() == list(range(25))
    one = read_json_files(folder)[file.stem]
    assert (one["outcome"], one["robot"], one["rate_hz"], one["steps"], one["seconds"]) == (
        "success",
        "panda",
        HZ,
        25,
        1.25,
    )
    assert one["interventions"] == {"step": 6, "late": 6} and one["about"]["where"] == "here" and one["dropped"] == 0
    assert one["versions"]["mujoco"] and abs(time.time() - one["clock"]["wall_s"]) < 600
    assert np.allclose(shades(folder / f"{file.stem}.mp4"), [shade(i) for i in range(25)], atol=3)


def test_non_finite_values_are_replaced_and_recorded(session):
    """One such number would make the reader refuse the whole folder."""
    folder, given = session
    columns = numbers(find(folder, "broken"))
    assert columns["action"][3].tolist() == [0, 1, -1]
    before = given["broken"][3].obs
    assert np.array_equal(columns["obs"][4], np.float32([0, before[1], 1, before[3], before[4]]))
    assert np.array_equal(columns["action_raw"][3], [np.nan, 7, -np.inf], equal_nan=True)
    assert (
        np.isnan(columns["obs_raw"][4, 1]) and read_json_files(folder)[find(folder, "broken").stem]["not_finite"] == 2
    )


def test_cameras(session):
    folder, _ = session
    name = find(folder, "cameras").stem
    one = read_json_files(folder)[name]
    assert one["cameras"] == {"front": f"{name}.mp4", "wrist_cam": f"{name}.wrist_cam.mp4"} and one["video"] == "camera"
    frame_numbers = [1, 1, 2, 3, 4, 5, 6, 6, 8, 9, 10, 11]
    assert np.allclose(shades(folder / f"{name}.mp4"), [shade(i) for i in frame_numbers], atol=3)
    source = read_video_info(folder / f"{name}.mp4")
    assert next(read_frames(folder / f"{name}.mp4", source, first=0, last=1, height=48)).shape == (48, 64, 3)
    assert np.allclose(shades(folder / "cameras" / f"{name}.wrist_cam.mp4"), 90, atol=3)


def test_without_a_camera_the_arm_is_drawn(session):
    folder, _ = session
    file = find(folder, "blind")
    assert read_json_files(folder)[file.stem]["video"] == "rendered"
    frames = list(
        read_frames(file.with_suffix(".mp4"), read_video_info(file.with_suffix(".mp4")), first=0, last=6, height=240)
    )
    apart = [np.abs(a.astype(int) - b).mean() for a, b in zip(frames, frames[1:], strict=False)]
    assert frames[0].std() > 10 and min(apart) > 0.3, "it moves"


def test_aborted_episodes_are_stored_apart(session):
    folder, _ = session
    assert len(whole(folder / "aborted")) == 1
    found = {one["about"]["kind"]: one["outcome"] for one in read_json_files(folder / "aborted").values()}
    assert found == {"stopped": "aborted:user stop", "short": "aborted:too_short (success)",
                     "empty": "aborted:too_short (failure)"}  # fmt: skip
    assert len(numbers(find(folder / "aborted", "short"))["action_raw"]) == 1


def test_the_last_seconds(session):
    """0.2 s are four steps; more than the ring keeps is what it keeps."""
    folder, given = session
    clips = [numbers(folder / "clips" / f"{name}.npz") for name in whole(folder / "clips")]
    assert [columns["index"].tolist() for columns in clips] == [list(range(15, 19)), list(range(9, 19))]
    assert np.array_equal(clips[0]["obs"], [s.obs for s in given["plain"][15:19]]) and "success" not in clips[0]
    assert {one["clip_of"] for one in read_json_files(folder / "clips").values()} == {find(folder, "plain").stem}


def test_list(session, capsys):
    main(["list", str(session[0])])
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 1 + 4 + 3 + 2 and any("late 6, step 6" in line and "1.2" in line for line in lines)
    assert any(line.startswith("aborted/") and "aborted:user stop" in line for line in lines)


@pytest.mark.parametrize("name", ["out.mcap", "out.bag"])
def test_bags(session, tmp_path, name):
    """Read back by rosbags: equal numbers, in order of time."""
    from rosbags.highlevel import AnyReader

    folder, given = session
    main(["export", str(folder), str(tmp_path / name)])
    with AnyReader([tmp_path / name]) as bag:
        found: dict[str, list] = {}
        for connection, at, raw in bag.messages():
            found.setdefault(connection.topic, []).append((at, bag.deserialize(raw, connection.msgtype)))
    order = []
    for kind in ("plain", "broken", "cameras", "blind"):
        clock = read_json_files(folder)[find(folder, kind).stem]["clock"]
        order += [(clock["wall_s"] - clock["monotonic_s"] + s.t_sent, s) for s in given[kind]]
    steps = [s for _, s in sorted(order, key=lambda pair: pair[0])]
    states, commands = found["/joint_states"], found["/recorded/command"]
    for (_, state), s in zip(states, steps, strict=True):
        assert np.array_equal(state.position, [*s.q, *[s.gripper / 2] * 2])
        assert np.array_equal(state.velocity[:7], s.dq) and state.name[0] == "panda_joint1" and len(state.name) == 9
    for (at, command), s in zip(commands, steps, strict=True):
        assert np.array_equal(command.points[0].positions, s.sent)
        assert at == command.header.stamp.sec * 10**9 + command.header.stamp.nanosec
        assert at / 1e9 == pytest.approx(dict((id(s), at) for at, s in order)[id(s)], abs=1e-5)
    assert [m.data for _, m in found["/recorded/interventions"]] == ["step,late"] * sum(bool(s.why) for s in steps)
    assert {json.loads(m.data)["outcome"] for _, m in found["/recorded/episode"]} == {"success", "failure"}
    pictures = found["/front/image/compressed"]
    assert (
        len(pictures) == 25 + 8 + 12
        and bytes(pictures[0][1].data[:2]) == b"\xff\xd8"
        and pictures[0][1].format == "jpeg"
    )
    with pytest.raises(SystemExit, match="is there already"):
        main(["export", str(folder), str(tmp_path / name)])
    assert os.listdir(tmp_path) == [name]


def test_minari(session, tmp_path):
    main(["export", str(session[0]), str(tmp_path / "mine")])
    for a, b in zip(episodes.read(session[0]), episodes.read(tmp_path / "mine"), strict=True):
        assert all(np.array_equal(x, y) for x, y in zip(a[1:4] + a[5:6], b[1:4] + b[5:6], strict=True))
    with pytest.raises(SystemExit, match="holds no episodes"):
        main(["export", str(tmp_path), str(tmp_path / "b.bag")])


@pytest.mark.parametrize("name", ["name.with.dot", "two words", "größe", "out.mcap2", "a@b"])
def test_a_name_that_minari_does_not_take_is_refused_in_a_sentence(session, tmp_path, name):
    with pytest.raises(SystemExit, match=f"error: {re.escape(name)} is no name for a Minari data set: use letters"):
        main(["export", str(session[0]), str(tmp_path / name)])
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["mine-v2", "under_score", "7"])
def test_names_that_minari_takes(session, tmp_path, name):
    main(["export", str(session[0]), str(tmp_path / name)])
    assert len(episodes.read(tmp_path / name)) == 4


def test_steps_without_a_time_are_exported_at_the_next_time_that_there_is(tmp_path):
    """Nothing was sent before an episode's first command; a driver's clock may give no number."""
    from rosbags.highlevel import AnyReader

    none = {"t_sent": -np.inf}, {"t_sent": np.nan, "age": np.inf}, {"t_observed": np.nan, "t_sent": np.nan}
    with Recorder(tmp_path / "films", "panda") as recorder:
        recorder.begin({})
        for i in range(6):
            recorder.add(step(i, {}, **(none[i] if i < 3 else {})))
        recorder.end("success")
    assert recorder.error is None
    (about,) = read_json_files(tmp_path / "films").values()
    main(["export", str(tmp_path / "films"), str(tmp_path / "out.bag")])
    with AnyReader([tmp_path / "out.bag"]) as bag:
        sent = [at for connection, at, _ in bag.messages() if connection.topic == "/recorded/command"]
    offset = about["clock"]["wall_s"] - about["clock"]["monotonic_s"]
    expected = [
        100.001,
        100.051,
        100.1,
        *(100 + i / HZ + 0.012 for i in range(3, 6)),
    ]  # observed, or scheduled, or sent
    np.testing.assert_allclose(np.array(sent) / 1e9 - offset, expected, atol=1e-5)


def test_a_picture_of_another_kind_is_named_with_its_camera(tmp_path):
    """Depth of 16 bits would be white; the step's numbers are kept, and the picture before stands for it."""
    with Recorder(tmp_path / "films", "panda") as recorder:
        recorder.begin({})
        for i in range(4):
            depth = {"front": np.full((48, 64), 900, np.uint16)} if i == 3 else grey(i)
            recorder.add(step(i, depth))
        recorder.end("success")
    lost = "a picture is lost (a picture of camera front is [H, W, 3] uint8, not [48, 64] uint16)"
    assert lost in str(recorder.error)
    (file,) = (tmp_path / "films").glob("*.npz")
    assert numbers(file)["index"].tolist() == [0, 1, 2, 3]
    assert np.allclose(shades(file.with_suffix(".mp4")), [shade(i) for i in (0, 1, 2, 2)], atol=3)


def test_a_table_of_nothing(tmp_path):
    assert export.table(tmp_path).splitlines() == ["name  outcome  seconds  steps  interventions"]
    with pytest.raises(SystemExit, match="no folder"):
        main(["list", str(tmp_path / "else")])
