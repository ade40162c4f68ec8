"""`python -m real.deploy`: a policy that was just learnt moves the arm behind the mock, and says what happened."""

import json
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from pbrl.data import episodes
from real.control import FAULTS
from real.deploy import main
from real.mock.process import MockProcess


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A policy that reaches, cloned from the expert."""
    folder = tmp_path_factory.mktemp("reach")
    command = [
        sys.executable, "train.py", "env=franka/reach", "env.horizon=60", "data=expert", "data.episodes=80", "algo=bc",
        "reward=none", "steps=2500", "compile=never", "compare=false", "video=false", "workers=0", "threads=1",
        "final_episodes=10", "eval_every=2500", f"data_dir={folder}/data", f"run={folder}/run",
    ]  # fmt: skip
    subprocess.run(command, check=True, capture_output=True)
    return folder / "run"


def deploy(*flags, **more):
    command = [sys.executable, "-m", "real.deploy", *map(str, flags)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, **more)


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
    process = subprocess.Popen(
        [sys.executable, "-m", "real.deploy", "--go", f"policy={run}", f"url={robot.url}", "steps=400",
         f"record={folder}"], stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    wait_for(lambda: len(list(folder.glob(".part/*"))) > 0)
    time.sleep(1.0)
    robot.request(fault={"mode": "reflex"})
    output, _ = process.communicate(timeout=60)
    assert process.returncode == FAULTS["mode"] and "episode 1: aborted:mode · the arm is in mode reflex" in output
    outcomes = [json.loads(path.read_text())["outcome"] for path in folder.rglob("*.json")]
    assert outcomes == ["aborted:mode"]


def test_ctrl_c_leaves_an_arm_at_rest(run, robot, tmp_path):
    process = subprocess.Popen(
        [sys.executable, "-c", "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); "
         "from real.deploy import main; main()", "--go", f"policy={run}", f"url={robot.url}", "steps=400",
         f"record={tmp_path}/episodes"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    wait_for(lambda: robot.request()["count"].get("executed", 0) > 50)
    process.send_signal(signal.SIGINT)
    process.wait(timeout=20)
    wait_for(lambda: not robot.request()["active"], 3)
    time.sleep(0.3)
    q = np.array(robot.request()["q"])
    time.sleep(0.3)
    assert np.abs(np.array(robot.request()["q"]) - q).max() < 1e-4


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
        (("policy={run}", "steps=many"), "steps=many is a number"),
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
