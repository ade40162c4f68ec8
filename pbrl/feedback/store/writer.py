"""Requests of many raters at once, in turns: one thread takes whatever has come in since its last transaction.

A disk flushes a few hundred times a second; so an answer that waits for a flush of its own waits in a queue, and one
that shares a flush does not.
"""

import queue
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from types import TracebackType
from typing import Generic, Self, TypeVar

from pbrl.feedback.store.answers import Answer, Refused
from pbrl.feedback.store.database import Unstorable
from pbrl.feedback.store.store import Store
from pbrl.types import UserError

MOST = 256  # requests in one transaction
Job = TypeVar("Job")
Result = TypeVar("Result")


class Turns(Generic[Job, Result]):
    """Used in a `with`: each job is done when it ends. `work` returns for each job its result or why there is none.

    Each turn gives others `gather_s` seconds to come along.
    """

    def __init__(self, work: Callable[[Sequence[Job]], Sequence[Result | Exception]], name: str, gather_s: float = 0.0):
        self.work, self.gather_s = work, gather_s
        self.waiting: queue.SimpleQueue[tuple[Job, Future[Result]] | None] = queue.SimpleQueue()
        self.thread = threading.Thread(target=self._run, name=name, daemon=True)

    def __enter__(self) -> Self:
        self.thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None):
        self.waiting.put(None)
        self.thread.join()

    def put(self, job: Job) -> "Future[Result]":
        """What comes of the job, once it has had its turn."""
        future: Future[Result] = Future()
        self.waiting.put((job, future))
        return future

    def _run(self) -> None:
        while True:
            taken = [self.waiting.get()]
            time.sleep(self.gather_s)
            while len(taken) < MOST and not self.waiting.empty():
                taken.append(self.waiting.get())
            jobs = [job for job in taken if job is not None]
            if jobs:
                self._do(jobs)
            if len(jobs) < len(taken):
                return

    def _do(self, jobs: Sequence[tuple[Job, "Future[Result]"]]) -> None:
        try:
            results = self.work([job for job, _ in jobs])
        except Exception as error:  # this thread must go on
            results = [error] * len(jobs)
        for (_, future), result in zip(jobs, results, strict=True):
            if isinstance(result, Exception):
                future.set_exception(result)
            else:
                future.set_result(result)


class Writer(Turns[Answer, int]):
    """Used in a `with`: each answer is kept, or refused, when it ends."""

    def __init__(self, store: Store):
        super().__init__(self._append, "writer")
        self.store = store

    def append(self, answer: Answer) -> "Future[int]":
        """The event's number, once it is on the disk.

        The future raises Refused (Conflict), or Unavailable if the database fails: then it may be sent again.
        """
        return self.put(answer)

    def _append(self, answers: Sequence[Answer]) -> list[int | Exception]:
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
