"""Answers that somebody gave before: nobody is asked, what is in the store about this data set is what there is."""

from typing import Any

import numpy as np

from pbrl.feedback import raters
from pbrl.feedback.questions import check_sureness
from pbrl.feedback.store.store import Answered, Store
from pbrl.settings import Query
from pbrl.types import UserError


class Kept:
    """Recalls the answers of `author` (None: of anyone), the first `count` of them (None: all).

    With `weigh`, all that was said of a pair becomes one answer: P(second preferred), each believed by its skill. With
    `attribute`, pairs are those of which it was said which clip has more of that. `sureness` has P(better) for each
    strength of a preference (None: 1); weighing heeds none.
    """

    needs_value = False

    def __init__(
        self, *, author: str | None, count: int | None, weigh: bool, attribute: str | None,
        sureness: list[float] | None,
    ):  # fmt: skip
        self.author, self.count, self.weigh, self.attribute = author, count, weigh, attribute
        self.sureness = None if weigh else check_sureness(sureness)
        if count is not None and count < 1:
            raise UserError(f"feedback.count={count} must be at least 1; null: all there are")
        if weigh and attribute:
            raise UserError("feedback.weigh is about plain pairs: leave feedback.attribute out")

    def recall(self, store: Store, dataset: str, ask: Query) -> Answered:
        """Answers to questions of that kind about segments of that length. Raises UserError if there are none.

        A ranking of k clips comes as k answers of one question: starts [k, 1], and label [k], the higher the better.
        """
        if ask.rounds > 1:
            raise UserError("feedback=kept asks nothing: query.rounds=1")
        if ask.kind != "pair" and (self.weigh or self.attribute):
            raise UserError("feedback.weigh and feedback.attribute are about comparisons: query.kind=pair")
        about = {"dataset": dataset, "length": ask.length, "purpose": "learn"}
        if self.attribute:
            found = of_attribute(self.attribute, store.details(self.author, **about, kind="attributes"))
        elif ask.kind == "ranking":
            found = of_tiers(store.details(self.author, **about, kind="ranking"))
        elif ask.kind == "spans":
            found = of_spans(store.details(self.author, **about, kind="spans"), ask.span)
        else:
            found = store.answers(author=self.author, sureness=self.sureness, **about, kind=ask.kind)
        if not len(found.label):
            held = [f"{n} × {kind} of {length} steps" for data, kind, length, n in store.held() if data == dataset]
            whose = f" by {self.author}" if self.author else ""
            what = f" of feedback.attribute={self.attribute}" if self.attribute else ""
            raise UserError(
                f"{store.url} holds no answers{whose}{what} of query.kind={ask.kind} and query.length={ask.length} "
                f"about this data set; it holds {', '.join(held) or 'none about it'}: choose other query.… or another "
                "store=…"
            )
        if self.weigh:
            found = weighed(found, store, dataset)
        first = set(list(dict.fromkeys(found.question))[: self.count])
        return Answered(*(part[[q in first for q in found.question]] for part in found))


def of_attribute(name: str, details: list[tuple[list[int], str, dict[str, Any]]]) -> Answered:
    """What was said of one attribute: P(the second clip has more of it)."""
    said = [(starts, detail["attributes"][name], q) for starts, q, detail in details if name in detail["attributes"]]
    label = np.array([np.nan if value is None else value for _, value, _ in said], np.float64)
    outcome = np.where(np.isnan(label), "skip", np.where(label == 0.5, "tie", "answer")).astype(object)
    return Answered(np.array([s for s, _, _ in said]), label, outcome, np.array([q for *_, q in said], object))


def of_tiers(details: list[tuple[list[int], str, dict[str, Any]]]) -> Answered:
    """Each ranking's clips with their rank, from 0 for the worst."""
    ranked = [
        (starts[place], len(detail["tiers"]) - 1 - tier, f"{question} {i}")
        for i, (starts, question, detail) in enumerate(details)
        for tier, places in enumerate(detail["tiers"])
        for place in places
    ]
    starts, rank, question = zip(*ranked, strict=True) if ranked else ((), (), ())
    outcome = np.full(len(rank), "answer", object)
    return Answered(np.array(starts)[:, None], np.array(rank, np.float64), outcome, np.array(question, object))


def of_spans(details: list[tuple[list[int], str, dict[str, Any]]], length: int) -> Answered:
    """What was marked, cut into segments of `length` steps: 1 where it is good, 0 where it is bad. Less is left out."""
    cut = [
        (start + frame, float(span["good"]), question)
        for (start,), question, detail in details
        for span in detail["spans"]
        for frame in range(span["start"], span["end"] + 2 - length, length)
    ]
    starts, good, question = zip(*cut, strict=True) if cut else ((), (), ())
    outcome = np.full(len(good), "answer", object)
    return Answered(np.array(starts, int)[:, None], np.array(good, np.float64), outcome, np.array(question, object))


def weighed(found: Answered, store: Store, dataset: str) -> Answered:
    """One answer to each question, by Dawid and Skene's model of who is right about what."""
    believed = raters.dawid_skene(raters.said(store, dataset)).label
    first = [i for i in np.unique(found.question, return_index=True)[1] if found.question[i] in believed]
    first.sort()
    label = np.array([believed[q] for q in found.question[first]])
    return Answered(found.starts[first], label, np.full(len(first), "answer", object), found.question[first])
