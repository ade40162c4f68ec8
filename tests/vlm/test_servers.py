"""Real servers, each with a tiny model of random weights: the protocol, the presets, and what these servers refuse.

Nothing here says how well a model judges: these see pictures through weights that nobody trained.
"""

import asyncio
from importlib.util import find_spec
from itertools import permutations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from pbrl.configs import compose_config
from pbrl.feedback.kinds import SKIP
from pbrl.feedback.store.store import Store
from pbrl.types import UserError
from pbrl.vlm.client import Client, NoReply, ServerError
from pbrl.vlm.messages import Picture, Reply, Request
from pbrl.vlm.pictures import encode
from pbrl.vlm.settings import Settings
from tests.vlm.labelling import ask, run
from tests.vlm.servers.running import Running, begin, wait

NEEDS = {"transformers_serve": ("transformers", "accelerate"), "llama_cpp": ("xllamacpp", "gguf")}
COUNT = 6
DIGIT = "Answer with the digit 1 or 2 alone."
COLORS = ["red", "blue", "white", "black", "yellow", "pink"]


@pytest.fixture(scope="module")
def servers(tmp_path_factory):
    """Both, started at once."""
    there = [name for name, packages in NEEDS.items() if all(map(find_spec, packages))]
    started = {name: begin(name, tmp_path_factory.mktemp(name)) for name in there}
    yield started
    for server in started.values():
        server.stop()


def served(servers: dict[str, Running], name: str) -> Running:
    if name not in servers:
        pytest.skip(f"needs {' and '.join(NEEDS[name])}: pip install -e '.[dev]'")
    return wait(servers[name])


@pytest.fixture(scope="module", params=list(NEEDS))
def server(request, servers):
    return served(servers, request.param)


@pytest.fixture(scope="module")
def transformers(servers):
    return served(servers, "transformers_serve")


@pytest.fixture(scope="module")
def llama(servers):
    return served(servers, "llama_cpp")


def settings(server: Running, folder: Path, **more: Any) -> Settings:
    """The preset as it is, at the server's own port."""
    preset = compose_config("feedback=vlm", f"vlm={server.module}")["vlm"]
    own = {"base_url": server.base_url, "cache": str(folder / "cache"), "task": "go home", "size": 56}
    return Settings.parse({**preset, **own, "judge": "pair_logprob", "view": "frame", "backoff_s": 0.01, **more})


def picture(color: str) -> Picture:
    return Picture(encode(np.asarray(Image.new("RGB", (56, 56), color))))


def complete(settings: Settings, *requests: Request) -> tuple[list[Reply], Client]:
    """Replies, one after the other, or what was raised."""

    async def work() -> tuple[list[Any], Client]:
        client = Client(settings.server())
        await client.check()
        try:
            return [(await asyncio.gather(client.complete(r), return_exceptions=True))[0] for r in requests], client
        finally:
            await client.close()

    return asyncio.run(work())


@pytest.mark.parametrize("judge", ["pair_logprob", "pair"])
def test_pairs_are_answered(server, data, tmp_path, judge):
    store = Store(f"sqlite:///{tmp_path / 'a.sqlite'}")
    asked = ask(store, data[1], COUNT)
    labeller = run(store, data, settings(server, tmp_path, judge=judge))
    assert labeller.error is None and labeller.ended is None and not labeller.client.notices
    values = [answer.value for answer in store.answers(asked, rater=labeller.rater)]
    assert len(values) == COUNT and not any(value.outcome == SKIP for value in values)
    verdicts = {"1", "2"} if judge == "pair" else set()  # requests without pictures, alike for what was written before
    assert 2 * COUNT <= labeller.budget.requests <= 2 * COUNT + len(verdicts)
    assert labeller.budget.prompt_tokens > 2 * COUNT * 2 * 16, "pictures are 16 tokens"
    labels = [value.label for value in values]
    if judge == "pair_logprob" and server.module == "llama_cpp":
        assert all(0 < label < 1 for label in labels) and len(set(labels)) == COUNT, "probabilities, by the pictures"
    else:
        assert set(labels) <= {0.0, 0.5, 1.0}
    assert all(0 not in value.detail["vlm"]["tokens"] for value in values)


def test_what_a_reply_says_depends_on_the_pictures(server, tmp_path):
    pairs = list(permutations(map(picture, COLORS), 2))
    requests = [Request(("Case 1:", a, "Case 2:", b, DIGIT), 8, top=5) for a, b in pairs]
    replies, client = complete(settings(server, tmp_path), *requests)
    assert all(reply.text in ("1", "2") and reply.finish == "stop" for reply in replies)
    if server.module == "llama_cpp":
        first = [reply.tokens[0] for reply in replies]
        assert len({token.logprob for token in first}) == len(pairs) and all(len(token.top) == 5 for token in first)
    else:
        assert {reply.text for reply in replies} == {"1", "2"} and all(reply.tokens is None for reply in replies)


@pytest.mark.parametrize(("judge", "says"), [("rating", "said"), ("progress", "unreadable")])
def test_ratings_are_answered_or_skipped(server, data, tmp_path, judge, says):
    store = Store(f"sqlite:///{tmp_path / 'a.sqlite'}")
    asked = ask(store, data[1], 3, kind="rating")
    labeller = run(store, data, settings(server, tmp_path, judge=judge, view="frames", frames=3))
    values = [answer.value for answer in store.answers(asked)]
    assert labeller.error is None and [v.detail["vlm"]["outcomes"] for v in values] == [[says]] * 3
    assert all((v.outcome == SKIP) == (says != "said") for v in values)


def test_transformers_serve_leaves_log_probabilities_out_without_a_word(transformers, data, tmp_path):
    store = Store(f"sqlite:///{tmp_path / 'a.sqlite'}")
    asked = ask(store, data[1], COUNT)
    labeller = run(store, data, settings(transformers, tmp_path, logprobs=True))
    assert labeller.error is None and len(store.answers(asked)) == COUNT
    assert len(labeller.client.notices) == 1 and "gives no log-probabilities" in labeller.client.notices[0]
    labeller = run(store, data, settings(transformers, tmp_path, judge="true_probability", view="frames", frames=3))
    assert labeller.error is None, "no open question is left"
    ask(store, data[1], 1, kind="rating")
    labeller = run(store, data, settings(transformers, tmp_path, judge="true_probability", view="frames", frames=3))
    assert "needs log-probabilities" in str(labeller.error) and "vlm.judge=progress" in str(labeller.error)


def test_a_repeated_request_is_sampled(transformers, tmp_path):
    """Without the preset's `more` transformers serve is greedy at any temperature, and a repetition repeats itself."""
    shown = picture("red"), picture("green"), DIGIT
    requests = [Request(shown, 8, temperature=2.0, attempt=i) for i in range(30)]
    greedy, _ = complete(settings(transformers, tmp_path, more=None), *requests)
    own = settings(transformers, tmp_path)
    sampled, _ = complete(own, *[Request(r.parts, 8, 2.0, attempt=r.attempt, more=own.more or {}) for r in requests])
    first, _ = complete(own, *[Request(shown, 8, more=own.more or {}) for _ in range(5)])
    assert len({reply.text for reply in greedy}) == 1 < len({reply.text for reply in sampled})
    assert {reply.text for reply in first} == {greedy[0].text}, "at temperature 0 it is greedy as before"


def test_a_model_of_another_name(servers, transformers, llama, data, tmp_path):
    with pytest.raises(UserError, match=f"no such model, but {transformers.folder}"):
        complete(settings(transformers, tmp_path, model="other"))
    with pytest.raises(ServerError, match="Server is pinned to"):
        raise complete(settings(transformers, tmp_path, model="other", check_model=False), Request((DIGIT,), 8))[0][0]  # type: ignore[misc]
    (reply,), client = complete(settings(llama, tmp_path, model="other"), Request((DIGIT,), 8))
    assert reply.text in ("1", "2") and client.model == "other", "it answers to any name"


def test_a_field_that_is_not_known(transformers, llama, data, tmp_path):
    request = Request((DIGIT,), 8, more={"top_q": 1})
    with pytest.raises(ServerError, match="Unexpected fields in the request: {'top_q'}"):
        raise complete(settings(transformers, tmp_path), request)[0][0]  # type: ignore[misc]
    assert complete(settings(llama, tmp_path), request)[0][0].text in ("1", "2"), "it is left out without a word"


def test_a_picture_that_is_none(transformers, llama, tmp_path):
    """One server says 500, and resets what comes next on that connection; the other says 400."""
    broken, whole = Request((Picture(b"\xff\xd8 none"), DIGIT), 8), Request((picture("red"), DIGIT), 8)
    (none, reply), client = complete(settings(transformers, tmp_path, retries=1), broken, whole)
    assert isinstance(none, NoReply) and client.retried >= 1 and reply.text in ("1", "2")
    (none, reply), client = complete(settings(llama, tmp_path), broken, whole)
    assert isinstance(none, ServerError) and "Failed to load image" in str(none) and reply.text in ("1", "2")


def test_llama_cpp_refuses_more_than_a_slot_holds(llama, tmp_path):
    (error,), _ = complete(settings(llama, tmp_path), Request(("x" * 5000,), 8))
    assert isinstance(error, ServerError) and "exceeds the available context size (4096 tokens" in str(error)


def test_a_grammar_bounds_the_words_and_not_the_log_probabilities(llama, tmp_path):
    more = {"grammar": 'root ::= "first" | "second"'}
    (reply,), _ = complete(settings(llama, tmp_path), Request((picture("red"), DIGIT), 8, top=20, more=more))
    assert reply.text in ("first", "second") and reply.finish == "stop"
    assert {"1", "2"} <= {text for text, _ in reply.tokens[0].top} and reply.tokens[0].logprob < -5


def test_a_server_that_went_away_and_came_back(data, tmp_path):
    """Of llama.cpp, which starts in a moment: the same command goes on, and nothing is paid for twice."""
    if not all(map(find_spec, NEEDS["llama_cpp"])):
        pytest.skip("needs xllamacpp and gguf: pip install -e '.[dev]'")
    store = Store(f"sqlite:///{tmp_path / 'a.sqlite'}")
    asked = ask(store, data[1], COUNT)
    first = wait(begin("llama_cpp", tmp_path / "server"))
    budget = {"questions": 2, "tokens": None, "money": None}
    before = run(store, data, settings(first, tmp_path, budget=budget))
    first.stop()
    with pytest.raises(UserError, match="nothing answers at .*start the server"):
        run(store, data, settings(first, tmp_path))
    again = wait(begin("llama_cpp", first.folder, first.port))
    try:
        after = run(store, data, settings(again, tmp_path))
    finally:
        again.stop()
    assert 0 < before.budget.requests < 2 * COUNT == before.budget.requests + after.budget.requests
    assert len(store.answers(asked)) == COUNT and len(after.transcript.rows()) == 2 * COUNT
