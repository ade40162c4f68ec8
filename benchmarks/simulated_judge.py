"""A simulated judge: a server that speaks OpenAI's chat protocol, looks the answer up, and errs as it is told to.

    python -m benchmarks.simulated_judge key=runs/answers.jsonl port=8000 error=0.1 first=0.2

It is no vision-language model and sees nothing: it knows pictures by the SHA-256 of their bytes, and finds what each is
worth (the true reward of the steps that it shows) in the answer key that `vlm.answer_key=<file>` writes while clips are
drawn. So it tells what labels of a stated quality are worth, and nothing of how well any model judges.

What it says, and how it errs, is in simulated_answers.py; here it fails, breaks off and counts as a server.
"""

import asyncio
import base64
import hashlib
import json
import math
import multiprocessing
import socket
import sys
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any
from urllib.request import urlopen

from omegaconf import OmegaConf
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from benchmarks.simulated_answers import Part, Profile, Said, respond
from pbrl.processes import end_with_parent, is_main_thread

MODEL = "simulated-judge"
PICTURE_TOKENS, LETTERS_PER_TOKEN = 300, 4


@dataclass
class Counts:
    """What it did. `repeated`: requests that had been answered before, and so were paid for twice."""

    requests: int = 0
    answered: int = 0
    repeated: int = 0
    failed: int = 0
    dropped: int = 0
    refused: int = 0
    prompt_tokens: int = 0
    reply_tokens: int = 0


@dataclass
class Judge:
    """Answers requests by an answer key, which may grow meanwhile."""

    key: Path
    profile: Profile
    counts: Counts = field(default_factory=Counts)
    values: dict[str, float] = field(default_factory=dict)
    answered: set[str] = field(default_factory=set)
    troubled: set[str] = field(default_factory=set)
    read_to: int = 0

    @property
    def model(self) -> str:
        """Its name, with what is not as by default: another profile is another model, whose replies are kept apart."""
        own = {f.name: getattr(self.profile, f.name) for f in fields(Profile)}
        return "-".join([MODEL, *(f"{name}-{own[name]:g}" for name in own if own[name] != getattr(Profile, name))])

    def read_key(self) -> None:
        """Takes up whole lines that the answer key has more than before."""
        if not self.key.exists():
            return
        with self.key.open("rb") as opened:
            opened.seek(self.read_to)
            whole = opened.read().rpartition(b"\n")[0]
        self.read_to += len(whole) + 1 if whole else 0
        for line in whole.splitlines():
            one = json.loads(line)
            self.values[one["picture"]] = float(one["value"])

    async def complete(self, request: Request) -> Response:
        """POST /v1/chat/completions."""
        raw = await request.body()
        self.counts.requests += 1
        name = hashlib.sha256(raw).hexdigest()
        own = self.profile
        is_slow = own.chance("slow", name) < own.slow
        await asyncio.sleep(own.slow_s if is_slow else own.latency_s)
        if name not in self.troubled:
            self.troubled.add(name)
            if own.chance("fail", name) < own.fail:
                self.counts.failed += 1
                status = 429 if own.chance("status", name) < 0.5 else 500
                return _error(status, "simulated: busy" if status == 429 else "simulated: internal error")
            if own.chance("drop", name) < own.drop:
                self.counts.dropped += 1
                return StreamingResponse(_break_off(), media_type="application/json")
        body = json.loads(raw)
        try:
            said = self.respond(body)
        except (ValueError, KeyError) as error:
            return _error(400, f"simulated judge: {error}")
        reply = to_completion(said, body, self.model)
        self.counts.answered += 1
        self.counts.repeated += name in self.answered
        self.counts.refused += said.refusal is not None
        self.counts.prompt_tokens += reply["usage"]["prompt_tokens"]
        self.counts.reply_tokens += reply["usage"]["completion_tokens"]
        self.answered.add(name)
        return JSONResponse(reply)

    def respond(self, body: Mapping[str, Any]) -> Said:
        """Raises ValueError for a picture that the answer key does not have."""
        parts = read_parts(body)
        shown = [part.picture for part in parts if part.picture]
        if any(picture not in self.values for picture in shown):
            self.read_key()
        for picture in shown:
            if picture not in self.values:
                raise ValueError(f"{self.key} has no picture {picture}: set vlm.answer_key to that file")
        return respond(self.profile, parts, self.values, temperature=body.get("temperature") or 0.0)

    def application(self) -> Starlette:
        """The server's routes."""

        async def models(_: Request) -> Response:
            return JSONResponse({"object": "list", "data": [{"id": self.model, "object": "model", "created": 0,
                                                             "owned_by": "pbrl"}]})  # fmt: skip

        async def counts(_: Request) -> Response:
            return JSONResponse(asdict(self.counts))

        return Starlette(routes=[
            Route("/v1/models", models), Route("/counts", counts),
            Route("/v1/chat/completions", self.complete, methods=["POST"]),
        ])  # fmt: skip


def read_parts(body: Mapping[str, Any]) -> list[Part]:
    """The parts of all messages of a request, pictures as their hashes."""
    parts = []
    for message in body["messages"]:
        content: Any = message["content"]
        if isinstance(content, str):
            content = [{"type": "text", "text": content}]
        for part in content:
            if part["type"] == "text":
                parts.append(Part(text=part["text"]))
            else:
                data = base64.b64decode(part["image_url"]["url"].partition(",")[2])
                parts.append(Part(picture=hashlib.sha256(data).hexdigest()))
    return parts


def to_completion(said: Said, body: Mapping[str, Any], model: str) -> dict[str, Any]:
    """The reply as a server sends it."""
    parts = read_parts(body)
    letters, pictures = sum(len(part.text) for part in parts), sum(bool(part.picture) for part in parts)
    prompt, reply = letters // LETTERS_PER_TOKEN + PICTURE_TOKENS * pictures, len(said.text) // LETTERS_PER_TOKEN + 1
    message = {"role": "assistant", "content": None if said.refusal else said.text, "refusal": said.refusal}
    choice: dict[str, Any] = {"index": 0, "message": message, "finish_reason": "stop", "logprobs": None}
    if said.top is not None and body.get("logprobs"):
        listed = sorted(said.top.items(), key=lambda one: -one[1])[: body.get("top_logprobs") or 0]
        chosen = {**_token(said.text, said.top[said.text]), "top_logprobs": [_token(*one) for one in listed]}
        choice["logprobs"] = {"content": [chosen], "refusal": None}
    usage = {"prompt_tokens": prompt, "completion_tokens": reply, "total_tokens": prompt + reply}
    name = hashlib.sha256(json.dumps(message).encode()).hexdigest()[:24]
    return {"id": f"chatcmpl-{name}", "object": "chat.completion", "created": 0, "model": model, "choices": [choice],
            "usage": usage}  # fmt: skip


def _token(text: str, p: float) -> dict[str, Any]:
    return {"token": text, "logprob": math.log(max(p, 1e-12)), "bytes": list(text.encode())}


def _error(status: int, words: str) -> JSONResponse:
    return JSONResponse({"error": {"message": words, "type": "simulated", "param": None, "code": None}}, status)


async def _break_off() -> AsyncIterator[bytes]:
    yield b'{"id": "chatcmpl-'
    raise ConnectionResetError("simulated")


# Its process


@dataclass
class Running:
    """A simulated judge in a process of its own, which ends with this one. `base_url` is for `vlm.base_url`."""

    base_url: str
    stop: Callable[[], None]

    def counts(self) -> dict[str, int]:
        """What it did so far."""
        with urlopen(self.base_url.replace("/v1", "/counts"), timeout=10) as reply:
            return json.load(reply)


def start(key: Path | str, *, port: int = 0, **profile: float) -> Running:
    """Starts it at a free port of this machine, or at `port`; returns once it listens."""
    opened = socket.socket()
    opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    opened.bind(("127.0.0.1", port))
    opened.listen(256)
    given = (opened, Path(key), Profile(**profile), is_main_thread())  # type: ignore[arg-type]
    process = multiprocessing.get_context("spawn").Process(target=_serve, args=given, daemon=True)
    process.start()

    def stop() -> None:
        process.kill()
        process.join()

    address = opened.getsockname()
    opened.close()  # the child has its own, where connections wait meanwhile
    return Running(f"http://{address[0]}:{address[1]}/v1", stop)


def _serve(opened: socket.socket, key: Path, profile: Profile, by_kernel: bool) -> None:
    end_with_parent(by_kernel)
    serve(Judge(key, profile), opened)


def serve(judge: Judge, opened: socket.socket) -> None:
    """Answers at a socket that listens, until the process ends."""
    import uvicorn

    config = uvicorn.Config(judge.application(), log_level="critical", access_log=False, lifespan="off")
    uvicorn.Server(config).run(sockets=[opened])


def main() -> None:
    defaults = OmegaConf.create({"key": "???", "port": 8000, **asdict(Profile())})
    OmegaConf.set_struct(defaults, True)
    given: Any = OmegaConf.to_container(
        OmegaConf.merge(defaults, OmegaConf.from_cli(sys.argv[1:])), throw_on_missing=True
    )
    opened = socket.socket()
    opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    opened.bind(("127.0.0.1", given.pop("port")))
    opened.listen(256)
    judge = Judge(Path(given.pop("key")), Profile(**given))
    print(f"simulated judge at http://{':'.join(map(str, opened.getsockname()))}/v1: {judge.profile}", flush=True)
    serve(judge, opened)


if __name__ == "__main__":
    main()
