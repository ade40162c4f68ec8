"""Real servers in processes of their own, each with a model that its process makes in a folder of its own."""

import os
import signal
import socket
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from urllib.error import URLError
from urllib.request import urlopen

PATIENCE_S = 120


@dataclass
class Running:
    """A server, ready to be asked. `model` is the name that it gives its model."""

    module: str
    folder: Path
    port: int
    process: subprocess.Popen

    @property
    def base_url(self) -> str:
        """For `vlm.base_url`."""
        return f"http://127.0.0.1:{self.port}/v1"

    def stop(self) -> None:
        """By SIGKILL: it has nothing to keep."""
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()


def begin(module: str, folder: Path, port: int | None = None) -> Running:
    """Starts tests/vlm/servers/<module>.py, which reaches no hub: to be waited for with `wait`."""
    folder.mkdir(exist_ok=True)
    port = port or free_port()
    offline = {"HF_HUB_OFFLINE": "1", "HF_HOME": str(folder / "hub"), "OMP_NUM_THREADS": "1"}
    with (folder / "log").open("ab") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", f"tests.vlm.servers.{module}", str(folder), str(port)],
            stdin=subprocess.PIPE, stdout=log, stderr=log, env={**os.environ, **offline},
        )  # fmt: skip
    return Running(module, folder, port, process)


def wait(server: Running) -> Running:
    """Until it answers; fails with what it said where it does not."""
    until = time.monotonic() + PATIENCE_S
    while time.monotonic() < until and server.process.poll() is None:
        try:
            with urlopen(server.base_url.replace("/v1", "/health"), timeout=5) as reply:
                if reply.status == 200:
                    return server
        except (URLError, ConnectionError, TimeoutError):
            time.sleep(0.05)
    server.stop()
    raise AssertionError(f"{server.module} does not serve:\n{(server.folder / 'log').read_text()[-3000:]}")


def free_port() -> int:
    """A port that no process listens at."""
    with socket.socket() as opened:
        opened.bind(("127.0.0.1", 0))
        return opened.getsockname()[1]
