"""Scenes: initial states that a policy plays, several times each; its actor notes what is to be learnt from them."""

import zlib
from collections.abc import Callable, Sequence
from typing import Any

import torch

from pbrl.data.rollout import LOCKSTEP, PolicyActor, RolloutWorkers, rollout
from pbrl.models.policy import LikelihoodPolicy
from pbrl.types import Environment, Episode

FIRST_SEED = 2_011_000_000  # of scenes: beyond all that policies are evaluated on


class NotingActor(PolicyActor):
    """A policy that explores, and what is kept of its episodes."""

    policy: LikelihoodPolicy

    def note(self, i: int, episode: Episode) -> Any:
        """What is kept of the episode that environment i has just ended."""
        raise NotImplementedError


def scenes_of(seed: int, iteration: int, count: int) -> range:
    """The seeds of an iteration's scenes: no other iteration's, nor another seed's, nor those of evaluations."""
    first = FIRST_SEED + (seed * 100 + iteration) * 10_000 % 130_000_000
    return range(first, first + count)


def play_scenes(
    workers: RolloutWorkers,
    actor: NotingActor,
    scenes: Sequence[int],
    samples: int,
    *,
    salt: int,
    progress: Callable[[int], object] = lambda n: None,
) -> list[Any]:
    """The actor's notes of `samples` episodes of each scene, scene after scene; the same in any number of processes."""
    shares = [
        [(scene, sample) for scene in scenes[i : i + LOCKSTEP]]
        for sample in range(samples)
        for i in range(0, len(scenes), LOCKSTEP)
    ]
    found: dict[tuple[int, int], Any] = {}
    for place, played in workers.map(_play, shares, actor, salt):
        found.update(zip(shares[place], played, strict=True))
        progress(len(played))
    return [found[scene, sample] for scene in scenes for sample in range(samples)]


def _play(envs: Sequence[Environment], share: Sequence[tuple[int, int]], actor: NotingActor, salt: int) -> list[Any]:
    seeds, sample = [scene for scene, _ in share], share[0][1]
    with torch.random.fork_rng(devices=[]):
        actor.policy.explore_from(zlib.crc32(b"%d %d %d" % (salt, sample, seeds[0])))
        episodes = rollout(envs, actor, seeds)
    return [actor.note(i, episode) for i, episode in enumerate(episodes)]
