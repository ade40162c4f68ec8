"""Any server that speaks OpenAI's chat protocol, through the official client: retries, limits, plain sentences.

What servers really do decides the rules here: some leave `logprobs` out in silence, answer a broken picture with 500
and reset the next request, cut a reply off in mid-JSON, or send HTML. A reply counts only with a finish reason.
"""

import asyncio
import base64
import json
import os
import random
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any

from pbrl.ranges import Count, NotNegative, Positive, Range
from pbrl.types import UserError
from pbrl.vlm.messages import Picture, Reply, Request, Token

SECRET = "***"
UNKNOWN_LOGPROB = -9999.0  # as servers write it


class ServerError(UserError):
    """The server will not answer: to ask again would not help."""


class NoReply(Exception):
    """A request that stayed without a reply after all retries."""


@dataclass(frozen=True)
class Server:
    """Where a model is asked and how; `key_env` names the environment variable that holds the key (None: no key)."""

    base_url: str
    model: str | None  # None: the only one that the server has
    key_env: str | None
    check_model: bool  # whether the server's list of models is believed
    logprobs: bool  # whether it gives log-probabilities
    concurrency: Annotated[int, Range(1, 1000)]
    timeout_s: Positive
    retries: Annotated[int, Range(0, 100)]
    backoff_s: NotNegative  # before the first retry; twice as long before each further one
    max_tokens_name: str = "max_tokens"
    most_picture_bytes: Count = 20_000_000

    def key(self) -> str:
        """The key. Raises UserError where the variable is not set."""
        if self.key_env is None:
            return "none"  # the client wants one
        key = os.environ.get(self.key_env, "")
        if not key:
            raise UserError(f"vlm.key_env={self.key_env}: set that environment variable to your key")
        return key


class Client:
    """Sends requests to one server, at most `concurrency` at once. To be used in one event loop.

    `notices` are sentences about what the server cannot do, each said once.
    """

    def __init__(self, server: Server):
        try:
            import openai
        except ImportError as error:
            raise UserError("a vision-language model is asked by a package more: `pip install pbrl[vlm]`") from error
        self.server = server
        self.openai: Any = openai
        self._key = server.key()
        self.client: Any = openai.AsyncOpenAI(
            base_url=server.base_url, api_key=self._key, timeout=server.timeout_s, max_retries=0
        )
        self.model = server.model or ""
        self.has_logprobs = server.logprobs
        self.notices: list[str] = []
        self.retried = 0
        self.seconds = 0.0  # that requests took in all
        self._free = asyncio.Semaphore(server.concurrency)
        self._jitter = random.Random(0)

    async def check(self) -> None:
        """Asks the server for its models, which costs nothing. Raises ServerError where it, the key or the model fails.

        Servers that keep no list are believed to have the model.
        """
        try:
            found = [model.id async for model in self.client.models.list()]
        except self.openai.NotFoundError:
            found = []
        except Exception as error:
            if getattr(error, "status_code", None) in (405, 501):
                found = []
            else:
                raise self._explain(error) from None
        if not self.model:
            if len(found) != 1:
                raise ServerError(f"vlm.model=…: {self._at()} has {self._list(found)}; choose one")
            self.model = found[0]
        elif self.server.check_model and found and self.model not in found:
            raise ServerError(f"vlm.model={self.model}: {self._at()} has no such model, but {self._list(found)}")

    async def complete(self, request: Request) -> Reply:
        """The reply to a request, tried again where that may help.

        Raises NoReply when all retries failed, ServerError where none can help.
        """
        for picture in request.pictures:
            if len(picture.data) > self.server.most_picture_bytes:
                raise ServerError(
                    f"a picture has {len(picture.data)} bytes, more than vlm.most_picture_bytes="
                    f"{self.server.most_picture_bytes}: lower vlm.size"
                )
        why: BaseException | None = None
        for attempt in range(self.server.retries + 1):
            if attempt:
                self.retried += 1
                await asyncio.sleep(self._wait_s(attempt, why))
            try:
                async with self._free:
                    return await self._send(request)
            except Exception as error:
                why = error
                if not self._is_transient(error):
                    if is_filtered(error):
                        return Reply("", "content_filter", model=self.model)
                    if self._drops_logprobs(error, request):
                        return await self.complete(request)
                    raise self._explain(error) from None
        raise NoReply(self._clean(f"{type(why).__name__}: {describe(why)}")) from None

    async def close(self) -> None:
        """Closes its connections."""
        await self.client.close()

    async def _send(self, request: Request) -> Reply:
        began = time.monotonic()
        settings: dict[str, Any] = {
            "model": self.model,
            "messages": [{"role": "user", "content": [_part(part) for part in request.parts]}],
            "temperature": request.temperature,
            self.server.max_tokens_name: request.max_tokens,
        }
        if request.top and self.has_logprobs:
            settings |= {"logprobs": True, "top_logprobs": request.top}
        # not chat.completions.create: it checks each part against its type, which takes longer than all the rest
        call = self.client.post("/chat/completions", cast_to=object, body=settings | dict(request.more))
        timeout = self.server.timeout_s
        found = await asyncio.wait_for(call, timeout)  # the client's own limit is for each read, not for the whole
        seconds = time.monotonic() - began
        self.seconds += seconds
        reply = read_reply(found, seconds)
        if request.top and self.has_logprobs and reply.tokens is None and not reply.is_refused:
            self._say_once("gives no log-probabilities: preferences are read from its words")
            self.has_logprobs = False
        return reply

    def _drops_logprobs(self, error: Exception, request: Request) -> bool:
        """Whether the server refused a request for its log-probabilities, which are asked for no more."""
        status = getattr(error, "status_code", None)
        if not (request.top and self.has_logprobs and status in (400, 422) and "logprob" in words_of(error).lower()):
            return False
        self._say_once("refuses log-probabilities: preferences are read from its words")
        self.has_logprobs = False
        return True

    def _say_once(self, what: str) -> None:
        notice = f"{self._at()} {what}"
        if notice not in self.notices:
            self.notices.append(notice)

    def _is_transient(self, error: BaseException) -> bool:
        """Whether to ask again may help: lost connections, time-outs, busy servers, replies that are none."""
        if isinstance(error, self.openai.RateLimitError):
            return "insufficient_quota" not in words_of(error)
        if isinstance(error, self.openai.APIStatusError):
            status = getattr(error, "status_code", 0)
            return status in (408, 409, 425) or status >= 500
        lost = (self.openai.APIConnectionError, self.openai.APIResponseValidationError, TimeoutError, ValueError)
        return isinstance(error, lost)  # half a JSON document is a ValueError

    def _wait_s(self, attempt: int, why: BaseException | None) -> float:
        """Twice as long each time, with jitter; as long as the server says where it says so, up to the time-out."""
        response = getattr(why, "response", None)
        asked = response.headers.get("retry-after") if response is not None else None
        try:
            if asked is not None:
                return min(max(float(asked), 0.0), self.server.timeout_s)
        except ValueError:  # a date
            pass
        return self.server.backoff_s * 2 ** (attempt - 1) * self._jitter.uniform(0.5, 1.5)

    def _explain(self, error: Exception) -> ServerError:
        """A sentence that says what to do, without the key."""
        at, words = self._at(), self._clean(describe(error))[:300]
        status = getattr(error, "status_code", None)
        if status == 401:
            return ServerError(f"{at} refuses the key in {self.server.key_env}: set that variable to a valid key")
        if status == 403:
            return ServerError(f"{at} does not allow {self.model} with the key in {self.server.key_env} ({words})")
        if status == 404:
            return ServerError(f"{at} has no model {self.model}, or nothing at this address ({words}): see vlm.model")
        if status == 429:
            return ServerError(f"{at}: nothing is left to pay with ({words})")
        if status is not None:
            return ServerError(f"{at} refuses the request ({words})")
        return ServerError(f"nothing answers at {at} ({words}): start the server, or set vlm.base_url")

    def _clean(self, words: str) -> str:
        return words if self.server.key_env is None else words.replace(self._key, SECRET)

    def _at(self) -> str:
        return f"vlm.base_url={self.server.base_url}"

    def _list(self, found: list[str]) -> str:
        return f"{', '.join(found[:8])}{' and others' if len(found) > 8 else ''}" if found else "no list of models"


def words_of(error: BaseException) -> str:
    """All that a server said: its code is not in the error's own words."""
    return f"{error} {getattr(error, 'body', None) or ''}"


def describe(error: BaseException | None) -> str:
    """An error in the server's words, also where they do not stand where OpenAI has them: the package looks there."""
    body = getattr(error, "body", None)
    said = body.get("detail") or body if isinstance(body, Mapping) else body
    has_message = isinstance(body, Mapping) and isinstance(body.get("message"), str)
    return str(error) if not said or has_message else f"{error} - {said}"


def is_filtered(error: Exception) -> bool:
    """Whether a filter before the model refused the request, which some providers say by an error of its own."""
    words = words_of(error).lower()
    return getattr(error, "status_code", None) == 400 and ("content_filter" in words or "content management" in words)


def _part(part: str | Picture) -> dict[str, Any]:
    if isinstance(part, str):
        return {"type": "text", "text": part}
    url = f"data:{part.mime};base64,{base64.b64encode(part.data).decode()}"
    return {"type": "image_url", "image_url": {"url": url}}


def read_reply(found: object, seconds: float = 0.0) -> Reply:
    """The reply in the JSON that a server sent. Raises ValueError where it holds none."""
    if not isinstance(found, Mapping):
        raise ValueError(f"no JSON of a chat completion but {str(found)[:80]!r}")
    choices = found.get("choices") or []
    if not choices:
        raise ValueError(f"no choice in the reply: {str(found.get('error') or '')[:200]}")
    choice, usage = choices[0], found.get("usage") or {}
    message, finish = choice.get("message") or {}, choice.get("finish_reason")
    if choice.get("error") or finish == "error":  # a router's: the model behind it failed on the way
        raise ValueError(f"the reply ended in an error: {str(choice.get('error') or '')[:200]}")
    if not finish:
        raise ValueError("the reply has no finish_reason: it was cut off")
    return Reply(
        text=_text(message),
        finish=str(finish),
        tokens=_tokens(choice.get("logprobs")),
        refusal=message.get("refusal") or None,  # some servers have it always, empty
        prompt_tokens=int(usage.get("prompt_tokens") or 0),
        reply_tokens=int(usage.get("completion_tokens") or 0),
        seconds=seconds,
        model=str(found.get("model") or ""),
    )


def _text(message: Mapping[str, Any]) -> str:
    """The words of a reply, also where they come in parts or as the arguments of a tool's call."""
    content = message.get("content")
    if isinstance(content, list):
        content = "".join(part.get("text") or "" for part in content if isinstance(part, Mapping))
    calls = message.get("tool_calls") or []
    if not content and calls:
        content = (calls[0].get("function") or {}).get("arguments")
    return content if isinstance(content, str) else json.dumps(content) if content else ""


def _tokens(logprobs: Mapping[str, Any] | None) -> tuple[Token, ...] | None:
    content = (logprobs or {}).get("content")
    if not content:
        return None
    return tuple(
        Token(*_pair(token), tuple(map(_pair, token.get("top_logprobs") or ())))  # which some servers leave out
        for token in content
    )


def _pair(token: Mapping[str, Any]) -> tuple[str, float]:
    """A token and its log-probability; a server may have none to give for a token."""
    logprob = token.get("logprob")
    return str(token["token"]), UNKNOWN_LOGPROB if logprob is None else float(logprob)
