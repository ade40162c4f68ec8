"""`python train.py` as a process: exit status, sentences in place of tracebacks, and sweeps in which a run fails."""

import json
import subprocess

import pytest

from tests import forks

SMALL = [
    "env=tests/point", "hydra.searchpath=[file://tests/configs]", "data=noise", "data.success=null",
    "data.behaviour.strength=0.7", "data.episodes=10", "steps=10", "log_every=5", "eval_every=10",
    "checkpoint_every=5", "eval_episodes=2", "final_episodes=2", "workers=0", "threads=1", "video=false",
    "compile=never", "compare=false", "algo=cpl", "algo.pretrain_steps=5", "policy.hidden=[8]", "feedback=perfect",
    "query.kind=pair", "query.count=10",
]  # fmt: skip


def train(folder, *flags: str) -> subprocess.CompletedProcess:
    places = [f"data_dir={folder}/data", f"hydra.sweep.dir={folder}/sweep"]
    sweep = [flag for flag in flags if flag == "-m"]  # which Hydra wants first
    command = ["train.py", *sweep, *SMALL, *places, *flags[len(sweep) :]]
    return forks.run(command, capture_output=True, text=True)


@pytest.mark.slow
@pytest.mark.parametrize("launcher", [[], ["hydra/launcher=local", "hydra.launcher.n_jobs=1"]])
def test_a_run_of_a_sweep_that_cannot_work_lets_the_others_go_on(tmp_path, launcher):
    run = f"run={tmp_path}/L${{query.length}}"
    done = train(tmp_path, "-m", "query.length=8,4000,9", run, *launcher)
    assert done.returncode == 1
    results = [json.loads((tmp_path / f"L{n}" / "result.json").read_text()) for n in (8, 9)]
    assert all(result["answers"]["answered"] == 10 for result in results)
    assert not (tmp_path / "L4000" / "result.json").exists()
    failed = done.stderr.index("failed: ")
    assert "query.length=4000" in done.stderr[failed:].splitlines()[0] and "add query.length=15" in done.stderr
    assert "Traceback" not in done.stderr + done.stdout


@pytest.mark.slow
def test_an_invalid_run_prints_one_sentence(tmp_path):
    done = train(tmp_path, "query.length=4000", f"run={tmp_path}/run")
    assert done.returncode == 1 and done.stderr.splitlines()[-1].endswith("add query.length=15")
    assert "Traceback" not in done.stderr and "overrides" not in done.stderr
    done = train(tmp_path, "algo=cplx")
    assert (
        done.returncode == 1
        and done.stdout == ""
        and done.stderr.strip().startswith("algo=cplx is no choice: did you mean cpl?")
    )
