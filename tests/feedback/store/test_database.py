"""Databases that cannot be used: each kind of trouble has its own sentence, and no sentence has a password."""

import shutil
import sqlite3
from uuid import uuid4

import pytest
from sqlalchemy import create_engine, select

from pbrl.feedback.store.address import hide_passwords
from pbrl.feedback.store.answers import Answer
from pbrl.feedback.store.database import Unavailable
from pbrl.feedback.store.schema import QuestionRow
from pbrl.feedback.store.store import Store
from pbrl.types import UserError
from tests.feedback.examples import record


@pytest.fixture
def store(tmp_path) -> Store:
    store = Store(f"sqlite:///{tmp_path / 'answers.sqlite'}")
    record(store, [[i, i + 1] for i in range(200)], [1.0] * 200)
    return store


def test_in_use_cut_off_and_newer_are_three_sentences(store, tmp_path, monkeypatch):
    file = tmp_path / "answers.sqlite"
    monkeypatch.setattr(Store, "patience_s", 0.1)
    with store.writing() as connection:
        connection.exec_driver_sql("UPDATE alembic_version SET version_num = '0099'")
    store.engine.dispose()
    with pytest.raises(UserError, match=r"newer version of pbrl.*'0099'.*up to 000\d.*update pbrl"):
        Store(store.url)
    other = sqlite3.connect(file)
    other.execute("UPDATE alembic_version SET version_num = '0003'")
    other.commit()
    other.execute("BEGIN EXCLUSIVE")
    with pytest.raises(Unavailable, match="another program is using it: close that"):
        record(Store(store.url), [[1, 2]], [1.0], round=9)
    other.close()
    whole = file.read_bytes()
    for share in (0.2, 0.5, 0.9):
        part = tmp_path / f"part-{share}.sqlite"
        part.write_bytes(whole[: int(share * len(whole))])
        with pytest.raises(Unavailable, match="damaged or cut off: put a copy in its place") as error:
            Store(f"sqlite:///{part}").counts()
        assert "are safe" not in str(error.value)
    (tmp_path / "head.sqlite").write_bytes(whole[:60])
    with pytest.raises(Unavailable, match="the file is damaged or"):
        Store(f"sqlite:///{tmp_path / 'head.sqlite'}")


def test_a_store_of_another_program(tmp_path):
    """As that of MLflow, which keeps its versions in the same table."""
    engine = create_engine(f"sqlite:///{tmp_path / 'other.sqlite'}")
    with engine.begin() as connection:
        connection.exec_driver_sql("CREATE TABLE alembic_version (version_num VARCHAR(32) NOT NULL)")
        connection.exec_driver_sql("INSERT INTO alembic_version VALUES ('acf3f17fdcc7')")
    with pytest.raises(UserError, match="or of another program.*acf3f17fdcc7"):
        Store(f"sqlite:///{tmp_path / 'other.sqlite'}")


@pytest.mark.parametrize("url,shown", [
    ("sqlite:///a.sqlite", "sqlite:///a.sqlite"),
    ("postgresql+psycopg://labels:secret@db:5432/x", "postgresql+psycopg://labels:***@db:5432/x"),
    ("postgresql+psycopg://labels@db/x?password=secret&sslmode=require",
     "postgresql+psycopg://labels@db/x?password=***&sslmode=require"),
    ("postgresql:labels:secret@db", "postgresql:labels:***@db"),
    ("postgresql://labels:secret@db:port/x", "postgresql://labels:***@db:port/x"),
])  # fmt: skip
def test_an_address_is_shown_without_its_password(url, shown):
    assert hide_passwords(url) == shown


@pytest.mark.parametrize("url", [
    "postgresql+psycopg://labels:secret@127.0.0.1:9/x", "postgresql+psycopg://labels:secret@127.0.0.1:port/x",
    "postgresql+psycopg://127.0.0.1:9/x?user=labels&password=secret", "mysql+nothing://labels:secret@db/x",
])  # fmt: skip
def test_no_sentence_has_a_password(url):
    with pytest.raises(UserError) as error:
        Store(url)
    assert "secret" not in str(error.value)


@pytest.mark.parametrize("change", ["deleted", "moved", "replaced"])
def test_nothing_is_acknowledged_in_a_file_that_is_gone(store, tmp_path, change):
    """SQLite writes on into a file that has no name any more, and what is written there is gone at the end."""
    with store.reading() as connection:
        question = connection.execute(select(QuestionRow.id)).scalars().first()
    store.add_rater("ada", "human")
    (file,) = tmp_path.glob("*.sqlite")
    if change == "deleted":
        file.unlink()
    else:
        file.rename(tmp_path / "moved.sqlite")
    if change == "replaced":
        shutil.copy(tmp_path / "moved.sqlite", file)
    with pytest.raises(Unavailable, match=r"was deleted, moved or replaced while it was open.*/export"):
        store.append([Answer(uuid4().hex, question, "ada", kind="pass")])
    assert question in store.questions([question]), "what it held can be saved"
    if change == "moved":
        (tmp_path / "moved.sqlite").rename(file)
        assert store.append([Answer(uuid4().hex, question, "ada", kind="pass")]) == [201], "after those of `record`"
