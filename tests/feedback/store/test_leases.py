"""Questions for people: each is answered as often as is wanted, by different raters, and no answer is lost."""

import multiprocessing
import random
from concurrent.futures import ThreadPoolExecutor
from uuid import uuid4

import numpy as np
import pytest
from sqlalchemy import select, text

from pbrl.feedback.store.answers import IS_OPEN, Answer, Refused
from pbrl.feedback.store.leases import ORDER, Wish, lease, lease_each, release, was_handed_out
from pbrl.feedback.store.schema import QuestionRow
from pbrl.feedback.store.store import Store
from pbrl.feedback.store.writer import Writer
from tests.feedback.examples import dataset, labels_of, questions, value


@pytest.fixture(params=["sqlite", "postgresql"])
def store(request, tmp_path) -> Store:
    if request.param == "sqlite":
        return Store(f"sqlite:///{tmp_path / 'answers.sqlite'}")
    return Store(request.getfixturevalue("postgres")())


def ask(store: Store, n: int, **options) -> list[str]:
    return store.ask(questions(np.arange(2 * n).reshape(n, 2), **options))


def people(store: Store, *names: str) -> None:
    for name in names:
        store.add_rater(name, "human")


def answer(question: str, rater: str, label: float = 1.0) -> Answer:
    return Answer(str(uuid4()), question, rater, value(label))


def test_a_lease_is_held_answered_and_not_given_again(store):
    ids = ask(store, 3)
    people(store, "ada", "bob")
    mine = lease(store, "ada", 2)
    assert [k.id for k in mine] == ids[:2] and mine[0].question.kind == "pair" and len(mine[0].question.clips) == 2
    assert [k.id for k in lease(store, "bob", 2)] == ids[2:], "questions leased to ada are not given to bob"
    assert [k.id for k in lease(store, "ada", 2)] == ids[:2], "after a reload she sees the same"
    store.append([answer(ids[0], "ada")])
    assert [k.id for k in lease(store, "ada", 2)] == ids[1:2]
    assert labels_of(store) == [1.0] and store.find_miscounted() == []


def test_an_expired_lease_goes_to_another_rater_and_a_late_answer_is_stored(store):
    (question,) = ask(store, 1)
    people(store, "ada", "bob")
    lease(store, "ada", 1, seconds=10, now=100)
    assert lease(store, "bob", 1, now=105) == []
    assert [k.id for k in lease(store, "bob", 1, now=111)] == [question]
    store.append([answer(question, "ada"), answer(question, "bob", 0.0)])
    assert sorted(labels_of(store)) == [0.0, 1.0] and store.find_miscounted() == []


def test_a_lease_is_made_longer_while_its_rater_is_there(store):
    (question,) = ask(store, 1)
    people(store, "ada", "bob")
    lease(store, "ada", 1, seconds=10, now=100)
    assert [k.until for k in lease(store, "ada", 1, seconds=10, now=106)] == [116]
    assert lease(store, "bob", 1, now=115) == []
    assert [k.id for k in lease(store, "bob", 1, now=117)] == [question]
    assert was_handed_out(store, "ada", question) and not was_handed_out(store, "eve", question)
    assert store.find_miscounted() == []


def test_raters_who_ask_at_once_get_different_questions(store):
    ids = ask(store, 5)
    people(store, "ada", "bob")
    ada, bob = lease_each(store, [Wish("ada", 2), Wish("bob", 4)])
    assert ([k.id for k in ada.leased], ada.is_all) == (ids[:2], False)
    assert ([k.id for k in bob.leased], bob.is_all) == (ids[2:], True), "three of the four that bob wanted"


def test_those_who_ask_at_once_may_have_come_to_different_places(store):
    """Ada has answered or passed more of the first questions than are looked at for both: she gets those after them."""
    ids = ask(store, 60, wanted=2)
    people(store, "ada", "bob", "eve")
    store.append([answer(question, "ada") for question in ids[:40]])
    store.append([Answer(str(uuid4()), question, "ada", kind="pass") for question in ids[40:50]])
    store.append([answer(question, "bob") for question in ids[:2]])
    ada, bob, eve = lease_each(store, [Wish("ada", 12), Wish("bob", 3), Wish("eve", 3)])
    assert ([k.id for k in ada.leased], ada.is_all) == (ids[50:], True), "all ten that she has not dealt with"
    assert [k.id for k in bob.leased] == ids[2:5], "the first two have their answers by now"
    assert [k.id for k in eve.leased] == ids[5:8], "the next three lack one answer, which bob is giving"
    assert store.find_miscounted() == []


def test_a_passed_question_goes_to_other_raters(store):
    ids = ask(store, 2)
    people(store, "ada", "bob")
    lease(store, "ada", 1)
    store.append([Answer("1", ids[0], "ada", kind="pass")])
    assert [k.id for k in lease(store, "ada", 2)] == ids[1:]
    assert [k.id for k in lease(store, "bob", 2)] == ids[:1]
    assert store.counts()["answered"] == 0, "to skip is no answer"


def test_retracting_and_answering_again(store):
    (question,) = ask(store, 1)
    people(store, "ada", "eve")
    first = answer(question, "ada")
    store.append([first])
    with pytest.raises(Refused, match="no answer to that question by eve"):
        store.append([Answer("x", question, "eve", kind="retract", supersedes=first.uid)])
    store.append([Answer("2", question, "ada", kind="retract", supersedes=first.uid)])
    assert store.answers() == [] and [k.id for k in lease(store, "ada", 1)] == [question]
    store.append([answer(question, "ada", 0.0), answer(question, "ada", 0.5)])
    assert labels_of(store) == [0.5], "the last word counts"
    assert [event["kind"] for event in store.tail(0)] == ["answer", "retract", "answer", "answer"], "and all is kept"
    assert store.find_miscounted() == []


def test_duplicate_and_invalid_events(store):
    (question,) = ask(store, 1)
    people(store, "ada")
    sent = answer(question, "ada")
    assert store.append([sent]) == store.append([sent]) and store.counts()["answered"] == 1
    kept, wrong = store.append_each([sent, answer("nothing", "ada")])
    assert kept == 1 and isinstance(wrong, Refused)
    with pytest.raises(Refused, match="no rater"):
        store.append([answer(question, "unknown")])
    with pytest.raises(Refused):  # all or nothing
        store.append([answer(question, "ada", 0.0), answer("nothing", "ada")])
    assert labels_of(store) == [1.0]


def test_priorities_purposes_and_withdrawal(store):
    ids = ask(store, 3)
    gold = store.ask(questions([[7, 8]], purpose="gold", expected=1.0, round=1))
    people(store, "ada")
    store.set_priorities({ids[2]: 1.0})
    assert [k.id for k in lease(store, "ada", 9, purpose="learn")] == [ids[2], ids[0], ids[1]]
    release(store, "ada")
    assert store.withdraw(ids) == 3
    assert [k.id for k in lease(store, "ada", 9)] == gold
    assert store.find_miscounted() == []


def test_a_reader_with_a_cursor_misses_nothing(store):
    """Many write and one reads at the same time: what it sees in parts is what there is."""
    ids = ask(store, 200)
    people(store, *(f"r{i}" for i in range(4)))
    uids, since = [], 0

    def write(i: int) -> None:
        for question in ids[i::4]:
            store.append([answer(question, f"r{i}")])

    with ThreadPoolExecutor(4) as pool:
        jobs = [pool.submit(write, i) for i in range(4)]
        while not all(job.done() for job in jobs) or store.last() > since:
            part = store.tail(since)
            uids += [event["uid"] for event in part]
            since = part[-1]["seq"] if part else since
    assert [job.result() for job in jobs] == [None] * 4
    assert len(uids) == len(set(uids)) == 200


def work(url: str, names: list[str], seed: int) -> None:
    """Some annotators of one process, each in a thread, until there is nothing left to do."""
    store, chance = Store(url), random.Random(seed)

    def annotate(rater: str) -> None:
        while leased := lease(store, rater, chance.choice([1, 3, 5])):
            for one in leased:
                writer.append(answer(one.id, rater)).result()

    with Writer(store) as writer, ThreadPoolExecutor(len(names)) as pool:
        list(pool.map(annotate, names))


@pytest.mark.slow
@pytest.mark.parametrize("wanted", [1, 3])
def test_each_question_gets_exactly_its_answers(store, wanted):
    """Two processes of ten annotators each. FOR UPDATE SKIP LOCKED alone hands PostgreSQL's questions out too often."""
    n = 300 // wanted
    ask(store, n, wanted=wanted)
    names = [f"r{i}" for i in range(20)]
    people(store, *names)
    store.engine.dispose()
    context = multiprocessing.get_context("spawn")
    jobs = [context.Process(target=work, args=(store.url, names[i::2], i)) for i in range(2)]
    for job in jobs:
        job.start()
    for job in jobs:
        job.join()
    assert [job.exitcode for job in jobs] == [0, 0]
    by = [(event["question"], event["rater"]) for event in store.tail(0, 9999)]
    assert len(by) == len(set(by)) == n * wanted, "no rater answers twice"
    assert store.find_miscounted() == [] and lease(store, "r0", 5) == []
    assert {len(store.answers([q])) for q, _ in by} == {wanted}


def test_the_next_question_is_found_by_its_index(tmp_path):
    store = Store(f"sqlite:///{tmp_path / 'answers.sqlite'}")
    with store.reading() as connection:
        query = select(QuestionRow.id).where(IS_OPEN, QuestionRow.dataset == "abc").order_by(*ORDER).limit(5)
        plan = connection.execute(text(f"EXPLAIN QUERY PLAN {query.compile(compile_kwargs={'literal_binds': True})}"))
        assert [row.detail for row in plan] == ["SEARCH questions USING INDEX next_question (dataset=?)"]
    assert "open > 0" in str(query), "a bound value would hide the index"


def test_a_question_is_handed_only_to_raters_who_may_answer(store):
    (anyone,) = ask(store, 1)
    (machine,) = store.ask(questions([[8, 9]], rater_kind="vlm", round=1))
    people(store, "ada")
    store.add_rater("seer", "vlm")
    assert [k.id for k in lease(store, "ada", 9)] == [anyone]
    release(store, "ada")
    assert [k.id for k in lease(store, "seer", 9, dataset=dataset(store))] == [anyone, machine]


def test_threads_wait_for_each_other(tmp_path, monkeypatch):
    """Forty of them write at once, and none is turned away, though SQLite's own patience is short."""
    monkeypatch.setattr(Store, "patience_s", 0.05)
    store = Store(f"sqlite:///{tmp_path / 'answers.sqlite'}")
    ids = ask(store, 400)
    people(store, "ada")
    with ThreadPoolExecutor(40) as pool:
        list(pool.map(lambda q: store.append([answer(q, "ada")]), ids))
    assert store.counts()["answered"] == 400


def test_many_answers_share_a_commit_and_one_bad_one_spoils_none(store):
    ids = ask(store, 50)
    people(store, "ada")
    with Writer(store) as writer:
        sent = [answer(q, "ada") for q in ids]
        futures = [writer.append(one) for one in [sent[0], answer("nothing", "ada"), *sent]]
    assert futures[0].result() == futures[2].result(), "sending twice"
    with pytest.raises(Refused):
        futures[1].result()
    assert len({f.result() for f in futures[2:]}) == 50 and store.counts()["answered"] == 50
