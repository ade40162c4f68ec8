"""The mock for rosbridge behaves as the real bridges did when their traffic was recorded.

With PBRL_ROSBRIDGE_URL (and PBRL_ROSBRIDGE_DIALECT, ros1 or ros2) set, all that needs no view behind the bridge runs
against that one instead. It wants a node there that publishes /joint_states and serves /fake_franka/stop (SetBool), on
ROS 1 rosapi, and on ROS 2 call_services_in_new_thread:=true; and 12 s between two runs, for publishers to be forgotten.
"""

import json
import math
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

from real.mock.bridge import Bridge
from tests.real.bridges import DIALECT, PACE, REAL, address, behind, canonical, each, joints, receive, send

RECORDED = Path(__file__).parent / "rosbridge"
NOT_BUILT = ("echo png", "echo cbor", "echo cbor_jointstate", "echo fragment")


def read_cases() -> list[Any]:
    cases = []
    for dialect in [DIALECT] if REAL else ["ros1", "ros2"]:
        for line in (RECORDED / f"{dialect}.jsonl").read_text().splitlines():
            case = json.loads(line)
            skipped = case["case"] in NOT_BUILT and not REAL
            marks = [pytest.mark.skip(reason="not built: png, cbor, fragments")] if skipped else []
            cases.append(pytest.param(dialect, case, id=f"{dialect} {case['case']}", marks=marks))
    return cases


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
