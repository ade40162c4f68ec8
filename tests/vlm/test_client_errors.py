"""What a server may answer instead of a reply: each is tried again, taken for a refusal, or said in a sentence."""

import asyncio
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from pbrl.vlm.client import Client, NoReply, Server, ServerError
from pbrl.vlm.messages import Reply, Request

KEY = "sk-very-secret"
GOOD = {
    "choices": [{"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": "1"}}],
    "usage": {"prompt_tokens": 3, "completion_tokens": 1},
}


@contextmanager
def serving(answers: list[tuple[int, dict]], headers: dict[str, str] | None = None) -> Iterator[tuple[str, list[dict]]]:
    """A server that gives these answers one after another, the last for ever; and the requests that it got."""
    got: list[dict] = []

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

        def do_POST(self) -> None:
            got.append(json.loads(self.rfile.read(int(self.headers["content-length"]))))
            status, body = answers[min(len(got), len(answers)) - 1]
            text = json.dumps(body).encode()
            self.send_response(status)
            for name, value in {"content-type": "application/json", "content-length": str(len(text))}.items():
                self.send_header(name, value)
            for name, value in (headers or {}).items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(text)

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/v1", got
    finally:
        server.shutdown()


def complete(at: str, request: Request, monkeypatch: pytest.MonkeyPatch, retries: int = 2) -> tuple[Reply, Client]:
    monkeypatch.setenv("SOME_KEY", KEY)
    client = Client(Server(at, "m", "SOME_KEY", False, True, 4, 5.0, retries, 0.001))

    async def work() -> Reply:
        try:
            return await client.complete(request)
        finally:
            await client.close()

    return asyncio.run(work()), client


def test_a_filter_before_the_model_is_a_refusal(monkeypatch):
    body = {"error": {"message": "The response was filtered", "code": "content_filter", "type": "invalid"}}
    with serving([(400, body)]) as (at, got):
        reply, _ = complete(at, Request(("a",), 1), monkeypatch)
    assert reply.is_refused and len(got) == 1, "to ask again would be refused again"


@pytest.mark.parametrize("status", [408, 409, 429, 500, 502, 503])
def test_what_may_pass_is_tried_again(status, monkeypatch):
    with serving([(status, {"error": {"message": "busy"}}), (200, GOOD)]) as (at, got):
        reply, client = complete(at, Request(("a",), 1), monkeypatch)
    assert reply.text == "1" and len(got) == 2 and client.retried == 1


def test_half_a_reply_is_none(monkeypatch):
    cut = {"choices": [{"index": 0, "finish_reason": None, "message": {"role": "assistant", "content": "1"}}]}
    with serving([(200, cut), (200, {"choices": None, "error": {"message": "overloaded"}}), (200, GOOD)]) as (at, got):
        assert complete(at, Request(("a",), 1), monkeypatch)[0].text == "1" and len(got) == 3
    with serving([(200, cut)]) as (at, got), pytest.raises(NoReply, match="finish_reason"):
        complete(at, Request(("a",), 1), monkeypatch)
    assert len(got) == 3, "the first and two retries"


@pytest.mark.parametrize(
    ("status", "says"), [(401, "SOME_KEY"), (403, "does not allow"), (404, "vlm.model"), (422, "refuses the request")]
)
def test_what_will_not_pass_is_a_sentence_without_the_key(status, says, monkeypatch):
    body = {"error": {"message": f"no: {KEY} is wrong"}}
    with serving([(status, body)]) as (at, got), pytest.raises(ServerError, match=says) as raised:
        complete(at, Request(("a",), 1), monkeypatch)
    assert KEY not in str(raised.value) and len(got) == 1


def test_a_server_that_says_why_in_its_own_way(monkeypatch):
    """FastAPI's `detail`, of which the openai package says nothing."""
    with serving([(422, {"detail": f"Unexpected fields: {KEY}"})]) as (at, _), pytest.raises(ServerError) as raised:
        complete(at, Request(("a",), 1), monkeypatch)
    assert "Unexpected fields: ***" in str(raised.value)


def test_nothing_left_to_pay_with_is_not_tried_again(monkeypatch):
    body = {"error": {"message": "You exceeded your quota", "code": "insufficient_quota"}}
    with serving([(429, body)]) as (at, got), pytest.raises(ServerError, match="nothing is left to pay with"):
        complete(at, Request(("a",), 1), monkeypatch)
    assert len(got) == 1


def test_a_server_that_refuses_log_probabilities_is_asked_without(monkeypatch):
    body = {"error": {"message": "logprobs is not supported by this model"}}
    with serving([(400, body), (200, GOOD)]) as (at, got):
        reply, client = complete(at, Request(("a",), 1, top=5), monkeypatch)
    assert reply.text == "1" and "logprobs" in got[0] and "logprobs" not in got[1]
    assert len(client.notices) == 1 and "log-probabilities" in client.notices[0] and not client.has_logprobs


def test_log_probabilities_left_out_without_a_word_are_noticed(monkeypatch):
    with serving([(200, GOOD)]) as (at, _):
        reply, client = complete(at, Request(("a",), 1, top=5), monkeypatch)
    assert reply.tokens is None and len(client.notices) == 1


def test_a_server_says_how_long_to_wait(monkeypatch):
    with serving([(429, {"error": {"message": "slow"}}), (200, GOOD)], {"retry-after": "0.2"}) as (at, _):
        waited: list[float] = []
        real = asyncio.sleep
        monkeypatch.setattr("pbrl.vlm.client.asyncio.sleep", lambda s: (waited.append(s), real(0))[1])
        complete(at, Request(("a",), 1), monkeypatch)
    assert waited == [0.2]


def test_a_refusal_without_log_probabilities_says_nothing_of_the_server(monkeypatch):
    message = {"role": "assistant", "content": None, "refusal": "I cannot help with that."}
    refused = {"choices": [{"index": 0, "finish_reason": "stop", "message": message}]}
    with serving([(200, refused)]) as (at, _):
        reply, client = complete(at, Request(("a",), 1, top=5), monkeypatch)
    assert reply.is_refused and client.has_logprobs and not client.notices
