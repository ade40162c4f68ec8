"""The stand-in as a process that can be frozen, killed and given faults."""

import json
import os
import signal
import subprocess
import sys
from typing import Any

from pbrl.types import UserError


class Standin:
    """`python -m real.standin` with flags; a context manager."""

    def __init__(self, **flags: Any):
        said = [f"--{name}={value}" for name, value in {"port": 0, **flags}.items() if value is not True]
        switches = [f"--{name}" for name, value in flags.items() if value is True]
        self.process = subprocess.Popen(
            [sys.executable, "-m", "real.standin", *said, *switches],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=True,
        )  # fmt: skip
        self.url = self._heard()["url"]

    def tell(self, **message: Any) -> dict[str, Any]:
        """Switches faults (`fault={…}`), begins anew (`reset=seed`); returns the arm's report."""
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(message) + "\n")
        self.process.stdin.flush()
        return self._heard()

    def freeze(self) -> None:
        """Its sockets stay open, and nobody answers."""
        os.kill(self.process.pid, signal.SIGSTOP)

    def thaw(self) -> None:
        os.kill(self.process.pid, signal.SIGCONT)

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def close(self) -> None:
        if self.process.poll() is None:
            self.thaw()
            assert self.process.stdin is not None
            self.process.stdin.close()
            try:
                self.process.wait(timeout=5)
            except subprocess.TimeoutExpired:
                self.kill()

    def __enter__(self) -> "Standin":
        return self

    def __exit__(self, *error: Any) -> None:
        self.close()

    def _heard(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise UserError("the stand-in ended: what it says stands above")
        return json.loads(line)
