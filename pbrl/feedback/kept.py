"""Answers that somebody gave before: nobody is asked, what is in the store about this data set is what there is."""

import numpy as np

from pbrl.feedback import raters
from pbrl.feedback.store import Answered, Store
from pbrl.plan import Query
from pbrl.types import UserError


class Kept:
    """Recalls the answers of `author` (None: of anyone), the first `count` of them (None: all).

    With `weigh`, all that was said of a pair becomes one answer: P(second preferred), each believed by its skill.
    """

    needs_value = False

    def __init__(self, *, author: str | None, count: int | None, weigh: bool):
        self.author, self.count, self.weigh = author, count, weigh
        if count is not None and count < 1:
            raise UserError(f"feedback.count={count} must be at least 1; null: all there are")

    def recall(self, store: Store, dataset: str, ask: Query) -> Answered:
        """Answers to questions of that kind about segments of that length. Raises UserError if there are none."""
        if self.weigh and ask.kind != "pair":
            raise UserError("feedback.weigh is about comparisons: query.kind=pair")
        if ask.kind == "ranking" or ask.rounds > 1:
            raise UserError("feedback=kept asks nothing: query.kind is pair or rating, and query.rounds=1")
        found = store.answers(author=self.author, dataset=dataset, length=ask.length, kind=ask.kind, purpose="learn")
        if not len(found.label):
            held = [f"{n} × {kind} of {length} steps" for data, kind, length, n in store.held() if data == dataset]
            whose = f" by {self.author}" if self.author else ""
            raise UserError(
                f"{store.url} holds no answers{whose} of query.kind={ask.kind} and query.length={ask.length} about "
                f"this data set; it holds {', '.join(held) or 'none about it'}: choose other query.… or another store=…"
            )
        if self.weigh:
            found = weighed(found, store, dataset)
        return Answered(*(part[: self.count] for part in found))


def weighed(found: Answered, store: Store, dataset: str) -> Answered:
    """One answer to each question, by Dawid and Skene's model of who is right about what."""
    believed = raters.dawid_skene(raters.said(store, dataset)).label
    first = [i for i in np.unique(found.question, return_index=True)[1] if found.question[i] in believed]
    first.sort()
    label = np.array([believed[q] for q in found.question[first]])
    return Answered(found.starts[first], label, np.full(len(first), "answer", object), found.question[first])
