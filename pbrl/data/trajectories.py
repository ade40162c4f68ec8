"""A policy's own episodes, several from each initial state, as it decided them: for learners that compare whole ones.

A decision is a chunk of actions and what was observed where it began, so an episode of 120 steps in chunks of 8 has 15.
Its images are those that the policy saw, and no others are rendered.

What is compared is whole episodes, their stages, or branches: a few decisions that are drawn, while all others are the
likeliest, so that episodes of a scene are one until they begin, and what comes of it is due to them alone.
"""

import copy
import math
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils._pytree import tree_map
from tqdm import tqdm

from pbrl.data.frames import without_images
from pbrl.data.rollout import Observed, RolloutWorkers, make_environment
from pbrl.data.scenes import NotingActor, play_scenes, scenes_of
from pbrl.models.policy import LikelihoodPolicy
from pbrl.stages.costs import Part, parts_of
from pbrl.stages.description import Stages
from pbrl.types import Environment, Episode, Observation, RewardOf, Segment, UserError

if TYPE_CHECKING:
    from pbrl.training.batches import Data

BATCH = 64  # trajectories whose likelihood is computed at once


class Played(NamedTuple):
    """An episode, and what was seen where decisions were made: images [D, H, W, 3] of each camera."""

    episode: Episode
    images: dict[str, np.ndarray]
    text: dict[str, np.ndarray]  # the instruction, as in Observation, but for its leading axes
    parts: list[Part]  # its parts in the stages of its task; empty where nothing describes them


class ComparedRollouts(NamedTuple):
    """`samples` episodes of each of `scenes` initial states, scored and compared as pbrl/algos/tpo.py says.

    `description` says which stages each task has.
    """

    iterations: int
    scenes: int
    samples: int
    success: float
    time: float
    confidence: float
    stages: float
    margin: float
    same_scene: bool
    compare: str = "episodes"  # or stages, or branches
    branch: int = 1  # decisions of a branch
    keep: bool = False
    mistake: float = 0.0  # the share of comparisons that say the opposite
    description: Stages | None = None
    reward: float = 0.0

    def play(
        self, workers: RolloutWorkers, policy: LikelihoodPolicy, seed: int, iteration: int, reward_of: RewardOf
    ) -> dict[str, Any]:
        return to_state(play_iteration(workers, policy, self, seed, iteration, reward_of))

    def is_complete(self, played: Mapping[str, Any]) -> bool:
        return "part" in played

    def give(self, data: "Data", played: Sequence[dict[str, Any]]) -> tuple[dict[str, float], str]:
        own = [from_state(state) for state in played]
        data.set_trajectories(join(own), margin=self.margin, same_scene=self.same_scene, mistake=self.mistake)
        measures = measure(own[-1])
        return measures, describe(measures)


@dataclass
class Trajectories:
    """N episodes of at most D decisions as tensors, in P parts that are compared: one, or a stage each.

    `score` says which is better in a part, among those of one `scene`.
    """

    chunks: Segment  # obs [N, D, O], action [N, D, K, A], mask [N, D, K]: 1 for actions that were carried out
    scene: Tensor  # [N] long
    success: Tensor  # [N] bool
    steps: Tensor  # [N] long, until it succeeded, or in all
    log_prob: Tensor  # [N, D], of what was carried out, by the policy that did it
    stages: Tensor  # [N], what their stages score, in (0, 1]; 0 where nothing describes them
    part: Tensor  # [N, D] long, from 0 on; -1 for decisions that are not compared
    score: Tensor  # [N, P]

    def __len__(self) -> int:
        return len(self.scene)


class RecordingActor(NotingActor):
    """A policy that explores, always or in `branch` decisions of an episode, and what it saw when it decided."""

    def __init__(self, policy: LikelihoodPolicy, branch: int | None, decisions: int, description: Stages | None):
        super().__init__(policy, explore=True)
        self.branch, self.decisions, self.description = branch, decisions, description

    def start(self, envs: Sequence[Environment], seeds: Sequence[int]) -> None:
        super().start(envs, seeds)
        self.envs = envs
        self.seen: list[dict[str, np.ndarray]] = []
        if self.branch is not None:
            branches = [branch_of(seed, self.decisions, self.branch) for seed in seeds]
            self.begins = torch.tensor([branch.start for branch in branches])
            self.ends = torch.tensor([branch.stop for branch in branches])

    def act(self, obs: Observed, running: np.ndarray) -> np.ndarray:
        if self.policy.looks():
            if self.branch is not None:
                self.explore = (self.begins <= len(self.seen)) & (len(self.seen) < self.ends)
            self.seen.append(obs["images"] if isinstance(obs, dict) else {})
        return super().act(obs, running)

    def note(self, i: int, episode: Episode) -> Played:
        return Played(
            episode,
            {camera: np.stack([seen[camera][i] for seen in self.seen]) for camera in self.seen[0]},
            {name: told[i] for name, told in self.text.items()},
            find_parts(self.envs[i], episode, self.description) if self.description else [],
        )


def branch_of(scene: int, decisions: int, branch: int) -> range:
    """The decisions that are drawn in the episodes of a scene; each as often as another."""
    begin = zlib.crc32(b"branch %d" % scene) % (decisions + branch - 1) - branch + 1
    return range(max(begin, 0), min(begin + branch, decisions))


def play(
    workers: RolloutWorkers,
    policy: LikelihoodPolicy,
    scenes: Sequence[int],
    samples: int,
    *,
    salt: int = 0,
    description: Stages | None = None,
    branch: int | None = None,
    decisions: int = 0,
    progress: Callable[[int], object] = lambda n: None,
) -> list[Played]:
    """`samples` episodes of each scene, scene after scene; the same in any number of processes.

    With a `description` their stages are scored; with `branch` so many of an episode's `decisions` are drawn. Raises
    UserError where the description does not fit the environment.
    """
    on_cpu = copy.deepcopy(policy).to("cpu").eval()
    actor = RecordingActor(on_cpu, branch, decisions, description)
    return play_scenes(workers, actor, scenes, samples, salt=salt, progress=progress)


def find_parts(env: Environment, episode: Episode, description: Stages) -> list[Part]:
    """An episode's parts in its stages. Raises UserError where nothing describes its task, or has its keypoints."""
    keypoints = env.keypoints(episode.seed, episode.state) if episode.state is not None else {}
    if env.task not in description:
        raise UserError(f"algo.description has no stages of {env.task}; it has those of {', '.join(description)}")
    return parts_of(description[env.task], keypoints, env.control_hz)


def no_reward(episodes: Sequence[Episode]) -> list[np.ndarray]:
    """Zeros [T] for each episode."""
    return [np.zeros(len(episode.action), np.float32) for episode in episodes]


def play_iteration(
    workers: RolloutWorkers,
    policy: LikelihoodPolicy,
    plan: ComparedRollouts,
    seed: int,
    iteration: int,
    reward_of: RewardOf = no_reward,
) -> Trajectories:
    """The episodes of an iteration, scored as the plan says. `reward_of` says what each step pays."""
    env = make_environment(without_images(workers.env))
    horizon = env.horizon
    env.close()
    branch = plan.branch if plan.compare == "branches" else None
    scenes, decisions = scenes_of(seed, iteration, plan.scenes), -(-horizon // policy.execute)
    with tqdm(total=plan.scenes * plan.samples, desc=f"rollouts {iteration}", unit="episode") as bar:
        played = play(
            workers, policy, scenes, plan.samples, salt=seed * 1000 + iteration, description=plan.description,
            branch=branch, decisions=decisions, progress=bar.update,
        )  # fmt: skip
    on_cpu = copy.deepcopy(policy).to("cpu").eval()
    own = score(to_trajectories(played, on_cpu, plan.samples, horizon), plan, horizon)
    if plan.reward:
        rewards = reward_of([one.episode for one in played])
        mean = [float(r[: max(int(n), 1)].sum()) / horizon for r, n in zip(rewards, own.steps, strict=True)]
        own = replace(own, score=own.score + plan.reward * torch.tensor(mean)[:, None])
    if plan.compare == "stages":
        return by_stages(own, [one.parts for one in played], plan, policy.execute)
    if branch is not None:
        inside = torch.zeros_like(own.part, dtype=torch.bool)
        for i, scene in enumerate(scenes):
            drawn = branch_of(scene, decisions, branch)
            inside[i * plan.samples : (i + 1) * plan.samples, drawn.start : drawn.stop] = True
        return replace(own, part=own.part.where(inside, -1))
    return own


def to_trajectories(played: Sequence[Played], policy: LikelihoodPolicy, samples: int, horizon: int) -> Trajectories:
    """Episodes of at most `horizon` steps as tensors, up to success; what they score is not known yet."""
    first, count = played[0], len(played)
    decisions = -(-horizon // policy.execute)
    state = np.zeros((count, decisions, first.episode.obs.shape[1]), np.float32)
    images = {name: np.zeros((count, decisions, *shown.shape[1:]), np.uint8) for name, shown in first.images.items()}
    action = np.zeros((count, decisions, policy.horizon, first.episode.action.shape[1]), np.float32)
    mask = np.zeros(action.shape[:3], np.float32)
    success = [e.success is not None and bool(e.success.any()) for e, *_ in played]
    until = [int(np.argmax(e.success)) if won else len(e.action) for (e, *_), won in zip(played, success, strict=True)]  # type: ignore[arg-type]
    for i, (episode, shown, *_) in enumerate(played):
        length = max(until[i], 1)
        made = -(-length // policy.execute)
        state[i, :made] = episode.obs[: length : policy.execute]
        for name, frames in shown.items():
            images[name][i, :made] = frames[:made]
        for d in range(made):
            carried_out = episode.action[d * policy.execute : min((d + 1) * policy.execute, length)]
            action[i, d, : len(carried_out)], mask[i, d, : len(carried_out)] = carried_out, 1.0
    told = {name: np.stack([one.text[name] for one in played]) for name in first.text}
    text = {name: torch.from_numpy(np.repeat(own[:, None], decisions, 1)) for name, own in told.items()}
    obs = Observation(torch.from_numpy(state), {name: torch.from_numpy(x) for name, x in images.items()}, text)
    chunks = Segment(obs, torch.from_numpy(action), torch.from_numpy(mask))
    return Trajectories(
        chunks,
        torch.arange(count) // samples,
        torch.tensor(success),
        torch.tensor(until),
        likelihood(policy, chunks),
        torch.tensor([math.exp(-sum(part.cost for part in one.parts)) if one.parts else 0.0 for one in played]),
        torch.where(chunks.mask.any(-1), 0, -1),
        torch.zeros(count, 1),
    )


def score(trajectories: Trajectories, plan: ComparedRollouts, horizon: int) -> Trajectories:
    """Sets the scores that the plan gives: for success, for what stages score, being fast, and being sure."""
    per_step = trajectories.log_prob.sum(-1) / trajectories.chunks.mask.sum((-2, -1)).clamp(min=1.0)
    worth = plan.success * trajectories.success + plan.stages * trajectories.stages
    worth = worth - plan.time * trajectories.steps / horizon + plan.confidence * per_step
    return replace(trajectories, score=worth[:, None])


def by_stages(
    trajectories: Trajectories, parts: Sequence[Sequence[Part]], plan: ComparedRollouts, execute: int
) -> Trajectories:
    """Divides episodes into their stages, which are compared with each other's: [N, P].

    A stage scores `success` if it was done, the last one if the episode succeeded, plus `stages` times exp(-cost).
    """
    count = max(map(len, parts))
    part = torch.full_like(trajectories.part, -1)
    score = torch.zeros(len(parts), count)
    for i, own in enumerate(parts):
        for stage, (begin, end, cost, is_done) in enumerate(own):
            if end > begin:
                part[i, begin // execute : -(-end // execute)] = stage  # a decision in two belongs to the later one
            is_good = trajectories.success[i] if stage == len(own) - 1 else is_done
            score[i, stage] = plan.success * is_good + plan.stages * math.exp(-cost)
    return replace(trajectories, part=part.where(trajectories.part >= 0, -1), score=score)


def join(trajectories: Sequence[Trajectories]) -> Trajectories:
    """Those of several iterations as one; their scenes stay apart."""
    first, *others = trajectories
    if not others:
        return first
    scenes, count = [], 0
    for own in trajectories:
        scenes.append(own.scene + count)
        count += int(own.scene.max()) + 1
    states = [to_state(replace(own, scene=scene)) for own, scene in zip(trajectories, scenes, strict=True)]
    return from_state(tree_map(lambda *parts: torch.cat(parts), *states))


@torch.no_grad()
def likelihood(policy: LikelihoodPolicy, chunks: Segment) -> Tensor:
    """The log-likelihood of each trajectory's decisions [N, D] by a policy; zeros where it has but a bound of it."""
    if not policy.is_exact:
        return torch.zeros(chunks.mask.shape[:2])
    starts = range(0, len(chunks.mask), BATCH)
    return torch.cat([policy.score_chunks(take(chunks, slice(i, i + BATCH))) for i in starts])


def take(chunks: Segment, index: slice | Tensor | tuple[Tensor, ...]) -> Segment:
    """The trajectories or segments at these places [...]."""
    images, text = ({k: v[index] for k, v in part.items()} for part in (chunks.obs.images, chunks.obs.text))
    return Segment(Observation(chunks.obs.state[index], images, text), chunks.action[index], chunks.mask[index])


def measure(trajectories: Trajectories) -> dict[str, float]:
    """What is logged of an iteration: how many succeeded, how long they took, and how many scenes can tell."""
    score, scene = trajectories.score, trajectories.scene
    differs = [bool((score[scene == one].amax(0) > score[scene == one].amin(0)).any()) for one in scene.unique()]
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


def from_state(state: dict[str, Any]) -> Trajectories:
    """What `to_state` made of trajectories."""
    own = dict(state)
    obs = Observation(own.pop("state"), own.pop("images"), own.pop("text"))
    return Trajectories(Segment(obs, own.pop("action"), own.pop("mask")), **own)
