"""Answers stay with their episodes, whatever data set these are part of."""

import hashlib
import json

import numpy as np
import pytest
import torch

from pbrl.data import episodes as files
from pbrl.data.table import Table
from pbrl.feedback.labels import Selection
from pbrl.feedback.questions import Question
from pbrl.feedback.read import read
from pbrl.feedback.store.answers import Answer
from pbrl.feedback.store.datasets import adopt_recordings
from pbrl.feedback.store.leases import lease
from pbrl.feedback.store.progress import Progress, count_open
from pbrl.feedback.store.store import Store
from pbrl.settings import Query
from pbrl.types import Clip
from tests import toy
from tests.feedback.examples import value
from tests.films import film

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
    assert sum(Progress(store, dataset).of(rater).done for rater in ("one", "two")) == len(wanted)
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


# Recordings


def answered(store: Store, folder, rater: str = "one") -> int:
    """How many answers of a rater the page shows for a folder of videos."""
    found = files.read(folder)
    adopt_recordings(store, found)
    return Progress(store, store.register(Table(found).ids)).of(rater).done


def test_answers_stay_when_a_video_or_numbers_are_added(store, tmp_path):
    film(tmp_path / "b.mp4", 30, first=10)
    film(tmp_path / "c.mp4", 25, first=60)
    table = Table(files.read(tmp_path))
    answer_all(store, table, "one", ask(store, table, 6, seed=0))
    assert answered(store, tmp_path) == 6
    film(tmp_path / "a.mp4", 20, first=100)
    assert answered(store, tmp_path) == 6, "also where it comes before the others"
    for name, steps in (("a", 19), ("b", 29), ("c", 24)):
        np.savez(tmp_path / f"{name}.npz", obs=np.full((steps + 1, 3), steps), action=np.zeros((steps, 2)))
    assert answered(store, tmp_path) == 6, "also with numbers beside them"
    (tmp_path / "b.json").write_text(json.dumps({"instruction": "lift"}))
    (tmp_path / "c.mp4").rename(tmp_path / "z.mp4")
    (tmp_path / "c.npz").rename(tmp_path / "z.npz")
    found = files.read(tmp_path)
    files.write(tmp_path / "set", found, {})
    assert answered(store, tmp_path) == answered(store, tmp_path / "set") == 6, "and in a data set of ours"
    labels, _ = read(store, Table(found), QUERY, Selection())
    assert labels.size == 6


def id_of_before(place: int, video, obs, action) -> str:
    """The id that a recording without reward, success or instruction had before its video alone was its id."""
    parts = [np.int64(place), np.float32(obs), np.float32(action), np.zeros(len(action), "f4"), np.bool_(False)]
    content = b"".join(part.tobytes() for part in parts) + b"--" + hashlib.sha256(video.read_bytes()).digest()
    return hashlib.sha256(content).hexdigest()[:32]


def test_stores_that_know_recordings_by_their_place_are_read(store, tmp_path):
    """Two videos, one with numbers, were answered about; then came a video before them, and numbers for the other."""
    obs, action = np.random.default_rng(0).random((30, 3)), np.zeros((29, 2))
    film(tmp_path / "b.mp4", 30, first=10)
    film(tmp_path / "c.mp4", 25, first=60)
    np.savez(tmp_path / "b.npz", obs=obs, action=action)
    old = [
        id_of_before(0, tmp_path / "b.mp4", obs, action),
        id_of_before(1, tmp_path / "c.mp4", np.zeros((25, 0)), np.zeros((24, 0))),
    ]
    dataset = store.register(old)
    pairs = [(Clip(old[i % 2], i, LENGTH), Clip(old[(i + 1) % 2], i + 3, LENGTH)) for i in range(5)]
    ids = store.ask([Question("pair", pair, position=i) for i, pair in enumerate(pairs)], dataset)
    store.add_rater("one", "human")
    store.append([Answer(f"uid-{i}", name, "one", value(float(i % 2))) for i, name in enumerate(ids)])
    film(tmp_path / "a.mp4", 20, first=100)
    for name, rows in (("a", 20), ("c", 25)):
        np.savez(tmp_path / f"{name}.npz", obs=np.ones((rows, 3)), action=np.zeros((rows - 1, 2)))
    assert answered(store, tmp_path) == 5
    found = files.read(tmp_path)
    assert adopt_recordings(store, found) == 0, "once"
    table = Table(found)
    labels, _ = read(store, table, QUERY, Selection())
    assert dict(zip(labels.question, labels.value.tolist(), strict=True)) == {n: i % 2 for i, n in enumerate(ids)}
    starts = {name: starts.tolist() for name, starts in zip(labels.question, labels.starts, strict=True)}
    assert starts[ids[1]] == [20 + 30 + 1, 20 + 4], "c.mp4 begins at row 50 now, b.mp4 at row 20"
    today = Clip(table.ids[1], 0, LENGTH), Clip(table.ids[2], 3, LENGTH)
    assert store.ask([Question("pair", today, position=0)]) == ids[:1], "asked again, it is the same question"
