"""A run has its folder for itself, and ends by a signal with a checkpoint and a status."""

import os
import shutil
import signal
import subprocess
import time

import pytest
import torch

from pbrl import files
from pbrl.algos.bc import BC
from pbrl.run.lock import hold
from pbrl.training import interrupts
from pbrl.training.evaluate import evaluate
from pbrl.types import UserError
from tests import forks
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
    owner = forks.Program(["-c", HOLD, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
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
    run = forks.Program(command(tmp_path, *flags), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
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


def test_an_evaluation_that_a_signal_ends_is_done_anew(tmp_path, monkeypatch):
    """No update is lost, however far the last checkpoint is; the log holds each line once."""
    flags = [*SMALL, "checkpoint_every=1000000", "steps=300", "eval_every=100"]
    train(tmp_path / "whole", *flags)
    (tmp_path / "stopped").mkdir()
    (tmp_path / "stopped" / "data").symlink_to(tmp_path / "whole" / "data")
    calls = iter(range(1, 10))

    def stop_at_second(*args):
        if next(calls) == 2:
            os.kill(os.getpid(), signal.SIGTERM)
        return evaluate(*args)

    with monkeypatch.context() as patch, interrupts.handled(), pytest.raises(interrupts.Stopped):
        patch.setattr("pbrl.training.loop.evaluate", stop_at_second)
        train(tmp_path / "stopped", *flags)
    state = files.load(tmp_path / "stopped" / "run" / "checkpoint.pt", CPU)
    assert state is not None and state["position"]["step"] == 200
    train(tmp_path / "stopped", *flags)
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


SPOILT = [  # a file of a run that ended, what becomes of it, and what the same command says
    ("versions.json", b'{"git": ', "versions.json is cut off .*delete it, and it is written again"),
    ("versions.json", b'{"precision": {}}', "versions.json: precision is not what a run writes"),
    ("config.yaml", b"\xff: [", "config.yaml is not the config of a run"),
    ("metrics.jsonl", b"", "metrics.jsonl is cut off: .* and now 0 are: put the file back, or delete the checkpoint"),
    ("policy.pt", None, "cannot write .*policy.pt .*Is a directory"),
    ("curve.png", None, "cannot write .*curve.png .*Is a directory"),
]


@pytest.fixture(scope="module")
def ended(tmp_path_factory):
    """A run of a few updates that has ended."""
    folder = tmp_path_factory.mktemp("ended")
    train(folder, *SMALL, *SHORT)
    return folder


SHORT = ["steps=10", "log_every=5", "checkpoint_every=5", "eval_every=10", "eval_episodes=2", "final_episodes=2",
         "data.episodes=4"]  # fmt: skip


@pytest.mark.parametrize("name, content, match", SPOILT)
def test_a_spoilt_file_of_a_run_is_named(tmp_path, ended, name, content, match):
    shutil.copytree(ended, tmp_path / "copy")
    file = tmp_path / "copy" / "run" / name
    file.unlink()
    file.mkdir() if content is None else file.write_bytes(content)
    with pytest.raises(UserError, match=match):
        train(tmp_path / "copy", *SMALL, *SHORT)
    assert not list((tmp_path / "copy" / "run").glob(".partial*"))


def test_a_data_set_whose_origin_is_gone(tmp_path, ended):
    shutil.copytree(ended, tmp_path / "copy")
    next((tmp_path / "copy" / "data").glob("*/provenance.json")).unlink()
    with pytest.raises(UserError, match="has no provenance.json, .*delete it, and it is made again"):
        train(tmp_path / "copy", *SMALL, *SHORT)
