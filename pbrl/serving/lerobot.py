"""LeRobot's policy server (`python -m lerobot.async_inference.policy_server`), spoken to over gRPC.

Its messages are pickles of its own classes. Ours are written without those classes; of what comes back only tensors and
its `TimedAction` are read, and nothing else that a pickle could name is looked up. Its server reads pickles of anybody:
keep it in your own network.
"""

import io
import os
import pickle
import struct
import time
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch

from pbrl.types import UserError

SERVICE, CLASSES = "/transport.AsyncInference/", "lerobot.async_inference.helpers"
PART = 2**21  # bytes of a message of a stream, as LeRobot's own client cuts it
BEGIN, MIDDLE, END = 1, 2, 3  # TransferState of LeRobot's services.proto
LARGEST = 2**28


class LeRobotConnection:
    """Asks a server to load `model` (type, path, device), and then for chunks; made anew in each process.

    The server answers one client at a time: it keeps the newest observation, whoever sent it. Raises UserError.
    """

    def __init__(self, url: str, model: Mapping[str, str], features: Mapping[str, Any], count: int, timeout_s: float):
        self.url, self.model, self.features, self.count = url, dict(model), dict(features), count
        self.timeout_s = timeout_s
        self.channel: Any = None
        self.asked = int.from_bytes(os.urandom(5), "big")  # another client counts from elsewhere

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "channel": None}

    def ask(self, raw: dict[str, Any]) -> np.ndarray:
        """Numbers by name, images [H, W, 3] uint8 and `task` → the chunk that the policy answers with, [K, A]."""
        if self.channel is None:
            self._open()
        self.asked += 1
        observation = {"timestamp": time.time(), "timestep": self.asked, "observation": raw, "must_go": True}
        self._call("SendObservations", stream(dataclass_pickle("TimedObservation", observation)))
        answer = read_field(self._call("GetActions", b""), 1)
        if not answer:
            raise UserError(
                f"{self.url} gave no actions: its log says why (an image or a number that its policy does not have?)"
            )
        actions, timestep = read_actions(answer)
        if timestep != self.asked:
            raise UserError(f"{self.url} answered what another client had asked: it can serve one at a time")
        return actions

    def _open(self) -> None:
        try:
            import grpc
        except ImportError as error:
            raise UserError(f"LeRobot's server needs {error.name}: pip install pbrl[lerobot]") from error
        most = [(f"grpc.max_{way}_message_length", LARGEST) for way in ("send", "receive")]
        self.channel = grpc.insecure_channel(self.url.removeprefix("grpc://"), most)
        own = {
            "policy_type": self.model["type"], "pretrained_name_or_path": self.model["path"],
            "lerobot_features": self.features, "actions_per_chunk": self.count, "device": self.model["device"],
            "rename_map": {},
        }  # fmt: skip
        self._call("Ready", b"")
        self._call("SendPolicyInstructions", field(1, dataclass_pickle("RemotePolicyConfig", own)))

    def _call(self, name: str, message: Any) -> bytes:
        import grpc

        method = self.channel.stream_unary if isinstance(message, Iterator) else self.channel.unary_unary
        try:
            return method(SERVICE + name)(message, timeout=self.timeout_s)
        except grpc.RpcError as error:
            self.close()
            what = f"{error.code().name.lower()}: {error.details()}"  # type: ignore[attr-defined]
            raise UserError(f"LeRobot's server at {self.url} did not do {name} ({what[:300]})") from error

    def close(self) -> None:
        """Ends the connection."""
        if self.channel is not None:
            self.channel.close()
        self.channel = None


def describe_features(
    state: Sequence[str], shapes: Mapping[str, Sequence[int]], images: Mapping[str, str]
) -> dict[str, Any]:
    """What LeRobot is told of observations: the names of the state's numbers, and each image's shape."""
    found: dict[str, Any] = {"observation.state": {"dtype": "float32", "shape": (len(state),), "names": list(state)}}
    for name, camera in images.items():
        shape, names = tuple(shapes[camera]), ["height", "width", "channels"]
        found[f"observation.images.{name}"] = {"dtype": "image", "shape": shape, "names": names}
    return found


# Protocol buffers of two fields


def field(number: int, data: bytes) -> bytes:
    """A field of bytes."""
    return varint(number << 3 | 2) + varint(len(data)) + data


def varint(n: int) -> bytes:
    """A number as protocol buffers write it."""
    found = bytearray()
    while n > 127:
        found.append(n & 127 | 128)
        n >>= 7
    return bytes([*found, n])


def read_field(message: bytes, number: int) -> bytes:
    """The bytes of a field, nothing where it is missing. Raises UserError."""
    at = 0

    def number_at() -> int:
        nonlocal at
        found = shift = 0
        while True:
            byte = message[at]
            at, found, shift = at + 1, found | (byte & 127) << shift, shift + 7
            if byte < 128:
                return found

    try:
        while at < len(message):
            key = number_at()
            if key & 7 == 0:
                number_at()
                continue
            if key & 7 != 2:
                raise IndexError
            size = number_at()
            if at + size > len(message):
                raise IndexError
            if key >> 3 == number:
                return message[at : at + size]
            at += size
    except IndexError:
        raise UserError("what LeRobot's server answered is no message of its protocol") from None
    return b""


def stream(data: bytes) -> Iterator[bytes]:
    """Messages of a stream, each with its place in it."""
    for begin in range(0, len(data), PART):
        is_last = begin + PART >= len(data)
        state = END if is_last else BEGIN if begin == 0 else MIDDLE
        yield varint(1 << 3) + varint(state) + field(2, data[begin : begin + PART])


# Pickles of classes that are not here


def dataclass_pickle(name: str, values: Mapping[str, Any]) -> bytes:
    """A pickle of an object of LeRobot's class `name` with these attributes."""
    inner = pickle.dumps(dict(values), protocol=3)
    assert inner[:2] == pickle.PROTO + b"\x03" and inner[-1:] == pickle.STOP
    made = pickle.GLOBAL + f"{CLASSES}\n{name}\n".encode() + pickle.EMPTY_TUPLE + pickle.NEWOBJ
    return inner[:2] + made + inner[2:-1] + pickle.BUILD + pickle.STOP


class TimedAction:
    """LeRobot's, as far as it is read."""

    action: torch.Tensor
    timestep: int


class ActionReader(pickle.Unpickler):
    """Reads tensors and actions; any other name is an error."""

    def find_class(self, module: str, name: str) -> Any:
        known = {
            (CLASSES, "TimedAction"): TimedAction,
            ("torch._utils", "_rebuild_tensor_v2"): torch._utils._rebuild_tensor_v2,  # type: ignore[attr-defined]
            ("torch.storage", "_load_from_bytes"): _load_storage,
            ("collections", "OrderedDict"): OrderedDict,
        }
        if (module, name) not in known:
            raise UserError(f"LeRobot's server answered with a {module}.{name}, which is not read")
        return known[module, name]


def _load_storage(data: bytes) -> Any:
    return torch.load(io.BytesIO(data), weights_only=True)


def read_actions(data: bytes) -> tuple[np.ndarray, int]:
    """The actions [K, A] of a pickled list of `TimedAction`, and which observation they are of. Raises UserError."""
    try:
        found = ActionReader(io.BytesIO(data)).load()
        actions = torch.stack([one.action.detach().float().reshape(-1) for one in found])
        return actions.numpy(), int(found[0].timestep)
    except (
        pickle.UnpicklingError,
        AttributeError,
        TypeError,
        RuntimeError,
        EOFError,
        IndexError,
        struct.error,
    ) as error:
        raise UserError(f"LeRobot's server answered with what is no list of actions ({error})") from None
