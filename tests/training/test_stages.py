"""The plan of a run: which stages follow each other, and when the hooks of their phases run."""

import pytest
import torch
from torch import nn

from pbrl.data.table import Table
from pbrl.settings import Schedule
from pbrl.training.log import Log
from pbrl.training.loop import Training
from pbrl.training.replica import Replica
from pbrl.training.stages import plan
from pbrl.types import Phase, Transitions
from tests import toy


class Traced(nn.Module):
    """A learner that notes what it is called for: `pretrain` and `policy`, or only the last."""

    def __init__(self, events: list[str], pretrain_steps: int | None = None):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))
        self.events, self.pretrain_steps, self.stop_after = events, pretrain_steps, 1000

    def phases(self, steps: int) -> list[Phase]:
        def note(what):
            return lambda data: self.events.append(what)

        last = Phase("policy", steps, self.draw, self.update, before=note("before"), on_labels=note("on_labels"))
        if self.pretrain_steps is None:
            return [last]
        first = Phase("pretrain", self.pretrain_steps, self.draw, self.clone, before=note("before pretrain"))
        return [first, last]

    def draw(self, data) -> Transitions:
        return data.transitions(4)

    def clone(self, batch: Transitions):
        self.events.append("clone")
        return {"loss": batch.reward.mean()}

    def update(self, batch: Transitions):
        if self.events.count("update") == self.stop_after:
            raise KeyboardInterrupt
        self.events.append("update")
        return {"loss": batch.reward.mean()}


class TracedReward(nn.Module):
    gives, normalize = "reward", "none"

    def __init__(self, events: list[str], steps: int):
        super().__init__()
        self.events, self.steps = events, steps

    def phases(self) -> list[Phase]:
        return [Phase("reward", self.steps, lambda data: data.transitions(4), self.update)]

    def update(self, batch: Transitions):
        self.events.append("reward")
        return {"loss": batch.reward.mean()}

    def label(self, table: Table) -> torch.Tensor:
        self.events.append("label")
        return table.reward[None]


def replica(folder, events, pretrain_steps=None, reward_steps=None) -> Replica:
    reward = None if reward_steps is None else TracedReward(events, reward_steps)
    return Replica(0, folder, toy.table(4), Traced(events, pretrain_steps), reward, Log(folder))  # type: ignore[arg-type]


def describe(stages) -> list[tuple]:
    return [(s.name, s.steps, s.asks, s.relabels, s.is_begin, s.trains_policy) for s in stages]


ASK = ("answers", 0, True, False, True, False)


@pytest.mark.parametrize("rounds", [1, 3])
@pytest.mark.parametrize("reward", [None, 5])
@pytest.mark.parametrize("pretrain", [None, 0, 7])
def test_the_stages_of_a_run(tmp_path, rounds, reward, pretrain):
    found = describe(plan([replica(tmp_path, [], pretrain, reward)], 10, rounds=rounds, asks=True))
    expected = []
    for r in range(rounds):
        expected.append(ASK)
        if reward:
            expected.append(("reward", 5, False, False, True, False))
        pretrains = r == 0 and bool(pretrain)
        if pretrains:
            expected.append(("pretrain", 7, False, True, True, False))
        part = {1: [10], 3: [3, 3, 4]}[rounds][r]
        expected.append(("policy", part, False, not pretrains, r == 0, True))
    assert found == expected


def test_without_questions_there_is_no_stage_of_answers(tmp_path):
    found = describe(plan([replica(tmp_path, [])], 10, rounds=1, asks=False))
    assert found == [("policy", 10, False, True, True, True)]


def test_each_stage_has_a_phase_of_every_seed(tmp_path):
    replicas = [replica(tmp_path, [], 7, 5) for _ in range(3)]
    for stage in plan(replicas, 10, rounds=2, asks=True):
        learners = [phase.update.__self__ for phase in stage.phases]  # type: ignore[attr-defined]
        own = [r.reward if stage.name == "reward" else r.algo for r in replicas]
        assert learners == ([] if stage.asks else own)


@pytest.mark.parametrize("pretrain", [None, 0, 2])
@pytest.mark.parametrize("reward", [None, 1])
def test_before_runs_once_and_on_labels_ahead_of_every_part(tmp_path, monkeypatch, pretrain, reward):
    """A phase without steps is left out, hooks included; the phase after it still has its own."""
    events: list[str] = []
    one = replica(tmp_path, events, pretrain, reward)
    monkeypatch.setattr(Training, "_ask", lambda self: events.append("ask"))
    monkeypatch.setattr("pbrl.training.loop.evaluate_reward", lambda data, model: {})
    training = Training(folder=tmp_path, replicas=[one], schedule=Schedule(4, 1, 10, 1, 1, 1), workers=None,
                        device=torch.device("cpu"), compile="never")  # fmt: skip
    training.stages = plan([one], 4, rounds=2, asks=True)
    training.run()
    clone = ["before pretrain", "clone", "clone"] if pretrain else []
    answers = ["ask", *(["reward", "label"] if reward else [])]
    part = ["on_labels", "update", "update"]
    assert events == [*answers, *clone, "before", *part, *answers, *part]


def test_a_run_that_is_resumed_within_a_part_runs_no_hook_again(tmp_path):
    events: list[str] = []

    def run(stop_after: int):
        one = replica(tmp_path, events, 2)
        one.algo.stop_after = stop_after  # type: ignore[attr-defined]
        Training(folder=tmp_path, replicas=[one], schedule=Schedule(4, 1, 10, 1, 1, 1), workers=None,
                 device=torch.device("cpu"), compile="never").run()  # fmt: skip

    with pytest.raises(KeyboardInterrupt):
        run(stop_after=2)
    run(stop_after=100)
    assert events == ["before pretrain", "clone", "clone", "before", "on_labels", *["update"] * 4]
