"""What learners learn: the point world, where a clone stays put and a policy from preferences walks to the origin."""

import copy
from functools import partial

import numpy as np
import pytest
import torch

from pbrl.data.table import Table
from pbrl.objectives import logistic
from pbrl.training.batches import Data
from pbrl.training.held_out import evaluate_reward
from tests import toy
from tests.parts import build, labels, train

LENGTH = 8
CPL_SETTINGS = {"lr": 1e-2, "lr_after": 1e-2, "warmup": 0, "cosine_steps": 0, "pretrain_steps": 0}
CRITIC_SETTINGS = {"lr": 3e-3, "discount": 0.9, "tau": 0.05, "batch_size": 64}


@pytest.fixture(scope="module")
def world():
    """Episodes of the point."""
    return toy.table(80)


def data_of(table: Table, held_out: float = 0.0) -> Data:
    return Data(table.view(), torch.Generator().manual_seed(0), held_out=held_out)


def draw_starts(table: Table, *shape: int) -> torch.Tensor:
    places = table.segment_starts(LENGTH)
    return places[torch.randint(len(places), shape, generator=torch.Generator().manual_seed(0))]


def progress(table: Table, starts: torch.Tensor) -> torch.Tensor:
    """How much nearer to the origin a segment ended than it began."""
    return table.obs[starts].norm(dim=-1) - table.obs[starts + LENGTH].norm(dim=-1)


def compare_segments(table: Table, held_out: float = 0.2) -> Data:
    """Comparisons of segments, of which the one that made more progress is preferred."""
    starts, data = draw_starts(table, 600, 2), data_of(table, held_out)
    gain = progress(table, starts)
    value = (gain[:, 1] > gain[:, 0]).double().numpy()
    data.set_labels(labels("pair", starts.numpy(), value, length=LENGTH))
    return data


def test_bc_clones_all_and_percent_bc_the_best(world):
    def learn(fraction):
        bc = build("algo/bc", world.spec(), fraction=fraction, lr=1e-2, cosine_steps=0, batch_size=64)
        return train(bc, data_of(world), 400)

    assert toy.distance_after(learn(0.25).policy) < 0.25
    assert toy.distance_after(learn(1.0).policy) > 0.5


def test_cpl_reaches_the_origin(world):
    loss = partial(logistic, bias=0.75)
    cpl = build("algo/cpl", world.spec(), objective=loss, alpha=1.0, **CPL_SETTINGS)
    assert toy.distance_after(train(cpl, compare_segments(world), 400).policy) < 0.25


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
def test_piql_reaches_the_origin(world, model, changes):
    data = compare_segments(world)
    settings = {"lr": 1e-2, "normalize": "zscore", "batch_size": 32} | changes
    reward = train(build(f"reward/{model}", world.spec(), **settings), data, 300)
    measures = evaluate_reward(data, reward)
    assert measures["held_out_accuracy"] > 0.8 and measures["rank_correlation"] > 0.2
    data.table.relabel(reward)
    iql = build("algo/iql", world.spec(), actor_cosine_steps=0, **CRITIC_SETTINGS)
    assert toy.distance_after(train(iql, data, 800).policy) < 0.25


def test_a_reward_from_demonstrations_reaches_the_origin(world):
    """With no answers: steps like those of the best quarter of the episodes are paid."""
    data, settings = data_of(world), {"lr": 1e-2, "normalize": "zscore", "batch_size": 64}
    reward = train(build("reward/discriminator", world.spec(), demonstrations=0.25, **settings), data, 300)
    assert evaluate_reward(data, reward) == {}, "no answers were held out"
    data.table.relabel(reward)
    iql = build("algo/iql", world.spec(), actor_cosine_steps=0, **CRITIC_SETTINGS)
    assert toy.distance_after(train(iql, data, 800).policy) < 0.25


def test_a_diffusion_policy_is_aligned_by_comparisons(world):
    """Diffusion-DPO walks nearer to the origin than the clone; cloning beside it, FKPD, keeps errors small."""
    kind = {"process": "edm", "horizon": 4, "execute": 4, "width": 32, "layers": 1, "average": 0.98}
    settings = CPL_SETTINGS | {"lr": 3e-3, "lr_after": 1e-3, "pretrain_steps": 300, "batch_size": 32}
    policy, data = build("policy/diffusion", world.spec(), **kind), compare_segments(world)
    clone = build(
        "algo/cpl", world.spec(), policy=policy, objective="bradley_terry", reference=True, alpha=0.3, **settings
    )
    train(clone, data, 0)
    before, errors = toy.distance_after(clone.policy), []
    assert before > 0.5
    for bc_weight, nearer in ((0.0, 0.3), (0.1, before - 0.1)):
        aligned = copy.deepcopy(clone)
        aligned.bc_weight = bc_weight
        errors.append(sum(aligned.update(aligned.draw(data))["bc"].item() for _ in range(200)) / 200)
        assert toy.distance_after(aligned.policy) < nearer
    assert errors[1] < 0.9 * errors[0]


def test_preference_tokens_are_followed_the_more_they_are_guided(world):
    """The same network, told nothing, clones; told that it will do well it comes nearer, and guided nearer still."""
    kind = {"process": "edm", "horizon": 4, "execute": 4, "width": 32, "layers": 1, "average": 0.98, "quality": True}
    policy = build("policy/diffusion", world.spec(), **kind)
    cfgrl = build("algo/cfgrl", world.spec(), policy=policy, lr=3e-3, cosine_steps=0, batch_size=32)
    train(cfgrl, compare_segments(world), 400)
    distance = {}
    for policy.guidance in (0.0, 1.0, 3.0):
        distance[policy.guidance] = toy.distance_after(policy)
    assert distance[0.0] > 0.5 and distance[3.0] < distance[1.0] - 0.05 < distance[0.0] - 0.2, distance


def test_sopo_does_what_was_preferred_where_a_clone_stays(world):
    """It begins at 1, and three in four of the preferred segments go towards the origin; with wrong answers, away."""
    kind = {"process": "edm", "horizon": 4, "execute": 4, "width": 32, "layers": 1, "average": 0.98, "sample_steps": 4}
    settings = CPL_SETTINGS | {"lr": 3e-3, "lr_after": 1e-3, "pretrain_steps": 300, "batch_size": 32}
    data, distance = compare_segments(world), []
    for _ in ("right", "wrong"):
        policy = build("policy/diffusion", world.spec(), **kind)
        sopo = build("algo/sopo", world.spec(), policy=policy, objective="bradley_terry", alpha=0.3, **settings)
        train(sopo, data, 200)
        distance.append(toy.distance_after(policy))
        data.train.value.neg_().add_(1)
    assert distance[0] < 0.75 and distance[1] > 1.3, distance


def test_idql_chooses_the_chunks_that_walk_to_the_origin(world):
    """The clone stays where it is; of 16 of its chunks the best by a learnt reward walk there, and the worst away."""
    data = compare_segments(world)
    data.table.relabel(train(build("reward/ensemble", world.spec(), lr=1e-2, batch_size=32), data, 300))
    kind = {"process": "edm", "horizon": 4, "execute": 4, "width": 32, "layers": 1, "average": 0.98}
    policy = build("policy/best_of_n", world.spec(), candidates=16, hidden=[64, 64], **kind)
    settings = {"lr": 3e-3, "actor_cosine_steps": 0, "batch_size": 64, "discount": 0.9, "tau": 0.05}
    train(build("algo/idql", world.spec(), policy=policy, **settings), data, 400)
    best = toy.distance_after(policy)
    policy.candidates = 1
    alone = toy.distance_after(policy)
    policy.candidates = 16
    with torch.no_grad():
        for p in policy.q.layers[-1].parameters():
            p.neg_()
    assert alone > 0.5 and best < 0.3 and toy.distance_after(policy) > alone, (alone, best)


def test_dppo_reaches_the_origin(world):
    """CPL on pairs from all data, which a reward model compares that was trained on a few answers."""
    data = compare_segments(world)
    data.table.relabel(train(build("reward/ensemble", world.spec(), lr=1e-2, batch_size=32), data, 300))
    loss = partial(logistic, bias=0.75)
    dppo = build("algo/dppo", world.spec(), objective=loss, alpha=1.0, **CPL_SETTINGS)
    assert toy.distance_after(train(dppo, data, 400).policy) < 0.25


@pytest.mark.parametrize("objective", ["plackett_luce", "lipo_lambda"])
def test_lists_train_a_reward_and_a_policy(world, objective):
    """Segments of twelve rankings, by their progress, and lists of five drawn from them."""
    starts, data = draw_starts(world, 12, 40), data_of(world, held_out=0.2)
    rank = progress(world, starts).argsort(-1).argsort(-1).flatten().numpy()
    group = np.repeat(np.arange(12), 40)
    data.set_labels(labels("ranking", starts.reshape(-1, 1).numpy(), rank, group=group, length=LENGTH))
    reward = build("reward/ensemble", world.spec(), lr=1e-2, objective=objective, batch_size=32)
    assert evaluate_reward(data, train(reward, data, 300))["held_out_accuracy"] > 0.8
    cpl = build("algo/cpl", world.spec(), objective=objective, alpha=1.0, **CPL_SETTINGS)
    assert toy.distance_after(train(cpl, data, 400).policy) < 0.25


@pytest.mark.parametrize("objective", ["kto", "dro"])
def test_good_and_bad_marks_train_a_policy(world, objective):
    """One segment in four is marked as good, that which made the most progress; no two are compared."""
    starts, data = draw_starts(world, 600), data_of(world)
    gain = progress(world, starts)
    good = (gain > gain.quantile(0.75)).double().numpy()
    data.set_labels(labels("spans", starts[:, None].numpy(), good, length=LENGTH))
    settings = CPL_SETTINGS | {"pretrain_steps": 200, "reference": True, "alpha": 0.1, "batch_size": 64}
    cpl = build("algo/cpl", world.spec(), objective=objective, **settings)
    train(cpl, data, 0)
    assert toy.distance_after(cpl.policy) > 0.4
    _, finetuning = cpl.phases(400)
    for _ in range(finetuning.steps):
        finetuning.update(finetuning.draw(data))
    assert toy.distance_after(cpl.policy) < 0.25


@pytest.mark.parametrize("name,steps", [("td3bc", 3500), ("awac", 1000)])
def test_actor_critics_reach_the_origin(world, name, steps):
    algo = build(f"algo/{name}", world.spec(), **CRITIC_SETTINGS)
    assert toy.distance_after(train(algo, data_of(world), steps).policy) < 0.25


def test_ipl_reaches_the_origin(world):
    # the penalty of segments half as long as the paper's
    ipl = build("algo/ipl", world.spec(), penalty=1.5, actor_cosine_steps=0,
                **CRITIC_SETTINGS | {"batch_size": 16, "step_batch_size": 64})  # fmt: skip
    assert toy.distance_after(train(ipl, compare_segments(world), 1500).policy) < 0.25


def test_iswbc_reaches_the_origin(world):
    """Steps of preferred segments are separated from all steps, and the policy clones similar steps."""
    settings = {"lr": 3e-3, "cosine_steps": 0, "batch_size": 16, "step_batch_size": 64}
    iswbc = build("algo/iswbc", world.spec(), **settings)
    assert toy.distance_after(train(iswbc, compare_segments(world), 1000).policy) < 0.25


@pytest.mark.parametrize("name,steps", [("dtr", 400), ("qt", 400), ("dt", 400)])
def test_transformers_reach_the_origin(world, name, steps):
    changes = {"cosine_steps": 0, "lr": 3e-3, "batch_size": 64}
    changes |= {} if name == "dt" else {"discount": 0.9, "tau": 0.05}
    algo = build(f"algo/{name}", world.spec(), **changes)
    assert toy.distance_after(train(algo, data_of(world), steps).policy) < 0.3
