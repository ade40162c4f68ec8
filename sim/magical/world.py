"""The arena's physics, on pymunk: a robot and three pieces of debris, seen from above, which friction brings to rest.

Sizes, masses and forces are those of X-Magical (Zakka et al. 2021, arXiv:2106.03911), which builds on MAGICAL (Toyer et
al. 2020, arXiv:2011.00401); both are under the ISC license. This is written anew, and not bit-equal to them.

A step is a function of positions and velocities alone, so that a state restores to the bit: it begins in a new `Space`,
without the contacts, joint impulses and search tree of the step before, none of which pymunk can set.
"""

import math
from typing import NamedTuple

import numpy as np
import pymunk
from pymunk import Body, Poly, Segment, Shape, ShapeFilter
from pymunk.constraints import Constraint, GearJoint, PivotJoint

from pbrl.types import UserError

ARENA = 1.1  # half a side; lengths are in units of the arena
DEBRIS, COUNT = 0.12 * math.pi**0.5, 3  # side of a piece; pieces
RADIUS = 0.2  # of the robot
STICK_HEIGHT, STICKS = 0.1, {"short-stick": 1.5, "medium-stick": 3.0, "long-stick": 8.0}  # widths, in radii
EMBODIMENTS = ("gripper", *STICKS)
OPEN = math.pi / 8  # rad that each finger opens
FINGER, FINGER_WIDTH, HINGE = 0.26, 0.05, (0.13, 0.15)  # length, width, and where it begins: ahead, aside
CONTROL_HZ, SUBSTEPS = 8, 10
SPEED, TURN = 0.8, 6.0  # a second at an action of 1; rad a second
FORCE, TORQUE = 5.0, 20.0  # at most, of the robot
POSE = 6  # numbers of a body: x, y, angle, and their velocities
WALL = 0.1  # thickness


class Command(NamedTuple):
    """What the robot is told for a step."""

    speed: float  # ahead, a second
    turn: float  # rad a second
    opening: float = 0.0  # rad of each finger


class World:
    """The bodies of an embodiment: robot, debris, and a gripper's left and right finger. Raises UserError."""

    def __init__(self, embodiment: str):
        if embodiment not in EMBODIMENTS:
            raise UserError(f"env.embodiment={embodiment}: it is one of {', '.join(EMBODIMENTS)}")
        self.has_fingers = embodiment == "gripper"
        self.ground, self.driver = Body(body_type=Body.STATIC), Body(body_type=Body.KINEMATIC)
        robot, shape = make_gripper() if self.has_fingers else make_stick(STICKS[embodiment] * RADIUS)
        fingers = [make_finger(side) for side in (1, -1)] if self.has_fingers else []
        debris = [make_debris() for _ in range(COUNT)]
        self.fingers = [body for body, _ in fingers]
        self.bodies = [robot, *(body for body, _ in debris), *self.fingers]  # a shape does not keep its body alive
        self.shapes = [*make_walls(self.ground), shape, *(own for _, own in (*debris, *fingers))]
        self.size = POSE * len(self.bodies)  # of a state

    def advance(self, state: np.ndarray, command: Command) -> np.ndarray:
        """The state [S] after a step from `state` [S]: x, y, angle, and their velocities, of each body."""
        self._place(state)
        heading = self.bodies[0].angle
        self.driver.velocity = (command.speed * math.cos(heading), command.speed * math.sin(heading))
        self.driver.angular_velocity = command.turn
        space = pymunk.Space()
        parts = (self.ground, self.driver, *self.bodies, *self.shapes, *self._joints(command.opening))
        space.add(*parts)
        for _ in range(SUBSTEPS):
            space.step(1 / (CONTROL_HZ * SUBSTEPS))
        space.remove(*parts)
        return self._read()

    def _place(self, state: np.ndarray) -> None:
        for body, (x, y, angle, *velocity, spin) in zip(self.bodies, state.reshape(-1, POSE).tolist(), strict=True):
            Body.update_position(body, 0.0)  # forgets how overlaps were about to be mended
            body.position, body.angle, body.velocity, body.angular_velocity = (x, y), angle, velocity, spin
        self.driver.position, self.driver.angle = self.bodies[0].position, self.bodies[0].angle

    def _read(self) -> np.ndarray:
        return np.array([(*b.position, b.angle, *b.velocity, b.angular_velocity) for b in self.bodies]).ravel()

    def _joints(self, opening: float) -> list[Constraint]:
        """What moves the robot, slows the debris and holds the fingers: made anew, since joints keep impulses."""
        robot, rest = self.bodies[0], self.bodies[1 : 1 + COUNT]
        found = couple(self.driver, robot, FORCE, TORQUE)
        for piece in rest:
            found += couple(self.ground, piece, 1.5, 0.1)
        for side, finger in zip((1, -1), self.fingers, strict=False):
            hold = GearJoint(robot, finger, side * opening, 1.0)
            hold.max_force, hold.max_bias = 1.0, 3.0
            found += [PivotJoint(robot, finger, (HINGE[0], side * HINGE[1]), (0, 0)), hold]
        return found


def couple(a: Body, b: Body, force: float, torque: float) -> list[Constraint]:
    """Joints that bring the velocities of b to those of a, with a force and a torque at most."""
    linear, angular = PivotJoint(a, b, (0, 0), (0, 0)), GearJoint(a, b, 0.0, 1.0)
    linear.max_bias = angular.max_bias = 0.0
    linear.max_force, angular.max_force = force, torque
    return [linear, angular]


def make_stick(width: float) -> tuple[Body, Shape]:
    """A robot that is a stick across its heading, which is the x axis of its body."""
    return make_box((STICK_HEIGHT, width), mass=1.0)


def make_gripper() -> tuple[Body, Shape]:
    """A robot that is a disc; its fingers are bodies of their own."""
    body = Body(1.0, pymunk.moment_for_circle(1.0, 0.0, RADIUS))
    shape = pymunk.Circle(body, RADIUS)
    shape.friction, shape.filter = 0.5, ShapeFilter(group=1)
    return body, shape


def make_finger(side: int) -> tuple[Body, Shape]:
    """A finger that begins at its hinge and points ahead; `side` is 1 on the left, -1 on the right."""
    corners = finger_corners(side)
    body = Body(0.05, pymunk.moment_for_poly(0.05, corners))
    shape = Poly(body, corners)
    shape.friction, shape.filter = 5.0, ShapeFilter(group=1)
    return body, shape


def finger_corners(side: int) -> list[tuple[float, float]]:
    return [(0, 0), (FINGER, 0), (FINGER, side * FINGER_WIDTH), (0, side * FINGER_WIDTH)]


def make_debris() -> tuple[Body, Shape]:
    """A square piece."""
    return make_box((DEBRIS, DEBRIS), mass=0.01)


def make_box(size: tuple[float, float], mass: float) -> tuple[Body, Shape]:
    body = Body(mass, pymunk.moment_for_box(mass, size))
    shape = Poly.create_box(body, size)
    shape.friction = 0.5
    return body, shape


def make_walls(ground: Body) -> list[Shape]:
    """Around the arena."""
    far = ARENA + WALL
    corners = [(-far, -far), (far, -far), (far, far), (-far, far)]
    return [Segment(ground, a, b, WALL) for a, b in zip(corners, corners[1:] + corners[:1], strict=True)]
