"""What people work on at the page: the questions about one data set, and how far each rater has come."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any
from uuid import uuid4

import numpy as np

from pbrl.data.table import Table
from pbrl.feedback.page.access import Access
from pbrl.feedback.page.clips import Clips
from pbrl.feedback.page.limits import Rates
from pbrl.feedback.questions import Question, clip_id
from pbrl.feedback.store.answers import Answer
from pbrl.feedback.store.identity import store_id
from pbrl.feedback.store.leases import Handed, Wish, lease_each, was_handed_out
from pbrl.feedback.store.progress import Progress, find_practice
from pbrl.feedback.store.store import Store
from pbrl.types import Clip


@dataclass
class Project:
    """Questions about one data set, for the raters of one page."""

    store: Store
    clips: Clips
    dataset: str  # registered with the store
    first_rows: Mapping[str, int]  # of each episode, by its id
    instructions: str
    raters: Mapping[str, str] = field(default_factory=dict)  # token → name; none: `me` alone, at this machine
    me: str = "me"  # the rater who runs the project
    pass_mark: float = 0.8  # share of practice questions to get right before others are shown
    needs_link: bool = False  # though no token is given here: the store knows those of before
    has_practice: bool = True  # whether the right answers of practice questions are known
    tasks: Mapping[str, str] = field(default_factory=dict)  # what an episode's robot was told to do, by its id
    answers_per_s: float | None = None  # that one rater may send for long; None: as many as the disk takes
    questions: dict[str, Question] = field(default_factory=dict)  # that were shown
    practiced: set[str] = field(default_factory=set)  # raters who need no more practice
    handed_out: set[tuple[str, str]] = field(default_factory=set)  # (rater, question)

    def __post_init__(self) -> None:
        self.id = store_id(self.store)
        self.access = Access(self.store, self.raters, self.me, needs_link=self.needs_link)
        self.rates = Rates(self.answers_per_s)
        self.at = Progress(self.store, self.dataset)
        self.practice: set[str] = set()  # questions, as they were last looked up

    # Questions

    def next(self, rater: str, n: int) -> dict[str, Any]:
        """Up to n questions for a rater, whose clips begin to be made, as JSON."""
        (found,) = self.next_each([(rater, n)])
        if isinstance(found, Exception):
            raise found
        return found

    def next_each(self, wishes: Sequence[tuple[str, int]]) -> list[dict[str, Any] | Exception]:
        """The same for many raters, whose leases share a transaction."""
        most: dict[str, int] = {}
        for rater, n in wishes:
            most[rater] = max(n, most.get(rater, 0))
        self.at.catch_up()
        again = {rater: self._repeat_practice(rater) for rater in most}
        handed = lease_each(self.store, [self._wish(rater, n) for rater, n in most.items()], known=self.questions)
        found = {rater: self._show(rater, one, again[rater]) for rater, one in zip(most, handed, strict=True)}
        return [found[rater] for rater, _ in wishes]

    def _wish(self, rater: str, n: int) -> Wish:
        """Practice before anything else, and none once it is over."""
        if rater in self.practiced:
            return Wish(rater, n, {"dataset": self.dataset}, but_purpose="practice")
        return Wish(rater, n, {"dataset": self.dataset, "purpose": "practice"})

    def _show(self, rater: str, handed: Handed, again: bool) -> dict[str, Any] | Exception:
        try:
            for one in handed.leased:
                self.questions[one.id] = one.question
                self.handed_out.add((rater, one.id))
                for name, clip in zip(clip_ids(one.question), one.question.clips, strict=True):
                    self.clips.get(name, self.row(clip), clip.length)
        except Exception as error:  # one rater's trouble is no other's
            return error
        left = self.at.count_left(rater, handed if rater in self.practiced else None)
        shown = [self.describe(one.id, one.question, rater) for one in handed.leased]
        return {"questions": shown, "again": again, **self.progress(rater, left)}

    def question(self, name: str) -> Question | None:
        """The question with this id, if there is one."""
        if name not in self.questions:
            self.questions.update(self.store.questions([name]))
        return self.questions.get(name)

    def was_handed_out(self, rater: str, question: str) -> bool:
        """Whether the rater was asked the question, by whichever server, however long ago."""
        if (rater, question) not in self.handed_out and was_handed_out(self.store, rater, question):
            self.handed_out.add((rater, question))
        return (rater, question) in self.handed_out

    def row(self, clip: Clip) -> int:
        """The row of the data set's table at which a clip begins."""
        return self.first_rows[clip.episode] + clip.first

    def describe(self, name: str, question: Question, rater: str) -> dict[str, Any]:
        """A question as the page reads it, with the clips' instructions; times (s) of frames and the end where the mean
        rate does not tell them."""
        paces = [find_pace(self.clips.times_s(self.row(clip), clip.length).tobytes()) for clip in question.clips]
        return {
            **as_json(name, question, rater),
            "tasks": [self.tasks.get(clip.episode, "") for clip in question.clips],
            "fps": [fps for fps, _ in paces],
            "times": [times for _, times in paces],
        }

    # How far a rater has come

    def about(self, rater: str) -> dict[str, Any]:
        """The progress of a rater who has asked for no question yet."""
        self.at.catch_up()
        self._repeat_practice(rater, only_look=True)
        return self.progress(rater, self.at.count_left(rater))

    def progress(self, rater: str, left: int) -> dict[str, Any]:
        """How many answers of this rater stand, how many questions are left, and how practice goes."""
        record, practice = self.at.records[rater], None
        if rater not in self.practiced:
            right = sum(is_right for _, is_right in record.practice.values())
            asked = len(self.practice - record.passed)
            practice = {"asked": asked, "answered": len(record.practice), "right": right}
        own = {"rater": rater, "project": self.id, "done": record.done, "left": left}
        return {**own, "practice": practice}

    def _repeat_practice(self, rater: str, *, only_look: bool = False) -> bool:
        """Whether practice begins again. It comes first, until enough of it is right or all of it was passed on."""
        record = self.at.records[rater]
        if rater in self.practiced:
            return False
        if self.has_practice:
            self.practice = find_practice(self.store, self.dataset)
        asked = self.practice - record.passed
        found = {question: own for question, own in record.practice.items() if question in asked}
        if len(found) < len(asked):
            return False
        if sum(is_right for _, is_right in found.values()) >= self.pass_mark * len(asked):
            self.practiced.add(rater)
            return False
        if not only_look:
            self.store.append([
                Answer(uuid4().hex, question, rater, kind="retract", supersedes=uid)
                for question, (uid, _) in found.items()
            ])  # fmt: skip
            self.at.catch_up()
        return True

    def skip_practice(self, rater: str) -> dict[str, Any]:
        """Ends a rater's practice; returns the progress."""
        self.about(rater)
        passed = self.at.records[rater].passed
        self.store.append([Answer(uuid4().hex, question, rater, kind="pass") for question in self.practice - passed])
        return self.about(rater)


@lru_cache(10_000)
def find_pace(times_s: bytes) -> tuple[float, list[float] | None]:
    """Frames a second, of the times of frames and the end [L + 1] float64; and these times, where a player would not
    find each frame by the mean rate alone: one is off by a quarter of a frame."""
    times = np.frombuffer(times_s)
    frames = len(times) - 1
    even = np.linspace(0, times[-1], frames + 1)
    is_even = np.abs(times - even).max() <= 0.25 * times[-1] / frames
    return round(float(frames / times[-1]), 4), None if is_even else times.round(4).tolist()


def first_rows(table: Table) -> dict[str, int]:
    """The first row of each episode of a table, by its id."""
    return dict(zip(table.ids, map(int, table.first), strict=True))


def as_json(name: str, question: Question, rater: str) -> dict[str, Any]:
    """A question as the page reads it."""
    return {
        "question": name,
        "kind": question.kind,
        "purpose": "practice" if question.purpose == "practice" else None,
        "clips": [f"/media/{clip}.mp4" for clip in clip_ids(question)],
        "order": order(name, question, rater),
        "words": question.wording or {},
    }


@lru_cache(100_000)
def _id_of(clip: Clip) -> str:
    return clip_id(clip)


def clip_ids(question: Question) -> list[str]:
    """The ids of a question's clips."""
    return [_id_of(clip) for clip in question.clips]


def order(name: str, question: Question, rater: str) -> list[int]:
    """Which clip is shown where: by chance, but the same whenever this rater sees it. An anchor stays first."""
    fixed = 1 if question.kind == "triplet" else 0
    places = range(fixed, len(question.clips))
    return [*range(fixed), *sorted(places, key=lambda i: hashlib.sha256(f"{name} {rater} {i}".encode()).digest())]
