"""A world small enough for tests, with the interface of `sim`: a point that should come to rest at the origin.

The data that `episodes` makes goes towards the origin half of the time and away from it otherwise, so that its clone
stays where it is, while a policy that learns from preferences walks to the origin.
"""

import gymnasium as gym
import numpy as np
import torch
from gymnasium.spaces import Box

from pbrl.data.table import Table
from pbrl.types import Episode, Observation
from sim.view_change import UNCHANGED, ViewChange


class Point(gym.Env):
    """Position [2] in [-2, 2]; an action moves it by a tenth. Reward: 2 - distance. Success: within `goal_radius`."""

    name, instruction = "tests/point", ""
    has_success = can_restore = True
    control_hz = 10.0
    cameras, style, double = ("above",), None, None
    observation_space = Box(-2, 2, (2,), np.float32)
    action_space = Box(-1, 1, (2,), np.float32)
    action_bounds = action_space.low, action_space.high
    attributes = ("speed", "right", "turn")
    renders = True
    view_change = UNCHANGED
    task = "point"

    def __init__(
        self, *, horizon: int = 30, terminates: bool = False, goal_radius: float = 0.3, images=(), image_size: int = 64
    ):
        self.horizon, self.terminates, self.goal_radius = horizon, terminates, goal_radius
        self.images, self.image_size = tuple(images), image_size

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.episode_seed = int(self.np_random.integers(2**31)) if seed is None else int(seed)
        angle = np.random.default_rng(self.episode_seed).uniform(0, 2 * np.pi)
        self.position, self.t = np.array([np.cos(angle), np.sin(angle)]), 0
        return self._obs(), {"success": False}

    def step(self, action):
        self.position = np.clip(self.position + 0.1 * np.clip(action, -1, 1), -2, 2)
        self.t += 1
        distance = float(np.linalg.norm(self.position))
        terminated = self.terminates and distance > 1.9
        return (
            self._obs(),
            2.0 - distance,
            terminated,
            self.t >= self.horizon and not terminated,
            {"success": distance < self.goal_radius},
        )

    def save_state(self):
        return self.position.copy()

    def restore(self, episode_seed, state, t=0):
        self.episode_seed, self.position, self.t = episode_seed, np.array(state), t
        return self._obs()

    def measure(self, episode_seed, states):
        """m/s; how far right of the origin; where it crosses from one side to the other, how far up."""
        after = states[1:]
        crosses = np.sign(states[:-1, 0]) != np.sign(after[:, 0])
        return {
            "speed": self.control_hz * np.linalg.norm(np.diff(states, axis=0), axis=1),
            "right": after[:, 0],
            "turn": np.where(crosses, after[:, 1], np.nan),
        }

    def keypoints(self, episode_seed, states):
        place = np.pad(states, [(0, 0), (0, 1)])
        return {"point": place, "origin": np.zeros_like(place)}

    def render(self, width=64, height=64, camera=None):
        """The point, and above it the step in eight bits, so that a picture says when it is of."""
        image = np.full((height, width, 3), 128, np.uint8)
        for bit in range(8):
            left = slice(bit * width // 8, (bit + 1) * width // 8)
            image[: height // 8, left] = 255 if self.t >> bit & 1 else 0
        x, y = ((self.position + 2) / 4 * (width - 9, height - 9)).astype(int)
        image[y : y + 8, x : x + 8] = (200, 80, 40)
        return self.view_change.recolor(np.rot90(image, round(self.view_change.turn_deg / 90)))

    def render_at(self, episode_seed, state, t=0, *, width, height, camera=None):
        self.restore(episode_seed, state, t)
        return self.render(width, height, camera)

    def change_view(self, *, turn_deg=0.0, light=(1.0, 1.0, 1.0)):
        self.view_change = ViewChange(turn_deg, light)

    def _obs(self):
        state = self.position.astype(np.float32)
        if not self.images:
            return state
        shown = self.images if self.renders else ()
        return {"state": state, "images": {name: self.render(self.image_size, self.image_size) for name in shown}}

    @property
    def full_obs(self):
        return self.position

    def expert(self):
        return Homing()


class Homing:
    """Walks to the origin. `objects` is what an offset displaces: nothing but where the walker takes itself to be."""

    objects: tuple = ()

    def act(self, obs):
        return np.clip(-5 * obs, -1, 1)


class Weaver:
    """Towards the origin or away from it, by the episode's seed, with noise."""

    def start(self, envs, seeds):
        self.envs = envs
        self.random = [np.random.default_rng([seed, 3]) for seed in seeds]
        self.sign = [1.0 if r.random() < 0.5 else -1.0 for r in self.random]

    def act(self, obs, running):
        homing = [env.expert().act(env.position) for env in self.envs]
        return np.stack(
            [s * a + 0.3 * r.standard_normal(2) for s, a, r in zip(self.sign, homing, self.random, strict=True)]
        ).astype(np.float32)

    def looks(self):
        return False

    def source(self, i):
        return "weaver"


def episodes(count: int = 60, terminates: bool = False) -> list[Episode]:
    from pbrl.data.rollout import rollout

    return rollout([Point(terminates=terminates) for _ in range(10)], Weaver(), range(count))


def table(count: int = 60, terminates: bool = False) -> Table:
    return Table(episodes(count, terminates))


def distance_after(policy, steps: int = 30) -> float:
    """Mean distance from the origin after following a policy from the start of an episode."""
    position = torch.tensor(
        [[np.cos(a), np.sin(a)] for a in np.linspace(0, 2 * np.pi, 16, endpoint=False)], dtype=torch.float32
    )
    policy.reset()
    for _ in range(steps):
        position = (position + 0.1 * policy.act(Observation(position))).clamp(-2, 2)
    return position.norm(dim=1).mean().item()


def forks(count: int = 60, steps: int = 12) -> list[Episode]:
    """Episodes that pass a pillar in the middle of a road, half of them on its left and half on its right.

    Observed are the place across the road and along it, [-1, 1] both; the action is the speed across. What is decided
    at the start shows nowhere in the first observation.
    """
    made = []
    for seed in range(count):
        random = np.random.default_rng([seed, 7])
        side, place, obs, actions = (-1.0, 1.0)[seed % 2], random.normal(0, 0.02), [], []
        for t in range(steps):
            obs.append([place, 2 * t / steps - 1])
            actions.append([np.clip(side * 0.8 - place + 0.05 * random.standard_normal(), -1, 1)])
            place = place + 0.2 * actions[-1][0]
        obs.append([place, 1.0])
        ones = np.ones(steps, np.float32)
        made.append(Episode(seed, np.array(obs, np.float32), np.array(actions, np.float32), ones, False))
    return made


def share_past_the_pillar(policy, steps: int = 12, count: int = 100, width: float = 0.3) -> tuple[float, float]:
    """Of roll-outs from the start of a fork: the share that is beside the pillar half-way, and that which is left."""
    random = np.random.default_rng(11)
    place = torch.from_numpy(random.normal(0, 0.02, count)).float()
    policy.reset()
    for t in range(steps // 2):
        along = torch.full_like(place, 2 * t / steps - 1)
        place = place + 0.2 * policy.act(Observation(torch.stack([place, along], 1)))[:, 0]
    return (place.abs() > width).float().mean().item(), (place < -width).float().mean().item()
