"""The controller in a process of its own: no late or dead policy keeps it from watching.

The policy's process writes into a pipe that is read every cycle; reports go the other way through shared memory, so
that no reader makes the controller wait. When the pipe breaks, the policy's process is gone: the arm stops. What a
terminal sends to all processes (Ctrl-C, a hang-up, Ctrl-Z) is for the policy's process, which stops this one in order;
SIGTERM brakes, switches the arm's controller off and ends.
"""

import atexit
import contextlib
import os
import pickle
import signal
import struct
import time
import zlib
from multiprocessing import get_context
from multiprocessing.connection import Connection
from typing import Any

import numpy as np

from pbrl.types import UserError
from real.control import Chunk, Controller, Report, Schedule
from real.drivers import make_driver
from real.robot import Robot, StateError
from real.safety import SafetyFilter, SafetySettings
from robots import arm as arms
from robots.actions import ActionMapping

STATE_S = 3.0
SLOT = 65_536  # bytes for a report
PAGE = 8 + 2 * SLOT
HEAD = struct.Struct("<QQ")  # of a slot: bytes of the report, and their checksum
READ_S = 0.05  # the longest that a reader tries again
LONGEST_DETAIL = 1000  # letters
SILENT_S = 1.0  # without a report: the process hangs
ANSWER_S = 0.5  # within which the process does as it is told
LONGEST_STOP_S = 10.0
FROM_TERMINAL = (signal.SIGINT, signal.SIGHUP, signal.SIGQUIT, signal.SIGTSTP)


class SharedReport:
    """The newest report, in memory [PAGE] that processes share, for any of them to read without a lock.

    Reports go into two slots in turn, and their number, one store of 8 bytes, says last which is whole. A reader that
    was overtaken by two reports finds another checksum, and reads again. A writer killed in the middle leaves the
    report before whole.
    """

    def __init__(self, memory: Any):
        view = memoryview(memory).cast("B")
        self.number = view[:8].cast("Q")  # of reports written
        self.slots = view[8 : 8 + SLOT], view[8 + SLOT :]
        self.newest: Report | None = None  # that was read

    def write(self, report: Report) -> None:
        """Replaces the report; readers see the old one or the new one whole."""
        data = pickle.dumps(report._replace(detail=report.detail[:LONGEST_DETAIL]))
        number = self.number[0] + 1
        slot = self.slots[number % 2]
        HEAD.pack_into(slot, 0, len(data), zlib.crc32(data))
        slot[HEAD.size : HEAD.size + len(data)] = data
        self.number[0] = number

    def read(self) -> Report | None:
        """The newest report that is whole; None before the first one. Returns within READ_S."""
        end = time.monotonic() + READ_S
        while self.number[0]:
            slot = self.slots[self.number[0] % 2]
            size, checksum = HEAD.unpack_from(slot, 0)
            data = bytes(slot[HEAD.size : HEAD.size + size])
            if data and zlib.crc32(data) == checksum:
                self.newest = pickle.loads(data)
                break
            if time.monotonic() > end:
                break
        return self.newest


class Control:
    """The process's handle: `report()`, `give(chunk)`, `start()`, `stop()`, and `close()` which stops it first."""

    def __init__(self, robot: dict[str, Any], control: str, hz: float, safety: dict[str, Any], timeout_s: float = 10):
        context = get_context("spawn")
        memory = context.RawArray("B", PAGE)
        self.shared = SharedReport(memory)
        self.pipe, theirs = context.Pipe()
        args = (robot, control, hz, safety, timeout_s, theirs, memory)
        self.process = context.Process(target=run, args=args, name="control")
        held = signal.pthread_sigmask(signal.SIG_BLOCK, {*FROM_TERMINAL, signal.SIGTERM})
        try:
            self.process.start()  # blocked signals are inherited: see `take_signals`
            atexit.register(self.close)  # before multiprocessing waits for the process, which waits for us
            theirs.close()
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, held)
        problem = "the control process was not waited for"
        try:
            problem = self.pipe.recv()
        except (EOFError, ConnectionError):
            problem = "the control process ended before it began: see above"
        finally:
            if problem is not None:
                self.close()
        if problem is not None:
            raise UserError(problem)

    @property
    def is_alive(self) -> bool:
        """Whether the process runs."""
        return self.process.is_alive()

    @property
    def is_silent(self) -> bool:
        """Whether the process hangs: it runs, and has not reported for SILENT_S."""
        return self.is_alive and time.monotonic() - self.report().t > SILENT_S

    def report(self) -> Report:
        """The newest report. Raises UserError where there is none."""
        report = self.shared.read()
        if report is None:
            raise UserError("the control process has not reported: start again")
        return report

    def give(self, chunk: Chunk) -> None:
        """Hands over a policy's newest actions."""
        self._send("give", chunk)

    def start(self, timeout_s: float = 3.0) -> Report:
        """Arms the arm, unless it moves already: see `Controller.start`. Returns whether it does."""
        report = self.report()
        if report.phase == "moving":
            return report
        self._send("start")
        end, before = time.monotonic() + timeout_s, report.count.get("started", 0)
        while self.report().count.get("started", 0) == before and time.monotonic() < end and self.is_alive:
            time.sleep(0.002)
        return self.wait("moving", "fault", timeout_s=timeout_s)

    def go(self, q: np.ndarray) -> None:
        """Moves to joint positions [J] rad, as far as the filter lets it."""
        self._send("go", q)

    def stop(self) -> None:
        """Brakes as the arm was last commanded to, and then stops its controller. Returns at once."""
        self._send("stop")

    def wait_until_off(self) -> Report:
        """After `stop`: the report when the arm's controller is off, or the last one where that fails or takes too
        long."""
        begun = time.monotonic()
        while self.is_alive:
            report, now = self.report(), time.monotonic()
            has_stopped = report.phase in ("idle", "fault")
            if has_stopped and report.controller != "switching" or now > begun + LONGEST_STOP_S:
                break
            if not has_stopped and now > max(begun, report.rests) + ANSWER_S:
                break
            time.sleep(0.005)
        return self.report()

    def kill(self) -> None:
        """Ends a process that hangs, so that it sends nothing when it goes on."""
        self.process.kill()
        self.process.join()

    def wait(self, *phases: str, timeout_s: float) -> Report:
        """The first report in one of the phases, or the last one in time."""
        end = time.monotonic() + timeout_s
        while self.report().phase not in phases and time.monotonic() < end and self.is_alive:
            time.sleep(0.005)
        return self.report()

    def close(self) -> None:
        """Ends the process; an arm that moves is stopped first."""
        self.pipe.close()
        self.process.join(timeout=LONGEST_STOP_S)
        if self.process.is_alive():
            self.kill()
        atexit.unregister(self.close)  # not before: an interrupt comes here again on the way out

    def _send(self, *message: Any) -> None:
        with contextlib.suppress(OSError):  # it is gone: see `is_alive`
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
    """The process. Sends None through the pipe when it is ready, or a sentence why it cannot be."""
    asked_to_end = take_signals()
    with contextlib.suppress(OSError):
        os.nice(-10)
    shared, driver = SharedReport(memory), None
    try:
        arm = arms.load(robot["robot"])
        limits = SafetySettings(**safety)
        driver = make_driver(arm, robot, limits)
        driver.connect(timeout_s)
        wait_for_state(driver, STATE_S)
        controller = Controller(driver, ActionMapping(arm, control, hz), SafetyFilter(arm, limits))
    except (UserError, TypeError) as error:
        with contextlib.suppress(OSError):
            pipe.send(str(error))
        if driver is not None:
            driver.close()
        return
    schedule = Schedule(driver.spec.command_hz)
    shared.write(controller.cycle(time.monotonic()))
    gone = False
    with contextlib.suppress(OSError):
        pipe.send(None)
    while not (gone and controller.phase in ("idle", "fault") and controller.job is None):
        schedule.wait()
        try:
            while not gone and pipe.poll():
                handle(controller, pipe.recv())
        except (EOFError, OSError):
            gone = True
            controller.stop("policy_gone", "the policy's process is gone")
        if asked_to_end and not gone:
            gone = True
            controller.stop("stopped", "the control process was asked to end (SIGTERM)")
        report = controller.cycle(time.monotonic())
        report.count["missed_cycles"] = schedule.missed
        shared.write(report)
    driver.close()


def take_signals() -> list[int]:
    """Leaves what a terminal sends to the policy's process; SIGTERM goes into the list that is returned."""
    asked: list[int] = []
    for number in FROM_TERMINAL:
        signal.signal(number, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda number, _: asked.append(number))
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {*FROM_TERMINAL, signal.SIGTERM})
    return asked


def wait_for_state(robot: Robot, timeout_s: float) -> None:
    """Waits until every topic has had a message. Raises UserError."""
    end = time.monotonic() + timeout_s
    while True:
        try:
            robot.observe()
            return
        except StateError as error:
            if error.fault != "no_state":
                return  # the controller will say what is wrong with it
            if time.monotonic() > end:
                raise UserError(
                    f"{error}: is the robot's driver running, and is the topic's name right in configs/robot?"
                ) from error
        time.sleep(0.01)


def handle(controller: Controller, message: tuple[Any, ...]) -> None:
    """Carries out a message of `Control`."""
    if message[0] == "give":
        controller.give(message[1])
    elif message[0] == "go":
        controller.go(message[1])
    elif message[0] == "start":
        controller.start(time.monotonic())
    elif message[0] == "stop":
        controller.stop()
