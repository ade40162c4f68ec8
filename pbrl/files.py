"""Files that are always whole, and locks on them; what a run needs to go on bit for bit."""

import fcntl
import os
import platform
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from pbrl.types import UserError


def save(path: Path, state: dict[str, Any]) -> None:
    """Replaces the checkpoint atomically: a process that is killed meanwhile leaves the old one. Raises UserError."""
    partial = path.with_suffix(".partial")
    try:
        with open(partial, "wb") as file:
            torch.save(state, file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
    except (OSError, RuntimeError) as error:  # torch reports a full disk as a RuntimeError
        partial.unlink(missing_ok=True)
        raise UserError(
            f"cannot write {path} ({str(error).splitlines()[0]}): free some space and start again with the same "
            "command; the run goes on from its last checkpoint"
        ) from error


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


@contextmanager
def hold(folder: Path, what: str, advice: str) -> Iterator[None]:
    """Keeps a folder for this process until the block ends or the process is killed.

    Raises UserError where another process has it ("<what> is running there, pid 123: <advice>"), or the folder cannot
    be written.
    """
    path = folder / ".lock"
    try:
        handle = open(path, "a+")  # noqa: SIM115
    except OSError as error:
        raise UserError(f"cannot write to {folder} ({error.strerror}): {advice}") from error
    with handle:
        try:
            fcntl.flock(
                handle, fcntl.LOCK_EX | fcntl.LOCK_NB
            )  # of the open file: gone with the process, however it ends
        except BlockingIOError:
            handle.seek(0)
            owner = handle.read().strip() or "pid unknown"
            raise UserError(f"{folder}: {what} is running there, {owner}: {advice}") from None
        except OSError as error:
            print(
                f"{folder} cannot be locked ({error.strerror}): nothing keeps a second run out of it", file=sys.stderr
            )
        handle.truncate(0)
        handle.write(f"pid {os.getpid()} on {platform.node()}")
        handle.flush()
        yield
        handle.truncate(0)


def load(path: Path, device: torch.device) -> dict[str, Any] | None:
    """The checkpoint, or None where there is none. Raises UserError if it cannot be read."""
    if not path.exists():
        return None
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
    state = {"cpu": torch.get_rng_state()}
    if device.type == "cuda":
        state["cuda"] = torch.cuda.get_rng_state(device)
    return state


def set_random_state(state: dict[str, torch.Tensor], device: torch.device) -> None:
    """Puts torch's global generators back."""
    torch.set_rng_state(state["cpu"].cpu())
    if device.type == "cuda" and "cuda" in state:
        torch.cuda.set_rng_state(state["cuda"].cpu(), device)
