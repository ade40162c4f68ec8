"""HDF5 and JSON files of other programs: one in use, cut off, of another version or kind has a sentence of its own."""

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import h5py

from pbrl.types import UserError

HDF5_SIGNATURE = b"\x89HDF\r\n\x1a\n"
OTHER_KINDS = (  # what other files begin with
    (b"version https://git-lfs", "a pointer of Git LFS: `git lfs pull` fetches the file itself"),
    (b"\x1f\x8b", "compressed by gzip: unpack it first"),
    (b"PK\x03\x04", "a zip archive: unpack it first"),
    (b"\x93NUMPY", "a single array of NumPy (.npy)"),
    (b"PAR1", "a Parquet file"),
    (b"\x80", "a pickle, perhaps"),
)


class FileError(UserError):
    """A file that cannot be read as it is. `is_broken`: a copy from its source, or making it again, would mend it."""

    def __init__(self, sentence: str, is_broken: bool):
        super().__init__(sentence)
        self.is_broken = is_broken


@contextmanager
def open_hdf5(path: Path) -> Iterator[h5py.File]:
    """An HDF5 file for reading. Raises FileError (a UserError) where it cannot be opened, or a part of it not read."""
    try:
        with h5py.File(path, "r") as file:
            yield file
    except (OSError, RuntimeError) as error:  # HDF5 reports what it cannot decode as either
        raise explain_hdf5(path, error) from error


def explain_hdf5(path: Path, error: Exception) -> FileError:
    """What is the matter with an HDF5 file, by the library's own error and the file's first bytes."""
    words = str(error)
    if isinstance(error, BlockingIOError) or "unable to lock file" in words:
        return FileError(
            f"{path} is in use: another process has it open for writing. Wait until that has closed it (on a disk that "
            "knows no locks, set HDF5_USE_FILE_LOCKING=FALSE)",
            is_broken=False,
        )
    if "already open for write" in words:
        return FileError(
            f"{path} was not closed by the program that writes it: wait for that program, or, if it was killed, "
            f"`h5clear -s {path.name}` clears the mark",
            is_broken=False,
        )
    if isinstance(error, PermissionError | FileNotFoundError):
        return FileError(f"{path} cannot be read ({error.strerror or error})", is_broken=False)
    return _explain_kind(path) or _explain_content(path, words)


def _explain_content(path: Path, words: str) -> FileError:
    """Of a file that begins as HDF5 does."""
    sizes = re.search(r"truncated file: eof = (\d+), .*stored_eof = (\d+)", words)
    if sizes:
        return FileError(
            f"{path} is cut off: {int(sizes[1]):,} of its {int(sizes[2]):,} bytes are there; copy or download it again",
            is_broken=True,
        )
    if "version number" in words:
        return FileError(
            f"{path} is of another version of HDF5 than {h5py.version.hdf5_version}, which is installed: "
            "`pip install -U h5py`, or convert the file with h5repack",
            is_broken=False,
        )
    return FileError(f"{path} is damaged ({words}): copy or download it again", is_broken=True)


def _explain_kind(path: Path) -> FileError | None:
    """What a file is that does not begin as HDF5 files do; None where it does."""
    with open(path, "rb") as file:
        begin = file.read(64)
    if begin.startswith(HDF5_SIGNATURE):
        return None
    if not begin:
        return FileError(f"{path} is cut off: it is empty (0 bytes); copy or download it again", is_broken=True)
    found = next((words for start, words in OTHER_KINDS if begin.startswith(start)), None)
    text = begin.decode("ascii", "ignore").split("\n")[0][:40]
    is_text = len(text) >= min(len(begin), 20) // 2 and text.isprintable()
    what = found or (f"text that begins with {text!r}" if is_text else f"a file that begins with {begin[:8]!r}")
    return FileError(f"{path} is not HDF5 but {what}", is_broken=False)


def load_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file. Raises FileError where it is cut off, damaged, or holds something else."""
    try:
        text = path.read_text()
        found = json.loads(text)
    except OSError as error:
        raise FileError(f"{path} cannot be read ({error.strerror or error})", is_broken=True) from error
    except ValueError as error:
        is_cut = not text.rstrip().endswith("}") if isinstance(error, json.JSONDecodeError) else False
        what = "cut off" if is_cut else "damaged"
        raise FileError(f"{path} is {what} ({error})", is_broken=True) from error
    if not isinstance(found, dict):
        raise FileError(f"{path} is damaged: it holds no JSON object but a {type(found).__name__}", is_broken=True)
    return found
