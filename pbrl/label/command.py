"""The command that learns from what was answered: what `train.py` needs to find the same data set and questions."""

import shlex
from collections.abc import Mapping
from typing import Any, NamedTuple

SHARED = ("env", "data", "data_dir", "data_seed")  # what decides the data set, in both commands


class CommandLine(NamedTuple):
    """The words of a labelling command, and its choices of `env=` and `data=`, also those it did not name."""

    words: tuple[str, ...]
    env: str
    data: str

    @classmethod
    def read(cls) -> "CommandLine":
        """That of this process, which Hydra reads."""
        from hydra.core.hydra_config import HydraConfig

        hydra = HydraConfig.get()
        choices, given = hydra.runtime.choices, hydra.overrides
        searched = [word for word in given.hydra if word.startswith("hydra.searchpath=")]
        return cls((*searched, *given.task), choices["env"], choices["data"])


def training_command(given: CommandLine, query: Mapping[str, Any], address: str) -> str:
    """`python train.py …` on the answers that a labelling command left at `address`, to be pasted into a shell.

    Recordings say nothing of a simulator: where none was named, `env=…` is left to the reader.
    """
    is_named = any(word.startswith("env=") for word in given.words)
    env = "…" if given.data == "recordings" and not is_named else given.env
    same = [word for word in given.words if is_shared(word)]
    learn = ["algo=iql", "reward=ensemble", "feedback=stored", f"store={address}"]
    asked = [f"query.{name}={query[name]}" for name in ("kind", "length")]
    return "python train.py " + " ".join(map(_quote, [f"env={env}", f"data={given.data}", *same, *asked, *learn]))


def is_shared(word: str) -> bool:
    """Whether a word sets what both commands have; the choices of env and data themselves are written anew."""
    key = word.lstrip("+~").partition("=")[0]
    return key == "hydra.searchpath" or (key.split(".")[0] in SHARED and key not in ("env", "data"))


def _quote(word: str) -> str:
    return word if word == "env=…" else shlex.quote(word)
