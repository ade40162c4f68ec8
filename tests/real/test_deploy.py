"""`python -m real.deploy`: a policy that was just learnt moves the arm behind the mock, and says what happened."""

import json
import os
import pty
import select
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from pbrl.data import episodes
from real.control import FAULTS
from real.deploy import main
from real.drivers.ros import RosDriver
from real.mock.process import MockProcess
from real.settings import load_robot_settings
from robots import arm
from tests import forks


@pytest.fixture(scope="module")
def run(make_once):
    """A policy that reaches, cloned from the expert."""
    return make_once("reach", clone_reaching) / "run"


def clone_reaching(folder):
    command = [
        "train.py", "env=franka/reach", "env.horizon=60", "data=expert", "data.episodes=40", "algo=bc",
        "reward=none", "steps=1500", "compile=never", "compare=false", "video=false", "workers=0", "threads=1",
        "eval_episodes=1", "final_episodes=1", "eval_every=1500", f"data_dir={folder}/data", f"run={folder}/run",
    ]  # fmt: skip
    forks.run(command, check=True, capture_output=True)


def deploy(*flags, **more):
    command = ["-m", "real.deploy", *flags]
    return forks.run(command, capture_output=True, text=True, timeout=120, **more)


def test_it_reaches_in_simulation_and_what_happened_can_be_learnt_from(run, tmp_path):
    done = deploy("--sim", f"policy={run}", "episodes=3", "steps=160", f"record={tmp_path}/episodes")
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("✓") == 7, done.stdout
    assert "timing:" in done.stdout and "safety:" in done.stdout
    read = episodes.read(tmp_path / "episodes")
    assert len(read) == 3 and {e.obs.shape[1] for e in read} == {10} and {e.action.shape[1] for e in read} == {4}
    assert len({tuple(e.obs[0, -3:].round(4)) for e in read}) == 3, "three goals"
    nearest = [np.linalg.norm(e.obs[:, :3] - e.obs[:, 7:10], axis=1).min() for e in read]  # 2 cm is success
    success = [bool(e.success[-1]) for e in read]
    assert all(d < 0.03 if s else d > 0.015 for s, d in zip(success, nearest, strict=True))
    assert max(nearest) < 0.08 and done.stdout.count(": success") == sum(success), nearest


@pytest.fixture
def robot():
    """A robot somewhere, of which deployment knows the address alone."""
    with MockProcess(task="reach") as mock:
        mock.request(reset=4)
        time.sleep(0.2)
        yield mock


def test_without_go_nothing_is_sent(run, robot):
    done = deploy(f"policy={run}", f"url={robot.url}", "transport=roslibpy", "steps=30")
    assert done.returncode == 0, done.stderr
    assert "dry run: 30 actions" in done.stdout and "would change" in done.stdout
    assert robot.request()["count"] == {} and not robot.request()["active"]


def test_with_go_the_arm_moves_home_and_then_by_the_policy(run, robot, tmp_path):
    done = deploy("--go", f"policy={run}", f"url={robot.url}", "steps=40", f"record={tmp_path}/episodes")
    assert done.returncode == 0, done.stderr
    report = robot.request()
    assert report["count"]["executed"] > 100 and report["oldest"] < 0.4 and not report["active"]
    assert not {"non_finite", "out_of_limits", "too_fast"} & set(report["count"])


def test_a_failed_preflight_keeps_the_arm_still(run, robot):
    robot.request(fault={"mode": "user_stopped"})
    time.sleep(0.2)
    done = deploy("--go", f"policy={run}", f"url={robot.url}", "record=null")
    assert done.returncode == 1 and "✗ mode" in done.stdout and "not moved" in done.stderr
    assert "executed" not in robot.request()["count"]


def test_a_fault_aborts_the_episode_by_name_and_stores_it_apart(run, robot, tmp_path):
    folder = tmp_path / "episodes"
    process = forks.Program(
        ["-m", "real.deploy", "--go", f"policy={run}", f"url={robot.url}", "steps=400",
         f"record={folder}"], stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    wait_for(lambda: len(list(folder.glob(".part/*"))) > 0)
    time.sleep(1.0)
    robot.request(fault={"mode": "reflex"})
    output, _ = process.communicate(timeout=60)
    assert process.returncode == FAULTS["mode"] and "episode 1: aborted:mode · the arm is in mode reflex" in output
    outcomes = [json.loads(path.read_text())["outcome"] for path in folder.rglob("*.json")]
    assert outcomes == ["aborted:mode"]


class Terminal:
    """`python -m real.deploy --go` at a terminal of its own; a context manager."""

    def __init__(self, *flags):
        self.ours, theirs = pty.openpty()
        self.process = forks.Program(
            ["-c", TAKE_TERMINAL, "--go", "home=false", "steps=4000", *flags],
            stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True,
        )  # fmt: skip
        os.close(theirs)
        self.printed, self.is_open = "", True

    def read(self):
        """What was printed until now."""
        while self.is_open and select.select([self.ours], [], [], 0)[0]:
            try:
                self.printed += os.read(self.ours, 65_536).decode()
            except OSError:  # its other end is closed
                break
        return self.printed

    def close(self):
        """As when a window is closed, or an ssh is dropped: SIGHUP to the whole group."""
        self.is_open = False
        os.close(self.ours)

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.process.kill()
        self.process.wait()
        if self.is_open:
            self.close()


TAKE_TERMINAL = """
import fcntl, runpy, signal, termios
fcntl.ioctl(0, termios.TIOCSCTTY, 0)
for number in (signal.SIGHUP, signal.SIGTERM):
    signal.signal(number, signal.SIG_DFL)  # a parent process may ignore them
signal.signal(signal.SIGINT, signal.default_int_handler)
runpy.run_module("real.deploy", run_name="__main__", alter_sys=True)
"""


ENDS = {  # how it is ended: the exit status, and what is printed
    "space": (0, "episode 1: aborted:stopped"), "ctrl-c": (130, "stopped: Ctrl-C"), "kill": (143, "SIGTERM"),
    "close": (129, None),
}  # fmt: skip


@pytest.mark.parametrize("how", ENDS)
def test_however_it_is_ended_the_arm_brakes_and_its_controller_is_off(run, robot, tmp_path, how):
    status, words = ENDS[how]
    with Terminal(f"policy={run}", f"url={robot.url}", f"record={tmp_path}/episodes") as deployed:
        wait_for(lambda: "then any key" in deployed.read() or deployed.process.poll() is not None)
        os.write(deployed.ours, b"x")
        wait_for(lambda: robot.request()["count"].get("executed", 0) > 20)
        if how == "close":
            deployed.close()
        elif how == "kill":
            deployed.process.terminate()
        else:
            os.write(deployed.ours, {"space": b"kk ", "ctrl-c": b"\x03"}[how])
        wait_for(lambda: not robot.request()["active"], 3)
        report = robot.request()
        assert report["stopped_speed"] < 1e-6, "it braked before its controller went off"
        counts = report["count"]
        assert counts["stops"] == 1 and counts["ignored"] == 1, "preflight's, and nothing is sent after the stop"
        assert deployed.process.wait(timeout=30) == status
        if words is not None:
            assert "the arm is at rest; its controller is off" in deployed.read(), deployed.printed
            assert words in deployed.printed and "Traceback" not in deployed.printed
    outcomes = [json.loads(path.read_text())["outcome"] for path in (tmp_path / "episodes").rglob("*.json")]
    assert outcomes == ["aborted:stopped"]


@pytest.mark.parametrize("victim", ["control", "policy"])
def test_a_process_that_is_killed_leaves_none_behind_and_a_controller_that_is_off(run, robot, victim):
    with Terminal(f"policy={run}", f"url={robot.url}", "record=null") as deployed:
        wait_for(lambda: "then any key" in deployed.read() or deployed.process.poll() is not None)
        os.write(deployed.ours, b"x")
        wait_for(lambda: robot.request()["count"].get("executed", 0) > 20)
        children = find_children(deployed.process.pid)
        control = next(pid for pid in children if "spawn_main" in Path(f"/proc/{pid}/cmdline").read_text())
        os.kill(control if victim == "control" else deployed.process.pid, signal.SIGKILL)
        wait_for(lambda: not robot.request()["active"], 4)
        assert robot.request()["stopped_speed"] < 1e-6
        if victim == "control":
            assert deployed.process.wait(timeout=30) == FAULTS["control_gone"]
            assert "aborted:control_gone" in deployed.read() and "its controller is off" in deployed.printed
        wait_for(lambda: not any(map(is_running, children)), 10)


def is_running(pid):
    """Whether a process is there, and no zombie that nobody has waited for."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_text() != ""
    except OSError:
        return False


def find_children(parent):
    """The ids of a process's children."""
    return [int(pid) for pid in Path(f"/proc/{parent}/task/{parent}/children").read_text().split()]


def test_it_can_go_as_often_as_one_likes(run, robot):
    """Its controller is off, on, and on with another's command: the real controller manager refuses only STRICT."""
    for _ in range(2):
        done = deploy("--go", f"policy={run}", f"url={robot.url}", "steps=5", "home=false", "record=null")
        assert done.returncode == 0 and done.stdout.count("✓") == 7, done.stdout + done.stderr
        assert "the arm is at rest; its controller is off" in done.stdout
    assert "switches_refused" not in robot.request()["count"] and not robot.request()["active"]


def test_nothing_is_sent_after_a_stop_that_failed(run, robot):
    driver = RosDriver(arm.load("panda"), {**load_robot_settings("panda"), "url": robot.url})
    driver.connect(5)
    driver.start()
    driver.close()
    robot.request(fault={"refuses": True})
    done = deploy("--go", f"policy={run}", f"url={robot.url}", "record=null")
    assert done.returncode == 1 and "✗ stop" in done.stdout and "· commands come back" in done.stdout, done.stdout
    report = robot.request()
    assert report["active"] and report["count"] == {"switches_refused": 1}, (
        "the arm's controller is on, and had nothing"
    )


def test_an_arm_without_ros_needs_no_transport(run, tmp_path):
    (tmp_path / "policy.pt").write_bytes((run / "policy.pt").read_bytes())
    (tmp_path / "config.yaml").write_text((run / "config.yaml").read_text().replace("robot: panda", "robot: fr3"))
    with pytest.raises(SystemExit) as ended:
        main([f"policy={tmp_path}", "robot=fr3_direct", "url=127.9.9.9"])
    assert "franky" in str(ended.value.code) or "no arm at 127.9.9.9" in str(ended.value.code)


def wait_for(is_done, seconds=40):
    end = time.monotonic() + seconds
    while not is_done():
        assert time.monotonic() < end
        time.sleep(0.02)


@pytest.mark.parametrize(
    "flags, sentence",
    [
        ((), "policy"), (("policy=nowhere",), "is not the folder of a run"), (("policy=x", "sped=3"), "sped"),
        (("policy={run}", "robot=r2d2"), "it is one of fr3, fr3_direct, panda, ur5"),
        (("policy={run}", "robot=fr3"), "trained on a panda"),
        (("policy={run}", "safety.speed=2"), "share of the arm's limit"),
        (("policy={run}", "safety.sped=1"), "sped"),
        (("policy={run}", "safety.workspace=[1,2]"), "two corners"),
        (("policy={run}", "steps=many"), "steps=many must be a whole number"),
        (("policy={run}", "--sim", "record=/proc/nowhere"), "cannot record to /proc/nowhere"),
        (("policy={run}", "transport=pigeon"), "transport: pigeon: it is one of websockets"),
        (("policy={run}", "transport=rclpy"), "dialect ros1 has rospy"),
        (("policy={run}", "url=ws://127.0.0.1:9"), "no answer at ws://127.0.0.1:9"),
    ],
)  # fmt: skip
def test_impossible_settings_are_explained(run, flags, sentence):
    with pytest.raises(SystemExit) as ended:
        main([flag.format(run=run) for flag in flags])
    assert isinstance(ended.value.code, str) and sentence in ended.value.code


def test_it_is_interrupted_before_it_has_begun_and_says_so():
    """What it imports takes seconds, in which a person may well press Ctrl-C."""
    command = [sys.executable, "-X", "importtime", "-m", "real.deploy", "--go", "policy=nowhere"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None and process.stderr is not None
    next(line for line in process.stderr if "omegaconf" in line)  # the first of what takes long
    process.send_signal(signal.SIGINT)
    printed, errors = process.communicate(timeout=60)
    assert process.returncode == 130 and "Traceback" not in errors, errors
    assert printed == "\nthe arm was not moved\nstopped: Ctrl-C\n"
