"""The numbers beside a video: a npz of obs [T+1, O], action [T, A], perhaps reward [T], success [T+1], person [T]."""

import zipfile
import zlib
from pathlib import Path
from typing import NamedTuple

import numpy as np

from pbrl.data.damage import is_being_written, why_unreadable
from pbrl.types import UserError

WANTED = "obs [T+1, O], action [T, A] and perhaps reward [T], success [T+1] and person [T]"


class Numbers(NamedTuple):
    """What stands beside a video; of width zero where nothing does."""

    obs: np.ndarray  # [T+1, O]; numbers that float32 holds, of the file's type
    action: np.ndarray  # [T, A] float32
    reward: np.ndarray  # [T], as observations
    success: np.ndarray | None  # [T+1] bool
    person: np.ndarray | None = None  # [T] bool


def read_numbers(file: Path, video: Path, frames: int) -> Numbers:
    """The numbers in a npz beside a video of so many frames; of T + 1 of them, or T where the end was not filmed.

    Raises UserError, which names the array, the shape found and the shape expected.
    """
    if not file.exists() and not file.is_symlink():
        return Numbers(np.zeros((frames, 0), "f4"), np.zeros((frames - 1, 0), "f4"), np.zeros(frames - 1, "f4"), None)
    arrays = _load(file)
    for name in ("obs", "action"):
        if name not in arrays:
            raise UserError(f"{file} must hold {WANTED}; it has {', '.join(arrays) or 'nothing'}, and no {name}")
    for name, array in arrays.items():
        if name in Numbers._fields and array.dtype.kind not in "biuf":
            raise UserError(f"{file}: {name} is of type {array.dtype}; it must be numbers, or true and false")
    steps = _steps(file, arrays["action"], video, frames)
    obs = _rows(file, "obs", arrays["obs"], steps + 1)
    action = _rows(file, "action", arrays["action"], steps).astype(np.float32)
    reward = _column(file, "reward", arrays.get("reward", np.zeros(steps, np.float32)), steps)
    success = _column(file, "success", arrays["success"], steps + 1) if "success" in arrays else None
    person = _column(file, "person", arrays["person"], steps) if "person" in arrays else None
    for name, array in (("obs", obs), ("action", action), ("reward", reward)):
        with np.errstate(over="ignore"):
            wrong = ~np.isfinite(array.astype(np.float32))
        _refuse(file, name, array, wrong, "which is not finite in float32: leave the row out, or mend it")
    _refuse(file, "action", action, np.abs(action) > 1, "beyond [-1, 1]: scale them")
    for name, flags in (("success", success), ("person", person)):
        if flags is not None:
            _refuse(file, name, flags, (flags != 0) & (flags != 1), "neither true nor false")
    success, person = (None if flags is None else flags.astype(bool) for flags in (success, person))
    return Numbers(obs, action, reward, success, person)


def _load(file: Path) -> dict[str, np.ndarray]:
    """The arrays of a npz; objects are refused, which would be unpickled. Raises UserError."""
    try:
        if is_being_written(file):
            raise OSError("it is being written")
        found = np.load(file)
        if not isinstance(found, np.lib.npyio.NpzFile):
            raise ValueError("it is a single array")
        with found as arrays:
            return dict(arrays)
    except (OSError, ValueError, EOFError, NotImplementedError, zipfile.BadZipFile, zlib.error) as error:
        zipped = zipfile.is_zipfile(file) if file.exists() else False
        why = str(error) if zipped and not is_being_written(file) else why_unreadable(file, str(error))
        raise UserError(f"{file} must hold {WANTED}, and cannot be read: {why}") from error


def _steps(file: Path, action: np.ndarray, video: Path, frames: int) -> int:
    """T. Raises UserError where actions and frames do not go together."""
    if action.ndim and len(action) in (frames - 1, frames):
        return len(action)
    raise UserError(
        f"{video} has {frames} frames and {file.name} {len(action) if action.ndim else 'no'} steps: action has shape "
        f"{list(action.shape)}, and must have {frames - 1} rows, or {frames} where the end was not filmed"
        f"{_hint(action, (frames - 1, frames))}: a frame belongs to each step"
    )


def _rows(file: Path, name: str, array: np.ndarray, rows: int) -> np.ndarray:
    """The array as [rows, …] numbers. Raises UserError where it has another number of rows."""
    if array.ndim and len(array) == rows:
        return array.reshape(rows, -1)
    raise UserError(f"{file}: {name} has shape {list(array.shape)}, and must have {rows} rows{_hint(array, (rows,))}")


def _column(file: Path, name: str, array: np.ndarray, rows: int) -> np.ndarray:
    """The array as [rows]. Raises UserError where it is anything but [rows] or [rows, 1]."""
    if array.shape in ((rows,), (rows, 1)):
        return array.reshape(rows)
    hint = _hint(array, (rows,))
    raise UserError(f"{file}: {name} has shape {list(array.shape)}, and must have shape [{rows}]{hint}")


def _hint(array: np.ndarray, rows: tuple[int, ...]) -> str:
    if array.ndim > 1 and array.shape[1] in rows:
        return " (is time on its second axis? then save its transpose)"
    if array.ndim and len(array) + 1 in rows and len(rows) == 1:
        return " (one more than there are steps: where the episode ended, too)"
    return ""


def _refuse(file: Path, name: str, array: np.ndarray, wrong: np.ndarray, why: str) -> None:
    """Raises UserError for the first number that is wrong, if there is one."""
    if wrong.any():
        at = tuple(int(i) for i in np.argwhere(wrong)[0])
        raise UserError(f"{file}: step {at[0]} of {name} holds {array[at]:g} ({int(wrong.sum())} in all), {why}")
