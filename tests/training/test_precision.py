"""Which products are bfloat16: of a processor that is fast at it, of sizes that gain by it, as the run began."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from pbrl.run.folder import settle_precision, write_provenance
from pbrl.settings import RunSettings
from pbrl.training import precision
from pbrl.training.precision import FLOAT32, Precision, bf16_gain, choose_precision, largest_product
from pbrl.types import UserError
from tests.parts import config

CPU = torch.device("cpu")
ISAS = {
    "avx2": {"ONEDNN_MAX_CPU_ISA": "AVX2", "ATEN_CPU_CAPABILITY": "avx2"},
    "avx512": {"ONEDNN_MAX_CPU_ISA": "AVX512_CORE"},
}
PROBE = "import torch; from pbrl.training.precision import *; print(choose_precision('auto', torch.device('cpu')).bf16)"
LSTM = """
import torch
from tests.parts import build, draw_batches
from pbrl.training.engine import Engine
model = build("reward/lstm")
before = [p.clone() for p in model.parameters()]
state = torch.get_rng_state()
update = Engine(torch.device("cpu"), compile=False, bf16=True).prepare(model.phases()[0])
(batch,) = draw_batches(model, 1)
assert update(batch)["loss"].isfinite() and any((a != b).any() for a, b in zip(before, model.parameters()))
assert torch.equal(state, torch.get_rng_state())
"""


def run_on(isa: str, code: str) -> str:
    """What code prints on a processor whose oneDNN is held to older instructions."""
    done = subprocess.run([sys.executable, "-c", code], env={**os.environ, **ISAS[isa]}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.mark.parametrize("isa", list(ISAS))
def test_a_processor_without_bfloat16_gets_float32(isa):
    assert run_on(isa, PROBE) == "False"


def test_a_processor_with_bfloat16_gets_it():
    info = Path("/proc/cpuinfo")
    if not (info.exists() and {"avx512_bf16", "amx_bf16"} & set(info.read_text().split())):
        pytest.skip("this processor has none")
    assert choose_precision("auto", CPU) == Precision(True, is_chosen=True)
    assert len({choose_precision("auto", CPU) for _ in range(3)}) == 1


def test_the_lstm_learns_in_bfloat16_where_there_is_no_such_lstm():
    run_on("avx2", LSTM)


def test_the_probe_leaves_threads_and_random_numbers_alone():
    threads, state = torch.get_num_threads(), torch.get_rng_state()
    assert bf16_gain.__wrapped__() > 0
    assert torch.get_num_threads() == threads and torch.equal(torch.get_rng_state(), state)


def test_what_the_user_says_stands(monkeypatch):
    monkeypatch.setattr(precision, "bf16_gain", lambda: 0.03)
    assert choose_precision(True, CPU) == Precision(True) and choose_precision(False, CPU) == FLOAT32
    assert choose_precision("auto", CPU) == Precision(False, is_chosen=True)
    with pytest.raises(UserError, match="true, false or auto"):
        choose_precision("maybe", CPU)


def test_small_products_stay_in_float32():
    """256 rows with 39 · 64 and 64 · 64: the largest is 2 · 256 · 64 · 64 = 2.1 MFLOP; with 256 · 256 it is 33.6."""
    batch = {
        "obs": torch.zeros(64, 4, 39),
        "action": torch.zeros(64, 4, 2),
        "step": torch.zeros(9999, 2, dtype=torch.long),
    }
    small, large = (nn.Sequential(nn.Linear(39, n), nn.Linear(n, n)) for n in (64, 256))
    assert largest_product(small, batch) == pytest.approx(2.097152)
    assert largest_product(large, batch) == pytest.approx(33.554432)
    chosen = Precision(True, is_chosen=True)
    assert not chosen.suits(small, batch) and chosen.suits(large, batch)
    assert Precision(True).suits(small, batch) and not FLOAT32.suits(large, batch)


def test_a_run_keeps_the_precision_that_it_began_with(tmp_path, monkeypatch):
    settings = RunSettings.parse(config("algo=bc"))
    began = Precision(True, is_chosen=True)
    write_provenance(tmp_path, settings, "data", began, {})
    found = json.loads((tmp_path / "versions.json").read_text())
    assert found["precision"] == {"bf16": True, "is_chosen": True} and found["processor"]
    monkeypatch.setattr(precision, "bf16_gain", lambda: 0.03)  # another processor
    assert not settle_precision(tmp_path, settings, CPU).bf16  # nothing was trained yet
    (tmp_path / "checkpoint.pt").touch()
    assert settle_precision(tmp_path, settings, CPU) == began
