"""Two processes with half of each batch do what one does with all of it; a run of two goes on as one, or one as two."""

import os
import pickle
import signal
import socket
import subprocess
import time
from pathlib import Path

import pytest
import torch

from pbrl import distributed, files
from pbrl.training.engine import Engine, Mean
from pbrl.types import UserError
from tests import forks
from tests.algos.test_learners import CASES, title
from tests.parts import COMPOSED, build, draw_batches, phases, without_chance
from tests.training.test_loop import flags, train
from tests.training.test_replica import is_noisy

CPU = torch.device("cpu")
ALL = [case for case in CASES if not is_noisy(case)]


def train_alone(name: str, changes: dict, updates: int = 4, compile: bool = False) -> dict:
    """A learner's state after some updates on its share of random batches, and the means of its metrics."""
    learner, mean = build(name, **without_chance(name), **changes), Mean()
    update = Engine(CPU, compile=compile, bf16=False).prepare(phases(learner)[-1])
    for batch in draw_batches(learner, updates):
        mean.add(update(distributed.share(batch)))
    return {"state": learner.state_dict(), "metrics": mean.read(updates)}


def train_share(path: str, compile: bool) -> None:
    """Saves what this process makes of its share of the cases in a file, beside it as `<file>-<rank>`."""
    torch.set_num_threads(1)
    distributed.begin(CPU)
    cases, composed = pickle.loads(Path(path).read_bytes())
    COMPOSED.update(composed)
    found = [train_alone(name, changes, compile=compile) for name, changes in cases]
    torch.save(found, f"{path}-{os.environ['RANK']}")
    distributed.end()


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def start(words: list[str], processes: int) -> list[forks.Program]:
    """A Python program by several processes, in the environment that `torchrun` gives each."""
    env = {**os.environ, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), "WORLD_SIZE": str(processes)}
    ranks = [{**env, "RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(processes)]
    to = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    return [forks.Program(words, env=rank, **to) for rank in ranks]


def by_two_processes(tmp_path, cases: list, compile: bool = False) -> list[list[dict]]:
    path = tmp_path / "cases"
    path.write_bytes(pickle.dumps((cases, COMPOSED)))  # the learners' configs, which are composed here already
    started = start(["-c", f"from tests.test_distributed import train_share; train_share({str(path)!r}, {compile})"], 2)
    said = [process.communicate(timeout=300)[0] for process in started]
    assert [process.returncode for process in started] == [0, 0], said
    return [torch.load(f"{path}-{rank}") for rank in range(2)]


@pytest.mark.slow
@pytest.mark.long
def test_every_learner_is_the_same_by_two_processes(tmp_path):
    whole = [train_alone(*case) for case in ALL]
    first, second = by_two_processes(tmp_path, ALL)
    for case, alone, a, b in zip(ALL, whole, first, second, strict=True):
        for key, value in alone["state"].items():
            assert torch.equal(a["state"][key], b["state"][key]), (title(case), key)
            rounding = title(case).startswith("reward/transformer") and key == "net.out.bias"  # all its gradient is
            atol = 3e-4 if rounding else 1e-5  # a reward's offset changes no weighted mean's lead, and Adam makes steps
            torch.testing.assert_close(a["state"][key], value, rtol=1e-3, atol=atol, msg=f"{title(case)} {key}")
        for key, value in alone["metrics"].items():
            if key not in ("train_accuracy", "pseudo_labelled", "max_weight"):  # of what is in a share
                torch.testing.assert_close(a["metrics"][key], value, rtol=1e-3, atol=1e-4, msg=f"{title(case)} {key}")


@pytest.mark.slow
@pytest.mark.long
def test_gradients_meet_within_a_compiled_update(tmp_path):
    alone = train_alone("algo/bc", {})
    (first,), _ = by_two_processes(tmp_path, [("algo/bc", {})], compile=True)
    for key, value in alone["state"].items():
        torch.testing.assert_close(first["state"][key], value, rtol=1e-3, atol=1e-5)


def run(folder, processes: int, *extra: str) -> forks.Program:
    """What `torchrun` does, or one process alone."""
    torchrun = ["-m", "torch.distributed.run", f"--master-port={free_port()}", f"--nproc-per-node={processes}"]
    command = [*(torchrun if processes > 1 else []), "train.py", *flags(folder, *extra)]
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    return forks.Program(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                            start_new_session=True)  # fmt: skip


WHOLE = ["algo=iql", "reward=ensemble", "reward.steps=40", "reward.hidden=[16]", "query.rounds=2", "query.kind=pair",
         "query.strategy=disagreement", "feedback=perfect", "algo.hidden=[16]", "bf16=false", "compare=false",
         "eval_every=120"]  # fmt: skip


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """The folder of a run of one process."""
    folder = tmp_path_factory.mktemp("alone")
    alone = run(folder, 1, *WHOLE)
    said, _ = alone.communicate(timeout=200)
    assert alone.returncode == 0, said
    return folder


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.parametrize("first,then", [(2, 1), (1, 2)])
def test_a_killed_run_goes_on_with_more_or_fewer_processes(tmp_path, undisturbed, first, then):
    killed = start(["train.py", *flags(tmp_path, *WHOLE)], first)
    path = tmp_path / "run/checkpoint.pt"
    for _ in range(2000):
        state = files.load(path, CPU)
        if state is not None and state["position"]["policy_step"] >= 40:
            break
        time.sleep(0.02)
        assert killed[0].poll() is None, killed[0].communicate()[0]
    for process in killed:
        process.kill()
    for process in killed:
        process.communicate()
    again = run(tmp_path, then, *WHOLE)
    said, _ = again.communicate(timeout=200)
    assert again.returncode == 0, said
    folders = undisturbed, tmp_path
    policies = [torch.load(folder / "run/policy.pt", weights_only=True) for folder in folders]
    for key, value in policies[0]["state"].items():
        torch.testing.assert_close(policies[1]["state"][key], value, rtol=1e-2, atol=1e-4)
    answers = [(folder / "run/metrics.jsonl").read_text().count('"answers"') for folder in folders]
    assert answers == [2, 2]


@pytest.mark.slow
@pytest.mark.long
def test_sigterm_ends_all_processes_with_a_checkpoint(tmp_path):
    started = run(tmp_path, 2, *WHOLE, "reward.steps=100000")
    metrics = tmp_path / "run/metrics.jsonl"
    while started.poll() is None and not (metrics.exists() and metrics.read_text().count('"reward"') > 3):
        time.sleep(0.02)
    began = time.monotonic()
    started.send_signal(signal.SIGTERM)
    said, _ = started.communicate(timeout=60)
    assert started.returncode != 0 and said.count("stopped; the same command goes on") == 1, said
    assert time.monotonic() - began < 25, said  # after 30 s torchrun kills what has not ended
    state = files.load(tmp_path / "run/checkpoint.pt", CPU)
    assert state is not None and state["position"]["step"] > 0


def test_a_batch_that_cannot_be_shared(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "3")
    with pytest.raises(UserError, match="256 cannot be shared by 3"):
        distributed.check_size(256)
    distributed.check_size(96)


def test_seeds_are_not_shared_by_processes(monkeypatch, tmp_path):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(UserError, match="with torchrun, seeds=1"):
        train(tmp_path, "seeds=2")


def test_a_single_process_runs_everything_once():
    calls = []
    assert distributed.after_rank_0(lambda: calls.append(1) or len(calls)) == 1 and calls == [1]
