"""A deployment from its settings to its exit status: preflight, episodes, and how the arm is stopped at the end."""

import contextlib
import statistics
import time
from collections import Counter
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from omegaconf import OmegaConf

from pbrl.ranges import check_values, hints
from pbrl.types import UserError
from real import preflight
from real.agent import Agent, read_env
from real.cameras import Cameras
from real.control import FAULTS, Schedule
from real.drivers import make_driver
from real.ending import StopSignal, StopSignals, write
from real.keys import STOPS, Keys
from real.process import Control
from real.record import Recorder
from real.robot import Motion, Robot, StateError
from real.safety import SafetyFilter, SafetySettings
from real.session import Session
from real.settings import CONFIGS, Deploy, load_robot_settings
from real.takeover import TakeOver

if TYPE_CHECKING:
    from real.mock.process import MockProcess

CONNECT_S = 5.0
RESET_S = 0.3  # until states from before a reset of the mock are gone


def read_settings(given: list[str]) -> dict[str, Any]:
    """configs/deploy.yaml with `given` key=value. Raises OmegaConfBaseException for one that there is not."""
    defaults: Any = OmegaConf.load(CONFIGS / "deploy.yaml")
    OmegaConf.set_struct(defaults, True)
    OmegaConf.set_struct(defaults["safety"], False)
    merged: Any = OmegaConf.to_container(
        OmegaConf.merge(defaults, OmegaConf.from_dotlist(given)), throw_on_missing=True
    )
    return merged


def deploy(settings: dict[str, Any], mode: str, signals: StopSignals) -> int:
    """Runs a policy; the exit status. `mode`: sim, dry-run or go. `signals` are told when the arm may have moved.

    Raises UserError.
    """
    check_settings(settings, mode)
    folder = settings["policy"]
    robot_settings = load_robot_settings(settings["robot"] or read_env(folder)["robot"])
    agent = Agent(folder, robot_settings["robot"], settings["instruction"])
    robot_settings["objects"], robot_settings["goal"] = agent.objects, agent.needs_goal
    safety = make_filter(agent, settings["safety"])
    with contextlib.ExitStack() as stack:
        mock = stack.enter_context(start_mock(agent, robot_settings)) if mode == "sim" else None
        robot_settings["url"] = settings["url"] or (mock.url if mock is not None else robot_settings["url"])
        robot_settings["transport"] = settings["transport"] or robot_settings.get("transport")
        robot = make_driver(agent.arm, robot_settings, safety.settings)
        stack.callback(robot.close)
        robot.connect(CONNECT_S)
        cameras = None
        if agent.cameras:
            cameras = Cameras(robot_settings, agent.cameras)
            stack.callback(cameras.close)
            cameras.wait(CONNECT_S)
        passed = run_preflight(robot, cameras, sends=mode != "dry-run")
        steps = settings["steps"] or agent.env["horizon"]
        if mode == "dry-run":
            dry_run(agent, robot, cameras, safety, steps)
            return 0 if passed else FAULTS["refused"]
        if not passed:
            raise UserError("the arm is not moved before all of that is in order")
        if robot.spec.is_exclusive:
            robot.close()  # from here on the controller's process has the arm
        recorder = None
        if settings["record"]:
            recorder = stack.enter_context(Recorder(Path(settings["record"]), agent.arm.name))
        control = Control(robot_settings, agent.env["control"], agent.hz, settings["safety"])
        stack.callback(control.close)  # the first to be closed: the arm does not wait for files
        keys = stack.enter_context(Keys())
        takeover = TakeOver(settings["takeover_speed"]) if agent.env["control"] == "cartesian" else None
        session = Session(agent, control, robot, cameras, recorder, keys, settings["keep_s"], takeover)
        signals.has_moved = True
        stack.callback(stop, session, signals)  # whatever it was that ended it
        return run_episodes(session, settings, steps, mock)


def stop(session: Session, signals: StopSignals) -> None:
    """Stops the arm, and says what it does now."""
    signals.hold()
    sentence = session.stop()
    with contextlib.suppress(StopSignal):
        write(f"\n{sentence}")


def check_settings(settings: dict[str, Any], mode: str) -> None:
    """Raises UserError for numbers that are none, and for a folder that cannot be written."""
    check_values(settings, hints(Deploy))
    numbers = {name: hint for name, hint in hints(SafetySettings).items() if hint is float}
    check_values(settings["safety"], numbers, "safety.")
    if settings["record"] and mode != "dry-run":
        try:
            Path(settings["record"]).mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"cannot record to {settings['record']} ({error}): choose another folder") from error


def make_filter(agent: Agent, settings: dict[str, Any]) -> SafetyFilter:
    """The safety filter of the agent's arm. Raises UserError for settings that there are not."""
    try:
        return SafetyFilter(agent.arm, SafetySettings(**settings))
    except TypeError as error:
        raise UserError(f"safety: {error}; see real/safety.py") from error


def start_mock(agent: Agent, robot_settings: dict[str, Any]) -> "MockProcess":
    """A mock of the arm in a process of its own. Raises UserError for a robot that is not behind ROS."""
    if robot_settings["driver"] != "ros":
        raise UserError(f"--sim mocks an arm behind ROS, not driver: {robot_settings['driver']}; choose another robot")
    from real.mock.process import MockProcess  # a simulator, which no real arm needs

    return MockProcess(robot=robot_settings["name"], task=agent.env["task"])


def run_preflight(robot: Robot, cameras: Cameras | None, *, sends: bool) -> bool:
    """Prints all checks; whether none has failed."""
    passed = True
    images = () if cameras is None else preflight.check_cameras(cameras)
    for check in chain(images, preflight.checks(robot, sends=sends)):
        write(str(check))
        passed &= check.passed is not False
    return passed


def dry_run(agent: Agent, robot: Robot, cameras: Cameras | None, safety: SafetyFilter, steps: int) -> None:
    """Shows what would be sent: every action, from where the arm stands."""
    schedule, changed, sizes = Schedule(agent.hz), Counter(), []
    for _ in range(steps):
        schedule.wait()
        try:
            state, images = robot.observe(), {} if cameras is None else cameras.images()
        except StateError as error:
            changed[error.fault] += 1
            continue
        _, actions = agent.act(state, images)
        target = agent.actions.joint_targets(state.q, np.clip(actions[0], -1, 1))
        changed.update(safety(target, Motion.at_rest(state.q), 1 / agent.hz, force=state.force).reasons)
        sizes.append(float(np.abs(actions[0]).max()))
    write(f"dry run: {len(sizes)} actions, the largest number of each {statistics.fmean(sizes or [0]):.2f} on average")
    for reason, n in changed.most_common() or [("nothing", 0)]:
        write(
            f"  the safety filter would change {n:4} for {reason}" if n else "  the safety filter would change nothing"
        )


def run_episodes(session: Session, settings: dict[str, Any], steps: int, mock: "MockProcess | None") -> int:
    """Runs all episodes up to the first fault; the exit status."""
    outcomes: Counter[str] = Counter()
    for i in range(settings["episodes"]):
        seed = settings["seed"] + i
        refused = prepare(session, i, seed, home=settings["home"], mock=mock)
        if refused.startswith("aborted:"):
            outcomes[refused] += 1
            write(describe_episode(session, i, refused))
        if refused:
            break
        about = {
            "policy": str(session.agent.folder),
            "task": session.agent.env["task"],
            **({"instruction": session.agent.instruction} if session.agent.instruction else {}),
            "seed": seed,
            "safety": settings["safety"],
            "simulated": mock is not None,
        }
        is_success = None if mock is None else lambda mock=mock: bool(mock.request()["reached"])
        outcome = session.run_episode(about, steps, is_success)
        outcomes[outcome] += 1
        write(describe_episode(session, i, outcome))
        if outcome.startswith("aborted:"):
            break
    print_summary(session, outcomes)
    fault = next((o.removeprefix("aborted:") for o in outcomes if o.startswith("aborted:")), "stopped")
    return 0 if fault == "stopped" else FAULTS.get(fault, 1)


def describe_episode(session: Session, episode: int, outcome: str) -> str:
    """An episode's outcome in a line, with what the controller says of a fault."""
    detail = session.control.report().detail if session.control.is_alive else ""
    return f"\repisode {episode + 1}: {outcome}" + (f" · {detail}" if detail else "")


def prepare(session: Session, episode: int, seed: int, *, home: bool, mock: "MockProcess | None") -> str:
    """Brings arm and scene to an episode's start; the outcome where a person, or a fault, keeps it from that: `ended`
    where a key does so before it."""
    if mock is not None:
        session.stop()
        mock.request(reset=seed)
        time.sleep(RESET_S)
        return ""
    outcome = session.go_home() if home else ""
    if outcome or not session.keys.is_terminal:
        return outcome
    session.keys.forget()
    write(f"episode {episode + 1}: set the scene, then any key; space or q ends")
    return "ended" if session.keys.wait() in STOPS else ""


def print_summary(session: Session, outcomes: Counter[str]) -> None:
    """Prints outcomes, timing and what the safety filter changed."""
    write("outcomes: " + ", ".join(f"{n} {outcome}" for outcome, n in outcomes.items()))
    write(f"timing:   {session.timing()}")
    if session.control.is_alive:
        counted = {reason: n for reason, n in sorted(session.control.report().count.items()) if n}
        write("safety:   " + (", ".join(f"{n} {reason}" for reason, n in counted.items()) or "nothing changed"))
