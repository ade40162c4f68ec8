"""The transcript: every request and reply, by content, written before a reply is used.

So a run that is killed pays for nothing twice, two runs that ask the same pay once, and a run can be replayed with no
server. Before a request is paid its pictures are written and some space is set aside, so that a disk that is full by
then still takes the reply. A line of `transcript.jsonl` is a request, with the ids of its pictures, and its reply;
`pictures/` beside it has the pictures. Nothing of it holds a key.
"""

import contextlib
import fcntl
import json
import os
import threading
from collections.abc import Iterator
from io import FileIO
from pathlib import Path
from typing import Any

from pbrl.types import UserError
from pbrl.vlm.messages import Reply, Request

VERSION = 1
SPARE_BYTES = 2**20  # set aside on the disk: of all replies that can be under way


class Transcript:
    """Kept replies, by the hash of model and request. Several processes may write to one file.

    A line that was cut off when a process was killed is left out, and what follows begins on a line of its own. Raises
    UserError where the file cannot be read or written.
    """

    def __init__(self, folder: Path, *, keep_pictures: bool = True):
        self.folder, self.file, self.keep_pictures = Path(folder), Path(folder) / "transcript.jsonl", keep_pictures
        self.spare = self.folder / "spare"
        self.replies: dict[str, Reply] = {}
        self.cut_off = 0  # lines that hold no whole reply
        self._read_to = 0
        self._lock = threading.Lock()
        try:
            (self.folder / "pictures").mkdir(parents=True, exist_ok=True)
            self.refresh()
        except OSError as error:
            raise UserError(f"cannot use {self.folder} for what models reply ({error}): set vlm.cache=…") from error

    def find(self, request: Request, model: str) -> Reply | None:
        """The kept reply to a request, if there is one."""
        return self.replies.get(request.key(model))

    def refresh(self) -> None:
        """Takes up what other processes have written since."""
        if not self.file.exists():
            return
        with self.file.open("rb") as opened:
            opened.seek(self._read_to)
            lines = opened.read().split(b"\n")
        self._read_to += sum(len(line) + 1 for line in lines[:-1])  # the last one may still be written
        for line in filter(None, lines[:-1]):
            self._take(line)

    def _take(self, line: bytes) -> None:
        try:
            kept = json.loads(line)
            self.replies[kept["key"]] = Reply.from_json(kept["reply"])
        except (ValueError, KeyError, TypeError):
            self.cut_off += 1

    def prepare(self, request: Request) -> None:
        """To be called before a request is paid: its reply will find room. Raises UserError where there is none."""
        try:
            if self.keep_pictures:
                self._write_pictures(request)
            with self._alone():
                set_aside(self.spare)
        except OSError as error:
            raise self._explain(error, "every reply") from error

    def add(self, request: Request, model: str, reply: Reply) -> None:
        """Writes a reply to the disk, then knows it. Raises UserError where it cannot be written."""
        key = request.key(model)
        row = {"version": VERSION, "key": key, "request": request.content(model), "reply": reply.to_json()}
        line = json.dumps(row, ensure_ascii=False).encode() + b"\n"
        try:
            if self.keep_pictures:
                self._write_pictures(request)
            with self._alone() as opened:
                try:
                    append(opened, line)
                except OSError:
                    self.spare.unlink(missing_ok=True)  # `prepare` will say that the disk is full
                    append(opened, line)
        except OSError as error:
            raise self._explain(error, "every reply before this one") from error
        with self._lock:
            self.replies[key] = Reply.from_json(row["reply"])  # type: ignore[arg-type]

    def _explain(self, error: OSError, kept: str) -> UserError:
        return UserError(
            f"cannot write to {self.folder} ({error}): free some space and start again with the same command; {kept} "
            "is kept"
        )

    @contextlib.contextmanager
    def _alone(self) -> Iterator[FileIO]:
        """The file, while nobody else writes to it or sets space aside: no thread and no other process."""
        with self._lock, self.file.open("a+b", buffering=0) as opened:
            fcntl.flock(opened, fcntl.LOCK_EX)  # let go when the file closes
            yield opened

    def _write_pictures(self, request: Request) -> None:
        for picture in request.pictures:
            path = self.folder / "pictures" / f"{picture.id}.{picture.mime.removeprefix('image/')}"
            if not path.exists():
                part = path.with_name(f".{os.getpid()}-{threading.get_ident()}-{path.name}")
                try:
                    part.write_bytes(picture.data)
                    part.replace(path)
                except OSError:
                    part.unlink(missing_ok=True)
                    raise

    def rows(self) -> list[dict[str, Any]]:
        """All whole lines: `request`, `reply` and `key` of each."""
        found = []
        for line in self.file.read_bytes().split(b"\n") if self.file.exists() else ():
            try:
                found.append(json.loads(line))
            except ValueError:
                continue
        return found


def append(opened: FileIO, line: bytes) -> None:
    """Writes a line to the disk, on a line of its own after half a line; all of it or, raising OSError, nothing."""
    end = opened.seek(0, os.SEEK_END)
    if end and os.pread(opened.fileno(), 1, end - 1) != b"\n":
        line = b"\n" + line
    try:
        while line:  # a disk that is nearly full takes a part
            line = line[opened.write(line) :]
        os.fsync(opened.fileno())
    except OSError:
        os.ftruncate(opened.fileno(), end)
        raise


def set_aside(path: Path) -> None:
    """A file that takes SPARE_BYTES of the disk, if it is not there. Raises OSError where there are not so many."""
    if path.exists():
        return
    try:
        with path.open("wb") as file:
            file.write(bytes(SPARE_BYTES))  # and no hole
            file.flush()
            os.fsync(file.fileno())
    except OSError:
        path.unlink(missing_ok=True)
        raise
