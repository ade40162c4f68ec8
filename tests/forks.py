"""Runs in processes that begin at once: forks of one that has imported everything and computed nothing.

A run of `python train.py` spends three seconds on imports; a test that kills many runs would do little else.
"""

import json
import os
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Sequence


class Forks:
    """Starts runs; use it as a context, whose end ends them all."""

    def __enter__(self) -> "Forks":
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.forks"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1"}, start_new_session=True,
        )  # fmt: skip
        return self

    def __exit__(self, *_: object) -> None:
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.communicate()

    def start(self, flags: Sequence[str]) -> int:
        """The id of a process that runs `python train.py FLAGS`."""
        assert self.process.stdin is not None and self.process.stdout is not None
        print(json.dumps(list(flags)), file=self.process.stdin, flush=True)
        return int(self.process.stdout.readline())


def is_alive(pid: int) -> bool:
    """Whether a process that was started is there still; those that have ended are gone at once."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def kill(pid: int) -> None:
    """As `kill -9` does; returns when the process is gone."""
    os.kill(pid, signal.SIGKILL)
    while is_alive(pid):
        time.sleep(0.002)


def serve() -> None:
    """Forks a run for each line of flags, and prints its process's id."""
    from tests.training.test_loop import train_flags

    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # those that end leave nothing
    for line in sys.stdin:
        pid = os.fork()
        if pid:
            print(pid, flush=True)
            continue
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        nowhere = os.open(os.devnull, os.O_RDWR)
        os.dup2(nowhere, 0), os.dup2(nowhere, 1)
        try:
            train_flags(json.loads(line))
        except BaseException:
            traceback.print_exc()
            os._exit(1)
        os._exit(0)


if __name__ == "__main__":
    serve()
