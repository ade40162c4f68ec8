"""The same link as a node of its own, on a machine that has ROS: rospy (ROS 1) or rclpy (ROS 2), without rosbridge.

What is published goes to the present subscribers, and one message at most waits for it. Messages are dicts, as in
rosbridge's JSON; services and actions are called by the types in configs/robot.
"""

import base64
import json
import os
import threading
import time
from concurrent.futures import Future, ThreadPoolExecutor
from importlib import import_module
from itertools import count
from typing import Any

from pbrl.types import UserError
from real.transports.link import Latest, LinkError


class RospyLink:
    """A link of this process's one node; the master is ROS_MASTER_URI's. `types`: of services. Raises UserError."""

    def __init__(self, types: dict[str, str]):
        rospy, rosgraph, self.genpy = import_modules("rospy", "rosgraph", "genpy.message")
        self.rospy, self.types, self.is_connected = rospy, types, True
        if not rosgraph.is_master_online():
            raise UserError(f"no ROS master at {rosgraph.get_master_uri()}: start roscore, or set ROS_MASTER_URI")
        if not rospy.core.is_initialized():
            rospy.init_node("pbrl", anonymous=True, disable_signals=True)
        self.topics: dict[str, Latest] = {}
        self.subscribers: list[Any] = []
        self.publishers: dict[str, Any] = {}
        self.calls = ThreadPoolExecutor(1)

    def wait(self, timeout_s: float) -> None:
        """Returns at once: a node has no connection to wait for."""

    def subscribe(self, topic: str, type_: str) -> Latest:
        """The newest message of a topic from now on."""
        latest = self.topics.setdefault(topic, Latest(type_))

        def store(message: Any) -> None:
            latest.received = to_json(message), time.monotonic()

        kind = self.genpy.get_message_class(type_)
        self.subscribers.append(self.rospy.Subscriber(topic, kind, store, queue_size=1, tcp_nodelay=True))
        return latest

    def advertise(self, topic: str, type_: str) -> None:
        """Announces a topic, before its first message."""
        kind = self.genpy.get_message_class(type_)
        self.publishers[topic] = self.rospy.Publisher(topic, kind, queue_size=1, tcp_nodelay=True)

    def publish(self, topic: str, message: dict[str, Any]) -> bool:
        """Publishes now or never: False after `close`, or where a number is not finite."""
        publisher = self.publishers[topic]
        if not (self.is_connected and is_finite(message)):
            return False
        filled = publisher.data_class()
        self.genpy.fill_message_args(filled, [message])
        publisher.publish(filled)
        return True

    def call(self, service: str, args: dict[str, Any], timeout_s: float) -> dict[str, Any]:
        """The response of a service. Raises LinkError."""
        kind = self.genpy.get_service_class(self.types[service])
        if kind is None:
            raise LinkError(f"{service}: no messages of {self.types[service]}: source its workspace")
        request = kind._request_class()
        self.genpy.fill_message_args(request, [args])

        def ask() -> Any:
            self.rospy.wait_for_service(service, timeout_s)
            return self.rospy.ServiceProxy(service, kind)(request)

        try:
            return to_json(self.calls.submit(ask).result(timeout_s))
        except TimeoutError:
            raise LinkError(f"{service} did not answer within {timeout_s} s") from None
        except (self.rospy.ROSException, self.rospy.ServiceException) as error:
            raise LinkError(f"{service} failed: {error}") from error

    def act(self, action: str, type_: str, goal: dict[str, Any]) -> bool:
        """Sends an action's goal, without waiting for its result; False where there is no server."""
        return False  # actions of ROS 1 are topics

    def close(self) -> None:
        """Ends the node's work; nothing is sent afterwards."""
        self.is_connected = False
        for registered in (*self.subscribers, *self.publishers.values()):
            registered.unregister()
        self.calls.shutdown(wait=False)


class RclpyLink:
    """A node, with a thread that serves it. `types`: of services. Raises UserError."""

    numbers = count()

    def __init__(self, types: dict[str, str]):
        rclpy, _, _, _, self.convert, self.named = import_modules(
            "rclpy",
            "rclpy.action",
            "rclpy.executors",
            "rclpy.signals",
            "rosidl_runtime_py",
            "rosidl_runtime_py.utilities",
        )
        self.rclpy = rclpy
        self.types, self.is_connected = types, True
        if not rclpy.ok():
            rclpy.init(signal_handler_options=rclpy.signals.SignalHandlerOptions.NO)
        self.node = rclpy.create_node(f"pbrl_{os.getpid()}_{next(self.numbers)}")
        qos = rclpy.qos
        self.subscriber_qos = qos.QoSProfile(
            depth=1, reliability=qos.ReliabilityPolicy.BEST_EFFORT
        )  # receives either kind
        self.publisher_qos = qos.QoSProfile(depth=1)
        self.topics: dict[str, Latest] = {}
        self.publishers: dict[str, Any] = {}
        self.clients: dict[str, Any] = {}
        self.executor = rclpy.executors.SingleThreadedExecutor()
        self.executor.add_node(self.node)
        threading.Thread(target=self.executor.spin, daemon=True).start()

    def wait(self, timeout_s: float) -> None:
        """Returns at once: a node has no connection to wait for."""

    def subscribe(self, topic: str, type_: str) -> Latest:
        """The newest message of a topic from now on."""
        latest = self.topics.setdefault(topic, Latest(type_))

        def store(message: Any) -> None:
            latest.received = self.convert.message_to_ordereddict(message), time.monotonic()

        self.node.create_subscription(
            self.named.get_message(full_type(type_, "msg")), topic, store, self.subscriber_qos
        )
        return latest

    def advertise(self, topic: str, type_: str) -> None:
        """Announces a topic, before its first message."""
        kind = self.named.get_message(full_type(type_, "msg"))
        self.publishers[topic] = kind, self.node.create_publisher(kind, topic, self.publisher_qos)

    def publish(self, topic: str, message: dict[str, Any]) -> bool:
        """Publishes now or never: False after `close`, or where a number is not finite."""
        kind, publisher = self.publishers[topic]
        if not (self.is_connected and is_finite(message)):
            return False
        publisher.publish(self._fill(kind, message))
        return True

    def call(self, service: str, args: dict[str, Any], timeout_s: float) -> dict[str, Any]:
        """The response of a service. Raises LinkError."""
        kind = self.named.get_service(full_type(self.types[service], "srv"))
        if service not in self.clients:
            self.clients[service] = self.node.create_client(kind, service)
        client, end = self.clients[service], time.monotonic() + timeout_s
        if not client.wait_for_service(timeout_sec=timeout_s):
            raise LinkError(f"{service} is not there")
        answer: Future = Future()
        asked = client.call_async(self._fill(kind.Request, args))
        asked.add_done_callback(lambda done: answer.set_result(done.result()))
        try:
            response = answer.result(max(end - time.monotonic(), 0))
        except TimeoutError:
            raise LinkError(f"{service} did not answer within {timeout_s} s") from None
        return self.convert.message_to_ordereddict(response)

    def act(self, action: str, type_: str, goal: dict[str, Any]) -> bool:
        """Sends an action's goal, without waiting for its result; False where there is no server."""
        kind = self.named.get_action(full_type(type_, "action"))
        if action not in self.clients:
            self.clients[action] = self.rclpy.action.ActionClient(self.node, kind, action)
        client = self.clients[action]
        if not client.server_is_ready():  # not at once; the driver asks again
            return False
        client.send_goal_async(self._fill(kind.Goal, goal))
        return True

    def close(self) -> None:
        """Ends the node's work; nothing is sent afterwards."""
        self.is_connected = False
        self.executor.shutdown()
        self.node.destroy_node()

    def _fill(self, kind: Any, fields: dict[str, Any]) -> Any:
        message = kind()
        self.convert.set_message_fields(message, fields)
        return message


def to_json(value: Any) -> Any:
    """A message of ROS 1 as JSON has it."""
    if hasattr(value, "__slots__"):
        return {name: to_json(getattr(value, name)) for name in value.__slots__}
    if isinstance(value, bytes):
        return base64.b64encode(value).decode()
    return [to_json(part) for part in value] if isinstance(value, (list, tuple)) else value


def is_finite(message: dict[str, Any]) -> bool:
    """Whether all numbers of a message are."""
    try:
        json.dumps(message, allow_nan=False)
    except ValueError:
        return False
    return True


def full_type(type_: str, kind: str) -> str:
    """pkg/Type as ROS 2 names it: pkg/kind/Type."""
    return f"{type_.split('/')[0]}/{kind}/{type_.split('/')[-1]}"


def import_modules(*names: str) -> list[Any]:
    """Modules of ROS. Raises UserError."""
    try:
        return [import_module(name) for name in names]
    except ImportError as error:
        raise UserError(
            f"transport: {names[0]} needs ROS on this machine ({error}): source its setup.bash, or use websockets"
        ) from error
