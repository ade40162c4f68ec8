"""Answers stay with their episodes, whatever data set these are part of."""

import numpy as np
import pytest
import torch

from pbrl.data.table import Table
from pbrl.feedback.labels import Selection
from pbrl.feedback.questions import Question
from pbrl.feedback.read import read
from pbrl.feedback.store.answers import Answer
from pbrl.feedback.store.leases import lease
from pbrl.feedback.store.progress import Progress, count_open
from pbrl.feedback.store.store import Store
from pbrl.settings import Query
from tests import toy
from tests.feedback.examples import value

LENGTH = 8
QUERY = Query(kind="pair", count=9, rounds=1, length=LENGTH, span=2, strategy="uniform", candidates=1, per_list=1,
              held_out=0.0, seed=0)  # fmt: skip
EPISODES = toy.episodes(60)


@pytest.fixture(params=["sqlite", "postgresql"])
def store(request, tmp_path) -> Store:
    if request.param == "sqlite":
        return Store(f"sqlite:///{tmp_path / 'answers.sqlite'}")
    return Store(request.getfixturevalue("postgres")())


def ask(store: Store, table: Table, n: int, seed: int) -> list[str]:
    places = table.segment_starts(LENGTH).numpy()
    starts = np.random.default_rng(seed).choice(places, (n, 2))
    clips = table.clips(starts.ravel(), LENGTH)
    dataset = store.register(table.ids)
    return store.ask([Question("pair", (clips[2 * i], clips[2 * i + 1]), position=i) for i in range(n)], dataset)


def answer_all(store: Store, table: Table, rater: str, ids: list[str]) -> dict[str, float]:
    """Answers by the true return; returns P(second preferred) of each question."""
    store.add_rater(rater, "script")
    found = {}
    for name, question in store.questions(ids).items():
        rows = torch.tensor([table.row(clip) for clip in question.clips])
        gap = table.reward[table.segment_rows(rows, LENGTH)].sum(-1).diff().item()
        found[name] = float(gap > 0)
    store.append([Answer(f"{rater}-{name}"[:36], name, rater, value(label)) for name, label in found.items()])
    return found


def inside(store: Store, ids: list[str], table: Table) -> set[str]:
    """Which questions are about episodes of a table alone, counted by hand."""
    return {name for name, q in store.questions(ids).items() if all(clip.episode in table.ids for clip in q.clips)}


def check(store: Store, table: Table, answers: dict[str, float]) -> int:
    """All answers about the table's episodes count, with the labels that they had, and no others; returns how many."""
    wanted = inside(store, list(answers), table)
    labels, _ = read(store, table, QUERY, Selection())
    assert set(labels.question) == wanted and labels.size == len(wanted)
    assert labels.value.tolist() == [answers[name] for name in labels.question]
    for starts, name in zip(labels.starts, labels.question, strict=True):
        clips = store.questions([name])[name].clips
        assert [table.ids[int(table.episode[row])] for row in starts] == [clip.episode for clip in clips]
        assert [int(row - table.opening[table.episode[row]]) for row in starts] == [clip.first for clip in clips]
    dataset = store.register(table.ids)
    assert {answer.question for answer in store.answers(dataset=dataset)} == wanted, "nor does the store count others"
    assert Progress(store, dataset).of("one").done + Progress(store, dataset).of("two").done == len(wanted)
    return len(wanted)


def test_grown_merged_and_filtered_data_sets_keep_their_answers(store):
    first, second = Table(EPISODES[:40]), Table(EPISODES[40:])
    answers = answer_all(store, first, "one", ask(store, first, 120, 0))
    assert check(store, first, answers) == 120 and check(store, second, answers) == 0
    assert check(store, Table(EPISODES[:50]), answers) == 120, "grown by ten"
    answers |= answer_all(store, second, "two", ask(store, second, 60, 1))
    assert check(store, first, answers) == 120 and check(store, second, answers) == 60
    assert check(store, Table([*EPISODES[40:], *EPISODES[:40]]), answers) == 180, "merged, in another order"
    half = Table(EPISODES[:40:2])
    assert 20 <= check(store, half, answers) <= 40, "a pair in four has both clips in half of the episodes"
    assert check(store, Table(EPISODES[30:50]), answers) > 0, "a part of either"


def test_an_episode_that_was_appended_changes_no_answer(store):
    table = Table(EPISODES[:40], capacity=2000)
    answers = answer_all(store, table, "one", ask(store, table, 50, 0))
    for episode in EPISODES[40:50]:
        table.append(episode)
    assert check(store, table, answers) == 50
    answers |= answer_all(store, table, "two", ask(store, table, 50, 1))
    assert check(store, table, answers) == 100 and check(store, Table(EPISODES[:40]), answers) < 100


def test_open_questions_are_handed_out_wherever_their_clips_are(store):
    first, half = Table(EPISODES[:40]), Table(EPISODES[:40:2])
    ids = ask(store, first, 60, 0)
    others = ask(store, Table(EPISODES[40:]), 60, 1)
    store.add_rater("ada", "human")
    wanted = inside(store, ids, half)
    dataset = store.register(half.ids)
    assert count_open(store, dataset) == len(wanted)
    leased = [one.id for one in lease(store, "ada", 99, dataset=dataset)]
    assert leased == [name for name in ids if name in wanted], "in their order"
    assert count_open(store, dataset) == 0 and store.find_miscounted() == []
    grown = Table(EPISODES[:50])
    leased = {one.id for one in lease(store, "ada", 99, dataset=store.register(grown.ids))}
    assert leased == set(ids) | inside(store, others, grown) and inside(store, others, grown)
    assert lease(store, "ada", 99, dataset=store.register(["another"])) == []
