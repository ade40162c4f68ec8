"""People at the page, in a real browser, by keyboard alone: their answers are kept, once, whatever happens."""

import json
import time
from pathlib import Path

import numpy as np
import pytest

from pbrl.feedback.store.store import Store
from tests.feedback.page.page import CHROMIUM, QUIET, Server, needs_browser

pytestmark = [pytest.mark.slow, needs_browser]


@pytest.fixture(scope="module")
def browser():
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=QUIET)
        yield browser
        browser.close()


@pytest.fixture
def serve(tmp_path):
    """Starts servers and stops them."""
    servers: list[Server] = []

    def start(*flags: str) -> Server:
        servers.append(Server(tmp_path, *flags))
        return servers[-1]

    yield start
    for server in servers:
        server.kill()


@pytest.fixture
def open_page(browser):
    contexts = []

    def visit(server: Server, **options):
        contexts.append(browser.new_context(**{"viewport": {"width": 1200, "height": 850}, **options}))
        page = contexts[-1].new_page()
        page.errors = []
        page.on("pageerror", lambda error: page.errors.append(str(error)))
        page.goto(server.at)
        page.wait_for_selector("#help[open]")
        page.keyboard.press("Escape")
        watch(page)
        return page

    yield visit
    for context in contexts:
        context.close()


def watch(page) -> str:
    """Waits until the clips of a question are there; returns its id."""
    page.wait_for_selector("body[data-question]", timeout=20000)
    page.wait_for_timeout(200)  # a person sees something before saying something
    return page.evaluate("document.body.dataset.question")


def press(page, *keys: str) -> None:
    for key in keys:
        page.keyboard.press(key)


def wait_for_events(server: Server, n: int, **about) -> list[dict]:
    """All events, once there are n of them."""
    store = Store(server.url)
    for _ in range(300):
        events = store.tail(0)
        if len(events) >= n:
            break
        time.sleep(0.1)
    assert len(events) == n, events
    return events


ANSWERS = {  # keys, and what they say where the clips are shown in their order
    "pair": (["ArrowLeft"], {"label": 0.0}),
    "triplet": (["ArrowRight"], {"label": 1.0}),
    "rating": (["4"], {"label": 4.0}),
    "ranking": (["2", "1", "=", "3", "4", "x", "4", "Enter"], {"tiers": [[1], [0, 2], [3]]}),
    "attributes": (["ArrowLeft", "ArrowDown", "ArrowUp", "Enter"],
                   {"attributes": {"faster": 0.0, "higher": 0.5, "smoother": None}}),
}  # fmt: skip


def as_shown(detail, order):
    """What was said had every clip been shown at its own place."""
    slot = {place: i for i, place in enumerate(order)}
    if "tiers" in detail:
        return {"tiers": [sorted(slot[p] for p in tier) for tier in detail["tiers"]]}
    flip = order == [1, 0]
    return {"attributes": {k: v if v is None or not flip else 1 - v for k, v in detail["attributes"].items()}}


@pytest.mark.parametrize("kind", ANSWERS)
def test_a_session_by_keyboard(serve, open_page, kind):
    """Answer, undo, answer again, reload, go on, say equal or that one cannot tell, skip."""
    server = serve(f"query.kind={kind}", "query.count=6")
    page = open_page(server)
    keys, expected = ANSWERS[kind]
    first = watch(page)
    press(page, *keys)
    second = watch(page)
    assert second != first
    press(page, "z")
    assert watch(page) == first
    press(page, *keys)
    assert watch(page) == second
    page.reload()
    assert watch(page) == second, "a reload loses nothing and shows nothing twice"
    press(page, "z")
    assert watch(page) == first, "and what was said before it can be taken back"
    press(page, *keys)
    watch(page)
    press(page, "ArrowUp" if kind != "attributes" else "s")
    watch(page)
    press(page, "s")
    watch(page)
    events = wait_for_events(server, 7)
    assert [e["kind"] for e in events][:5] == ["answer", "retract", "answer", "retract", "answer"]
    assert events[-1]["kind"] == "pass" and {e["question"] for e in events[:5]} == {first}
    if kind != "attributes":
        assert events[5]["outcome"] == "skip", "not to be able to tell is an answer"
    answer, order = events[4], events[4]["shown"]["order"]
    if "label" in expected:
        flip = order in ([1, 0], [0, 2, 1])
        assert answer["label"] == (1 - expected["label"] if flip else expected["label"])
    else:
        assert as_shown(answer["detail"], order) == expected
    assert answer["seconds"] > 0.15 and answer["rater"] == "me" and page.errors == []
    assert Store(server.url).find_miscounted() == []


def test_good_and_bad_spans(serve, open_page):
    server = serve("query.kind=spans", "query.count=3")
    page = open_page(server)
    press(page, "r", " ")
    page.focus("#scrubber")
    press(page, "Home")
    page.evaluate("document.activeElement.blur()")
    page.keyboard.down("g")
    press(page, ".", ".", ".")
    page.wait_for_timeout(200)
    page.keyboard.up("g")
    press(page, ".", "2", "n")
    page.keyboard.type("a good start")
    press(page, "Enter", "Enter")
    (event,) = wait_for_events(server, 1)
    assert event["detail"]["note"] == "a good start"
    (span,), (mark,) = event["detail"]["spans"], event["detail"]["marks"]
    assert span == {"start": 0, "end": 3, "good": True} and mark == {"frame": 4, "name": "contact"}


def test_the_server_dies_in_mid_answer(serve, open_page):
    server = serve("query.kind=pair", "query.count=12")
    page = open_page(server)
    press(page, "ArrowLeft")
    watch(page)
    wait_for_events(server, 1)
    server.kill()
    press(page, "ArrowRight")
    watch(page)  # the next clips are here already
    press(page, "ArrowDown")
    page.wait_for_selector("#trouble:has-text('2 answers are kept here')")
    page.evaluate("window.onbeforeunload = null")
    server.start()
    events = wait_for_events(server, 3)
    assert len({e["question"] for e in events}) == 3 and [e["outcome"] for e in events] == ["answer", "answer", "tie"]
    page.wait_for_selector("#trouble", state="hidden")
    watch(page)
    press(page, "ArrowLeft")
    wait_for_events(server, 4)


def test_nothing_stays_when_the_server_is_killed(serve, open_page):
    """Its renderers hold a data set each, and would wait for ever."""
    server = serve("query.kind=pair", "query.count=3")
    open_page(server)
    children = Path(f"/proc/{server.process.pid}/task/{server.process.pid}/children").read_text().split()
    assert children
    server.kill()
    for _ in range(100):
        left = [c for c in children if alive(c)]
        if not left:
            return
        time.sleep(0.1)
    raise AssertionError(f"{left} are still there")


def alive(pid: str) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


def test_a_clip_that_is_not_there_is_no_answer(serve, open_page):
    server = serve("query.kind=pair", "query.count=3")
    page = open_page(server)
    page.route("**/media/**", lambda route: route.fulfill(status=503, json={"detail": "no renderer"}))
    page.reload()
    page.wait_for_selector("#trouble:has-text('no renderer')")
    press(page, "ArrowLeft", "ArrowLeft")
    page.wait_for_timeout(500)
    assert Store(server.url).last() == 0
    page.unroute("**/media/**")
    watch(page)
    assert page.is_hidden("#trouble")
    press(page, "ArrowLeft")
    wait_for_events(server, 1)


def test_every_frame_is_shown_where_the_scrubber_says(serve, open_page):
    """Each picture carries its step as a bar code, which is read off the screen."""
    server = serve("query.kind=pair", "query.count=2")
    page = open_page(server)
    press(page, " ")
    store = Store(server.url)
    read = """async (frame) => {
        const scrubber = document.getElementById("scrubber");
        scrubber.value = frame; scrubber.oninput();
        const videos = [...document.querySelectorAll("video")];
        await Promise.all(videos.map((v) => !v.seeking ||
            new Promise((done) => v.addEventListener("seeked", done, { once: true }))));
        for (let i = 0; i < 3; i++) await new Promise(requestAnimationFrame); // until it is painted
        return videos.map((video) => {
            const canvas = new OffscreenCanvas(64, 64), draw = canvas.getContext("2d");
            draw.drawImage(video, 0, 0);
            let step = 0;
            for (let bit = 0; bit < 8; bit++) step |= (draw.getImageData(bit * 8 + 4, 4, 1, 1).data[0] > 128) << bit;
            return [new URL(video.src).pathname.slice(7, -4), step];
        });
    }"""
    wrong = []
    for frame in [*range(12), *reversed(range(12)), 5, 0, 11]:
        for clip, step in page.evaluate(read, frame):
            first = store.clips([clip])[clip].first
            if step != first + frame:
                wrong.append((clip, frame, step - first))
    assert wrong == []


def test_two_clips_play_in_step(serve, open_page):
    """They are never more than a frame apart, but for one look in a hundred."""
    page = open_page(serve())
    apart = page.evaluate("""() => new Promise((done) => {
      const [first, second] = document.querySelectorAll("#clips video"), apart = [];
      const look = () => {
        apart.push(Math.abs(first.currentTime - second.currentTime));
        apart.length < 240 ? setTimeout(look, 25) : done(apart);
      };
      look();
    })""")
    moved = page.evaluate("document.querySelector('#clips video').played.length")
    assert moved > 0 and np.percentile(apart, 99) <= 1 / 10 + 1e-6


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1200])
def test_the_page_is_accessible(serve, open_page, scheme, width, tmp_path):
    """axe-core finds nothing, on the question and on the help."""
    from axe_playwright_python.sync_playwright import Axe

    server = serve("query.kind=attributes", "query.count=2")
    page = open_page(server, color_scheme=scheme, viewport={"width": width, "height": 800}, bypass_csp=True)
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), "no scrolling sideways"
    for _ in ("question", "help"):
        found = Axe().run(page).response["violations"]
        assert found == [], json.dumps(found, indent=1)
        press(page, "?")
        page.wait_for_selector("#help[open]")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_overview_of_raters(serve, open_page, scheme):
    from axe_playwright_python.sync_playwright import Axe

    server = serve("query.kind=pair", "query.count=4")
    page = open_page(server, color_scheme=scheme, bypass_csp=True, viewport={"width": 390, "height": 800})
    press(page, "ArrowLeft")
    wait_for_events(server, 1)
    page.goto(server.at + "stats")
    page.wait_for_selector("#raters tbody tr")
    assert "me" in page.inner_text("#raters tbody tr th") and page.errors == []
    found = Axe().run(page).response["violations"]
    assert found == [], json.dumps(found, indent=1)


def test_practice_shows_the_expected_answer(serve, open_page):
    page = open_page(serve("query.kind=pair", "query.count=4", "checks.practice=2"))
    press(page, "ArrowLeft")
    page.wait_for_selector("#toast:has-text('Practice')")


def test_custom_keys_and_keys_meant_for_the_last_question(serve, open_page):
    server = serve("query.kind=pair", "query.count=8")
    page = open_page(server)
    press(page, "ArrowLeft", "ArrowLeft")  # the second is a slip
    watch(page)
    press(page, "?")
    page.click("#keys tr:nth-child(1) button")
    press(page, "a")
    press(page, "Escape")
    press(page, "ArrowLeft", "a")
    watch(page)
    assert len(wait_for_events(server, 2)) == 2
    press(page, "?")
    page.uncheck("#keys-on")
    press(page, "Escape", "a", "a")
    page.wait_for_timeout(300)
    wait_for_events(server, 2)
