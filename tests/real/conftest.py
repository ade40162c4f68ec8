"""Fixtures of tests of the mock's bridge."""

import pytest

from real.mock.bridge import Bridge
from real.mock.hub import Hub
from tests.real.bridges import REAL, address, now


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
