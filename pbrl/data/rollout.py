"""Stepping several environments in lockstep, with one batched decision a step, in one process or in several.

Each process takes a share of the seeds and needs nothing from the others, so nothing is sent per step. Environments
that cannot be restored to a stored state may have their frames kept while they play (`videos`).
"""

import json
import multiprocessing
import pickle
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from hydra.errors import InstantiationException
from hydra.utils import get_class, instantiate

from pbrl import processes
from pbrl.data.inspection import refuse_non_finite
from pbrl.data.video import VideoWriter
from pbrl.models.text import to_bytes, tokenize
from pbrl.processor import available_cores
from pbrl.types import Environment, Episode, Observation, Policy, UserError

LOCKSTEP = 16  # environments per process
Observed = Any  # [O] float32, or with images {"state": [O], "images": {camera: [H, W, 3] uint8}}; of several, [N, …]


class Actor(Protocol):
    """Decides for several environments at once. `source` names an environment's behaviour in its episode."""

    def start(self, envs: Sequence[Environment], seeds: Sequence[int]) -> None:
        """Called after the environments were reset with these seeds."""
        ...

    def looks(self) -> bool:
        """Whether the next `act` reads the images that it is given."""
        ...

    def act(self, obs: Observed, running: np.ndarray) -> np.ndarray:
        """obs [N, O], running [N] bool → actions [N, A]."""
        ...

    def source(self, i: int) -> str:
        """What made the episode of environment i."""
        ...


class PolicyActor:
    """A learned policy as an actor; with `explore`, its actions are drawn from its distribution."""

    def __init__(self, policy: Policy, explore: Any = False):
        self.policy, self.explore = policy, explore
        self.text: dict[str, np.ndarray] = {}  # what the policy is told in words, as in Observation

    def start(self, envs: Sequence[Environment], seeds: Sequence[int]) -> None:
        """Starts an episode of the policy."""
        self.policy.reset()
        self.text = to_text([env.instruction for env in envs], self.policy)

    def looks(self) -> bool:
        return self.policy.looks()

    def act(self, obs: Observed, running: np.ndarray) -> np.ndarray:
        return self.policy.act(to_observation(obs, self.text), self.explore).numpy()

    def source(self, i: int) -> str:
        """Always "policy"."""
        return "policy"


def stack_observations(observations: Sequence[Observed]) -> Observed:
    """The observations of several environments as one batch, in memory of its own."""
    if not isinstance(observations[0], dict):
        return np.stack(observations)
    cameras = [camera for camera in observations[0]["images"] if all(camera in o["images"] for o in observations)]
    images = {camera: np.stack([o["images"][camera] for o in observations]) for camera in cameras}
    return {"state": np.stack([o["state"] for o in observations]), "images": images}


def to_text(instructions: Sequence[str], policy: Policy) -> dict[str, np.ndarray]:
    """Instructions as the policy reads them: embeddings, the words that it knows, or all as it is; nothing where it
    reads none. Raises UserError where one has no embedding yet and its encoder is missing."""
    if not policy.reads_words:
        return {}
    words, sentences = policy.spec.vocabulary, policy.spec.sentences
    if sentences is not None:
        return {"sentence": sentences.encode(instructions)}
    return {"tokens": tokenize(instructions, words)} if words else {"utf8": to_bytes(instructions)}


def to_observation(obs: Observed, told: Mapping[str, np.ndarray] | None = None) -> Observation:
    """A batch of observations as policies take it, with their instructions."""
    import torch  # not above: clips for people are rendered without it

    text = {name: torch.from_numpy(own) for name, own in (told or {}).items()}
    if not isinstance(obs, dict):
        return Observation(torch.from_numpy(obs), text=text)
    images = {camera: torch.from_numpy(batch) for camera, batch in obs["images"].items()}
    return Observation(torch.from_numpy(obs["state"]), images, text)


def state_of(obs: Observed) -> np.ndarray:
    """What is observed besides images: [O]."""
    return obs["state"] if isinstance(obs, dict) else obs


class EpisodeRecorder:
    """Collects the steps of one episode. Where states give frames back (see frames.py), no frames are kept.

    `video` is the file into which frames go where states do not; beside it the json and the videos of cameras that
    recordings.py describes. Raises UserError where they cannot be drawn.
    """

    def __init__(self, env: Environment, seed: int, obs: Observed, info: dict[str, Any], video: Path | None = None):
        self.env, self.seed = env, seed
        self.obs, self.state, self.success = [state_of(obs)], [env.save_state()], [info.get("success")]
        self.instruction = str(info.get("instruction", ""))
        self.action: list[np.ndarray] = []
        self.reward: list[float] = []
        self.terminated = False
        self.film = None if video is None or env.can_restore else Film(video, env)

    def add(self, action: np.ndarray, obs: Observed, reward: float, terminated: bool, info: dict[str, Any]) -> None:
        """Adds a step: action [A], and what the environment returned for it."""
        self.action.append(np.clip(action, -1, 1))
        self.reward.append(reward)
        self.obs.append(state_of(obs))
        self.state.append(self.env.save_state())
        self.success.append(info.get("success"))
        self.terminated = bool(terminated)
        if self.film is not None:
            self.film.add()

    def episode(self, source: str) -> Episode:
        """The episode so far. Raises UserError where an action, an observation or a reward is no finite number."""
        states = [state for state in self.state if state is not None]
        made = Episode(
            seed=int(self.seed),
            obs=np.stack(self.obs).astype(np.float32),
            action=np.stack(self.action).astype(np.float32),
            reward=np.array(self.reward, np.float32),
            terminated=self.terminated,
            success=None if self.success[0] is None else np.array(self.success, bool),
            state=np.stack(states) if states else None,
            source=source,
            video=None if self.film is None else self.film.close(),
            instruction=self.instruction,
        )
        check_rollout(made)
        return made


def check_rollout(episode: Episode) -> None:
    """Raises UserError at the first number of an episode that is not finite; actions come first."""
    name = f"the episode of {episode.source or 'an actor'} with seed {episode.seed}"
    diverged, broken = "a policy whose training diverged acts so", "the environment must not return it"
    parts = {
        "action": (episode.action, diverged),
        "reward": (episode.reward, broken),
        "observation": (episode.obs, broken),
    }
    for what, (array, advice) in parts.items():
        refuse_non_finite(array, lambda step, what=what: f"{name}, step {step}: the {what}", advice)


class Film:
    """Writes an episode's frames: `video` for people, and the observed images to the bit, in files of their cameras."""

    def __init__(self, video: Path, env: Environment):
        self.video, self.env = video, env
        self.writers: dict[str, VideoWriter] = {}
        self.add()

    def add(self) -> None:
        """Adds a frame of the environment as it is now."""
        try:
            shown, images = self.env.frames()
        except RuntimeError as error:  # no renderer
            raise UserError(f"frames cannot be kept while playing: {error} Or keep none: env.frames=false") from error
        if shown is None:
            return
        if not self.writers:
            self._open(list(images))
        for name, image in (("", shown), *images.items()):
            self.writers[name].add(image)

    def _open(self, cameras: list[str]) -> None:
        fps = self.env.control_hz
        self.writers = {"": VideoWriter(self.video, fps)}
        files = {camera: f"{self.video.stem}.{camera}.mp4" for camera in cameras}
        for camera, name in files.items():
            (self.video.parent / "cameras").mkdir(exist_ok=True)
            self.writers[camera] = VideoWriter(self.video.parent / "cameras" / name, fps, lossless=True)
        if files:
            self.video.with_suffix(".json").write_text(json.dumps({"cameras": files}))

    def close(self) -> Path | None:
        """Finishes the files; the video's path, or None where there were no frames."""
        for writer in self.writers.values():
            writer.close()
        return self.video if self.writers else None


def rollout(
    envs: Sequence[Environment], actor: Actor, seeds: Sequence[int], videos: Path | None = None
) -> list[Episode]:
    """One episode per seed, `len(envs)` at a time, in the order of the seeds.

    `videos` is the folder for frames of environments that cannot be restored; None: frames are not kept.
    """
    episodes: list[Episode] = []
    for i in range(0, len(seeds), len(envs)):
        wave = seeds[i : i + len(envs)]
        episodes += _rollout_wave(envs[: len(wave)], actor, wave, videos)
    return episodes


def _rollout_wave(
    envs: Sequence[Environment], actor: Actor, seeds: Sequence[int], videos: Path | None
) -> list[Episode]:
    for env in envs:
        env.renders = True
    starts = [env.reset(seed=int(seed)) for env, seed in zip(envs, seeds, strict=True)]
    files = [None if videos is None else videos / f"{seed}.mp4" for seed in seeds]
    recorders = [
        EpisodeRecorder(env, seed, *start, file)
        for env, seed, start, file in zip(envs, seeds, starts, files, strict=True)
    ]
    obs = [o for o, _ in starts]
    running = np.ones(len(envs), bool)
    actor.start(envs, seeds)
    while running.any():
        actions = actor.act(stack_observations(obs), running)
        looks = actor.looks()
        for i in np.flatnonzero(running):
            envs[i].renders = looks
            new, reward, terminated, truncated, info = envs[i].step(actions[i])
            recorders[i].add(actions[i], new, reward, terminated, info)
            running[i] = not (terminated or truncated)
            obs[i] = new if running[i] else starts[i][0]  # not read any more, but beside others that hold images
    for env in envs:
        env.renders = True
    return [recorder.episode(actor.source(i)) for i, recorder in enumerate(recorders)]


class RolloutWorkers:
    """Collects episodes of one environment in `workers` processes (0 or 1: in this one), kept alive between calls."""

    def __init__(self, env: dict[str, Any], workers: int):
        self.env, self.workers = env, workers
        self.pool: ProcessPoolExecutor | None = None

    def collect(
        self,
        actor: Actor,
        seeds: Sequence[int],
        progress: Callable[[int], Any] = lambda n: None,
        videos: Path | None = None,
    ) -> list[Episode]:
        """One episode per seed, in the order of the seeds; `progress` is called with how many more are finished.

        `videos` is the folder for frames of environments that cannot be restored; None: frames are not kept.
        """
        even = min(2 * -(-len(seeds) // (2 * LOCKSTEP)), len(seeds))  # shares of one size, in any number of processes
        shares = [seeds[i * len(seeds) // even : (i + 1) * len(seeds) // even] for i in range(even)]
        collected: dict[int, list[Episode]] = {}
        for i, episodes in self.map(_rollout, shares, actor, videos):
            collected[i] = episodes
            progress(len(episodes))
        return [episode for i in sorted(collected) for episode in collected[i]]

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
            first = ["pbrl.fork_server"] if processes.is_main_thread() else []
            module = get_class(self.env["_target_"]).__module__
            context.set_forkserver_preload([*first, __name__, "torch", module])  # imported once
            self.pool = ProcessPoolExecutor(self.workers, mp_context=context, initializer=_start_worker)
        # The executor's thread would pickle tensors by copying them in several threads, with OpenMP. While one more
        # thread owns such threads, those of the updates sleep instead of waiting: small updates take twice as long.
        job = pickle.dumps((self.env, function, args))
        with processes.delay_signals():  # the first of these start the processes
            futures = {self.pool.submit(_do, job, share): i for i, share in enumerate(shares)}
        try:
            for future in as_completed(futures):
                yield futures[future], future.result()
        finally:
            for future in futures:
                future.cancel()

    def close(self) -> None:
        """Ends the processes."""
        if self.pool is not None:
            self.pool.shutdown(cancel_futures=True)
            self.pool = None


def worker_count(workers: int) -> int:
    """The number itself, or for -1 one per core that this process may use."""
    return available_cores() if workers < 0 else workers


def drop_name(env: dict[str, Any]) -> dict[str, Any]:
    """The settings of an environment without its name, which changes nothing in it."""
    return {key: value for key, value in env.items() if key != "name"}


def make_environment(env: dict[str, Any]) -> Environment:
    """The environment of a config; its pictures as `view_change` says, where it is there (`Environment.change_view`).

    Raises UserError in the environment's own words.
    """
    change = env.get("view_change")
    try:
        made = instantiate({key: value for key, value in env.items() if key != "view_change"}, _convert_="all")
        if change:
            made.change_view(**change)
        return made
    except InstantiationException as error:
        if isinstance(error.__cause__, UserError):
            raise error.__cause__ from None
        raise


def episode_seeds(seed: int, count: int) -> list[int]:
    """Seeds of episodes, all different between small base seeds."""
    return [int(s) for s in np.random.SeedSequence(seed).generate_state(count) % 2**31]


def _start_worker() -> None:
    processes.end_with_parent(by_kernel=True)  # forked by the fork server, which has one thread
    import torch

    torch.set_num_threads(1)


_environments: dict[str, list[Environment]] = {}  # this process's environments, by their config


def _do(job: bytes, share: Sequence[Any]) -> Any:
    env, function, args = pickle.loads(job)
    return _with_envs(env, function, share, args)


def _with_envs(env: dict[str, Any], function: Callable[..., Any], share: Sequence[Any], args: Sequence[Any]) -> Any:
    envs = _environments.setdefault(repr(env), [])
    while len(envs) < len(share):
        envs.append(make_environment(env))
    return function(envs[: len(share)], share, *args)


def _rollout(envs: Sequence[Environment], seeds: Sequence[int], actor: Actor, videos: Path | None) -> list[Episode]:
    return rollout(envs, actor, seeds, videos)
