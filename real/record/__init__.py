"""Records episodes of a real robot, as `data=recordings data.path=<folder>` reads them.

    with Recorder("episodes", "panda") as recorder:
        recorder.begin({"policy": "cpl", "instruction": "lift the block"})
        recorder.add(Step(…))               # at every step of the loop; never waits
        recorder.end("success")

`python -m real.record list FOLDER` says what there is; `python -m real.record export FOLDER OUT` makes a ROS 2 bag
(`out.mcap`), a ROS 1 bag (`out.bag`) or a Minari data set (any other name) of it.
"""

import atexit
import json
import multiprocessing
import os
import pickle
import signal
import threading
import time
from pathlib import Path
from typing import Any, NamedTuple

import sim  # noqa: F401  chooses how the writer's process renders
from pbrl.types import UserError
from real.record.journal import Step
from real.record.ring import Ring
from real.record.writer import Status, run

__all__ = ["Recorder", "Step", "Summary"]

SPARE = 1 << 16  # bytes that steps leave free, so that an end gets through where the writer is behind
SMALL = 4096  # bytes
READY_S = 30.0


class Summary(NamedTuple):
    """`episodes` were made whole, aborted ones too; of what was offered `steps` were written and `dropped` not."""

    episodes: int
    steps: int
    dropped: int
    error: str | None


class Recorder:
    """Gives steps to a process that writes them, through `queue_mb` of shared memory. For any thread.

    `keep_s` seconds are what `save_last` can reach back. Episodes that an earlier recorder could not end are ended.
    """

    def __init__(self, folder: Path | str, robot: str, *, keep_s: float = 30.0, queue_mb: float = 128.0):
        context = multiprocessing.get_context("spawn")
        self.ring, self.status = Ring(context, int(queue_mb * 2**20)), Status(context)
        self.lock = threading.Lock()
        self.open = False
        self.index = self.offered = self.dropped = 0  # steps: of this episode; of all; not taken
        self.summary: Summary | None = None
        self.failed: str | None = None
        arguments = (Path(folder).absolute(), robot, keep_s, self.ring, self.status, os.getpid())
        self.process = context.Process(target=run, args=arguments, name="recorder", daemon=False)
        held = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM, signal.SIGHUP})
        try:
            self.process.start()  # blocked signals are inherited: Ctrl-C reaches the writer at no moment
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, held)
        atexit.register(self.close)  # before multiprocessing waits for the process
        until = time.monotonic() + READY_S
        while not self.status.last_active and self.process.is_alive() and time.monotonic() < until:
            time.sleep(0.01)

    @property
    def error(self) -> str | None:
        """What went wrong, in a sentence; None as long as all is well. Reads memory only."""
        if self.failed is None and self.summary is None and self.process.exitcode:
            self.failed = f"the recorder's writer has died (exit code {self.process.exitcode}); start another recorder"
        return self.status.error or self.failed

    def begin(self, about: dict[str, Any]) -> None:
        """Starts an episode; `about` goes into its json: policy, instruction, settings, seed, …"""
        with self.lock:
            self.index, self.open = 0, True
            clock = {"wall_s": time.time(), "monotonic_s": time.monotonic()}
            self._say("begin", {"clock": clock, "about": json.dumps(about, default=str)})

    def add(self, step: Step) -> bool:
        """Takes a step, at the cost of copying it. False where the writer is behind or gone, or no episode is open."""
        with self.lock:
            self.offered += 1
            taken = self.open and self._put("step", (self.index, step), SPARE)
            self.index += 1
            self.dropped += not taken
            return taken

    def end(self, outcome: str) -> None:
        """Ends the episode: success, failure or aborted:<reason>. Raises UserError for anything else."""
        if outcome not in ("success", "failure") and not outcome.startswith("aborted:"):
            raise UserError(f"an episode's outcome is success, failure or aborted:<reason>, not {outcome!r}")
        with self.lock:
            if self.open:
                self.open = False
                self._say("end", (outcome, self.index))

    def save_last(self, seconds: float) -> None:
        """Keeps the last seconds, `keep_s` at most, of this episode or the one just ended, as a clip of its own."""
        with self.lock:
            self._say("save_last", float(seconds))

    def close(self, patience_s: float = 10.0) -> Summary:
        """Waits until all is whole; a writer that does not move for that long is ended, and its journal stays."""
        if self.summary is not None:
            return self.summary
        with self.lock:
            self.open = False
            sent, since = False, time.monotonic()
            while self.process.is_alive():
                sent = sent or self._put("close", "aborted:closed", 0)
                if time.monotonic() > max(since, self.status.last_active) + patience_s:
                    self.failed = f"the recorder's writer did not move for {patience_s:g} s and was ended"
                    self.process.kill()
                self.process.join(0.05)
            error, steps = self.error, self.status.steps
            self.summary = Summary(self.status.episodes, steps, self.offered - steps, error)
        atexit.unregister(self.close)  # not before: an interrupt comes here again on the way out
        return self.summary

    def __enter__(self) -> "Recorder":
        return self

    def __exit__(self, kind: type | None, *_: object) -> None:
        if kind is not None:
            self.end(f"aborted:{kind.__name__}")
        self.close()

    def _say(self, kind: str, value: Any) -> None:
        if not self._put(kind, value, 0) and self.error is None:
            self.failed = f"the recorder's writer was too far behind to {kind.replace('_', ' ')}"

    def _put(self, kind: str, value: Any, spare: int) -> bool:
        if not self.process.is_alive():
            return False
        apart: list[memoryview] = []

        def is_small(buffer: pickle.PickleBuffer) -> bool:
            """Pictures are copied once, straight into the ring; for what is small that takes longer."""
            raw = buffer.raw()
            if raw.nbytes > SMALL:
                apart.append(raw)
            return raw.nbytes <= SMALL

        try:
            return self.ring.put([pickle.dumps((kind, value), protocol=5, buffer_callback=is_small), *apart], spare)
        except Exception as error:  # a control loop does not stop for what cannot be recorded
            self.failed = self.failed or f"a {kind} could not be given to the recorder's writer ({error})"
            return False
