"""Robots' settings: configs/robot/<name>.yaml."""

from typing import Any, TypedDict

import yaml

from pbrl.configs import FOLDER
from pbrl.ranges import Count, Positive, Seed, Share
from pbrl.types import UserError

CONFIGS = FOLDER


class Deploy(TypedDict):
    """Settings of a deployment; see configs/deploy.yaml."""

    policy: str
    instruction: str | None
    robot: str | None
    url: str | None
    transport: str | None
    episodes: Count
    steps: Count | None
    home: bool
    record: str | None
    keep_s: Positive
    takeover_speed: Share
    seed: Seed
    safety: dict[str, Any]


def load_robot_settings(name: str) -> dict[str, Any]:
    """A robot's settings. Raises UserError."""
    path = CONFIGS / "robot" / f"{name}.yaml"
    if not path.exists():
        known = ", ".join(sorted(file.stem for file in path.parent.glob("*.yaml")))
        raise UserError(f"robot={name}: it is one of {known}")
    settings = yaml.safe_load(path.read_text())
    for parent in settings.pop("defaults", []):
        if parent != "_self_":
            settings = {**load_robot_settings(parent), **settings}
    return {**settings, "name": name}
