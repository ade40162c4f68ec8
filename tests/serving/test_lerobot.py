"""LeRobot's policy server: what reaches it, what is read of its answers, and what is refused.

The server here has LeRobot 0.4.4's messages, services and classes. The client was tried on LeRobot's own server with an
ACT policy, too: its chunks were those of the policy asked there, to 6e-7.
"""

import io
import pickle
import sys
import types
from concurrent import futures
from dataclasses import dataclass, field

import grpc
import numpy as np
import pytest
import torch
import yaml

from pbrl.data.rollout import PolicyActor, RolloutWorkers
from pbrl.models.policy import load_policy
from pbrl.serving import lerobot
from pbrl.serving.lerobot import CLASSES, SERVICE, read_actions, read_field, stream, varint
from pbrl.types import UserError
from tests.serving.test_serving import CONFIG, ENV


@dataclass
class TimedAction:
    timestamp: float
    timestep: int
    action: torch.Tensor


@dataclass
class TimedObservation:
    timestamp: float
    timestep: int
    observation: dict
    must_go: bool = False


@dataclass
class RemotePolicyConfig:
    policy_type: str
    pretrained_name_or_path: str
    lerobot_features: dict
    actions_per_chunk: int
    device: str = "cpu"
    rename_map: dict = field(default_factory=dict)


@pytest.fixture
def classes(monkeypatch):
    """LeRobot's module, as pickles name it."""
    for name in ("lerobot", "lerobot.async_inference", CLASSES):
        monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
    for kind in (TimedAction, TimedObservation, RemotePolicyConfig):
        monkeypatch.setattr(kind, "__module__", CLASSES)
        setattr(sys.modules[CLASSES], kind.__name__, kind)


class Server(grpc.GenericRpcHandler):
    """Keeps the newest observation and answers it by `act`, as LeRobot's does."""

    def __init__(self, act):
        self.act, self.policy, self.newest, self.ready = act, None, None, 0
        self.server = grpc.server(futures.ThreadPoolExecutor(4))
        self.server.add_generic_rpc_handlers((self,))
        self.url = f"grpc://127.0.0.1:{self.server.add_insecure_port('127.0.0.1:0')}"

    def service(self, call):
        kinds = {"SendObservations": grpc.stream_unary_rpc_method_handler}
        name = call.method.removeprefix(SERVICE)
        return kinds.get(name, grpc.unary_unary_rpc_method_handler)(getattr(self, name))

    def Ready(self, message, context):  # noqa: N802
        self.ready += 1
        return b""

    def SendPolicyInstructions(self, message, context):  # noqa: N802
        self.policy = pickle.loads(read_field(message, 1))
        return b""

    def SendObservations(self, messages, context):  # noqa: N802
        parts = list(messages)
        states = [part[:2] for part in parts]
        assert states[-1] == b"\x08\x03" and all(state == b"\x08\x02" for state in states[1:-1])
        self.newest = pickle.loads(b"".join(read_field(part, 2) for part in parts))
        return b""

    def GetActions(self, message, context):  # noqa: N802
        answer = self.act(self.newest)
        return answer if isinstance(answer, bytes) else lerobot.field(1, pickle.dumps(answer))

    def __enter__(self):
        self.server.start()
        return self

    def __exit__(self, *error):
        self.server.stop(None).wait()

    def described(self, folder, **changes):
        model = {"type": "act", "path": "someone/act", "device": "cpu"}
        plain = {"url": self.url, "state": {"robot": [0, 3], "gripper": [3, 4]}, "images": {"front": "corner2"},
                 "instruction": "task", "actions": None, "model": model}  # fmt: skip
        (folder / "lerobot.yaml").write_text(yaml.safe_dump({**CONFIG, **plain, **changes}, sort_keys=False))
        return folder / "lerobot.yaml"


def actions_of(seen: TimedObservation, rows: int = 6) -> list[TimedAction]:
    """The hand's place as actions, so that an answer says which observation it is of."""
    place = torch.tensor([seen.observation[f"robot.{i}"] for i in range(3)] + [0.5])
    return [TimedAction(0.0, seen.timestep + k, place) for k in range(rows)]


def test_it_plays_as_lerobots_policy_says(classes, tmp_path):
    with Server(actions_of) as server:
        policy = load_policy(server.described(tmp_path))
        assert policy.is_single
        (episode,) = RolloutWorkers(ENV, 1).collect(PolicyActor(policy), [3])
        np.testing.assert_allclose(episode.action[::4, :3], np.clip(episode.obs[:-1:4, :3], -1, 1), atol=1e-6)
        told, newest = server.policy, server.newest
    assert (told.policy_type, told.pretrained_name_or_path, told.device) == ("act", "someone/act", "cpu")
    state = told.lerobot_features["observation.state"]
    assert state == {"dtype": "float32", "shape": (4,), "names": ["robot.0", "robot.1", "robot.2", "gripper.3"]}
    assert told.lerobot_features["observation.images.front"]["shape"] == (32, 32, 3) and told.actions_per_chunk == 4
    assert newest.must_go and newest.observation["task"] == episode.instruction
    image = newest.observation["front"]
    assert image.shape == (32, 32, 3) and image.dtype == np.uint8 and image.std() > 10


@pytest.mark.parametrize(
    ("act", "words"),
    [
        (lambda seen: b"", "gave no actions: its log says why"),
        (lambda seen: actions_of(seen, rows=2), r"shape \[2, 4\]"),
        (lambda seen: actions_of(TimedObservation(0, 1, seen.observation)), "what another client had asked"),
        (lambda seen: [io.StringIO()], "a _io.StringIO, which is not read"),
        (lambda seen: [1, 2], "no list of actions"),
        (lambda seen: b"\x0a\xff\x01", "no message of its protocol"),
        (lambda seen: 1 / 0, "did not do GetActions .unknown"),
    ],
    ids=["nothing", "short", "others", "a_class", "numbers", "torn", "its_error"],
)
def test_what_does_not_fit_is_said(classes, tmp_path, act, words):
    with Server(act) as server, pytest.raises(UserError, match=words):
        load_policy(server.described(tmp_path))


def test_a_server_that_is_not_there(tmp_path):
    with pytest.raises(UserError, match="LeRobot's server at grpc://127.0.0.1:9 did not do Ready"):
        load_policy(Server(actions_of).described(tmp_path, url="grpc://127.0.0.1:9"))


@pytest.mark.parametrize("change", [{"model": None}, {"model": {"type": "act"}}, {"url": "ws://127.0.0.1:9"}], ids=str)
def test_a_file_says_what_is_loaded(tmp_path, change):
    with pytest.raises(UserError, match="model"):
        load_policy(Server(actions_of).described(tmp_path, **change))


def test_messages_are_protocol_buffers():
    assert varint(1) == b"\x01" and varint(300) == b"\xac\x02"  # the example of their documentation
    data = bytes(range(256)) * 20_000
    parts = list(stream(data))
    assert len(parts) == 3 and [part[:2] for part in parts] == [b"\x08\x01", b"\x08\x02", b"\x08\x03"]
    assert b"".join(read_field(part, 2) for part in parts) == data
    assert read_field(b"\x08\x01", 2) == b""


def test_tensors_of_each_kind_are_read(classes):
    for kind in (torch.float32, torch.float64, torch.bfloat16):
        sent = [TimedAction(0.0, 7 + k, torch.full((4,), 0.25, dtype=kind)) for k in range(2)]
        actions, timestep = read_actions(pickle.dumps(sent))
        assert timestep == 7 and actions.tolist() == [[0.25] * 4] * 2
