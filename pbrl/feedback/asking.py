"""Asking: chooses questions, has them answered, keeps both in the store, and hands on what the store then holds.

A ranking is asked for by comparisons: each new segment is inserted by bisection into a list that is in order so far, so
that few answers order many pairs (LiRE, Choi et al. 2024, arXiv:2408.04190).
"""

import math
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from pbrl.data.table import Table
from pbrl.feedback import strategies as query
from pbrl.feedback.sources.stored import of_spans, of_tiers
from pbrl.feedback.store.store import Answered, Store
from pbrl.settings import Query
from pbrl.training.batches import Preferences


class Interview:
    """A run's questions to one teacher. `counts` says how many were asked, answered, tied and skipped."""

    def __init__(self, *, table: Table, dataset: str, ask: Query, teacher: Any, store: Store, preferences: Preferences):
        self.table, self.dataset, self.ask, self.teacher = table, dataset, ask, teacher
        self.store, self.preferences = store, preferences
        self.random = torch.Generator().manual_seed(ask.seed)  # on the CPU: the same questions everywhere
        self.counts = {"asked": 0, "answered": 0, "ties": 0, "skipped": 0}  # skipped questions are not answered ones
        self.people = hasattr(teacher, "minimum")  # who answer when they do
        self.questions: list[str] = []  # that people were asked
        self.heard = 0  # the number of the last event that was taken up

    def round(self, r: int, model: Any) -> dict[str, float]:
        """Asks round r, whose strategy may heed the reward `model`; returns the counts and how accurate answers are."""
        ask = self.ask
        if hasattr(self.teacher, "recall"):  # answers that are there already
            return self._recalled(self._counted(self.teacher.recall(self.store, self.dataset, ask)))
        n = ask.count * (r + 1) // ask.rounds - ask.count * r // ask.rounds
        if ask.kind == "ranking" and not self.people:
            return self._rank(n, r)
        strategy = ask.strategy if r > 0 or not query.needs_reward(ask.strategy) else "uniform"
        width = self.teacher.clips if self.people and ask.kind == "ranking" else self.preferences.width
        starts = query.choose(
            self.table, n=n, width=width, length=ask.length, strategy=strategy,
            candidates=ask.candidates, generator=self.random, model=model if r > 0 else None,
        )  # fmt: skip
        if self.people:
            return self._ask_people(starts, strategy, r)
        return self._add(self._put(starts, strategy, r))

    def _ask_people(self, starts: torch.Tensor, strategy: str, r: int) -> dict[str, float]:
        """Puts questions to people, in place of those of earlier rounds, and waits until enough are answered."""
        ask, teacher = self.ask, self.teacher
        about = {"dataset": self.dataset, "length": ask.length, "kind": ask.kind, "purpose": "learn"}
        if r:
            self.store.withdraw(**about, round=r - 1)
        asked = self.store.ask(
            **about, strategy=strategy, round_=r, starts=starts.cpu().numpy(), wanted=teacher.wanted,
            wording=teacher.wording(ask.kind),
        )  # fmt: skip
        self.questions += asked
        enough = min(teacher.minimum or len(asked), len(asked))
        with tqdm(total=enough, desc=f"waiting for answers, {teacher.where}", unit="answer") as bar:
            while bar.n < enough:
                given = int((self.store.answers(asked).outcome != "skip").sum())
                bar.update(min(given, enough) - bar.n)
                if given < enough:
                    if not self.store.wants(asked):
                        break  # nobody is asked any more, and some could not tell
                    time.sleep(teacher.pause_s)
        return self.hear()

    def hear(self) -> dict[str, float]:
        """Takes up what people have said, and taken back, since last time; returns the counts where there is any."""
        last = self.store.last() if self.people else 0
        if last == self.heard:
            return {}
        self.heard = last
        self.counts = dict.fromkeys(self.counts, 0)
        answered = self._counted(self.store.answers(self.questions, sureness=self.teacher.sureness))
        self.counts["asked"] = len(self.questions)
        if self.ask.kind in ("ranking", "spans"):
            details = self.store.details(questions=self.questions)
            found = of_tiers(details) if self.ask.kind == "ranking" else of_spans(details, self.ask.span)
            self.preferences.replace(found.starts, found.label, found.question)
            return dict(self.counts)
        given = answered.outcome != "skip"
        self.preferences.replace(answered.starts[given], answered.label[given], answered.question[given])
        return self.counts | self._accuracy(answered)

    def _recalled(self, answered: Answered) -> dict[str, float]:
        """Hands on what was kept: a ranking's clips as one list."""
        if self.ask.kind != "ranking":
            return self._add(answered)
        for question in dict.fromkeys(answered.question):
            own = answered.question == question
            self.preferences.add(answered.starts[own], answered.label[own])
        return dict(self.counts)

    def _add(self, answered: Answered) -> dict[str, float]:
        """Hands on what was answered; returns the counts and how accurate answers are."""
        given = answered.outcome != "skip"
        self.preferences.add(answered.starts[given], answered.label[given])
        return self.counts | self._accuracy(answered)

    def _put(self, starts: torch.Tensor, strategy: str, r: int, step: int = 0) -> Answered:
        """Has questions answered, starts [Q, k], and both kept; `step` tells apart the parts of one round."""
        ask, author = self.ask, self.teacher.author
        label, outcome = self.teacher.answer(self.table, starts, ask.length, *((r, step) if step else (r,)))
        kind = "pair" if ask.kind == "ranking" else ask.kind
        questions = self.store.record(
            dataset=self.dataset, length=ask.length, kind=kind, strategy=strategy, round_=r,
            starts=starts.cpu().numpy(), author=author, label=label, outcome=outcome, first=step * len(starts),
        )  # fmt: skip
        return self._counted(self.store.answers(questions, author=author))

    def _counted(self, answered: Answered) -> Answered:
        skipped = int((answered.outcome == "skip").sum())
        self.counts["asked"] += len(answered.label)
        self.counts["answered"] += len(answered.label) - skipped
        self.counts["ties"] += int((answered.outcome == "tie").sum())
        self.counts["skipped"] += skipped
        return answered

    def _rank(self, n: int, r: int) -> dict[str, float]:
        """Spends n answers on ranked lists, `ask.per_list` on each; all lists grow side by side."""
        lists = math.ceil(n / self.ask.per_list)
        places = self.table.segment_starts(self.ask.length).cpu()
        rankings = [Ranking(self._segments(places)) for _ in range(lists)]
        parts, left = [], n
        while left:
            asking = rankings[: min(left, lists)]
            starts = torch.tensor([ranking.question() for ranking in asking], device=self.table.device)
            parts.append(self._put(starts, "ranking", r, 1 + len(parts)))
            for ranking, label in zip(asking, parts[-1].label, strict=True):
                ranking.hear(label)
            left -= len(asking)
        for ranking in rankings:
            items = [(start, rank) for rank, group in enumerate(ranking.groups) for start in group]
            self.preferences.add(np.array([[s] for s, _ in items]), np.array([rank for _, rank in items], np.float64))
        answered = Answered(*(np.concatenate(part) for part in zip(*parts, strict=True)))
        return self.counts | self._accuracy(answered) | {"ranked": sum(len(g) for k in rankings for g in k.groups)}

    def _segments(self, places: torch.Tensor) -> Iterator[int]:
        while True:
            yield int(places[torch.randint(len(places), (), generator=self.random)])

    def _accuracy(self, answered: Answered) -> dict[str, float]:
        """How often answers that are no ties agree with the true return; ratings are compared with their neighbours."""
        given = answered.outcome != "skip"
        starts, label = answered.starts[given], answered.label[given]
        if starts.shape[1] == 1:
            starts = np.concatenate([starts[:-1], starts[1:]], 1)
            label = 0.5 * (1 + np.sign(label[1:] - label[:-1]))
        rows = self.table.segments(torch.from_numpy(starts).to(self.table.device), self.preferences.length)
        gap = self.table.reward[rows].sum(-1).diff(dim=1)[:, 0].cpu().numpy()
        clear = (label != 0.5) & (gap != 0)
        agree = (label > 0.5) == (gap > 0)
        return {"label_accuracy": float(agree[clear].mean()) if clear.any() else math.nan}

    def state_dict(self) -> dict[str, Any]:
        kept = {"random": self.random.get_state(), "counts": dict(self.counts)}
        return {**kept, "questions": list(self.questions), "heard": self.heard}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.random.set_state(state["random"].cpu())
        self.counts = dict(state["counts"])
        self.questions, self.heard = list(state.get("questions", [])), state.get("heard", 0)  # older ones had no people


class Ranking:
    """A list in the making. `groups` holds segments from worst to best; those that tied share a group."""

    def __init__(self, segments: Iterator[int]):
        self.segments = segments
        self.groups = [[next(segments)]]
        self._take()

    def _take(self) -> None:
        self.new, self.low, self.high = next(self.segments), 0, len(self.groups)

    def question(self) -> tuple[int, int]:
        """A segment in the middle of where the new one may belong, and the new one."""
        return self.groups[(self.low + self.high) // 2][0], self.new

    def hear(self, label: float) -> None:
        """P(the new one is preferred). What cannot be compared (NaN) is left out."""
        middle = (self.low + self.high) // 2
        if label == 0.5:
            self.groups[middle].append(self.new)
        elif label > 0.5:
            self.low = middle + 1
        elif label < 0.5:
            self.high = middle
        if self.low == self.high:
            self.groups.insert(self.low, [self.new])
        if self.low == self.high or label == 0.5 or math.isnan(label):
            self._take()
