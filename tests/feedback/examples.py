"""Questions and answers for tests that need no data: all clips are of one long episode, called abc."""

from typing import Any

import numpy as np

from pbrl.feedback.questions import ANSWER, SKIP, TIE, Question, Value, identity
from pbrl.feedback.store.answers import Answer
from pbrl.feedback.store.store import Store
from pbrl.types import Clip

EPISODE = "abc"


def questions(starts: Any, *, kind: str = "pair", length: int = 64, **more: Any) -> list[Question]:
    """Questions about clips that begin at steps `starts` [Q, k]."""
    return [
        Question(kind, tuple(Clip(EPISODE, int(step), length) for step in own), **{"position": i, **more})
        for i, own in enumerate(starts)
    ]


def value(label: float | None) -> Value:
    """A label as an answer has it: 0.5 is a tie, None that the rater could not tell."""
    return Value(SKIP) if label is None else Value(TIE if label == 0.5 else ANSWER, float(label))


def record(store: Store, starts: Any, labels: Any, rater: str = "scripted", **more: Any) -> list[str]:
    """Asks, and answers as a script does; returns the questions' ids. A label that is None is a skip."""
    store.add_rater(rater, "script")
    ids = store.ask(questions(starts, **more))
    store.append([
        Answer(identity("answer", q, rater), q, rater, value(label)) for q, label in zip(ids, labels, strict=True)
    ])  # fmt: skip
    return ids


def labels_of(store: Store, ids: Any = None, **about: Any) -> list[float | None]:
    """The labels of the answers that stand."""
    return [answer.value.label for answer in store.answers(ids, **about) if answer.value]


def steps_of(store: Store, ids: Any) -> list[list[int]]:
    """The steps at which the clips of questions begin."""
    found = store.questions(ids)
    return [[clip.first for clip in found[question].clips] for question in ids]


def dataset(store: Store) -> str:
    """The data set of that episode."""
    return store.register([EPISODE])


def as_array(labels: Any) -> np.ndarray:
    """Labels with NaN for skips."""
    return np.array([np.nan if label is None else label for label in labels], np.float64)
