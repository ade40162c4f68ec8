"""The store keeps answers, once, and says what to do when it cannot."""

import os
import sqlite3
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest

from pbrl.feedback.exchange import export, flat, load
from pbrl.feedback.questions import Value
from pbrl.feedback.store import database
from pbrl.feedback.store.answers import Answer
from pbrl.feedback.store.store import Store
from pbrl.types import UserError
from tests import forks
from tests.feedback.examples import dataset, labels_of, questions, record, steps_of, value

STARTS = [[3, 9], [5, 5], [70, 2]]
LABELS = [1.0, 0.5, None]


@pytest.fixture
def store(tmp_path) -> Store:
    return Store(f"sqlite:///{tmp_path / 'answers.sqlite'}")


def test_a_teacher_and_its_answers_in_postgresql(postgres):
    store = Store(postgres())
    ids = record(store, STARTS, LABELS)
    assert record(store, STARTS, LABELS) == ids
    assert store.counts() == {"asked": 3, "answered": 2, "ties": 1, "skipped": 1}
    assert steps_of(store, ids) == STARTS and labels_of(store, ids) == LABELS
    assert Store(store.url).last() == 3


def test_a_database_of_another_kind():
    with pytest.raises(UserError, match="SQLite or PostgreSQL, not in mysql"):
        Store("mysql+pymysql://user@localhost/nothing")


def test_answers_come_back_in_order(store):
    ids = record(store, STARTS, LABELS)
    record(store, STARTS, [0.0, 0.5, None], "another")
    assert labels_of(store, rater="scripted") == LABELS and labels_of(store, rater="another") == [0.0, 0.5, None]
    assert [answer.question for answer in store.answers(rater="scripted")] == ids and steps_of(store, ids) == STARTS
    assert [a.value.outcome for a in store.answers(ids, rater="scripted")] == ["answer", "tie", "skip"]


def test_a_question_comes_back_whole(store):
    (first,) = store.ask(questions([[1, 2]], wording={"text": "Which?"}, rater_kind="vlm", wanted=3, priority=2.5))
    (second,) = store.ask(questions([[2, 1]], purpose="repeat", repeats=first, strategy="entropy", round=4, position=7))
    (gold,) = store.ask(questions([[2, 1]], purpose="gold", expected=1.0))
    (asked, again, known) = store.questions([first, second, gold]).values()
    assert asked == questions([[1, 2]], wording={"text": "Which?"}, rater_kind="vlm", wanted=3, priority=2.5)[0]
    assert (again.repeats, again.strategy, again.round, again.position) == (first, "entropy", 4, 7)
    assert known.expected == 1.0 and len({first, second, gold}) == 3 and store.questions(["nothing"]) == {}


def test_other_words_are_another_question(store):
    ids = [
        store.ask(questions([[1, 2]], wording={"text": text}))[0] for text in ("Which?", "Which is safer?", "Which?")
    ]
    assert ids[0] == ids[2] != ids[1] and store.counts()["asked"] == 2


def test_asked_answered_and_skipped_are_counted_apart(store):
    record(store, STARTS, LABELS)
    assert store.counts() == {"asked": 3, "answered": 2, "ties": 1, "skipped": 1}


def test_storing_twice_changes_nothing(store):
    assert record(store, STARTS, LABELS) == record(store, STARTS, LABELS)
    assert store.counts()["asked"] == 3
    record(store, STARTS, LABELS, round=1)
    assert store.counts()["asked"] == 6


def test_two_people_may_answer_one_question(store):
    record(store, STARTS, LABELS)
    ids = record(store, STARTS, [0.0, 0.0, 0.0], "ada")
    assert len(store.answers(ids)) == 6 and store.counts()["asked"] == 3


def test_ratings(store):
    ids = record(store, [[3], [5]], [7.0, 2.0], kind="rating")
    assert steps_of(store, ids) == [[3], [5]] and labels_of(store, kind="rating") == [7.0, 2.0]


def test_many_questions(store):
    starts = np.arange(6000).reshape(3000, 2).tolist()
    ids = record(store, starts, [1.0] * 3000)
    assert steps_of(store, ids) == starts and len(store.answers(ids)) == 3000


def test_answers_as_they_stood_at_an_earlier_event(store):
    """Given, changed, taken back: whenever a reader stopped, it finds again what there was."""
    (question,) = store.ask(questions([[1, 2]]))
    store.add_rater("ada", "human")
    store.append([Answer("1", question, "ada", value(1.0))])
    store.append(
        [Answer("2", question, "ada", value(0.0)), Answer("3", question, "ada", kind="retract", supersedes="2")]
    )
    store.append([Answer("4", question, "ada", value(0.5))])
    then = [[a.value.label for a in store.answers([question], until=event)] for event in range(6)]
    assert then == [[], [1.0], [0.0], [], [0.5], [0.5]] and labels_of(store) == [0.5]


def test_an_answer_keeps_its_confidence_and_what_was_shown(store):
    (question,) = store.ask(questions([[1, 2]]))
    store.add_rater("seer", "vlm")
    when = datetime(2026, 11, 21, 10, tzinfo=UTC)
    rated = Value("answer", 0.8, {"note": "dark"})
    sent = Answer("1", question, "seer", rated, confidence=0.25, seconds=1.5, time=when, shown={"order": [1, 0]})
    store.append([sent])
    (kept,) = store.answers()
    assert replace(kept, time=when) == sent and kept.time.replace(tzinfo=UTC) == when


@pytest.mark.parametrize("suffix", ["jsonl", "parquet"])
def test_export_and_import(store, tmp_path, suffix):
    ids = record(store, STARTS, LABELS)
    file = tmp_path / f"answers.{suffix}"
    assert export(store, file) == 3
    other = Store(f"sqlite:///{tmp_path / 'other.sqlite'}")
    assert load(other, file) == 3 and load(other, file) == 3
    assert store.answers(ids) == other.answers(ids) and store.questions(ids) == other.questions(ids)
    assert list(flat(store)) == list(flat(other)) and other.find_miscounted() == []
    assert len(other.answers(dataset=dataset(other))) == 3, "what is imported is found by its episodes"


def test_an_invalid_import(store, tmp_path):
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
    record(store, STARTS, LABELS)
    assert export(store, tmp_path / "answers") == 3
    read = datasets.load_dataset(str(tmp_path / "answers"), split="train", cache_dir=str(tmp_path / "cache"))
    assert read["firsts"][:] == STARTS and read["event_label"][:] == [1.0, 0.5, None]
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
        record(store, STARTS, LABELS)
    other.rollback()
    assert len(record(store, STARTS, LABELS)) == 3


@pytest.mark.skipif(os.geteuid() == 0, reason="root writes where it likes")
def test_a_folder_that_cannot_be_written(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(UserError, match="writable"):
        Store(f"sqlite:///{tmp_path / 'answers.sqlite'}")


def test_a_read_only_store(store, tmp_path):
    record(store, STARTS, LABELS)
    store.engine.dispose()
    file = tmp_path / "answers.sqlite"
    read_only = Store(f"sqlite:///file:{file}?mode=ro&uri=true")
    assert read_only.counts()["asked"] == 3
    with pytest.raises(UserError, match="readonly.*make the file"):
        record(read_only, STARTS, LABELS, round=1)


def test_a_missing_folder_and_a_file_that_is_something_else(tmp_path):
    with pytest.raises(UserError, match="folder must exist"):
        Store(f"sqlite:///{tmp_path / 'nowhere' / 'answers.sqlite'}")
    (tmp_path / "letter").write_bytes(b"Dear all, this is not SQL." * 100)
    with pytest.raises(UserError, match="damaged or something else"):
        Store(f"sqlite:///{Path(tmp_path / 'letter')}")


def test_the_command(store, tmp_path):
    record(store, STARTS, LABELS)
    database, file = tmp_path / "answers.sqlite", tmp_path / "answers.jsonl"

    def run_command(*words):
        done = forks.run(["-m", "pbrl.feedback.exchange", *words], capture_output=True, text=True)
        return done.returncode, done.stdout + done.stderr

    assert run_command(database, "counts") == (0, '{"asked": 3, "answered": 2, "ties": 1, "skipped": 1}\n')
    assert run_command(database, "export", file) == (0, "3 answers\n")
    assert run_command(tmp_path / "new.sqlite", "import", file) == (0, "3 answers\n")
    assert run_command(tmp_path / "none.sqlite", "counts") == (
        1,
        f"there is no store of answers at {tmp_path / 'none.sqlite'}\n",
    )
