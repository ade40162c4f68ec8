"""The controller in a process of its own: no late or dead policy keeps it from its watch.

The policy's process writes into a pipe that is read every cycle; what is to be known goes the other way through a page
of shared memory, so that nobody can make the controller wait. When the pipe breaks, its owner is gone: the arm stops.
"""

import atexit
import contextlib
import os
import pickle
import signal
import struct
import time
from multiprocessing import get_context
from multiprocessing.connection import Connection
from typing import Any

import numpy as np

from pbrl.types import UserError
from real.control import Arm, Chunk, Controller, Report, Schedule
from real.driver import BadState, connect
from real.safety import Filter, Settings
from robots import arm as arms
from robots.terms import Terms

PAGE = 16_384  # bytes
HEAR_S = 3.0
HEAD = struct.Struct("<QQ")  # how often it was written, twice that and one more while it is; bytes


class Board:
    """The newest report, in memory [PAGE] that processes share, for any of them to read without a lock."""

    def __init__(self, memory: Any):
        self.view, self.written = memoryview(memory).cast("B"), 0

    def write(self, report: Report) -> None:
        data = pickle.dumps(report)
        HEAD.pack_into(self.view, 0, 2 * self.written + 1, len(data))
        self.view[HEAD.size : HEAD.size + len(data)] = data
        self.written += 1
        HEAD.pack_into(self.view, 0, 2 * self.written, len(data))

    def read(self) -> Report | None:
        """None before the first one."""
        while True:
            before, size = HEAD.unpack_from(self.view, 0)
            data = bytes(self.view[HEAD.size : HEAD.size + size])
            if HEAD.unpack_from(self.view, 0)[0] == before and before % 2 == 0:
                return pickle.loads(data) if before else None


class Control:
    """The process's handle: `report()`, `give(chunk)`, `start()`, `stop()`, and `close()` which stops it first."""

    def __init__(self, robot: dict[str, Any], control: str, hz: float, safety: dict[str, Any], timeout_s: float = 10):
        context = get_context("spawn")
        memory = context.RawArray("B", PAGE)
        self.board = Board(memory)
        self.pipe, theirs = context.Pipe()
        args = (robot, control, hz, safety, timeout_s, theirs, memory)
        self.process = context.Process(target=run, args=args, name="control")
        self.process.start()
        theirs.close()
        atexit.register(self.close)  # before multiprocessing waits for the process, which waits for us
        try:
            said = self.pipe.recv()
        except EOFError:
            said = "the control process ended before it began: see above"
        if said is not None:
            self.close()
            raise UserError(said)

    @property
    def alive(self) -> bool:
        return self.process.is_alive()

    def report(self) -> Report:
        report = self.board.read()
        assert report is not None
        return report

    def give(self, chunk: Chunk) -> None:
        self._tell("give", chunk)

    def start(self, timeout_s: float = 3.0) -> Report:
        """Arms the arm, unless it moves already: see `Controller.start`. Returns whether it does."""
        report = self.report()
        if report.phase == "moving":
            return report
        self._tell("start")
        end, before = time.monotonic() + timeout_s, report.count.get("started", 0)
        while self.report().count.get("started", 0) == before and time.monotonic() < end and self.alive:
            time.sleep(0.002)
        return self.wait("moving", "fault", timeout_s=timeout_s)

    def go(self, q: np.ndarray) -> None:
        """Moves to joint positions [7] rad, as far as the filter lets it."""
        self._tell("go", q)

    def stop(self) -> None:
        self._tell("stop")

    def wait(self, *phases: str, timeout_s: float) -> Report:
        """The first report in one of the phases, or the last one in time."""
        end = time.monotonic() + timeout_s
        while self.report().phase not in phases and time.monotonic() < end and self.alive:
            time.sleep(0.005)
        return self.report()

    def close(self) -> None:
        """Ends the process; an arm that moves is stopped first."""
        atexit.unregister(self.close)
        self.pipe.close()
        self.process.join(timeout=5)
        if self.process.is_alive():
            self.process.kill()
            self.process.join()

    def _tell(self, *message: Any) -> None:
        with contextlib.suppress(OSError):  # it is gone: `alive` says so
            self.pipe.send(message)


def run(
    robot: dict[str, Any],
    control: str,
    hz: float,
    safety: dict[str, Any],
    timeout_s: float,
    pipe: Connection,
    memory: Any,
) -> None:
    """The process. Says None into the pipe when it is ready, or a sentence why it cannot be."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the policy's process hears it, and stops us in order
    with contextlib.suppress(OSError):
        os.nice(-10)
    board, driver = Board(memory), None
    try:
        arm = arms.load(robot["robot"])
        safe = Settings(**safety)
        driver = connect(arm, robot, safe)
        driver.wait(timeout_s)
        hear(driver, HEAR_S)
        controller = Controller(driver, Terms(arm, control, hz), Filter(arm, safe))
    except (UserError, TypeError) as error:
        pipe.send(str(error))
        if driver is not None:
            driver.close()
        return
    schedule = Schedule(robot["command_hz"])
    board.write(controller.cycle(time.monotonic()))
    pipe.send(None)
    gone = False
    while not (gone and controller.phase in ("idle", "fault") and controller.job is None):
        schedule.wait()
        try:
            while not gone and pipe.poll():
                obey(controller, pipe.recv())
        except (EOFError, OSError):
            gone = True
            controller.stop("policy_gone", "the process that decides is gone")
        report = controller.cycle(time.monotonic())
        report.count["missed_cycles"] = schedule.missed
        board.write(report)
    driver.close()


def hear(driver: Arm, timeout_s: float) -> None:
    """Waits until every topic has spoken. Raises UserError."""
    end = time.monotonic() + timeout_s
    while True:
        try:
            driver.state()
            return
        except BadState as error:
            if error.word != "no_state":
                return  # the controller will say what is wrong with it
            if time.monotonic() > end:
                raise UserError(
                    f"{error}: is the robot's driver running, and is the topic's name right in configs/robot?"
                ) from error
        time.sleep(0.01)


def obey(controller: Controller, message: tuple[Any, ...]) -> None:
    """Does what a message of `Control` says."""
    if message[0] == "give":
        controller.give(message[1])
    elif message[0] == "go":
        controller.go(message[1])
    elif message[0] == "start":
        controller.start(time.monotonic())
    elif message[0] == "stop":
        controller.stop()
