"""A recording's journal: renamed, torn, out of space, and the ring it is fed by."""

import json
import os
import resource
import subprocess
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pytest

from real.record import journal
from real.record.finish import finish
from real.record.ring import Ring
from tests.real.recorded import grey, numbers, step, whole


def write_journal(folder: Path, steps: int) -> Path:
    """A journal that has ended."""
    (folder / ".part").mkdir(parents=True, exist_ok=True)
    opened = journal.Journal.begin(folder / ".part", "one", {"robot": "panda", "about": {}})
    for i in range(steps):
        opened.add(journal.Row.of(i, step(i, {**grey(i), "wrist": grey(i)["front"]})))
    opened.end("success", 0)
    opened.release()
    return opened.folder


def test_an_episode_appears_whole_or_not_at_all(tmp_path, monkeypatch):
    """Interrupted before each of the renames, and done again."""
    rename, allowed, moved = os.replace, [0], []

    class Killed(BaseException):
        pass

    def replace(source, target):
        if not Path(target).is_relative_to(tmp_path):  # what reading a video keeps for the next time
            return rename(source, target)
        if len(moved) == allowed[0]:
            raise Killed
        moved.append(rename(source, target))

    monkeypatch.setattr("real.record.finish.os.replace", replace)  # no kill can be timed between two renames
    part = write_journal(tmp_path, 3)
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
    part = write_journal(tmp_path, 6)
    lines = (part / "steps.jsonl").read_bytes().splitlines(keepends=True)
    lines[2] = bytes(len(lines[2]))  # as a power cut leaves it
    (part / "steps.jsonl").write_bytes(b"".join(lines)[:-1])
    video = part / "front.mjpeg"
    video.write_bytes(video.read_bytes()[: json.loads(lines[4])["images"]["front"][0] + 3])
    (part / "wrist.mjpeg").write_bytes(bytes(video.stat().st_size * 2))
    (part / "outcome.json").write_text(" " * 100)
    assert finish(part, tmp_path) == "aborted:killed"
    assert numbers(tmp_path / "aborted/one.npz")["index"].tolist() == [0, 1, 3] and whole(tmp_path / "aborted")


def test_a_full_disk(tmp_path):
    """A real one of 1 MB: nothing is added, but how it ended can be said; with room again it becomes whole."""
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "none", tmp_path], capture_output=True).returncode:
        pytest.skip("only root may mount a small disk")
    try:
        (tmp_path / ".part").mkdir()
        opened, last = journal.Journal.begin(tmp_path / ".part", "one", {"robot": "panda"}), 0
        with pytest.raises(OSError, match="No space"), open(tmp_path / "ballast", "wb", buffering=0) as ballast:
            for last in range(100):
                opened.add(journal.Row.of(last, step(last)))
                if last == 9:
                    while ballast.write(bytes(4096)) == 4096:
                        pass
        with pytest.raises(OSError, match="No space"):
            for last in range(10, 100):
                opened.add(journal.Row.of(last, step(last)))
        opened.end("success", 3)
        opened.release()
        with pytest.raises(OSError):
            finish(opened.folder, tmp_path)
        assert whole(tmp_path) == [] and opened.folder.exists()
        (tmp_path / "ballast").unlink()
        assert finish(opened.folder, tmp_path) == "success" and whole(tmp_path) == ["one"]
        assert numbers(tmp_path / "one.npz")["index"].tolist() == list(range(last))
    finally:
        subprocess.run(["umount", "-l", tmp_path], check=True)


def test_a_torn_append_is_taken_back(tmp_path):
    """A write that a full disk cut short would make the next line unreadable."""
    (tmp_path / ".part").mkdir()
    opened = journal.Journal.begin(tmp_path / ".part", "one", {})
    opened.add(journal.Row.of(0, step(0, {})))
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, ((opened.folder / "steps.jsonl").stat().st_size + 100, before[1]))
    try:
        with pytest.raises(OSError):
            opened.add(journal.Row.of(1, step(1, {})))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    opened.add(journal.Row.of(2, step(2, {})))
    assert [row["index"] for row in journal.read(opened.folder).rows] == [0, 2]


def test_the_ring_returns_what_was_put():
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
