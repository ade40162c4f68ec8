"""Recordings are whole on disk, whichever process is killed, stopped or out of space."""

import os
import resource
import signal
import subprocess
import threading
import time
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest

from pbrl.types import UserError
from real.record import Recorder, journal
from real.record.finish import finish
from tests import forks
from tests.real.recorded import numbers, read_json_files, step, whole

GIVEN = """
import os, signal, sys, time
import numpy as np
from real.record import Recorder, Step

signal.signal(signal.SIGINT, signal.default_int_handler)  # a parent process may ignore it
recorder, home = Recorder(sys.argv[1], "panda"), np.array([0, -0.8, 0, -2.4, 0, 1.6, 0.8])
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
        code = ["-c", GIVEN.format(then=then), str(folder), tag]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
        started.append(forks.Program(code, **pipes, text=True, start_new_session=True))
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


def steps_taken(process: subprocess.Popen) -> dict[int, int]:
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
        for one in read_json_files(place).values()
        if one["about"].get("tag") == tag
    }


def mend(folder: Path) -> None:
    """What the next recorder does first."""
    for left in journal.Journal.find_unfinished(folder / ".part"):
        finish(left.folder, folder)
        left.release()


def test_a_recording_process_may_die_at_any_moment(tmp_path, parent):
    """Two are killed, one is interrupted, one leaves without a word; their writers end what they began, and leave."""
    killed = {tag: parent(tmp_path, tag) for tag in "ab"}
    interrupted = parent(tmp_path, "c", then="(i, episode) == (30, 1) and os.killpg(0, 2)")
    left = parent(tmp_path, "d", then="(i, episode) == (9, 0) and sys.exit()")
    for process in killed.values():
        assert process.stdout is not None and process.stdout.readline()
        time.sleep(np.random.default_rng().uniform(0, 0.4))
        process.kill()
    for tag, process in killed.items():
        taken, there = steps_taken(process), found(tmp_path, tag)
        for episode, steps in taken.items():
            assert there[episode][0] in (("success", "aborted:killed") if episode == max(taken) else ("success",))
            assert there[episode][1] - steps in (0, 1), "taken, but not said before the kill"
    steps_taken(interrupted), steps_taken(left)
    assert interrupted.wait(5) == -signal.SIGINT and left.wait(5) == 0
    assert found(tmp_path, "c") == {0: ("success", 40), 1: ("aborted:closed", 31)}
    assert found(tmp_path, "d") == {0: ("aborted:closed", 10)}
    whole(tmp_path), whole(tmp_path / "aborted")
    assert not list((tmp_path / ".part").iterdir())


def test_a_killed_writer_leaves_what_the_next_one_ends(tmp_path):
    """At any moment, also while it makes an episode whole; what another process works on is left alone."""
    recorder = Recorder(tmp_path, "panda")
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
    with Recorder(tmp_path, "panda"):
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
    recorder = Recorder(tmp_path, "panda")

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
    (one,) = (one for one in read_json_files(tmp_path).values() if one["about"]["tag"] == "full")
    assert one["dropped"] == dropped and len(whole(tmp_path)) == 3


def test_no_folder_to_write_to(tmp_path):
    (tmp_path / "file").touch()
    with Recorder(tmp_path / "file" / "films", "panda") as recorder:
        wait(lambda: recorder.error)
        assert "Not a directory" in recorder.error and "nothing is recorded" in recorder.error
        recorder.begin({})
        recorder.add(step(0))
        recorder.end("success")
        assert recorder.process.is_alive()
    assert recorder.close()[:3] == (0, 0, 1)


def test_a_stopped_writer_blocks_no_other_process(tmp_path):
    recorder, took, taken = Recorder(tmp_path, "panda", queue_mb=4), [], []
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
    assert read_json_files(tmp_path)[file.stem]["dropped"] == taken.count(False)


def test_an_invalid_step_is_dropped_alone(tmp_path):
    bad = {1: {"obs": np.zeros(4)}, 2: {"mode": lambda: 0}, 3: {"images": {"front": np.zeros(3)}}, 4: {"age": None}}
    with pytest.raises(ZeroDivisionError), Recorder(tmp_path, "panda") as recorder:
        recorder.begin({})
        for i in range(6):
            assert recorder.add(step(i, **bad.get(i, {}))) == (i != 2)
        wait(lambda: recorder.status.steps == 3)  # of what is no picture the numbers are kept
        assert "a step is lost" in recorder.error and "lengths" in recorder.error
        with pytest.raises(UserError, match="outcome is success"):
            recorder.end("great")
        recorder.end("success")
        recorder.begin({})
        recorder.add(step(0))
        raise ZeroDivisionError
    assert [numbers(tmp_path / f"{name}.npz")["index"].tolist() for name in whole(tmp_path)] == [[0, 3, 5]]
    assert [one["outcome"] for one in read_json_files(tmp_path / "aborted").values()] == ["aborted:ZeroDivisionError"]
    assert recorder.close()[:3] == (2, 4, 3)
