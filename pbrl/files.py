"""Files that are always whole, and locks on them; JSON for every parser; what a run needs to go on bit for bit.

PyTorch is imported where it is needed: clips for people are rendered without it.
"""

from __future__ import annotations

import fcntl
import json
import math
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pbrl.processes import delay_signals
from pbrl.types import UserError

if TYPE_CHECKING:
    import torch


def save(path: Path, state: dict[str, Any]) -> None:
    """Replaces the checkpoint atomically: a process that is killed meanwhile leaves the old one. Raises UserError.

    Ctrl-C and SIGTERM that come meanwhile count when it is saved.
    """
    import torch

    partial = path.with_suffix(".partial")
    try:
        with delay_signals(), open(partial, "wb") as file:
            torch.save(state, file)
            file.flush()
            os.fsync(file.fileno())
            os.replace(partial, path)
    except (OSError, RuntimeError) as error:  # torch reports a full disk as a RuntimeError
        raise UserError(
            f"cannot write {path} ({str(error).splitlines()[0]}): free some space and start again with the same "
            "command; the run goes on from its last checkpoint"
        ) from error
    finally:
        partial.unlink(missing_ok=True)


def to_json(value: Any, indent: int | None = None) -> str:
    """A value as JSON: NumPy's numbers and arrays too, and `null` for numbers that are not finite, which JSON has not.

    Raises TypeError for what is no JSON.
    """
    return json.dumps(_plain(value), indent=indent, allow_nan=False)


def write_json(path: Path, value: Any) -> None:
    """Replaces a JSON file atomically, as `to_json` writes it. Raises UserError where it cannot be written."""
    text = to_json(value, indent=2)
    with replacing(path) as partial:
        partial.write_text(text)


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A new file beside `path`, which takes its place when the block ends: a file is there whole, or as it was before.

    Raises UserError where it cannot be written.
    """
    partial = path.with_name(f".partial-{os.getpid()}-{path.name}")
    try:
        yield partial
        os.replace(partial, path)
    except (OSError, RuntimeError) as error:  # torch reports a full disk as a RuntimeError
        words = (str(error).splitlines() or [type(error).__name__])[0]
        raise UserError(f"cannot write {path} ({words}): free some space, or choose another folder") from error
    finally:
        partial.unlink(missing_ok=True)


def _plain(value: Any) -> Any:
    if isinstance(value, (np.generic, np.ndarray)):
        return _plain(value.tolist())
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: _plain(part) for key, part in value.items()}
    return [_plain(part) for part in value] if isinstance(value, (list, tuple)) else value


@contextmanager
def lock(path: Path) -> Iterator[None]:
    """Holds a lock on `path` until the block ends or the process is killed; other processes wait. Raises UserError."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle = open(path.with_name(f".lock-{path.name}"), "w")  # noqa: SIM115
    except OSError as error:
        raise UserError(f"cannot write to {path.parent} ({error}): choose another folder") from error
    with handle:
        fcntl.flock(handle, fcntl.LOCK_EX)  # let go when the file closes
        yield


def load(path: Path, device: torch.device) -> dict[str, Any] | None:
    """The checkpoint, or None where there is none. Raises UserError if it cannot be read."""
    if not path.exists():
        return None
    import torch

    try:
        return torch.load(path, map_location=device, weights_only=True)
    except Exception as error:
        raise UserError(f"the checkpoint {path} is damaged ({error}); delete it to start this run anew") from error


def differences(old: dict[str, Any], new: dict[str, Any], prefix: str = "") -> list[str]:
    """What differs between two nested settings, as "name old → new"."""
    found = []
    for key in {**old, **new}:
        a, b = old.get(key), new.get(key)
        if isinstance(a, dict) and isinstance(b, dict):
            found += differences(a, b, f"{prefix}{key}.")
        elif a != b:
            found.append(f"{prefix}{key} {a} → {b}")
    return found


def random_state(device: torch.device) -> dict[str, torch.Tensor]:
    """State of torch's global generators (dropout draws from them)."""
    import torch

    state = {"cpu": torch.get_rng_state()}
    if device.type == "cuda":
        state["cuda"] = torch.cuda.get_rng_state(device)
    return state


def set_random_state(state: dict[str, torch.Tensor], device: torch.device) -> None:
    """Puts torch's global generators back."""
    import torch

    torch.set_rng_state(state["cpu"].cpu())
    if device.type == "cuda" and "cuda" in state:
        torch.cuda.set_rng_state(state["cuda"].cpu(), device)
