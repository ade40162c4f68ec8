"""How the page looks and reads on large windows and on phones: one server for all kinds of question, and raters."""

from pathlib import Path

import pytest

from pbrl.feedback.store.store import Store
from tests.feedback.page.page import (
    EVERY_KIND,
    Server,
    ask_every_kind,
    needs_browser,
    press,
    violations,
    watch,
)

pytestmark = [pytest.mark.slow, needs_browser]
PHONE = {"has_touch": True, "is_mobile": True}
WINDOWS = {
    "large": {"viewport": {"width": 1200, "height": 800}},
    "upright": {"viewport": {"width": 390, "height": 844}, "color_scheme": "dark", **PHONE},
    "lying": {"viewport": {"width": 844, "height": 390}, **PHONE},
}
MEASURE = """() => {
    const box = (element) => {
        const { left, right, top, bottom, width, height } = element.getBoundingClientRect();
        return { left, right, top, bottom, width, height, name: element.dataset.action ?? element.id };
    };
    const shown = [...document.querySelectorAll("button, a, input, select")].filter((e) => e.checkVisibility());
    const videos = [...document.querySelectorAll("#clips video")];
    return {
        sideways: document.documentElement.scrollWidth - innerWidth, height: innerHeight, width: innerWidth,
        targets: shown.filter((e) => e.type !== "checkbox").map(box),
        answers: [...document.querySelectorAll("#answers button, figcaption button")].map(box),
        clips: videos.map(box), ratios: videos.map((video) => video.videoWidth / video.videoHeight),
        scrubber: box(document.getElementById("scrubber")),
        keys: [...document.querySelectorAll("main kbd:not(.scale)")].some((key) => key.checkVisibility()),
    };
}"""


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    folder = tmp_path_factory.mktemp("every-kind")
    server = Server(folder, "query.kind=pair", "query.count=4", f"share=[{','.join(WINDOWS)},ada,bob]", "wanted=9")
    ask_every_kind(server)
    yield server
    server.kill()


def of(found: dict, name: str) -> dict:
    """The box of an answer's button."""
    return next(box for box in found["answers"] if box["name"] == name)


@pytest.mark.parametrize("window", WINDOWS)
def test_every_kind_fits_the_window(server, open_page, window):
    """Nothing is cut off, small or below the first screen, and clips have no bars."""
    page = open_page(server, window, **WINDOWS[window], bypass_csp=True)
    assert violations(page) == "[]"
    for i, kind in enumerate(EVERY_KIND):
        watch(page)
        found = page.evaluate(MEASURE)
        where = f"{kind} {i}"
        assert found["sideways"] <= 0, where
        assert all(t["width"] >= 44 and t["height"] >= 43.9 for t in found["targets"]), where
        assert max(box["bottom"] for box in found["answers"]) <= found["height"], where
        for clip, ratio in zip(found["clips"], found["ratios"], strict=True):
            assert clip["width"] / clip["height"] == pytest.approx(ratio, abs=0.03), f"{where}: bars"
            assert clip["left"] >= 0 and clip["right"] <= found["width"] and clip["width"] >= 85, where
        assert found["scrubber"]["width"] >= (330 if window == "upright" else 120), where
        assert found["keys"] == (window == "large"), "keys are shown where there is a keyboard"
        check_places(kind, window, found)
        page.click("#pass")
    assert page.errors == []


def check_places(kind: str, window: str, found: dict) -> None:
    """Left is on the left and right on the right, of clips and of answers."""
    clips = found["clips"]
    if kind in ("pair", "triplet"):
        left, right, equal = (of(found, name) for name in ("left", "right", "equal"))
        assert left["top"] == right["top"] and left["right"] < right["left"]
        assert (equal["top"] > left["bottom"]) == (window != "large")
        assert clips[-2]["top"] == clips[-1]["top"] and clips[-2]["right"] < clips[-1]["left"]
    if kind == "triplet" and window == "upright":
        assert clips[0]["bottom"] < clips[1]["top"], "what to compare with is above"
    if kind == "ranking" and window == "upright" and len(clips) != 3:
        assert len({round(clip["top"]) for clip in clips}) == 2, "two rows"


def test_a_click_leaves_the_keys_to_the_question(server, open_page):
    """After a click on a button Space pauses, after one on the slider keys answer; one clip can fill the window."""
    page = open_page(server, "ada")
    store = Store(server.url)
    before = store.last()
    small = page.locator("#clips video").first.bounding_box()["width"]
    page.locator("#clips video").first.dblclick()
    assert page.locator("#clips video:visible").count() == 1
    assert page.locator("#clips video").first.bounding_box()["width"] > 1.2 * small
    press(page, "l")
    assert page.locator("#clips figcaption:visible").inner_text() == "Right"
    press(page, "Escape")
    assert page.locator("#clips video:visible").count() == 2
    page.click("#pass")
    watch(page)
    press(page, " ")
    page.click("#scrubber")
    press(page, "4")
    watch(page)
    page.wait_for_timeout(300)
    events = store.tail(before)
    assert [event["kind"] for event in events] == ["pass", "answer"] and page.errors == []


def test_the_help_is_about_the_question(server, open_page):
    page = open_page(server, "ada", bypass_csp=True, color_scheme="dark")
    kind = page.get_attribute("#answers", "data-kind")
    press(page, "?")
    page.wait_for_selector("#close-help:focus")
    assert kind == "ranking" and page.inner_text("#keys tr:first-child td:first-child") == "1 – 3"
    assert "Left is better" not in page.inner_text("#keys") and violations(page) == "[]"
    press(page, "Enter")
    page.wait_for_selector("#help[open]", state="hidden")


@pytest.mark.parametrize("window", ["large", "upright"])
def test_own_answers_and_the_overview_of_raters(server, open_page, window):
    """An answer is found again and changed; whoever runs the project sees who said what, and takes it along."""
    rater = {"large": "ada", "upright": "bob"}[window]
    store, page = Store(server.url), open_page(server, rater, **WINDOWS[window], bypass_csp=True)
    before = store.last()
    page.fill("#note", "the second slips")
    page.click("[data-action=cant_tell]")
    page.wait_for_function("document.getElementById('note').value === ''")
    watch(page)
    page.click("#open-own")
    page.wait_for_selector("#own-list li:has-text('Can’t tell – “the second slips”')")
    assert violations(page) == "[]"
    page.click("#own-list li:first-child button")
    page.wait_for_selector("#notice:has-text('You answered: Can’t tell')")
    watch(page)
    page.click("[data-action=cant_tell]")
    page.wait_for_selector("#notice", state="hidden")
    page.wait_for_timeout(300)
    first, second = store.tail(before)
    assert first["question"] == second["question"] and second["supersedes"] == first["uid"]
    see_overview(server, open_page(server, "me", **WINDOWS[window], bypass_csp=True), window)


def see_overview(server: Server, page, window: str) -> None:
    page.click("#open-stats")
    page.wait_for_selector("#raters tbody tr")
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth") and violations(page) == "[]"
    names = page.locator("#raters tbody th")
    assert names.all_inner_texts() == sorted(names.all_inner_texts())
    if window == "large":
        page.click("#raters thead button:has-text('Answers')")
    else:
        page.select_option("#sort", label="Answers")
    counts = [int(cell) for cell in page.locator("#raters tbody td:nth-child(2)").all_inner_texts()]
    assert counts == sorted(counts, reverse=True) and len(set(counts)) > 1
    with page.expect_download() as download:
        page.click("a:has-text('JSON lines')")
    assert len(Path(download.value.path()).read_text().splitlines()) >= Store(server.url).last()
    page.click("a:has-text('Back to the questions')")
    watch(page)
    assert page.errors == []
