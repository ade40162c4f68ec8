"""A disk that fills up while a model answers: nothing that was paid for is lost or paid again, and the rest goes on."""

import os
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from pbrl.feedback.store.store import Store
from pbrl.types import UserError
from pbrl.vlm.messages import Picture, Reply, Request, Token
from pbrl.vlm.settings import Settings
from pbrl.vlm.transcript import SPARE_BYTES, Transcript
from tests.parts import config
from tests.vlm.labelling import ask, draw, run, serve

COUNT = 60
SIZE = 3 * 2**20
REPLY = Reply("2", "stop", (Token("2", -0.1, (("2", -0.1), ("1", -2.4))),), None, 310, 1, 0.5, "m")


@pytest.fixture
def disk(tmp_path):
    """A real one of 3 MB."""
    place = tmp_path / "disk"
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={SIZE}", "none", place]
    if os.geteuid() != 0 or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("mounting a small disk needs root")
    yield place
    subprocess.run(["umount", "--lazy", place], check=True)


@pytest.fixture(scope="module")
def judge(tmp_path_factory):
    with serve(tmp_path_factory.mktemp("key"), latency_s=0.01) as judge:
        yield judge


def settings(judge, cache, **more) -> Settings:
    own = {"base_url": judge[0].base_url, "answer_key": str(judge[1]), "cache": str(cache), "size": 32, "task": "home"}
    given = {"judge": "pair_logprob", "view": "frame", "concurrency": 4, **more}
    return Settings.parse({**config()["vlm"], **own, **given})


def fill(disk, left: int) -> None:
    """Leaves so many bytes."""
    free = os.statvfs(disk)
    with (disk / "ballast").open("wb") as file:
        file.write(bytes(free.f_bavail * free.f_frsize - left))


@pytest.fixture(scope="module")
def drawn(data, judge, tmp_path_factory):
    """The folder of all clips, on a disk that has room."""
    folder = tmp_path_factory.mktemp("drawn")
    store = Store(f"sqlite:///{folder / 'a.sqlite'}")
    shown = store.questions(ask(store, data[1], COUNT)).values()
    draw(*data, settings(judge, folder), [clip for question in shown for clip in question.clips])
    return folder / "views"


def test_the_disk_of_the_transcript(data, judge, drawn, disk, tmp_path):
    store = Store(f"sqlite:///{tmp_path / 'a.sqlite'}")
    asked = ask(store, data[1], COUNT)
    cache = disk / "cache"
    cache.mkdir()
    (cache / "views").symlink_to(drawn)
    before = judge[0].counts()["answered"]
    fill(disk, SPARE_BYTES + 150_000)
    stopped = run(store, data, settings(judge, cache))
    assert "free some space and start again" in str(stopped.error)
    paid = judge[0].counts()["answered"] - before
    assert 0 < paid < 2 * COUNT and len(stopped.transcript.rows()) == paid, "all that was paid for is kept"
    again = run(store, data, settings(judge, cache))
    assert again.error is not None and judge[0].counts()["answered"] - before == paid, (
        "nothing is paid while it is full"
    )
    (disk / "ballast").unlink()
    done = run(store, data, settings(judge, cache))
    assert done.error is None and len(store.answers(asked)) == COUNT
    counts = judge[0].counts()
    assert counts["answered"] - before == 2 * COUNT and counts["repeated"] == 0


def test_the_disk_of_the_store(data, judge, drawn, disk, tmp_path):
    store = Store(f"sqlite:///{disk / 'a.sqlite'}")
    asked = ask(store, data[1], COUNT)
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache" / "views").symlink_to(drawn)
    before = judge[0].counts()["answered"]
    fill(disk, 70_000)
    own = settings(judge, tmp_path / "cache", task="come home")
    stopped = run(store, data, own)
    assert "free some space" in str(stopped.error), stopped.ended
    given = store.answers(asked)
    assert len(given) < COUNT and store.find_miscounted() == []
    paid = judge[0].counts()["answered"] - before
    assert len(stopped.transcript.rows()) == paid >= 2 * len(given)
    (disk / "ballast").unlink()
    done = run(store, data, own)
    assert done.error is None and len(store.answers(asked)) == COUNT and not store.has_missing(asked)
    assert {a.uid for a in given} < {a.uid for a in store.answers(asked)}
    counts = judge[0].counts()
    assert counts["answered"] - before == 2 * COUNT and counts["repeated"] == 0


def test_a_reply_goes_where_space_was_set_aside(disk):
    kept = Transcript(disk / "cache")
    requests = [Request(("Which?", Picture(b"\xff\xd8" + bytes([i]))), 5, top=3) for i in range(3)]
    kept.prepare(requests[0])
    kept.prepare(requests[1])
    fill(disk, 0)
    kept.add(requests[0], "m", REPLY)
    kept.add(requests[1], "m", REPLY)
    with (disk / "more").open("wb", buffering=0) as file, pytest.raises(OSError, match="No space"):
        while file.write(bytes(4096)) == 4096:
            pass
    with pytest.raises(UserError, match="every reply is kept"):
        kept.prepare(requests[2])
    assert [Transcript(disk / "cache").find(r, "m") is not None for r in requests] == [True, True, False]
    assert not list((disk / "cache" / "pictures").glob(".*")), "nothing half stays"


def test_no_other_request_takes_the_space_that_a_reply_needs(disk, monkeypatch):
    kept = Transcript(disk / "cache")
    request = Request(("Which?", Picture(b"\xff\xd8")), 5, top=3)
    kept.prepare(request)
    fill(disk, 0)
    unlink = Path.unlink

    def unlink_slowly(path: Path, missing_ok: bool = False) -> None:
        unlink(path, missing_ok)
        time.sleep(0.2)  # another request is prepared meanwhile

    monkeypatch.setattr(Path, "unlink", unlink_slowly)
    with ThreadPoolExecutor(2) as pool:
        added = pool.submit(kept.add, request, "m", REPLY)
        time.sleep(0.1)
        other = pool.submit(kept.prepare, Request(("Which now?",), 5))
        added.result()
        assert isinstance(other.exception(), UserError)
    assert len(Transcript(disk / "cache").replies) == len(kept.rows()) == 1
