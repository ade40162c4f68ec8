"""A store of an older version is brought up to date with all that it holds, and ends with today's tables."""

import shutil

import pytest
from alembic import command
from alembic.config import Config
from sqlalchemy import create_engine, inspect, text

from pbrl.feedback.exchange import flat
from pbrl.feedback.store import migrations
from pbrl.feedback.store.leases import lease
from pbrl.feedback.store.store import Store

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
    seen = inspect(store.engine)
    return {
        name: {
            "columns": [(c["name"], str(c["type"]), c["nullable"]) for c in seen.get_columns(name)],
            "keys": seen.get_pk_constraint(name)["constrained_columns"],
            "foreign": sorted((f["constrained_columns"], f["referred_table"]) for f in seen.get_foreign_keys(name)),
            "indexes": sorted((i["name"], i["column_names"], i["unique"]) for i in seen.get_indexes(name)),
            "checks": sorted((c["name"], c["sqltext"]) for c in seen.get_check_constraints(name)),
            "unique": sorted(u["column_names"] for u in seen.get_unique_constraints(name)),
        }
        for name in sorted(seen.get_table_names())
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
    assert store.counts() == {"asked": 2, "answered": 3, "ties": 1, "skipped": 0} and store.miscounted() == []
    pairs, ratings = store.answers(kind="pair"), store.answers(kind="rating")
    assert pairs.starts.tolist() == [[3, 9]] * 2 and pairs.label.tolist() == [1.0, 0.5]
    assert ratings.starts.tolist() == [[9]] and ratings.label.tolist() == [7.0]
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
