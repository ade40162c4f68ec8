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
from pbrl.feedback import strategies
from pbrl.feedback.labels import Labels
from pbrl.feedback.sources.stored import of_spans, of_tiers
from pbrl.feedback.store.store import Answered, Store, identity
from pbrl.settings import Query


class Asking:
    """A run's questions to one teacher. `counts` says how many were asked, answered, tied and skipped."""

    def __init__(self, *, table: Table, query: Query, source: Any, store: Store, dataset: str):
        self.table, self.dataset, self.query, self.teacher, self.store = table, dataset, query, source, store
        self.width = {"pair": 2, "rating": 1, "ranking": 1, "spans": 1}[query.kind]
        self.lists = 0
        self.labels = self._labels(np.zeros((0, self.width), np.int64), np.zeros(0), np.zeros(0, object))
        self.random = torch.Generator().manual_seed(query.seed)  # on the CPU: the same questions everywhere
        self.counts = {"asked": 0, "answered": 0, "ties": 0, "skipped": 0}  # skipped questions are not answered ones
        self.people = hasattr(source, "minimum")  # who answer when they do
        self.questions: list[str] = []  # that people were asked
        self.heard = 0  # the number of the last event that was taken up

    def ask(self, r: int, model: Any) -> dict[str, float]:
        """Asks round r, whose strategy may heed the reward `model`; returns the counts and how accurate answers are."""
        ask = self.query
        if hasattr(self.teacher, "recall"):  # answers that are there already
            return self._recalled(self._counted(self.teacher.recall(self.store, self.dataset, ask)))
        n = ask.count * (r + 1) // ask.rounds - ask.count * r // ask.rounds
        if ask.kind == "ranking" and not self.people:
            return self._rank(n, r)
        strategy = ask.strategy if r > 0 or not strategies.needs_reward(ask.strategy) else "uniform"
        width = self.teacher.clips if self.people and ask.kind == "ranking" else self.width
        starts = strategies.choose(
            self.table, n=n, width=width, length=ask.length, strategy=strategy,
            candidates=ask.candidates, generator=self.random, model=model if r > 0 else None,
        )  # fmt: skip
        if self.people:
            return self._ask_people(starts, strategy, r)
        return self._add(self._put(starts, strategy, r))

    def _ask_people(self, starts: torch.Tensor, strategy: str, r: int) -> dict[str, float]:
        """Puts questions to people, in place of those of earlier rounds, and waits until enough are answered."""
        ask, teacher = self.query, self.teacher
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
        return self.refresh()

    def refresh(self) -> dict[str, float]:
        """Takes up what people have said, and taken back, since last time; returns the counts where there is any."""
        last = self.store.last() if self.people else 0
        if last == self.heard:
            return {}
        self.heard = last
        self.counts = dict.fromkeys(self.counts, 0)
        answered = self._counted(self.store.answers(self.questions, sureness=self.teacher.sureness))
        self.counts["asked"] = len(self.questions)
        if self.query.kind in ("ranking", "spans"):
            details = self.store.details(questions=self.questions)
            found = of_tiers(details) if self.query.kind == "ranking" else of_spans(details, self.query.span)
            self._replace(found.starts, found.label, found.question)
            return dict(self.counts)
        given = answered.outcome != "skip"
        self._replace(answered.starts[given], answered.label[given], answered.question[given])
        return self.counts | self._accuracy(answered)

    def _recalled(self, answered: Answered) -> dict[str, float]:
        """Hands on what was kept: a ranking's clips as one list."""
        if self.query.kind != "ranking":
            return self._add(answered)
        for question in dict.fromkeys(answered.question):
            own = answered.question == question
            self._extend(answered.starts[own], answered.label[own], answered.question[own])
        return dict(self.counts)

    def _add(self, answered: Answered) -> dict[str, float]:
        """Hands on what was answered; returns the counts and how accurate answers are."""
        given = answered.outcome != "skip"
        self._extend(answered.starts[given], answered.label[given], answered.question[given])
        return self.counts | self._accuracy(answered)

    def _put(self, starts: torch.Tensor, strategy: str, r: int, step: int = 0) -> Answered:
        """Has questions answered, starts [Q, k], and both kept; `step` tells apart the parts of one round."""
        ask, author = self.query, self.teacher.author
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
        lists = math.ceil(n / self.query.per_list)
        places = self.table.segment_starts(self.query.length).cpu()
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
            ids = np.array([identity("place", r, self.lists, i) for i in range(len(items))], object)
            self._extend(np.array([[s] for s, _ in items]), np.array([rank for _, rank in items], np.float64), ids)
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
        rows = self.table.segment_rows(torch.from_numpy(starts).to(self.table.device), self.labels.length)
        gap = self.table.reward[rows].sum(-1).diff(dim=1)[:, 0].cpu().numpy()
        clear = (label != 0.5) & (gap != 0)
        agree = (label > 0.5) == (gap > 0)
        return {"label_accuracy": float(agree[clear].mean()) if clear.any() else math.nan}

    def _labels(self, starts: np.ndarray, value: np.ndarray, question: np.ndarray, group: Any = 0) -> Labels:
        n = len(value)
        return Labels(
            starts.reshape(-1, self.width).astype(np.int64), value.astype(np.float64), np.full(n, group, np.int64),
            np.zeros(n, np.int64), np.ones(n), question, (), self.query.learnt_length, self.query.kind,
        )  # fmt: skip

    def _extend(self, starts: np.ndarray, value: np.ndarray, question: np.ndarray) -> None:
        new = self._labels(starts, value, question, self.lists if self.query.kind == "ranking" else 0)
        self.lists += 1
        parts = (np.concatenate(pair) for pair in zip(self.labels[:6], new[:6], strict=True))
        self.labels = Labels(*parts, *self.labels[6:])  # type: ignore[arg-type]

    def _replace(self, starts: np.ndarray, value: np.ndarray, question: np.ndarray) -> None:
        lists = {q: i for i, q in enumerate(dict.fromkeys(question))} if self.query.kind == "ranking" else {}
        self.labels = self._labels(starts, value, question, np.array([lists.get(q, 0) for q in question], np.int64))

    def state_dict(self) -> dict[str, Any]:
        kept = {"random": self.random.get_state(), "counts": dict(self.counts), "lists": self.lists}
        arrays = [part.tolist() for part in self.labels[:6]]
        return {**kept, "questions": list(self.questions), "heard": self.heard, "labels": arrays}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.random.set_state(state["random"].cpu())
        self.counts, self.lists = dict(state["counts"]), state["lists"]
        self.questions, self.heard = list(state["questions"]), state["heard"]
        starts, value, group, _, _, question = state["labels"]
        arrays = np.array(starts, np.int64), np.array(value), np.array(question, object), np.array(group, np.int64)
        self.labels = self._labels(*arrays)


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
