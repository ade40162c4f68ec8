"""A browser, servers and pages, for the tests of the labelling page."""

import pytest

from tests.feedback.page.page import CHROMIUM, QUIET, Server, watch


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
