"""`python -m real.deploy policy=<run> robot=panda`: runs a learnt policy on an arm, or on the stand-in with --sim.

Without --go nothing is sent: the robot is read, the policy decides, and what the safety filter would change is shown.
Keys: space stops · s success · f failure · k keeps the last seconds · q ends. The exit status names the fault
(real/control.py).
"""

import argparse
import contextlib
import statistics
import sys
import time
from collections import Counter
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from pbrl.data.video import square
from pbrl.models.policy import load_policy
from pbrl.types import Observation, UserError
from real import preflight
from real.cameras import Cameras
from real.control import FAULTS, Chunk, Report, Schedule
from real.driver import BadState, Driver, State, connect
from real.keys import Keys
from real.libfranka import Libfranka
from real.process import Control
from real.record import Recorder, Step
from real.rosbridge import BridgeError
from real.safety import Filter, Motion, Settings
from real.settings import CONFIGS, of_robot
from robots import arm as arms
from robots.terms import OWN, Terms, observed

CONNECT_S, HOME_S, HOME_RAD, START_S = 5.0, 20.0, 0.01, 3.0


class Task:
    """What a run learnt: its policy, and the terms in which it speaks of the arm. Raises UserError."""

    def __init__(self, folder: Path, settings: dict[str, Any]):
        self.folder, self.policy = folder, load_policy(folder)
        try:
            self.env = yaml.safe_load((folder / "config.yaml").read_text())["env"]
        except (OSError, KeyError, TypeError) as error:
            raise UserError(f"{folder} is not the folder of a run ({error})") from error
        if self.env["_target_"] != "sim.franka.Franka":
            raise UserError(f"{folder} learnt on {self.env['_target_']}, not on env=franka/…: it does not fit an arm")
        if self.env["robot"] != settings["robot"]:
            raise UserError(
                f"{folder} learnt on a {self.env['robot']}, and robot={settings['robot']}: their limits differ; train "
                f"with env.robot={settings['robot']}"
            )
        self.arm = arms.load(settings["robot"])
        self.hz = 20.0
        self.terms = Terms(self.arm, self.env["control"], self.hz)
        self.told = self.env.get("state", "full") == "full"  # of objects and goal
        self.objects = (self.policy.spec.obs_dim - OWN - 3) // 7 if self.told else 0
        self.cameras: list[str] = list(self.env.get("images") or [])

    def obs(self, state: State) -> np.ndarray:
        """What the policy is told [O]."""
        full = observed(self.terms.kinematics, state.q, state.dq, state.width, state.objects, state.goal)
        return full if self.told else full[:OWN]

    @torch.no_grad()
    def act(self, state: State, pictures: dict[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
        """The observation [O], and actions [K, A]; `pictures` [H, W, 3] of its cameras."""
        obs = self.obs(state).astype(np.float32)
        size = self.env.get("image_size", 0)
        images = {name: torch.from_numpy(square(pictures[name], size))[None] for name in self.cameras}
        chunk = self.policy.plan(Observation(torch.from_numpy(obs)[None], images))  # [1, K, A]
        return obs, chunk[0].numpy()


class Session:
    """Episodes of one policy on one arm."""

    def __init__(
        self,
        task: Task,
        control: Control,
        driver: Driver | Libfranka,
        cameras: Cameras | None,
        recorder: Recorder | None,
        keys: Keys,
        keep_s: float,
    ):
        self.task, self.control, self.driver, self.recorder, self.keys = task, control, driver, recorder, keys
        self.cameras, self.keep_s = cameras, keep_s
        self.inference_s: list[float] = []
        self.late_s: list[float] = []  # how much later than meant a step began
        self.missed = 0

    def episode(self, about: dict[str, Any], steps: int, judge: Any = None) -> str:
        """One of them: its outcome. `judge()` says in simulation whether it has succeeded."""
        report = self.control.start()
        if report.phase != "moving":
            return f"aborted:{report.fault or 'refused'}"
        self.task.policy.reset()
        if self.recorder is not None:
            self.recorder.begin(about)
        outcome = self._steps(steps, judge)
        if self.recorder is not None:
            self.recorder.end(outcome)
            if self.recorder.error:
                print(f"\nnot recorded: {self.recorder.error}", file=sys.stderr)
        return outcome

    def _steps(self, steps: int, judge: Any) -> str:
        schedule, before, saw = Schedule(self.task.hz), self.control.report(), time.monotonic()
        for t in range(steps):
            planned = schedule.wait()
            begun, report = time.monotonic(), self.control.report()
            self.late_s.append(begun - planned)
            outcome = self._asked(report)
            if outcome:
                return outcome
            if report.state is None:
                continue
            try:
                pictures = self.cameras.pictures() if self.cameras is not None else {}
            except BadState as error:  # nothing is asked for, so the arm brakes and holds
                if self.cameras is not None and begun - saw > 5 * self.cameras.latest_s:
                    self.stop()
                    print(f"\r{error}", file=sys.stderr)
                    return f"aborted:{error.word}"
                continue
            saw = begun
            obs, actions = self.task.act(report.state, pictures)
            inferred = time.monotonic()
            self.inference_s.append(inferred - begun)
            self.control.give(Chunk(begun, actions))
            why = tuple(sorted(k for k, n in report.count.items() if n > before.count.get(k, 0)))
            state, before = report.state, report
            self._record(Step(planned, state.t, inferred, report.t_sent, report.age, obs, actions[0], report.sent,
                              state.q, state.dq, state.width, why, report.phase, pictures))  # fmt: skip
            self._show(t, steps, report, why)
            if judge is not None and t % 5 == 4 and judge():
                self.missed += schedule.missed
                return "success"
        self.missed += schedule.missed
        return "success" if judge is not None and judge() else "failure"

    def home(self) -> None:
        """Moves to the home pose. Raises UserError."""
        if self.control.start().phase != "moving":
            return
        self.control.go(self.task.arm.home)
        end = time.monotonic() + HOME_S
        while np.abs(self.control.report().sent - self.task.arm.home).max() > HOME_RAD:
            if time.monotonic() > end or self.control.report().phase != "moving":
                self.stop()
                raise UserError("the home pose was not reached: the way is blocked; move the arm nearer by hand")
            time.sleep(0.02)

    def stop(self) -> None:
        """Stops the arm over a socket of its own and through the controller; returns when it is at rest."""
        self.control.stop()
        with contextlib.suppress(BridgeError):
            self.driver.stop()
        self.control.wait("idle", "fault", timeout_s=START_S)

    def _asked(self, report: Report) -> str:
        """An outcome, if a person or a fault has one."""
        if not self.control.alive:
            with contextlib.suppress(BridgeError):
                self.driver.stop()
            return "aborted:control_gone"
        if report.phase != "moving":
            return f"aborted:{report.fault}"
        key = self.keys.pressed()
        if key == "k" and self.recorder is not None:
            self.recorder.save_last(self.keep_s)
        if key in (" ", "q"):
            self.stop()
            return "aborted:stopped"
        return {"s": "success", "f": "failure"}.get(key, "")

    def _record(self, step: Step) -> None:
        if self.recorder is not None:
            self.recorder.add(step)

    def _show(self, t: int, steps: int, report: Report, why: tuple[str, ...]) -> None:
        if sys.stderr.isatty():
            words = f"step {t + 1}/{steps}  state {1e3 * report.age:.0f} ms old  {' '.join(why)}"
            print(f"\r{words:100}", end="", file=sys.stderr)

    def cadence(self) -> str:
        """How punctual it was."""
        if len(self.late_s) < 2:
            return "no steps"
        late, inference = np.array(self.late_s) * 1e3, np.array(self.inference_s or [0.0]) * 1e3
        return (
            f"{len(late)} steps, {self.missed} slots missed; begun late by {np.median(late):.1f} ms (median), "
            f"{np.percentile(late, 99):.1f} (p99), {late.max():.1f} (most); inference {np.median(inference):.1f} ms"
        )


def dry(task: Task, driver: Driver | Libfranka, cameras: Cameras | None, safe: Filter, steps: int) -> None:
    """Shows what would be sent: every action asked of the arm where it stands."""
    schedule, changed, sizes = Schedule(task.hz), Counter(), []
    for _ in range(steps):
        schedule.wait()
        try:
            state, pictures = driver.state(), {} if cameras is None else cameras.pictures()
        except BadState as error:
            changed[error.word] += 1
            continue
        _, actions = task.act(state, pictures)
        wish = task.terms.joints(state.q, np.clip(actions[0], -1, 1))
        changed.update(safe(wish, Motion.at_rest(state.q), 1 / task.hz, force=state.force).why)
        sizes.append(float(np.abs(actions[0]).max()))
    print(f"dry run: {len(sizes)} actions, the largest number of each {statistics.fmean(sizes or [0]):.2f} on average")
    for word, n in changed.most_common() or [("nothing", 0)]:
        print(f"  the safety filter would change {n:4} for {word}" if n else "  the safety filter would change nothing")


def deploy(settings: dict[str, Any], mode: str) -> int:
    """Runs it; the exit status. Raises UserError."""
    for name in ("episodes", "steps"):
        if settings[name] is not None and not (isinstance(settings[name], int) and settings[name] > 0):
            raise UserError(f"{name}={settings[name]} is a number from 1 on")
    folder = Path(settings["policy"]).expanduser()
    learnt = yaml.safe_load((folder / "config.yaml").read_text()) if (folder / "config.yaml").exists() else {}
    robot = of_robot(settings["robot"] or learnt.get("env", {}).get("robot", "panda"))
    task = Task(folder, robot)
    robot["objects"], robot["goal"] = task.objects, task.told
    try:
        safe = Filter(task.arm, Settings(**settings["safety"]))
    except TypeError as error:
        raise UserError(f"safety: {error}; see real/safety.py") from error
    if settings["record"] and mode != "dry-run":
        try:
            Path(settings["record"]).mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"cannot record to {settings['record']} ({error}): choose another folder") from error
    steps = settings["steps"] or task.env["horizon"]
    with contextlib.ExitStack() as stack:
        standin = None
        if mode == "sim":
            if robot["driver"] != "rosbridge":
                raise UserError("--sim is behind a stand-in for rosbridge: robot=panda or robot=fr3")
            from real.standin.handle import Standin

            standin = stack.enter_context(Standin(robot=robot["robot"], task=task.env["task"]))
            robot["url"] = standin.url
        for name in ("url", "transport"):
            robot[name] = settings[name] or robot[name]
        driver = connect(task.arm, robot, safe.settings)
        stack.callback(driver.close)
        driver.wait(CONNECT_S)
        cameras, looked = None, iter(())
        if task.cameras:
            cameras = Cameras(robot, task.cameras)
            stack.callback(cameras.close)
            cameras.wait(CONNECT_S)
            looked = preflight.looks(cameras)
        passed = True
        for check in chain(looked, preflight.checks(driver, sends=mode != "dry-run")):
            print(check, flush=True)
            passed &= check.passed is not False
        if mode == "dry-run":
            dry(task, driver, cameras, safe, steps)
            return 0 if passed else FAULTS["refused"]
        if not passed:
            raise UserError("the arm is not moved before all of that is in order")
        if not driver.shared:
            driver.close()  # one process at a time has the arm: from here on the one that controls it
        recorder = stack.enter_context(Recorder(Path(settings["record"]))) if settings["record"] else None
        control = Control(robot, task.env["control"], task.hz, settings["safety"])
        stack.callback(control.close)  # the first to be closed: the arm does not wait for files
        keys = stack.enter_context(Keys())
        session = Session(task, control, driver, cameras, recorder, keys, settings["keep_s"])
        return episodes(session, settings, steps, standin)


def episodes(session: Session, settings: dict[str, Any], steps: int, standin: Any) -> int:
    """All of them; the exit status of the first fault, at which it ends."""
    outcomes: Counter[str] = Counter()
    fault = ""
    for i in range(settings["episodes"]):
        seed = settings["seed"] + i
        if standin is not None:
            session.stop()
            standin.tell(reset=seed)
            time.sleep(0.3)  # states from before are over
        elif settings["home"]:
            session.home()
        if standin is None and session.keys.there:
            print(f"episode {i + 1}: set the scene, then any key; q ends", flush=True)
            if session.keys.wait() == "q":
                break
        about = {"policy": str(session.task.folder), "task": session.task.env["task"], "seed": seed,
                 "safety": settings["safety"], "simulated": standin is not None}  # fmt: skip
        outcome = session.episode(about, steps, None if standin is None else lambda: standin.tell()["reached"])
        outcomes[outcome] += 1
        report = session.control.report() if session.control.alive else None
        print(f"\repisode {i + 1}: {outcome}" + (f" · {report.detail}" if report and report.detail else ""), flush=True)
        fault = outcome.removeprefix("aborted:") if outcome.startswith("aborted:") else ""
        if fault:
            break
    session.stop()
    print("outcomes: " + ", ".join(f"{n} {what}" for what, n in outcomes.items()))
    print(f"cadence:  {session.cadence()}")
    if session.control.alive:
        counted = session.control.report().count
        print(
            "safety:   " + (", ".join(f"{n} {what}" for what, n in sorted(counted.items()) if n) or "nothing changed")
        )
    return FAULTS.get(fault, 1) if fault and fault != "stopped" else 0


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m real.deploy", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    modes = parser.add_mutually_exclusive_group()
    modes.add_argument("--sim", action="store_const", const="sim", dest="mode", help="on an arm in simulation")
    modes.add_argument("--dry-run", action="store_const", const="dry-run", dest="mode", help="sends nothing (default)")
    modes.add_argument("--go", action="store_const", const="go", dest="mode", help="moves the arm")
    parser.add_argument("settings", nargs="*", metavar="key=value", help="of configs/deploy.yaml")
    given = parser.parse_intermixed_args(argv)
    try:
        defaults: Any = OmegaConf.load(CONFIGS / "deploy.yaml")
        OmegaConf.set_struct(defaults, True)
        OmegaConf.set_struct(defaults["safety"], False)
        merged = OmegaConf.merge(defaults, OmegaConf.from_dotlist(given.settings))
        settings: Any = OmegaConf.to_container(merged, throw_on_missing=True)
        sys.exit(deploy(settings, given.mode or "dry-run"))
    except OmegaConfBaseException as error:
        sys.exit(f"{str(error).splitlines()[0]}: see configs/deploy.yaml")
    except UserError as error:
        sys.exit(f"\n{error}")


if __name__ == "__main__":
    main()
