"""One simulator in which a planner acts at the robot's rate, while requests change its targets between two actions."""

import time
from collections import deque
from threading import Event, Lock
from typing import Any

import numpy as np

from pbrl.data.rollout import state_of, to_observation
from pbrl.models.attributes import read_strengths
from pbrl.models.planner import Planner, Targets
from pbrl.steering.words import read_sentence
from pbrl.types import Environment, UserError
from pbrl.vlm.pictures import encode

WIDTH, HEIGHT, FPS = 480, 360, 25  # of the picture in pixels, and frames a second at most
NUMBERS_HZ = 5  # how often a second strengths are read and measured
LATE_S = 0.5  # the delay that is caught up: while it plans, it does not act


class Player:
    """A planner in an environment, episode after episode; episode n begins with `seed` + n.

    `mirror` is another environment of the same settings, which measures; None where nothing is measured. `tick` and
    `run` belong to the thread that made the environments, all else to any.
    """

    def __init__(self, env: Environment, mirror: Environment | None, policy: Planner, targets: Targets, *, seed: int):
        self.env, self.mirror, self.policy = env, mirror, policy
        self.lock, self.stopped = Lock(), Event()
        self.targets: dict[str, float | None] = dict.fromkeys(policy.attributes)
        self.seed, self.next_seed = seed, seed
        self.is_paused = self.is_planned = False  # is_planned: the planner knows these targets
        self.begins = True
        self.picture: bytes | None = None  # JPEG
        self.no_picture = ""  # why there is none
        self.step = 0
        self.rate: float | None = None  # steps a second, lately
        self.read: dict[str, float] = {}
        self.measured: dict[str, float] = {}
        window = policy.strengths.context + 1
        self.obs: deque[np.ndarray] = deque(maxlen=window)  # of the last steps, which are read and measured
        self.states: deque[np.ndarray | None] = deque(maxlen=window)
        self.times: deque[float] = deque(maxlen=max(8, round(2 * env.control_hz)))  # s, of the last steps
        self.ask(targets)

    # Requests

    def ask(self, changes: Targets) -> None:
        """Changes targets; None is any. Raises UserError for an attribute that the planner lacks."""
        within = self.policy.check_targets(changes)
        with self.lock:
            self.targets |= {name: within.get(name) for name in changes}
            self.is_planned = False

    def say(self, sentence: str) -> dict[str, float | None]:
        """Changes targets as a sentence says; returns these. Raises UserError where it is not understood."""
        changes = read_sentence(sentence, self.policy.attributes, self.targets)
        self.ask(changes)
        return changes

    def start_again(self, seed: int) -> None:
        """Begins the episode of that seed."""
        with self.lock:
            self.next_seed, self.begins = seed, True

    def pause(self, is_paused: bool) -> None:
        """Stops acting, or goes on."""
        self.is_paused = is_paused

    def stop(self) -> None:
        """Ends `run`, and films of it."""
        self.stopped.set()

    def state(self) -> dict[str, Any]:
        """What is asked for, read and measured, and where it is in the episode."""
        return {
            "targets": self.targets,
            "read": self.read,
            "measured": self.measured,
            "seed": self.seed,
            "step": self.step,
            "paused": self.is_paused,
            "rate": self.rate,
            "no_picture": self.no_picture,
        }

    # The simulator

    def run(self) -> None:
        """Acts at the environment's rate, or as fast as it can, until it is stopped."""
        due = time.monotonic()
        while not self.stopped.is_set():
            self.tick()
            now = time.monotonic()
            due = max(due + 1 / self.env.control_hz, now - LATE_S)
            self.stopped.wait(max(0.0, due - now))

    def tick(self) -> None:
        """Does what was requested, and a step unless it is paused."""
        with self.lock:
            begins, self.begins, seed = self.begins, False, self.next_seed
            targets = None if self.is_planned else dict(self.targets)
            self.next_seed, self.is_planned = seed + begins, True
        if targets is not None:
            self.policy.set_targets(targets)
        if begins:
            self._begin(seed)
        if self.is_paused:
            self.times.clear()
        else:
            self._act()

    def _begin(self, seed: int) -> None:
        self.seed, self.step = seed, 0
        self.policy.reset()
        obs, _ = self.env.reset(seed=self.seed)
        self.obs.clear()
        self.states.clear()
        self.read, self.measured = {}, {}
        self._remember(obs)
        self._show()

    def _act(self) -> None:
        action = self.policy.act(to_observation(self.obs[-1][None]))[0].numpy()
        obs, _, terminated, truncated, _ = self.env.step(action)
        self.step += 1
        self._remember(obs)
        if self.step % max(1, round(self.env.control_hz / FPS)) == 0:
            self._show()
        if self.step % max(1, round(self.env.control_hz / NUMBERS_HZ)) == 0:
            self._examine()
        self._count()
        if terminated or truncated:
            with self.lock:
                self.begins = True

    def _count(self) -> None:
        self.times.append(time.monotonic())
        took_s = self.times[-1] - self.times[0]
        self.rate = (len(self.times) - 1) / took_s if len(self.times) > 2 and took_s > 0 else None

    def _remember(self, obs: Any) -> None:
        self.obs.append(state_of(obs).astype(np.float32))
        self.states.append(self.env.save_state())

    def _show(self) -> None:
        if self.no_picture:
            return
        try:
            self.picture = encode(self.env.render(width=WIDTH, height=HEIGHT))
        except (RuntimeError, UserError) as error:  # no renderer: the numbers are shown all the same
            self.no_picture = str(error)

    def _examine(self) -> None:
        """Reads and measures the last steps, as many as the attribute model reads at once."""
        self.read = read_strengths(self.policy.strengths, self.policy.attributes, np.stack(self.obs))
        states = [state for state in self.states if state is not None]
        if self.mirror is not None and len(states) > 1:
            each = self.mirror.measure(self.seed, np.stack(states))
            self.measured = {name: float(np.nanmean(v)) for name, v in each.items() if not np.isnan(v).all()}
