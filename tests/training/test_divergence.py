"""A training whose loss is no number any more ends with a sentence, and leaves no policy."""

import numpy as np
import pytest
import torch

from pbrl.data.table import Table
from pbrl.feedback.sources.scripted import Teacher
from pbrl.models.policy import save_policy
from pbrl.run import train as run
from pbrl.types import UserError
from tests import toy
from tests.parts import build, config


def test_a_training_that_diverges(tmp_path):
    flags = ["env=tests/point", "data=noise", "data.success=null", "data.behaviour.strength=0.7", "data.episodes=10",
             "algo=iql", "algo.lr=1e9", "feedback=none", "compare=false", "video=false", "workers=0", "compile=never",
             "steps=20", "eval_every=20", "log_every=5", "checkpoint_every=5", "policy.hidden=[8]",
             f"run={tmp_path / 'run'}", f"data_dir={tmp_path / 'data'}",
             "hydra.searchpath=[file://tests/configs]"]  # fmt: skip
    with pytest.raises(UserError, match=r"training diverged: .* of policy became (nan|inf|-inf) within the 5 updates"):
        run.train(config(*flags))
    assert not list((tmp_path / "run").rglob("policy.pt"))


def test_a_policy_of_nan_is_not_saved(tmp_path):
    policy = build("algo/bc").policy
    next(iter(policy.parameters())).data.fill_(torch.nan)
    with pytest.raises(UserError, match="are NaN, so .*policy.pt was not written"):
        save_policy(policy, tmp_path / "policy.pt")
    assert not (tmp_path / "policy.pt").exists()


def test_a_scripted_teacher_does_not_answer_about_nan():
    table = Table(toy.episodes(3))
    table.reward[table.first[1] + 12] = torch.nan
    teacher = Teacher(criterion="return", discount=0.99, beta=np.inf, gamma=1.0, mistake=0.0, skip=0.0, equal=0.0,
                      seed=0, reference=None)  # fmt: skip
    first = int(table.first[1])
    label, _ = teacher.label(table, torch.tensor([[0, first]]), 8, np.zeros((1, 2)))
    assert label[0] in (0, 0.5, 1)
    with pytest.raises(UserError, match="the return of the segment of episode 1 from step 10 on is nan"):
        teacher.label(table, torch.tensor([[0, first + 10]]), 8, np.zeros((1, 2)))
