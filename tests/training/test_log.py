"""Metric sinks: what is written can be read, cut back, and drawn elsewhere."""

import json

import pytest
import torch

from pbrl.training import log
from pbrl.training.log import Log
from pbrl.types import UserError


def test_written_read_and_cut_back(tmp_path):
    sink = Log(tmp_path)
    sink.write("policy", 1, {"loss": torch.tensor(0.5)})
    here = sink.position()
    sink.write("evaluate", 2, {"success": 0.25})
    assert [e["phase"] for e in log.read(tmp_path)] == ["policy", "evaluate"]
    sink.rewind(here)
    sink.write("policy", 3, {"loss": torch.tensor(0.25)})
    sink.close()
    assert log.read(tmp_path) == [
        {"phase": "policy", "step": 1, "loss": 0.5},
        {"phase": "policy", "step": 3, "loss": 0.25},
    ]
    assert [e["step"] for e in log.read(tmp_path, "policy")] == [1, 3]


def test_a_line_that_is_being_written_is_not_read_yet(tmp_path):
    sink = Log(tmp_path)
    sink.write("policy", 1, {"loss": 0.5})
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"phase": "policy", "st')
    assert [e["step"] for e in log.read(tmp_path)] == [1]
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write("\n")
    with pytest.raises(UserError, match="damaged"):
        log.read(tmp_path)


def test_a_run_that_goes_on_appends(tmp_path):
    for step in (1, 2):
        sink = Log(tmp_path)
        sink.write("policy", step, {})
        assert sink.position() == len((tmp_path / "metrics.jsonl").read_bytes())
        sink.close()
    assert [e["step"] for e in log.read(tmp_path)] == [1, 2]


def test_tensorboard(tmp_path):
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    sink = Log(tmp_path, tensorboard=True)
    sink.write("policy", 7, {"loss": torch.tensor(0.5)})
    sink.close()
    events = accumulator.EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert [(e.step, e.value) for e in events.Scalars("policy/loss")] == [(7, 0.5)]


@pytest.mark.slow
def test_wandb_offline(tmp_path, monkeypatch):
    pytest.importorskip("wandb")
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    folders = [tmp_path / name for name in ("seed0", "seed1")]  # both at once
    sinks = []
    for folder in folders:
        folder.mkdir()
        sinks.append(Log(folder, wandb=True, config={"algo": "cpl"}))
    for i, sink in enumerate(sinks):
        sink.write("policy", 7, {"loss": 0.5 + i})
    for i, (folder, sink) in enumerate(zip(folders, sinks, strict=True)):
        sink.close()
        assert list((folder / "wandb").glob("offline-run-*/*.wandb"))
        assert json.loads((folder / "metrics.jsonl").read_text())["loss"] == 0.5 + i


def test_what_is_no_number_is_null_for_every_parser(tmp_path):
    sink = Log(tmp_path)
    sink.write("held_out", 1, {"accuracy": float("nan"), "loss": torch.tensor(float("inf")), "count": 3})
    sink.close()
    line = (tmp_path / "metrics.jsonl").read_text()
    assert json.loads(line, parse_constant=lambda word: pytest.fail(word)) == {
        "phase": "held_out", "step": 1, "accuracy": None, "loss": None, "count": 3,
    }  # fmt: skip
