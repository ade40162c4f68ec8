"""Steps whose numbers say which they are, and what a folder of recordings holds."""

import json
from pathlib import Path

import numpy as np

from pbrl.data import episodes
from pbrl.data.video import read_frames, read_video_info
from real.record import Step

HZ = 20.0
HOME = np.array([0, -0.785398, 0, -2.356194, 0, 1.570796, 0.785398])


def step(i: int, images: dict | None = None, **given) -> Step:
    """A step in which every number says which it is."""
    random, t = np.random.default_rng(i), 100 + i / HZ
    values = {
        "t_scheduled": t, "t_observed": t + 0.001, "t_inferred": t + 0.01, "t_sent": t + 0.012, "age": 0.004 + i / 1e6,
        "obs": random.normal(size=5).astype(np.float32), "action": random.uniform(-1, 1, 3).astype(np.float32),
        "sent": HOME + 0.01 * i, "q": HOME + random.uniform(-0.2, 0.2, 7), "dq": random.normal(size=7),
        "gripper": 0.04 + i / 1e5, "why": ("step", "late") if i % 4 == 3 else (), "mode": "move",
        "images": grey(i) if images is None else images,
    }  # fmt: skip
    return Step(**{**values, **given})


def grey(i: int, size: tuple[int, int] = (48, 64)) -> dict:
    return {"front": np.full((*size, 3), shade(i), np.uint8)}


def shade(i: int) -> int:
    return 20 + 10 * (i % 20)


def shades(video: Path) -> list[int]:
    """Which picture each frame of a video is."""
    source = read_video_info(video)
    return [
        round(float(image.mean())) for image in read_frames(video, source, first=0, last=len(source.shown), height=48)
    ]


def read_json_files(folder: Path) -> dict[str, dict]:
    return {file.stem: json.loads(file.read_text()) for file in sorted(folder.glob("*.json"))}


def numbers(file: Path) -> dict[str, np.ndarray]:
    with np.load(file) as arrays:
        return dict(arrays)


def whole(folder: Path) -> list[str]:
    """The names of a folder's episodes, each of which can be read."""
    videos = sorted(file.stem for file in folder.glob("*.mp4"))
    for name in videos:
        assert len(read_video_info(folder / f"{name}.mp4").shown) == len(numbers(folder / f"{name}.npz")["obs"])
        assert json.loads((folder / f"{name}.json").read_text())["name"] == name
    if videos:
        assert len(episodes.read(folder)) == len(videos)
    return videos
