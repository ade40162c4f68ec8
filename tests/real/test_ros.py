"""A link as a node of its own, where ROS is: one of ours talks to another of ours. Elsewhere: what is said instead."""

import sys
from typing import Any

import pytest

from pbrl.types import UserError
from real.settings import load_robot_settings
from real.transports import link_opener
from real.transports.link import LinkError
from robots.arm import load as load_arm
from tests.real.test_real import until

ROBOTS = {"rospy": "panda", "rclpy": "fr3"}


@pytest.mark.parametrize("transport", ROBOTS)
def test_two_nodes_exchange_messages(transport):
    pytest.importorskip(transport, reason="needs ROS on this machine")
    if transport == "rospy" and not pytest.importorskip("rosgraph").is_master_online():
        pytest.skip("needs roscore")
    robot = {**load_robot_settings(ROBOTS[transport]), "transport": transport}
    here: Any = link_opener(robot)("")
    there: Any = link_opener(robot)("")
    topic, type_ = robot["topics"]["command"]
    here.advertise(topic, type_)
    subscription = there.subscribe(topic, type_)
    second, nano = ("secs", "nsecs") if transport == "rospy" else ("sec", "nanosec")
    point = {
        "positions": 7 * [0.5],
        "velocities": 7 * [0.0],
        "accelerations": [],
        "time_from_start": {second: 0, nano: 5},
    }
    message = {
        "header": {"stamp": {second: 12, nano: 34}},
        "joint_names": list(load_arm(ROBOTS[transport]).joints),
        "points": [point, point],
    }
    assert until(lambda: here.publish(topic, message) and subscription.received[0] is not None, 5)[0]
    received: Any = subscription.received[0]
    assert received["header"]["stamp"] == {second: 12, nano: 34} and list(received["joint_names"]) == list(
        load_arm(ROBOTS[transport]).joints
    )
    assert list(received["points"][1]["positions"]) == 7 * [0.5] and received["points"][1]["time_from_start"][nano] == 5
    assert not here.publish(topic, {"points": [{"positions": [float("nan")]}]}), "no number is no command"
    with pytest.raises(LinkError):
        here.call(robot["services"]["stop"][0], {}, 0.5)
    name, type_, key = (
        (here.rospy.get_name() + "/get_loggers", "roscpp/GetLoggers", "loggers")
        if transport == "rospy"
        else (there.node.get_fully_qualified_name() + "/list_parameters", "rcl_interfaces/ListParameters", "result")
    )
    here.types[name] = type_
    assert key in here.call(name, {}, 3.0), "every node has such a service"
    here.close()
    assert not here.publish(topic, message)
    there.close()


@pytest.mark.parametrize("transport", ROBOTS)
def test_without_ros_an_error_says_so(transport, monkeypatch):
    monkeypatch.setitem(sys.modules, transport, None)
    with pytest.raises(UserError, match=f"transport: {transport} needs ROS on this machine"):
        link_opener({**load_robot_settings(ROBOTS[transport]), "transport": transport})("")


def test_an_unknown_transport_is_reported():
    for transport, robot in (("pigeon", "panda"), ("rclpy", "panda"), ("rospy", "fr3")):
        with pytest.raises(UserError, match="it is one of|has r"):
            link_opener({**load_robot_settings(robot), "transport": transport})
