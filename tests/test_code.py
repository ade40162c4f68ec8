"""Style and types."""

import subprocess
import sys

import pytest


def test_ruff():
    for command in (["check"], ["format", "--check"]):
        done = subprocess.run([sys.executable, "-m", "ruff", *command, "."], capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.slow
def test_pyright():
    done = subprocess.run(
        [sys.executable, "-m", "pyright", "--pythonpath", sys.executable], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
