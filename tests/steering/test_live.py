"""Steering live: requests change targets between two actions, and the page shows what is asked, read and measured."""

import copy
import os
import re
import signal
import subprocess
import urllib.request

import numpy as np
import pytest
import torch
from starlette.testclient import TestClient

from pbrl import steer
from pbrl.data.rollout import make_environment
from pbrl.steering.live import Player
from pbrl.steering.server import make_app, pictures
from pbrl.types import Observation
from tests import forks
from tests.algos.test_aligndiff import run, world  # noqa: F401  fixtures: a point that learnt to stroll
from tests.feedback.page.page import CHROMIUM, QUIET, needs_browser, violations


@pytest.fixture
def player(run):  # noqa: F811
    policy, settings = steer.load_planner(run)
    return Player(make_environment(settings), make_environment(settings), policy, {"speed": 0.0}, seed=3)


@pytest.fixture
def client(player):
    with TestClient(make_app(player), base_url="http://localhost") as client:
        yield client


def tick(player: Player, count: int) -> np.ndarray:
    """The point's speed in each of so many steps, per step."""
    speeds = []
    for _ in range(count):
        player.tick()
        speeds.append(np.linalg.norm(np.diff([state for state in player.states][-2:], axis=0)))
    return np.array(speeds)


def test_a_target_that_is_set_is_planned_for_at_the_next_action(client, player):
    slow = tick(player, 7)
    kept = copy.deepcopy(player.policy)
    reply = client.post("/api/targets", json={"targets": {"speed": 1.0}}).json()
    assert reply["targets"] == {"speed": 1.0} and player.policy.targets == {"speed": 0.0}, "not in mid-action"
    seen = Observation(torch.from_numpy(player.obs[-1][None]))
    fast = tick(player, 7)
    assert player.policy.targets == {"speed": 1.0}
    assert not np.allclose(0.1 * kept.act(seen).norm(), fast[0], atol=0.01), "a new plan, at once"
    assert slow.mean() + 0.03 < fast.mean()
    assert client.post("/api/targets", json={"targets": {"speed": None}}).json()["targets"] == {"speed": None}
    tick(player, 1)
    assert player.policy.targets == {}


def test_words_change_targets_relative_to_what_is_asked_for(client):
    reply = client.post("/api/say", json={"words": "much faster"}).json()
    assert reply["changes"] == reply["targets"] == {"speed": pytest.approx(0.4)}
    refused = client.post("/api/say", json={"words": "higher"})
    assert refused.status_code == 400 and "it knows speed" in refused.json()["detail"]
    assert client.get("/api/state").json()["targets"] == {"speed": pytest.approx(0.4)}


def test_it_pauses_and_begins_again_at_a_seed(client, player):
    tick(player, 5)
    assert client.post("/api/pause", json={"paused": True}).json()["paused"]
    player.tick()
    assert client.get("/api/state").json()["step"] == 5
    client.post("/api/start", json={"seed": 11})
    player.tick()
    shown = client.get("/api/state").json()
    assert (shown["seed"], shown["step"]) == (11, 0)
    env = make_environment({"_target_": "tests.toy.Point", "horizon": 20})
    np.testing.assert_array_equal(env.reset(seed=11)[0], player.obs[-1])
    player.pause(False)
    tick(player, 21)
    assert (player.seed, player.step) == (12, 1), "an episode follows the last"


def test_what_is_measured_is_what_the_last_steps_did(player):
    speeds = tick(player, 18)
    window = player.policy.strengths.context
    assert player.measured["speed"] == pytest.approx(10 * speeds[-window:].mean(), rel=1e-5)
    obs = np.stack(player.obs)
    assert player.read == steer.read_strengths(player.policy.strengths, ["speed"], obs) and len(obs) == window + 1


def test_the_film_holds_each_picture_and_ends(player):
    """It is read beside the simulator: a picture, then the next, until the player stops."""
    import asyncio

    async def watch() -> list[bytes]:
        parts = []
        async for part in pictures(player):
            parts.append(part)
            player.stop() if len(parts) == 4 else player.tick()
        return parts

    first, *others = asyncio.run(watch())
    assert first == b"--picture\r\n" and len({*others}) == 3
    for part in others:
        head, _, rest = part.partition(b"\r\n\r\n")
        picture = rest.removesuffix(b"\r\n--picture\r\n")
        assert b"Content-Length: %d" % len(picture) in head
        assert picture.startswith(b"\xff\xd8") and picture.endswith(b"\xff\xd9"), "JPEG"


def test_without_a_renderer_there_are_numbers(client, player, monkeypatch):
    def render(**_):
        raise RuntimeError("no OpenGL here")

    monkeypatch.setattr(player.env, "render", render)
    tick(player, 6)
    shown = client.get("/api/state").json()
    assert shown["no_picture"] == "no OpenGL here" and shown["measured"]["speed"] > 0 and player.picture is None


@pytest.mark.parametrize(
    "path,body,status,said",
    [
        ("targets", {"targets": {"wings": 0.5}}, 400, "wings: this planner knows speed"),
        ("targets", {"targets": {"speed": 1.5}}, 422, "less than or equal to 1"),
        ("targets", {"targets": {"speed": "fast"}}, 422, "valid number"),
        ("say", {"words": "x" * 501}, 422, "500"),
        ("start", {"seed": -1}, 422, "greater than or equal to 0"),
    ],
)
def test_requests_that_mean_nothing(client, path, body, status, said):
    reply = client.post(f"/api/{path}", json=body)
    assert reply.status_code == status and said in reply.json()["detail"]


def test_other_sites_steer_nothing(client, player):
    body = {"targets": {"speed": 1.0}}
    assert client.post("/api/targets", json=body, headers={"Origin": "http://elsewhere.example"}).status_code == 403
    assert client.post("/api/targets", json=body, headers={"Host": "elsewhere.example"}).status_code == 400
    assert player.targets == {"speed": 0.0}
    assert "default-src 'none'" in client.get("/").headers["content-security-policy"]


def test_the_command_takes_words(run):  # noqa: F811
    words = [f"run={run}", "speed=0.9", "say=much slower", "steps=3", "video=false"]
    assert steer.steer(*steer.read_words(words))[0].targets == {"speed": 0.5}
    with pytest.raises(SystemExit, match="this planner has not learnt: it knows speed"):
        steer.main([*words, "say=lift your feet"])


@pytest.mark.parametrize(
    "words,said",
    [
        (["live=yes"], "live=yes: it is true or false"),
        (["live=true", "steps=9", "video=false"], "leave steps, video out"),
        (["live=true", "port=99999"], "a number from 1 to 65535"),
        (["live=true", "wings=0.5"], "wings: this planner knows speed"),
    ],
)
def test_a_page_that_cannot_be_served(run, words, said):  # noqa: F811
    with pytest.raises(SystemExit, match=said):
        steer.main([f"run={run}", *words])


# The command, and the page in a browser


@pytest.fixture
def served(run):  # noqa: F811
    """The address at which `python -m pbrl.steer` serves, and its process."""
    words = ["-m", "pbrl.steer", f"run={run}", "live=true", "speed=0.2", f"port={21000 + os.getpid() % 400 * 100}"]
    process = forks.Program(words, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    found = re.search(r"http://\S+", process.stdout.readline())
    assert found
    yield found[0], process
    process.kill()
    process.wait()


def test_the_command_serves_a_film_and_stops_at_once(served):
    at, process = served
    with urllib.request.urlopen(f"{at}film") as film:
        assert film.headers["Content-Type"] == "multipart/x-mixed-replace; boundary=picture"
        assert film.read(40).startswith(b"--picture\r\nContent-Type: image/jpeg")
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=60) == 0
    assert "Traceback" not in process.stdout.read()


@pytest.mark.slow
@needs_browser
def test_a_slider_moves_the_target_in_a_browser(served):
    from playwright.sync_api import expect, sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=QUIET)
        page = browser.new_page(viewport={"width": 1100, "height": 700})
        errors: list[str] = []
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.goto(served[0])
        asked = page.locator("tr[data-attribute=speed] .asked")
        expect(asked).to_have_text("0.20")
        page.get_by_label("speed", exact=True).fill("0.7")
        expect(asked).to_have_text("0.70")
        page.get_by_label("any speed").check()
        expect(asked).to_have_text("any")
        page.get_by_label("In words").fill("as slow as possible")
        page.keyboard.press("Enter")
        expect(asked).to_have_text("0.00")
        expect(page.locator("#said")).to_have_text("speed 0.00")
        expect(page.locator("tr[data-attribute=speed] .measured")).not_to_have_text("–")
        expect(page.locator("#film")).to_have_js_property("naturalWidth", 480)
        assert violations(page) == "[]" and not errors
        assert page.evaluate("document.documentElement.scrollWidth") <= 1100
        browser.close()
