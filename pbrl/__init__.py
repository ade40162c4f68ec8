"""Preference-based reinforcement learning for robots.

table = pbrl.load_table("hopper_medium_replay-v2.hdf5")
labels = pbrl.ask(table, "perfect", kind="pair", count=500, length=64)
policy = pbrl.train_policy(table, "cpl", labels=labels)
print(pbrl.evaluate(policy, "gym/hopper"))
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from pbrl.api import ask, evaluate, load_table, train_policy, train_reward
    from pbrl.data.table import Table
    from pbrl.models.policy import load_policy, save_policy
    from pbrl.online.buffer import EpisodeReplayBuffer
    from pbrl.online.environment import LearnedRewardEnv
    from pbrl.online.reward import load_learned_reward
    from pbrl.types import Clip, Episode, Observation, UserError

HOMES = {  # imported when they are first used: PyTorch takes seconds
    "ask": "pbrl.api",
    "evaluate": "pbrl.api",
    "load_table": "pbrl.api",
    "train_policy": "pbrl.api",
    "train_reward": "pbrl.api",
    "Table": "pbrl.data.table",
    "load_policy": "pbrl.models.policy",
    "save_policy": "pbrl.models.policy",
    "EpisodeReplayBuffer": "pbrl.online.buffer",
    "LearnedRewardEnv": "pbrl.online.environment",
    "load_learned_reward": "pbrl.online.reward",
    "Clip": "pbrl.types",
    "Episode": "pbrl.types",
    "Observation": "pbrl.types",
    "UserError": "pbrl.types",
}
__all__ = [
    "ask",
    "evaluate",
    "load_table",
    "train_policy",
    "train_reward",
    "Table",
    "load_policy",
    "save_policy",
    "EpisodeReplayBuffer",
    "LearnedRewardEnv",
    "load_learned_reward",
    "Clip",
    "Episode",
    "Observation",
    "UserError",
]


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


def __getattr__(name: str) -> Any:
    if name not in HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(HOMES[name]), name)
