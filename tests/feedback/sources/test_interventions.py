"""Answers from take-overs: what they mark, and that what is learnt from them is what a person did."""

import numpy as np
import pytest
import torch

from pbrl.data.table import Table
from pbrl.feedback.asking import Asking
from pbrl.feedback.sources.context import Context
from pbrl.feedback.sources.interventions import Interventions, mark, spans_of
from pbrl.feedback.store.store import Store
from pbrl.training.batches import Data
from pbrl.types import UserError
from tests import toy
from tests.feedback.sources.test_stored import query
from tests.parts import build


def taken_over(count: int = 6, steps: int = 30):
    """Episodes that a person took over at step 12 for six steps, of which the even ones succeeded."""
    episodes = []
    for i, episode in enumerate(toy.episodes(count)):
        person = np.zeros(len(episode.action), bool)
        person[12:18] = True
        success = np.zeros(len(episode.obs), bool)
        success[-1] = i % 2 == 0
        episodes.append(episode._replace(person=person, success=success))
    return episodes


def test_what_is_marked():
    table = Table(taken_over(2))
    steps = int(table.steps[0])
    marks = mark(table, before=10, own=True)
    expected = [1] * 2 + [-1] * 10 + [1] * 6 + [1] * (steps - 18) + [0]
    assert marks[: steps + 1].tolist() == expected
    failed = [0] * 2 + [-1] * 10 + [1] * 6 + [0] * (steps - 18) + [0]
    assert marks[steps + 1 :].tolist() == failed
    assert mark(table, before=10, own=False)[: steps + 1].tolist() == failed
    assert mark(table, before=40, own=False)[:18].tolist() == [-1] * 12 + [1] * 6, "no further than the beginning"


def test_stretches_of_marks():
    assert spans_of(np.array([0, 1, 1, -1, 0, 1], np.int8)) == [
        {"start": 1, "end": 2, "good": True}, {"start": 3, "end": 3, "good": False},
        {"start": 5, "end": 5, "good": True},
    ]  # fmt: skip
    assert spans_of(np.zeros(4, np.int8)) == []


def test_labels_are_pieces_of_what_was_marked(tmp_path):
    table, store = Table(taken_over()), Store(f"sqlite:///{tmp_path}/answers.sqlite")
    source, asked = Interventions(before=10, own=False), query(kind="spans", count=40, length=20, span=2)
    source.start(Context(store, table, asked, data_dir=tmp_path))
    asking = Asking(table=table, query=asked, source=source, store=store)
    asking.ask(0, None)
    labels = asking.labels
    assert labels.size > 40 and set(labels.value.tolist()) == {0.0, 1.0}
    for start, value in zip(labels.starts[:, 0], labels.value, strict=True):
        rows = np.arange(start, start + 2)
        if value:
            assert table.person[rows].all()
        else:
            first = table.first[np.searchsorted(table.first, start, side="right") - 1]
            assert ((rows - first >= 2) & (rows - first < 12)).all()
    assert store.find_miscounted() == []
    data = Data(table, torch.Generator().manual_seed(0))
    data.set_labels(labels)
    policy = build("policy/mlp", table.spec(), std=0.3)
    cpl = build("algo/cpl", table.spec(), policy=policy, objective="kto", reference=True, pretrain_steps=2, lr=1e-2)
    accuracy = []
    for phase in cpl.phases(60):
        if phase.before:
            phase.before(data)
        for _ in range(phase.steps):
            accuracy.append(phase.update(phase.draw(data)).get("train_accuracy", torch.tensor(0.5)).item())
    assert np.mean(accuracy[-10:]) > 0.75, "what a person did grows likelier than what made them do it"


def test_where_nobody_took_over(tmp_path):
    context = Context(Store("sqlite://"), Table(toy.episodes(2)), query(kind="spans"), data_dir=tmp_path)
    with pytest.raises(UserError, match="press t during python -m real.deploy"):
        Interventions(before=10, own=True).start(context)
    with pytest.raises(UserError, match="query.kind=spans objective=kto"):
        Interventions(before=10, own=True).check(query(kind="pair"), None)  # type: ignore[arg-type]
