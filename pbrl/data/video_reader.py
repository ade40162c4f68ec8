"""Reading videos of any format: when each frame is shown, the frames themselves, and which of them are torn.

A torn frame is one that cannot be decoded, as USB cameras and broken disks leave them. The picture before
stands for it.
"""

import hashlib
import json
import os
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import av
import av.error
import numpy as np
from av.packet import Packet
from av.stream import Disposition
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from pbrl.data.damage import is_cut_off, why_unreadable
from pbrl.types import UserError

MISSING_S = 0.5  # that a file may end before the end that it announces
PAUSE_S, PAUSE = 2.0, 10.0  # a frame that lasts longer, and so many times as long as others: nothing was recorded then


class VideoFile(NamedTuple):
    """A video file. `shown` [F] says when each frame is, in units of `unit_s` seconds, in order."""

    shown: np.ndarray
    unit_s: float

    def times_s(self, first: int, last: int) -> np.ndarray:
        """When each frame from `first` up to before `last` is shown, and when the last one is over: [last - first + 1].

        In seconds after the first one; a pause lasts PAUSE_S. The last frame of a file lasts as long as the one before.
        """
        lasts = self._lasts_s()
        lasts[self._is_pause(lasts)] = PAUSE_S
        return np.concatenate([[0.0], np.append(lasts, lasts[-1])[first:last].cumsum()])

    @property
    def fps(self) -> float:
        """The mean rate, without pauses."""
        lasts = self._lasts_s()
        return float(1 / lasts[~self._is_pause(lasts)].mean())

    def pauses(self) -> dict[int, float]:
        """Frames after which nothing was recorded for long, and how long the gap is (s)."""
        lasts = self._lasts_s()
        return {int(t): float(lasts[t]) for t in np.flatnonzero(self._is_pause(lasts))}

    def _lasts_s(self) -> np.ndarray:
        return np.diff(self.shown) * self.unit_s

    def _is_pause(self, lasts: np.ndarray) -> np.ndarray:
        return lasts > max(PAUSE_S, PAUSE * float(np.median(lasts)))


class Torn(NamedTuple):
    """Frames of a video that cannot be decoded, and those up to the next key frame that build on one of them."""

    frames: tuple[int, ...] = ()
    doubtful: tuple[int, ...] = ()


def read_video_info(path: Path) -> VideoFile:
    """When the frames of a file are shown, kept until the file changes.

    Raises UserError where it holds no video, is cut off or still being written, or its frames have no times.
    """
    try:
        state = os.stat(path)
    except OSError as error:
        raise UserError(f"{path} cannot be opened ({error.strerror}): mend its permissions or its link") from error
    return _read_video_info(Path(path), state.st_size, state.st_mtime_ns)


@lru_cache(maxsize=100_000)
def _read_video_info(path: Path, size: int, changed_ns: int) -> VideoFile:
    if is_cut_off(path):
        raise UserError(f"{path} holds no video that can be read: {why_unreadable(path, '')}")
    try:
        with av.open(str(path)) as container:
            stream = _video_stream(container, path)
            packets = [packet for packet in _demux(container, stream) if packet.size and not packet.is_discard]
            shown = np.sort(np.array([np.nan if p.pts is None else p.pts for p in packets], np.float64))
            unit_s, ends_s = float(stream.time_base or 0), _announced_s(container, stream)
    except (av.error.FFmpegError, OSError) as error:
        detail = str(error).split(":")[0].removesuffix("when processing input")
        raise UserError(f"{path} holds no video that can be read: {why_unreadable(path, detail)}") from error
    if len(shown) == 1:
        raise UserError(f"{path} has one frame, which is no episode: record it again, or take it away")
    if not len(shown):
        raise UserError(f"{path} holds no video that can be read: {why_unreadable(path, 'it has no frame')}")
    if np.isnan(shown).any() or (np.diff(shown) <= 0).any():
        raise UserError(f"{path} does not say when its frames are shown: `ffmpeg -i {path.name} better.mp4`")
    seconds = float(shown[-1] - shown[0]) * unit_s
    if ends_s - (seconds + seconds / (len(shown) - 1)) > max(MISSING_S, 0.02 * ends_s):
        raise UserError(
            f"{path} is cut off: it announces {ends_s:.1f} s, and after frame {len(shown) - 1}, at {seconds:.1f} s, "
            "nothing can be read: copy it again, or take it away"
        )
    return VideoFile(shown.astype(np.int64), unit_s)


def _video_stream(container: Any, path: Path) -> VideoStream:
    """The file's moving picture. Raises UserError where there is none."""
    pictures = [stream for stream in container.streams.video if not stream.disposition & Disposition.attached_pic]
    if pictures and not container.format.name.endswith("_pipe"):
        return pictures[0]
    kind = "a single picture" if pictures else "sound and no picture" if container.streams.audio else ""
    why = f"it holds {kind}; put the right file there, or take it away" if kind else why_unreadable(path, "no stream")
    raise UserError(f"{path} holds no video that can be read: {why}")


def _announced_s(container: Any, stream: VideoStream) -> float:
    """How long the file says that its video is; 0 where it does not say, or means its sound."""
    if stream.duration is not None and stream.time_base is not None:
        return float(stream.duration * stream.time_base)
    return 0.0 if container.streams.audio or not container.duration else container.duration / av.time_base


def _demux(container: Any, stream: VideoStream) -> Iterator[Packet]:
    """The packets of a stream, as far as the file can be read."""
    try:
        yield from container.demux(stream)
    except av.error.FFmpegError:
        return


def _decode(container: Any, stream: VideoStream) -> Iterator[tuple[Packet, list[VideoFrame]]]:
    """Each packet and the whole frames that came with it; a packet that cannot be decoded has none."""
    for packet in _demux(container, stream):
        try:
            yield packet, [frame for frame in packet.decode() if frame.pts is not None and not frame.is_corrupt]
        except av.error.FFmpegError:
            yield packet, []


def video_digest(path: Path) -> bytes:
    """SHA-256 of a video's file, kept until the file changes."""
    state = os.stat(path)
    return _read_digest(path, state.st_size, state.st_mtime_ns)


@lru_cache(maxsize=100_000)
def _read_digest(path: Path, size: int, changed_ns: int) -> bytes:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").digest()


# Frames


def read_frames(
    path: Path, source: VideoFile, *, first: int, last: int, height: int | None, torn: list[int] | None = None
) -> Iterator[np.ndarray]:
    """Frames [height, W, 3] uint8 of a recording, upright, from `first` up to before `last`; None: as they are.

    All have the size of the first. A torn frame is the picture before it, at a video's beginning the first whole one;
    its number is added to `torn`. Raises UserError where no frame can be decoded.
    """
    size: tuple[int, int] | None = None
    picture, last_frame = np.empty(0), None
    for t, frame, is_torn in _whole_frames(path, source, first, min(last, len(source.shown))):
        if frame is not last_frame:
            size = size or _size(frame, height)
            picture, last_frame = _upright(frame, *size), frame
        if is_torn and torn is not None:
            torn.append(t)
        yield picture


def _whole_frames(path: Path, source: VideoFile, first: int, last: int) -> Iterator[tuple[int, VideoFrame, bool]]:
    """For each frame of the video its number, the decoded frame that stands for it, and whether it is torn."""
    back = 0
    while True:
        start = max(0, first - back)
        found = _frames_from(path, source, start, first, last)
        begun = next(found, None)
        if begun is not None:
            yield begun
            yield from found
            return
        if start == 0:
            raise UserError(f"no frame of {path} can be decoded: record it again, or take it away")
        back = 2 * back or 8  # its key frame is torn, or belongs to what comes after


def _frames_from(
    path: Path, source: VideoFile, start: int, first: int, last: int
) -> Iterator[tuple[int, VideoFrame, bool]]:
    """The same, decoding from `start` on; none where no frame up to `first` is whole, but for the first of all."""
    t, held = first, None
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        container.seek(int(source.shown[start]), stream=stream)  # to the key frame before
        for frame in (frame for _, frames in _decode(container, stream) for frame in frames):
            if held is None and frame.pts > source.shown[first] and start > 0:
                return
            while t < last and source.shown[t] < frame.pts:
                yield t, held or frame, True
                t += 1
            if t < last and source.shown[t] == frame.pts:
                yield t, frame, False
                t += 1
            if t >= last:
                return
            held = frame
    if held is not None:
        for rest in range(t, last):
            yield rest, held, True


def _size(frame: VideoFrame, height: int | None) -> tuple[int, int]:
    """Width and height of what is shown of a frame: upright, of even width where a height is given."""
    is_turned = round(frame.rotation / 90) % 2 == 1
    wide, high = (frame.height, frame.width) if is_turned else (frame.width, frame.height)
    return (wide, high) if height is None else (max(2, 2 * round(height * wide / high / 2)), height)


def _upright(frame: VideoFrame, width: int, height: int) -> np.ndarray:
    turns = round(frame.rotation / 90) % 4
    width, height = (height, width) if turns % 2 else (width, height)
    return np.rot90(frame.reformat(width=width, height=height, format="rgb24").to_ndarray(), turns)


# Torn frames


def find_torn(path: Path) -> Torn:
    """Which frames cannot be decoded. All are, once: what was found is kept for the user until the file changes."""
    state, kept = os.stat(path), _cache_file(path)
    key = [state.st_size, state.st_mtime_ns]
    try:
        known = json.loads(kept.read_text())
        if known["file"] == key:
            return Torn(tuple(known["torn"]), tuple(known["doubtful"]))
    except (OSError, ValueError, KeyError, TypeError):
        pass  # never looked at, or by another version
    found = _decode_all(path)
    try:
        kept.parent.mkdir(parents=True, exist_ok=True)
        partial = kept.with_suffix(f".{os.getpid()}")
        partial.write_text(json.dumps({"file": key, "torn": found.frames, "doubtful": found.doubtful}))
        os.replace(partial, kept)
    except OSError:
        pass  # no home to keep it: looked at again the next time
    return found


def _cache_file(path: Path) -> Path:
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return home / "pbrl" / "torn-frames" / f"{hashlib.sha256(str(path.resolve()).encode()).hexdigest()[:32]}.json"


def _decode_all(path: Path) -> Torn:
    number = {int(pts): i for i, pts in enumerate(read_video_info(path).shown)}
    whole, order = set(), []
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        for packet, frames in _decode(container, stream):
            whole |= {number[frame.pts] for frame in frames if frame.pts in number}
            if packet.size and packet.pts in number:
                order.append((number[packet.pts], packet.is_keyframe, packet.is_disposable))
    doubtful, is_broken, key = [], False, 0
    for t, is_key, is_disposable in order:
        if is_key:
            is_broken, key = t not in whole, t
        elif t in whole and is_broken:
            doubtful.append(t)
        elif t not in whole and t > key:  # those before build on the key frame before, too
            is_broken = is_broken or not is_disposable
    return Torn(tuple(sorted({*number.values()} - whole)), tuple(sorted(doubtful)))
