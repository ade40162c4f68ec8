"""A project on the point world, for the page's server; a browser, servers and pages, for the page itself."""

import numpy as np
import pytest

from pbrl.data import episodes as files
from pbrl.data.rendering import Renderers
from pbrl.data.table import Table
from pbrl.feedback.page.clips import Clips, Look
from pbrl.feedback.page.project import Project, first_rows
from pbrl.feedback.questions import Question
from pbrl.feedback.store.store import Store
from tests import toy
from tests.feedback.page.page import CHROMIUM, QUIET, Server, watch

POINT = {"_target_": "tests.toy.Point"}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    path = tmp_path_factory.mktemp("data") / "point"
    files.write(path, toy.episodes(6), {})
    source = {"env": POINT, "data": {"path": str(path)}, "folder": path.parent, "seed": 0, "workers": 0}
    return source, Table(files.read(path))


def pairs(table: Table, starts, **more) -> list[Question]:
    """Pairs of clips that begin at these rows, of eight steps."""
    clips = table.clips(np.ravel(starts), 8)
    return [
        Question("pair", (a, b), {"text": "Which?"}, **{"position": i, **more})
        for i, (a, b) in enumerate(zip(clips[::2], clips[1::2], strict=True))
    ]


class Shared(Renderers):
    """Renderers of all tests of a file: an app that ends does not end them."""

    def close(self) -> None:
        pass

    def end(self) -> None:
        super().close()


@pytest.fixture(scope="module")
def renderers(data):
    renderers = Shared(data[0])
    yield renderers
    renderers.end()


@pytest.fixture
def project(data, renderers, tmp_path):
    table = data[1]
    clips = Clips(renderers, tmp_path / "clips", look=Look(64, 10), limit_mb=10)
    store = Store(f"sqlite:///{tmp_path / 'labels.sqlite'}")
    dataset = store.register(table.ids)
    store.ask(pairs(table, [[0, 31], [62, 5], [3, 33]]), dataset)
    return Project(store, clips, dataset, first_rows(table), "Watch.")


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

    def start(*flags: str, folder: str = ".") -> Server:
        (tmp_path / folder).mkdir(exist_ok=True)
        servers.append(Server(tmp_path / folder, *flags))
        return servers[-1]

    yield start
    for server in servers:
        server.kill()


@pytest.fixture
def open_page(browser):
    """Opens pages in a browser of their own; the help, which greets a newcomer, closes by Enter."""
    contexts = []

    def visit(server: Server, rater: str | None = None, **options):
        contexts.append(browser.new_context(**{"viewport": {"width": 1200, "height": 800}, **options}))
        page = contexts[-1].new_page()
        page.errors = []
        page.on("pageerror", lambda error: page.errors.append(str(error)))
        page.goto(server.links[rater] if rater else server.at)
        page.wait_for_selector("#help[open] #close-help:focus")
        page.keyboard.press("Enter")
        page.wait_for_selector("#help[open]", state="hidden")
        watch(page)
        return page

    yield visit
    for context in contexts:
        context.close()
