"""A store of an older version is brought up to date with all that it holds, and ends with today's tables.

`fixtures/answers-0002.sqlite.gz` was written by the version before clips belonged to episodes (commit 39ebef6), with
its scripted teacher, its label page's questions and its store: answers by script and people, of all kinds, with
retractions, corrections, passes, practice, gold and repeated questions, about the five episodes of `episode` below and
about two of them. `answers-0002.jsonl.gz` is its own export of the same.
"""

import gzip
import json
import shutil
import sqlite3
from pathlib import Path

import numpy as np
import pytest
from alembic import command
from alembic.config import Config
from sqlalchemy import create_engine, inspect, text

from pbrl.data.episodes import content_hash
from pbrl.data.table import Table
from pbrl.feedback.exchange import export, flat, load
from pbrl.feedback.labels import Selection
from pbrl.feedback.questions import Value
from pbrl.feedback.read import read
from pbrl.feedback.store import migrations
from pbrl.feedback.store.datasets import adopt
from pbrl.feedback.store.leases import lease
from pbrl.feedback.store.store import Store
from pbrl.label.questions import ask
from pbrl.settings import Query
from pbrl.types import Episode

FIXTURES = Path(__file__).parent / "fixtures"

CLIPS = [("a", "abc", 3, 64), ("b", "abc", 9, 64)]
QUESTIONS = [("q", "pair", "a", "b", "uniform", 0, 0), ("r", "rating", "b", None, "uniform", 0, 1)]
ANSWERS = [("1", "q", "scripted-1", "answer", 1.0), ("2", "q", "ada", "tie", 0.5), ("3", "r", "ada", "answer", 7.0)]


def old(url: str) -> None:
    """A store as it was before there were migrations."""
    engine = create_engine(url)
    with engine.begin() as connection:
        config = Config(attributes={"connection": connection})
        config.set_main_option("script_location", migrations.__path__[0])
        command.upgrade(config, "0001")
        connection.execute(text("DROP TABLE alembic_version"))
        now = "2026-11-20 12:00:00"
        for row in CLIPS:
            connection.execute(text("INSERT INTO clips VALUES (:a, :b, :c, :d)"), dict(zip("abcd", row, strict=True)))
        for row in QUESTIONS:
            values = dict(zip("abcdefg", row, strict=True)) | {"h": now}
            connection.execute(text("INSERT INTO questions VALUES (:a, :b, :c, :d, :e, :f, :g, :h)"), values)
        for row in ANSWERS:
            values = dict(zip("abcde", row, strict=True)) | {"h": now}
            connection.execute(text("INSERT INTO answers VALUES (:a, :b, :c, :d, :e, 1, NULL, :h)"), values)
    engine.dispose()


def tables(store: Store) -> dict:
    """All that can be asked about the tables."""
    inspector = inspect(store.engine)
    return {
        name: {
            "columns": [(c["name"], str(c["type"]), c["nullable"]) for c in inspector.get_columns(name)],
            "keys": inspector.get_pk_constraint(name)["constrained_columns"],
            "foreign": sorted(
                (f["constrained_columns"], f["referred_table"]) for f in inspector.get_foreign_keys(name)
            ),
            "indexes": sorted((i["name"], i["column_names"], i["unique"]) for i in inspector.get_indexes(name)),
            "checks": sorted((c["name"], c["sqltext"]) for c in inspector.get_check_constraints(name)),
            "unique": sorted(u["column_names"] for u in inspector.get_unique_constraints(name)),
        }
        for name in sorted(inspector.get_table_names())
    }


@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
def test_an_old_store_keeps_its_answers_and_gets_todays_tables(kind, request, tmp_path):
    if kind == "sqlite":
        urls = [f"sqlite:///{tmp_path / name}" for name in ("old.sqlite", "new.sqlite")]
    else:
        urls = [request.getfixturevalue("postgres")() for _ in range(2)]
    old(urls[0])
    store, fresh = Store(urls[0]), Store(urls[1])
    assert tables(store) == tables(fresh)
    assert store.counts() == {"asked": 2, "answered": 3, "ties": 1, "skipped": 0} and store.find_miscounted() == []
    values = {kind: [answer.value for answer in store.answers(kind=kind)] for kind in ("pair", "rating")}
    assert values == {"pair": [Value("answer", 1.0), Value("tie", 0.5)], "rating": [Value("answer", 7.0)]}
    with store.reading() as connection:
        rows = connection.execute(text("SELECT id, old_dataset, old_row, length, episode FROM clips ORDER BY id")).all()
    assert rows == [(*clip, None) for clip in CLIPS], "clips keep what they were known by"
    assert [row["rater_name"] for row in flat(store)] == ["scripted-1", "ada", "ada"]
    assert lease(store, "scripted-1", 5) == [], "everybody who was asked has answered"


def test_a_failed_migration_changes_nothing(tmp_path, monkeypatch):
    old(f"sqlite:///{tmp_path / 'old.sqlite'}")
    before = shutil.copy(tmp_path / "old.sqlite", tmp_path / "before.sqlite")
    upgrade = command.upgrade

    def fails(*args):
        upgrade(*args)
        raise OSError("the light went out")

    monkeypatch.setattr(command, "upgrade", fails)
    with pytest.raises(OSError):
        Store(f"sqlite:///{tmp_path / 'old.sqlite'}")
    names = [inspect(create_engine(f"sqlite:///{f}")).get_table_names() for f in (before, tmp_path / "old.sqlite")]
    assert names[0] == names[1] == ["answers", "clips", "questions"]


# A store of 39ebef6


def episode(i: int) -> Episode:
    t = np.arange(13 + i, dtype=np.float32)
    return Episode(
        seed=i,
        obs=np.stack([t / 64, np.full_like(t, i / 4)], 1),
        action=np.stack([(t[:-1] - 6) / 8], 1) % 1,
        reward=((t[:-1] * (i + 1)) % 5).astype(np.float32),
        terminated=i == 1,
        state=np.stack([t, t * i], 1).astype(np.float64),
    )


EPISODES = [episode(i) for i in range(5)]
FEW = [EPISODES[3], EPISODES[1]]
ALL, SCRIPT = content_hash(EPISODES), "scripted-abcdef01"


def before() -> list[dict]:
    """What was in the store, by the export of that version."""
    return [json.loads(line) for line in gzip.open(FIXTURES / "answers-0002.jsonl.gz", "rt")]


def place(dataset: str, row: int) -> tuple[int, int]:
    """The episode and step of a row of an old table, counted by hand: an episode of T steps has T + 1 rows."""
    for i in range(5) if dataset == ALL else (3, 1):
        if row < 13 + i:
            return i, row
        row -= 13 + i
    raise AssertionError("beyond the table")


@pytest.fixture
def file(tmp_path) -> Path:
    path = tmp_path / "old.sqlite"
    path.write_bytes(gzip.decompress((FIXTURES / "answers-0002.sqlite.gz").read_bytes()))
    return path


def to_postgres(file: Path, url: str) -> None:
    """The same rows in PostgreSQL's tables of that version."""
    engine, source = create_engine(url), sqlite3.connect(file)
    source.row_factory = sqlite3.Row
    with engine.begin() as connection:
        config = Config(attributes={"connection": connection})
        config.set_main_option("script_location", migrations.__path__[0])
        command.upgrade(config, "0002")
        for table in ("clips", "wordings", "raters", "questions", "items", "leases", "events"):
            for row in source.execute(f"SELECT * FROM {table}" + (" ORDER BY repeats" * (table == "questions"))):
                names = ", ".join(row.keys())
                values = ", ".join(f":{name}" for name in row.keys())  # noqa: SIM118
                connection.execute(text(f"INSERT INTO {table} ({names}) VALUES ({values})"), dict(row))
        connection.execute(text("SELECT setval('events_seq_seq', (SELECT max(seq) FROM events))"))
    engine.dispose()


@pytest.fixture(params=["sqlite", "postgresql"])
def migrated(request, file) -> Store:
    if request.param == "sqlite":
        return Store(f"sqlite:///{file}")
    url = request.getfixturevalue("postgres")()
    to_postgres(file, url)
    return Store(url)


def open_with(store: Store, episodes: list[Episode]) -> str:
    """Opens a data set with a store, as runs and pages do; returns its id."""
    table = Table(episodes)
    adopt(store, content_hash(episodes), table.ids, table.steps)
    return store.register(table.ids)


def test_before_its_data_set_is_opened_nothing_is_lost(migrated):
    assert (
        migrated.counts() == {"asked": 59, "answered": 50, "ties": 6, "skipped": 3} and migrated.find_miscounted() == []
    )
    old = before()
    assert [row["event_uid"] for row in flat(migrated)] == [row["event_uid"] for row in old]
    assert [row["old_rows"] for row in flat(migrated)] == [row["starts"] for row in old]


def test_every_clip_finds_its_episode_and_every_answer_its_clips(migrated):
    whole, few = open_with(migrated, EPISODES), open_with(migrated, FEW)
    ids, old = Table(EPISODES).ids, before()
    for now, then in zip(flat(migrated), old, strict=True):
        places = [place(then["question_dataset"], row) for row in then["starts"]]
        assert list(zip(now["episodes"], now["firsts"], strict=True)) == [(ids[i], step) for i, step in places]
        same = [key for key in then if key in now and key != "question_dataset"]
        assert len(same) > 20 and [now[key] for key in same] == [then[key] for key in same]
        assert (now["event_time"], now["event_stored"]) == (then["event_told"], then["event_kept"])
    assert migrated.counts(dataset=whole) == migrated.counts() and migrated.find_miscounted() == []
    third, first = ids[3], ids[1]
    inside = {row["question_id"] for row in flat(migrated) if set(row["episodes"]) <= {third, first}}
    assert {answer.question for answer in migrated.answers(dataset=few)} <= inside
    standing = {answer.question for answer in migrated.answers()}
    assert {answer.question for answer in migrated.answers(dataset=few)} == inside & standing
    assert len(inside & standing) > migrated.counts(kind="pair", length=6, dataset=few)["answered"] / 2


def test_adopting_again_or_half_of_it_changes_nothing_else(migrated):
    open_with(migrated, FEW)
    assert migrated.counts(dataset=open_with(migrated, FEW)) == {"asked": 5, "answered": 3, "ties": 0, "skipped": 0}
    rows = list(flat(migrated))
    assert [row["episodes"] for row in rows[:3]] == [[None, None]] * 3, "the larger set was not opened yet"
    open_with(migrated, EPISODES)
    after = list(flat(migrated))
    open_with(migrated, EPISODES)
    assert list(flat(migrated)) == after and after[0]["episodes"][0] is not None


def test_the_same_command_asks_nothing_twice_after_the_migration(migrated):
    """What was asked keeps its ids, which open pages and checkpoints know, and is found by today's too."""
    dataset = open_with(migrated, EPISODES)
    asked = migrated.counts()["asked"]
    words = {"text": None, "better": "is better", "strength": True, "attributes": ["faster", "higher"],
             "stages": ["approach", "done"]}  # fmt: skip
    config = {
        "query": {"kind": "pair", "count": 8, "length": 6, "clips": 3, "seed": 3}, "wanted": 2, "words": words,
        "checks": {"repeats": 0.25, "gold": 0.25, "practice": 2, "pass_mark": 0.8},
    }  # fmt: skip
    assert ask(config, migrated, Table(EPISODES), dataset) == 8 and migrated.counts()["asked"] == asked
    known = {row["question_id"] for row in before()}
    leased = lease(migrated, "bob", 99, dataset=dataset)
    assert leased and {one.id for one in leased} - known, "some were never answered"
    answered = {answer.question for answer in migrated.answers(rater="bob")}
    assert not answered & {one.id for one in leased}


def test_old_answers_are_learnt_from(migrated):
    table = Table([EPISODES[4], *EPISODES[:4]])  # in another order
    open_with(migrated, EPISODES)
    query = Query(kind="pair", count=9, rounds=1, length=6, span=2, strategy="uniform", candidates=1, per_list=5,
                  held_out=0.0, seed=0)  # fmt: skip
    labels, _ = read(migrated, table, query, Selection(rater=SCRIPT))
    order = {old: [4, 0, 1, 2, 3].index(old) for old in range(5)}
    rows = []
    for one in before():
        if one["rater_name"] == SCRIPT and one["question_kind"] == "pair" and one["event_outcome"] != "skip":
            places = [place(ALL, row) for row in one["starts"]]
            rows.append(([int(table.first[order[i]]) + step for i, step in places], one["event_label"]))
    found = list(zip(labels.starts.tolist(), labels.value.tolist(), strict=True))
    assert len(rows) > 15 and sorted(found) == sorted(rows)


def test_exports_of_older_versions_are_read(tmp_path, file):
    exported = tmp_path / "old.jsonl"
    exported.write_bytes(gzip.decompress((FIXTURES / "answers-0002.jsonl.gz").read_bytes()))
    store, again = Store(f"sqlite:///{tmp_path / 'new.sqlite'}"), Store(f"sqlite:///{tmp_path / 'again.sqlite'}")
    assert load(store, exported) == len(before())
    migrated = Store(f"sqlite:///{file}")
    for one in (store, migrated):
        open_with(one, EPISODES)
        open_with(one, FEW)
    assert list(flat(store)) == list(flat(migrated))
    export(migrated, tmp_path / "new.jsonl")
    load(again, tmp_path / "new.jsonl")
    dataset = Table(EPISODES).ids
    assert again.counts(dataset=again.register(dataset)) == store.counts(dataset=store.register(dataset))
