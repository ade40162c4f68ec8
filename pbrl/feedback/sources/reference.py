"""The value of a reference policy at states of the data, for teachers that compare segments by regret.

It is a Monte-Carlo return: the policy (a scripted expert, or a learned one) is rolled out from each state, which
simulators restore exactly. Nothing is fitted, so the only error is what comes after the last step. CPL takes V from the
critic of a SAC oracle instead (arXiv:2310.13639, D.2), which costs hours of training for each task.
"""

import hashlib
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from pbrl import files
from pbrl.data.frames import without_view
from pbrl.data.rollout import RolloutWorkers, drop_name, stack_observations, to_observation
from pbrl.data.table import Table
from pbrl.models.policy import load_policy
from pbrl.ranges import Count, NotNegative
from pbrl.types import Environment, Policy, UserError

VERSION = 2  # of what a value means; kept values of another one are not read
SHARE = 8  # states per task of a process
KEEP_EVERY = 30.0  # seconds between saves, so that a killed run loses no more


class Reference:
    """Values of rows of one data set; each is computed once and kept in `folder`, for all runs on that data."""

    def __init__(
        self,
        table: Table,
        workers: RolloutWorkers,
        *,
        dataset: str,
        folder: Path,
        discount: float,
        policy: str | None,
        steps: Count,
        samples: Count = 1,
        noise: NotNegative = 0.0,
    ):
        if table.state is None:
            raise UserError(
                "feedback=regret rolls a policy out from simulator states, and this data has none, as where an "
                "environment cannot be restored: choose feedback=perfect"
            )
        self.table, self.workers = table, workers
        check_settings({"steps": steps, "samples": samples, "noise": noise})
        self.settings = {"policy": policy, "steps": steps, "discount": discount, "samples": samples, "noise": noise}
        made_of = {"version": VERSION, "dataset": dataset, "env": drop_name(without_view(workers.env)), **self.settings}
        if policy:
            file = Path(policy) / "policy.pt" if Path(policy).is_dir() else Path(policy)
            made_of["policy"] = hashlib.sha256(file.read_bytes() if file.exists() else b"").hexdigest()
        digest = hashlib.sha256(json.dumps(made_of, sort_keys=True).encode()).hexdigest()[:10]
        Path(folder).mkdir(parents=True, exist_ok=True)  # with data=file it may not exist yet
        self.path = Path(folder) / f"reference-{digest}.pt"
        self.known = self.load()

    def values(self, rows: np.ndarray) -> np.ndarray:
        """rows [...] → the policy's discounted return from there on [...] float64. Raises UserError."""
        table = self.table
        assert table.state is not None
        missing = sorted(set(rows.ravel().tolist()) - self.known.keys())
        shares = [missing[i : i + SHARE] for i in range(0, len(missing), SHARE)]
        episode = table.episode.cpu().numpy()
        starts = [[(int(table.seed[episode[row]]), table.state[row]) for row in share] for share in shares]
        if missing:
            saved_at = time.monotonic()
            with tqdm(total=len(missing), desc="rolling out from segments", unit="state") as bar:
                for i, values in self.workers.map(monte_carlo_values, starts, self.settings):
                    self.known.update(zip(shares[i], values, strict=True))
                    bar.update(len(values))
                    if time.monotonic() - saved_at > KEEP_EVERY:
                        self.save()
                        saved_at = time.monotonic()
            self.save()
        return np.array([self.known[row] for row in rows.ravel().tolist()]).reshape(rows.shape)

    def save(self) -> None:
        """Writes all values known so far, here and by other runs on this data, one at a time."""
        with files.lock(self.path):
            self.known = {**self.load(), **self.known}
            files.save(self.path, {"row": list(self.known), "value": list(self.known.values())})

    def load(self) -> dict[int, float]:
        """The values on disk."""
        state = files.load(self.path, torch.device("cpu"))
        return {} if state is None else dict(zip(state["row"], state["value"], strict=True))


def check_settings(settings: dict[str, Any]) -> None:
    """Raises UserError if rollouts with these settings make no sense."""
    steps, samples, noise = settings["steps"], settings["samples"], settings["noise"]
    if steps < 1 or samples < 1 or (samples > 1) != (noise > 0):
        raise UserError(
            f"reference.steps={steps}, samples={samples}, noise={noise}: steps and samples are at least 1, and several "
            "differ by noise, one has none"
        )


def monte_carlo_values(
    envs: Sequence[Environment], starts: Sequence[tuple[int, np.ndarray]], settings: dict[str, Any]
) -> list[float]:
    """The mean discounted return of a policy from each (episode seed, state).

    It is rolled out for `steps` steps, or to its success; its last reward is taken to repeat for ever. Raises UserError
    where there is no such policy, or the environment cannot be restored.
    """
    env, policy = envs[0], settings["policy"]
    if not env.can_restore:
        raise UserError(
            "feedback=regret rolls a policy out from stored states, and this environment cannot be restored to them: "
            "choose feedback=perfect"
        )
    if policy is None and env.expert is None:
        raise UserError(
            "feedback=regret needs a scripted expert or reference.policy=<run folder>; else choose feedback=perfect"
        )
    learned = load_policy(policy) if policy else None
    values = []
    for seed, state in starts:
        random = np.random.default_rng([seed, *state.view(np.uint32)])  # its own, in whatever order states come
        samples = [rollout_from(env, seed, state, learned, settings, random)[0] for _ in range(settings["samples"])]
        values.append(float(np.mean(samples)))
    return values


def rollout_from(
    env: Environment,
    seed: int,
    state: np.ndarray,
    policy: Policy | None,
    settings: dict[str, Any],
    random: np.random.Generator,
) -> tuple[float, bool]:
    """The discounted return of a policy (None: the expert) from a state, and whether it reached success."""
    obs, rewards, terminated, success = env.restore(seed, state), [], False, False
    expert = env.expert() if policy is None and env.expert is not None else None
    for _ in range(min(settings["steps"], env.horizon)):
        if policy is not None:
            action = policy.act(to_observation(stack_observations([obs])))[0].numpy()
        else:
            assert expert is not None
            action = expert.act(env.full_obs)
        noise = settings["noise"] * random.standard_normal(len(action))
        obs, reward, terminated, _, info = env.step(np.clip(np.clip(action, -1, 1) + noise, -1, 1))
        rewards.append(reward)
        success = bool(info.get("success"))
        if terminated or success:  # some experts leave a success again: that must not count
            break
    weights = settings["discount"] ** np.arange(len(rewards) + 1)
    rest = 0.0 if terminated else rewards[-1] / (1 - settings["discount"])
    return float(weights[:-1] @ np.array(rewards) + weights[-1] * rest), success
