"""People at the page, in a real browser, by keyboard alone: their answers are kept, once, whatever happens."""

import json
import time
from pathlib import Path

import numpy as np
import pytest

from pbrl.feedback.store.store import Store
from tests.feedback.page.page import needs_browser, press, violations, wait_for_events, watch

pytestmark = [pytest.mark.slow, needs_browser]


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
    other = page.context.new_page()  # a second tab
    other.goto(server.at)
    watch(other)
    server.kill()
    press(page, "ArrowRight")
    watch(page)  # the next clips are here already
    press(page, "ArrowDown")
    page.wait_for_selector("#trouble:has-text('2 answers are kept here')")
    press(other, "ArrowUp")
    other.wait_for_selector("#trouble:has-text('3 answers are kept here')")
    other.close()
    watch(page)
    press(page, "ArrowLeft")
    page.wait_for_selector("#trouble:has-text('4 answers are kept here')")
    server.start()
    events = wait_for_events(server, 5)
    assert [e["outcome"] for e in events] == ["answer", "answer", "tie", "skip", "answer"]
    page.wait_for_selector("#trouble", state="hidden")
    watch(page)
    press(page, "ArrowLeft")
    wait_for_events(server, 6)


def test_answers_wait_for_the_next_login(serve, open_page):
    """Refused for want of a login they stay; only what can never be kept is set aside, and shown."""
    server = serve("query.kind=pair", "query.count=8", "share=[ada,bob]", "wanted=3")
    page = open_page(server, "ada")
    page.context.clear_cookies()
    press(page, "ArrowLeft")
    watch(page)
    press(page, "ArrowRight")
    page.wait_for_selector("#trouble:has-text('2 answers are kept here and will be sent when you open your link')")
    bob = page.context.new_page()
    bob.goto(server.links["bob"])
    watch(bob)
    page.wait_for_selector("#trouble:has-text('Another rater')")
    assert "ada" in bob.inner_text("#elsewhere") and "2 answers" in bob.inner_text("#elsewhere")
    assert Store(server.url).last() == 0, "ada's answers are not bob's"
    bob.goto(server.links["ada"])
    events = wait_for_events(server, 2)
    assert {e["rater"] for e in events} == {"ada"} and bob.is_hidden("#elsewhere")
    bob.evaluate("""() => {
        const key = Object.keys(localStorage).find((key) => key === "pbrl-session");
        const { project, rater } = JSON.parse(localStorage.getItem(key));
        const event = { uid: "0".repeat(32), question: "0".repeat(32), kind: "answer", value: { choice: "first" },
          shown: { order: [0, 1] }, time: "2026-11-28T12:00:00Z", ...(project ? { project } : {}) };
        localStorage.setItem(`pbrl-outbox/${project ?? ""}/${rater}/000000000000001-a`, JSON.stringify(event));
    }""")
    bob.reload()
    bob.wait_for_selector("#refused:has-text('1 answer could not be taken')")
    watch(bob)
    press(bob, "ArrowLeft")
    wait_for_events(server, 3)
    bob.click("#refused summary")
    assert "Left. Refused: there is no question 0000" in bob.inner_text("#refused-list")
    with bob.expect_download() as download:
        bob.click(".download-kept")
    (line,) = Path(download.value.path()).read_text().splitlines()
    assert json.loads(line)["value"] == {"choice": "first"} and json.loads(line)["rater"] == "ada"
    bob.reload()
    bob.wait_for_selector("#refused:has-text('1 answer could not be taken')")


def test_two_projects_take_turns_on_one_port(serve, open_page):
    """A browser knows both by one address: what waits for one is neither sent to the other nor lost there."""
    server = serve("query.kind=pair", "query.count=6")
    page = open_page(server)
    server.kill()
    press(page, "ArrowLeft")
    watch(page)
    press(page, "ArrowRight")
    page.wait_for_selector("#trouble:has-text('2 answers are kept here')")
    other = serve("query.kind=rating", "query.count=6", f"port={server.port}", folder="other")
    assert other.at == server.at
    page.wait_for_selector("#trouble:has-text('project')")
    page.reload()
    watch(page)
    assert "2 answers" in page.inner_text("#elsewhere") and page.is_hidden("#trouble")
    press(page, "4")
    (event,) = wait_for_events(other, 1)
    assert event["label"] == 4.0
    other.kill()
    server.start()
    page.reload()
    events = wait_for_events(server, 2)
    assert [e["outcome"] for e in events] == ["answer", "answer"] and events[0]["question"] != events[1]["question"]
    watch(page)
    assert page.is_hidden("#elsewhere") and page.is_hidden("#trouble") and page.is_hidden("#refused")
    assert len(wait_for_events(other, 1)) == 1 and page.errors == []


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
    for _ in range(3):
        watch(page)
        press(page, "ArrowLeft")
    wait_for_events(server, 3)
    page.wait_for_selector("#rest:has-text('you may close this page')")
    assert page.inner_text("#progress").startswith("me: 3 answered, 0 to go") and page.is_hidden("#pass")


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


def test_the_overview_before_anybody_has_answered(serve, open_page):
    server = serve("query.kind=pair", "query.count=4")
    page = open_page(server, color_scheme="dark", bypass_csp=True, viewport={"width": 390, "height": 844})
    page.goto(server.at + "stats")
    for text in ("nobody has answered yet", "1 answers"):
        page.wait_for_selector(f"#summary:has-text('{text}')")
        assert violations(page) == "[]" and page.errors == []
        if text.startswith("nobody"):
            page.click("a:has-text('Back to the questions')")
            watch(page)
            press(page, "ArrowLeft")
            wait_for_events(server, 1)
            page.goto(server.at + "stats")
    assert page.inner_text("#raters tbody tr th") == "me"


def test_practice_shows_the_expected_answer(serve, open_page):
    page = open_page(serve("query.kind=pair", "query.count=4", "checks.practice=2"))
    press(page, "ArrowLeft")
    page.wait_for_selector("#toast:has-text('Practice')")
    assert page.inner_text("#notice").startswith("Practice")
    page.click("#leave-practice")
    page.wait_for_selector("#notice", state="hidden")
    watch(page)


def test_custom_keys_and_keys_meant_for_the_last_question(serve, open_page):
    server = serve("query.kind=pair", "query.count=8")
    page = open_page(server)
    slip = "for (const _ of [1, 2]) document.body.dispatchEvent(new KeyboardEvent('keydown', "
    page.evaluate(slip + "{ key: 'ArrowLeft', bubbles: true }))")  # the second is at once, however slow this machine is
    watch(page)
    press(page, "?")
    page.click("#keys tr:nth-child(1) button")
    press(page, "Enter")  # changes nothing, and the next one closes
    page.wait_for_selector("#close-help:focus")
    page.click("#keys tr:nth-child(1) button")
    press(page, "a", "Enter")
    press(page, "ArrowLeft", "a")
    watch(page)
    assert len(wait_for_events(server, 2)) == 2
    press(page, "?")
    page.uncheck("#keys-on")
    press(page, "Enter", "a", "a")
    page.wait_for_timeout(300)
    wait_for_events(server, 2)
