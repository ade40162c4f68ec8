"""The labelling page as a person has it: a server in a process of its own, and a browser."""

import json
import os
import re
import signal
import subprocess
import time
import urllib.request
from pathlib import Path

import pytest
from sqlalchemy import select

from pbrl.feedback.questions import KINDS, Question
from pbrl.feedback.store.schema import QuestionRow
from pbrl.feedback.store.store import Store
from tests import forks
from tests.browser import CHROMIUM

WORLD = [
    "env=tests/point", "data=noise", "data.success=null", "data.behaviour.strength=0.7", "data.episodes=20",
    "workers=0", "hydra.searchpath=[file://tests/configs]", "query.length=12", "size=64", "fps=10",
]  # fmt: skip
needs_browser = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium: `apt-get install chromium`")
QUIET = [
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync", "--autoplay-policy=no-user-gesture-required",
]  # fmt: skip


LINK = re.compile(r"^(\w+)\s+(http\S+token=\S+)", re.M)


class Server:
    """`python -m pbrl.label` on the point world, under `folder`; `links` are the raters' own."""

    def __init__(self, folder: Path, *flags: str, port: int = 20000):
        self.folder, self.url = folder, f"sqlite:///{folder / 'labels.sqlite'}"
        self.command = [
            "-m", "pbrl.label", *WORLD, f"store={self.url}", f"cache={folder / 'clips'}",
            f"data_dir={folder / 'data'}", f"port={port + os.getpid() % 400 * 100}", *flags,
        ]  # fmt: skip
        self.start()

    def start(self) -> None:
        """Starts it, again on the same port; returns when it answers."""
        self.process = forks.Program(self.command, stdout=subprocess.PIPE, text=True)
        self.output = []
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.output.append(line)
            if line.startswith("answers"):
                break
        else:
            raise AssertionError("".join(self.output))
        address = next((word for line in self.output for word in line.split() if word.startswith("http")), None)
        assert address is not None
        self.at = address.split("?")[0]
        self.links = {name: link for line in self.output for name, link in LINK.findall(line)}
        self.port = port = self.at.rstrip("/").rsplit(":", 1)[1]
        self.command = [f"port={port}" if part.startswith("port=") else part for part in self.command]
        for _ in range(200):
            try:
                urllib.request.urlopen(f"http://localhost:{port}/static/icon.svg").close()
                return
            except OSError:
                time.sleep(0.05)
        raise AssertionError("no answer")

    def kill(self) -> None:
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()

    def stop(self) -> str:
        """Stops it as Ctrl-C does; returns what it said last."""
        self.process.send_signal(signal.SIGINT)
        return self.process.communicate(timeout=30)[0]


WORDS = {"text": None, "better": "is better", "strength": True, "attributes": ["faster", "higher", "smoother"],
         "stages": ["approach", "contact", "done"]}  # fmt: skip
EVERY_KIND = [*KINDS, "ranking"]  # the last of five clips, the first of three


def ask_every_kind(server: Server) -> list[str]:
    """Asks a question of each kind about the clips of a project that is served, in the order of `EVERY_KIND`."""
    store = Store(server.url)
    with store.reading() as connection:
        ids = list(connection.execute(select(QuestionRow.id)).scalars())
        dataset = connection.execute(select(QuestionRow.dataset).limit(1)).scalar_one()
    clips = [clip for question in store.questions(ids).values() for clip in question.clips]
    counts = [KINDS[kind].clips[i == len(KINDS)] for i, kind in enumerate(EVERY_KIND)]
    return store.ask(
        [
            Question(kind, tuple(clips[:n]), KINDS[kind].wording(WORDS), wanted=9, priority=9.0 - i)
            for i, (kind, n) in enumerate(zip(EVERY_KIND, counts, strict=True))
        ],
        dataset,
    )


def watch(page) -> str:
    """Waits until the clips of a question are there; returns its id."""
    page.wait_for_selector("body[data-question]", timeout=20000)
    page.wait_for_timeout(200)  # a person sees something before saying something
    return page.evaluate("document.body.dataset.question")


def press(page, *keys: str) -> None:
    """Presses keys, one after another."""
    for key in keys:
        page.keyboard.press(key)


def wait_for_events(server: Server, n: int) -> list[dict]:
    """All events, once there are n of them."""
    store = Store(server.url)
    for _ in range(300):
        events = store.tail(0)
        if len(events) >= n:
            break
        time.sleep(0.1)
    assert len(events) == n, events
    return events


def violations(page) -> str:
    """What axe-core finds in a page as it is now; "[]" where it is accessible."""
    from axe_playwright_python.sync_playwright import Axe

    return json.dumps(Axe().run(page).response["violations"], indent=1)


def post(address: str, body: dict, **headers: str) -> tuple[int, dict]:
    """Status and answer of a request from the page, or from another client."""
    request = urllib.request.Request(
        address, json.dumps(body).encode(), {"Content-Type": "application/json", **headers}
    )  # fmt: skip
    try:
        with urllib.request.urlopen(request) as response:
            return response.status, json.loads(response.read())
    except urllib.error.HTTPError as error:
        return error.code, json.loads(error.read() or b"{}")
