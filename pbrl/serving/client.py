"""A policy on another machine, as one of ours: behind pbrl's own server, openpi's, or LeRobot's.

For each decision a message with images, state and instruction goes out, and a chunk of actions comes back. Where a
policy is named, `ws://host:port` is a server of pbrl's (`python -m pbrl.serving`), which says itself what it wants, and
`own.yaml` describes another; see configs/server.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from torch import Tensor
from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidURI
from websockets.sync.client import ClientConnection, connect

from pbrl.configs import compose_config
from pbrl.data.frames import image_shapes, without_images
from pbrl.data.rollout import make_environment, state_of
from pbrl.models.chunks import ChunkQueue
from pbrl.models.policy import LikelihoodPolicy
from pbrl.models.text import to_bytes, to_instruction
from pbrl.ranges import Count, Positive, check_values, hints
from pbrl.serving.lerobot import LeRobotConnection, describe_features
from pbrl.serving.wire import pack, unpack
from pbrl.types import Observation, Spec, UserError

GRPC = "grpc://"
LARGEST = 2**28  # bytes of an answer
TIMEOUT_S = 60.0  # of servers of pbrl's


@dataclass(frozen=True)
class ServerSettings:
    """Where a server is, and under which names it reads observations and writes actions."""

    url: str
    env: list[str]  # flags of the environment that the policy acts in, as train.py takes them
    state: dict[str, list[int] | None]  # name → the observation's numbers from … to; null: all of them
    images: dict[str, str]  # name → camera
    instruction: str | None  # the name of the instruction; null: it is told none
    actions: str | None  # the name of the chunk that it answers with, [K, A]; LeRobot's has none
    execute: Count  # actions that are carried out before the next question
    low: list[float] | None  # the server's actions that are our -1 and 1; null: they are in [-1, 1]
    high: list[float] | None
    key_env: str | None  # the environment variable with its key; null: it wants none
    timeout_s: Positive
    model: dict[str, str] | None = None  # what LeRobot's server loads: type, path, device

    @classmethod
    def parse(cls, given: Mapping[str, Any], file: str | Path) -> "ServerSettings":
        """Typed settings. Raises UserError for a name or value that means nothing."""
        known = {field.name for field in fields(cls)}
        for what, names in (("has no", known - {"model"} - set(given)), ("knows no", set(given) - known)):
            if names:
                raise UserError(f"{file} {what} {', '.join(sorted(names))}: see configs/server/openpi.yaml")
        check_values({k: v for k, v in given.items() if k not in ("state", "images", "model")}, hints(cls), f"{file}: ")
        is_lerobot, model = given["url"].startswith(GRPC), given.get("model")
        if is_lerobot and (not isinstance(model, dict) or set(model) != {"type", "path", "device"}):
            raise UserError(f"{file}: model says what LeRobot's server loads, by type, path and device")
        if not is_lerobot and (model or not given["actions"]):
            raise UserError(f"{file}: actions are named, and no model, unless url is {GRPC}…, LeRobot's server")
        return cls(**given)


class Connection:
    """A WebSocket to a server, made when it is first needed, and anew in each process."""

    def __init__(self, url: str, key_env: str | None, timeout_s: float):
        self.url, self.key_env, self.timeout_s = url, key_env, timeout_s
        self.socket: ClientConnection | None = None
        self.metadata: dict[str, Any] = {}

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "socket": None}

    def open(self) -> None:
        """Connects, if it is not. Raises UserError."""
        if self.socket is not None:
            return
        key = os.environ.get(self.key_env or "")
        if self.key_env and not key:
            raise UserError(f"the environment variable {self.key_env} with the key of {self.url} is empty: set it")
        headers = {"Authorization": f"Api-Key {key}"} if key else None
        try:
            self.socket = connect(
                self.url, compression=None, max_size=LARGEST, additional_headers=headers, open_timeout=self.timeout_s
            )
            found = unpack(self._receive())
        except (OSError, InvalidHandshake, InvalidURI, ConnectionClosed, TimeoutError) as error:
            self.close()
            raise UserError(f"no policy server answers at {self.url} ({_words(error)}): start it, or look at the "
                            "address") from error  # fmt: skip
        self.metadata = found if isinstance(found, dict) else {}

    def ask(self, message: dict[str, Any]) -> dict[str, Any]:
        """The answer to a message; a connection that was lost is made once more. Raises UserError."""
        data = pack(message)
        was_open = self.socket is not None
        for last in (not was_open, True):
            self.open()
            assert self.socket is not None
            try:
                self.socket.send(data)
                answer = unpack(self._receive())
                break
            except TimeoutError:
                self.close()
                raise UserError(f"{self.url} did not answer in {self.timeout_s:g} s: see timeout_s") from None
            except (OSError, ConnectionClosed) as error:
                self.close()
                if last:
                    raise UserError(f"the connection to {self.url} was lost ({_words(error)})") from error
        if not isinstance(answer, dict):
            raise UserError(f"{self.url} answered with a {type(answer).__name__}, not with names and arrays")
        return answer

    def _receive(self) -> bytes:
        assert self.socket is not None
        received = self.socket.recv(timeout=self.timeout_s)
        if isinstance(received, str):  # a server's way to say what went wrong
            lines = received.strip().splitlines() or ["nothing"]
            raise UserError(f"{self.url} says: {lines[-1][:500]}")
        return received

    def close(self) -> None:
        """Ends the connection."""
        if self.socket is not None:
            self.socket.close()
        self.socket = None


class ServedPolicy(LikelihoodPolicy):
    """Acts as a server says. How likely actions are it cannot know, so nothing trains it."""

    is_exact = False
    eager = True

    def __init__(self, spec: Spec, server: ServerSettings, env: dict[str, Any] | None, *, reads_words: bool):
        super().__init__()
        self.spec, self.server, self.env, self.reads_words = spec, server, env, reads_words
        self.execute = self.horizon = server.execute
        self.queue = ChunkQueue(self.execute)
        self.is_single = server.url.startswith(GRPC)
        if self.is_single:
            features = describe_features(self._state_names(), spec.images, server.images)
            self.connection: Any = LeRobotConnection(
                server.url, server.model or {}, features, self.execute, server.timeout_s
            )
        else:
            self.connection = Connection(server.url, server.key_env, server.timeout_s)

    def reset(self) -> None:
        self.queue.reset()

    def looks(self) -> bool:
        return self.queue.is_empty()

    def act(self, obs: Observation, explore: bool | Tensor = False) -> Tensor:
        """The next action of a chunk; a server decides itself whether it draws it."""
        return self.queue.next(lambda: self.plan(obs))

    def plan(self, obs: Observation) -> Tensor:
        """obs [B, O] → chunks [B, K, A], one question for each. Raises UserError."""
        chunks = [self._ask(obs, i) for i in range(len(obs.state))]
        shortest = min(map(len, chunks))
        return torch.stack([chunk[:shortest] for chunk in chunks])

    def check(self, told: str = "move") -> None:
        """Asks once about an observation of zeros. Raises UserError where what comes back does not fit."""
        images = {name: torch.zeros(1, *shape, dtype=torch.uint8) for name, shape in self.spec.images.items()}
        text = {"utf8": torch.from_numpy(to_bytes([told]))} if self.reads_words else {}
        self.plan(Observation(torch.zeros(1, self.spec.obs_dim), images, text))

    def _ask(self, obs: Observation, i: int) -> Tensor:
        server, state = self.server, obs.state[i].float().cpu().numpy()
        message: dict[str, Any] = {name: state[slice(*part)] if part else state for name, part in server.state.items()}
        images = {name: obs.images[camera][i].cpu().numpy() for name, camera in server.images.items()}
        told = {server.instruction: to_instruction(obs.text["utf8"][i].cpu().numpy())} if server.instruction else {}
        if isinstance(self.connection, LeRobotConnection):
            numbers = np.concatenate([*message.values()]).tolist() if message else []
            found = self.connection.ask(dict(zip(self._state_names(), numbers, strict=True)) | images | told)
        else:
            answer = self.connection.ask(message | images | told)
            found = np.asarray(answer.get(server.actions))
            if server.actions not in answer or found.dtype.kind not in "fiu":
                raise UserError(f"{server.url} answers with {', '.join(map(str, answer)) or 'nothing'}, and no "
                                f"{server.actions} among them: see `actions` of its settings")  # fmt: skip
        return torch.from_numpy(self._read(found))

    def _state_names(self) -> list[str]:
        """A name for each number of the state, as LeRobot has them."""
        count = self.spec.obs_dim
        return [f"{name}.{i}" for name, part in self.server.state.items() for i in range(*(part or (0, count)))]

    def _read(self, found: np.ndarray) -> np.ndarray:
        """The chunk [K, A] of an answer, in [-1, 1]. Raises UserError."""
        server, size = self.server, self.spec.action_dim
        if found.ndim != 2 or found.shape[1] != size or len(found) < server.execute:
            raise UserError(
                f"{server.url} answers with actions of shape {list(found.shape)}; {size} numbers for each of at least "
                f"{server.execute} steps are needed (`env` and `execute` of its settings)"
            )
        chunk = found.astype(np.float32)
        if not np.isfinite(chunk).all():
            raise UserError(f"{server.url} answers with actions that are no finite numbers")
        if server.low is not None and server.high is not None:
            low, high = np.array(server.low, np.float32), np.array(server.high, np.float32)
            chunk = 2 * (chunk - low) / (high - low) - 1
        return np.clip(chunk, -1, 1)

    def log_prob(self, obs: Observation, action: Tensor) -> Tensor:
        raise UserError(f"{self.server.url} does not say how likely actions are: nothing can be learnt with it")


def load_served(where: str | Path) -> ServedPolicy:
    """The policy behind `ws://…`, a server of pbrl's, or behind the one that a yaml describes. Raises UserError."""
    return _from_metadata(str(where)) if "://" in str(where) else _from_file(Path(where).expanduser())


def _from_metadata(url: str) -> ServedPolicy:
    connection = Connection(url, None, TIMEOUT_S)
    connection.open()
    connection.close()
    found = connection.metadata.get("pbrl")
    if not isinstance(found, dict):
        raise UserError(
            f"{url} is no server of pbrl's, and does not say what it wants: describe it in a yaml, as "
            "configs/server/openpi.yaml, and give that as policy="
        )
    try:
        given = {**found["server"], "url": url, "key_env": None, "timeout_s": TIMEOUT_S}
        spec, tried = Spec(**{**found["spec"], "vocabulary": ()}), found["tried"]
        policy = ServedPolicy(spec, ServerSettings.parse(given, url), found["env"], reads_words=found["reads_words"])
    except (KeyError, TypeError) as error:
        raise UserError(f"{url} is of another version of pbrl ({type(error).__name__}: {error})") from None
    policy.check(*tried)
    return policy


def _from_file(file: Path) -> ServedPolicy:
    try:
        given = yaml.safe_load(file.read_text())
    except (OSError, yaml.YAMLError) as error:
        raise UserError(f"cannot read {file} ({_words(error)})") from None
    server = ServerSettings.parse(given if isinstance(given, dict) else {}, file)
    env = compose_config(*server.env)["env"]
    cameras = image_shapes(env)
    unknown = set(server.images.values()) - set(cameras)
    if unknown:
        raise UserError(f"{file}: {', '.join(sorted(unknown))} is none of env.images={list(cameras)}: see `env`")
    environment = make_environment(without_images(env))
    try:
        size, horizon = len(state_of(environment.reset(seed=0)[0])), environment.horizon
        spec = Spec(size, environment.action_space.shape[0], (0.0,) * size, (1.0,) * size, horizon, cameras)
    finally:
        environment.close()
    for name, part in server.state.items():
        if part is not None and not (len(part) == 2 and 0 <= part[0] < part[1] <= size):
            raise UserError(f"{file}: state.{name}={part} is from … to of the {size} numbers of {server.env}")
    for name, bound in (("low", server.low), ("high", server.high)):
        if bound is not None and len(bound) != spec.action_dim:
            raise UserError(f"{file}: {name} has {len(bound)} numbers, and an action {spec.action_dim}")
    low, high = server.low or [0.0], server.high or [1.0]
    if (server.low is None) != (server.high is None) or any(b <= a for a, b in zip(low, high, strict=True)):
        raise UserError(f"{file}: low and high are both null, or high is larger in each number")
    policy = ServedPolicy(spec, server, env, reads_words=server.instruction is not None)
    policy.check()
    return policy


def _words(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:200]
