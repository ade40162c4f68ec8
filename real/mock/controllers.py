"""The controllers of the mock's arm, started and stopped as controller_manager does it on ROS 1 and ROS 2.

From the sources of ros_control (noetic) and ros2_control (humble), which agree in this: with strictness 2 (STRICT) a
switch is refused as a whole where a controller that is to stop does not run, one that is to start runs already, or
there is none of a name. With strictness 1 (BEST_EFFORT), and with none, such a request is passed over, and is no error.
A switch is answered when it is done.
"""

import time
from collections.abc import Callable, Iterable
from typing import Any

STRICT = 2


class Controllers:
    """Which are loaded, and which of them run. `prepare(name)` says whether one can be started now; `stopping(name)`
    is called when one stops."""

    def __init__(
        self, loaded: Iterable[str], *, ros1: bool, prepare: Callable[[str], bool], stopping: Callable[[str], None]
    ):
        self.ros1, self.prepare, self.stopping = ros1, prepare, stopping
        self.running = dict.fromkeys(loaded, False)
        self.delay_s, self.refuses = 0.0, False  # of every switch

    def is_running(self, name: str) -> bool:
        """Whether a controller runs."""
        return self.running.get(name, False)

    def switch(self, request: dict[str, Any]) -> dict[str, Any]:
        """Answers a controller_manager_msgs/SwitchController."""
        words = (
            ("start_controllers", "stop_controllers")
            if self.ros1
            else ("activate_controllers", "deactivate_controllers")
        )
        start, stop = (request[word] for word in words)
        time.sleep(self.delay_s)
        return {"ok": not self.refuses and self._switch(start, stop, request["strictness"] == STRICT)}

    def _switch(self, start: list[str], stop: list[str], strict: bool) -> bool:
        to_stop = [name for name in stop if self.is_running(name)]
        to_start = [name for name in start if self.running.get(name) is False or name in to_stop]
        if strict and (len(to_stop) < len(stop) or len(to_start) < len(start)):
            return False
        if not all(self.prepare(name) for name in to_start):
            return False
        for name in to_stop:
            self.halt(name)
        self.running |= dict.fromkeys(to_start, True)
        return True

    def halt(self, name: str) -> None:
        """Stops one, as the hardware does by itself on an error."""
        self.running[name] = False
        self.stopping(name)

    def list(self, request: dict[str, Any]) -> dict[str, Any]:
        """Answers a controller_manager_msgs/ListControllers."""
        words = {True: "running", False: "stopped"} if self.ros1 else {True: "active", False: "inactive"}
        return {"controller": [{"name": name, "state": words[runs]} for name, runs in self.running.items()]}
