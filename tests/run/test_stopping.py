"""A run has its folder for itself, and ends by a signal with a checkpoint and a status."""

import os
import signal
import subprocess
import sys
import time

import pytest
import torch

from pbrl import files
from pbrl.algos.bc import BC
from pbrl.run.lock import hold
from pbrl.training import interrupts
from pbrl.types import UserError
from tests.training.test_loop import assert_same, command, outcome, train

HOLD = """
import sys
from pathlib import Path
from pbrl.run.lock import hold
with hold(Path(sys.argv[1]), "", ""):
    print(flush=True)
    input()
"""
CPU = torch.device("cpu")
SMALL = ["algo=bc", "feedback=none", "compare=false", "video=false"]


def test_a_folder_is_held_until_its_owner_ends(tmp_path):
    owner = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    owner.stdout.readline()  # type: ignore[union-attr]
    refused = pytest.raises(UserError, match=f"another run is running there, pid {owner.pid} on .*: stop it")
    with refused, hold(tmp_path, "another run", "stop it"):
        pass
    owner.kill()
    owner.wait()
    with hold(tmp_path, "another run", "stop it"):  # also after `kill -9`
        pass
    with hold(tmp_path, "another run", "stop it"):  # and once more
        pass


def test_a_folder_that_cannot_be_written(tmp_path):
    refused = pytest.raises(UserError, match="cannot write to .*: choose another")
    with refused, hold(tmp_path / "nowhere", "another run", "choose another"):
        pass


def test_a_signal_ends_a_run_whose_folder_no_other_run_may_use_meanwhile(tmp_path):
    flags = [*SMALL, "steps=1000000", "compile=never"]
    run = subprocess.Popen(command(tmp_path, *flags), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    metrics = tmp_path / "run" / "metrics.jsonl"
    while run.poll() is None and not (metrics.exists() and metrics.stat().st_size):
        time.sleep(0.02)
    with pytest.raises(UserError, match=f"another run is running there, pid {run.pid} on .*run=…"):
        train(tmp_path, *flags)
    run.send_signal(signal.SIGTERM)
    _, said = run.communicate(timeout=60)
    assert run.returncode == 143 and "stopped; the same command goes on" in said and "Traceback" not in said, said
    assert files.load(tmp_path / "run" / "checkpoint.pt", CPU)["position"]["step"] > 0  # type: ignore[index]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_stopped_and_resumed_is_uninterrupted(tmp_path, monkeypatch, number):
    """The signal comes within the 137th update, and between two lines of the log: nothing of either is lost."""
    train(tmp_path / "whole", *SMALL)
    (tmp_path / "stopped").mkdir()
    (tmp_path / "stopped" / "data").symlink_to(tmp_path / "whole" / "data")
    update, calls = BC.update, iter(range(1, 1000))

    def stop_at_137(learner, batch):
        if next(calls) == 137:
            os.kill(os.getpid(), number)
        return update(learner, batch)

    with monkeypatch.context() as patch, interrupts.handled(), pytest.raises(interrupts.Stopped):
        patch.setattr(BC, "update", stop_at_137)
        train(tmp_path / "stopped", *SMALL)
    state = files.load(tmp_path / "stopped" / "run" / "checkpoint.pt", CPU)
    assert state is not None and state["position"]["step"] == 137 and state["unread"]["count"] == 7
    train(tmp_path / "stopped", *SMALL)
    assert_same(outcome(tmp_path / "whole"), outcome(tmp_path / "stopped"))


def test_a_second_signal_does_not_wait():
    with interrupts.handled(), pytest.raises(interrupts.Stopped), interrupts.deferred():
        os.kill(os.getpid(), signal.SIGINT)
        assert interrupts.is_due()
        os.kill(os.getpid(), signal.SIGINT)
        pytest.fail("it waited")


def test_what_fails_because_the_others_have_left_is_a_stop():
    with interrupts.handled(), pytest.raises(interrupts.Stopped), interrupts.deferred():
        os.kill(os.getpid(), signal.SIGTERM)
        raise RuntimeError("Connection closed by peer")
    with interrupts.handled(), pytest.raises(RuntimeError), interrupts.deferred():
        raise RuntimeError("Connection closed by peer")
