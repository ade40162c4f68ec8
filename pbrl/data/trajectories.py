"""A policy's own episodes, several from each initial state, as it decided them: for learners that compare whole ones.

A decision is a chunk of actions and what was observed where it began, so an episode of 120 steps in chunks of 8 has 15.
Its images are those that the policy saw, and no others are rendered.
"""

import copy
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils._pytree import tree_map
from tqdm import tqdm

from pbrl.data.frames import without_images
from pbrl.data.rollout import LOCKSTEP, Observed, PolicyActor, RolloutWorkers, make_environment, rollout
from pbrl.models.policy import LikelihoodPolicy
from pbrl.stages.costs import score_stages
from pbrl.stages.description import Stages
from pbrl.types import Environment, Episode, Observation, Rollouts, Segment, UserError

FIRST_SEED = 2_011_000_000  # of scenes: beyond all that policies are evaluated on
BATCH = 64  # trajectories whose likelihood is computed at once


class Played(NamedTuple):
    """An episode, and what was seen where decisions were made: images [D, H, W, 3] of each camera, words [WORDS]."""

    episode: Episode
    images: dict[str, np.ndarray]
    tokens: np.ndarray | None
    stages: float  # what its stages score, in (0, 1]; 0 where nothing describes them


@dataclass
class Trajectories:
    """N episodes of at most D decisions as tensors. `score` says which is better, among those of one `scene`."""

    chunks: Segment  # obs [N, D, O], action [N, D, K, A], mask [N, D, K]: 1 for actions that were carried out
    scene: Tensor  # [N] long
    success: Tensor  # [N] bool
    steps: Tensor  # [N] long, until it succeeded, or in all
    log_prob: Tensor  # [N], of what was carried out, by the policy that did it
    stages: Tensor  # [N], what their stages score, in (0, 1]
    score: Tensor  # [N]

    def __len__(self) -> int:
        return len(self.scene)


class RecordingActor(PolicyActor):
    """A policy that explores, and what it saw when it decided."""

    def start(self, envs: Sequence[Environment], seeds: Sequence[int]) -> None:
        super().start(envs, seeds)
        self.seen: list[dict[str, np.ndarray]] = []

    def act(self, obs: Observed, running: np.ndarray) -> np.ndarray:
        if self.policy.looks():
            self.seen.append(obs["images"] if isinstance(obs, dict) else {})
        return super().act(obs, running)


def scenes_of(seed: int, iteration: int, count: int) -> range:
    """The seeds of an iteration's scenes: no other iteration's, nor another seed's, nor those of evaluations."""
    first = FIRST_SEED + (seed * 100 + iteration) * 10_000 % 130_000_000
    return range(first, first + count)


def play(
    workers: RolloutWorkers,
    policy: LikelihoodPolicy,
    scenes: Sequence[int],
    samples: int,
    *,
    salt: int = 0,
    description: Stages | None = None,
    progress: Callable[[int], object] = lambda n: None,
) -> list[Played]:
    """`samples` episodes of each scene, scene after scene; the same in any number of processes.

    With a `description` their stages are scored. Raises UserError where it does not fit the environment.
    """
    on_cpu = copy.deepcopy(policy).to("cpu").eval()
    shares = [
        [(scene, sample) for scene in scenes[i : i + LOCKSTEP]]
        for sample in range(samples)
        for i in range(0, len(scenes), LOCKSTEP)
    ]
    found: dict[tuple[int, int], Played] = {}
    for place, played in workers.map(_play, shares, on_cpu, salt, description):
        found.update(zip(shares[place], played, strict=True))
        progress(len(played))
    return [found[scene, sample] for scene in scenes for sample in range(samples)]


def _play(
    envs: Sequence[Environment],
    share: Sequence[tuple[int, int]],
    policy: LikelihoodPolicy,
    salt: int,
    description: Stages | None,
) -> list[Played]:
    seeds, sample = [scene for scene, _ in share], share[0][1]
    with torch.random.fork_rng(devices=[]):
        policy.explore_from(zlib.crc32(b"%d %d %d" % (salt, sample, seeds[0])))
        actor = RecordingActor(policy, explore=True)
        episodes = rollout(envs, actor, seeds)
    cameras = actor.seen[0]
    return [
        Played(
            episode,
            {camera: np.stack([seen[camera][i] for seen in actor.seen]) for camera in cameras},
            actor.text["tokens"][i] if "tokens" in actor.text else None,
            score_episode(envs[i], episode, description) if description else 0.0,
        )
        for i, episode in enumerate(episodes)
    ]


def score_episode(env: Environment, episode: Episode, description: Stages) -> float:
    """What the stages of an episode score. Raises UserError where nothing describes its task, or has its keypoints."""
    keypoints = env.keypoints(episode.seed, episode.state) if episode.state is not None else {}
    if env.task not in description:
        raise UserError(f"algo.description has no stages of {env.task}; it has those of {', '.join(description)}")
    return score_stages(description[env.task], keypoints, env.control_hz)


def play_iteration(
    workers: RolloutWorkers, policy: LikelihoodPolicy, plan: Rollouts, seed: int, iteration: int
) -> Trajectories:
    """The episodes of an iteration, scored as the plan says."""
    env = make_environment(without_images(workers.env))
    horizon = env.horizon
    env.close()
    scenes = scenes_of(seed, iteration, plan.scenes)
    with tqdm(total=plan.scenes * plan.samples, desc=f"rollouts {iteration}", unit="episode") as bar:
        settings = {"salt": seed * 1000 + iteration, "description": plan.description, "progress": bar.update}
        played = play(workers, policy, scenes, plan.samples, **settings)  # type: ignore[arg-type]
    on_cpu = copy.deepcopy(policy).to("cpu").eval()
    return score(to_trajectories(played, on_cpu, plan.samples, horizon), plan, horizon)


def to_trajectories(played: Sequence[Played], policy: LikelihoodPolicy, samples: int, horizon: int) -> Trajectories:
    """Episodes of at most `horizon` steps as tensors; what they score is not known yet."""
    first, count = played[0], len(played)
    decisions = -(-horizon // policy.execute)
    state = np.zeros((count, decisions, first.episode.obs.shape[1]), np.float32)
    images = {name: np.zeros((count, decisions, *shown.shape[1:]), np.uint8) for name, shown in first.images.items()}
    action = np.zeros((count, decisions, policy.horizon, first.episode.action.shape[1]), np.float32)
    mask = np.zeros(action.shape[:3], np.float32)
    for i, (episode, shown, *_) in enumerate(played):
        length = len(episode.action)
        made = -(-length // policy.execute)
        state[i, :made] = episode.obs[: length : policy.execute]
        for name, frames in shown.items():
            images[name][i, :made] = frames[:made]
        for d in range(made):
            carried_out = episode.action[d * policy.execute : (d + 1) * policy.execute]
            action[i, d, : len(carried_out)], mask[i, d, : len(carried_out)] = carried_out, 1.0
    text = {}
    if first.tokens is not None:
        tokens = np.stack([one.tokens for one in played])  # type: ignore[misc]
        text = {"tokens": torch.from_numpy(np.repeat(tokens[:, None], decisions, 1))}
    obs = Observation(torch.from_numpy(state), {name: torch.from_numpy(x) for name, x in images.items()}, text)
    chunks = Segment(obs, torch.from_numpy(action), torch.from_numpy(mask))
    success = torch.tensor([e.success is not None and bool(e.success.any()) for e, *_ in played])
    until = [int(np.argmax(e.success)) if won else len(e.action) for (e, *_), won in zip(played, success, strict=True)]  # type: ignore[arg-type]
    return Trajectories(
        chunks,
        torch.arange(count) // samples,
        success,
        torch.tensor(until),
        likelihood(policy, chunks),
        torch.tensor([one.stages for one in played]),
        torch.zeros(count),
    )


def score(trajectories: Trajectories, plan: Rollouts, horizon: int) -> Trajectories:
    """Sets the scores that the plan gives: for success, for what stages score, being fast, and being sure."""
    per_step = trajectories.log_prob / trajectories.chunks.mask.sum((-2, -1)).clamp(min=1.0)
    worth = plan.success * trajectories.success + plan.stages * trajectories.stages
    return replace(trajectories, score=worth - plan.time * trajectories.steps / horizon + plan.confidence * per_step)


@torch.no_grad()
def likelihood(policy: LikelihoodPolicy, chunks: Segment) -> Tensor:
    """The log-likelihood of each trajectory [N] by a policy."""
    starts = range(0, len(chunks.mask), BATCH)
    return torch.cat([policy.score_chunks(take(chunks, slice(i, i + BATCH))) for i in starts])


def take(chunks: Segment, index: slice | Tensor) -> Segment:
    """The trajectories at these places [...]."""
    images, text = ({k: v[index] for k, v in part.items()} for part in (chunks.obs.images, chunks.obs.text))
    return Segment(Observation(chunks.obs.state[index], images, text), chunks.action[index], chunks.mask[index])


def measure(trajectories: Trajectories) -> dict[str, float]:
    """What is logged of an iteration: how many succeeded, how long they took, and how many scenes can tell."""
    score, scene = trajectories.score, trajectories.scene
    differs = [bool(score[scene == one].max() > score[scene == one].min()) for one in scene.unique()]
    return {
        "episodes": float(len(trajectories)),
        "success": float(trajectories.success.float().mean()),
        "steps": float(trajectories.steps.float().mean()),
        "stages": float(trajectories.stages.mean()),
        "score": float(score.mean()),
        "telling_scenes": sum(differs) / len(differs),
    }


def describe(measures: dict[str, float]) -> str:
    """Measures in a line, with a warning where no scene tells which of its episodes is better."""
    words = f"{measures['episodes']:.0f} episodes, success {measures['success']:.0%}, {measures['steps']:.0f} steps"
    if measures["telling_scenes"]:
        return f"{words}; {measures['telling_scenes']:.0%} of the scenes were played both better and worse"
    return (
        f"{words}\nWARNING: no scene was played both better and worse: there is nothing to learn. Play more "
        "(algo.scenes, algo.samples), explore more (policy.temperature), or score more than success (algo.stages)"
    )


def to_state(trajectories: Trajectories) -> dict[str, Any]:
    """As plain tensors by name, to be saved."""
    plain = {f.name: getattr(trajectories, f.name) for f in fields(trajectories) if f.name != "chunks"}
    obs, action, mask = trajectories.chunks
    return {**plain, "state": obs.state, "images": obs.images, "text": obs.text, "action": action, "mask": mask}


def from_state(state: dict[str, Any], device: torch.device) -> Trajectories:
    """What `to_state` made of trajectories, on a device."""
    own = tree_map(lambda x: x.to(device) if isinstance(x, Tensor) else x, state)
    obs = Observation(own.pop("state"), own.pop("images"), own.pop("text"))
    return Trajectories(Segment(obs, own.pop("action"), own.pop("mask")), **own)


def fingerprint(policy: LikelihoodPolicy) -> int:
    """A number that changes with the policy's parameters."""
    found = 0
    for value in policy.state_dict().values():
        found = zlib.crc32(value.detach().cpu().contiguous().numpy().tobytes(), found)
    return found
