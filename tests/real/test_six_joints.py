"""An arm of another make, of six joints and other messages, behind the mock: the same driver, filter and commands."""

import time

import numpy as np
import pytest

from pbrl.data import episodes
from pbrl.types import UserError
from real.drivers.messages import gripper_goal, gripper_width, status_reader
from real.drivers.ros import RosDriver
from real.mock.process import MockProcess
from real.preflight import checks
from real.process import Control
from real.settings import load_robot_settings
from robots import arm
from robots.observations import layout
from tests import forks
from tests.real.test_deploy import deploy, wait_for
from tests.real.test_real import SOON, moving, stream, until

UR5 = arm.load("ur5")


@pytest.fixture(scope="module")
def mock():
    with MockProcess(robot="ur5", task="reach") as mock:
        yield mock


@pytest.fixture
def settings(mock):
    """Of an arm with nothing wrong, at its task's beginning."""
    mock.request(fault={"state": "", "mode": "", "force": 0.0}, reset=1)
    time.sleep(0.2)
    return {**load_robot_settings("ur5"), "url": mock.url}


@pytest.fixture
def driver(settings):
    driver = RosDriver(UR5, settings)
    driver.connect(SOON)
    assert until(lambda: all(latest.received[0] is not None for latest in driver.latest.values()))[0]
    yield driver
    driver.close()


def test_its_spec_is_what_its_files_say(driver):
    spec = driver.spec
    assert spec.arm.joints[2] == "elbow_joint" and spec.arm.dof == 6 and spec.cameras == ("front", "wrist")
    assert (spec.command_hz, spec.latest_state_s, spec.valid_s) == (100.0, 0.1, 0.05)
    assert spec.has_echo and not spec.is_exclusive and set(spec.layout) == set(layout())


def test_its_state_comes_in_any_order(mock, driver):
    for fault in ("", "shuffled"):
        mock.request(fault={"state": fault})
        time.sleep(0.2)
        state = driver.observe()
        assert state.q.shape == state.dq.shape == (6,) and state.mode == "move"
        np.testing.assert_allclose(state.q, mock.request()["q"], atol=2e-3)
        assert state.width == pytest.approx(UR5.gripper.width, abs=2e-3)


def test_all_checks_pass(mock, driver):
    assert [str(check) for check in checks(driver, sends=True) if check.passed is not True] == []
    mock.request(fault={"force": 15.0, "mode": "user_stopped"})
    time.sleep(0.2)
    assert {check.name for check in checks(driver, sends=True) if not check.passed} == {"mode", "contact"}


def test_its_gripper_closes_and_opens(driver):
    for close, width in ((True, 0.0), (False, UR5.gripper.width)):
        driver.grip(close)
        assert until(lambda width=width: abs(driver.observe().width - width) < 0.004, 4.0)[0], driver.observe().width


def test_it_moves_within_its_limits_and_a_fault_stops_it(mock, settings):
    for _ in range(4):  # a stall of this machine jerks the arm; test_link.py has a clock of its own, and no stall
        before = mock.request(reset=1)
        control = Control(settings, "cartesian", 20, {})
        report = stream(moving(control), 2.0, np.array([[0.4, 0.3, -0.2, -1.0]]))
        assert report.phase == "moving" and report.sent.shape == (6,)
        result = mock.request()
        if result["hardest"] < 0.35:
            break
        control.close()
    assert np.abs(np.array(result["q"]) - before["q"]).max() > 0.05
    assert result["fastest"] < 0.21 and result["hardest"] < 0.35, "the filter's shares are a fifth"
    odd = {name for name, count in result["count"].items() if count > before["count"].get(name, 0)}
    assert not {"non_finite", "out_of_limits", "too_fast", "too_hard"} & odd
    mock.request(fault={"mode": "reflex"})
    assert until(lambda: stream(control, 0.05).fault == "mode")[0], control.report()
    control.wait("fault", timeout_s=SOON)
    assert until(lambda: not mock.request()["active"])[0]
    control.close()


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A policy cloned for a few hundred steps: enough to send commands, not to be good."""
    folder = tmp_path_factory.mktemp("ur5")
    command = [
        "train.py", "env=tabletop/reach", "env.robot=ur5", "env.horizon=60", "data=expert",
        "data.episodes=30", "algo=bc", "reward=none", "steps=400", "compile=never", "compare=false", "video=false",
        "workers=0", "threads=1", "final_episodes=2", "eval_episodes=1", "eval_every=400", f"data_dir={folder}/data",
        f"run={folder}/run",
    ]  # fmt: skip
    done = forks.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return folder / "run"


def test_a_policy_is_deployed_on_it(run, tmp_path):
    done = deploy("--sim", f"policy={run}", "steps=60", f"record={tmp_path}/episodes")
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("✓") == 7, done.stdout
    (episode,) = episodes.read(tmp_path / "episodes")
    assert episode.obs.shape[1] == 10 and episode.action.shape[1] == 4
    assert np.linalg.norm(episode.obs[-1, :3] - episode.obs[0, :3]) > 0.02, "it moved"
    (numbers,) = (tmp_path / "episodes").glob("*.npz")
    assert np.load(numbers)["sent"].shape[1] == 6


def test_another_arms_policy_is_refused_and_a_wrong_arm_is_noticed(run, mock, settings):
    refused = deploy(f"policy={run}", "robot=panda")
    assert refused.returncode == 1 and "trained on a ur5" in refused.stderr
    wait_for(lambda: not mock.request()["active"], 5)
    other = RosDriver(arm.load("panda"), {**load_robot_settings("panda"), "url": mock.url})
    other.connect(SOON)
    assert "nothing has come on /franka_state_controller" in str(next(checks(other, sends=False)))
    other.close()


def test_messages_of_both_makes():
    wrench = {"wrench": {"force": {"x": 3.0, "y": 4.0, "z": 0.0}}}
    read = status_reader("ur_dashboard_msgs/msg/RobotMode")
    assert read({"arm": {"mode": 7}, "wrench": wrench}, True) == ("move", 5.0, 1.0)
    assert read({"arm": {"mode": 3}, "wrench": wrench}, True).mode == "other"
    franka = {"O_F_ext_hat_K": [0, 0, 2.0, 9, 9, 9], "robot_mode": 4, "control_command_success_rate": 0.5}
    assert status_reader("franka_msgs/FrankaState")({"arm": franka}, True) == ("reflex", 2.0, 0.5)
    with pytest.raises(UserError, match="one of FrankaState, RobotMode"):
        status_reader("kuka_msgs/Status")
    topics = load_robot_settings("ur5")["topics"]
    assert gripper_goal(topics, UR5.gripper, True) == (
        "gripper_command",
        {"command": {"position": 0.0, "max_effort": UR5.gripper.force / 2}},
    )
    name, goal = gripper_goal(load_robot_settings("fr3")["topics"], arm.load("fr3").gripper, False)
    assert name == "move" and goal == {"width": 0.08, "speed": 0.1}
    names = ["other", *UR5.gripper.joints]
    assert gripper_width({"name": names, "position": [9.0, 0.01, 0.02]}, UR5.gripper) == pytest.approx(0.03)
