"""Messages of real robots, put in by hand: what a driver reads, what it refuses, and what its sentences name."""

import math

import numpy as np
import pytest

from real.robot import Command, Motion, StateError
from real.transports.link import Latest
from robots import arm as arms
from tests.real.memory import MemoryRobot, pose, times

FINGERS = ["panda_finger_joint1", "panda_finger_joint2"]


@pytest.fixture
def robot():
    robot = MemoryRobot(objects=1, goal=True)
    robot.speak()
    return robot


def refusal(robot) -> str:
    with pytest.raises(StateError) as raised:
        robot.driver.observe()
    assert "Error(" not in str(raised.value)
    return f"{raised.value.fault}: {raised.value}"


def test_a_state_says_when_each_of_its_topics_spoke(robot):
    robot.now += 0.03
    robot.speak("goal", "objects")
    state = robot.driver.observe()
    assert state.objects.tolist() == [[0.5, 0.1, 0.02, 1, 0, 0, 0]] and state.goal.tolist() == [0.5, 0.0, 0.3]
    found = {reading.topic: (reading.t, reading.latest_s) for reading in state.readings}
    assert found == {
        "/joint_states": (1000.03, 0.1), "/franka_state_controller/franka_states": (1000.03, 0.1),
        "/franka_gripper/joint_states": (1000.03, 0.5), "/objects": (1000.0, 0.5), "/goal": (1000.0, 0.5),
    }  # fmt: skip
    assert state.readings[0].stamp == state.t_robot == pytest.approx(1000.03, abs=1e-6)


def test_the_arms_joints_are_kept_where_the_gripper_speaks_on_their_topic(robot):
    for i in range(30):
        robot.now += 0.01
        if i % 2 == 0:
            robot.q = robot.arm.home + 0.01 * i
            robot.hear("joint_states", robot.joints(robot.arm.joints, robot.q))
        robot.hear("joint_states", robot.joints(FINGERS, [0.02, 0.02]))
        state = robot.driver.observe()
        assert np.allclose(state.q, robot.q) and state.t == pytest.approx(robot.now - 0.01 * (i % 2))
    (sentence,) = robot.driver.find_other_messages()
    assert sentence.startswith("30 of 46 messages on /joint_states are left out: they have panda_finger_joint1")


def test_arm_and_gripper_may_share_one_topic():
    topic = ["/joint_states", "sensor_msgs/JointState"]
    topics = {**MemoryRobot().settings["topics"], "gripper": topic, "joint_states": topic}
    robot = MemoryRobot(topics=topics)
    robot.speak()
    state = robot.driver.observe()
    assert np.allclose(state.q, robot.arm.home) and state.width == pytest.approx(0.04)
    assert {reading.topic for reading in state.readings} >= {"/joint_states (joint_states)", "/joint_states (gripper)"}
    assert robot.driver.find_other_messages() == []


def test_a_topic_without_the_arms_joints_is_named_with_what_it_has():
    robot = MemoryRobot()
    robot.speak("joint_states", "arm")
    assert refusal(robot) == "no_state: nothing has come on /joint_states"
    robot.hear("joint_states", robot.joints(FINGERS, [0, 0]))
    assert refusal(robot) == "no_state: nothing has come on /franka_state_controller/franka_states"
    robot.speak("joint_states")
    sentence = refusal(robot)
    assert sentence.startswith("bad_state: no message on /joint_states has all of panda_joint1, ")
    assert "they have panda_finger_joint1, panda_finger_joint2" in sentence
    robot.hear("joint_states", robot.joints(robot.arm.joints[:6], robot.q[:6]))
    assert "they have panda_joint1" in refusal(robot), "half an arm is none"


WRONG = [
    ("joint_states", {"velocity": []}, "0 numbers in `velocity` for 7 joints"),
    ("joint_states", {"position": [0.0] * 6}, "6 numbers in `position` for 7 joints"),
    ("joint_states", {"position": [None] * 7}, "a number on /joint_states is not finite"),
    ("joint_states", {"velocity": [math.inf] * 7}, "a number on /joint_states is not finite"),
    ("joint_states", {"header": {"stamp": {"secs": 0, "nsecs": 0}}}, "/joint_states have no time"),
    ("joint_states", {"header": {"stamp": {"sec": 5, "nanosec": 0}}}, "no field 'secs'"),
    ("joint_states", {"name": None}, "of other types"),
    ("gripper", {"position": [0.02, math.nan]}, "a number on /franka_gripper/joint_states is not finite"),
    ("arm", {"O_F_ext_hat_K": [0.0] * 3}, "/franka_states cannot be read as franka_msgs/FrankaState: a wrench"),
    ("arm", {"control_command_success_rate": math.nan}, "a number on /franka_state_controller/franka_states"),
    ("arm", {"robot_mode": None}, "/franka_state_controller/franka_states cannot be read"),
    ("objects", {"poses": [pose(0, 0, 0)] * 2}, "2 objects instead of 1"),
    ("objects", {"poses": [{"position": {}}]}, "no field 'orientation'"),
    ("goal", {"point": {"x": 0.5, "y": 0.0}}, "no field 'z'"),
    ("goal", {"point": {"x": 0.5, "y": 0.0, "z": None}}, "a number on /goal is not finite"),
]  # fmt: skip


@pytest.mark.parametrize("name, changes, words", WRONG, ids=[f"{n} {next(iter(c))} {w[:12]}" for n, c, w in WRONG])
def test_a_message_that_cannot_be_read_is_named_in_words(robot, name, changes, words):
    latest = robot.driver.latest[name].received[0]
    robot.hear(name, {**latest, **changes})
    sentence = refusal(robot)
    assert sentence.startswith("bad_state: ") and words in sentence and robot.topics[name] in sentence


def test_topics_other_than_the_joints_may_have_no_time(robot):
    for name in ("arm", "gripper", "goal", "objects"):
        message = dict(robot.driver.latest[name].received[0])
        robot.hear(name, {**message, "header": {"stamp": {"secs": 0, "nsecs": 0}}})
    robot.hear("goal", {"point": {"x": 0.1, "y": 0.2, "z": 0.3}})
    assert [reading.stamp for reading in robot.driver.observe().readings[1:]] == [None] * 4


@pytest.mark.parametrize("mode, word", [(2, "move"), (6, "recovering"), (7, "other"), (-1, "other")])
def test_a_mode_that_is_not_known_is_another(robot, mode, word):
    robot.hear("arm", robot.status(robot_mode=mode))
    assert robot.driver.observe().mode == word


def wrench(x, z):
    vector = {"force": {"x": x, "y": 0.0, "z": z}, "torque": {"x": 9.0, "y": 9.0, "z": 9.0}}
    return {"header": {"stamp": {"sec": 3, "nanosec": 0}, "frame_id": "fr3_link0"}, "wrench": vector}


@pytest.mark.parametrize("force", [wrench(3.0, 4.0), wrench(3.0, 4.0)["wrench"], [3.0, 0.0, 4.0, 9.0, 9.0, 9.0]])
@pytest.mark.parametrize("type_", ["FrankaRobotState", "FrankaState"])
def test_both_forms_of_franka_ros2_are_read(force, type_):
    topics = {**MemoryRobot("fr3").settings["topics"]}
    assert topics["arm"][1] == "franka_msgs/FrankaRobotState", "as it is published today"
    robot = MemoryRobot("fr3", topics={**topics, "arm": [topics["arm"][0], f"franka_msgs/msg/{type_}"]})
    robot.speak("arm")
    robot.hear("arm", {"header": robot.header(), "o_f_ext_hat_k": force, "k_f_ext_hat_k": force, "robot_mode": 1,
                       "control_command_success_rate": 1.0, "time": 12.5})  # fmt: skip
    state = robot.driver.observe()
    assert (state.force, state.mode, state.success_rate) == (pytest.approx(5.0), "idle", 1.0)


def test_states_have_a_connection_of_their_own_so_that_an_echo_waits_for_none(robot):
    of_states = {"/joint_states", robot.topics["arm"], robot.topics["gripper"], "/objects", "/goal"}
    subscribed = [set(link.topics) for link in robot.links]
    assert len(robot.links) == 4 and subscribed == [of_states, {robot.topics["command"]}, set(), set()]
    rest = Motion.at_rest(robot.arm.home)
    applied = robot.driver.apply(Command(rest))
    assert applied is not None and robot.driver.echo() == applied.stamp
    assert [len(link.published) for link in robot.links] == [0, 1, 0, 0], "the command goes where it comes back"


@pytest.mark.parametrize("braking, expected", [
    ([], [0.05]), ([5e-10, 1e-9], [0.05]), ([4e-4, 8e-4], [0.05]), ([7e-4, 1.4e-3], [0.05, 0.0514]),
    ([0.1, 0.2], [0.05, 0.15, 0.25]), ([0.1, 0.1004], [0.05, 0.15]),
])  # fmt: skip
def test_a_commands_times_increase_by_a_millisecond(robot, braking, expected):
    """Real controllers refuse a whole trajectory whose times do not increase, and its echo comes back all the same."""
    home = robot.arm.home
    moving = Motion(home, np.full(7, 0.1), np.zeros(7))
    points = [(t, Motion.at_rest(home + 0.01 * i)) for i, t in enumerate(braking)]
    robot.driver.apply(Command(moving, points))
    message = robot.links[1].published[-1]
    np.testing.assert_allclose(times(message), expected, atol=1e-8)
    ends = points[-1][1].q if points else home
    np.testing.assert_allclose(message["points"][-1]["positions"], ends, atol=1e-9)
    assert not any(message["points"][-1]["velocities"]) or not braking, "its last point is at rest"


def test_another_clients_command_without_a_time_comes_back_as_one_of_time_0(robot):
    assert robot.driver.echo() is None
    for header in ({"stamp": {"secs": 0, "nsecs": 0}}, {}, None):
        robot.hear("command", {"header": header, "points": []})
        assert robot.driver.echo() == 0.0


def test_a_selection_takes_what_came_before_it_and_counts_the_rest():
    latest = Latest("std_msgs/String")
    latest.received = {"data": "a"}, 1.0
    selected = latest.select(lambda message: message["data"] < "m")
    latest.received = {"data": "z"}, 2.0
    assert latest.received == ({"data": "z"}, 2.0) and selected.received == ({"data": "a"}, 1.0)
    assert (selected.wanted, selected.others, selected.other) == (1, 1, {"data": "z"})


def test_a_ur5s_mode_is_published_when_it_changes():
    robot = MemoryRobot("ur5")
    robot.speak("arm", "goal", "objects")
    robot.hear("arm", {"mode": 7})
    robot.hear("wrench", {"header": robot.header(), "wrench": wrench(3.0, 4.0)["wrench"]})
    state = robot.driver.observe()
    assert state.force == pytest.approx(5.0) and state.mode == "move" and state.q.shape == (arms.load("ur5").dof,)
    limits = {reading.topic: reading.latest_s for reading in state.readings}
    assert math.isinf(limits["/ur_hardware_interface/robot_mode"]) and limits["/wrench"] == 0.1
    robot.hear("wrench", {"wrench": {"torque": {}}})
    assert "/ur_hardware_interface/robot_mode or /wrench cannot be read" in refusal(robot)


HUGE = 10**400


@pytest.mark.parametrize("name, change, words", [
    ("joint_states", {"position": [HUGE] + 6 * [0.0]}, "a number in it is too large"),
    ("joint_states", {"header": {"stamp": {"secs": HUGE, "nsecs": 0}}}, "a number in it is too large"),
    ("joint_states", {"header": {"stamp": {"secs": math.nan, "nsecs": 0}}}, "its stamp is not finite"),
    ("joint_states", {"name": 7 * ["panda_joint1"]}, "no message on /joint_states has all of panda_joint1"),
    ("arm", {"robot_mode": math.inf}, "a number in it is too large"),
    ("arm", {"O_F_ext_hat_K": 6 * [HUGE]}, "a number in it is too large"),
])  # fmt: skip
def test_numbers_that_no_computer_holds_are_a_fault_in_words(name, change, words):
    robot = MemoryRobot()
    robot.speak(name)
    message = robot.status() if name == "arm" else robot.joints(robot.arm.joints, robot.q)
    robot.hear(name, {**message, **change})
    sentence = refusal(robot)
    assert sentence.startswith("bad_state: ") and words in sentence


def test_a_message_that_names_a_joint_twice_is_refused(robot):
    robot.hear("joint_states", robot.joints([*robot.arm.joints, "panda_joint1"], [*robot.q, 2.0]))
    assert refusal(robot).endswith("it names panda_joint1 more than once")


@pytest.mark.parametrize("message", ["header", 5, [1]])
def test_what_is_no_message_is_no_state(robot, message):
    robot.hear("joint_states", message)
    assert refusal(robot).startswith("bad_state: a message on /joint_states cannot be read as")


def test_an_orientation_of_zeros_is_no_pose(robot):
    unset = pose(0.5, 0.1, 0.02) | {"orientation": dict.fromkeys("xyzw", 0.0)}
    robot.hear("objects", {"header": robot.header(), "poses": [unset]})
    assert "an orientation that is no rotation" in refusal(robot)


@pytest.mark.parametrize("secs", [HUGE, math.nan, "1", None])
def test_an_echo_that_cannot_be_read_is_another_clients(robot, secs):
    robot.hear("command", {"header": {"stamp": {"secs": secs, "nsecs": 0}}})
    assert robot.driver.echo() == 0.0
