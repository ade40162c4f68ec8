"""What learners learn: the point world, where a clone stays put and whoever hears preferences walks home."""

from functools import partial

import pytest
import torch

from pbrl.objectives import logistic
from pbrl.training.batches import Preferences
from pbrl.types import PairsAndSteps, PairsAndUnasked
from tests import toy
from tests.parts import build


@pytest.fixture(scope="module")
def world():
    table = toy.table(80)
    preferences = Preferences(table, kind="pair", length=8, held_out=0.2, seed=0)
    places = table.segment_starts(8)
    starts = places[torch.randint(len(places), (600, 2), generator=torch.Generator().manual_seed(0))]
    progress = -(table.obs[starts + 8].norm(dim=-1) - table.obs[starts].norm(dim=-1))  # how much nearer it ended
    preferences.add(starts.numpy(), (progress[:, 1] > progress[:, 0]).double().numpy())
    return table, preferences


def train(learner, draw, steps):
    for _ in range(steps):
        learner.update(draw())
    return learner


def test_bc_clones_all_and_percent_bc_the_best(world):
    table, _ = world
    g = torch.Generator().manual_seed(0)

    def learnt(fraction):
        bc = build("algo/bc", table.spec(), fraction=fraction, lr=1e-2, cosine_steps=0)
        rows = bc.rows(table)
        return train(bc, lambda: table.transitions(rows[torch.randint(len(rows), (64,), generator=g)]), 400)

    assert toy.distance_after(learnt(0.25).policy) < 0.25
    assert toy.distance_after(learnt(1.0).policy) > 0.5


def test_cpl_walks_home(world):
    table, preferences = world
    g = torch.Generator().manual_seed(0)
    cpl = build(
        "algo/cpl",
        table.spec(),
        lr=1e-2,
        lr_after=1e-2,
        warmup=0,
        cosine_steps=0,
        objective=partial(logistic, bias=0.75),
        alpha=1.0,
    )
    train(cpl, lambda: preferences.sample(16, g), 400)
    assert toy.distance_after(cpl.policy) < 0.25


@pytest.mark.parametrize(
    "model,changes",
    [
        ("ensemble", {}),
        ("ensemble", {"objective": "robust"}),
        ("linear", {}),
        ("surf", {"crop": 2}),
        ("transformer", {"lr": 3e-3, "dropout": 0.0}),
        ("lstm", {}),
    ],
)
def test_piql_walks_home(world, model, changes):
    table, preferences = world
    g = torch.Generator().manual_seed(0)
    reward = build(f"reward/{model}", table.spec(), **{"lr": 1e-2, "normalize": "zscore"} | changes)

    def draw():
        pairs = preferences.sample(32, g)
        return PairsAndUnasked(pairs, preferences.sample_unasked(128, g)) if reward.batch is PairsAndUnasked else pairs

    train(reward, draw, 300)
    judged = preferences.judge(reward)
    assert judged["held_out_accuracy"] > 0.8 and judged["rank_correlation"] > 0.2
    table.relabel(reward)
    iql = build("algo/iql", table.spec(), lr=3e-3, actor_cosine_steps=0, discount=0.9, tau=0.05)
    train(iql, lambda: table.transitions(table.rows[torch.randint(len(table.rows), (64,), generator=g)]), 800)
    assert toy.distance_after(iql.policy) < 0.25


@pytest.mark.parametrize("objective", ["plackett_luce", "lipo_lambda"])
def test_lists_teach_a_reward_and_a_policy(objective):
    """Segments of six rankings, by how much nearer they came, and lists of five drawn from them."""
    table = toy.table(80)
    places, g = table.segment_starts(8), torch.Generator().manual_seed(0)
    rankings = Preferences(table, kind="ranking", length=8, held_out=0.2, seed=0)
    for _ in range(6):
        starts = places[torch.randint(len(places), (40,), generator=g)]
        progress = table.obs[starts].norm(dim=-1) - table.obs[starts + 8].norm(dim=-1)
        rankings.add(starts[:, None].numpy(), progress.argsort().argsort().double().numpy())
    reward = build("reward/ensemble", table.spec(), lr=1e-2, objective=objective)
    train(reward, lambda: rankings.sample(16, g, reward.segments), 300)
    assert rankings.judge(reward)["held_out_accuracy"] > 0.8
    changes = {"lr": 1e-2, "lr_after": 1e-2, "warmup": 0, "cosine_steps": 0, "alpha": 1.0}
    cpl = build("algo/cpl", table.spec(), objective=objective, **changes)
    train(cpl, lambda: rankings.sample(16, g, cpl.segments), 400)
    assert toy.distance_after(cpl.policy) < 0.25


@pytest.mark.parametrize("objective", ["kto", "dro"])
def test_marks_of_good_and_bad_teach_a_policy(objective):
    """One segment in four is marked as good, the one that came nearest; no two are compared."""
    table = toy.table(80)
    places, g = table.segment_starts(8), torch.Generator().manual_seed(0)
    starts = places[torch.randint(len(places), (600,), generator=g)]
    progress = table.obs[starts].norm(dim=-1) - table.obs[starts + 8].norm(dim=-1)
    marks = Preferences(table, kind="spans", length=8, held_out=0.0, seed=0)
    marks.add(starts[:, None].numpy(), (progress > progress.quantile(0.75)).double().numpy())
    changes = {"lr": 1e-2, "lr_after": 1e-2, "warmup": 0, "cosine_steps": 0, "alpha": 0.2}
    cpl = build("algo/cpl", table.spec(), objective=objective, reference=True, pretrain_steps=200, **changes)
    for _ in range(200):
        cpl.pretrain(marks.sample(16, g, cpl.segments))
    cpl.begin()
    assert toy.distance_after(cpl.policy) > 0.4
    train(cpl, lambda: marks.sample(16, g, cpl.segments), 400)
    assert toy.distance_after(cpl.policy) < 0.25


@pytest.mark.parametrize("name", ["td3bc", "awac"])
def test_actor_critics_walk_home(name):
    table = toy.table(80)
    g = torch.Generator().manual_seed(0)
    algo = build(f"algo/{name}", table.spec(), lr=3e-3, discount=0.9, tau=0.05)
    train(algo, lambda: table.transitions(table.rows[torch.randint(len(table.rows), (64,), generator=g)]), 3500)
    assert toy.distance_after(algo.policy) < 0.25


def test_ipl_walks_home(world):
    table, preferences = world
    g = torch.Generator().manual_seed(0)
    # the penalty of segments half as long as the paper's
    ipl = build("algo/ipl", table.spec(), penalty=1.5, lr=3e-3, actor_cosine_steps=0, discount=0.9, tau=0.05)

    def draw():
        steps = table.transitions(table.rows[torch.randint(len(table.rows), (64,), generator=g)])
        return PairsAndSteps(preferences.sample(16, g), steps)

    train(ipl, draw, 1500)
    assert toy.distance_after(ipl.policy) < 0.25


@pytest.mark.parametrize("name,steps", [("dtr", 1200), ("qt", 1200), ("dt", 400)])
def test_transformers_walk_home(world, name, steps):
    table, _ = world
    g = torch.Generator().manual_seed(0)
    table.learned = table.reward
    changes = {"cosine_steps": 0, "lr": 3e-3} | ({} if name == "dt" else {"discount": 0.9, "tau": 0.05})
    algo = build(f"algo/{name}", table.spec(), **changes)
    algo.measure(table)
    train(algo, lambda: table.windows(table.rows[torch.randint(len(table.rows), (64,), generator=g)], 4), steps)
    algo.policy.reset()
    assert toy.distance_after(algo.policy) < 0.3
