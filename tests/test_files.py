"""Files: JSON that every parser reads, and that is whole."""

import json
import signal

import numpy as np
import pytest
import torch

from pbrl import files
from pbrl.training import interrupts
from pbrl.types import UserError


def test_json_holds_no_number_that_is_none(tmp_path):
    value = {
        "a": [1.5, float("nan"), (np.float32("inf"), np.int64(3))],
        "b": np.array([[1.0, -np.inf]]),
        "c": {"d": True},
    }
    files.write_json(tmp_path / "a.json", value)
    text = (tmp_path / "a.json").read_text()
    found = json.loads(text, parse_constant=lambda word: pytest.fail(word))
    assert found == {"a": [1.5, None, [None, 3]], "b": [[1.0, None]], "c": {"d": True}}
    assert json.loads(files.to_json(value)) == found and [p.name for p in tmp_path.iterdir()] == ["a.json"]


def test_json_that_cannot_be_written(tmp_path):
    with pytest.raises(UserError, match="cannot write"):
        files.write_json(tmp_path / "nowhere" / "a.json", {})
    with pytest.raises(TypeError):
        files.to_json({"a": object()})


def test_a_signal_while_a_checkpoint_is_saved_comes_after_it(tmp_path, monkeypatch):
    """The second checkpoint is whole though the signal came in the middle of it, and nothing else is left."""
    files.save(tmp_path / "checkpoint.pt", {"step": 1})
    whole = torch.save

    def interrupted(state, file):
        signal.raise_signal(signal.SIGTERM)
        whole(state, file)

    with monkeypatch.context() as patch, interrupts.handled(), pytest.raises(interrupts.Stopped):
        patch.setattr(torch, "save", interrupted)
        files.save(tmp_path / "checkpoint.pt", {"step": 2})
    assert files.load(tmp_path / "checkpoint.pt", torch.device("cpu")) == {"step": 2}
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint.pt"]
