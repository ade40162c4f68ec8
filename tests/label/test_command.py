"""What a labelling command says at its end can be pasted: the same data set, the same questions, the same store."""

import shlex
from typing import Any

import pytest

from pbrl.configs import compose_config, quote_addresses
from pbrl.label.command import CommandLine, training_command
from pbrl.run.validate import validate
from pbrl.settings import RunSettings

CASES = [
    (["env=metaworld/drawer-open", "env.see_through=true", "env.horizon=150", "data=mixed", "data.episodes=15",
      "vlm.size=112", "query.length=1", "query.count=9", "store=sqlite:///a.sqlite"], "mixed"),
    ([], "sample"),  # its own defaults are not those of train.py
    (["data.episodes=7", "+env.instruction='pull, then let go'", "data_seed=3", "workers=2"], "sample"),
    (["query.kind=rating", "vlm.judge=rating", "env=gym/hopper", "data=random"], "random"),
]  # fmt: skip


def given(words: list[str], data: str) -> CommandLine:
    env = next((word.removeprefix("env=") for word in words if word.startswith("env=")), "metaworld/drawer-open")
    return CommandLine(tuple(words), env, data)


@pytest.mark.parametrize(("words", "data"), CASES)
def test_training_finds_the_data_set_and_the_questions(words, data):
    labelled = compose_config(*(word.replace("+env", "env") for word in words), name="label_vlm")
    said = shlex.split(training_command(given(words, data), labelled["query"], labelled["store"]))
    assert said[:2] == ["python", "train.py"]
    trained: dict[str, Any] = compose_config(*quote_addresses([word.replace("+env", "env") for word in said[2:]]))
    for name in ("env", "data", "data_dir", "data_seed", "store"):
        assert trained[name] == labelled[name]
    for name in ("kind", "length"):
        assert trained["query"][name] == labelled["query"][name]
    assert "query.count" not in " ".join(said) and "vlm" not in " ".join(said) and "workers" not in " ".join(said)
    validate(RunSettings.parse(trained))


def test_what_a_shell_would_read_otherwise_is_quoted():
    line = given(["hydra.searchpath=[my configs]", "data.path=my robot/", "data_dir=a"], "file")
    query = {"kind": "pair", "length": 4}
    said = training_command(line, query, "postgresql://me:***@host/labels?sslmode=require")
    words = shlex.split(said)
    assert "hydra.searchpath=[my configs]" in words and "data.path=my robot/" in words and "data_dir=a" in words
    assert "store=postgresql://me:***@host/labels?sslmode=require" in words and "'" in said


def test_of_recordings_the_simulator_is_left_open():
    query = {"kind": "pair", "length": 4}
    assert "env=… " in training_command(given(["data.path=x"], "recordings"), query, "s")
    assert "env=gym/hopper " in training_command(given(["env=gym/hopper", "data.path=x"], "recordings"), query, "s")
