"""Answers that somebody gave before: nobody is asked, what is in the store about this data set is what there is."""

from pbrl.feedback.store import Answered, Store
from pbrl.plan import Query
from pbrl.types import UserError


class Kept:
    """Recalls the answers of `author` (None: of anyone), the first `count` of them (None: all)."""

    needs_value = False

    def __init__(self, *, author: str | None, count: int | None):
        self.author, self.count = author, count
        if count is not None and count < 1:
            raise UserError(f"feedback.count={count} must be at least 1; null: all there are")

    def recall(self, store: Store, dataset: str, ask: Query) -> Answered:
        """Answers to questions of that kind about segments of that length. Raises UserError if there are none."""
        if ask.kind == "ranking" or ask.rounds > 1:
            raise UserError("feedback=kept asks nothing: query.kind is pair or rating, and query.rounds=1")
        found = store.answers(author=self.author, dataset=dataset, length=ask.length, kind=ask.kind)
        if not len(found.label):
            held = [f"{n} × {kind} of {length} steps" for data, kind, length, n in store.held() if data == dataset]
            whose = f" by {self.author}" if self.author else ""
            raise UserError(
                f"{store.url} holds no answers{whose} of query.kind={ask.kind} and query.length={ask.length} about "
                f"this data set; it holds {', '.join(held) or 'none about it'}: choose other query.… or another store=…"
            )
        return Answered(*(part[: self.count] for part in found))
