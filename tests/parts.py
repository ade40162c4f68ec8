"""The parts that configs name, as the command line composes them, made small; and data for them to draw from."""

import hashlib
import pickle
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

import sim.configs
from pbrl.data.chains import ChainRollouts, Chains
from pbrl.data.synthetic import SyntheticRollouts
from pbrl.data.table import Table
from pbrl.data.trajectories import Trajectories, likelihood
from pbrl.feedback.labels import Labels
from pbrl.models.diffusion.denoising import Denoising
from pbrl.models.diffusion.policy import DiffusionPolicy
from pbrl.models.policy import LikelihoodPolicy
from pbrl.objectives import Objective
from pbrl.rewards.attributes import AttributeModel
from pbrl.rewards.per_step import PerStepReward
from pbrl.run import build as parts
from pbrl.training.batches import Data
from pbrl.types import Episode, Observation, Phase, Segment, Spec

CONFIGS = Path(__file__).parent.parent / "configs"
SPEC = Spec(5, 2, (0.0,) * 5, (1.0,) * 5, 30)
SMALL = {"hidden": [16], "width": 16, "windows": 8, "horizon": 8, "heads": 2,
         "context": 4, "layers": 1, "batch_size": 16, "step_batch_size": 16,
         "attributes": ["fast", "high"], "execute": 2, "candidates": 4}  # fmt: skip
LENGTH = 8  # steps of a segment
POLICIES: dict[str, dict[str, Any]] = {
    "mlp": {"hidden": [16, 16]},
    "diffusion": {"horizon": 4, "execute": 2, "layers": 1},
    "diffusion whole": {"horizon": 4, "execute": 4, "layers": 1},
    "diffusion quality": {"horizon": 4, "execute": 2, "layers": 1, "quality": True},
    "best_of_n": {"horizon": 4, "execute": 2, "layers": 1, "candidates": 3, "hidden": [16]},
    "vla_flow": {"horizon": 4, "execute": 2, "layers": 1, "context_layers": 1, "features": 16, "channels": 4},
    "vla": {"horizon": 4, "execute": 2, "layers": 1, "bins": 8, "channels": 4},
}
RANDOM = {"dropout", "target_noise", "crop"}  # settings that draw random numbers in an update, where they are not 0
COMPOSED: dict[tuple[str, ...], bytes] = {}  # configs, pickled, by overrides: Hydra takes a tenth of a second for each
REWARDS = (PerStepReward, AttributeModel)  # whose phases follow each round of answers
sim.configs.register()


def config(*overrides: str) -> dict[str, Any]:
    """What `python train.py <overrides>` would run with."""
    if overrides not in COMPOSED:
        with initialize_config_dir(str(CONFIGS), version_base="1.3"):
            found = OmegaConf.to_container(compose("train", list(overrides)), resolve=True, throw_on_missing=True)
        COMPOSED[overrides] = pickle.dumps(found)
    return pickle.loads(COMPOSED[overrides])


def config_of(name: str) -> dict[str, Any]:
    """That of `algo/cpl`, `reward/ensemble` …, of a run of 100 steps."""
    part, choice = name.split("/")
    return config(f"{part}={choice}", "steps=100")[part]


def names(part: str) -> list[str]:
    """The choices of `part=`."""
    return [path.stem for path in sorted((CONFIGS / part).glob("*.yaml"))]


def objective(name: str, **changes: Any) -> Objective:
    """`objective=` of that name."""
    return parts.build_objective(config(f"objective={name}")["objective"] | changes)


def build(name: str, spec: Spec = SPEC, **changes: Any) -> Any:
    """`algo/cpl`, `reward/ensemble` … on a small network; `objective` may be a name or a loss function.

    `policy` is a name, or a policy; `reward` is a reward model, or as `name`, of algorithms that take one."""
    torch.manual_seed(0)
    part, choice = name.split("/")
    chosen = changes.pop("objective", "logistic" if part == "algo" else "bradley_terry")
    policy, reward = changes.pop("policy", "mlp"), changes.pop("reward", "reward/attributes")
    found = config_of(name)
    small = SMALL if part == "algo" else SMALL | {"context": LENGTH}
    small = POLICIES[choice] if part == "policy" and choice in POLICIES else small
    found = {k: small.get(k, SMALL.get(k, v)) for k, v in found.items()} | changes
    takes, given = parts.parameters(found), {}
    if "policy" in takes:
        name = f"policy/{policy.split()[0]}" if isinstance(policy, str) else ""
        given["policy"] = build(name, spec, **POLICIES[policy]) if isinstance(policy, str) else policy
    if "reward" in takes:
        given["reward"] = build(reward, spec) if isinstance(reward, str) else reward
    if "objective" in takes:
        given["objective"] = Objective(chosen) if callable(chosen) else objective(chosen)
    return parts.build(parts.fit_to_segments(found, LENGTH) if part == "reward" else found, spec, **given)


def without_chance(name: str) -> dict[str, Any]:
    """Settings of `algo/cpl`, `reward/ensemble` … with which an update draws no random numbers for each row."""
    return {key: 0 for key in RANDOM & set(config_of(name))}


def phases(learner: Any, steps: int = 1) -> list[Phase]:
    """The phases of an algorithm that trains for `steps`, or of a reward model."""
    return learner.phases() if isinstance(learner, REWARDS) else learner.phases(steps)


def train(learner: Any, data: Data, steps: int = 1) -> Any:
    """The learner after all of its phases, hooks included, as a run would train it; a reward model for `steps` too."""
    for phase in phases(learner, steps):
        if phase.before:
            phase.before(data)
        if phase.on_labels:
            phase.on_labels(data)
        for _ in range(steps if isinstance(learner, REWARDS) else phase.steps):
            phase.update(phase.draw(data))
    return learner


def draw_batches(learner: Any, count: int, phase: int = -1) -> list[Any]:
    """Random batches of what a phase of a learner draws, by default its last: from made-up data with answers."""
    kind = "pair"
    if isinstance(own := vars(learner).get("objective"), Objective):
        kind = "spans" if own.is_unpaired else "ranking" if own.segments > 2 else "pair"
    if isinstance(learner, AttributeModel):
        kind = "attributes"
    data, own = made_up_data(kind), phases(learner)[phase]
    if isinstance(own.rollouts, ChainRollouts):
        chains = made_up_chains(learner.policy)
        data.set_chains(chains, learner.judge(chains))
    elif isinstance(own.rollouts, SyntheticRollouts):
        data.set_synthetic(data.transitions(100))
    elif own.rollouts:
        data.set_trajectories(made_up_trajectories(learner.policy), margin=0.0, same_scene=True)
    draw = own.draw
    return [draw(data) for _ in range(count)]


def made_up_data(kind: str) -> Data:
    """Random steps of the sizes of SPEC, with random answers of a kind about segments of LENGTH steps."""
    table, random = _made_up_table(), np.random.default_rng(2)
    starts = random.permutation(table.segment_starts(LENGTH).numpy())
    data = Data(table, torch.Generator().manual_seed(1))
    if kind == "pair":
        pairs = starts[:60].reshape(30, 2)
        data.set_labels(labels("pair", pairs, random.choice([0.0, 0.5, 1.0], 30), length=LENGTH))
    elif kind == "attributes":
        value = random.choice([0.0, 0.5, 1.0, np.nan], (30, 2))
        own = labels("attributes", starts[:60].reshape(30, 2), value, length=LENGTH)
        data.set_labels(own._replace(attributes=tuple(SMALL["attributes"])))
    elif kind == "ranking":
        value = np.concatenate([random.permutation(10) for _ in range(6)]).astype(float)
        group = np.repeat(np.arange(6), 10)
        data.set_labels(labels("ranking", starts[:60, None], value, group=group, length=LENGTH))
    else:
        data.set_labels(labels(kind, starts[:60, None], random.integers(0, 2, 60).astype(float), length=LENGTH))
    return data


def made_up_trajectories(policy: LikelihoodPolicy, count: int = 24, decisions: int = 3) -> Trajectories:
    """Random decisions of a policy, of four episodes of each scene, of which some succeeded and some ended early."""
    random = torch.Generator().manual_seed(3)
    shape = (count, decisions, policy.horizon)
    state = torch.randn(count, decisions, 5, generator=random)
    action = torch.rand(*shape, 2, generator=random) * 2 - 1
    mask = torch.ones(shape)
    mask[:, :, policy.execute :] = 0.0
    mask[::3, 1:] = 0.0
    chunks = Segment(Observation(state), action, mask)
    success = torch.rand(count, generator=random) < 0.5
    steps = mask.sum((1, 2)).long()
    return Trajectories(
        chunks,
        torch.arange(count) // 4,
        success,
        steps,
        likelihood(policy, chunks),
        torch.zeros(count),
        torch.where(mask.any(-1), 0, -1),
        success.float()[:, None] * 5,
    )


def made_up_chains(policy: DiffusionPolicy, count: int = 24, decisions: int = 3) -> Chains:
    """Random decisions of a policy by chains of its own steps of denoising; some episodes are short, some terminate."""
    random = torch.Generator().manual_seed(3)
    state = torch.randn(count, decisions + 1, 5, generator=random)
    told = policy.model.told(Observation(state[:, :-1].flatten(0, 1)))
    denoising = Denoising(policy.sampler.steps, policy.sampler.clip, 0.1)
    shape = (len(told), policy.horizon, 2)
    drawn = denoising.draw(policy.model.denoiser, shape, (told,), lambda s: torch.randn(s, generator=random))
    mask = torch.ones(count, decisions, policy.horizon)
    mask[:, :, policy.execute :] = 0.0
    mask[::3, 1:] = 0.0
    return Chains(
        state,
        drawn.unflatten(0, (count, decisions)),
        mask,
        torch.randn(count, decisions, generator=random),
        torch.arange(count) % 2 == 0,
        torch.arange(count) % 4 == 0,
        torch.zeros(count),
    )


@cache
def _made_up_table() -> Table:
    """Long and short episodes, of which most terminate; the reward that learners see is not the true one."""
    random = np.random.default_rng(1)

    def uniform(*shape: int) -> np.ndarray:
        return random.uniform(-1, 1, shape).astype(np.float32)

    steps = [3, 4, 10, 12] * 12
    table = Table([Episode(i, uniform(n + 1, 5), uniform(n, 2), uniform(n), i % 4 != 2) for i, n in enumerate(steps)])
    table.set_label("reward", torch.from_numpy(uniform(table.row_count)))
    table.set_label("attributes", torch.from_numpy(uniform(table.row_count, 2)).abs())
    return table


def labels(
    kind: str,
    starts: np.ndarray,
    value: np.ndarray,
    *,
    length: int,
    group: np.ndarray | None = None,
    rater: np.ndarray | None = None,
    confidence: np.ndarray | None = None,
    question: np.ndarray | None = None,
    raters: Sequence[str] = ("rater",),
) -> Labels:
    """Labels as the store gives them: of starts [Q, k] and value [Q]; each is of a question of its own by default."""
    n = len(value)
    return Labels(
        starts=starts.astype(np.int64),
        value=value.astype(np.float64),
        group=np.zeros(n, np.int64) if group is None else group,
        rater=np.zeros(n, np.int64) if rater is None else rater,
        confidence=np.ones(n) if confidence is None else confidence,
        question=np.array([hashlib.sha256(str(i).encode()).hexdigest()[:32] for i in range(n)], object)
        if question is None
        else question,
        raters=tuple(raters),
        length=length,
        kind=kind,
    )
