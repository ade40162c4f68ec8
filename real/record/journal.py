"""An episode while it is recorded: a folder to which every step is appended as it comes.

    about.json      what is known at the start
    steps.jsonl     a line for each step; written after its pictures, so that a line vouches for them
    front.mjpeg     the pictures of camera `front`, one JPEG after the other; a line says where its own are
    outcome.json    blank until the end, but of its full size: the outcome can be written on a full disk

Lines are with the operating system at once (a killed process loses none) and on the disk within a second (a power cut
loses that). The folder is locked by the process that writes it or makes an episode of it, so that no other takes it up.
"""

import errno
import fcntl
import json
import os
import re
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from io import BytesIO, FileIO
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

TIMES = ("t_scheduled", "t_observed", "t_inferred", "t_sent")
SINGLE, VECTORS = (*TIMES, "age", "gripper"), ("obs", "action", "sent", "q", "dq")
JPEG_QUALITY = 92
OUTCOME_BYTES = 512
SYNC_S = 1.0


class Step(NamedTuple):
    """One step of a policy. Times are of one monotonic clock of this machine, in s."""

    t_scheduled: float
    t_observed: float
    t_inferred: float
    t_sent: float
    age: float  # s, of the robot's state that was used
    obs: np.ndarray  # [O] float32
    action: np.ndarray  # [A], of the policy, in [-1, 1]
    sent: np.ndarray  # [J] rad, the joint command that was really sent last
    q: np.ndarray  # [J] rad
    dq: np.ndarray  # [J] rad/s
    gripper: float  # m
    why: tuple[str, ...] = ()  # interventions of safety filter and watchdogs since the step before
    mode: str = ""  # of the robot
    images: dict[str, np.ndarray] = {}  # [H, W, 3] uint8 by camera; the first camera is what people are shown


class Row(NamedTuple):
    """A step as it is written: its numbers, and its pictures as JPEG by camera."""

    numbers: dict[str, Any]
    pictures: dict[str, bytes]
    problem: str = ""  # why a picture is missing

    @classmethod
    def of(cls, index: int, step: Step) -> "Row":
        """Of the step that was the `index`-th to be offered. Raises ValueError, TypeError for what is no step.

        What is no picture is left out: the numbers are worth having without it.
        """
        numbers: dict[str, Any] = {"index": index}
        numbers |= {name: float(getattr(step, name)) for name in SINGLE}
        numbers |= {name: np.asarray(getattr(step, name), float).reshape(-1).tolist() for name in VECTORS}
        numbers |= {"why": [str(reason) for reason in step.why], "mode": str(step.mode)}
        pictures, problem = {}, ""
        for camera, image in step.images.items():
            try:
                pictures[plain(camera)] = jpeg(image, camera)
            except ValueError as error:
                problem = str(error)
        return cls(numbers, pictures, problem)


def plain(name: str) -> str:
    """A name that a file may have."""
    return re.sub(r"[^\w-]+", "_", name).strip("_") or "camera"


def jpeg(image: np.ndarray, camera: str) -> bytes:
    """[H, W, 3] uint8 → JPEG. Raises ValueError for what is no picture: depth, of 16 bits, would become white."""
    image = np.asarray(image)
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or not image.size:
        raise ValueError(f"a picture of camera {camera} is [H, W, 3] uint8, not {list(image.shape)} {image.dtype}")
    out = BytesIO()
    Image.fromarray(np.ascontiguousarray(image)).save(out, "JPEG", quality=JPEG_QUALITY)
    return out.getvalue()


class Journal:
    """An episode's folder, held locked until `release`. Whatever writes raises OSError where it cannot."""

    def __init__(self, folder: Path, lock: int):
        self.folder, self.lock = folder, lock
        self.files: dict[str, FileIO] = {}
        self.widths: list[int] | None = None
        self.synced = time.monotonic()

    @classmethod
    def begin(cls, parts: Path, name: str, about: dict[str, Any]) -> "Journal":
        """A new one among `parts`; a name that is taken gets a letter more."""
        with _hold_lock(parts):
            while (parts / name).exists():
                name += "b"
            (parts / name).mkdir()
            journal = cls(parts / name, _lock(parts / name))
        try:
            for file, text in (("about.json", json.dumps(about, default=str)), ("outcome.json", " " * OUTCOME_BYTES)):
                with open(journal.folder / file, "w") as out:
                    out.write(text)
                    out.flush()
                    os.fsync(out.fileno())
        except OSError:
            shutil.rmtree(journal.folder, ignore_errors=True)
            journal.release()
            raise
        return journal

    @classmethod
    def find_unfinished(cls, parts: Path) -> list["Journal"]:
        """Those that no process works on any more, locked for this one."""
        found = []
        with _hold_lock(parts):
            for folder in sorted(path for path in parts.iterdir() if path.is_dir()):
                with suppress(OSError):  # another process has it, or has just finished it
                    found.append(cls(folder, _lock(folder)))
        return found

    def add(self, row: Row) -> None:
        """Appends a step, or leaves everything as it was. Raises ValueError where it differs in size from the first."""
        widths = [len(row.numbers[name]) for name in VECTORS]
        if self.widths is None:
            self.widths = widths
        if widths != self.widths:
            raise ValueError(f"{', '.join(VECTORS)} have lengths {widths}, and {self.widths} at the first step")
        places = {c: (self._append(f"{c}.mjpeg", data), len(data)) for c, data in row.pictures.items()}
        self._append("steps.jsonl", json.dumps({**row.numbers, "images": places}).encode() + b"\n")

    def _append(self, name: str, data: bytes) -> int:
        """All or nothing; returns where it begins."""
        if name not in self.files:
            self.files[name] = FileIO(self.folder / name, "a")
        file = self.files[name]
        start = file.seek(0, os.SEEK_END)
        try:
            if file.write(data) != len(data):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        except OSError:
            with suppress(OSError):
                file.truncate(start)
            raise
        return start

    def sync(self) -> None:
        """Once a second, what was appended goes to the disk itself."""
        if time.monotonic() > self.synced + SYNC_S:
            self.synced = time.monotonic()
            for file in self.files.values():
                os.fsync(file.fileno())

    def end(self, outcome: str, dropped: int) -> None:
        """Says how it ended, and how many steps are missing from it."""
        text = json.dumps({"outcome": outcome[: OUTCOME_BYTES // 8], "dropped": dropped}).encode()
        with open(self.folder / "outcome.json", "r+b") as file:
            file.write(text.ljust(OUTCOME_BYTES))
            file.flush()
            os.fsync(file.fileno())

    def release(self) -> None:
        """Lets go of it."""
        for file in self.files.values():
            file.close()
        if self.lock >= 0:
            os.close(self.lock)
        self.files, self.lock = {}, -1


class Account(NamedTuple):
    """What a journal says."""

    about: dict[str, Any]
    outcome: str
    dropped: int
    rows: list[dict[str, Any]]


def read(folder: Path) -> Account:
    """What was written before whatever stopped it; `aborted:killed` where no outcome was."""
    about, ending = (_read_json(folder / name) for name in ("about.json", "outcome.json"))
    sizes = {path.stem: path.stat().st_size for path in folder.glob("*.mjpeg")}
    rows = []
    with suppress(FileNotFoundError):
        for line in (folder / "steps.jsonl").read_bytes().splitlines(keepends=True):
            try:
                row = json.loads(line.lstrip(b"\0"))  # of which a power cut leaves many
                whole = all(start + length <= sizes.get(c, 0) for c, (start, length) in row["images"].items())
            except (ValueError, KeyError, TypeError):  # a torn line
                continue
            if whole and line.endswith(b"\n"):
                rows.append(row)
    return Account(about, ending.get("outcome", "aborted:killed"), ending.get("dropped", 0), rows)


def _read_json(file: Path) -> dict[str, Any]:
    try:
        return json.loads(file.read_text())
    except (OSError, ValueError):
        return {}


def _lock(folder: Path) -> int:
    """Locks a folder until the returned handle is closed, or the process ends. Raises OSError where it is locked."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if not folder.exists():  # another process finished it, and took it away
            raise FileNotFoundError(folder)
    except OSError:
        os.close(handle)
        raise
    return handle


@contextmanager
def _hold_lock(parts: Path) -> Iterator[None]:
    """Keeps others from taking up a folder that is just being made."""
    handle = os.open(parts, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)
