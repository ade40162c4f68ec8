"""The mock in a process of its own, that can be frozen, killed and given faults."""

import json
import os
import signal
import subprocess
import sys
from typing import Any

from pbrl.types import UserError


class MockProcess:
    """`python -m real.mock` with flags; a context manager. `url` is where it listens."""

    def __init__(self, **flags: Any):
        values = [f"--{name}={value}" for name, value in {"port": 0, **flags}.items() if value is not True]
        switches = [f"--{name}" for name, value in flags.items() if value is True]
        self.process = subprocess.Popen(
            [sys.executable, "-m", "real.mock", *values, *switches],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        self.url = self._read()["url"]

    def request(self, **message: Any) -> dict[str, Any]:
        """Switches faults (`fault={…}`), begins anew (`reset=seed`); returns the arm's report."""
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(message) + "\n")
        self.process.stdin.flush()
        return self._read()

    def freeze(self) -> None:
        """Stops it; its sockets stay open, without an answer."""
        os.kill(self.process.pid, signal.SIGSTOP)

    def thaw(self) -> None:
        """Lets a frozen one go on."""
        os.kill(self.process.pid, signal.SIGCONT)

    def kill(self) -> None:
        """Ends it at once."""
        self.process.kill()
        self.process.wait()

    def close(self) -> None:
        """Ends it."""
        if self.process.poll() is None:
            self.thaw()
            assert self.process.stdin is not None
            self.process.stdin.close()
            try:
                self.process.wait(timeout=5)
            except subprocess.TimeoutExpired:
                self.kill()

    def __enter__(self) -> "MockProcess":
        return self

    def __exit__(self, *error: Any) -> None:
        self.close()

    def _read(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise UserError("the mock ended: see its message above")
        return json.loads(line)
