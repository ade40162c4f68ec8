"""AlignDiff: what a plan is told and begins with, which one is chosen, and that a point is as fast as is asked for."""

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from pbrl import steer
from pbrl.data.rollout import make_environment
from pbrl.data.table import Table
from pbrl.data.video import read_frames, read_video_info
from pbrl.models.policy import load_policy, save_policy
from pbrl.training.batches import Data
from pbrl.training.held_out import rank_correlation
from pbrl.types import Episode, Observation, UserError
from real.agent import Agent
from robots.observations import ROBOT_DIM
from tests import toy
from tests.parts import LENGTH, SPEC, build, config, draw_batches, labels, made_up_data, phases, train

OBS = Observation(torch.linspace(-1, 1, 15).view(3, 5))


def planner(**changes: Any):
    """Of random parameters, the average's too."""
    torch.manual_seed(0)
    policy = build("algo/aligndiff", **changes).policy
    with torch.no_grad():
        for tensor in policy.average.module.state_dict().values():
            tensor.add_(0.1 * torch.randn_like(tensor))
    return policy


# What a plan is


def test_nothing_asked_for_is_the_planner_without_guidance():
    free = planner().imagine(OBS)
    told = planner(target={"fast": 0.9})
    assert not torch.allclose(told.imagine(OBS), free, atol=1e-3)
    told.reset()
    told.guidance = 0.0
    torch.testing.assert_close(told.imagine(OBS), free)
    one = planner(target={"fast": 0.9, "high": None})
    torch.testing.assert_close(one.imagine(OBS), planner(target={"fast": 0.9}).imagine(OBS))
    both = planner(target={"fast": 0.9, "high": 0.1})
    one.reset()
    assert not torch.allclose(both.imagine(OBS), one.imagine(OBS), atol=1e-3)


def test_every_plan_begins_in_the_present_state_exactly():
    policy = planner(target={"high": 1.0})
    plans = policy.imagine(OBS)
    assert plans.shape == (4, 3, LENGTH, 7)
    assert torch.equal(plans[:, :, 0, :5], policy.scaled(OBS.state).expand(4, 3, 5))
    assert plans[:, :, 1:].std(0).min() > 0 and plans[:, :, 0, 5:].std(0).min() > 0


def test_the_plan_that_is_read_as_nearest_is_carried_out():
    policy = planner(target={"fast": 0.7, "high": 0.2}, candidates=16)
    plans = policy.imagine(OBS)
    policy.reset()
    found = policy.plan(OBS)
    assert found.shape == (3, 2, 2) and found.abs().max() <= 1
    read = policy.strength(plans)  # [N, B, M]
    for b in range(3):
        errors = [((read[n, b] - torch.tensor([0.7, 0.2])) ** 2).sum().item() for n in range(16)]
        assert torch.equal(found[b], plans[np.argmin(errors), b, :2, 5:].clamp(-1, 1))
    policy.reset()
    policy.set_targets({"high": 0.2})
    nearest = (policy.strength(plans := policy.imagine(OBS))[..., 1] - 0.2).abs().argmin(0)
    policy.reset()
    assert torch.equal(policy.plan(OBS), plans[nearest, torch.arange(3), :2, 5:].clamp(-1, 1))


def test_what_a_plan_reads_is_what_the_attribute_model_reads():
    learner, table = build("algo/aligndiff"), made_up_data("attributes").table
    model = learner.labeller[0]
    model.low.fill_(-0.3)
    learner.take_strengths(Data(table, torch.Generator()))
    segments = table.segments(table.segment_starts(LENGTH)[:9], LENGTH)
    plans = torch.cat([learner.policy.scaled(segments.obs.state), segments.action], -1)
    torch.testing.assert_close(learner.policy.strength(plans), model.strength(segments))


def test_a_strength_lies_between_two_bins():
    policy = build("algo/aligndiff", bins=5).policy
    (told, _) = policy.told(torch.tensor([[0.0], [0.25], [0.35], [1.0]]).expand(4, 2))
    expected = [[1, 0, 0, 0, 0], [0, 1, 0, 0, 0], [0, 0.6, 0.4, 0, 0], [0, 0, 0, 0, 1.0]]
    torch.testing.assert_close(told, torch.tensor(expected))


def test_bins_hold_equally_many_windows():
    policy = build("algo/aligndiff", bins=5).policy
    strength = torch.rand(1001, 2) ** torch.tensor([4.0, 1.0])
    policy.place_knots(strength)
    for i, told in enumerate(policy.told(strength)):
        count = torch.histc((told @ torch.arange(5.0)), 4, 0, 4)
        assert (count - 250).abs().max() <= 2, f"of attribute {i}"
    policy.place_knots(torch.zeros(9, 2))  # all alike
    assert torch.stack(policy.told(torch.tensor([[0.0, 1.0]]))).isfinite().all()


def test_targets_change_while_it_acts(capsys):
    policy = planner(target={"fast": 0.1})
    policy.act(OBS)
    kept = copy.deepcopy(policy)
    policy.set_targets({"fast": 1.7})
    assert "fast=1.7 is beyond what the data have, from 0 to 1: 1 is taken" in capsys.readouterr().out
    assert policy.targets == {"fast": 1.0} and not torch.allclose(policy.act(OBS), kept.act(OBS))
    with pytest.raises(UserError, match="wings: this planner knows fast, high"):
        policy.set_targets({"wings": 0.5})
    with pytest.raises(UserError, match="fast=much: a strength is a number"):
        policy.set_targets({"fast": "much"})  # type: ignore[dict-item]


def test_a_warm_start_stays_near_the_last_plan():
    def moved(**changes: Any) -> float:
        policy = planner(**changes)
        policy.plan(OBS)
        last = policy.last
        return (policy.imagine(OBS)[:, :, 1:] - last[:, 1:]).abs().mean().item()

    assert moved(warm_start=4) < 0.3 * moved()


def test_the_loss_counts_the_first_action_more_and_the_present_state_not():
    learner = build("algo/aligndiff", keep=1.0, first_action=7.0)
    policy, (batch,) = learner.policy, draw_batches(learner, 1)
    torch.manual_seed(3)
    torch.rand_like(batch.strength)
    plan = torch.cat([policy.scaled(batch.segments.obs.state), batch.segments.action], -1)
    with torch.no_grad():
        errors = policy.denoiser.loss(plan, policy.told(batch.strength), known=policy.known(plan))
    assert errors[:, 0, :5].abs().max() == 0 and errors[:, 1:].min() > 0
    expected = (errors.sum() + 6 * errors[:, 0, 5:].sum()) / errors.numel()
    torch.manual_seed(3)
    torch.testing.assert_close(learner.update(batch)["denoising"], expected)


def test_what_is_saved_is_enough_to_act(tmp_path):
    learner = train(build("algo/aligndiff", target={"fast": 0.3}), made_up_data("attributes"), 3)
    policy = learner.policy
    save_policy(policy, tmp_path / "policy.pt")
    again: Any = load_policy(tmp_path / "policy.pt")
    assert again.targets == {"fast": 0.3}
    assert torch.equal(again.strengths.high, policy.strengths.high)
    for _ in range(5):
        assert torch.equal(again.act(OBS), policy.act(OBS))


def test_an_arm_takes_its_actions(tmp_path):
    """What `python -m real.deploy` asks of a policy: chunks of the arm's actions, from the arm's observations."""
    env = config("env=franka/reach")["env"]
    (tmp_path / "config.yaml").write_text(yaml.safe_dump({"env": env}))
    size = ROBOT_DIM + 3
    spec = SPEC.__class__(size, 4, (0.0,) * size, (1.0,) * size, 30)
    policy = build("algo/aligndiff", spec, target={"fast": 0.5}).policy
    save_policy(policy, tmp_path / "policy.pt")
    agent = Agent(tmp_path, env["robot"])
    agent.state_vector = lambda state: np.zeros(size)  # type: ignore[method-assign]
    vector, actions = agent.act(None, {})  # type: ignore[arg-type]
    assert vector.shape == (size,) and actions.shape == (2, 4) and np.abs(actions).max() <= 1
    agent.policy.set_targets({"fast": 0.9})  # type: ignore[attr-defined]  # in mid-run
    assert agent.act(None, {})[1].shape == (2, 4)  # type: ignore[arg-type]


# What it refuses


@pytest.mark.parametrize(
    "changes,words",
    [
        ({"reward": None}, "add reward=attributes query.kind=attributes"),
        ({"target": {"wings": 1.0}}, "wings: this planner knows fast, high"),
        ({"execute": 8}, "algo.execute=8 of query.length=8"),
        ({"warm_start": 5}, "algo.warm_start=5"),
        ({"bins": 1}, "algo.bins=1"),
        ({"sampler": "magic"}, "sampler=magic"),
    ],
)
def test_settings_that_cannot_work(changes, words):
    with pytest.raises(UserError, match=words):
        build("algo/aligndiff", **changes)


def test_data_that_cannot_be_planned():
    with pytest.raises(UserError, match="longest episode has 7"):
        build("algo/aligndiff", SPEC.__class__(5, 2, (0.0,) * 5, (1.0,) * 5, 7))
    with pytest.raises(UserError, match="no attribute model has labelled"):
        phases(build("algo/aligndiff"))[0].draw(Data(toy.table(3), torch.Generator()))


# What it learns: a point that moves as fast as is asked for


def strollers(count: int = 80, steps: int = 16) -> Table:
    """Points that move straight on, each at its own speed from 0.1 to 1 m/s, as in the toy world."""
    made, random = [], np.random.default_rng(0)
    for seed in range(count):
        angle, speed = random.uniform(0, 2 * np.pi), random.uniform(0.1, 1.0)
        action = speed * np.array([np.cos(angle), np.sin(angle)]) + 0.02 * random.standard_normal((steps, 2))
        place = random.uniform(-1, 1, 2) + 0.1 * np.concatenate([np.zeros((1, 2)), action.cumsum(0)])
        arrays = place.astype(np.float32), action.clip(-1, 1).astype(np.float32), np.zeros(steps, np.float32)
        made.append(Episode(seed, *arrays, False, state=place))
    return Table(made)


@pytest.fixture(scope="module")
def world():
    """A table whose windows are labelled by their speed, and an attribute model that has not learnt it."""
    table = strollers()
    ends = torch.minimum(torch.arange(table.row_count), table.closing[table.episode] - LENGTH)
    speed = table.action.norm(dim=-1)[table.segment_rows(ends, LENGTH)].mean(-1, keepdim=True)
    table.set_label("attributes", (speed - speed.min()) / (speed.max() - speed.min()))
    return table, build("reward/attributes", table.spec(), attributes=["speed"], members=1)


def learn(world, **changes: Any):
    table, model = world
    sizes = {
        "width": 32,
        "layers": 2,
        "heads": 2,
        "batch_size": 64,
        "lr": 3e-3,
        "cosine_steps": 300,
        "average": 0.98,
        "candidates": 1,
    }
    learner = build("algo/aligndiff", table.spec(), reward=model, **{**sizes, **changes})
    return train(learner, Data(table, torch.Generator().manual_seed(0)), 300).policy


def correlation(policy) -> float:
    """Between asked and measured speed, over targets and starts, 16 steps each."""
    asked, measured = [], []
    angles = torch.linspace(0, 6, 12)
    for strength in np.linspace(0, 1, 9):
        policy.reset()
        policy.set_targets({"speed": float(strength)})
        place = torch.stack([angles.cos(), angles.sin()], 1) * 0.5
        speeds = []
        for _ in range(16):
            action = policy.act(Observation(place))
            place = place + 0.1 * action
            speeds.append(action.norm(dim=1))
        asked += [strength] * len(place)
        measured += torch.stack(speeds).mean(0).tolist()
    return rank_correlation(torch.tensor(asked).double(), torch.tensor(measured).double())


@pytest.fixture(scope="module")
def run(world, make_once):
    """The folder of a run in the toy world, which learnt to stroll. Its candidates are one: nothing is chosen."""

    def write(folder: Path) -> None:
        save_policy(learn(world), folder / "policy.pt")
        (folder / "config.yaml").write_text(yaml.safe_dump({"env": {"_target_": "tests.toy.Point", "horizon": 20}}))

    return make_once("strolling", write)


@pytest.fixture
def taught(run):
    """Its planner."""
    return load_policy(run)


def test_the_speed_is_as_was_asked_for(taught):
    assert correlation(taught) > 0.8


def test_labels_of_other_windows_teach_nothing(world):
    """The control."""
    table, model = world
    shuffled = table.view()
    rows = table.rows[torch.randperm(len(table), generator=torch.Generator().manual_seed(1))]
    mixed = table.labels["attributes"].clone()
    mixed[table.rows] = table.labels["attributes"][rows]
    shuffled.set_label("attributes", mixed)
    assert abs(correlation(learn((shuffled, model)))) < 0.4


# Steering


def test_steering_says_what_was_asked_for_and_what_is_measured(run, capsys):
    slow, fast = (steer.steer(*steer.read_words([f"run={run}", f"speed={s}", "video=false"]))[0] for s in (0.1, 0.9))
    assert slow.measured["speed"] + 0.3 < fast.measured["speed"]
    said = capsys.readouterr().out
    assert "20 steps · speed: asked 0.90" in said and f"measured {fast.measured['speed']:.3g}" in said
    steer.main([f"run={run}", "speed=null", "steps=5", "episodes=2", "video=false"])
    assert capsys.readouterr().out.count("5 steps · speed: asked any") == 2


def test_a_schedule_changes_targets_on_the_way(run):
    words = [f"run={run}", "speed=0.0", "schedule=10:speed=1.0", "video=false"]
    (found,) = steer.steer(*steer.read_words(words))
    speed = np.linalg.norm(found.episode.action, axis=1)
    assert speed[:10].mean() + 0.3 < speed[10:].mean()


def test_nothing_is_asked_for_at_first(run):
    (free,) = steer.steer(*steer.read_words([f"run={run}", "video=false"]))
    (late,) = steer.steer(*steer.read_words([f"run={run}", "speed=1.0", "after=10", "video=false"]))
    np.testing.assert_array_equal(late.episode.action[:10], free.episode.action[:10])
    assert late.targets == {"speed": 1.0} and not np.allclose(late.episode.action[10:], free.episode.action[10:])


def test_a_grid_is_a_video_of_all_levels(run, capsys):
    steer.main([f"run={run}", "grid=speed", "steps=6"])
    assert capsys.readouterr().out.count("6 steps") == 3
    info = read_video_info(run / "steer.mp4")
    (first,) = read_frames(run / "steer.mp4", info, first=0, last=1, height=180)
    assert first.shape == (180, 3 * 240, 3)
    steer.main([f"run={run}", "grid=speed", "steps=6", f"video={run}/grid.webp"])
    with Image.open(run / "grid.webp") as film:
        assert film.size == (3 * 160, 120) and film.n_frames == 7  # type: ignore[attr-defined]


def test_steering_begins_where_it_is_put(run):
    policy, settings = steer.load_planner(run)
    env = make_environment(settings)
    first = steer.play(env, policy, {"speed": 0.5}, seed=1, steps=9)
    assert first.state is not None
    again = steer.play(env, policy, {"speed": 0.5}, seed=1, steps=4, state=first.state[5])
    assert again.state is not None and len(again.action) == 4
    np.testing.assert_array_equal(again.state[0], first.state[5])


@pytest.mark.parametrize(
    "words,said",
    [
        (["speed=0.8"], "run=… names"),
        (["run=nowhere"], "there is no policy at nowhere"),
        (["run=RUN", "wings=0.5"], "wings: this planner knows speed"),
        (["run=RUN", "speed=fast"], "speed=fast: it is a number"),
        (["run=RUN", "grid=wings"], "wings: this planner knows speed"),
        (["run=RUN", "schedule=7"], "step:attribute=strength"),
        (["run=RUN", "episodes=0"], "at least 1"),
        (["run=RUN", "speed"], "it takes key=value"),
        (["run=RUN", "video=film.avi"], "ends with .mp4 or .webp"),
    ],
)
def test_words_that_cannot_be_understood(run, words, said):
    with pytest.raises(SystemExit, match=said):
        steer.main([word.replace("RUN", str(run)) for word in words])


def test_a_run_of_another_algorithm_takes_no_targets(tmp_path):
    save_policy(build("policy/mlp"), tmp_path / "policy.pt")
    with pytest.raises(SystemExit, match="holds a GaussianPolicy, which takes no targets: train with algo=aligndiff"):
        steer.main([f"run={tmp_path}", "speed=0.5"])


# What it is asked for by comparisons


@pytest.mark.parametrize("liked", [0.0, 1.0])
def test_a_person_s_strengths_are_found_by_comparisons(world, taught, liked, tmp_path):
    """The planner is frozen; a copy that was read back asks for what was found, unless a target is named."""
    table, _ = world
    save_policy(taught, tmp_path / "policy.pt")
    settings = {"objective": "bradley_terry", "start_from": str(tmp_path), "lr": 0.1, "batch_size": 64}
    inversion = build("algo/preference_inversion", table.spec(), **settings)
    places, random = table.segment_starts(LENGTH), np.random.default_rng(0)
    starts = places[torch.from_numpy(random.integers(len(places), size=(400, 2)))]
    far = (table.labels["attributes"][starts][..., 0] - liked).abs()
    data = Data(table, torch.Generator().manual_seed(0))
    data.set_labels(labels("pair", starts.numpy(), (far[:, 1] < far[:, 0]).double().numpy(), length=LENGTH))
    train(inversion, data, 60)
    found = inversion.policy.strengths_preferred().item()
    assert abs(found - liked) < 0.2
    assert all(torch.equal(value, inversion.policy.state_dict()[name]) for name, value in taught.state_dict().items())
    save_policy(inversion.policy, tmp_path / "preferred.pt")
    again: Any = load_policy(tmp_path / "preferred.pt")
    assert again.wish(torch.device("cpu"))[0].item() == pytest.approx(found)
    again.set_targets({"speed": 0.25})
    assert again.wish(torch.device("cpu"))[0].item() == 0.25


def test_what_cannot_be_inverted(world, taught, tmp_path):
    table, _ = world
    save_policy(taught, tmp_path / "policy.pt")
    save_policy(build("policy/mlp"), tmp_path / "mlp.pt")
    start = {"objective": "bradley_terry", "start_from": str(tmp_path)}
    for changes, words in (
        ({"start_from": None}, "algo.start_from=<folder of an aligndiff run>"),
        ({"start_from": str(tmp_path / "mlp.pt")}, "is a GaussianPolicy: a run of algo=aligndiff is"),
        ({"objective": "kto"}, "objective=kto is not"),
    ):
        with pytest.raises(UserError, match=words):
            build("algo/preference_inversion", table.spec(), **{**start, **changes})
    inversion = build("algo/preference_inversion", table.spec(), **start)
    with pytest.raises(UserError, match="query.length=8"):
        inversion.check(Data(table, torch.Generator(), length=7))
    with pytest.raises(UserError, match="5 numbers per observation|have 5 and 2"):
        inversion.check(made_up_data("pair"))
