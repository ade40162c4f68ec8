"""reward=rapl: triplets align features, likeness to preferred videos is a reward, and bad input is a sentence."""

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr

from pbrl import api
from pbrl.data.table import Table
from pbrl.feedback.questions import Question, Value
from pbrl.feedback.read import find_fault
from pbrl.feedback.store.answers import Answer
from pbrl.feedback.strategies import choose
from pbrl.models import transport
from pbrl.rewards.rapl import split_episodes
from pbrl.run.validate import validate
from pbrl.settings import RunSettings
from pbrl.training.batches import Data
from pbrl.training.vmap import LearnerStack
from pbrl.types import Clip, Comparisons, Episode, UserError
from tests.parts import build, config, labels

F, STEPS, N = 80, 6, 60  # features, steps of a video, videos


def toy(seed: int = 0) -> tuple[Table, np.ndarray]:
    """Videos of the same way, in which one feature of eighty tells their costs [N], and the others what matters not."""
    random = np.random.default_rng(seed)
    cost, frames = random.uniform(size=N), STEPS + 1
    time = np.linspace(0, 1, frames)[None, :, None]
    mixed = random.normal(size=(8, F - 1))
    nuisance = random.normal(size=(N, 1, 8)) * (0.5 + time) + 0.2 * random.normal(size=(N, frames, 8))
    telling = (cost[:, None, None] - 0.5) * np.ones((N, frames, 1)) + 0.05 * random.normal(size=(N, frames, 1))
    features = np.concatenate([telling, nuisance @ mixed], 2).reshape(N * frames, F).astype(np.float32)
    zeros = np.zeros((frames, 1), np.float32)
    reward = np.repeat(-cost[:, None], STEPS, 1).astype(np.float32)
    table = Table([Episode(i, zeros + i, zeros[1:], reward[i], False) for i in range(N)], pictures=features)
    return table, cost


def make_reward(**changes):
    """Features as they are: of these few, what matters varies less than others do."""
    small = {"features": F, "frames": 4, "embedding": 8, "batch_size": 16, "hidden": [], "lr": 2e-2, "least_spread": 0}
    return build("reward/rapl", **{**small, "preferred": [0, 1, 2], **changes})


def answer(table: Table, kind: str, n: int = 150, flipped: float = 0.0):
    found = api.ask(table, kind=kind, count=n, length=STEPS, held_out=0)
    if flipped:
        flip = np.random.default_rng(5).uniform(size=found.size) < flipped
        found = found._replace(value=np.where(flip, 1 - found.value, found.value))
    return found


def data_of(table: Table, found) -> Data:
    data = Data(table, torch.Generator().manual_seed(0))
    data.set_labels(found)
    return data


def train(model, data: Data, steps: int):
    align, preferred = model.phases()
    align.before(data)
    for _ in range(steps if model.align else 0):
        align.update(align.draw(data))
    preferred.before(data)
    return model


def correlation(model, table: Table, cost: np.ndarray) -> float:
    """Spearman's, between predicted returns and true costs."""
    reward = model.label(table)[0]
    reward[table.closing] = 0
    return float(spearmanr(reward.reshape(N, STEPS + 1).sum(1), -cost)[0])


# What it learns


@pytest.fixture(scope="module")
def world():
    table, cost = toy()
    return table, cost, np.argsort(cost)[:3].tolist()


@pytest.mark.parametrize("kind", ["triplet", "pair"])
def test_alignment_finds_what_matters(kind, world):
    table, cost, best = world
    frozen_transport = train(make_reward(align=False, preferred=best), data_of(table, answer(table, "triplet")), 0)
    assert abs(correlation(frozen_transport, table, cost)) < 0.35
    named = best if kind == "triplet" else None
    model = train(make_reward(preferred=named), data_of(table, answer(table, kind)), 200)
    assert correlation(model, table, cost) > 0.6


def test_answers_of_which_half_are_wrong_teach_nothing(world):
    table, cost, best = world
    model = train(make_reward(preferred=best), data_of(table, answer(table, "triplet", flipped=0.5)), 100)
    assert abs(correlation(model, table, cost)) < 0.5


def test_the_goal_distance_is_that_to_the_mean_of_last_frames(world):
    table, _, best = world
    model = train(make_reward(align=False, matching="goal", preferred=best), data_of(table, answer(table, "pair")), 0)
    features = (table.pictures - table.pictures.mean(0)) / table.pictures.std(0) / (2 * F) ** 0.5
    goal = features[table.closing[best]].mean(0)
    expected = -(features - goal).norm(dim=1)
    rows = table.rows
    torch.testing.assert_close(model.label(table)[0, rows], expected[rows], rtol=1e-4, atol=1e-5)


def test_a_preferred_video_has_the_best_reward_and_scores_are_sums(world):
    table, _, best = world
    model = train(make_reward(preferred=best, frames=STEPS + 1), data_of(table, answer(table, "triplet")), 5)
    starts = table.opening[:, None]
    score = model.score_at(table, starts, STEPS)
    assert score.shape == (1, N, 1) and set(score[0, :, 0].topk(3).indices.tolist()) == set(best)
    reward = model.label(table)[0].reshape(N, STEPS + 1)[:, :STEPS]
    assert (reward <= 0).all() and set(reward.sum(1).topk(3).indices.tolist()) == set(best)


def test_preferred_videos_of_another_robot(world):
    """Its observations and actions have other sizes, and its pictures are the same: so is the reward."""
    table, _, best = world
    rows = np.concatenate([np.arange(i, i + STEPS + 1) for i in table.first[best]])
    zeros = np.zeros((STEPS + 1, 5), np.float32)
    episodes = [Episode(i, zeros, zeros[1:, :3], zeros[1:, 0], False) for i in range(3)]
    beside, found = toy()[0], answer(table, "triplet", 30)
    beside.beside = Table(episodes, pictures=table.pictures[rows].numpy())
    ours = train(make_reward(preferred=best), data_of(table, found), 3)
    theirs = make_reward(preferred=[0, 1, 2], adapt=False)
    theirs.load_state_dict(ours.state_dict())
    theirs.preferred.zero_()
    train(theirs, data_of(beside, found), 0)
    assert torch.equal(theirs.preferred, ours.preferred) and torch.equal(theirs.label(table), ours.label(table))
    with pytest.raises(UserError, match="0 to 2"):
        train(make_reward(preferred=[3]), data_of(beside, found), 0)
    with pytest.raises(UserError, match="without answers"):
        train(make_reward(preferred=None), data_of(beside, answer(table, "pair", 30)), 0)


def test_another_robots_frames_that_are_scaled_and_moved_are_the_same_frames(world):
    """Each data set's features are standardized by its own mean and spread, so that affine maps of them cancel."""
    table, _, best = world
    random = np.random.default_rng(3)
    scale, offset = random.uniform(0.5, 2, F).astype(np.float32), random.normal(size=F).astype(np.float32)
    other = toy()[0]
    other.pictures = other.pictures * torch.from_numpy(scale) + torch.from_numpy(offset)
    found = answer(table, "triplet", 30)
    model = train(make_reward(preferred=best), data_of(table, found), 3)
    expected, naive = model.label(table), model.label(other)
    model.adapt_to(other)  # answers and videos of the first, episodes of the second
    assert (model.label(other) - expected).abs().max() < 1e-3 < 0.1 < (naive - expected).abs().max()
    beside = toy()[0]
    beside.beside = other  # answers about the first, videos of the second
    for adapts in (True, False):
        again = train(make_reward(preferred=best, adapt=adapts), data_of(beside, found), 3)
        away = (again.label(beside) - expected).abs().max()
        assert away < 1e-3 if adapts else away > 0.1


def test_a_long_episode_is_matched_in_parts_of_the_videos_length():
    features = np.random.default_rng(0).normal(size=(30, F)).astype(np.float32)
    steps = [20, 8]
    zeros = np.zeros((21, 1), np.float32)
    episodes = [Episode(i, zeros[: n + 1] + i, zeros[:n], zeros[:n, 0], False) for i, n in enumerate(steps)]
    table = Table(episodes, pictures=features)
    rows, mask = split_episodes(table, 7)
    assert mask.sum(1).tolist() == [7, 7, 6, 8] and rows[1, :7].tolist() == list(range(7, 14))
    assert sorted(rows[mask > 0].tolist()) == [*range(20), *range(21, 29)]


def test_a_feature_that_hardly_varies_in_the_data_does_not_decide_elsewhere(world):
    """In a frame of others it is a thousand spreads away; with the least spread it is one feature among eighty."""
    table, _, best = world
    flat = table.view()
    flat.pictures = table.pictures.clone()
    flat.pictures[:, 7] = 1e-3 * flat.pictures[:, 7]
    other = flat.view()
    other.pictures = flat.pictures.clone()
    other.pictures[::2, 7] += 1.0
    change = {}
    for least in (0.0, 1.0):
        model = make_reward(align=False, preferred=best, least_spread=least)
        train(model, data_of(flat, answer(table, "triplet", 20)), 0)
        spread = flat.pictures.std(0)
        torch.testing.assert_close(model.std[7], torch.maximum(spread[7], least * spread.median()))
        change[least] = (model.label(other) - model.label(flat))[0, table.rows].abs().max().item()
    assert change[0.0] > 10 and change[1.0] < 0.5, change


# Triplets


def test_the_scripted_teacher_answers_by_how_near_the_returns_are(world):
    table, cost, _ = world
    found = answer(table, "triplet", 200)
    which = table.episode.numpy()[found.starts]
    assert found.kind == "triplet" and all(len(set(row)) == 3 for row in which.tolist())
    away = np.abs(cost[which[:, 1:]] - cost[which[:, :1]])
    assert np.array_equal(found.value, (away[:, 1] < away[:, 0]).astype(float))
    wrong = api.ask(table, "mistake", kind="triplet", count=400, length=STEPS, held_out=0)
    which = table.episode.numpy()[wrong.starts]
    away = np.abs(cost[which[:, 1:]] - cost[which[:, :1]])
    assert 0.02 < (wrong.value != (away[:, 1] < away[:, 0])).mean() < 0.25  # a tenth


def test_triplets_of_pairs_put_a_pair_behind_another_winner(world):
    table, cost, _ = world
    found = answer(table, "pair", 30)
    data = data_of(table, found)
    winners = set(np.where(found.value > 0.5, found.starts[:, 1], found.starts[:, 0]).tolist())
    known = {tuple(pair): value for pair, value in zip(found.starts.tolist(), found.value, strict=True)}
    seen = []
    data._batch = lambda starts, label, *rest: seen.append((starts, label)) or batch(starts, label)
    data.triplets(500)
    (starts, label), confidence = seen[0], data.triplets(500).confidence
    is_itself = (seen[1][0][:, :1] == seen[1][0][:, 1:]).any(1)  # a clip that is its own anchor counts for nothing
    assert torch.equal(confidence, (~is_itself).float())
    for (anchor, *pair), value in zip(starts.tolist(), label.tolist(), strict=True):
        assert anchor in winners and known[tuple(pair)] == value


def batch(starts, label):
    return Comparisons(None, label, torch.zeros(len(label)), torch.ones(len(label)))  # type: ignore[arg-type]


def test_triplets_of_ratings_put_the_best_first_and_the_closer_on_both_sides(world):
    table, _, _ = world
    data = data_of(table, answer(table, "rating", 40))
    seen = []
    data._batch = lambda starts, label, *rest: seen.append((starts, label)) or batch(starts, label)
    data.triplets(400)
    starts, label = seen[0]
    worth = table.reward[starts]
    assert (worth[:, 0] >= worth[:, 1:].amax(1)).all()
    assert torch.equal(label, (0.5 * (1 + torch.sign(worth[:, 2] - worth[:, 1]))).float())
    assert 0.4 < label.mean() < 0.6


# Several members, and which triplets are asked


def test_each_member_is_a_model_of_its_own(world):
    table, _, best = world
    data = data_of(table, answer(table, "triplet"))
    both = make_reward(preferred=best, members=2)
    both.measure(data)
    both.choose(data)
    starts = table.opening[torch.tensor([[0, 7, 30], [9, 3, 50], [20, 21, 22]])]
    batch = both.draw(data)
    for e in range(2):
        alone = make_reward(preferred=best)
        state = both.state_dict()
        heads = {key: state[key][e] for key in state if key.startswith("head.")}
        alone.load_state_dict({**{k: v for k, v in state.items() if "optim" not in k}, **heads}, strict=False)
        for found, expected in (
            (both.label(table)[e], alone.label(table)[0]),
            (both.log_odds(table, starts, STEPS)[e], alone.log_odds(table, starts, STEPS)[0]),
            (both.score_at(table, starts, STEPS)[e], alone.score_at(table, starts, STEPS)[0]),
            (both._compare(batch)[1][e], alone._compare(batch)[1][0]),
        ):
            torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-4)
    assert not torch.allclose(both.label(table)[0], both.label(table)[1], rtol=0.1)


@pytest.mark.parametrize("strategy", ["entropy", "decisive", "disagreement"])
def test_triplets_are_chosen_by_how_sure_the_alignment_is(strategy, world):
    table, _, best = world
    model = train(make_reward(preferred=best, members=3), data_of(table, answer(table, "triplet", 30)), 30)
    starts = torch.stack([table.opening.unique()[torch.randperm(N)[:3]] for _ in range(40)])
    a, b, c = (model.embed(model._seen(table).picture_segments(
        starts[:, i], STEPS, frames=4).obs.images["pictures"][..., 0, :]) for i in range(3))  # fmt: skip
    likeness = [model.transport.similarity(a, other) for other in (b, c)]
    expected = model.log_scale.exp() * (likeness[1] - likeness[0])
    torch.testing.assert_close(model.log_odds(table, starts, STEPS), expected.detach(), rtol=1e-3, atol=1e-4)
    drawn, asked = (choose_starts(table, model, own) for own in ("uniform", strategy))
    sure = {"entropy": lambda x: (x.sigmoid().mean(0) - 0.5).abs(), "decisive": lambda x: -x.mean(0).abs(),
            "disagreement": lambda x: -x.sigmoid().std(0)}[strategy]  # fmt: skip
    assert sure(model.log_odds(table, asked, STEPS)).mean() < sure(model.log_odds(table, drawn, STEPS)).mean()
    assert all(len(set(row)) == 3 for row in asked.tolist())


def choose_starts(table, model, strategy):
    generator = torch.Generator().manual_seed(0)
    return choose(
        table, n=10, width=3, length=STEPS, strategy=strategy, candidates=10, generator=generator, model=model
    )


def test_strategies_that_triplets_do_not_have():
    flags = ["query.kind=triplet", "query.rounds=2", "feedback=perfect", "reward=rapl", "algo=iql",
             "reward.preferred=[0]"]  # fmt: skip
    validate(RunSettings.parse(config(*flags, "query.strategy=entropy")))
    validate(RunSettings.parse(config(*flags, "query.strategy=disagreement", "reward.members=2")))
    with pytest.raises(UserError, match="of triplets reward=rapl, with reward.members=2"):
        validate(RunSettings.parse(config(*flags, "query.strategy=disagreement")))
    with pytest.raises(UserError, match="pairs or triplets: with query.kind=rating"):
        RunSettings.parse(config(*flags, "query.kind=rating", "query.strategy=entropy"))


# Training


def test_killed_and_resumed_is_uninterrupted(world):
    table, _, best = world
    data, more = (data_of(table, answer(table, "triplet")) for _ in range(2))
    model = train(make_reward(preferred=best), data, 3)
    again = make_reward(preferred=best)
    again.load_state_dict({k: v.clone() for k, v in model.state_dict().items()})
    more.generator.set_state(data.generator.get_state())
    for one, own in ((model, data), (again, more)):
        for _ in range(3):
            one.update(one.draw(own))
    for key, value in model.state_dict().items():
        assert torch.equal(value, again.state_dict()[key]), key
    assert torch.equal(model.label(table), again.label(table))


def test_two_seeds_at_once_are_each_alone(world, monkeypatch):
    monkeypatch.setattr(transport, "TURNS", 1)  # tracing takes its time
    table, _, best = world
    data = data_of(table, answer(table, "triplet"))
    models, alone = [], []
    for seed in range(2):
        for found in (models, alone):
            model = make_reward(preferred=best)
            model.measure(data)
            torch.manual_seed(seed)
            model.head.layers[0].weight.data.normal_()
            found.append(model)
    batches = [models[0].draw(data) for _ in range(2)]
    both = torch.utils._pytree.tree_map(lambda *x: torch.stack(x), *batches)
    update = LearnerStack(models).update(lambda learner, own: learner.update(own), both)
    for _ in range(2):
        update(both)
        for own, drawn in zip(alone, batches, strict=True):
            own.update(drawn)
    for one, own in zip(models, alone, strict=True):
        torch.testing.assert_close(one.head.layers[0].weight, own.head.layers[0].weight, rtol=1e-3, atol=1e-5)


# Bad input


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"encoder": "resnet9"}, "reward.encoder=resnet9"),
        ({"encoder": None}, "aligns the features of lite0"),
        ({"frames": 1}, "a video has two frames or more"),
        ({"band": 2.0}, "a share of a video"),
        ({"objective": "plackett_luce"}, "is of no pairs"),
        ({"objective": "kto"}, "is of no pairs"),
    ],
)
def test_settings_that_cannot_be(changes, says):
    with pytest.raises(UserError, match=says):
        make_reward(**changes)


@pytest.mark.parametrize(
    ("kind", "changes", "says"),
    [
        ("triplet", {"preferred": None}, "name episodes to be like"),
        ("triplet", {"preferred": [99]}, "no such episode"),
        ("triplet", {"preferred": ["abc"]}, "no such episode"),
        ("triplet", {"preferred": []}, "names 0 episodes"),
        ("triplet", {"preferred": [0, 1, 2, 3]}, "names 4 episodes"),
        ("triplet", {"preferred": "nowhere.txt"}, "there is no such file"),
        ("triplet", {"features": 7}, "reward.features=7"),
    ],
)
def test_videos_that_are_not_there(kind, changes, says, world):
    table, _, _ = world
    with pytest.raises(UserError, match=says):
        train(make_reward(**changes), data_of(table, answer(table, kind, 20)), 1)


def test_preferred_videos_by_id_and_from_a_file(world, tmp_path):
    table, _, _ = world
    data, found = data_of(table, answer(table, "triplet", 20)), []
    (tmp_path / "best.txt").write_text(f"4\n{table.ids[7]}\n")
    for named in ([4, 7], [table.ids[4], table.ids[7]], str(tmp_path / "best.txt")):
        found.append(train(make_reward(preferred=named), data, 0).label(table))
    assert torch.equal(found[0], found[1]) and torch.equal(found[0], found[2])


def test_ties_and_no_pictures_and_nothing_learnt_yet(world):
    table, _, _ = world
    tied = answer(table, "pair", 20)._replace(value=np.full(20, 0.5))
    with pytest.raises(UserError, match="fewer are no ties"):
        make_reward().draw(data_of(table, tied))
    with pytest.raises(UserError, match="no video is preferred"):
        train(make_reward(preferred=None, align=False), data_of(table, tied), 0)
    with pytest.raises(UserError, match="no preferred video yet"):
        make_reward().label(table)
    plain = Table(
        [Episode(0, np.zeros((9, 1), np.float32), np.zeros((8, 1), np.float32), np.zeros(8, np.float32), False)]
    )
    with pytest.raises(UserError, match="a reward of pictures has none"):
        train(make_reward(), data_of(plain, labels("triplet", np.array([[0, 1, 2]]), np.ones(1), length=3)), 0)


def test_triplets_train_nothing_else(world):
    table, _, _ = world
    data = data_of(table, answer(table, "triplet", 20))
    with pytest.raises(UserError, match="triplets say what is alike"):
        data.comparisons(4)
    for part in (["reward=ensemble", "algo=iql"], ["algo=cpl"]):
        with pytest.raises(UserError, match="triplets say what is alike"):
            validate(RunSettings.parse(config("query.kind=triplet", "feedback=perfect", *part)))
    validate(RunSettings.parse(config("query.kind=triplet", "feedback=perfect", "reward=rapl", "algo=iql",
                                      "reward.preferred=[0]")))  # fmt: skip


def test_a_clip_is_asked_about_once_in_a_triplet_and_two_clips_make_none():
    zeros = np.zeros((4, 1), np.float32)
    table = Table([Episode(i, zeros + i, zeros[1:], zeros[1:, 0] + i, False) for i in range(2)])
    with pytest.raises(UserError, match="three different clips, and the data hold 2"):
        api.ask(table, kind="triplet", count=5, length=3)


def test_an_answer_about_the_same_clip_twice_is_left_out(world):
    table, _, _ = world
    clips = [Clip(table.ids[i], 0, STEPS) for i in (0, 0, 1)]
    question = Question("triplet", tuple(clips))
    given = Answer("answer", question.id, "rater", Value("answer", 1.0))
    assert find_fault(given, question, table) == "two of its three clips are the same"
    apart = Question("triplet", (clips[0], clips[2], Clip(table.ids[2], 0, STEPS)))
    assert find_fault(given, apart, table) is None
