"""Events: what no database could keep is refused alone, and a uid belongs to one event."""

import math
from dataclasses import replace
from datetime import UTC, datetime

import pytest

from pbrl.feedback.questions import Value
from pbrl.feedback.store.answers import Answer, Conflict, Refused
from pbrl.feedback.store.store import Store
from pbrl.feedback.store.writer import Writer
from pbrl.types import UserError
from tests.feedback.examples import labels_of, questions, value


@pytest.fixture(params=["sqlite", "postgresql"], scope="module")
def store(request, tmp_path_factory) -> Store:
    """One for all tests here: each asks questions of its own."""
    if request.param == "sqlite":
        return Store(f"sqlite:///{tmp_path_factory.mktemp('store') / 'answers.sqlite'}")
    return Store(request.getfixturevalue("postgres")())


def ask(store: Store, n: int, round_: int) -> list[str]:
    for rater in ("ada", "bob"):
        store.add_rater(rater, "human")
    return store.ask(questions([[i, i + 1] for i in range(n)], round=round_))


BAD = [
    {"shown": {"x": math.nan}}, {"shown": {"x": "a\0b"}}, {"shown": {"x": "\ud800"}}, {"shown": {"x": "a" * 9000}},
    {"shown": {"x": 10**400}}, {"shown": {"x": object()}}, {"uid": "a\0b"}, {"uid": "u" * 37}, {"uid": ""},
    {"question": "nothing\0"}, {"question": "nothing"}, {"rater": "eve"}, {"rater": "r\0"}, {"supersedes": "\0"},
    {"seconds": math.inf}, {"seconds": -1.0}, {"confidence": math.nan}, {"kind": "think"}, {"value": None},
    {"value": Value("answer", math.nan)}, {"value": Value("answer", 1.0, {"note": "\0"})}, {"value": Value("no", 1.0)},
    {"time": datetime.fromisoformat("0001-01-01T00:00:00+23:59")}, {"time": datetime(9999, 12, 31, 23, 59)},
    {"time": datetime.fromisoformat("9999-12-31T23:59:00-23:59")},
]  # fmt: skip


def test_what_cannot_be_kept_is_refused_and_all_others_of_its_commit_are_kept(store):
    ids = ask(store, 30, round_=1)
    good = [Answer(f"good-{store.engine.dialect.name}-{i}", q, "ada", value(1.0)) for i, q in enumerate(ids)]
    bad = [replace(Answer(f"bad-{i}", ids[0], "bob", value(0.0)), **change) for i, change in enumerate(BAD)]
    mixed = [one for pair in zip(good, [*bad, *bad], strict=False) for one in pair]
    results = store.append_each(mixed)
    kept = [one for one, result in zip(mixed, results, strict=True) if isinstance(result, int)]
    assert kept == good and labels_of(store, ids) == [1.0] * 30
    assert all(isinstance(result, (int, Refused)) for result in results)
    for one in bad:
        with pytest.raises(Refused):
            store.append([one])


def test_the_writer_keeps_the_good_ones_when_a_commit_fails(store, monkeypatch):
    """Should something pass the checks that a driver then refuses: its rater alone hears of it."""
    ids = ask(store, 20, round_=2)
    monkeypatch.setattr("pbrl.feedback.store.answers.check_event", lambda answer: None)
    name = store.engine.dialect.name
    with Writer(store) as writer:
        futures = [
            writer.append(Answer(f"w-{name}-{i}", q, "ada", value(1.0), shown={"x": object()} if i == 7 else None))
            for i, q in enumerate(ids)
        ]
    failed = [i for i, future in enumerate(futures) if future.exception() is not None]
    assert failed == [7] and isinstance(futures[7].exception(), Refused)
    assert store.address not in str(futures[7].exception())
    assert labels_of(store, ids) == [1.0] * 19 and store.find_miscounted() == []


def test_where_the_database_fails_answers_are_not_refused(store, monkeypatch):
    """They are to be sent again, so nobody may take that for "can never be kept"; and it is tried once."""
    ids, calls = ask(store, 4, round_=3), []

    def fails(answers):
        calls.append(len(answers))
        with store.writing() as connection:
            connection.exec_driver_sql("SELECT * FROM nothing_that_is_there")

    monkeypatch.setattr(store, "append_each", fails)
    with Writer(store) as writer:
        futures = [writer.append(Answer(f"f{i}", q, "ada", value(1.0))) for i, q in enumerate(ids)]
    assert sum(calls) == 4
    for future in futures:
        assert isinstance(future.exception(), UserError) and not isinstance(future.exception(), Refused)


def test_a_uid_belongs_to_one_event(store):
    """Sent again it changes nothing; with other content, or by another rater, it is a conflict and not "kept"."""
    first, second = ask(store, 2, round_=4)
    sent = Answer("same-uid", first, "ada", value(1.0), seconds=1.0, shown={"order": [0, 1], "version": "1"})
    (number,) = store.append([sent])
    again = replace(sent, seconds=2.0, time=datetime.now(UTC), shown={"order": [0, 1], "version": "2"})
    assert store.append([again]) == [number] == store.append_each([sent])
    others = [replace(sent, rater="bob"), replace(sent, question=second), replace(sent, value=value(0.0)),
              replace(sent, kind="pass", value=None),
              replace(sent, value=Value("answer", 1.0, {"note": "?"}))]  # fmt: skip
    for other in others:
        with pytest.raises(Conflict, match="same-uid is kept already"):
            store.append([other])
    twice = replace(sent, uid="twice-uid")
    assert [type(one) for one in store.append_each([twice, twice, replace(twice, value=value(0.0))])] == [
        int, int, Conflict,
    ]  # fmt: skip
    back = Answer("back-uid", first, "ada", kind="retract", supersedes="twice-uid")
    assert store.append([back]) == store.append([back])
    with pytest.raises(Conflict):
        store.append([replace(back, supersedes="same-uid")])


def test_what_stands_is_read_in_utc(store):
    (question,) = ask(store, 1, round_=5)
    noon = datetime.fromisoformat("2026-06-01T12:00:00+05:30")
    store.append([Answer("zoned-uid", question, "ada", value(1.0), time=noon)])
    (kept,) = store.answers([question])
    assert kept.time is not None and kept.time.isoformat() == "2026-06-01T06:30:00+00:00"


def test_asking_again_for_more_answers(store):
    """One wanted, then three, then one: three. Other words are another question."""
    asked = questions([[1, 2], [3, 4]], round=6)
    ids = store.ask(asked)
    store.add_rater("ada", "human")
    store.append([Answer(f"more-{q}"[:36], q, "ada", value(1.0)) for q in ids])
    assert not store.has_missing(ids)
    assert store.ask([replace(asked[0], wanted=3), asked[1]]) == ids
    assert [store.questions(ids)[q].wanted for q in ids] == [3, 1] and store.has_missing(ids[:1])
    assert not store.has_missing(ids[1:]) and store.ask(asked) == ids
    assert [store.questions(ids)[q].wanted for q in ids] == [3, 1] and store.find_miscounted() == []
    words = [
        replace(asked[0], wording={"text": text, "strength": more}) for text in ("a", "b") for more in (True, False)
    ]
    assert len({*store.ask(words), *ids}) == 6


def test_a_raters_name_is_text(store):
    for name in ("", " ", "a" * 65, "a\0"):
        with pytest.raises(UserError, match="rater's name"):
            store.add_rater(name, "human")
