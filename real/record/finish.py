"""From the journal of an episode to what `data=recordings` reads: a video, its numbers, and a description.

    <folder>/<name>.mp4  .npz  .json            successes and failures
    <folder>/cameras/<name>.<camera>.mp4        all cameras but the first: beside it they would be episodes
    <folder>/aborted/…  <folder>/clips/…        the same again: training takes them only where its settings say so

All is written and checked inside the journal's folder, then renamed, the video last: the reader goes by videos.
"""

# pyright: reportAttributeAccessIssue=false
# MuJoCo's compiled module carries no types

import json
import os
import shutil
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime
from io import BytesIO
from pathlib import Path
from typing import Any, BinaryIO

from sim.render import Camera  # settles how MuJoCo renders, so it comes before MuJoCo

# isort: split
import mujoco
import numpy as np
from PIL import Image

from pbrl.data.episodes import versions
from pbrl.data.video import read_video_info, write_mp4
from real.record.journal import SINGLE, VECTORS, Account, read
from real.takeover import REASON
from robots import arm as robots
from robots.model import add_arm

USUAL_HZ = 20.0  # where the times do not say
SIZE, BLANK = (320, 240), (90, 90, 90)  # of what is rendered; of what cannot be


def finish(part: Path, folder: Path) -> str:
    """Makes an episode of the journal `part`, which then goes away; returns its outcome. Can be done again.

    Raises OSError and others where it cannot; the journal is then as it was.
    """
    account = read(part)
    outcome = account.outcome
    if len(account.rows) < 2 and not outcome.startswith("aborted"):
        outcome = f"aborted:too_short ({outcome})"  # no transition, and no video has one frame
    place = folder / ("clips" if outcome == "clip" else "aborted" if outcome.startswith("aborted") else "")
    work = part / "whole"
    work.mkdir(exist_ok=True)
    try:
        moves = _write(part, work, place, outcome, account)
        for target in {target for _, target in moves}:
            target.mkdir(parents=True, exist_ok=True)
        for name, target in moves:
            os.replace(work / name, target / name)
    finally:
        shutil.rmtree(work, ignore_errors=True)  # where it failed for want of room, not even less of it
    for target in {target for _, target in moves}:
        _sync(target)
    shutil.rmtree(part, ignore_errors=True)
    return outcome


def _write(part: Path, work: Path, place: Path, outcome: str, account: Account) -> list[tuple[str, Path]]:
    """Writes an episode's files to the folder `work`; returns their names, and where to put them, in order."""
    info = _describe(part.name, outcome, account)
    moves = []
    if len(account.rows) >= 2:
        info |= _videos(part, work, account, info["rate_hz"])
        moves = [(f"{part.name}.{camera}.mp4", place / "cameras") for camera in list(info["cameras"])[1:]]
    if account.rows:
        numbers = columns(account.rows)
        if outcome != "clip":  # success of a part is unknown
            numbers["success"] = np.arange(len(account.rows)) == len(account.rows) - 1
            numbers["success"] &= outcome == "success"
        np.savez_compressed(work / f"{part.name}.npz", allow_pickle=False, **numbers)
        moves.append((f"{part.name}.npz", place))
    (work / f"{part.name}.json").write_text(json.dumps(info, indent=2))
    moves.append((f"{part.name}.json", place))
    if len(account.rows) >= 2:
        moves.append((f"{part.name}.mp4", place))
    for name, _ in moves:
        _sync(work / name)
    return moves


def columns(rows: list[dict[str, Any]]) -> dict[str, np.ndarray]:
    """N steps → obs [N, O] and action [N-1, A] as the reader wants them, and all columns of the steps as they were.

    The robot's or the policy's numbers may not be finite: obs then repeats the row before, and action, clipped, has 0.
    Where the last action led is not known; it is in action_raw [N, A] only.
    """
    raw = {name: np.array([row[name] for row in rows], float) for name in (*SINGLE, *VECTORS)}
    person = np.array([REASON in row["why"] for row in rows[:-1]], bool)
    action = np.clip(np.nan_to_num(raw["action"], nan=0.0, posinf=1.0, neginf=-1.0), -1, 1)
    return {
        "obs": replace_invalid(raw["obs"]).astype(np.float32),
        "action": action[:-1].astype(np.float32),
        **({"person": person} if person.any() else {}),
        "obs_raw": raw.pop("obs").astype(np.float32),
        "action_raw": raw.pop("action").astype(np.float32),
        **raw,
        "index": np.array([row["index"] for row in rows]),
        "why": np.array([",".join(row["why"]) for row in rows], str),
        "mode": np.array([row["mode"] for row in rows], str),
    }


def replace_invalid(values: np.ndarray) -> np.ndarray:
    """[N, D]: what float32 does not hold is what it was in the row before, at the start 0."""
    values = values.copy()
    last = np.zeros(values.shape[1])
    for row in values:
        bad = ~(np.abs(row) <= np.finfo(np.float32).max)
        row[bad] = last[bad]
        last = row
    return values


def _describe(name: str, outcome: str, account: Account) -> dict[str, Any]:
    about, rows = account.about, account.rows
    times = np.array([row["t_scheduled"] for row in rows])
    gaps = np.diff(times)
    rate = 1 / float(np.median(gaps)) if len(gaps) and np.isfinite(gaps).all() and np.median(gaps) > 0 else USUAL_HZ
    clock = about.get("clock") or {"wall_s": 0.0, "monotonic_s": 0.0}
    return {
        "name": name,
        "outcome": outcome,
        "robot": about.get("robot"),
        "about": about.get("about", {}),
        "clip_of": about.get("clip_of"),
        "started": datetime.fromtimestamp(clock["wall_s"], UTC).isoformat(timespec="milliseconds"),
        "clock": clock,  # the same moment by the wall and by the steps' clock
        "rate_hz": round(min(rate, 1000.0), 3),
        "seconds": round(float(times[-1] - times[0]) + 1 / rate, 3) if len(gaps) and np.isfinite(times).all() else 0.0,
        "steps": len(rows),
        "dropped": account.dropped,
        "not_finite": sum(not np.isfinite([*row["obs"], *row["action"]]).all() for row in rows),
        "interventions": dict(Counter(reason for row in rows for reason in row["why"])),
        "cameras": {},
        "versions": versions(),
    }


def _videos(part: Path, work: Path, account: Account, rate: float) -> dict[str, Any]:
    """Writes a video for each camera, of the arm alone where there is none; raises OSError for one that is torn."""
    rows = account.rows
    cameras = list(dict.fromkeys(camera for row in rows for camera in row["images"]))
    found, video = {}, "camera" if cameras else "rendered"
    for camera in cameras or [""]:
        name = f"{part.name}.mp4" if camera == (cameras or [""])[0] else f"{part.name}.{camera}.mp4"
        if camera:
            found[camera] = name
            write_mp4(work / name, read_images(part / f"{camera}.mjpeg", rows, camera), rate)
        else:
            try:
                write_mp4(work / name, render_arm(rows, account.about.get("robot", "")), rate)
            except Exception as error:  # no OpenGL, no meshes, another arm: the numbers are worth having all the same
                video = f"blank ({error})"
                write_mp4(work / name, [np.asarray(Image.new("RGB", SIZE, BLANK))] * len(rows), rate)
        frames = len(read_video_info(work / name).shown)
        if frames != len(rows):
            raise OSError(f"{name} came out with {frames} frames for {len(rows)} steps")
    return {"cameras": found, "video": video}


def read_images(file: Path, rows: list[dict[str, Any]], camera: str) -> Iterator[np.ndarray]:
    """A camera's image of each step: where there is none the one before, at the start the first there is."""
    places = [row["images"].get(camera) for row in rows]
    with open(file, "rb") as data:
        given = (picture for place in places if place and (picture := _decode(data, place)))
        image = next(given, Image.new("RGB", SIZE, BLANK))
        size = image.width // 2 * 2, image.height // 2 * 2  # H.264 wants even sides
        for place in places:
            image = place and _decode(data, place) or image
            even = image.width // 2 * 2, image.height // 2 * 2
            yield np.asarray(image.crop((0, 0, *even)).resize(size))


def _decode(data: BinaryIO, place: list[int]) -> Image.Image | None:
    """None for what a power cut has left of one."""
    data.seek(place[0])
    try:
        return Image.open(BytesIO(data.read(place[1]))).convert("RGB")
    except (OSError, SyntaxError):
        return None


def render_arm(rows: list[dict[str, Any]], robot: str) -> Iterator[np.ndarray]:
    """Images of the arm alone, where it was at each step."""
    arm = robots.load(robot)
    model = _build_scene(arm)
    camera = Camera()
    q = replace_invalid(np.array([row["q"] for row in rows], float))
    finger = np.clip(replace_invalid(np.array([[row["gripper"]] for row in rows], float)), 0, arm.gripper.width) / 2
    try:
        for place in np.hstack([q, finger, finger]):
            yield camera.frame(model, place, mujoco.mjtState.mjSTATE_QPOS, *SIZE, "front", True)
    finally:
        camera.close()


def _build_scene(arm: robots.Arm) -> mujoco.MjModel:
    spec = mujoco.MjSpec()
    spec.visual.headlight.ambient = [0.4, 0.4, 0.4]
    world = spec.worldbody
    world.add_light(pos=[0.5, -0.5, 2], dir=[0, 0.2, -1], diffuse=[0.6, 0.6, 0.6])
    world.add_geom(type=mujoco.mjtGeom.mjGEOM_PLANE, size=[2, 2, 0.1], rgba=[0.75, 0.66, 0.55, 1])
    world.add_body(name="centre", pos=[0.3, 0, 0.4])
    world.add_camera(
        name="front", pos=[1.4, 1.0, 0.9], mode=mujoco.mjtCamLight.mjCAMLIGHT_TARGETBODY, targetbody="centre", fovy=40
    )
    add_arm(spec, arm)
    return spec.compile()


def _sync(path: Path) -> None:
    """To the disk itself: of a folder, the names in it."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
