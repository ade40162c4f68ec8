"""A run chooses questions, stores them, has its feedback source answer, and reads labels from the store alone."""

import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch

from pbrl.data.table import Table
from pbrl.feedback.labels import Labels, accuracy
from pbrl.feedback.questions import Question
from pbrl.feedback.rankings import Ranking
from pbrl.feedback.read import Answered, check_attributes, count, read
from pbrl.feedback.store.store import Store
from pbrl.feedback.strategies import choose, needs_reward
from pbrl.settings import Query
from pbrl.types import FeedbackSource, RewardModel


class Asking:
    """A run's questions to one feedback source. `counts` says how many were asked, answered, tied and skipped.

    A source that answers rankings is asked for them; of another, comparisons are asked that sort segments into lists.
    """

    def __init__(self, *, table: Table, query: Query, source: FeedbackSource, store: Store):
        self.table, self.query, self.source, self.store = table, query, source, store
        self.by_comparisons = query.kind == "ranking" and bool(source.kinds) and "ranking" not in source.kinds
        self.random = torch.Generator().manual_seed(query.seed)  # on the CPU: the same questions everywhere
        self.questions: list[str] = []  # ids of what was asked, in all rounds
        self.event = 0  # the number of the last event that `labels` take into account
        self._read()

    def ask(self, round_: int, model: RewardModel | None) -> dict[str, float]:
        """Asks a round, whose strategy may depend on the reward model; returns the counts and the labels' accuracy."""
        query = self.query
        if self.source.kinds:
            self.store.withdraw(self.questions)  # those of earlier rounds that are still open
            n = query.count * (round_ + 1) // query.rounds - query.count * round_ // query.rounds
            self._ask_lists(n, round_) if self.by_comparisons else self._ask_chosen(n, round_, model)
        self.event = self.store.last()
        check_attributes(*self._read())
        if 0 < self.counts["answered"] == self.counts["ties"]:
            words = f"all {self.counts['ties']} answers are ties: nothing is preferred to anything"
            print(f"WARNING   {words}, and what is learnt from them says so", flush=True)
        return self._report()

    def refresh(self) -> dict[str, float]:
        """Takes up answers and retractions since last time; returns the counts, {} where no label has changed."""
        last = self.store.last()
        if last == self.event:
            return {}
        before, self.event = self.labels, last
        self._read()
        return {} if _is_same(before, self.labels) else self._report()

    def _report(self) -> dict[str, float]:
        return {**self.counts, "label_accuracy": accuracy(self.labels, self.table)}

    def _read(self) -> tuple[Labels, list[Answered]]:
        """Reads labels as of the event `self.event`; returns them with the answers that there are."""
        asked = self.questions if self.source.kinds else None
        self.labels, answers = read(
            self.store,
            self.table,
            self.query,
            self.source.selection,
            questions=asked,
            until=self.event,
            by_comparisons=self.by_comparisons,
        )
        total = len({answer.question for answer, _ in answers}) if asked is None else len(asked)
        self.counts = count(answers, self.table, total)
        return self.labels, answers

    def _put(self, questions: Sequence[Question]) -> list[str]:
        """Stores questions as the source forms them, and has them answered."""
        self.dataset = self.store.register(self.table.ids)
        asked = self.store.ask([self.source.form(question) for question in questions], self.dataset)
        self.questions += asked
        self.source.answer(asked)
        return asked

    def _ask_chosen(self, n: int, round_: int, model: RewardModel | None) -> None:
        query = self.query
        strategy = query.strategy if round_ > 0 or not needs_reward(query.strategy) else "uniform"
        starts = choose(
            self.table,
            n=n,
            width=query.width,
            length=query.length,
            strategy=strategy,
            candidates=query.candidates,
            generator=self.random,
            model=model if round_ > 0 else None,
        )
        clips = self.table.clips(starts.cpu().numpy().ravel(), query.length)
        shown = [tuple(clips[i : i + query.width]) for i in range(0, len(clips), query.width)]
        self._put([Question(query.kind, x, strategy=strategy, round=round_, position=i) for i, x in enumerate(shown)])

    def _ask_lists(self, n: int, round_: int) -> None:
        """Spends n comparisons on ranked lists, `query.per_list` on each; all lists grow side by side."""
        query = self.query
        segments = self._draw_segments()
        rankings = [Ranking(next(segments)) for _ in range(math.ceil(n / query.per_list))]
        for ranking in rankings:
            ranking.place(next(segments))
        for step in range(math.ceil(n / len(rankings))):
            growing = rankings[: min(n - step * len(rankings), len(rankings))]
            pairs = [(ranking.middle(), ranking.new) for ranking in growing]
            positions = [i * query.per_list + step for i in range(len(growing))]
            clips = self.table.clips(np.array(pairs).ravel(), query.length)
            questions = [
                Question("pair", (first, second), strategy="ranking", round=round_, position=position)
                for first, second, position in zip(clips[::2], clips[1::2], positions, strict=True)
            ]
            asked = self._put(questions)
            for ranking, label in zip(growing, self._labels_of(asked), strict=True):
                ranking.compare(label)
                if ranking.new is None:
                    ranking.place(next(segments))

    def _labels_of(self, questions: Sequence[str]) -> list[float]:
        """P(second preferred) of each of these comparisons, NaN where it was skipped."""
        answers = {a.question: a.value for a in self.store.answers(questions, rater=self.source.selection.rater)}
        values = [answers[question] for question in questions]
        return [math.nan if value is None or value.label is None else value.label for value in values]

    def _draw_segments(self) -> Iterator[int]:
        places = self.table.segment_starts(self.query.length).cpu()
        while True:
            yield int(places[torch.randint(len(places), (), generator=self.random)])

    def state_dict(self) -> dict[str, Any]:
        """What a run needs to go on exactly: labels are read from the store again, as of the event."""
        return {"random": self.random.get_state(), "questions": list(self.questions), "event": self.event}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes on from there; answers that came later are taken up when the uninterrupted run would have done so."""
        self.random.set_state(state["random"].cpu())
        self.questions, self.event = list(state["questions"]), state["event"]
        self._read()


def _is_same(a: Labels, b: Labels) -> bool:
    same = a.raters == b.raters and np.array_equal(a.value, b.value, equal_nan=True)
    return same and all(np.array_equal(x, y) for x, y in zip(a[:1] + a[2:6], b[:1] + b[2:6], strict=True))
