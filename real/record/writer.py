"""The process that writes what a `Recorder` is given. It outlives the recording process, and ends its open episodes.

Steps are appended to the episode's journal as they come; a thread makes episodes of journals meanwhile. Whatever goes
wrong is in `Status.error`, and the writer goes on.
"""

import ctypes
import json
import os
import pickle
import threading
import time
from collections import deque
from collections.abc import Sequence
from multiprocessing.context import SpawnContext
from pathlib import Path
from queue import SimpleQueue
from typing import Any

from real.record.journal import Journal, Row, Step
from real.record.ring import Ring

PARTS = ".part"  # where journals are; the reader looks at no sub-folders
WAIT_S = 0.1


class Status:
    """The writer's status, in shared memory: reading it never waits."""

    def __init__(self, context: SpawnContext):
        self.numbers = context.RawArray(ctypes.c_double, 3)  # when it last moved, steps written, episodes made
        self.sentence = context.RawArray(ctypes.c_char, 1000)

    @property
    def last_active(self) -> float:
        """When the writer last worked (s, `time.monotonic`)."""
        return self.numbers[0]

    @property
    def steps(self) -> int:
        """Steps written."""
        return int(self.numbers[1])

    @property
    def episodes(self) -> int:
        """Episodes finished."""
        return int(self.numbers[2])

    @property
    def error(self) -> str | None:
        """The first error, in a sentence."""
        return self.sentence.value.decode(errors="replace") or None

    def fail(self, sentence: str) -> None:
        """The first error stays: what comes after mostly follows from it."""
        if not self.sentence.value:
            self.sentence.value = sentence.encode()[:999]


def run(folder: Path, robot: str, keep_s: float, ring: Ring, status: Status, parent: int) -> None:
    """The process. SIGINT, SIGTERM and SIGHUP are blocked since before its start: it leaves when its parent does."""
    writer = Writer(folder, robot, keep_s, status)
    while True:
        status.numbers[0] = time.monotonic()
        message = ring.take(WAIT_S)
        if message is None:
            if os.getppid() != parent:
                writer.leave("aborted:killed")
                return
            writer.sync()
            continue
        writer.handle(message)
        del message  # it lies in the ring
        ring.done()
        if writer.left:
            return


class Writer:
    """What is open, and what was."""

    def __init__(self, folder: Path, robot: str, keep_s: float, status: Status):
        self.folder, self.robot, self.keep_s, self.status = folder, robot, keep_s, status
        self.journal: Journal | None = None
        self.about: dict[str, Any] = {}
        self.kept: deque[Row] = deque()  # the last `keep_s` seconds
        self.steps = self.clips = 0  # of this episode
        self.left = False
        self.waiting: SimpleQueue[tuple[Journal, bool] | None] = SimpleQueue()
        self.thread = threading.Thread(target=self._finish)
        self.thread.start()
        try:
            (folder / PARTS).mkdir(parents=True, exist_ok=True)
            for journal in Journal.find_unfinished(folder / PARTS):
                self.waiting.put((journal, False))
        except OSError as error:
            self._fail("nothing is recorded", error)

    def handle(self, message: Sequence[memoryview]) -> None:
        """Carries out a message; an error goes into the status, and the next message is carried out."""
        kind = "step"
        actions = {
            "begin": self.begin,
            "step": self.step,
            "end": self.end,
            "save_last": self.save_last,
            "close": self.leave,
        }
        try:
            kind, value = pickle.loads(message[0], buffers=message[1:])
            actions[kind](value)
        except Exception as error:  # whatever a robot's driver may have put into a step
            lost = {"begin": "an episode is lost", "step": "a step is lost", "save_last": "a clip is lost"}
            self._fail(lost.get(kind, f"it could not {kind} well"), error)

    def _fail(self, what: str, error: Exception | str) -> None:
        detail = "what was recorded before is kept"
        self.status.fail(f"recording to {self.folder}: {what} ({error}); {detail}, in {PARTS} if not yet whole")

    def begin(self, value: dict[str, Any]) -> None:
        """Starts an episode; one that is open was never ended."""
        self.end(("aborted:no_end", 0))
        self.kept.clear()
        self.steps = self.clips = 0
        self.about = {**value, "robot": self.robot, "about": json.loads(value["about"])}
        wall = value["clock"]["wall_s"]
        self.name = time.strftime("%Y%m%d-%H%M%S", time.localtime(wall)) + f"-{int(wall % 1 * 1000):03}"
        (self.folder / PARTS).mkdir(parents=True, exist_ok=True)
        self.journal = Journal.begin(self.folder / PARTS, self.name, self.about)

    def step(self, value: tuple[int, Step]) -> None:
        """Appends a step."""
        if self.journal is None:
            return
        row = Row.of(*value)
        if row.problem:
            self._fail("a picture is lost", row.problem)
        self.kept.append(row)
        while self.kept and self.kept[0].numbers["t_scheduled"] <= row.numbers["t_scheduled"] - self.keep_s:
            self.kept.popleft()
        self.journal.add(row)
        self.steps += 1
        self.status.numbers[1] += 1
        self.journal.sync()

    def end(self, value: tuple[str, int]) -> None:
        """Hands the episode over to be made whole. `value` has the outcome and how many steps were offered."""
        if self.journal is None:
            return
        journal, self.journal = self.journal, None
        outcome, offered = value
        try:
            journal.end(outcome, max(0, offered - self.steps))
        finally:
            self.waiting.put((journal, True))

    def save_last(self, seconds: float) -> None:
        """Hands the last seconds over, from memory, as a clip of its own; the episode goes on."""
        if not self.kept:
            return
        self.clips += 1
        since = self.kept[-1].numbers["t_scheduled"] - seconds
        about = {**self.about, "clip_of": self.name}
        clip = Journal.begin(self.folder / PARTS, f"{self.name}-clip{self.clips}", about)
        try:
            for row in self.kept:
                if row.numbers["t_scheduled"] > since:
                    clip.add(row)
            clip.end("clip", 0)
        finally:
            self.waiting.put((clip, False))

    def sync(self) -> None:
        """Between steps."""
        if self.journal is not None:
            try:
                self.journal.sync()
            except OSError as error:
                self._fail("a step may be lost", error)

    def leave(self, outcome: str) -> None:
        """Ends what is open, and waits until all is whole."""
        self.left = True
        try:
            self.end((outcome, self.steps))
        except OSError as error:
            self._fail("an outcome is lost", error)
        self.waiting.put(None)
        while self.thread.is_alive():
            self.status.numbers[0] = time.monotonic()
            self.thread.join(WAIT_S)

    def _finish(self) -> None:
        """The thread: makes episodes of journals, one by one. What fails stays for the next recorder."""
        os.nice(10)  # on Linux this thread alone: the robot comes first
        while (job := self.waiting.get()) is not None:
            journal, counts = job
            try:
                from real.record.finish import finish  # it takes seconds, in which steps are written already

                finish(journal.folder, self.folder)
                self.status.numbers[2] += counts
            except Exception as error:
                self._fail(f"{journal.folder.name} could not be made whole yet, the next recorder will", error)
            finally:
                journal.release()
