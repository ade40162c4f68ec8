"""A policy's own episodes in a run: played, kept in its folder, and read back when the run goes on."""

from functools import partial
from typing import Any

import torch

from pbrl import distributed, files
from pbrl.data.rollout import RolloutWorkers
from pbrl.data.trajectories import Trajectories, fingerprint, from_state, join, play_iteration, to_state
from pbrl.models.policy import LikelihoodPolicy
from pbrl.training.replica import Replica
from pbrl.types import Rollouts, UserError


def take_trajectories(
    plan: Rollouts, replica: Replica, iteration: int, workers: RolloutWorkers | None, device: torch.device
) -> Trajectories:
    """The episodes of an iteration, which its replica learns from, with those before where the plan keeps them.

    They are played on rank 0 and kept in the run's folder, from which they are read where this policy played them. With
    no `workers` they must be there. Raises UserError.
    """
    policy = replica.algo.policy
    assert isinstance(policy, LikelihoodPolicy)

    def find(number: int) -> dict[str, Any]:
        file = replica.folder / "rollouts" / f"{number}.pt"
        found = files.load(file, torch.device("cpu"))
        if found is not None and "part" not in found["trajectories"]:  # an earlier version's
            found = None
        is_other = found is None or found["policy"] != fingerprint(policy)
        if workers is not None and number == iteration and is_other:
            own = play_iteration(workers, policy, plan, replica.seed, number)
            found = {"policy": fingerprint(policy), "trajectories": to_state(own)}
            file.parent.mkdir(exist_ok=True)
            files.save(file, found)
        if found is None:
            raise UserError(
                f"{file} is missing, or an earlier version's, and the run was learning from it: start anew in another "
                "run=…"
            )
        return found["trajectories"]

    numbers = range(1 if plan.keep else iteration, iteration + 1)
    played = [from_state(distributed.from_rank_0(partial(find, i)), device) for i in numbers]
    replica.data.set_trajectories(join(played), margin=plan.margin, same_scene=plan.same_scene, mistake=plan.mistake)
    return played[-1]
