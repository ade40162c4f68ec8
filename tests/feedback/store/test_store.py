"""The store keeps what it is told, once, and says what to do when it cannot."""

import os
import sqlite3
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from pbrl.feedback.exchange import export, flat, load
from pbrl.feedback.store import database
from pbrl.feedback.store.store import Store
from pbrl.types import UserError

STARTS = np.array([[3, 9], [5, 5], [70, 2]])
ROUND = dict(
    dataset="abc", length=64, kind="pair", strategy="uniform", round_=0, starts=STARTS, author="scripted",
    label=np.array([1.0, 0.5, np.nan]), outcome=np.array(["answer", "tie", "skip"], object),
)  # fmt: skip


@pytest.fixture
def store(tmp_path) -> Store:
    return Store(f"sqlite:///{tmp_path / 'answers.sqlite'}")


def test_a_teacher_and_its_answers_in_postgresql(postgres):
    store = Store(postgres())
    ids = store.record(**ROUND)
    assert store.record(**ROUND) == ids and store.counts() == {"asked": 3, "answered": 2, "ties": 1, "skipped": 1}
    assert store.answers(ids).starts.tolist() == STARTS.tolist()
    np.testing.assert_array_equal(store.answers(ids).label, ROUND["label"])
    assert Store(store.url).last() == 3


def test_a_database_of_another_kind():
    with pytest.raises(UserError, match="SQLite or PostgreSQL, not in mysql"):
        Store("mysql+pymysql://nobody@localhost/nothing")


def test_answers_come_back_in_order(store):
    answered = store.answers(store.record(**ROUND))
    assert (store.answers().starts == answered.starts).all()
    store.record(**{**ROUND, "author": "another", "label": 1 - ROUND["label"]})
    mine, others = store.answers(author=ROUND["author"]), store.answers(author="another")
    np.testing.assert_array_equal(mine.label, answered.label)
    np.testing.assert_array_equal(others.label, 1 - answered.label)
    assert answered.starts.tolist() == STARTS.tolist()
    np.testing.assert_array_equal(answered.label, ROUND["label"])
    assert answered.outcome.tolist() == ["answer", "tie", "skip"]


def test_asked_answered_and_skipped_are_counted_apart(store):
    store.record(**ROUND)
    assert store.counts() == {"asked": 3, "answered": 2, "ties": 1, "skipped": 1}


def test_telling_twice_changes_nothing(store):
    assert store.record(**ROUND) == store.record(**ROUND)
    assert store.counts()["asked"] == 3
    store.record(**{**ROUND, "round_": 1})
    assert store.counts()["asked"] == 6


def test_two_people_may_answer_one_question(store):
    store.record(**ROUND)
    ids = store.record(**{**ROUND, "author": "ada", "label": np.zeros(3), "outcome": np.array(["answer"] * 3, object)})
    assert len(store.answers(ids).label) == 6 and store.counts()["asked"] == 3


def test_ratings(store):
    ids = store.record(**{**ROUND, "kind": "rating", "starts": STARTS[:, :1]})
    assert store.answers(ids).starts.tolist() == STARTS[:, :1].tolist()


def test_many_questions(store):
    n = 3000
    starts = np.arange(2 * n).reshape(n, 2)
    ids = store.record(**{**ROUND, "starts": starts, "label": np.ones(n), "outcome": np.full(n, "answer", object)})
    assert np.array_equal(store.answers(ids).starts, starts)


@pytest.mark.parametrize("suffix", ["jsonl", "parquet"])
def test_export_and_import(store, tmp_path, suffix):
    ids = store.record(**ROUND)
    file = tmp_path / f"answers.{suffix}"
    assert export(store, file) == 3
    other = Store(f"sqlite:///{tmp_path / 'other.sqlite'}")
    assert load(other, file) == 3 and load(other, file) == 3
    for mine, theirs in zip(store.answers(ids), other.answers(ids), strict=True):
        np.testing.assert_array_equal(mine, theirs)
    assert list(flat(store)) == list(flat(other))


def test_an_import_that_is_none(store, tmp_path):
    file = tmp_path / "answers.jsonl"
    file.write_text('{"answer_id": 1}\n')
    with pytest.raises(UserError, match="not an export"):
        load(store, file)
    with pytest.raises(UserError, match="jsonl, .parquet or a folder"):
        export(store, tmp_path / "answers.csv")


def test_a_folder_for_datasets(store, tmp_path, monkeypatch):
    """Hugging Face's own library reads it, offline, and another store takes it in again."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    datasets = pytest.importorskip("datasets")
    store.record(**ROUND)
    assert export(store, tmp_path / "answers") == 3
    read = datasets.load_dataset(str(tmp_path / "answers"), split="train", cache_dir=str(tmp_path / "cache"))
    assert read["starts"][:] == STARTS.tolist() and read["event_label"][:] == [1.0, 0.5, None]
    card = datasets.load_dataset_builder(str(tmp_path / "answers"), cache_dir=str(tmp_path / "cache"))
    assert "pair | 64 | 3" in (tmp_path / "answers/README.md").read_text() and card.info is not None
    other = Store(f"sqlite:///{tmp_path / 'other.sqlite'}")
    assert load(other, tmp_path / "answers") == 3
    assert list(flat(other)) == list(flat(store))


def test_no_shared_memory_on_a_network_file_system(tmp_path, monkeypatch):
    """SQLite's write-ahead log needs what such file systems have not; its older journal does not."""
    mounts = (
        "/dev/sda / ext4 rw 0 0\nserver:/home /home nfs4 rw 0 0\n/dev/sdb /home/ada/my\\040disk ext4 rw 0 0\n"
        "x /mnt/cloud fuse.sshfs rw 0 0\n"
    )
    assert database.is_remote("/home/ada/answers.sqlite", mounts) and database.is_remote("/mnt/cloud/a", mounts)
    assert not database.is_remote("/home/ada/my disk/answers.sqlite", mounts) and not database.is_remote("/a", mounts)

    def journal(file):
        with Store(f"sqlite:///{tmp_path / file}").reading() as connection:
            return connection.exec_driver_sql("PRAGMA journal_mode").scalar()

    assert journal("near.sqlite") == "wal"
    monkeypatch.setattr(database, "is_remote", lambda file: True)  # no test can mount one
    assert journal("far.sqlite") == "delete"


def test_a_locked_store(store, tmp_path, monkeypatch):
    monkeypatch.setattr(Store, "patience_s", 0.2)
    store.engine.dispose()
    other = sqlite3.connect(tmp_path / "answers.sqlite")
    other.execute("BEGIN EXCLUSIVE")
    with pytest.raises(UserError, match="locked.*close that"):
        store.record(**ROUND)
    other.rollback()
    assert len(store.record(**ROUND)) == 3


@pytest.mark.skipif(os.geteuid() == 0, reason="root writes where it likes")
def test_a_folder_that_cannot_be_written(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(UserError, match="writable"):
        Store(f"sqlite:///{tmp_path / 'answers.sqlite'}")


def test_a_read_only_store(store, tmp_path):
    store.record(**ROUND)
    store.engine.dispose()
    file = tmp_path / "answers.sqlite"
    read_only = Store(f"sqlite:///file:{file}?mode=ro&uri=true")
    assert read_only.counts()["asked"] == 3
    with pytest.raises(UserError, match="readonly.*make the file"):
        read_only.record(**{**ROUND, "round_": 1})


def test_a_missing_folder_and_a_file_that_is_something_else(tmp_path):
    with pytest.raises(UserError, match="folder must exist"):
        Store(f"sqlite:///{tmp_path / 'nowhere' / 'answers.sqlite'}")
    (tmp_path / "letter").write_bytes(b"Dear all, this is not SQL." * 100)
    with pytest.raises(UserError, match="damaged or something else"):
        Store(f"sqlite:///{Path(tmp_path / 'letter')}")


def test_the_command(store, tmp_path):
    store.record(**ROUND)
    database, file = tmp_path / "answers.sqlite", tmp_path / "answers.jsonl"

    def say(*words):
        done = subprocess.run(
            [sys.executable, "-m", "pbrl.feedback.exchange", *map(str, words)], capture_output=True, text=True
        )
        return done.returncode, done.stdout + done.stderr

    assert say(database, "counts") == (0, '{"asked": 3, "answered": 2, "ties": 1, "skipped": 1}\n')
    assert say(database, "export", file) == (0, "3 answers\n")
    assert say(tmp_path / "new.sqlite", "import", file) == (0, "3 answers\n")
    assert say(tmp_path / "none.sqlite", "counts") == (
        1,
        f"there is no store of answers at {tmp_path / 'none.sqlite'}\n",
    )
