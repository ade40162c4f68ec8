"""Tasks with a rope and a cloth, on MuJoCo's flex: straighten the rope; fold the cloth in half.

The gripper holds what is deformable as a picker does, not by friction (SoftGym, Lin et al. 2020, arXiv:2011.07215):
while it is less than `CLOSED_M` open, the vertex nearest to the tool is bound to it if it is within `PICK_M`, and the
fingers themselves touch neither rope nor cloth. Which vertex is bound follows from positions alone: a saved state needs
nothing more to go on bit for bit.
"""

from typing import Any

import mujoco
import numpy as np

from sim.tabletop.task import Task, proximity

CLOSED_M = 0.03  # the gripper's width from which on it holds
PICK_M = 0.025  # from the tool to a vertex that it picks
TOUCHED_BY_TABLE = 2  # bit of contacts of a rope or a cloth: with the table, not with the arm


class Deformable(Task):
    """A task with one flex whose vertices are bodies `v0`, `v1`, … of `mass_kg` together; subclasses give its shape."""

    has_goal = False
    centre = (0.46, 0.0, 0.06)
    views = {"front": (1.02, 0.3, 0.55), "side": (0.5, -0.72, 0.42)}  # nearer: what matters lies flat on the table
    timestep_s = 0.005
    settle_steps = 40
    vertices: int
    mass_kg: float

    def add_flex(self, spec: Any, dim: int, elements: np.ndarray, rest: np.ndarray, **settings: Any) -> Any:
        """Adds vertices, a picker for each, and the flex with `elements` [E, dim + 1]; at rest they lie at [V, 3]."""
        mass = self.mass_kg / self.vertices
        for i, position in enumerate(rest):
            body = spec.worldbody.add_body(
                name=f"v{i}", pos=position, mass=mass, inertia=[mass * 1e-4] * 3, explicitinertial=True
            )
            for axis, direction in zip("xyz", np.eye(3), strict=True):
                body.add_joint(name=f"v{i}_{axis}", type=mujoco.mjtJoint.mjJNT_SLIDE, axis=direction)
            body.add_site(name=f"v{i}", size=[0.001] * 3, rgba=[0, 0, 0, 0])
            spec.add_equality(
                name=f"pick{i}",
                type=mujoco.mjtEq.mjEQ_CONNECT,
                objtype=mujoco.mjtObj.mjOBJ_SITE,
                name1=f"v{i}",
                name2="tcp",
                active=False,
            )
        spec.worldbody.add_geom(  # on the table, whose box would have one contact for a whole triangle, and shake it
            name="surface",
            type=mujoco.mjtGeom.mjGEOM_PLANE,
            size=[0.6, 0.6, 0.1],
            contype=0,
            conaffinity=TOUCHED_BY_TABLE,
            rgba=[0, 0, 0, 0],
        )
        flex = spec.add_flex(
            name="flex",
            dim=dim,
            vertbody=[f"v{i}" for i in range(self.vertices)],
            elem=elements.ravel().tolist(),
            contype=TOUCHED_BY_TABLE,
            conaffinity=0,
            selfcollide=mujoco.mjtFlexSelf.mjFLEXSELF_NONE,
            internal=False,
            **settings,
        )
        spec.add_equality(name="edges", type=mujoco.mjtEq.mjEQ_FLEX, name1="flex", solref=[2 * self.timestep_s, 1])
        return flex

    def observed(self, obs: np.ndarray) -> np.ndarray:
        """The keypoints [K, 3] m in an observation [O]."""
        return obs[7 : 7 + 3 * len(self.points)].reshape(-1, 3)

    def place(self, data: mujoco.MjData, positions: np.ndarray) -> None:
        """Puts the vertices at positions [V, 3] m."""
        model = data.model
        first = model.joint("v0_x").qposadr[0]
        rest = model.body_pos[model.body("v0").id :][: self.vertices]
        data.qpos[first : first + positions.size] = (positions - rest).ravel()

    def grasp(self, data: mujoco.MjData, width: float) -> None:
        model = data.model
        first_body, first_pick = model.body("v0").id, model.equality("pick0").id
        data.eq_active[first_pick : first_pick + self.vertices] = 0
        if width < CLOSED_M:
            vertices = data.xpos[first_body : first_body + self.vertices]
            distances = np.linalg.norm(vertices - data.site("tcp").xpos, axis=1)
            nearest = int(np.argmin(distances))
            data.eq_active[first_pick + nearest] = distances[nearest] < PICK_M


class Rope(Deformable):
    """A rope that lies bent on the table is straightened.

    It is 31 cm long and 1.6 cm thick, of 15 vertices; every second one is observed. Success: its ends are at least 95 %
    of its length apart, and no observed point is farther than 2 cm from the line through both.
    """

    instruction = "straighten the rope"
    vertices = 15
    mass_kg = 0.06
    pitch = 0.022  # m, between vertices
    radius = 0.008  # m
    length = pitch * (vertices - 1)
    points = tuple(f"v{i}" for i in range(0, vertices, 2))

    def build(self, spec: Any) -> None:
        elements = np.stack([np.arange(self.vertices - 1), np.arange(1, self.vertices)], axis=1)
        along = self.pitch * (np.arange(self.vertices) - (self.vertices - 1) / 2)
        rest = np.stack([np.full(self.vertices, 0.5), along, np.full(self.vertices, self.radius)], axis=1)
        self.add_flex(
            spec, 1, elements, rest, radius=self.radius, friction=[0.8, 0.01, 0.0001], rgba=[0.15, 0.35, 0.8, 1]
        )

    def start(self, data: mujoco.MjData, random: np.random.Generator) -> None:
        self.place(data, self._sample_shape(random))

    def _sample_shape(self, random: np.random.Generator) -> np.ndarray:
        """Vertices [V, 3] m along a bent curve that crosses itself nowhere, drawn until there is one."""
        along = np.linspace(0, 1, self.vertices - 1)
        while True:
            bends = random.uniform(-2.2, 2.2, 3)
            heading = random.uniform(-np.pi, np.pi) + sum(
                bend * np.cos(np.pi * (i + 1) * along) for i, bend in enumerate(bends)
            )
            steps = self.pitch * np.stack([np.cos(heading), np.sin(heading)], axis=1)
            curve = np.concatenate([np.zeros((1, 2)), np.cumsum(steps, axis=0)])
            curve += random.uniform([0.49, -0.1], [0.56, 0.1]) - (curve.min(0) + curve.max(0)) / 2
            apart = np.linalg.norm(curve[:, None] - curve, axis=-1)
            far = apart[np.triu_indices(self.vertices, 3)].min()
            if far > 2.5 * self.radius and 0.3 < apart[0, -1] / self.length < 0.75 and _on_table(curve):
                return np.append(curve, np.full((self.vertices, 1), self.radius), axis=1)

    def evaluate(self, obs: np.ndarray) -> tuple[float, bool]:
        points = self.observed(obs)
        apart, bent = straightness(points)
        reach = min(np.linalg.norm(obs[:3] - points[0]), np.linalg.norm(obs[:3] - points[-1]))
        reward = 0.1 * proximity(reach) + 0.9 * min(apart / self.length, 1.0)
        return reward, bool(apart > 0.95 * self.length and bent < 0.02)


class Cloth(Deformable):
    """A square cloth is folded in half: one edge, whichever, comes onto the opposite one.

    It has sides of 24 cm and 9 x 9 vertices; of the 3 x 3 that are observed the outer ones are corners and the middles
    of edges. Success: both corners of the moved edge are within 3 cm of those that they shall meet, the half that is
    kept is spread over at least 90 % of its area, and nothing is higher than 3 cm.

    The edges do not stretch. Bending stiffness keeps an edge that hangs by its middle open; more of it than this makes
    steps of 5 ms unstable. There is no contact of the cloth with itself, so that the upper half lies in the lower one.
    """

    instruction = "fold the cloth in half"
    rows = 9  # of vertices, and as many in each
    vertices = rows**2
    mass_kg = 0.05
    side = 0.24  # m
    radius = 0.004  # m
    bending = {
        "young": 4e4,
        "poisson": 0.1,
        "thickness": 0.004,
        "damping": 0.01,
        "elastic2d": 1,
    }  # Pa, -, m, s, bending
    points = tuple(f"v{9 * i + j}" for i in (0, 4, 8) for j in (0, 4, 8))

    def build(self, spec: Any) -> None:
        option = spec.option  # half the time that Newton's method takes
        option.cone, option.impratio, option.solver = mujoco.mjtCone.mjCONE_PYRAMIDAL, 1, mujoco.mjtSolver.mjSOL_CG
        corner = np.arange(self.vertices).reshape(self.rows, self.rows)
        a, b, c, d = (corner[i : i + 8, j : j + 8].ravel() for i, j in ((0, 0), (0, 1), (1, 0), (1, 1)))
        even = (np.add(*np.divmod(np.arange(a.size), 8)) % 2 == 0)[
            :, None
        ]  # diagonals in turn: no direction is stiffer
        one = np.where(even, np.stack([a, b, d], 1), np.stack([a, b, c], 1))
        two = np.where(even, np.stack([a, d, c], 1), np.stack([b, d, c], 1))
        rest = self._grid() + [0.47, 0, 0]
        look = {"radius": self.radius, "friction": [0.8, 0.01, 0.0001], "rgba": [0.8, 0.3, 0.3, 1]}
        self.add_flex(spec, 2, np.concatenate([one, two]), rest, **look, **self.bending)

    def _grid(self) -> np.ndarray:
        """Vertices [V, 3] m of the flat cloth, row by row from its edge at +y, about its middle."""
        along = np.linspace(-self.side / 2, self.side / 2, self.rows)
        y, x = np.meshgrid(-along, along, indexing="ij")
        return np.stack([x, y, np.full_like(x, self.radius)], axis=-1).reshape(-1, 3)

    def start(self, data: mujoco.MjData, random: np.random.Generator) -> None:
        yaw, middle = random.uniform(-0.4, 0.4), random.uniform([0.46, -0.05], [0.52, 0.05])
        turn = np.array([[np.cos(yaw), np.sin(yaw), 0], [-np.sin(yaw), np.cos(yaw), 0], [0, 0, 1]])
        self.place(data, self._grid() @ turn + [*middle, 0])

    def evaluate(self, obs: np.ndarray) -> tuple[float, bool]:
        points = self.observed(obs).reshape(3, 3, 3)
        best, success = 0.0, False
        for turns in range(4):
            gaps, spread = fold(np.rot90(points, turns))
            spread /= self.side**2 / 2
            best = max(best, float(np.clip(1 - gaps / self.side, 0, 1).mean()) * min(max(spread, 0.0), 1.0))
            success |= bool(gaps.max() < 0.03 and spread > 0.9 and points[..., 2].max() < 0.03)
        reach = np.linalg.norm(points.reshape(-1, 3) - obs[:3], axis=1).min()
        return 0.1 * proximity(reach) + 0.9 * best, success


def fold(points: np.ndarray) -> tuple[np.ndarray, float]:
    """Of a cloth's points [3, 3, 3] m: distances [2] of the first row's corners from the last one's, m, and the area of
    the kept half, from the middle row to the last, seen from above, m².
    """
    gaps = np.linalg.norm(points[0, [0, 2]] - points[2, [0, 2]], axis=1)
    outline = np.concatenate([points[1], points[2, ::-1]])[:, :2]
    ahead = np.roll(outline, -1, axis=0)
    area = 0.5 * float((outline[:, 0] * ahead[:, 1] - outline[:, 1] * ahead[:, 0]).sum())
    return gaps, abs(area)


def straightness(points: np.ndarray) -> tuple[float, float]:
    """How far the ends of a line through points [K, 3] are apart, and how far it is from straight at most: m."""
    line = points[-1] - points[0]
    apart = float(np.linalg.norm(line))
    across = np.cross(points - points[0], line / max(apart, 1e-9))
    return apart, float(np.linalg.norm(across, axis=1).max())


def _on_table(curve: np.ndarray) -> bool:
    return bool((curve > [0.4, -0.3]).all() and (curve < [0.66, 0.3]).all())
