"""Drivers: ways to talk to an arm, behind `real.robot.Robot`."""

from typing import Any

from pbrl.types import UserError
from real.robot import Robot
from real.safety import SafetySettings
from robots.arm import Arm

DRIVERS = ("ros", "libfranka")


def make_driver(arm: Arm, settings: dict[str, Any], safety: SafetySettings) -> Robot:
    """The driver that a robot's settings name, which connects meanwhile: see `connect`. Raises UserError."""
    if settings["driver"] == "libfranka":
        from real.drivers.libfranka import LibfrankaDriver

        return LibfrankaDriver(arm, settings, safety)
    if settings["driver"] != "ros":
        raise UserError(f"driver: {settings['driver']}: it is one of {', '.join(DRIVERS)}")
    from real.drivers.ros import RosDriver

    return RosDriver(arm, settings)
