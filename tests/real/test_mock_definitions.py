"""What the mock's bridge makes of JSON for messages of ROS 1 and ROS 2, and what it refuses."""

import pytest

from real.mock.definitions import encode, load


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
