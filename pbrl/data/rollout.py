"""Stepping several environments in lockstep, with one batched decision a step, in one process or in several.

An environment here is what `sim` makes: reset by seed alone, restorable, actions in [-1, 1]. Each process takes a share
of the seeds and needs nothing from the others, so nothing is sent per step.
"""

import multiprocessing
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from typing import Any, Protocol

import numpy as np
import torch
from hydra.utils import instantiate

from pbrl.types import Episode, Observation, Policy

LOCKSTEP = 16  # environments per process
Observed = Any  # [O] float32, or with images {"state": [O], "images": {camera: [H, W, 3] uint8}}; of several, [N, …]


class Actor(Protocol):
    """Decides for several environments at once. `source` names an environment's behaviour in its episode."""

    def start(self, envs: Sequence[Any], seeds: Sequence[int]) -> None: ...
    def act(self, obs: Observed, running: np.ndarray) -> np.ndarray:
        """obs [N, O], running [N] bool → actions [N, A]."""
        ...

    def source(self, i: int) -> str: ...


class PolicyActor:
    """A learnt policy as an actor."""

    def __init__(self, policy: Policy):
        self.policy = policy

    def start(self, envs: Sequence[Any], seeds: Sequence[int]) -> None:
        self.policy.reset()

    def act(self, obs: Observed, running: np.ndarray) -> np.ndarray:
        return self.policy.act(tensors(obs)).numpy()

    def source(self, i: int) -> str:
        return "policy"


def stacked(observations: Sequence[Observed]) -> Observed:
    """Those of several environments as one batch, which nobody changes later."""
    first = observations[0]
    if isinstance(first, dict):
        images = {camera: np.stack([o["images"][camera] for o in observations]) for camera in first["images"]}
        return {"state": np.stack([o["state"] for o in observations]), "images": images}
    return np.stack(observations)


def tensors(obs: Observed) -> Observation:
    """A batch as policies take it."""
    if isinstance(obs, dict):
        images = {camera: torch.from_numpy(image) for camera, image in obs["images"].items()}
        return Observation(torch.from_numpy(obs["state"]), images)
    return Observation(torch.from_numpy(obs))


def state_of(obs: Observed) -> np.ndarray:
    """What is observed besides images: [O]."""
    return obs["state"] if isinstance(obs, dict) else obs


class Recording:
    """An episode in the making. Images are not kept: its states give them back (see pbrl/frames.py)."""

    def __init__(self, env: Any, seed: int, obs: Observed, info: dict[str, Any]):
        self.env, self.seed = env, seed
        self.obs, self.state, self.success = [state_of(obs)], [env.save_state()], [info.get("success")]
        self.action: list[np.ndarray] = []
        self.reward: list[float] = []
        self.terminated = False

    def add(self, action: np.ndarray, obs: Observed, reward: float, terminated: bool, info: dict[str, Any]) -> None:
        self.action.append(np.clip(action, -1, 1))
        self.reward.append(reward)
        self.obs.append(state_of(obs))
        self.state.append(self.env.save_state())
        self.success.append(info.get("success"))
        self.terminated = bool(terminated)

    def episode(self, source: str) -> Episode:
        return Episode(
            seed=int(self.seed),
            obs=np.stack(self.obs).astype(np.float32),
            action=np.stack(self.action).astype(np.float32),
            reward=np.array(self.reward, np.float32),
            terminated=self.terminated,
            success=None if self.success[0] is None else np.array(self.success, bool),
            state=np.stack(self.state),
            source=source,
        )


def rollout(envs: Sequence[Any], actor: Actor, seeds: Sequence[int]) -> list[Episode]:
    """Plays one episode per seed, `len(envs)` at a time, in the order of the seeds."""
    episodes: list[Episode] = []
    for i in range(0, len(seeds), len(envs)):
        wave = seeds[i : i + len(envs)]
        episodes += _wave(envs[: len(wave)], actor, wave)
    return episodes


def _wave(envs: Sequence[Any], actor: Actor, seeds: Sequence[int]) -> list[Episode]:
    starts = [env.reset(seed=int(seed)) for env, seed in zip(envs, seeds, strict=True)]
    recordings = [Recording(env, seed, *start) for env, seed, start in zip(envs, seeds, starts, strict=True)]
    obs = [o for o, _ in starts]
    running = np.ones(len(envs), bool)
    actor.start(envs, seeds)
    while running.any():
        actions = actor.act(stacked(obs), running)  # a new batch each time: some policies remember what they saw
        for i in np.flatnonzero(running):
            new, reward, terminated, truncated, info = envs[i].step(actions[i])
            recordings[i].add(actions[i], new, reward, terminated, info)
            obs[i], running[i] = new, not (terminated or truncated)
    return [recording.episode(actor.source(i)) for i, recording in enumerate(recordings)]


class Players:
    """Plays episodes of one environment in `workers` processes (0 or 1: in this one), kept alive between calls."""

    def __init__(self, env: dict[str, Any], workers: int):
        self.env, self.workers = env, workers
        self.pool: ProcessPoolExecutor | None = None

    def play_all(
        self, actor: Actor, seeds: Sequence[int], done: Callable[[int], Any] = lambda n: None
    ) -> list[Episode]:
        """One episode per seed, in the order of the seeds; `done` hears how many more are finished."""
        even = min(2 * -(-len(seeds) // (2 * LOCKSTEP)), len(seeds))  # shares of one size, in any number of processes
        shares = [seeds[i * len(seeds) // even : (i + 1) * len(seeds) // even] for i in range(even)]
        played: dict[int, list[Episode]] = {}
        for i, episodes in self.map(_rollout, shares, actor):
            played[i] = episodes
            done(len(episodes))
        return [episode for i in sorted(played) for episode in played[i]]

    def map(
        self, function: Callable[..., Any], shares: Sequence[Sequence[Any]], *args: Any
    ) -> Iterator[tuple[int, Any]]:
        """`function(envs, share, *args)` for each share, with as many environments; (place, result) as they come."""
        if self.workers < 2:
            for i, share in enumerate(shares):
                yield i, _with_envs(self.env, function, share, args)
            return
        if self.pool is None:  # forking a process that has rendered or computed hangs; a fork server does not
            context = multiprocessing.get_context("forkserver")
            context.set_forkserver_preload([__name__, self.env["_target_"].rpartition(".")[0]])  # imported once for all
            self.pool = ProcessPoolExecutor(self.workers, mp_context=context, initializer=_settle)
        futures = {self.pool.submit(_with_envs, self.env, function, share, args): i for i, share in enumerate(shares)}
        try:
            for future in as_completed(futures):
                yield futures[future], future.result()
        finally:
            for future in futures:
                future.cancel()

    def close(self) -> None:
        if self.pool is not None:
            self.pool.shutdown(cancel_futures=True)
            self.pool = None


def auto_workers(workers: int) -> int:
    """The number itself, or for -1 one per core that this process may use."""
    return len(os.sched_getaffinity(0)) if workers < 0 else workers


def episode_seeds(seed: int, count: int) -> list[int]:
    """Seeds of episodes, all different between small base seeds."""
    return [int(s) for s in np.random.SeedSequence(seed).generate_state(count) % 2**31]


def _settle() -> None:
    torch.set_num_threads(1)


_made: dict[str, list[Any]] = {}  # this process's environments, by their config


def _with_envs(env: dict[str, Any], function: Callable[..., Any], share: Sequence[Any], args: Sequence[Any]) -> Any:
    envs = _made.setdefault(repr(env), [])
    while len(envs) < len(share):
        envs.append(instantiate(env))
    return function(envs[: len(share)], share, *args)


def _rollout(envs: Sequence[Any], seeds: Sequence[int], actor: Actor) -> list[Episode]:
    return rollout(envs, actor, seeds)
