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
        """The event's number, once it is on the disk. The future raises Refused, or UserError if the database fails."""
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
        try:
            results = self.store.append_each([answer for answer, _ in jobs])
        except Exception as error:  # nothing was kept, and this thread must go on
            reason = error if isinstance(error, UserError) else UserError(f"answers were not kept ({error!r})")
            results = [reason] * len(jobs)
        for (_, future), result in zip(jobs, results, strict=True):
            if isinstance(result, (Refused, UserError)):
                future.set_exception(result)
            else:
                future.set_result(result)
