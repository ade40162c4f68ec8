"""Many runs by one command: several at a time here, on a Ray cluster, and as jobs of Slurm."""

import json
import os
import signal
import subprocess
import time

import pytest

from tests import forks
from tests.training.test_loop import BASE

SMALL = [*BASE, "algo=bc", "compare=false", "steps=40", "eval_every=40"]


def sweep(folder, launcher: str, *extra: str, **environment: str) -> forks.Program:
    places = [f"hydra.sweep.dir={folder}/sweep", f"data_dir={folder}/data", f"run={folder}/run-${{seed}}"]
    command = ["train.py", "-m", *SMALL, *places, "seed=0,1", f"hydra/launcher={launcher}", *extra]
    env = {**os.environ, **environment}
    return forks.Program(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                            start_new_session=True)  # fmt: skip


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.parametrize("launcher", ["local", "cluster"])
def test_concurrent_runs_collect_their_data_once(tmp_path, launcher):
    pytest.importorskip("hydra_plugins.hydra_ray_launcher")
    process = sweep(tmp_path, launcher, *(["hydra.launcher.ray.remote.num_cpus=1"] if launcher == "cluster" else []))
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 0, output
    assert [json.loads((tmp_path / f"run-{seed}/result.json").read_text())["seed"] for seed in (0, 1)] == [0, 1]
    assert len([path for path in (tmp_path / "data").iterdir() if not path.name.startswith(".")]) == 1
    assert output.count("collecting noise:   0%") == 1, output  # a bar says its start once, its end once or twice


@pytest.mark.slow
def test_what_is_submitted_to_slurm(tmp_path):
    """There is no Slurm here: what would be handed to it is looked at."""
    pytest.importorskip("hydra_plugins.hydra_submitit_launcher")
    tools = tmp_path / "tools"
    tools.mkdir()
    (tools / "sbatch").write_text(
        f"#!/bin/sh\ncp $1 {tmp_path}/copy\nmv {tmp_path}/copy {tmp_path}/script\necho Submitted batch job 12\n"
    )
    (tools / "sacct").write_text("#!/bin/sh\necho 'JobID|State|NodeList'\n")
    (tools / "srun").write_text("#!/bin/sh\n")
    for tool in tools.iterdir():
        tool.chmod(0o755)
    flags = ["hydra.launcher.partition=robots", f"hydra.launcher.submitit_folder={tmp_path}/slurm/%j"]
    process = sweep(tmp_path, "slurm", *flags, PATH=f"{tools}:{os.environ['PATH']}")
    for _ in range(600):
        if (tmp_path / "script").exists() or process.poll() is not None:
            break
        time.sleep(0.1)
    running = process.poll() is None
    os.killpg(process.pid, signal.SIGKILL)
    output, _ = process.communicate()
    assert running and (tmp_path / "script").exists(), output
    script = (tmp_path / "script").read_text()
    for option in ("--partition=robots", "--array=0-1%2", "--gpus-per-node=1", "--cpus-per-task=8", "--mem=32GB",
                   "--time=1440", "--signal=USR2@120"):  # fmt: skip
        assert f"#SBATCH {option}" in script, script
    assert "srun" in script and "submitit.core._submit" in script
