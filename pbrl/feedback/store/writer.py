"""Answers of many raters at once, kept durably: one thread commits whatever has come in since its last commit.

A disk flushes a few hundred times a second; so an answer that waits for a flush of its own waits in a queue, and one
that shares a flush does not.
"""

import queue
import threading
from collections.abc import Sequence
from concurrent.futures import Future
from types import TracebackType

from pbrl.feedback.store.answers import Answer, Refused
from pbrl.feedback.store.database import Unstorable
from pbrl.feedback.store.store import Store
from pbrl.types import UserError

MOST = 256  # events in one commit


class Writer:
    """Used in a `with`: each answer is kept, or refused, when it ends."""

    def __init__(self, store: Store):
        self.store = store
        self.waiting: queue.SimpleQueue[tuple[Answer, Future[int]] | None] = queue.SimpleQueue()
        self.thread = threading.Thread(target=self._work, name="writer", daemon=True)

    def __enter__(self) -> "Writer":
        self.thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None):
        self.waiting.put(None)
        self.thread.join()

    def append(self, answer: Answer) -> "Future[int]":
        """The event's number, once it is on the disk.

        The future raises Refused (Conflict), or Unavailable if the database fails: then it may be sent again.
        """
        future: Future[int] = Future()
        self.waiting.put((answer, future))
        return future

    def _work(self) -> None:
        while True:
            taken = [self.waiting.get()]
            while len(taken) < MOST and not self.waiting.empty():
                taken.append(self.waiting.get())
            jobs = [job for job in taken if job is not None]
            if jobs:
                self._commit(jobs)
            if len(jobs) < len(taken):
                return

    def _commit(self, jobs: Sequence[tuple[Answer, "Future[int]"]]) -> None:
        results = self._append([answer for answer, _ in jobs])
        for (_, future), result in zip(jobs, results, strict=True):
            if isinstance(result, UserError):
                future.set_exception(result)
            else:
                future.set_result(result)

    def _append(self, answers: Sequence[Answer]) -> list[int | UserError]:
        """The events' numbers, or why they are not kept. Where one fails a commit, the others are kept in halves."""
        try:
            return [*self.store.append_each(answers)]
        except Exception as error:  # this thread must go on
            if isinstance(error, UserError) and not isinstance(error, Unstorable):
                return [error] * len(answers)
            if len(answers) == 1:
                return [Refused(f"the answer cannot be kept ({_reason(error)})")]
        half = len(answers) // 2
        return self._append(answers[:half]) + self._append(answers[half:])


def _reason(error: Exception) -> str:
    """What a driver says of a value, without the address of its database."""
    cause = error.__cause__ if isinstance(error, UserError) and error.__cause__ else error
    lines = str(getattr(cause, "orig", None) or cause).splitlines()
    return lines[0] if lines else type(cause).__name__
