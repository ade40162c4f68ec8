"""pbrl as a library: from a data set through answers to a policy, without the command line.

Everything that a config names is built from its yaml, whose values are the defaults: `train_policy(table, "cpl",
labels=labels, alpha=0.2)` is `algo=cpl algo.alpha=0.2`. Runs with checkpoints, logs and a folder are `train.py`'s.
"""

import math
from pathlib import Path
from typing import Any

import torch
from tqdm import trange

from pbrl.configs import compose_config
from pbrl.data import episodes as storage
from pbrl.data.action_bounds import ActionUnits
from pbrl.data.rollout import RolloutWorkers
from pbrl.data.table import Table
from pbrl.feedback.asking import Asking
from pbrl.feedback.labels import Labels
from pbrl.feedback.sources.context import Context
from pbrl.feedback.store.store import Store
from pbrl.rewards.pictures import read_pictures
from pbrl.run.build import build, build_algorithm, build_reward
from pbrl.settings import RunSettings
from pbrl.training import evaluate as evaluation
from pbrl.training.batches import Data
from pbrl.training.engine import Engine, learner_of, pick_device, wants_compile
from pbrl.training.evaluate import Evaluation
from pbrl.training.precision import choose_precision
from pbrl.types import FeedbackSource, Phase, Policy, RewardModel


def load_table(
    path: str | Path,
    device: str = "auto",
    *,
    action_low: Any = None,
    action_high: Any = None,
    clip_actions: bool = False,
    camera: str | None = None,
    image_size: int = 84,
) -> Table:
    """The episodes of a Minari folder, a D4RL file or a folder of videos, on the device.

    With `camera` the table holds that camera's pictures of the videos, `image_size` pixels high and wide, for
    `train_reward(table, labels, "image")`.

    `action_low` and `action_high` say which actions become -1 and 1, where a file does not: a number, or one for each
    of an action's. What is beyond them is an error, or cut off with `clip_actions`. Raises UserError.
    """
    units = ActionUnits(action_low, action_high, clip_actions)
    episodes = storage.read(Path(path).expanduser(), units)
    pictures = None if camera is None else read_pictures(episodes, camera, image_size)
    return Table(episodes, pick_device(device), pictures=pictures)


def ask(table: Table, source: str = "perfect", *, store: str | None = None, **query: Any) -> Labels:
    """Asks a feedback source of configs/feedback about segments of the table; returns what it answered.

    `query` are settings of `query.`, as in count=500, length=64, kind="pair"; answers are kept in `store`, any
    SQLAlchemy URL (None: in memory). Raises UserError.
    """
    flags = [f"feedback={source}", *(f"query.{name}={value}" for name, value in query.items())]
    settings = RunSettings.parse(compose_config(*flags))
    feedback: FeedbackSource = build(settings.feedback)
    answers = Store(store or "sqlite://")
    feedback.start(Context(answers, table, settings.query, data_dir=settings.data_dir))
    asking = Asking(table=table, query=settings.query, source=feedback, store=answers)
    try:
        asking.ask(0, None)
    finally:
        feedback.stop()
    return asking.labels


def train_reward(
    table: Table, labels: Labels, reward: str = "ensemble", *, seed: int = 0, **changes: Any
) -> RewardModel:
    """A reward model of configs/reward that learned from labels, with `changes` of its settings. Raises UserError."""
    settings = _settings("reward", reward, changes, seed)
    torch.manual_seed(seed)
    model = build_reward(settings, table.spec(), labels.length).to(table.target)
    _run_phases(model.phases(), table, labels, seed)
    return model


def train_policy(
    table: Table,
    algo: str = "cpl",
    *,
    labels: Labels | None = None,
    reward: RewardModel | None = None,
    steps: int = 6000,
    seed: int = 0,
    **changes: Any,
) -> Policy:
    """A policy that an algorithm of configs/algo has learned in `steps` updates, with `changes` of its settings.

    It learns from `labels`, from the table's reward (see `Table.relabel`), or both; `reward` is the attribute model
    that `aligndiff` plans with. Raises UserError.
    """
    settings = _settings("algo", algo, changes, seed, f"steps={steps}")
    learner = build_algorithm(settings.algo, settings, seed, table.spec(), table.target, reward)
    _run_phases(learner.phases(steps), table, labels, seed)
    return learner.policy


def evaluate(
    policy: Policy, env: str, *, episodes: int = 20, seed: int = 0, workers: int = 0, **changes: Any
) -> Evaluation:
    """Success and return, with intervals, of seeded episodes in an environment of configs/env.

    `changes` are its settings: evaluate(policy, "gymnasium", id="MyEnv-v0", module="my_package"). Raises UserError.
    """
    flags = [f"env.{name}={_plain(value)}" for name, value in changes.items()]
    rollout_workers = RolloutWorkers(compose_config(f"env={env}", *flags)["env"], workers)
    try:
        return evaluation.evaluate(rollout_workers, policy, episodes, seed)
    finally:
        rollout_workers.close()


def _settings(part: str, choice: str, changes: dict[str, Any], seed: int, *flags: str) -> RunSettings:
    own = [f"{part}.{name}={_plain(value)}" for name, value in changes.items()]
    return RunSettings.parse(compose_config(f"{part}={choice}", f"seed={seed}", *flags, *own))


def _plain(value: Any) -> str:
    """A value as Hydra reads it."""
    if value is None:
        return "null"
    return str(value).lower() if isinstance(value, bool) or value in (math.inf, -math.inf) else str(value)


def _run_phases(phases: list[Phase], table: Table, labels: Labels | None, seed: int) -> None:
    """Makes all updates of all phases, with batches drawn by `seed`."""
    data = Data(table, torch.Generator(table.device).manual_seed(seed))
    if labels is not None:
        data.set_labels(labels)
    precision = choose_precision("auto", table.target)
    for phase in phases:
        for hook in filter(None, (phase.before, phase.on_labels)):
            hook(data)
        bf16 = precision.suits(learner_of(phase), _draw_example(phase, data))
        engine = Engine(table.target, compile=wants_compile("auto", phase.steps), bf16=bf16)
        update = engine.prepare(phase)
        for _ in trange(phase.steps, desc=phase.name, unit="update"):
            update(phase.draw(data))


def _draw_example(phase: Phase, data: Data) -> Any:
    """A batch, without any change in what is drawn later."""
    state = data.generator.get_state()
    batch = phase.draw(data)
    data.generator.set_state(state)
    return batch
