"""A model's proposal of stages: what it is asked, what is taken, and what is refused and asked again."""

import asyncio
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest
import yaml

from pbrl.stages import __main__ as command
from pbrl.stages.description import load_stages
from pbrl.stages.propose import propose, propose_for
from pbrl.types import UserError
from pbrl.vlm.messages import Reply
from pbrl.vlm.settings import Settings
from tests import toy
from tests.parts import config
from tests.vlm.scripted import asked, in_turn, picture

KEYPOINTS = {"hand": np.array([[0.0, 0.1, 0.2]]), "cup": np.array([[0.5, 0.0, 0.05]])}
GOOD = """Here you are:
```yaml
- name: approach
  done: {between: [hand, cup], within: 0.05}
  costs: [{kind: distance, between: [hand, cup]}]
- name: lift
  costs: [{kind: height, of: cup, below: 0.2, weight: 2}]
```"""
WRONG_NAME = GOOD.replace("cup", "saucer")
POINT = "- costs: [{kind: distance, between: [point, origin]}]"


def ask_for(*replies):
    ask, requests = asked(in_turn(*replies))
    found = asyncio.run(propose(ask, "pour", "lift the cup", picture(0.5), KEYPOINTS, {}))
    return found, requests


def test_what_fits_is_taken(tmp_path):
    found, requests = ask_for(GOOD)
    (tmp_path / "own.yaml").write_text(found)
    approach, lift = load_stages(str(tmp_path / "own.yaml"))["pour"]
    assert approach.done == ("hand", "cup") and lift.costs[0].weight == 2 and not lift.costs[0].is_above
    (request,) = requests
    words = request.parts[1]
    assert "lift the cup" in words and "hand: 0.00, 0.10, 0.20" in words and "cup: 0.50, 0.00, 0.05" in words
    assert len(request.pictures) == 1


def test_what_does_not_fit_is_said_to_the_model():
    _, requests = ask_for("no yaml: [", WRONG_NAME, GOOD)
    assert [request.attempt for request in requests] == [0, 1, 2]
    assert "it is no YAML" in requests[1].parts[1]
    assert "speak of saucer" in requests[2].parts[1] and "it has hand, cup" in requests[2].parts[1]


def test_without_fences_in_a_field_and_after_thoughts():
    bare = GOOD.split("```yaml\n")[1].removesuffix("```")
    for words in (bare, "stages:\n" + bare, "<think>a cup? [</think>" + GOOD):
        assert ask_for(words)[0] == ask_for(GOOD)[0]


def test_a_model_that_will_not_or_cannot():
    with pytest.raises(UserError, match="would not describe 'lift the cup'"):
        ask_for(Reply("", "content_filter"))
    with pytest.raises(UserError, match="of 4 replies none was a stage description; the last one: .*a list of stages"):
        ask_for(*["I am sorry"] * 4)


class Server(ThreadingHTTPServer):
    """Speaks OpenAI's protocol; its replies are those it was given, in turn."""

    def __init__(self, *replies: str):
        super().__init__(("127.0.0.1", 0), Handler)
        self.replies, self.bodies = list(replies), []
        threading.Thread(target=self.serve_forever, daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/v1"


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        self.reply({"object": "list", "data": [{"id": "small", "object": "model"}]})

    def do_POST(self):
        self.server.bodies.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))  # type: ignore
        message = {"role": "assistant", "content": self.server.replies.pop(0)}  # type: ignore[attr-defined]
        choice = {"index": 0, "message": message, "finish_reason": "stop"}
        usage = {"prompt_tokens": 900, "completion_tokens": 60, "total_tokens": 960}
        self.reply({"id": "1", "object": "chat.completion", "created": 0, "model": "small", "choices": [choice],
                    "usage": usage})  # fmt: skip

    def reply(self, content):
        data = json.dumps(content).encode()
        self.send_response(200), self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data))), self.end_headers()
        self.wfile.write(data)

    def log_message(self, *args):
        pass


def settings(server: Server, folder) -> Settings:
    given = {"base_url": server.url, "model": "small", "cache": str(folder / "cache"), "size": 64, "task": "walk home"}
    return Settings.parse({**config("vlm=local")["vlm"], **given})


def test_over_http_and_nothing_is_paid_for_twice(tmp_path):
    server, said = Server("nonsense", POINT), []
    own = settings(server, tmp_path)
    found = asyncio.run(propose_for(toy.Point(), own, 3, said.append))
    assert yaml.safe_load(found) == {"point": [{"costs": [{"kind": "distance", "between": ["point", "origin"]}]}]}
    assert len(server.bodies) == 2 and "prompt_tokens 1800" in said[0]
    parts = server.bodies[0]["messages"][0]["content"]
    assert parts[0]["image_url"]["url"].startswith("data:image/") and "walk home" in parts[1]["text"]
    assert "origin: 0.00, 0.00, 0.00" in parts[1]["text"]
    again = asyncio.run(propose_for(toy.Point(), own, 3, said.append))
    assert again == found and len(server.bodies) == 2
    server.shutdown()


def test_the_command(tmp_path, capsys, monkeypatch):
    stages = yaml.safe_dump([{"costs": [{"kind": "path", "of": "tool"}]}])
    server, out = Server(stages), tmp_path / "own.yaml"

    def run(*words):
        monkeypatch.setattr("sys.argv", ["stages", *words])
        command.main()
        return capsys.readouterr().out

    flags = ["env=franka/reach", "vlm=local", f"vlm.base_url={server.url}", "vlm.model=small", "vlm.size=64",
             f"vlm.cache={tmp_path}/cache", "--out", str(out)]  # fmt: skip
    assert "algo.description=" in run(*flags) and load_stages(str(out))["reach"]
    with pytest.raises(UserError, match="is there already"):
        run(*flags)
    assert len(server.bodies) == 1, "before anything is paid"
    assert "own.yaml fits franka/reach: 1 stages" in run("env=franka/reach", "--check", str(out))
    with pytest.raises(UserError, match="has no stages of lift; it has those of reach"):
        run("env=franka/lift", "--check", str(out))
    server.shutdown()
