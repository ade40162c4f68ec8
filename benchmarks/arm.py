"""How punctual and how safe the way to an arm is, on the mock; each line of results/arm.jsonl says the load.

python -m benchmarks.arm cadence     # a policy's steps, states and commands over real sockets
python -m benchmarks.arm stop        # from an operator's stop to the robot
python -m benchmarks.arm brake       # how fast the arm is when its controller is switched off, by a clock of its own
python -m benchmarks.arm stalls      # of the link, by a clock of its own: what the late command makes of the arm
python -m benchmarks.arm fuzz        # a million wild actions: what would go over the wire, read back
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import time
from ctypes import CDLL
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from scipy.stats import binomtest
from tqdm import tqdm

from pbrl.data.rollout import PolicyActor, RolloutWorkers
from pbrl.files import to_json
from pbrl.models.policy import load_policy
from pbrl.training.evaluate import evaluation_seeds
from real.control import Chunk, Controller, Schedule
from real.drivers.messages import to_seconds
from real.drivers.ros import RosDriver
from real.mock.process import MockProcess
from real.process import Control
from real.robot import State
from real.safety import SafetyFilter, SafetySettings
from real.settings import load_robot_settings
from real.transports.link import Latest
from robots import arm as arms
from robots.actions import ActionMapping
from tests.real.test_link import Run

PR_SET_PDEATHSIG = 1  # linux/prctl.h
RESULTS = Path(__file__).parent / "results" / "arm.jsonl"


def milliseconds(seconds: Any) -> dict[str, float]:
    """Median, p99 and largest."""
    values = 1e3 * np.asarray(seconds)
    return {"p50": round(float(np.median(values)), 2), "p99": round(float(np.percentile(values, 99)), 2),
            "max": round(float(values.max()), 2)}  # fmt: skip


def cadence(args: argparse.Namespace) -> dict[str, Any]:
    """A policy that wanders about, for so long."""
    random = np.random.default_rng(0)
    with MockProcess(robot=args.robot, task="reach") as mock:
        control = Control({**load_robot_settings(args.robot), "url": mock.url}, "cartesian", args.hz, {})
        phase = control.start().phase
        assert phase == "moving", control.report()
        schedule, late, ages = Schedule(args.hz), [], []
        for _ in tqdm(range(round(args.seconds * args.hz)), unit="step"):
            planned = schedule.wait()
            late.append(time.monotonic() - planned)
            report = control.report()
            ages.append(report.age)
            control.give(Chunk(time.monotonic(), np.append(random.uniform(-0.5, 0.5, 3), -1.0)[None]))
        arm_report, count = mock.request(), control.report().count
        phase = control.report().phase
        control.close()
    return {
        "late_ms": milliseconds(late), "state_age_ms": milliseconds(ages), "missed": schedule.missed, "phase": phase,
        "command_age_ms": {"p50": round(1e3 * arm_report["ages"][0], 2), "p99": round(1e3 * arm_report["ages"][1], 2),
                           "max": round(1e3 * arm_report["oldest"], 2)},
        "arm": arm_report["count"], "control": count,
    }  # fmt: skip


def stop(args: argparse.Namespace) -> dict[str, Any]:
    """An operator's stop, so many times: when the robot has it, and when its answer is back."""
    there, back = [], []
    with MockProcess(robot=args.robot, task="reach") as mock:
        driver = RosDriver(
            arms.load(load_robot_settings(args.robot)["robot"]), {**load_robot_settings(args.robot), "url": mock.url}
        )
        driver.connect(5)
        for _ in tqdm(range(args.times), unit="stop"):
            driver.start()
            time.sleep(0.05)
            pressed, began = time.time(), time.monotonic()
            driver.stop()
            back.append(time.monotonic() - began)
            there.append(mock.request()["stopped"] - pressed)
        driver.close()
    return {"reaches_ms": milliseconds(there), "answered_ms": milliseconds(back)}


class Tape:
    """In a socket's place: keeps the last frame as it would go over the wire."""

    def __init__(self, url: str):
        self.is_connected, self.text = True, ""

    def subscribe(self, topic: str, type_: str) -> Latest:
        return Latest(type_)

    def advertise(self, topic: str, type_: str) -> None: ...
    def publish(self, topic: str, message: dict[str, Any]) -> bool:
        self.text = json.dumps({"op": "publish", "topic": topic, "msg": message})
        return True


class Fuzzed(RosDriver):
    """A driver whose arm is where it was commanded to be, by a clock of ours."""

    def __init__(self, name: str) -> None:
        settings = load_robot_settings(name)
        arm = arms.load(settings["robot"])
        self.now, self.q = 1e9, arm.home
        super().__init__(arm, settings, lambda: self.now, Tape)  # type: ignore[arg-type]

    def observe(self) -> State:
        return State(
            self.q, np.zeros(self.arm.dof), 0.08, "move", 0.0, 1.0, np.zeros((0, 7)), np.zeros(3), self.now, self.now
        )

    def echo(self) -> float | None:
        text = self.stream.text  # type: ignore[attr-defined]
        return to_seconds(json.loads(text)["msg"]["header"]["stamp"], self.ros1) if text else None

    def grip(self, close: bool) -> None: ...
    def start(self) -> None: ...
    def stop(self) -> None: ...


def fuzz(args: argparse.Namespace) -> dict[str, Any]:
    """So many actions, wild in size and time; of each cycle's frame: finite, within limits, continuous."""
    random, driver = np.random.default_rng(args.seed), Fuzzed(args.robot)
    safe = SafetyFilter(driver.arm, SafetySettings())
    controller = Controller(driver, ActionMapping(driver.arm, "cartesian", 20), safe)
    wrong = {"non_finite": 0, "beyond_limits": 0, "too_fast": 0, "jumped": 0, "moving_at_its_end": 0}
    actions, frames, before, drift = 0, 0, None, np.zeros(4)
    with tqdm(total=args.actions, unit="action") as bar:
        while actions < args.actions:
            if controller.phase != "moving":
                controller.start(driver.now)
                while controller.phase == "starting":
                    driver.now += 0.01
                    controller.cycle(driver.now)
            if random.random() < 0.01:
                drift = random.normal(size=4) * 3  # into a wall, for a while
            chunk = drift + random.normal(size=(random.integers(1, 9), 4)) * 10.0 ** random.integers(-1, 4)
            if random.random() < 0.2:
                chunk[random.integers(len(chunk)), random.integers(4)] = random.choice([np.nan, np.inf, -np.inf, 1e300])
            controller.give(Chunk(driver.now + random.uniform(-0.3, 0.05), chunk))
            actions += len(chunk)
            bar.update(len(chunk))
            for _ in range(random.integers(1, 4)):
                dt = random.choice([0.01, 0.01, 0.01, 0.0, 0.03, 0.09])
                driver.now += dt
                controller.cycle(driver.now)
                message = json.loads(driver.stream.text)["msg"]  # type: ignore[attr-defined]
                t = to_seconds(message["header"]["stamp"], driver.ros1)
                if before is not None and t == before[0]:
                    continue  # it waits for the one before
                frames += 1
                q, dq = (np.array([p[key] for p in message["points"]], float) for key in ("positions", "velocities"))
                limits = driver.arm.limits
                wrong["non_finite"] += not (np.isfinite(q).all() and np.isfinite(dq).all())
                wrong["beyond_limits"] += bool((q < limits.position_min).any() or (q > limits.position_max).any())
                wrong["too_fast"] += bool((np.abs(dq) > safe.speed + 1e-6).any())
                wrong["moving_at_its_end"] += bool(dq[-1].any())
                if before is not None:
                    wrong["jumped"] += bool((np.abs(q[0] - before[1]) > safe.speed * (t - before[0]) + 1e-6).any())
                before, driver.q = (t, q[0]), q[0]
    return {"actions_seen": actions, "frames": frames, **wrong, "interventions": dict(controller.count)}


def stalls(args: argparse.Namespace) -> dict[str, Any]:
    """So many stalls of 50 to 300 ms in mid-motion; of each the most that the arm's controller wanted, as shares of the
    arm's limits of speed and acceleration."""
    run, most, late = Run(args.robot, args.seed, workspace=((-2, -2, 0), (2, 2, 2))), [], 0
    for _ in tqdm(range(args.times), unit="stall"):
        action = (*run.random.uniform(-1, 1, 3), -1.0)
        run.go(0.4, action)
        run.arm.fastest = run.arm.hardest = 0.0
        run.arm.wire.held, before = True, run.arm.late
        run.go(run.random.uniform(0.05, 0.3), action)
        run.arm.wire.held = False
        run.go(0.8, action)
        assert run.control.phase == "moving"
        late += run.arm.late > before
        most.append((run.arm.fastest, run.arm.hardest))
    fastest, hardest = np.array(most, float).T
    return {
        "late": late, "too_fast": int((fastest > 1).sum()), "too_hard": int((hardest > 1).sum()),
        "fastest": np.percentile(fastest, [50, 99, 100]).round(2).tolist(),
        "hardest": np.percentile(hardest, [50, 99, 100]).round(2).tolist(),
    }  # fmt: skip


def brake(args: argparse.Namespace) -> dict[str, Any]:
    """So many stops in mid-motion; of each the arm's speed, as a share of its limits, when the stop is asked for, where
    its controller could be switched off at once, and when it is switched off, and the time between."""
    run, at_once, at_rest, seconds = Run(args.robot, args.seed, workspace=((-2, -2, 0), (2, 2, 2))), [], [], []

    def speed() -> float:
        return float((np.abs(run.arm.wanted.dq) / run.arm.arm.limits.velocity).max())

    run.arm.stop = lambda: at_rest.append((speed(), run.arm.now))  # type: ignore[method-assign]
    for _ in tqdm(range(args.times), unit="stop"):
        run.go(run.random.uniform(0.3, 0.8), (*run.random.uniform(-1, 1, 3), -1.0))
        at_once.append(speed())
        asked, switched = run.arm.now, len(at_rest)
        run.control.stop()
        while len(at_rest) == switched:
            run.go(0.01)
        seconds.append(at_rest[-1][1] - asked)
        run.begin()
    return {
        "at_once": np.percentile(at_once, [50, 100]).round(3).tolist(),
        "at_rest": max(speed for speed, _ in at_rest), "braking_ms": milliseconds(seconds),
    }  # fmt: skip


def deployed_output(command: list[str]) -> str:
    """What a deployment prints; it is asked to stop when this process ends, in whatever way."""
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, preexec_fn=stop_with_parent)
    try:
        output, _ = process.communicate()
    finally:
        process.terminate()
        process.wait()
    if process.returncode:
        sys.exit(f"the deployment ended with {process.returncode}: see above")
    return output


def stop_with_parent() -> None:
    """Has Linux ask this process to stop when the one that started it has ended: see prctl(2)."""
    if sys.platform == "linux":
        CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)


def success(args: argparse.Namespace) -> dict[str, Any]:
    """A run's policy on the evaluation's episodes: played by the simulation, and deployed in real time."""
    settings = yaml.safe_load((Path(args.policy) / "config.yaml").read_text())["env"]
    seeds = evaluation_seeds(args.episodes)
    workers = RolloutWorkers({"preference": {}, **settings}, 0)
    played = [bool(e.success.any()) for e in workers.collect(PolicyActor(load_policy(args.policy)), list(seeds))]  # type: ignore[union-attr]
    command = [sys.executable, "-m", "real.deploy", "--sim", f"policy={args.policy}", f"episodes={args.episodes}",
               f"seed={seeds[0]}", "record=null", *args.settings]  # fmt: skip
    output = deployed_output(command)
    deployed = [line.endswith(": success") for line in output.splitlines() if "episode " in line and ": " in line]
    assert len(deployed) == args.episodes, output
    return {
        "simulated": share(played), "deployed": share(deployed),
        "said": [line for line in output.splitlines() if line.startswith(("timing", "safety"))],
    }  # fmt: skip


def share(successes: list[bool]) -> list[float]:
    """Of successes, with Wilson's interval (95 %)."""
    found = binomtest(sum(successes), len(successes))
    low, high = found.proportion_ci(method="wilson")
    return [round(float(x), 3) for x in (found.statistic, low, high)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("cadence", "stop", "brake", "stalls", "fuzz", "success"))
    parser.add_argument("settings", nargs="*", metavar="key=value", help="of configs/deploy.yaml, for success")
    parser.add_argument("--robot", default="panda")
    parser.add_argument("--hz", type=float, default=20)
    parser.add_argument("--seconds", type=float, default=120)
    parser.add_argument("--times", type=int, default=200)
    parser.add_argument("--actions", type=int, default=1_000_000)
    parser.add_argument("--policy", help="a run's folder")
    parser.add_argument("--episodes", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_intermixed_args()
    asked = {key: value for key, value in vars(args).items() if key != "policy"}
    line = {**asked, **globals()[args.what](args), "load": [round(x, 1) for x in os.getloadavg()]}
    print(to_json(line))
    with open(RESULTS, "a") as file:
        file.write(to_json(line) + "\n")


if __name__ == "__main__":
    main()
