"""What is searched: open-loop behaviours, sines of time, and how each of them is played in a simulator."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from pbrl.data.behaviours import Waves
from pbrl.data.rollout import EpisodeRecorder, RolloutWorkers, state_of
from pbrl.types import Environment, Episode

SHARE = 5  # solutions per task of a process


class Scene(NamedTuple):
    """Where all solutions are played: from the initial state of this seed, for so many steps (None: to its end)."""

    seed: int
    steps: int | None


def play_all(
    workers: RolloutWorkers,
    waves: dict[str, Any],
    solutions: np.ndarray,
    scene: Scene,
    *,
    states: bool = False,
    progress: Callable[[int], Any] = lambda n: None,
) -> list[Episode]:
    """The episodes of solutions [N, P] in [0, 1], in their order; with the simulator's states only if asked for."""
    shares = [[solutions[i : i + SHARE]] for i in range(0, len(solutions), SHARE)]
    found: dict[int, list[Episode]] = {}
    for i, episodes in workers.map(_play, shares, waves, scene, states):
        found[i] = episodes
        progress(len(episodes))
    return [episode for i in sorted(found) for episode in found[i]]


def _play(
    envs: Sequence[Environment], share: Sequence[np.ndarray], waves: dict[str, Any], scene: Scene, states: bool
) -> list[Episode]:
    (solutions,) = share  # all in one environment
    played = [play(envs[0], Waves(**waves), solution, scene) for solution in solutions]
    return played if states else [episode._replace(state=None) for episode in played]


def play(env: Environment, waves: Waves, solution: np.ndarray, scene: Scene) -> Episode:
    """The episode of one solution [P]."""
    obs, info = env.reset(seed=scene.seed)
    recorder = EpisodeRecorder(env, scene.seed, obs, info)
    waves.start([env], [scene.seed])
    waves.take([solution])
    running = np.ones(1, bool)
    for _ in range(scene.steps or env.horizon):
        action = waves.act(state_of(obs)[None], running)[0]
        obs, reward, terminated, truncated, info = env.step(action)
        recorder.add(action, obs, reward, terminated, info)
        if terminated or truncated:
            break
    return recorder.episode(waves.source(0))
