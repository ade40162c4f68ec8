"""What people work on at the page: the questions about one data set, and how far each rater has come."""

import hashlib
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from uuid import uuid4

import numpy as np

from pbrl.data.table import Table
from pbrl.feedback.page.clips import Clips
from pbrl.feedback.questions import Question, clip_id
from pbrl.feedback.store import progress
from pbrl.feedback.store.answers import Answer
from pbrl.feedback.store.leases import Leased, lease
from pbrl.feedback.store.store import Store
from pbrl.types import Clip

SLOW_S = 0.02  # to count open questions: then not for every request


@dataclass
class Project:
    """Questions about one data set, for the raters of one page."""

    store: Store
    clips: Clips
    dataset: str  # registered with the store
    first_rows: Mapping[str, int]  # of each episode, by its id
    instructions: str
    raters: Mapping[str, str] = field(default_factory=dict)  # token → name; none: `me` alone, at this machine
    me: str = "me"  # the rater at this machine, who sees the statistics
    pass_mark: float = 0.8  # share of practice questions to get right before others are shown
    questions: dict[str, Question] = field(default_factory=dict)  # that were shown
    passed: set[str] = field(default_factory=set)  # raters who need no more practice
    open: int = 0  # questions, when they were last counted
    recount_at: float = 0.0  # s

    def __post_init__(self) -> None:
        self.tokens = {hash_token(token): name for token, name in self.raters.items()}
        for name in self.tokens.values() if self.tokens else [self.me]:
            self.store.add_rater(name, "human")

    def next(self, rater: str, n: int) -> dict[str, Any]:
        """Up to n questions for a rater, whose clips begin to be made, as JSON."""
        about, again = self._practice(rater)
        leased = lease(self.store, rater, n, dataset=self.dataset, **about)
        self.questions.update({one.id: one.question for one in leased})
        for clip in {clip for one in leased for clip in one.question.clips}:
            self.clips.get(clip_id(clip), self.row(clip), clip.length)
        questions = [{**as_json(one, rater), **self._timing(one.question)} for one in leased]
        return {"questions": questions, "again": again, **self.progress(rater)}

    def question(self, name: str) -> Question | None:
        """The question with this id, if there is one."""
        if name not in self.questions:
            self.questions.update(self.store.questions([name]))
        return self.questions.get(name)

    def row(self, clip: Clip) -> int:
        """The row of the data set's table at which a clip begins."""
        return self.first_rows[clip.episode] + clip.first

    def _timing(self, question: Question) -> dict[str, Any]:
        """The mean rate of each clip, and where frames are not shown evenly when each one is (s), with the end."""
        times = [self.clips.times_s(self.row(clip), clip.length) for clip in question.clips]
        return {
            "fps": [mean_rate(t) for t in times],
            "times": [None if is_even(t) else t.round(4).tolist() for t in times],
        }

    def progress(self, rater: str) -> dict[str, int]:
        """How many answers of this rater stand, and how many questions still want one."""
        return {"done": progress.count_answered(self.store, rater, self.dataset), "left": self._count_open()}

    def _count_open(self) -> int:
        """How many questions are open; where that takes long to count, as it was up to some seconds ago."""
        now = time.monotonic()
        if now >= self.recount_at:
            self.open = progress.count_open(self.store, self.dataset)
            took = time.monotonic() - now
            self.recount_at = time.monotonic() + (20 * took if took > SLOW_S else 0.0)
        return self.open

    def _practice(self, rater: str) -> tuple[dict[str, Any], bool]:
        """What a rater may be asked, and whether to begin again: practice comes first, until enough of it is right."""
        if rater in self.passed:
            return {}, False
        asked, found = progress.practice(self.store, rater, self.dataset)
        if len(found) < asked:
            return {"purpose": "practice"}, False
        if sum(is_right for _, is_right in found.values()) >= self.pass_mark * asked:
            self.passed.add(rater)
            return {}, False
        retractions = [
            Answer(uuid4().hex, question, rater, kind="retract", supersedes=uid) for question, (uid, _) in found.items()
        ]
        self.store.append(retractions)
        return {"purpose": "practice"}, True


def mean_rate(times_s: np.ndarray) -> float:
    """Frames a second, of the times of frames and the end [L + 1]."""
    return round(float((len(times_s) - 1) / times_s[-1]), 4)


def is_even(times_s: np.ndarray) -> bool:
    """Whether a player finds each frame by the mean rate alone: none is off by a quarter of a frame."""
    even = np.linspace(0, times_s[-1], len(times_s))
    return bool(np.abs(times_s - even).max() <= 0.25 * times_s[-1] / (len(times_s) - 1))


def first_rows(table: Table) -> dict[str, int]:
    """The first row of each episode of a table, by its id."""
    return dict(zip(table.ids, map(int, table.first), strict=True))


def as_json(one: Leased, rater: str) -> dict[str, Any]:
    """A question as the page reads it."""
    question = one.question
    return {
        "question": one.id,
        "kind": question.kind,
        "purpose": "practice" if question.purpose == "practice" else None,
        "clips": [f"/media/{clip_id(clip)}.mp4" for clip in question.clips],
        "order": order(one, rater),
        "words": question.wording or {},
    }


def order(one: Leased, rater: str) -> Sequence[int]:
    """Which clip is shown where: by chance, but the same whenever this rater sees it. An anchor stays first."""
    chance = np.random.default_rng(list(hashlib.sha256(f"{one.id} {rater}".encode()).digest()))
    fixed = 1 if one.question.kind == "triplet" else 0
    return [*range(fixed), *(int(i) + fixed for i in chance.permutation(len(one.question.clips) - fixed))]


def hash_token(token: str) -> str:
    """So that tokens are compared without telling by the time it takes how much of one was right."""
    return hashlib.sha256(token.encode()).hexdigest()
