"""Why a file cannot be read, in a sentence: it is being written, it is cut off, or it holds something else."""

import contextlib
import fcntl
import signal
import sys
import zipfile
from pathlib import Path

BEGINNINGS = {  # of files of other kinds
    b"version https://git-lfs": "a pointer of Git LFS: `git lfs pull` fetches the file",
    b"\x00\x05\x16\x07": "what macOS keeps beside a file (AppleDouble)",
    b"\xff\xd8\xff": "a JPEG picture",
    b"\x89PNG": "a PNG picture",
    b"PK\x03\x04": "a zip archive",
    b"\x1f\x8b": "a gzip archive",
    b"\x89HDF": "an HDF5 file",
    b"\x93NUMPY": "a single NumPy array: save it with np.savez",
    b"%PDF": "a PDF document",
    b"ID3": "sound",
}
EBML, SEGMENT = b"\x1a\x45\xdf\xa3", b"\x18\x53\x80\x67"  # Matroska and WebM


def why_unreadable(file: Path, detail: str) -> str:
    """What is wrong with a file that a reader could not make sense of, and what to do; `detail` are its own words."""
    try:
        size = file.stat().st_size
        with open(file, "rb") as opened:
            beginning = opened.read(512)
    except OSError as error:
        return f"it cannot be opened ({error.strerror or error}): mend its permissions or its link"
    if is_being_written(file):
        return "it is still being written or copied: wait until that is done, and start again"
    if size == 0:
        return "it is empty (0 bytes): copy or record it again, or wait until that is done"
    if is_cut_off(file):
        return "it is cut off, its end is missing: copy it again, or wait until that is done; else take it away"
    kind = kind_of(beginning)
    if kind is not None:
        return f"it is {kind}; put the right file there, or take it away"
    return f"it is damaged ({detail}): copy or record it again, or take it away"


def kind_of(beginning: bytes) -> str | None:
    """What a file is that begins so, in words; None for a video, or where it cannot be told."""
    for start, kind in BEGINNINGS.items():
        if beginning.startswith(start):
            return kind
    if not any(beginning):
        return "nothing but zeros"
    is_text = all(byte in b"\t\n\r\f" or byte >= 32 for byte in beginning) and b"\x7f" not in beginning
    with contextlib.suppress(UnicodeDecodeError):
        if is_text and beginning[:500].decode("utf-8", "strict"):
            return "text"
    return None


def is_being_written(file: Path) -> bool:
    """Whether a process on this machine has the file open for writing; False where the system does not say."""
    if sys.platform != "linux":
        return False
    try:
        with open(file, "rb") as opened:
            fcntl.fcntl(opened, fcntl.F_SETSIG, signal.SIGURG)  # a writer that comes now: not with SIGIO, which kills
            fcntl.fcntl(opened, fcntl.F_SETLEASE, fcntl.F_RDLCK)  # refused while there is a writer; see fcntl(2)
            fcntl.fcntl(opened, fcntl.F_SETLEASE, fcntl.F_UNLCK)
    except BlockingIOError:
        return True
    except OSError:  # not the file's owner, or a file system without leases
        pass
    return False


def is_cut_off(file: Path) -> bool:
    """Whether a file (MP4, MOV, AVI, Matroska, WebM, zip) is shorter than it says itself, or lacks its index."""
    size = file.stat().st_size
    with open(file, "rb") as opened:
        head = opened.read(12)
        if head[4:8] in (b"ftyp", b"moov", b"mdat", b"wide", b"free", b"skip"):
            return _lacks_boxes(file, size)
        if head[:4] == b"RIFF":
            return 8 + int.from_bytes(head[4:8], "little") > size
        if head[:4] == EBML:
            return _segment_end(file) > size
        if head[:4] == b"PK\x03\x04":
            return not zipfile.is_zipfile(file)  # its index stands at the end
    return False


def _lacks_boxes(file: Path, size: int) -> bool:
    """MP4 and MOV: whether a box ends beyond the file, or there is no `moov`. ISO/IEC 14496-12."""
    at, kinds = 0, []
    with open(file, "rb") as opened:
        while at + 8 <= size:
            opened.seek(at)
            header = opened.read(16)
            length, kind = int.from_bytes(header[:4], "big"), header[4:8]
            if length == 1:
                length = int.from_bytes(header[8:16], "big")
            kinds.append(kind)
            if length == 0:  # to the end
                break
            if length < 8 or not kind.isalnum():
                return b"moov" not in kinds
            at += length
    return b"moov" not in kinds or (at > size and kinds[-1] in (b"moov", b"mdat", b"moof", b"mfra"))


def _segment_end(file: Path) -> int:
    """Matroska and WebM: where the segment ends by its own word; 0 where it does not say. RFC 8794."""
    with open(file, "rb") as opened:
        start = opened.read(4096)
    header, header_end = _read_length(start, len(EBML))
    segment = header_end + (header or 0)
    if start[segment : segment + len(SEGMENT)] != SEGMENT:
        return 0
    length, begin = _read_length(start, segment + len(SEGMENT))
    return 0 if length is None else begin + length


def _read_length(data: bytes, at: int) -> tuple[int | None, int]:
    """An element's length, of variable width, and where it ends; None where it is unknown, or not there."""
    width = 9 - data[at].bit_length() if at < len(data) and data[at] else 0
    length = int.from_bytes(data[at : at + width], "big") - (1 << 7 * width)
    is_known = width > 0 and at + width <= len(data) and length != (1 << 7 * width) - 1
    return length if is_known else None, at + width
