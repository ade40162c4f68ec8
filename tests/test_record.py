"""What a robot did is on disk whole, whoever is killed, stopped or out of space; and it is read as what it was."""

import json
import os
import resource
import signal
import subprocess
import sys
import threading
import time
from contextlib import suppress
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pytest

from pbrl import episodes
from pbrl.types import UserError
from pbrl.video import recorded, recording
from real.record import Recorder, Step, export, journal
from real.record.__main__ import main
from real.record.finish import finish
from real.record.ring import Ring

HZ = 20.0
HOME = np.array([0, -0.785398, 0, -2.356194, 0, 1.570796, 0.785398])


def step(i: int, images: dict | None = None, **given) -> Step:
    """A step in which every number says which it is."""
    random, t = np.random.default_rng(i), 100 + i / HZ
    values = {
        "t_scheduled": t, "t_observed": t + 0.001, "t_inferred": t + 0.01, "t_sent": t + 0.012, "age": 0.004 + i / 1e6,
        "obs": random.normal(size=5).astype(np.float32), "action": random.uniform(-1, 1, 3).astype(np.float32),
        "sent": HOME + 0.01 * i, "q": HOME + random.uniform(-0.2, 0.2, 7), "dq": random.normal(size=7),
        "gripper": 0.04 + i / 1e5, "why": ("step", "late") if i % 4 == 3 else (), "mode": "move",
        "images": grey(i) if images is None else images,
    }  # fmt: skip
    return Step(**{**values, **given})


def grey(i: int, size: tuple[int, int] = (48, 64)) -> dict:
    return {"front": np.full((*size, 3), shade(i), np.uint8)}


def shade(i: int) -> int:
    return 20 + 10 * (i % 20)


def shades(video: Path) -> list[int]:
    """Which picture each frame of a video is."""
    source = recording(video)
    return [round(float(image.mean())) for image in recorded(video, source, first=0, last=len(source.shown), height=48)]


def said(folder: Path) -> dict[str, dict]:
    return {file.stem: json.loads(file.read_text()) for file in sorted(folder.glob("*.json"))}


def numbers(file: Path) -> dict[str, np.ndarray]:
    with np.load(file) as arrays:
        return dict(arrays)


def whole(folder: Path) -> list[str]:
    """The names of a folder's episodes, each of which can be read."""
    videos = sorted(file.stem for file in folder.glob("*.mp4"))
    for name in videos:
        assert len(recording(folder / f"{name}.mp4").shown) == len(numbers(folder / f"{name}.npz")["obs"])
        assert json.loads((folder / f"{name}.json").read_text())["name"] == name
    if videos:
        assert len(episodes.read(folder)) == len(videos)
    return videos


@pytest.fixture(scope="module")
def session(tmp_path_factory) -> tuple[Path, dict[str, list[Step]]]:
    """A recorder's folder, and what it was given for each kind of episode."""
    folder, given = tmp_path_factory.mktemp("session") / "films", {}
    with Recorder(folder, keep_s=0.5) as recorder:

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
    (name,) = (name for name, one in said(folder).items() if one["about"]["kind"] == kind and not one["clip_of"])
    return folder / f"{name}.npz"


def test_it_is_read_as_it_was(session):
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
    one = said(folder)[file.stem]
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


def test_what_is_not_finite_is_mended_and_kept(session):
    """One such number would make the reader refuse the whole folder."""
    folder, given = session
    columns = numbers(find(folder, "broken"))
    assert columns["action"][3].tolist() == [0, 1, -1]
    before = given["broken"][3].obs
    assert np.array_equal(columns["obs"][4], np.float32([0, before[1], 1, before[3], before[4]]))
    assert np.array_equal(columns["action_raw"][3], [np.nan, 7, -np.inf], equal_nan=True)
    assert np.isnan(columns["obs_raw"][4, 1]) and said(folder)[find(folder, "broken").stem]["not_finite"] == 2


def test_cameras(session):
    folder, _ = session
    name = find(folder, "cameras").stem
    one = said(folder)[name]
    assert one["cameras"] == {"front": f"{name}.mp4", "wrist_cam": f"{name}.wrist_cam.mp4"} and one["video"] == "camera"
    seen = [1, 1, 2, 3, 4, 5, 6, 6, 8, 9, 10, 11]
    assert np.allclose(shades(folder / f"{name}.mp4"), [shade(i) for i in seen], atol=3)
    source = recording(folder / f"{name}.mp4")
    assert next(recorded(folder / f"{name}.mp4", source, first=0, last=1, height=48)).shape == (48, 64, 3)
    assert np.allclose(shades(folder / "cameras" / f"{name}.wrist_cam.mp4"), 90, atol=3)


def test_without_a_camera_the_arm_is_drawn(session):
    folder, _ = session
    file = find(folder, "blind")
    assert said(folder)[file.stem]["video"] == "rendered"
    frames = list(recorded(file.with_suffix(".mp4"), recording(file.with_suffix(".mp4")), first=0, last=6, height=240))
    apart = [np.abs(a.astype(int) - b).mean() for a, b in zip(frames, frames[1:], strict=False)]
    assert frames[0].std() > 10 and min(apart) > 0.3, "it moves"


def test_what_was_aborted_is_apart(session):
    folder, _ = session
    assert len(whole(folder / "aborted")) == 1
    found = {one["about"]["kind"]: one["outcome"] for one in said(folder / "aborted").values()}
    assert found == {"stopped": "aborted:user stop", "short": "aborted:too_short (success)",
                     "empty": "aborted:too_short (failure)"}  # fmt: skip
    assert len(numbers(find(folder / "aborted", "short"))["action_raw"]) == 1


def test_the_last_seconds(session):
    """0.2 s are four steps; more than the ring keeps is what it keeps."""
    folder, given = session
    clips = [numbers(folder / "clips" / f"{name}.npz") for name in whole(folder / "clips")]
    assert [columns["index"].tolist() for columns in clips] == [list(range(15, 19)), list(range(9, 19))]
    assert np.array_equal(clips[0]["obs"], [s.obs for s in given["plain"][15:19]]) and "success" not in clips[0]
    assert {one["clip_of"] for one in said(folder / "clips").values()} == {find(folder, "plain").stem}


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
        clock = said(folder)[find(folder, kind).stem]["clock"]
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


GIVEN = """
import os, signal, sys, time
import numpy as np
from real.record import Recorder, Step

signal.signal(signal.SIGINT, signal.default_int_handler)  # whoever started the tests may ignore it
recorder, home = Recorder(sys.argv[1]), np.array([0, -0.8, 0, -2.4, 0, 1.6, 0.8])
image = np.zeros((48, 64, 3), np.uint8)
for episode in range(1000):
    recorder.begin({{"tag": sys.argv[2], "episode": episode}})
    for i in range(40):
        t = time.monotonic()
        if recorder.add(Step(t, t, t, t, 0, np.zeros(5), np.zeros(3), home, home, home, 0, images={{"front": image}})):
            os.write(1, b"%d %d\\n" % (episode, i))
        time.sleep(0.004)
        {then}
    recorder.end("success")
"""


@pytest.fixture
def parent():
    """Starts processes that record, and say what was taken; neither they nor their writers outlive the test."""
    started: list[subprocess.Popen] = []

    def start(folder: Path, tag: str, then: str = "pass") -> subprocess.Popen:
        code = [sys.executable, "-c", GIVEN.format(then=then), str(folder), tag]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
        started.append(subprocess.Popen(code, **pipes, text=True, start_new_session=True))
        return started[-1]

    def end() -> None:
        for process in started:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)

    too_long = threading.Timer(90, end)
    too_long.start()
    yield start
    too_long.cancel()
    end()


def told(process: subprocess.Popen) -> dict[int, int]:
    """How many steps of each episode were taken. Waits for the writer too: it holds the pipe as well."""
    taken: dict[int, int] = {}
    assert process.stdout is not None
    for line in process.stdout.read().splitlines():
        taken[int(line.split()[0])] = int(line.split()[1]) + 1
    return taken


def found(folder: Path, tag: str) -> dict[int, tuple[str, int]]:
    """Outcome and steps of each episode."""
    return {
        one["about"]["episode"]: (one["outcome"], one["steps"])
        for place in (folder, folder / "aborted")
        for one in said(place).values()
        if one["about"].get("tag") == tag
    }


def mend(folder: Path) -> None:
    """What the next recorder does first."""
    for left in journal.Journal.left(folder / ".part"):
        finish(left.folder, folder)
        left.release()


def test_whoever_gives_the_steps_may_go_at_any_moment(tmp_path, parent):
    """Two are killed, one is interrupted, one leaves without a word; their writers end what they began, and leave."""
    killed = {tag: parent(tmp_path, tag) for tag in "ab"}
    interrupted = parent(tmp_path, "c", then="(i, episode) == (30, 1) and os.killpg(0, 2)")
    left = parent(tmp_path, "d", then="(i, episode) == (9, 0) and sys.exit()")
    for process in killed.values():
        assert process.stdout is not None and process.stdout.readline()
        time.sleep(np.random.default_rng().uniform(0, 0.4))
        process.kill()
    for tag, process in killed.items():
        taken, there = told(process), found(tmp_path, tag)
        for episode, steps in taken.items():
            assert there[episode][0] in (("success", "aborted:killed") if episode == max(taken) else ("success",))
            assert there[episode][1] - steps in (0, 1), "taken, but not said before the kill"
    told(interrupted), told(left)
    assert interrupted.wait(5) == -signal.SIGINT and left.wait(5) == 0
    assert found(tmp_path, "c") == {0: ("success", 40), 1: ("aborted:closed", 31)}
    assert found(tmp_path, "d") == {0: ("aborted:closed", 10)}
    whole(tmp_path), whole(tmp_path / "aborted")
    assert not list((tmp_path / ".part").iterdir())


def test_a_killed_writer_leaves_what_the_next_one_ends(tmp_path):
    """At any moment, also while it makes an episode whole; what somebody else is at work on is left alone."""
    recorder = Recorder(tmp_path)
    other = journal.Journal.begin(tmp_path / ".part", "other", {})
    for episode in range(3):
        recorder.begin({"tag": "mine", "episode": episode})
        for i in range(30):
            recorder.add(step(i))
        if episode < 2:
            recorder.end("success")
    wait(lambda: recorder.status.steps == 90)
    time.sleep(np.random.default_rng().uniform(0, 4))
    recorder.process.kill()
    wait(lambda: recorder.error)
    assert "has died" in recorder.error and not recorder.add(step(30))
    assert recorder.close()[1:3] == (90, 1)
    whole(tmp_path)
    with Recorder(tmp_path):
        pass
    assert found(tmp_path, "mine") == {0: ("success", 30), 1: ("success", 30), 2: ("aborted:killed", 30)}
    assert len(whole(tmp_path)) == 2 and list((tmp_path / ".part").iterdir()) == [other.folder]


def wait(until, seconds: float = 20.0) -> None:
    """Until something is so."""
    end = time.monotonic() + seconds
    while not until():
        assert time.monotonic() < end, "it did not come"
        time.sleep(0.01)


def limit(recorder: Recorder, size: int) -> None:
    """No file of the writer may be larger: the kernel then refuses to write, as it does on a full disk."""
    resource.prlimit(recorder.process.pid, resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))


def test_a_full_disk_costs_only_what_comes_then(tmp_path):
    recorder = Recorder(tmp_path)

    def steps(tag: str, count: int) -> None:
        recorder.begin({"tag": tag, "episode": 0})
        for i in range(count):
            assert recorder.add(step(i, {}))

    steps("before", 10)
    recorder.end("success")
    wait(lambda: recorder.status.episodes == 1)
    limit(recorder, 10_000)
    steps("full", 40)
    wait(lambda: not recorder.ring.filled.get_value() and recorder.error)
    limit(recorder, 2_000)  # now there is no room for the numbers of what was written
    recorder.end("success")
    wait(lambda: list(tmp_path.glob(".part/*/whole")))
    wait(lambda: not list(tmp_path.glob(".part/*/whole")))
    limit(recorder, resource.RLIM_INFINITY)
    steps("after", 10)
    recorder.end("success")
    episodes_made, steps_written, dropped, error = recorder.close()
    assert "a step is lost" in error and "No space left" in error
    assert episodes_made == 2 and steps_written + dropped == 60 and 25 < steps_written < 40
    assert found(tmp_path, "before") == found(tmp_path, "after") == {0: ("success", 10)}
    mend(tmp_path)
    assert found(tmp_path, "full") == {0: ("success", steps_written - 20)}, "a place was kept for the outcome"
    (one,) = (one for one in said(tmp_path).values() if one["about"]["tag"] == "full")
    assert one["dropped"] == dropped and len(whole(tmp_path)) == 3


def test_no_folder_to_write_to(tmp_path):
    (tmp_path / "file").touch()
    with Recorder(tmp_path / "file" / "films") as recorder:
        wait(lambda: recorder.error)
        assert "Not a directory" in recorder.error and "nothing is recorded" in recorder.error
        recorder.begin({})
        recorder.add(step(0))
        recorder.end("success")
        assert recorder.process.is_alive()
    assert recorder.close()[:3] == (0, 0, 1)


def test_a_stopped_writer_holds_nobody_up(tmp_path):
    recorder, took, taken = Recorder(tmp_path, queue_mb=4), [], []
    images = {"front": np.zeros((240, 320, 3), np.uint8)}
    recorder.begin({"tag": "a", "episode": 0})
    os.kill(recorder.process.pid, signal.SIGSTOP)
    for i in range(60):
        each = step(i, images)
        start = time.perf_counter()
        taken.append(recorder.add(each))
        took.append(time.perf_counter() - start)
    while recorder.add(step(len(taken), {})):
        taken.append(True)
    taken.append(False)
    recorder.end("failure")
    recorder.begin({"tag": "a", "episode": 1, "note": "there is room for that" * 1000})
    assert np.median(took) < 0.002 and max(took) < 0.1
    assert all(taken[:15]) and not any(taken[18:60]) and recorder.dropped == taken.count(False)
    os.kill(recorder.process.pid, signal.SIGCONT)
    wait(lambda: recorder.status.steps == sum(taken))
    assert recorder.add(step(0)) and recorder.add(step(1)), "it caught up"
    wait(lambda: recorder.status.steps == sum(taken) + 2)
    os.kill(recorder.process.pid, signal.SIGSTOP)
    start = time.monotonic()
    recorder.end("success")
    summary = recorder.close(patience_s=0.3)
    assert time.monotonic() - start < 5 and "did not move" in summary.error
    assert summary[1:3] == (sum(taken) + 2, taken.count(False))
    mend(tmp_path)
    assert found(tmp_path, "a") == {0: ("failure", sum(taken)), 1: ("aborted:killed", 2)}
    (file,) = tmp_path.glob("*.npz")
    assert numbers(file)["index"].tolist() == [i for i, was in enumerate(taken) if was]
    assert said(tmp_path)[file.stem]["dropped"] == taken.count(False)


def test_what_is_no_step_costs_only_itself(tmp_path):
    bad = {1: {"obs": np.zeros(4)}, 2: {"mode": lambda: 0}, 3: {"images": {"front": np.zeros(3)}}, 4: {"age": None}}
    with pytest.raises(ZeroDivisionError), Recorder(tmp_path) as recorder:
        recorder.begin({})
        for i in range(6):
            assert recorder.add(step(i, **bad.get(i, {}))) == (i != 2)
        wait(lambda: recorder.status.steps == 2)
        assert "a step is lost" in recorder.error and "lengths" in recorder.error
        with pytest.raises(UserError, match="outcome is success"):
            recorder.end("great")
        recorder.end("success")
        recorder.begin({})
        recorder.add(step(0))
        raise ZeroDivisionError
    assert [numbers(tmp_path / f"{name}.npz")["index"].tolist() for name in whole(tmp_path)] == [[0, 5]]
    assert [one["outcome"] for one in said(tmp_path / "aborted").values()] == ["aborted:ZeroDivisionError"]
    assert recorder.close()[:3] == (2, 3, 4)


def written(folder: Path, steps: int) -> Path:
    """A journal that has ended."""
    (folder / ".part").mkdir(parents=True, exist_ok=True)
    made = journal.Journal.begin(folder / ".part", "one", {"robot": "panda", "about": {}})
    for i in range(steps):
        made.add(journal.Row.of(i, step(i, {**grey(i), "wrist": grey(i)["front"]})))
    made.end("success", 0)
    made.release()
    return made.folder


def test_an_episode_appears_whole_or_not_at_all(tmp_path, monkeypatch):
    """Interrupted before each of the renames, and done again."""
    rename, allowed, moved = os.replace, [0], []

    class Killed(BaseException):
        pass

    def replace(source, target):
        if len(moved) == allowed[0]:
            raise Killed
        moved.append(rename(source, target))

    monkeypatch.setattr("real.record.finish.os.replace", replace)  # no kill can be timed between two renames
    part = written(tmp_path, 3)
    for allowed[0] in range(4):
        moved.clear()
        with pytest.raises(Killed):
            finish(part, tmp_path)
        assert part.exists() and whole(tmp_path) == []
    allowed[0] = 99
    moved.clear()
    finish(part, tmp_path)
    assert not part.exists() and whole(tmp_path) == ["one"] and len(moved) == 4


def test_what_was_torn_is_left_out(tmp_path):
    part = written(tmp_path, 6)
    lines = (part / "steps.jsonl").read_bytes().splitlines(keepends=True)
    lines[2] = bytes(len(lines[2]))  # as a power cut leaves it
    (part / "steps.jsonl").write_bytes(b"".join(lines)[:-1])
    video = part / "front.mjpeg"
    video.write_bytes(video.read_bytes()[: json.loads(lines[4])["images"]["front"][0] + 3])
    (part / "wrist.mjpeg").write_bytes(bytes(video.stat().st_size * 2))
    (part / "outcome.json").write_text(" " * 100)
    assert finish(part, tmp_path) == "aborted:killed"
    assert numbers(tmp_path / "aborted/one.npz")["index"].tolist() == [0, 1, 3] and whole(tmp_path / "aborted")


def test_a_disk_without_a_byte(tmp_path):
    """A real one of 1 MB: nothing is added, but how it ended can be said; with room again it becomes whole."""
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "none", tmp_path], capture_output=True).returncode:
        pytest.skip("only root may mount a small disk")
    try:
        (tmp_path / ".part").mkdir()
        made, last = journal.Journal.begin(tmp_path / ".part", "one", {"robot": "panda"}), 0
        with pytest.raises(OSError, match="No space"), open(tmp_path / "ballast", "wb", buffering=0) as ballast:
            for last in range(100):
                made.add(journal.Row.of(last, step(last)))
                if last == 9:
                    while ballast.write(bytes(4096)) == 4096:
                        pass
        with pytest.raises(OSError, match="No space"):
            for last in range(10, 100):
                made.add(journal.Row.of(last, step(last)))
        made.end("success", 3)
        made.release()
        with pytest.raises(OSError):
            finish(made.folder, tmp_path)
        assert whole(tmp_path) == [] and made.folder.exists()
        (tmp_path / "ballast").unlink()
        assert finish(made.folder, tmp_path) == "success" and whole(tmp_path) == ["one"]
        assert numbers(tmp_path / "one.npz")["index"].tolist() == list(range(last))
    finally:
        subprocess.run(["umount", "-l", tmp_path], check=True)


def test_a_torn_append_is_taken_back(tmp_path):
    """A write that a full disk cut short would make the next line unreadable."""
    (tmp_path / ".part").mkdir()
    made = journal.Journal.begin(tmp_path / ".part", "one", {})
    made.add(journal.Row.of(0, step(0, {})))
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, ((made.folder / "steps.jsonl").stat().st_size + 100, before[1]))
    try:
        with pytest.raises(OSError):
            made.add(journal.Row.of(1, step(1, {})))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    made.add(journal.Row.of(2, step(2, {})))
    assert [row["index"] for row in journal.read(made.folder).rows] == [0, 2]


def test_the_ring_gives_back_what_was_put():
    """Messages of any size, over its end again and again; refused exactly when there is no room."""
    ring, random = Ring(get_context("spawn"), 4096), np.random.default_rng(0)
    taker = Ring.__new__(Ring)
    taker.__dict__.update(ring.__dict__)  # its own place to read at, as in another process
    waiting, refused = [], 0
    for _ in range(3000):
        if random.random() < 0.55:
            parts = [random.bytes(random.integers(0, 500)) for _ in range(random.integers(1, 5))]
            if ring.put(parts):
                waiting.append(parts)
            else:
                refused += 1
                assert sum(len(part) for parts in waiting for part in parts) > 500
        elif waiting:
            got = taker.take(0)
            assert got is not None and [bytes(part) for part in got] == waiting.pop(0)
            del got
            taker.done()
        else:
            assert taker.take(0) is None
    assert refused > 100 and not ring.put([bytes(4096)])
    assert ring.put([b""], spare=0) or waiting


def test_a_table_of_nothing(tmp_path):
    assert export.table(tmp_path).splitlines() == ["name  outcome  seconds  steps  interventions"]
    with pytest.raises(SystemExit, match="no folder"):
        main(["list", str(tmp_path / "else")])
