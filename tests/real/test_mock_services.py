"""Services and actions behind the mock's bridge, as the real bridges have them."""

import json
import time
from typing import Any

import pytest
from websockets.sync.client import connect

from real.mock.bridge import Bridge
from tests.real.bridges import address, behind, each, receive, send


def slow(goal: Any) -> dict[str, Any]:
    for width in range(20):
        goal.feedback({})
        if goal.cancelled.wait(0.025):
            return {"success": False, "error": f"cancelled at {width}"}
    return {"success": True}


GOAL = {"op": "send_action_goal", "id": "g", "action": "/grip", "action_type": "franka_msgs/action/Move",
        "args": {"width": 0.04}, "feedback": True}  # fmt: skip


@behind
@pytest.mark.parametrize(("dialect", "threads"), [("ros2", True), ("ros2", False)])
def test_a_goal_holds_up_its_own_connection_only_without_threads(hub, threads):
    hub.act("/grip", "franka_msgs/Move", slow)
    bridge = Bridge(hub, threads=threads).start()
    call = {"op": "call_service", "id": "c", "service": "/fake_franka/stop"}
    cancel = {"op": "cancel_action_goal", "id": "g", "action": "/grip"}
    with connect(address(bridge)) as socket, connect(address(bridge)) as other:
        send(socket, GOAL, 0.1, call)
        send(other, call)
        begun = time.monotonic()
        assert json.loads(other.recv(1))["id"] == "c"
        assert time.monotonic() - begun < 0.3
        send(socket, cancel)
        frames = [json.loads(frame) for frame in receive(socket, 5)]
    bridge.stop()
    assert frames[0] == {"op": "action_feedback", "action": "/grip", "values": {}, "id": "g"}
    order = [frame["op"] for frame in frames if frame["op"] != "action_feedback"]
    result = next(frame for frame in frames if frame["op"] == "action_result")
    assert order == (["service_response", "action_result"] if threads else ["action_result", "service_response"])
    assert result["result"] and result["status"] == (5 if threads else 4)
    assert result["values"]["success"] is not threads


@behind
@pytest.mark.parametrize("dialect", ["ros2"])
def test_goals_that_go_wrong(hub, url):
    def breaks(goal: Any) -> dict[str, Any]:
        raise RuntimeError

    hub.act("/breaks", "franka_msgs/Move", breaks)
    wrong = [{"args": {"with": 1}}, {"action": "/absent"}, {"action": "/breaks"}]
    with connect(url) as socket:
        for change in wrong:
            send(socket, {**GOAL, **change})
        frames = [json.loads(frame) for frame in receive(socket, 3)]
    results = {(frame["action"], frame["result"], frame["status"]): frame["values"] for frame in frames}
    assert results["/grip", False, 0] == "Message type franka_msgs/Move_Goal does not have a field with"
    assert results["/absent", False, 0] == "No action server available"
    assert results["/breaks", True, 6] == {"success": False, "error": ""}


@behind
@pytest.mark.parametrize("dialect", ["ros1"])
def test_an_action_of_ros_1_is_topics(hub, url):
    def move(message: dict[str, Any]) -> None:
        status = {"goal_id": message["goal_id"], "status": 3}
        hub.publish("/grip/result", {"status": status, "result": {"success": message["goal"]["width"] > 0}})

    hub.advertise("/grip/result", "franka_gripper/MoveActionResult")
    hub.subscribe("/grip/goal", "franka_gripper/MoveActionGoal", move)
    goal = {"goal_id": {"id": "g7"}, "goal": {"width": 0.04, "speed": 1}}
    with connect(url) as socket:
        send(socket, {"op": "subscribe", "topic": "/grip/result", "type": "franka_gripper/MoveActionResult"})
        send(socket, {"op": "publish", "topic": "/grip/goal", "type": "franka_gripper/MoveActionGoal", "msg": goal})
        send(socket, GOAL)  # an op it does not know
        (frame,) = receive(socket, 1)
    message = json.loads(frame)["msg"]
    assert message["status"]["goal_id"]["id"] == "g7" and message["result"]["success"]


@behind
@each
def test_services_that_fail(dialect, hub, url):
    def breaks(asked: dict[str, Any]) -> dict[str, Any]:
        raise RuntimeError("no power")

    hub.serve("/breaks", "std_srvs/Trigger", breaks)
    with connect(url) as socket:
        send(socket, {"op": "call_service", "service": "/fake_franka/stop", "args": {"data": "x"}})
        (frame,) = receive(socket, 1)
        part = "SetBoolRequest" if dialect == "ros1" else "SetBool_Request"
        expected = "bool" if dialect == "ros1" else "boolean"
        why = f"std_srvs/{part} message requires a {expected} for field data, but got a <class 'str'>"
        assert json.loads(frame) == {**json.loads(frame), "values": why, "result": False}
        send(socket, {"op": "call_service", "service": "/breaks"})
        frames = receive(socket, int(dialect == "ros1"))
    if dialect == "ros2":  # the node is dead, and the bridge waits
        assert frames == []
    else:
        words = "service [/breaks] responded with an error: b'error processing request: no power'"
        assert json.loads(frames[0])["values"] == words


@behind
@each
def test_a_client_that_leaves_takes_its_service_with_it(dialect, hub, url):
    type_ = "std_srvs/SetBool" if dialect == "ros1" else "std_srvs/srv/SetBool"
    with connect(url) as one, connect(url) as two:
        send(one, {"op": "advertise_service", "service": "/left", "type": type_})
        receive(one)
        send(two, {"op": "call_service", "service": "/left", "args": [True], "id": 1})
        (frame,) = receive(one, 1)
        assert json.loads(frame)["args"] == {"data": True}
        one.close()
        frames = receive(two, int(dialect == "ros1"))
        assert (dialect == "ros2") == (frames == [])
        send(two, {"op": "call_service", "service": "/left", "id": 2})
        (frame,) = receive(two, 1)
    assert json.loads(frame)["values"] == "Service /left does not exist"
