"""`env=franka/<task>`: the tabletop tasks with a Franka arm, under the name that runs made so far have for them."""

from sim.tabletop import TASKS
from sim.tabletop import Tabletop as Franka

__all__ = ["TASKS", "Franka"]
