"""Behaviours whose episodes make data that is neither hopeless nor solved.

Scripted experts are corrupted by action noise, by an offset on the objects' positions in their observation, or by
random actions held for a while; the mixed recipe also rolls out experts for the wrong goal and of other tasks (IPL's
data, Hejna & Sadigh 2023, arXiv:2305.15363). Every behaviour draws from the episode's seed alone.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from pbrl.ranges import Count, NotNegative, Share
from pbrl.types import Environment, UserError

SALT = 20  # keeps a behaviour's draws apart from the environment's, which come from the same seed


class Behaviour:
    """Acts for several environments, each with its own expert and its own random numbers. Subclasses define `choose`.

    `strength` is how strongly the expert is corrupted, in the behaviour's own unit: 0 is the expert itself, and
    `max_strength` is the largest that calibration to a target success tries. `noise` is the standard deviation of
    Gaussian noise that is added to every action.
    """

    name = "expert"
    max_strength = 4.0

    def __init__(self, *, strength: NotNegative | None = None, noise: NotNegative = 0.0):
        self.strength, self.noise = strength or 0.0, noise

    def start(self, envs: Sequence[Environment], seeds: Sequence[int]) -> None:
        """Begins an episode in each environment, which was reset with its seed."""
        self.envs = envs
        self.random = [np.random.default_rng([seed, SALT]) for seed in seeds]
        self.size = envs[0].action_space.shape[0]
        self.begin()

    def begin(self) -> None:
        """Makes what an episode needs besides random numbers. Raises UserError where the environment lacks it."""
        self.experts = [self.make_expert(env) for env in self.envs]

    def make_expert(self, env: Environment, **style: float) -> Any:
        """The environment's scripted expert, perhaps in a style. Raises UserError where it has none."""
        if env.expert is None:
            raise UserError(
                f"data={self.name} needs a scripted expert, and this environment has none: choose data=medium_replay, "
                "data=medium or data=random, or bring your own, with env=gymnasium env.expert=my_package:my_expert"
            )
        return env.expert(**style)

    def act(self, obs: np.ndarray, running: np.ndarray) -> np.ndarray:
        """running [N] bool → actions [N, A] in [-1, 1]."""
        actions = np.zeros((len(running), self.size), np.float32)
        for i in np.flatnonzero(running):
            noise = self.noise * self.random[i].standard_normal(self.size)
            actions[i] = np.clip(np.clip(self.choose(i), -1, 1) + noise, -1, 1)
        return actions

    def choose(self, i: int) -> np.ndarray:
        """The action of environment i before the common action noise."""
        return self.experts[i].act(self.envs[i].full_obs)

    def looks(self) -> bool:
        """Never: experts observe states."""
        return False

    def source(self, i: int) -> str:
        """The behaviour's name, with what was drawn for the episode."""
        return self.name


class Noise(Behaviour):
    """The expert with Gaussian action noise of standard deviation `strength`, before clipping."""

    name = "noise"

    def choose(self, i: int) -> np.ndarray:
        return super().choose(i) + self.strength * self.random[i].standard_normal(self.size)


class Offset(Behaviour):
    """The expert observes every object displaced: a calibration error, drawn anew with probability 1 / `hold` a step.

    The displacement is `strength` (metres) times a standard normal vector plus `bias`, which all draws share. Without a
    bias the errors cancel out over the data, and plain cloning of it is nearly perfect. With `hold` null an episode
    keeps its error, is good or bad as a whole, and cloning the best ones is nearly perfect.
    """

    name = "offset"
    max_strength = 0.3

    def __init__(
        self, *, bias: list[float], hold: float | None, strength: NotNegative | None = None, noise: NotNegative = 0.0
    ):
        super().__init__(strength=strength, noise=noise)
        self.bias, self.hold = np.array(bias), hold
        if hold is not None and hold < 1:
            raise UserError(f"data.behaviour.hold={hold}: an error stays for at least one step; null: for the episode")

    def begin(self) -> None:
        super().begin()
        if not self.experts[0].objects:
            raise UserError(
                "data=offset displaces objects in the expert's observation, and this expert names none: choose "
                "data=noise or data=holds, or say where they are, as in env.objects=[[4,7]]"
            )
        self.shift = [self.draw(i) for i in range(len(self.envs))]

    def draw(self, i: int) -> np.ndarray:
        """A displacement [3] in metres."""
        return self.strength * (self.random[i].standard_normal(3) + self.bias)

    def choose(self, i: int) -> np.ndarray:
        if self.hold is not None and self.random[i].random() < 1 / self.hold:
            self.shift[i] = self.draw(i)
        displaced = self.envs[i].full_obs.copy()
        for place in self.experts[i].objects:
            displaced[place] += self.shift[i][: len(displaced[place])]  # in the plane, two of the three
        return self.experts[i].act(displaced)


class Holds(Behaviour):
    """The expert, interrupted: time is cut into stretches of `steps` steps, and in a share `strength` of them a random
    action is held throughout."""

    name = "holds"
    max_strength = 1.0

    def __init__(self, *, steps: Count, strength: NotNegative | None = None, noise: NotNegative = 0.0):
        super().__init__(strength=strength, noise=noise)
        self.steps = steps

    def begin(self) -> None:
        super().begin()
        self.left = [0] * len(self.envs)
        self.held: list[np.ndarray | None] = [None] * len(self.envs)

    def choose(self, i: int) -> np.ndarray:
        if self.left[i] == 0:
            self.left[i] = self.steps
            interrupted = self.random[i].random() < self.strength
            self.held[i] = self.random[i].uniform(-1, 1, self.size) if interrupted else None
        self.left[i] -= 1
        held = self.held[i]
        return super().choose(i) if held is None else held


class Styles(Behaviour):
    """The expert, in each episode in one of several `styles`: settings of environments whose expert has a `style`.

    A setting is a number, or [least, greatest], between which one is drawn uniformly for each episode.
    """

    name = "styles"

    def __init__(self, *, styles: Sequence[Mapping[str, float | list[float]]], noise: NotNegative = 0.0):
        super().__init__(noise=noise)
        self.styles = [dict(style) for style in styles]
        if not self.styles:
            raise UserError("data.behaviour.styles names at least one: data.behaviour.styles=[{speed:0.4},{speed:1}]")
        ranges = [value for style in self.styles for value in style.values() if not isinstance(value, (int, float))]
        if any(len(value) != 2 or not value[0] <= value[1] for value in ranges):
            raise UserError("data.behaviour.styles has numbers and ranges: [{speed:[0.4,1.0],height:0.1}]")

    def begin(self) -> None:
        super().begin()
        if self.envs[0].style is None:
            raise UserError("data=styles needs an expert that has styles, as env=franka/… has: choose data=expert")
        self.drawn = [self.draw(random) for random in self.random]
        self.experts = [self.make_expert(env, **style) for env, style in zip(self.envs, self.drawn, strict=True)]

    def draw(self, random: np.random.Generator) -> dict[str, float]:
        """A style for an episode."""
        style = self.styles[random.integers(len(self.styles))]
        drawn = {}
        for name, value in style.items():
            low, high = (value, value) if isinstance(value, (int, float)) else value
            drawn[name] = float(random.uniform(low, high) if high > low else low)
        return drawn

    def source(self, i: int) -> str:
        return f"{self.name}: " + ", ".join(f"{name}={value:.3g}" for name, value in self.drawn[i].items())


class Random(Behaviour):
    """Uniform actions."""

    name = "random"

    def begin(self) -> None:
        """Needs no expert."""

    def choose(self, i: int) -> np.ndarray:
        return self.random[i].uniform(-1, 1, self.size)


class Waves(Behaviour):
    """Each action is a sine of time, whose frequency (one for the episode), size, phase and middle are drawn at random.

    So episodes differ in speed, height and gentleness without an expert or training. `low_hz` to `high_hz` is where the
    frequency lies; the size is up to `size`, the same for the whole episode.
    """

    name = "waves"

    def __init__(self, *, low_hz: NotNegative, high_hz: NotNegative, size: Share, noise: NotNegative = 0.0):
        super().__init__(noise=noise)
        if not low_hz <= high_hz:
            raise UserError(f"data.behaviour.low_hz={low_hz} lies above high_hz={high_hz}")
        self.low_hz, self.high_hz, self.most = low_hz, high_hz, size

    def begin(self) -> None:
        """Needs no expert."""
        self.take([random.random(self.count_parameters(self.size)) for random in self.random])

    @staticmethod
    def count_parameters(size: int) -> int:
        """How many numbers describe a wave of `size` actions: frequency, size, and of each action phase and middle."""
        return 2 + 2 * size

    def take(self, parameters: Sequence[np.ndarray]) -> None:
        """Begins, for each environment, the wave that its parameters in [0, 1] describe."""
        self.step = [0] * len(self.envs)
        self.hz = [self.low_hz + (self.high_hz - self.low_hz) * own[0] for own in parameters]
        self.wave = [self.most * own[1] for own in parameters]
        self.phase = [2 * np.pi * own[2 : 2 + self.size] for own in parameters]
        self.middle = [own[2 + self.size :] - 0.5 for own in parameters]

    def choose(self, i: int) -> np.ndarray:
        angle = 2 * np.pi * self.hz[i] * self.step[i] / self.envs[i].control_hz + self.phase[i]
        self.step[i] += 1
        return self.middle[i] + self.wave[i] * np.sin(angle)

    def source(self, i: int) -> str:
        return f"{self.name}: {self.hz[i]:.2g} Hz, size={self.wave[i]:.2g}"


class Mixed(Behaviour):
    """A quarter each, in turn by seed: the expert, the expert for another goal, another task's expert, random actions.

    The second and third act in a second simulator, and the same actions are applied here.
    """

    name = "mixed"
    kinds = ("right goal", "wrong goal", "other task", "random")

    def begin(self) -> None:
        super().begin()
        self.kind = [self.kinds[random.integers(4)] for random in self.random]
        self.doubles: list[Any] = []
        for env, random, kind in zip(self.envs, self.random, self.kind, strict=True):
            double = None
            if env.double is None:
                raise UserError("data=mixed needs a second simulator, as env=metaworld/… makes one: choose data=noise")
            if kind in ("wrong goal", "other task"):
                double = env.double(random if kind == "other task" else None)
                double.reset(seed=int(random.integers(2**31)))
            self.doubles.append(double)
        self.others = [double and double.expert() for double in self.doubles]

    def choose(self, i: int) -> np.ndarray:
        if self.kind[i] == "right goal":
            return super().choose(i)
        if self.kind[i] == "random":
            return self.random[i].uniform(-1, 1, self.size)
        action = np.clip(self.others[i].act(self.doubles[i].full_obs), -1, 1)
        self.doubles[i].step(action)
        return action

    def source(self, i: int) -> str:
        return f"{self.name}: {self.kind[i]}"
