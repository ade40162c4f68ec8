"""Videos whose frames have times of their own, at the page in a real browser."""

import threading
import time

import numpy as np
import pytest

from pbrl.data import episodes
from pbrl.data.rendering import Renderers
from pbrl.data.table import Table
from pbrl.feedback.page.clips import Clips, Look
from pbrl.feedback.page.project import Project, first_rows
from pbrl.feedback.questions import KINDS, Question
from pbrl.feedback.store.store import Store
from pbrl.label.network import listen
from pbrl.types import Clip
from tests.feedback.page.page import CHROMIUM, QUIET, needs_browser
from tests.films import film

READ = """async (frame) => {
    const scrubber = document.getElementById("scrubber");
    scrubber.value = frame; scrubber.oninput();
    const video = document.querySelector("video");
    if (video.seeking) await new Promise((done) => video.addEventListener("seeked", done, { once: true }));
    for (let i = 0; i < 3; i++) await new Promise(requestAnimationFrame); // until it is painted
    const canvas = new OffscreenCanvas(64, 48), draw = canvas.getContext("2d");
    draw.drawImage(video, 0, 0);
    let step = 0;
    for (let bit = 0; bit < 8; bit++) step |= (draw.getImageData(bit * 8 + 4, 4, 1, 1).data[0] > 100) << bit;
    return [step, document.getElementById("frame").value, video.duration];
}"""


@pytest.fixture
def project(tmp_path):
    """A phone's video, 30 frames a second for one and then 5, and a question about its steps 24 to 35."""
    folder = tmp_path / "films"
    folder.mkdir()
    film(folder / "phone.mp4", times=np.concatenate([np.arange(0, 1, 1 / 30), np.arange(1, 4, 0.2)]))
    found = episodes.read(folder)
    table, store = Table(found), Store(f"sqlite:///{tmp_path / 'labels.sqlite'}")
    renderers = Renderers({"env": None, "data": {"path": str(folder)}, "folder": folder, "seed": 0, "workers": 0})
    look = Look(48, 10, as_recorded=True)
    clips = Clips(renderers, tmp_path / "clips", look=look, limit_mb=10, episodes=found)
    dataset, words = store.register(table.ids), {"stages": ["contact"]}
    store.ask([Question("spans", (Clip(table.ids[0], 24, 12),), KINDS["spans"].wording(words))], dataset)
    return Project(store, clips, dataset, first_rows(table), "Watch.")


@pytest.mark.slow
@needs_browser
def test_frames_of_varying_length_are_found_where_the_scrubber_says(project):
    """Six of a thirtieth of a second, then six of a fifth: 1.4 s together."""
    import uvicorn
    from playwright.sync_api import sync_playwright

    from pbrl.feedback.page.server import make_app

    at = listen("127.0.0.1", 23000)
    port = at.getsockname()[1]
    server = uvicorn.Server(uvicorn.Config(make_app(project, ["localhost"]), log_level="warning"))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [at]})
    thread.start()
    try:
        while not server.started:
            time.sleep(0.05)
        with sync_playwright() as playwright, playwright.chromium.launch(executable_path=CHROMIUM, args=QUIET) as own:
            page = own.new_page()
            page.goto(f"http://localhost:{port}/")
            page.wait_for_selector("#help[open]")
            page.keyboard.press("Escape")
            page.wait_for_selector("body[data-question]", timeout=20000)
            found = [page.evaluate(READ, frame) for frame in range(12)]
    finally:
        server.should_exit = True
        thread.join()
    assert [step for step, _, _ in found] == list(range(24, 36))
    assert [text for _, text, _ in found] == [f"{frame + 1} / 12" for frame in range(12)]
    assert found[0][2] == pytest.approx(6 / 30 + 6 / 5, abs=0.01)
