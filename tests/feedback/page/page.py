"""The labelling page as a person has it: a server in a process of its own, and a browser."""

import json
import os
import signal
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest

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


class Server:
    """`python -m pbrl.label` on the point world, under `folder`."""

    def __init__(self, folder: Path, *flags: str, port: int = 20000):
        self.folder, self.url = folder, f"sqlite:///{folder / 'labels.sqlite'}"
        self.command = [
            sys.executable, "-m", "pbrl.label", *WORLD, f"store={self.url}", f"cache={folder / 'clips'}",
            f"data_dir={folder / 'data'}", f"port={port + os.getpid() % 400 * 100}", *flags,
        ]  # fmt: skip
        self.start()

    def start(self) -> None:
        """Starts it, again on the same port; returns when it answers."""
        self.process = subprocess.Popen(self.command, stdout=subprocess.PIPE, text=True)
        self.output = []
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.output.append(line)
            if "http" in line and line.startswith("answers"):
                break
        else:
            raise AssertionError("".join(self.output))
        address = next((word for line in self.output for word in line.split() if word.startswith("http")), None)
        assert address is not None
        self.at = address.split("?")[0]
        port = self.at.rstrip("/").rsplit(":", 1)[1]
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
