"""The mock for rosbridge behaves as the real bridges did when their traffic was recorded.

With PBRL_ROSBRIDGE_URL (and PBRL_ROSBRIDGE_DIALECT, ros1 or ros2) set, all that needs no view behind the bridge runs
against that one instead. It wants a node there that publishes /joint_states and serves /fake_franka/stop (SetBool), on
ROS 1 rosapi, and on ROS 2 call_services_in_new_thread:=true; and 12 s between two runs, for publishers to be forgotten.
"""

import base64
import json
import math
import os
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection, connect

from real.mock.bridge import Bridge
from real.mock.definitions import encode, load
from real.mock.hub import Hub

REAL, DIALECT = os.environ.get("PBRL_ROSBRIDGE_URL"), os.environ.get("PBRL_ROSBRIDGE_DIALECT", "ros1")
RECORDED = Path(__file__).parent / "rosbridge"
NOT_BUILT = ("echo png", "echo cbor", "echo cbor_jointstate", "echo fragment")
PACE = 1.0 if REAL else 0.02  # of the recorded pauses
QUIET_S = 1.0 if REAL else 0.1  # after which nothing more is expected

behind = pytest.mark.skipif(REAL is not None, reason="looks behind the bridge")
each = pytest.mark.parametrize("dialect", [DIALECT] if REAL else ["ros1", "ros2"])


def read_cases() -> list[Any]:
    cases = []
    for dialect in [DIALECT] if REAL else ["ros1", "ros2"]:
        for line in (RECORDED / f"{dialect}.jsonl").read_text().splitlines():
            case = json.loads(line)
            skipped = case["case"] in NOT_BUILT and not REAL
            marks = [pytest.mark.skip(reason="not built: png, cbor, fragments")] if skipped else []
            cases.append(pytest.param(dialect, case, id=f"{dialect} {case['case']}", marks=marks))
    return cases


@pytest.fixture
def hub(dialect):
    """What the recorded cases found behind the bridge."""
    hub = Hub(dialect)
    hub.advertise("/joint_states", "sensor_msgs/JointState")
    reply = "" if dialect == "ros1" else "stopped={data}"
    hub.serve(
        "/fake_franka/stop", "std_srvs/SetBool", lambda asked: {"success": True, "message": reply.format(**asked)}
    )
    if dialect == "ros1":
        hub.serve("/rosapi/topic_type", "rosapi/TopicType", lambda asked: {"type": hub.types.get(asked["topic"], "")})
        hub.serve("/rosapi/get_time", "rosapi/GetTime", lambda asked: {"time": now("ros1")})
    return hub


@pytest.fixture
def bridge(hub):
    bridge = Bridge(hub, threads=True).start()
    yield bridge
    bridge.stop()


@pytest.fixture
def url(request):
    return REAL or address(request.getfixturevalue("bridge"))


def address(bridge: Bridge) -> str:
    return f"ws://127.0.0.1:{bridge.port}"


def now(dialect: str) -> dict[str, int]:
    names = ("secs", "nsecs") if dialect == "ros1" else ("sec", "nanosec")
    return dict(zip(names, divmod(time.time_ns(), 10**9), strict=True))


def send(socket: ClientConnection, *frames: Any) -> None:
    for frame in frames:
        if isinstance(frame, float):
            time.sleep(frame)
        else:
            socket.send(frame if isinstance(frame, str | bytes) else json.dumps(frame))


def receive(socket: ClientConnection, many: int = 0, timeout_s: float = 5.0) -> list[Any]:
    """`many` frames, and what else comes until it is quiet."""
    frames = []
    with pytest.raises(TimeoutError):
        while True:
            frames.append(socket.recv(timeout_s if len(frames) < many else QUIET_S))
    return frames


def canonical(frame: Any) -> Any:
    """Without what differs from run to run: times that were now, and which way a binary frame was written down."""
    if isinstance(frame, bytes):
        return {"b64": base64.b64encode(frame).decode()}
    return timeless(json.loads(frame)) if isinstance(frame, str) else frame


def timeless(value: Any) -> Any:
    if isinstance(value, list):
        return [timeless(one) for one in value]
    if not isinstance(value, dict):
        return value
    seconds = value.get("secs", value.get("sec", 0))
    if isinstance(seconds, int) and seconds > 1_500_000_000:
        return {**dict.fromkeys(value), "now": True}
    return {name: timeless(one) for name, one in value.items()}


def joints(dialect: str, topic: str) -> list[dict[str, Any]]:
    """Frames that advertise and subscribe."""
    type_ = "sensor_msgs/JointState" if dialect == "ros1" else "sensor_msgs/msg/JointState"
    return [{"op": op, "topic": topic, "type": type_} for op in ("advertise", "subscribe")]


@pytest.mark.parametrize(("dialect", "case"), read_cases())
def test_it_answers_as_recorded(dialect, case, url):
    with connect(url) as socket:
        send(socket, *(item * PACE if isinstance(item, float) else item for item in case["sent"]))
        got = receive(socket, len(case["got"]))
    assert [canonical(frame) for frame in got] == [canonical(frame) for frame in case["got"]]
    if not REAL:
        same = [(mine, its) for mine, its in zip(got, case["got"], strict=True) if "now" not in str(canonical(its))]
        assert all(mine == its for mine, its in same)  # to the letter


@each
def test_stamps_that_are_not_given_are_now(dialect, url):
    message, *_ = joints(dialect, "/g/now")
    with connect(url) as socket:
        send(socket, *joints(dialect, "/g/now"), 0.8 * PACE)
        send(socket, {**message, "op": "publish", "msg": {"header": {"frame_id": "x"}}}, {**message, "op": "publish"})
        first, second = (json.loads(frame)["msg"]["header"]["stamp"] for frame in receive(socket, 2))
    assert abs(next(iter(first.values())) - time.time()) < 60
    assert set(second.values()) == {0}  # the document says now


@each
def test_two_clients_exchange_messages_and_a_bad_frame_ends_nothing(dialect, url):
    bad = ["{nope", "", "[1]", "null", "{}", '{"op": "advertise", "id": []}', '{"op": []}',
           '{"op": "publish"}', '{"op": "subscribe", "topic": 3}',
           '{"op": "call_service"}', '{"op": "publish", "topic": "/g/two", "msg": [1]}']  # fmt: skip
    advertise, subscribe = joints(dialect, "/g/two")
    with connect(url) as one, connect(url) as two:
        send(one, subscribe)
        send(two, advertise, 0.8 * PACE, *(bad[:1] if REAL else bad))
        send(two, {"op": "publish", "topic": "/g/two", "msg": {"position": [1]}})
        (frame,) = receive(one, 1)
        assert json.loads(frame)["msg"]["position"] == [1.0]
        assert receive(two) == []


@behind
@each
def test_what_is_not_a_number_reaches_a_node(dialect, url, hub):
    got = []
    hub.subscribe("/g/nan", "sensor_msgs/JointState", got.append)
    with connect(url) as socket:
        send(socket, *joints(dialect, "/g/nan"))
        send(socket, {"op": "publish", "topic": "/g/nan", "msg": {"position": [math.nan, math.inf, 2]}})
        (frame,) = receive(socket, 1)
    assert math.isnan(got[0]["position"][0]) and got[0]["position"][1:] == [math.inf, 2.0]
    assert json.loads(frame)["msg"]["position"] == [None, None, 2.0]


@behind
@each
def test_a_publisher_outlives_its_client(dialect, bridge, hub):
    bridge.linger_s = 0.3
    with connect(address(bridge)) as socket:
        send(socket, *joints(dialect, "/g/linger"))
        receive(socket)
        assert hub.publishers("/g/linger") == 1
    time.sleep(0.1)
    assert hub.publishers("/g/linger") == 1
    time.sleep(0.4)
    assert hub.publishers("/g/linger") == 0
    assert Bridge(hub).linger_s >= 10


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


@behind
@each
def test_a_zombie_accepts_clients_and_no_more(dialect, bridge, hub):
    with connect(address(bridge)) as early:
        send(early, *joints(dialect, "/joint_states"))
        receive(early)
        bridge.zombie = True
        with connect(address(bridge)) as socket:
            send(socket, {"op": "call_service", "service": "/fake_franka/stop"}, *joints(dialect, "/joint_states"))
            hub.publish("/joint_states", {"position": [1.0]})
            assert receive(socket) == receive(early) == []
            assert socket.ping().wait(1)


@behind
@each
def test_a_binary_frame_is_dropped(dialect, url):
    call = {"op": "call_service", "service": "/fake_franka/stop"}
    with connect(url) as socket:
        send(socket, json.dumps(call).encode(), b"\xff")
        assert receive(socket) == []
        send(socket, call)
        assert len(receive(socket, 1)) == 1


@behind
@each
def test_unsubscribing_throttling_and_no_compression(dialect, hub, url):
    _, subscribe = joints(dialect, "/joint_states")
    with connect(url) as socket:
        send(socket, {**subscribe, "throttle_rate": 10_000, "id": "a"})
        receive(socket)
        for i in range(5):
            hub.publish("/joint_states", {"position": [i]})
        assert len(receive(socket, 1)) == 1
        send(socket, {**subscribe, "id": "b"})  # the more demanding one counts
        receive(socket)
        hub.publish("/joint_states", {"position": [5]})
        assert len(receive(socket, 1)) == 1
        send(socket, {"op": "unsubscribe", "topic": "/joint_states", "id": "c"})
        send(socket, {"op": "unsubscribe", "topic": "/joint_states"})
        send(socket, {**subscribe, "compression": "cbor"})
        receive(socket)
        hub.publish("/joint_states", {"position": [6]})
        assert receive(socket) == []


@behind
@each
def test_a_throttled_queue_keeps_its_newest(dialect, hub, url):
    _, subscribe = joints(dialect, "/joint_states")
    with connect(url) as socket:
        send(socket, {**subscribe, "throttle_rate": 50, "queue_length": 2})
        receive(socket)
        for i in range(6):
            hub.publish("/joint_states", {"position": [i]})
        assert [json.loads(frame)["msg"]["position"] for frame in receive(socket, 3)] == [[0.0], [4.0], [5.0]]


@behind
@each
def test_a_slow_reader_gets_all_of_it_late(dialect, hub, url):
    """Nothing is dropped, whatever queue_length says."""
    _, subscribe = joints(dialect, "/joint_states")
    state = {"name": ["panda_joint1"] * 1000}  # more than the sockets hold
    with connect(url, max_queue=1) as socket:
        send(socket, {**subscribe, "queue_length": 1})
        receive(socket)
        for i in range(1000):
            hub.publish("/joint_states", {**state, "effort": [i]})
        frames = receive(socket, 1000)
    assert [json.loads(frame)["msg"]["effort"][0] for frame in frames] == list(range(1000))


@behind
@each
def test_a_thousand_commands_in_two_seconds(dialect, hub, url):
    got, done = [], threading.Event()

    def take(message: dict[str, Any]) -> None:
        got.append(message["position"][0])
        if len(got) == 1000:
            done.set()

    hub.subscribe("/g/fast", "sensor_msgs/JointState", take)
    frame = {"op": "publish", "topic": "/g/fast", "msg": {"name": ["a"] * 7, "velocity": [0.1] * 7}}
    with connect(url) as socket:
        send(socket, joints(dialect, "/g/fast")[0])
        begun = time.monotonic()
        for i in range(1000):
            frame["msg"]["position"] = [i] * 7
            send(socket, frame)
        assert done.wait(10)
    assert got == list(range(1000))
    assert time.monotonic() - begun < 2


@behind
@each
def test_stopping_ends_connections_and_frees_the_port(dialect, hub):
    bridge = Bridge(hub).start()
    with connect(address(bridge)) as socket:
        bridge.stop()
        with pytest.raises(ConnectionClosed):
            socket.recv(2)
    again = Bridge(hub, port=bridge.port).start()
    with pytest.raises(OSError):
        Bridge(hub, port=bridge.port).start()
    again.stop()


def test_the_dialects_differ_about_headers_and_names():
    one, two = load("ros1"), load("ros2")
    stamp = {"secs": 12, "nsecs": 34}
    joint = {"header": {"seq": 7, "stamp": stamp}}
    assert one.validate("sensor_msgs/JointState", joint)["header"]["stamp"] == stamp
    with pytest.raises(ValueError, match="does not have a field header.seq"):
        two.validate("sensor_msgs/JointState", joint)
    for spelling in (stamp, {"sec": 12, "nanosec": 34}):
        header = two.validate("sensor_msgs/msg/JointState", {"header": {"stamp": spelling}})["header"]
        assert header == {"stamp": {"sec": 12, "nanosec": 34}, "frame_id": ""}
    with pytest.raises(ValueError, match="not a valid type"):
        one.name("sensor_msgs/msg/JointState")
    assert two.name("sensor_msgs/JointState") == "sensor_msgs/msg/JointState"
    assert two.validate("geometry_msgs/Pose", {})["orientation"]["w"] == 1.0
    assert one.validate("geometry_msgs/Pose", {})["orientation"]["w"] == 0.0


@pytest.mark.parametrize("dialect", ["ros1", "ros2"])
@pytest.mark.parametrize(
    ("type_", "message"),
    [
        ("sensor_msgs/JointState", {"position": ["1"]}),
        ("sensor_msgs/JointState", {"position": [None]}),
        ("sensor_msgs/JointState", {"name": [1]}),
        ("sensor_msgs/JointState", {"header": []}),
        ("sensor_msgs/JointState", {"header": {"stamp": {"secs": -1, "nsecs": -1}}}),
        ("std_msgs/Bool", {"data": 1}),
        ("std_msgs/Int8", {"data": 128}),
        ("std_msgs/Int32", {"data": 1.0}),
        ("std_msgs/Float32", {"data": 1e300}),
        ("std_msgs/Float64", {"data": None}),
        ("std_msgs/String", {"data": 1}),
        ("std_msgs/String", []),
        ("std_msgs/Nothing", {}),
        ("String", {}),
        ("sensor_msgs/CompressedImage", {"data": "AAE"}),
        ("sensor_msgs/CompressedImage", {"data": [256]}),
        ("franka_msgs/FrankaState", {"q": [0.0] * 6}),
        ("franka_msgs/FrankaState", {"current_errors": {"joint_reflex": 1}}),
    ],
)
def test_what_is_refused(dialect, type_, message):
    with pytest.raises(ValueError):
        load(dialect).validate(type_, message)


@pytest.mark.parametrize("dialect", ["ros1", "ros2"])
def test_bytes_and_numbers(dialect):
    definitions = load(dialect)
    image = definitions.validate("sensor_msgs/CompressedImage", {"data": "/9hhYmM="})
    assert image["data"] == b"\xff\xd8abc" and encode(image)["data"] == "/9hhYmM="
    assert definitions.validate("sensor_msgs/CompressedImage", {"data": [1, 2]})["data"] == b"\x01\x02"
    assert definitions.validate("std_msgs/Float32", {"data": 1})["data"] == 1.0
    assert definitions.validate("std_msgs/Float32", {"data": 0.1})["data"] == pytest.approx(0.1, abs=1e-8)
    assert definitions.validate("std_msgs/Empty", {}) == {}
    state = definitions.validate("franka_msgs/FrankaState", {"q": [1] * 7})
    assert state["q"] == [1.0] * 7 and len(state["dq"]) == 7 and state["current_errors"]["joint_reflex"] is False
