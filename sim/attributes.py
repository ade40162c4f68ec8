"""Physical attributes of behaviour, measured from MuJoCo's states: of things that walk, and of a hand over a table.

All formulas are ours; docs/attributes.md lists them. A value belongs to a step, from the state before it to the one
after it; NaN says that the step has none. A clip has the mean of its steps that have one.
"""

from collections.abc import Mapping

import mujoco
import numpy as np

AIR_S = 0.05  # a foot that was off the ground for less did not leave it
LEGGED = ("speed", "height", "stride", "contact", "gentleness")
HAND = ("speed", "height", "gentleness")
Measured = dict[str, np.ndarray]  # attribute: [T] float64


class Legged:
    """What a model with a torso and feet shows in each of its states."""

    def __init__(self, model: mujoco.MjModel):
        names = [model.body(i).name for i in range(model.nbody)]
        self.torso = names.index("torso")
        self.feet = [i for i, name in enumerate(names) if "foot" in name]
        self.is_foot = np.isin(model.geom_bodyid, self.feet)
        self.is_ground = model.geom_bodyid == 0
        self.dofs = model.jnt_dofadr[model.actuator_trnid[:, 0]]
        self.is_planar = not (model.jnt_type == mujoco.mjtJoint.mjJNT_FREE).any()

    def look(self, model: mujoco.MjModel, data: mujoco.MjData) -> Mapping[str, np.ndarray]:
        """Places of `torso` [3] and `feet` [F, 3] m, `contact` of each foot [F] bool, joints' `velocity` [J] rad/s."""
        mujoco.mj_fwdPosition(model, data)
        pairs = data.contact.geom  # [C, 2]
        on_ground = pairs[self.is_ground[pairs].any(1)]
        touching = model.geom_bodyid[on_ground[self.is_foot[on_ground]]]
        return {
            "torso": data.xpos[self.torso].copy(),
            "feet": data.xpos[self.feet].copy(),
            "contact": np.isin(self.feet, touching),
            "velocity": data.qvel[self.dofs].copy(),
        }

    def measure(self, seen: Mapping[str, np.ndarray], hz: float) -> Measured:
        """What was seen in T + 1 states, `hz` a second → the attributes of T steps."""
        moved = np.diff(seen["torso"], axis=0)
        return {
            "speed": hz * (moved[:, 0] if self.is_planar else np.linalg.norm(moved[:, :2], axis=1)),
            "height": seen["torso"][1:, 2],
            "stride": strides(seen["feet"], seen["contact"], hz),
            "contact": seen["contact"][1:].mean(1),
            "gentleness": -hz * np.sqrt(np.square(np.diff(seen["velocity"], axis=0)).mean(1)),
        }


def strides(feet: np.ndarray, contact: np.ndarray, hz: float) -> np.ndarray:
    """feet [T+1, F, 3] m, contact [T+1, F] → how far a foot that touches down is from where it last did: [T] m.

    Where both do in one step it is their mean; NaN where none does, or it is a foot's first time.
    """
    found = np.full((len(feet) - 1, feet.shape[1]), np.nan)
    in_air = max(1, round(AIR_S * hz))
    for foot in range(feet.shape[1]):
        last = None
        for t in np.flatnonzero(contact[1:, foot]) + 1:
            if contact[max(0, t - in_air) : t, foot].any() or t < in_air:
                continue
            if last is not None:
                found[t - 1, foot] = np.linalg.norm(feet[t, foot, :2] - feet[last, foot, :2])
            last = t
    known = ~np.isnan(found)
    return np.where(known.any(1), np.nansum(found, 1), np.nan) / np.maximum(known.sum(1), 1)


def measure_hand(position: np.ndarray, velocity: np.ndarray, hz: float) -> Measured:
    """A hand's position [T+1, 3] m and velocity [T+1, 3] m/s, `hz` a second → the attributes of T steps."""
    return {
        "speed": hz * np.linalg.norm(np.diff(position, axis=0), axis=1),
        "height": position[1:, 2],
        "gentleness": -hz * np.linalg.norm(np.diff(velocity, axis=0), axis=1),
    }
