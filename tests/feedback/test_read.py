"""Labels where there are none: arrays of the right shapes, from which everything that reads labels goes on."""

import math

import pytest
import torch

from pbrl.feedback.labels import Selection, accuracy, split
from pbrl.feedback.questions import Question
from pbrl.feedback.read import count, read
from pbrl.feedback.store.answers import Answer
from pbrl.feedback.store.store import Store
from pbrl.settings import Query
from pbrl.training.batches import Data
from pbrl.types import UserError
from tests import toy
from tests.feedback.examples import value


@pytest.fixture(scope="module")
def table():
    return toy.table(2)


@pytest.mark.parametrize("kind,width", [("pair", 2), ("rating", 1), ("ranking", 1), ("spans", 1)])
@pytest.mark.parametrize("given", ["none", "skipped", "taken back"])
def test_no_answers_are_empty_arrays(tmp_path, table, kind, width, given):
    store = Store(f"sqlite:///{tmp_path / 'answers.sqlite'}")
    store.add_rater("ada", "human")
    clips = tuple(table.clips(torch.arange(3 if kind == "ranking" else width).numpy(), 8))
    (question,) = store.ask([Question(kind, clips)])
    if given != "none":
        store.append([Answer("1", question, "ada", value(None))])
    if given == "taken back":
        store.append([Answer("2", question, "ada", kind="retract", supersedes="1")])
    query = Query(kind=kind, count=9, rounds=1, length=8, span=2, strategy="uniform", candidates=1, per_list=1,
                  held_out=0.0, seed=0)  # fmt: skip
    for aggregate in (False, True) if kind == "pair" else (False,):
        labels, answers = read(store, table, query, Selection(aggregate=aggregate))
        assert labels.size == 0 and labels.starts.shape == (0, width) and labels.raters == ()
        assert [part.shape for part in labels[1:6]] == [(0,)] * 5
        assert [part.size for part in split(labels, 0.5)] == [0, 0] and math.isnan(accuracy(labels, table))
        skipped = 1 if given == "skipped" else 0
        assert count(answers, table, 1) == {"asked": 1, "answered": 0, "ties": 0, "skipped": skipped}
        data = Data(table, torch.Generator().manual_seed(0), held_out=0.5)
        data.set_labels(labels)
        with pytest.raises(UserError, match="no usable answers"):
            data.comparisons(4)
