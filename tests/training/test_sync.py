"""Between two lines of the log nothing is read off the device: on a GPU each read waits for all work before it."""

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from pbrl.training.log import Log
from pbrl.training.loop import Training
from tests.training.test_loop import RUNS, train

READS = {"aten::_local_scalar_dense", "aten::nonzero", "aten::masked_select", "aten::equal", "aten::unique_consecutive",
         "aten::_unique2"}  # fmt: skip


class Reads(TorchDispatchMode):
    """Counts what needs a tensor's values on the host."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.count += function.name().split(".")[0] in READS or "index" in function.name() and masks(args)
        return function(*args, **kwargs or {})


def masks(args) -> bool:
    """Whether something is indexed by what is true."""
    return any(
        isinstance(i, torch.Tensor) and i.dtype == torch.bool for arg in args if isinstance(arg, list) for i in arg
    )


@pytest.fixture
def reads(monkeypatch):
    """[n]: how often a stage's updates read, for each of its lines in the log."""
    found: list[tuple[str, int]] = []
    mode, stage, write = Reads(), Training._run_stage, Log.write

    def watched(self, run):
        with mode:
            mode.count = 0
            stage(self, run)

    def written(self, phase, step, values):
        if phase in ("policy", "reward", "pretrain"):
            found.append((phase, mode.count))
        plain = write(self, phase, step, values)
        mode.count = 0
        return plain

    monkeypatch.setattr(Training, "_run_stage", watched)
    monkeypatch.setattr(Log, "write", written)
    return found


@pytest.mark.parametrize(
    "name", ["cpl", "piql-in-rounds", "dppo", "surf-of-lists", "ipl", "dtr", "td3bc", "awac", "three-seeds"]
)
def test_updates_read_nothing(tmp_path, reads, without_report, name):
    few = ["steps=120", "log_every=5", "eval_every=120", "checkpoint_every=120"]
    train(tmp_path, *RUNS[name], *few, "compare=false")
    assert len(reads) >= 24
    assert [line for line in reads if line[1]] == []


def test_a_read_is_counted():
    with Reads() as mode:
        x = torch.arange(3.0)
        x[0].item(), x[x > 1], bool((x > 1).any()), x[torch.tensor([0, 1])]
    assert mode.count == 3
