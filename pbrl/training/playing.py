"""A policy's own episodes in a run: played, kept in its folder, and read back when the run goes on."""

import zlib
from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.utils._pytree import tree_map

from pbrl import distributed, files
from pbrl.data.rollout import RolloutWorkers
from pbrl.data.table import Table
from pbrl.training.replica import Replica
from pbrl.types import Episode, Rollouts, UserError


def take_rollouts(
    plan: Rollouts, replica: Replica, iteration: int, workers: RolloutWorkers | None, device: torch.device
) -> tuple[dict[str, float], str]:
    """Lets a replica learn from the episodes of an iteration, and from those before where the plan keeps them.

    They are played on rank 0 and kept in the run's folder, from which they are read where this policy played them. With
    no `workers` they must be there. Returns what is logged of them, and that in a line. Raises UserError.
    """
    policy: Any = replica.algo.policy

    def find(number: int) -> dict[str, Any]:
        file = replica.folder / "rollouts" / f"{number}.pt"
        found = files.load(file, torch.device("cpu"))
        if found is not None and not plan.is_complete(found["trajectories"]):
            found = None
        is_other = found is None or found["policy"] != fingerprint(policy)
        if workers is not None and number == iteration and is_other:
            played = plan.play(workers, policy, replica.seed, number, partial(reward_of, replica))
            found = {"policy": fingerprint(policy), "trajectories": played}
            file.parent.mkdir(exist_ok=True)
            files.save(file, found)
        if found is None:
            raise UserError(
                f"{file} is missing, or an earlier version's, and the run was learning from it: start anew in another "
                "run=…"
            )
        return found["trajectories"]

    numbers = range(1 if plan.keep else iteration, iteration + 1)
    played = [distributed.from_rank_0(partial(find, i)) for i in numbers]
    return plan.give(replica.data, tree_map(lambda x: x.to(device), played))


def reward_of(replica: Replica, episodes: Sequence[Episode]) -> list[np.ndarray]:
    """The reward of each step of new episodes, as the replica's learner sees it in its table: [T] each."""
    table = Table(episodes, replica.table.target, pictures=replica.show(episodes))
    table.relabel_like(replica.table, replica.reward)
    reward = table.labels["reward"].cpu().numpy()
    return [reward[first : first + steps] for first, steps in zip(table.first, table.steps, strict=True)]


def fingerprint(policy: nn.Module) -> int:
    """A number that changes with the policy's parameters."""
    found = 0
    for value in policy.state_dict().values():
        found = zlib.crc32(value.detach().cpu().contiguous().numpy().tobytes(), found)
    return found
