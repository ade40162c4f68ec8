"""The controller in a process of its own: no late or dead policy keeps it from watching.

The policy's process writes into a pipe that is read every cycle; reports go the other way through a page of shared
memory, so that no reader makes the controller wait. When the pipe breaks, the policy's process is gone: the arm stops.
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
from real.control import Chunk, Controller, Report, Schedule
from real.drivers import make_driver
from real.robot import Robot, StateError
from real.safety import SafetyFilter, SafetySettings
from robots import arm as arms
from robots.actions import ActionMapping

PAGE = 16_384  # bytes
STATE_S = 3.0
HEAD = struct.Struct("<QQ")  # how often it was written, twice that and one more while it is; bytes


class SharedReport:
    """The newest report, in memory [PAGE] that processes share, for any of them to read without a lock."""

    def __init__(self, memory: Any):
        self.view, self.written = memoryview(memory).cast("B"), 0

    def write(self, report: Report) -> None:
        """Replaces the report; readers see the old one or the new one whole."""
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
        self.shared = SharedReport(memory)
        self.pipe, theirs = context.Pipe()
        args = (robot, control, hz, safety, timeout_s, theirs, memory)
        self.process = context.Process(target=run, args=args, name="control")
        self.process.start()
        theirs.close()
        atexit.register(self.close)  # before multiprocessing waits for the process, which waits for us
        try:
            problem = self.pipe.recv()
        except EOFError:
            problem = "the control process ended before it began: see above"
        if problem is not None:
            self.close()
            raise UserError(problem)

    @property
    def is_alive(self) -> bool:
        """Whether the process runs."""
        return self.process.is_alive()

    def report(self) -> Report:
        """The newest report."""
        report = self.shared.read()
        assert report is not None
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
        """Brakes, and stops the arm's controller."""
        self._send("stop")

    def wait(self, *phases: str, timeout_s: float) -> Report:
        """The first report in one of the phases, or the last one in time."""
        end = time.monotonic() + timeout_s
        while self.report().phase not in phases and time.monotonic() < end and self.is_alive:
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
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the policy's process gets it, and stops this one in order
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
        pipe.send(str(error))
        if driver is not None:
            driver.close()
        return
    schedule = Schedule(driver.spec.command_hz)
    shared.write(controller.cycle(time.monotonic()))
    pipe.send(None)
    gone = False
    while not (gone and controller.phase in ("idle", "fault") and controller.job is None):
        schedule.wait()
        try:
            while not gone and pipe.poll():
                handle(controller, pipe.recv())
        except (EOFError, OSError):
            gone = True
            controller.stop("policy_gone", "the policy's process is gone")
        report = controller.cycle(time.monotonic())
        report.count["missed_cycles"] = schedule.missed
        shared.write(report)
    driver.close()


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
