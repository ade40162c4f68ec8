"""The plan of a run: which phases of which learners follow each other, through all rounds of answers."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from pbrl.training.replica import Replica
from pbrl.types import Phase


class Stage(NamedTuple):
    """A phase, or a part of it, of each replica; or, without phases, a round of answers alone.

    `asks`, `relabels` and `plays` say what happens on entering it, before the phase's own hooks: questions are asked,
    the reward model labels the table, the policies play. `is_begin` is whether it is the first part of its phase,
    `trains_policy` whether it trains the policy that is evaluated on the way.
    """

    name: str
    steps: int = 0
    phases: Sequence[Phase] = ()
    asks: bool = False
    relabels: bool = False
    plays: bool = False
    is_begin: bool = True
    trains_policy: bool = False


def plan(replicas: Sequence[Replica], steps: int, *, rounds: int, asks: bool) -> list[Stage]:
    """All stages of a run that trains the policy for `steps` updates, in equal parts after each of `rounds`."""
    return [stage for r in range(rounds) for stage in _round(replicas, steps, r, rounds, asks)]


def _round(replicas: Sequence[Replica], steps: int, r: int, rounds: int, asks: bool) -> Iterator[Stage]:
    if asks:
        yield Stage("answers", asks=True)
    yield from _reward_stages(replicas)
    *first, last = zip(*(replica.algo.phases(steps) for replica in replicas), strict=True)
    relabels = True
    for phases in first if r == 0 else ():
        if phases[0].steps:
            yield Stage(phases[0].name, phases[0].steps, phases, relabels=relabels)
            relabels = False
    total = last[0].steps
    part = total * (r + 1) // rounds - total * r // rounds
    plan = last[0].rollouts
    parts = plan.iterations if plan else 1
    for i in range(parts):
        own = part * (i + 1) // parts - part * i // parts
        is_first = r == 0 and i == 0
        yield Stage(
            "policy", own, last, relabels=relabels, plays=plan is not None, is_begin=is_first, trains_policy=True
        )
        relabels = False


def _reward_stages(replicas: Sequence[Replica]) -> Iterator[Stage]:
    rewards = [replica.reward.phases() for replica in replicas if replica.reward is not None]
    for phases in zip(*rewards, strict=True):
        yield Stage(phases[0].name, phases[0].steps, phases)
