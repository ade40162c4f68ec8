"""A person takes the arm over with the keyboard, or its block of digits: t takes it and gives it back.

    8 2   away from the arm's base, and back        9 3   up, and down
    4 6   to the arm's left, and to its right       7 1   closes the gripper, and opens it

A key pushes for as long as it is held; where none is, the arm stands. Steps that a person decided are recorded as such,
and `feedback=interventions` learns from them.
"""

import numpy as np

PUSHES = {
    "8": (0, 1.0),
    "2": (0, -1.0),
    "4": (1, 1.0),
    "6": (1, -1.0),
    "9": (2, 1.0),
    "3": (2, -1.0),
}  # axis, direction
GRIPPER = {"7": 1.0, "1": -1.0}
TAKE = "t"
LET_GO_S = 0.6  # a held key comes again within this: a terminal waits half a second before it repeats the first
REASON = "person"  # in a recording, why a step was not the policy's


class TakeOver:
    """Actions of a person, x, y, z and gripper in [-1, 1]; `speed` is a share of the fastest."""

    def __init__(self, speed: float):
        self.speed, self.is_on, self.gripper = speed, False, 0.0
        self.pushed: dict[int, tuple[float, float]] = {}  # axis → direction, and when it was pushed last, s

    def press(self, key: str, now: float, gripper: float) -> bool:
        """Takes note of a key; whether it was one of these. `gripper` is what it was told last."""
        if key == TAKE:
            self.is_on, self.pushed, self.gripper = not self.is_on, {}, gripper
        elif self.is_on and key in PUSHES:
            axis, direction = PUSHES[key]
            self.pushed[axis] = direction, now
        elif self.is_on and key in GRIPPER:
            self.gripper = GRIPPER[key]
        else:
            return False
        return True

    def action(self, now: float) -> np.ndarray:
        """The action of this step [4]."""
        action = np.array([0.0, 0.0, 0.0, self.gripper], np.float32)
        for axis, (direction, pressed) in self.pushed.items():
            if now - pressed <= LET_GO_S:
                action[axis] = direction * self.speed
        return action
