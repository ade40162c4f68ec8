"""Recorded episodes for others: a bag that ROS plays, a Minari data set, or a table to look at.

Bags are written by rosbags, without ROS. Stamps are wall-clock time. The command has a topic that no controller listens
to: a bag that is played beside a robot does not move it.
"""

import json
import os
import re
import tempfile
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import Any, NamedTuple

import av
import numpy as np
from PIL import Image

from pbrl.data import episodes
from pbrl.types import UserError
from robots import arm as robots

PLACES = ("", "aborted", "clips")
TYPES = {
    "/joint_states": "sensor_msgs/msg/JointState",
    "/recorded/command": "trajectory_msgs/msg/JointTrajectory",
    "/recorded/interventions": "std_msgs/msg/String",
    "/recorded/episode": "std_msgs/msg/String",
}
PICTURE = "sensor_msgs/msg/CompressedImage"


class Message(NamedTuple):
    """When it was (ns), where it goes, and what it says."""

    at: int
    topic: str
    content: Any


def episode_files(folder: Path) -> list[Path]:
    """The json files of a folder's episodes, by name. Raises UserError where there are none."""
    found = sorted(file for file in folder.glob("*.json") if file.with_suffix(".npz").exists())
    if not found:
        raise UserError(f"{folder} holds no episodes of a recorder")
    return found


def table(folder: Path) -> str:
    """What a recorder's folder holds, a line for each episode. Raises UserError where there is no such folder."""
    if not folder.is_dir():
        raise UserError(f"there is no folder {folder}")
    lines = [("name", "outcome", "seconds", "steps", "interventions")]
    for place in PLACES:
        for file in sorted((folder / place).glob("*.json")):
            info = json.loads(file.read_text())
            why = ", ".join(f"{reason} {count}" for reason, count in sorted(info["interventions"].items()))
            name = os.path.join(place, info["name"])
            lines.append((name, info["outcome"], f"{info['seconds']:.1f}", str(info["steps"]), why or "-"))
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join("  ".join(map(str.ljust, line, widths)).rstrip() for line in lines)


def export(folder: Path, out: Path) -> str:
    """Writes a folder's episodes to `out`, by its ending; says what it wrote. Raises UserError."""
    if out.exists():
        raise UserError(f"{out} is there already: take it away, or choose another name")
    if out.suffix in (".mcap", ".bag"):
        return f"{out}: {bag(folder, out)} messages of {len(episode_files(folder))} episodes"
    if not re.fullmatch(r"[\w-]+", out.name, re.ASCII):
        raise UserError(
            f"{out.name} is no name for a Minari data set: use letters, digits, - and _; a bag's ends in .mcap or .bag"
        )
    episode_files(folder)
    read = [episode._replace(video=None) for episode in episodes.read_recordings(folder)]
    provenance = episodes.write(out, read, {"recordings": folder.name})
    return f"{out}: {provenance['steps']} steps of {len(read)} episodes"


def bag(folder: Path, out: Path) -> int:
    """Writes a bag, which appears only when it is whole; returns how many messages. Raises UserError."""
    try:
        from rosbags.rosbag1 import Writer as Writer1
        from rosbags.rosbag2 import StoragePlugin
        from rosbags.rosbag2 import Writer as Writer2
        from rosbags.typesys import Stores, get_typestore
    except ImportError as error:
        raise UserError("bags are written by rosbags: `pip install -e '.[real]'`") from error
    first = out.suffix == ".bag"
    types = get_typestore(Stores.ROS1_NOETIC if first else Stores.ROS2_HUMBLE)
    files = episode_files(folder)
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".partial-", dir=out.parent) as partial:
        path = Path(partial) / out.name
        writer = Writer1(path) if first else Writer2(path, version=8, storage_plugin=StoragePlugin.MCAP)
        count, connections = 0, {}
        with writer:
            for file in files:
                for at, topic, content in sorted(messages(file, types.types, first), key=lambda message: message.at):
                    if topic not in connections:
                        name = TYPES.get(topic, PICTURE)
                        connections[topic] = writer.add_connection(topic, name, typestore=types)
                    serialize = types.serialize_ros1 if first else types.serialize_cdr
                    writer.write(connections[topic], at, serialize(content, content.__msgtype__))
                    count += 1
        os.replace(path if first else path / f"{path.name}.mcap", out)
    return count


def joint_names(robot: str, dof: int) -> tuple[list[str], list[str]]:
    """The names of a robot's joints and of its gripper's; of a robot that is not in robots/, made of its own name."""
    if robot in robots.NAMES:
        arm = robots.load(robot)
        return list(arm.joints), list(arm.gripper.joints)
    return [f"{robot}_joint{i + 1}" for i in range(dof)], [f"{robot}_finger_joint{i}" for i in (1, 2)]


def messages(file: Path, types: Any, first: bool) -> Iterator[Message]:
    """What an episode says. `types` are ROS's message classes; ROS 1's header (`first`) counts."""
    info = json.loads(file.read_text())
    with np.load(file.with_suffix(".npz")) as arrays:
        numbers = dict(arrays)
    names, fingers = joint_names(info["robot"], numbers["q"].shape[1])
    since = info["clock"]["wall_s"] - info["clock"]["monotonic_s"]
    none = np.zeros(0)

    def ns(*seconds: float) -> int:
        """The first of these times that there is; nothing was sent yet at an episode's first step, say."""
        known = next((t for t in map(float, seconds) if np.isfinite(t)), info["clock"]["monotonic_s"])
        return round((since + known) * 1e9)

    def header(at: int, index: int) -> Any:
        stamp = types["builtin_interfaces/msg/Time"](sec=at // 10**9, nanosec=at % 10**9)
        count = {"seq": int(index)} if first else {}
        return types["std_msgs/msg/Header"](**count, stamp=stamp, frame_id="")

    def text(content: str) -> Any:
        return types["std_msgs/msg/String"](data=content)

    begun = round(info["clock"]["wall_s"] * 1e9)
    yield Message(begun, "/recorded/episode", text(json.dumps(info)))
    for i, index in enumerate(numbers["index"]):
        times = [numbers[name][i] for name in ("t_observed", "t_scheduled")]
        observed, sent = ns(*times), ns(numbers["t_sent"][i], *times)
        measured = ns(times[0] - numbers["age"][i], *times)
        position = np.append(numbers["q"][i], [numbers["gripper"][i] / 2] * 2)
        velocity = np.append(numbers["dq"][i], [0.0, 0.0])
        state = types["sensor_msgs/msg/JointState"](header(measured, index), names + fingers, position, velocity, none)
        yield Message(observed, "/joint_states", state)
        at_once = types["builtin_interfaces/msg/Duration"](sec=0, nanosec=0)
        point = types["trajectory_msgs/msg/JointTrajectoryPoint"](numbers["sent"][i], none, none, none, at_once)
        command = types["trajectory_msgs/msg/JointTrajectory"](header(sent, index), names, [point])
        yield Message(sent, "/recorded/command", command)
        if numbers["why"][i]:
            yield Message(sent, "/recorded/interventions", text(str(numbers["why"][i])))
    for camera, name in info["cameras"].items():
        place = file.parent if name == f"{info['name']}.mp4" else file.parent / "cameras"
        with av.open(str(place / name)) as container:
            for i, frame in enumerate(container.decode(video=0)):
                at, data = ns(numbers["t_observed"][i], numbers["t_scheduled"][i]), BytesIO()
                Image.fromarray(frame.to_ndarray(format="rgb24")).save(data, "JPEG", quality=92)
                content = np.frombuffer(data.getvalue(), np.uint8)
                picture = types[PICTURE](header(at, numbers["index"][i]), "jpeg", content)
                yield Message(at, f"/{camera}/image/compressed", picture)
