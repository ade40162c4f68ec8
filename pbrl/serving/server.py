"""A server of a trained policy, which openpi's client and pbrl's can ask.

On connecting it says what it wants. Each message is one observation: `observation/state` [O], an image [H, W, 3] uint8
as `observation/<camera>`, and `prompt`; it is answered with `actions` [K, A] in [-1, 1]. An answer depends on its own
message alone. What does not fit is answered in words, and the connection stays.
"""

import threading
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from http import HTTPStatus
from typing import Any

import numpy as np
import torch
from websockets.exceptions import ConnectionClosed
from websockets.http11 import Request, Response
from websockets.sync.server import Server, ServerConnection, serve

from pbrl.data.rollout import to_text
from pbrl.models.policy import LikelihoodPolicy
from pbrl.models.text import check_instruction
from pbrl.serving.wire import pack, unpack
from pbrl.types import Observation, Policy, UserError

LARGEST = 2**28  # bytes of a message
STATE, ACTIONS, PROMPT = "observation/state", "actions", "prompt"


class PolicyService:
    """Answers messages with a policy's chunks, one after the other. `env` are the settings that it was trained in.

    Raises UserError for a policy that remembers its episode, as each message is answered alone.
    """

    def __init__(self, policy: Policy, env: dict[str, Any] | None = None):
        if not isinstance(policy, LikelihoodPolicy):
            raise UserError(f"a {type(policy).__name__} remembers its episode, and a server answers each message alone")
        self.policy, self.env = policy, env
        self.images = {f"observation/{camera}": camera for camera in policy.spec.images}
        self.lock = threading.Lock()

    def metadata(self) -> dict[str, Any]:
        """What a client is told first."""
        own = self.policy.spec
        spec = {**asdict(replace(own, sentences=None)), "images": dict(own.images)}
        reads_words = self.policy.reads_words
        server = {
            "env": [], "state": {STATE: None}, "images": self.images, "instruction": PROMPT if reads_words else None,
            "actions": ACTIONS, "execute": self.policy.execute, "low": None, "high": None,
        }  # fmt: skip
        tried = own.sentences.instructions[:1] if own.sentences else own.vocabulary[:1]  # words that it can read
        return {"pbrl": {"spec": spec, "server": server, "env": self.env, "reads_words": reads_words, "tried": tried}}

    def answer(self, data: bytes | str) -> bytes | str:
        """A message's answer, or in words what is wrong with it."""
        began = time.perf_counter()
        try:
            if isinstance(data, str):
                raise UserError("messages are msgpack, not text")
            obs = self.read(unpack(data))
            with self.lock, torch.no_grad():
                self.policy.reset()
                chunk = self.policy.plan(obs)[0].cpu().numpy()
        except UserError as error:
            return str(error)
        return pack({ACTIONS: chunk, "server_timing": {"infer_ms": 1000 * (time.perf_counter() - began)}})

    def read(self, message: Any) -> Observation:
        """The observation of a message, as one of a batch of one. Raises UserError."""
        if not isinstance(message, dict):
            raise UserError("a message is a map of names and arrays")
        spec = self.policy.spec
        state = self._array(message, STATE, (spec.obs_dim,)).astype(np.float32)
        if not np.isfinite(state).all():
            raise UserError(f"{STATE} holds what is no finite number")
        images = {}
        for name, camera in self.images.items():
            image = self._array(message, name, tuple(spec.images[camera]))
            if image.dtype != np.uint8:
                raise UserError(f"{name} is {image.dtype}, not uint8")
            images[camera] = torch.from_numpy(image)[None]
        text = {}
        if self.policy.reads_words:
            told = str(message.get(PROMPT, ""))
            check_instruction(told, spec.vocabulary)
            text = {name: torch.from_numpy(own) for name, own in to_text([told], self.policy).items()}
        return Observation(torch.from_numpy(state)[None], images, text)

    def _array(self, message: dict[Any, Any], name: str, shape: tuple[int, ...]) -> np.ndarray:
        if name not in message:
            wants = ", ".join([STATE, *self.images, *([PROMPT] if self.policy.reads_words else [])])
            raise UserError(f"{name} is missing; this policy wants {wants}")
        array = np.asarray(message[name])
        if array.shape != shape or array.dtype.kind not in "fiu":
            raise UserError(f"{name} is {array.dtype} of shape {list(array.shape)}, not of {list(shape)}")
        return array


def make_server(service: PolicyService, host: str, port: int, told: Callable[[str], object]) -> Server:
    """Listens; `serve_forever` of what comes back answers. Raises UserError where the port is taken."""

    def handle(connection: ServerConnection) -> None:
        told(f"{connection.remote_address[0]} connected")
        try:
            connection.send(pack(service.metadata()))
            for data in connection:
                connection.send(service.answer(data))
        except ConnectionClosed:
            pass

    def is_healthy(connection: ServerConnection, request: Request) -> Response | None:
        return connection.respond(HTTPStatus.OK, "OK\n") if request.path == "/healthz" else None

    try:
        return serve(handle, host, port, compression=None, max_size=LARGEST, process_request=is_healthy)
    except OSError as error:
        raise UserError(f"cannot listen on {host}:{port} ({error.strerror}): choose another port=…") from error
