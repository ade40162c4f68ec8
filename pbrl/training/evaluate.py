"""How good a policy is: seeded episodes, vectorized, with confidence intervals."""

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import binomtest, bootstrap, trim_mean

from pbrl.data.rollout import PolicyActor, RolloutWorkers
from pbrl.types import Episode, Policy


@dataclass(frozen=True)
class Evaluation:
    """Of some episodes: mean, interquartile mean, 95 % interval and largest of the return; success where known."""

    episodes: int
    return_mean: float
    return_iqm: float
    return_max: float
    return_interval: tuple[float, float]
    success: float | None  # reached at any step
    success_interval: tuple[float, float] | None
    success_at_end: float | None

    def __str__(self) -> str:
        if self.success is None or self.success_interval is None:
            low, high = self.return_interval
            return f"return {self.return_mean:.1f} [{low:.1f}, {high:.1f}]"
        low, high = self.success_interval
        return f"success {self.success:.0%} [{low:.0%}, {high:.0%}], return {self.return_mean:.0f}"


def evaluate(pool: RolloutWorkers, policy: Policy, episodes: int, seed: int = 0) -> Evaluation:
    """Rolls out `episodes` episodes; each `seed` has its own, up to 100,000 of them."""
    return summarize(rollout_policy(pool, policy, episodes, seed))


def rollout_policy(
    pool: RolloutWorkers, policy: Policy, episodes: int, seed: int = 0, videos: Path | None = None
) -> list[Episode]:
    """The episodes themselves, in the order of their seeds.

    `videos` is the folder for frames of environments that cannot be restored; None: frames are not kept.
    """
    on_cpu: Any = copy.deepcopy(policy)  # episodes are rolled out there, perhaps in other processes
    return pool.collect(PolicyActor(on_cpu.to("cpu")), evaluation_seeds(episodes, seed), videos=videos)


def evaluation_seeds(episodes: int, seed: int = 0) -> range:
    """Seeds of episodes for evaluation: the same for every run, and none of the data's."""
    first = 10_000_019 + 100_000 * seed
    return range(first, first + episodes)


def summarize(episodes: Sequence[Episode]) -> Evaluation:
    """Success with Wilson's interval, return with a bootstrap interval (percentiles, 95 %)."""
    returns = np.array([e.reward.sum() for e in episodes], np.float64)
    interval = (float(returns.min()), float(returns.max()))
    if len(returns) > 1 and returns.std() > 0:
        found = bootstrap((returns,), np.mean, n_resamples=2000, method="percentile", rng=np.random.default_rng(0))
        interval = (float(found.confidence_interval.low), float(found.confidence_interval.high))
    measures: dict[str, Any] = {"success": None, "success_interval": None, "success_at_end": None}
    if all(e.success is not None for e in episodes):
        reached = int(sum(e.success.any() for e in episodes))  # type: ignore[union-attr]
        wilson = binomtest(reached, len(episodes)).proportion_ci(method="wilson")
        measures = {
            "success": reached / len(episodes),
            "success_interval": (float(wilson.low), float(wilson.high)),
            "success_at_end": float(np.mean([e.success[-1] for e in episodes])),  # type: ignore[index]
        }
    return Evaluation(
        episodes=len(returns),
        return_mean=float(returns.mean()),
        return_iqm=float(trim_mean(returns, 0.25)),
        return_max=float(returns.max()),
        return_interval=interval,
        **measures,
    )
