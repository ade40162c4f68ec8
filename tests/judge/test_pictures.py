"""Judges that read pictures: reversed, from elsewhere, in another light, with hidden patches; maps, and the page."""

import json
import re
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from scipy.optimize import linear_sum_assignment

from pbrl.configs import compose_config
from pbrl.data import episodes as storage
from pbrl.data.table import Table
from pbrl.judge import Source, Truth, draw_pairs, measure
from pbrl.judge.command import judge
from pbrl.judge.episodes import choose_episodes
from pbrl.judge.material import Material
from pbrl.judge.of_pictures import ORDER_BLIND
from pbrl.judge.preferred import find_preferred_pictures
from pbrl.judge.visual import Visual, find_trained, grey_patches
from pbrl.run import train as run
from pbrl.types import Episode, UserError
from tests import toy
from tests.parts import build

STEPS, EPISODES, F = 12, 16, 20
RNG = np.random.default_rng(0)


def measure_small(source: Source, truth: Truth, **more) -> dict:
    pairs = draw_pairs(truth, length=3, count=50, seed=0)
    return measure(truth, source, pairs=pairs, resamples=200, **more).measures


def truth_of(returns: np.ndarray, success: np.ndarray | None = None) -> Truth:
    """Episodes of four steps, whose rewards add up to these returns."""
    at = None if success is None else np.where(success, 4, -1)
    return Truth(np.full(len(returns), 4), np.repeat(returns / 4, 4), at)


# Measures


def test_the_order_effect_is_glasss_delta_over_good_episodes():
    score, lost = RNG.normal(size=10), RNG.uniform(0.5, 1, size=10)
    lost[:2] = 0.0  # ties
    success = np.arange(10) < 5
    reward, backwards = np.repeat(score / 4, 4), np.repeat((score - lost) / 4, 4)
    found = measure_small(Source(reward=reward, reversed_reward=backwards), truth_of(np.arange(10.0), success))
    effect, share = found["order_effect"], found["reversed_lower"]
    assert effect.value == pytest.approx(lost[:5].mean() / score.std()) and effect.count == 5
    assert effect.low < effect.value < effect.high and effect.chance == 0
    assert share.value == (3 + 2 * 0.5) / 5 and share.count == 5
    unknown = measure_small(Source(reward=reward, reversed_reward=backwards), truth_of(np.arange(10.0)))
    assert unknown["order_effect"].value == pytest.approx(lost[5:].mean() / score.std()), "the better half"


def test_changed_pictures_are_held_against_the_truth_and_the_original():
    returns = RNG.permutation(12).astype(float)
    reward = np.repeat(returns, 4) + np.tile([0, 1, 2, 3], 12)
    same, opposite = 2 * reward + 1, -reward
    changed = {"camera": same, "light": opposite}
    found = measure_small(Source(reward=reward, changed_reward=changed), truth_of(returns))
    for name in ("true_correlation", "episode_correlation", "frame_correlation"):
        assert found[f"camera_{name}"].value == pytest.approx(1)
        assert found[f"light_{name}"].value == pytest.approx(-1)
    bare = measure_small(Source(reward=reward), truth_of(returns))
    assert all(bare[f"{change}_{name}"].value is None for change in changed for name in ("true_correlation",))
    assert bare["spearman"].value == pytest.approx(1)


# A reward of likeness


def walking_videos() -> np.ndarray:
    """Features [N, T + 1, F] of the same way, each time a little otherwise and from elsewhere."""
    random = np.random.default_rng(1)
    way = random.normal(size=(STEPS + 1, F)).cumsum(0)
    wobble = 0.2 * random.normal(size=(EPISODES, STEPS + 1, F)).cumsum(1)
    return (way + wobble + 1.5 * random.normal(size=(EPISODES, 1, F))).astype(np.float32)


def view(features: np.ndarray, **changes) -> Visual:
    """A reward of likeness to the first video, on the features themselves."""
    zeros = np.zeros((features.shape[1], 1), np.float32)
    episodes = [Episode(i, zeros + i, zeros[1:], zeros[1:, 0] + i, False) for i in range(len(features))]
    table = Table(episodes, pictures=features.reshape(-1, features.shape[-1]).copy())
    settings = {"align": False, "features": F, "preferred": [0], "frames": STEPS + 1, "normalize": "none", **changes}
    model = build("reward/rapl", **settings)
    align, preferred = model.phases()
    align.before(SimpleNamespace(table=table))
    preferred.before(SimpleNamespace(table=table))
    table.relabel(model)
    return Visual(model, table, Material(episodes, "", {}, None, 0), {}, {})  # type: ignore[arg-type]


def measure_order(own: Visual) -> dict:
    source = Source(
        reward=own.table.labels["reward"][own.table.rows].double().numpy(),
        reversed_reward=own.score_reversed(),
        visual=own,
    )
    return measure_small(source, own.material.truth)


def test_reversed_videos_score_lower_and_with_the_released_settings_or_of_single_frames_they_do_not():
    features = walking_videos()
    ours, released = (
        measure_order(view(features, **own)) for own in ({}, {"metric": "cosine", "gamma": 1.0, "band": 1.0})
    )
    assert ours["order_effect"].low > 0.5 and ours["reversed_lower"].value == 1
    assert abs(released["order_effect"].value) < 0.2, released["order_effect"]
    goal = measure_order(view(features, matching="goal"))
    assert goal["order_effect"].value is None and goal["order_effect"].why == ORDER_BLIND


@pytest.mark.parametrize("gamma", [5.0, float("inf")])
def test_a_match_is_the_plan_that_the_reward_is_made_of(gamma):
    own = view(walking_videos(), gamma=gamma, frames=STEPS, band=1.0)
    match, reward = own.match(3), own.table.labels["reward"].reshape(EPISODES, -1)[3, :STEPS]
    assert match is not None and match.cost.shape == match.plan.shape == (STEPS, STEPS)
    torch.testing.assert_close(match.plan.sum(1), torch.ones(STEPS), atol=0.02, rtol=0)  # as far as converged
    torch.testing.assert_close(-(match.plan * match.cost).sum(1), reward, atol=1e-4, rtol=1e-4)
    scaled = (own.table.pictures - own.model.mean) / own.model.std / (2 * F) ** 0.5
    video = own.table.first[0] + np.linspace(0, STEPS, STEPS).round().astype(int)
    row = own.table.first[3]
    torch.testing.assert_close(match.cost, torch.cdist(scaled[row : row + STEPS], scaled[video]), atol=1e-3, rtol=1e-3)
    if np.isinf(gamma):
        matched = torch.zeros(STEPS, STEPS)
        matched[linear_sum_assignment(match.cost.numpy())] = 1
        assert torch.equal(match.plan, matched)


def test_a_step_with_another_picture_is_scored_as_if_the_data_had_it():
    features = walking_videos()
    own, row = view(features), STEPS + 1 + 4
    others = torch.from_numpy(RNG.normal(size=(3, F)).astype(np.float32))
    found = own.model.score_pictures(own.table, row, torch.cat([own.table.pictures[row][None], others]))
    assert found[0] == pytest.approx(own.table.labels["reward"][row].item(), rel=1e-4)
    for score, picture in zip(found[1:], others, strict=True):
        other = own.table.view()
        other.pictures = own.table.pictures.clone()
        other.pictures[row] = picture
        assert score.item() == pytest.approx(own.model.label(other)[0, row].item(), rel=1e-4)


# A reward of single frames


def test_a_hidden_patch_takes_what_the_reward_had_of_it():
    """A patch that is grey already takes nothing; another as much as a data set without it has less."""
    pictures = RNG.integers(0, 256, (STEPS + 1, 48, 48, 3), dtype=np.uint8)
    pictures[:, :24, 24:] = 128
    zeros = np.zeros((STEPS + 1, 1), np.float32)
    episode = Episode(0, zeros, zeros[1:], np.arange(STEPS, dtype=np.float32), False)
    table = Table([episode], pictures=pictures)
    model = build("reward/image", image_size=48, channels=[4, 4, 8, 8], stack=2)
    torch.nn.init.normal_(model.head.layers[-1].weight)
    own = Visual(model, table, Material([episode], "", {}, None, 0), {}, {"encoder": None}, pictures)  # type: ignore
    lost, label = own.occlude(0, 5, 2), model.label(table).mean(0)
    assert lost.shape == (2, 2) and lost[0, 1] == 0 and (lost[[0, 1, 1], [0, 0, 1]] != 0).all()
    hidden = table.view()
    hidden.pictures = table.pictures.clone()
    hidden.pictures[5, 24:, :24] = 128
    spread = label[table.rows].std().item()
    expected = (label[5] - model.label(hidden).mean(0)[5]).item() / spread
    assert lost[1, 0] == pytest.approx(expected, rel=1e-3) and own.reads_order


def test_patches_cover_a_picture_once():
    image = RNG.integers(0, 100, (30, 31, 3), dtype=np.uint8)
    hidden = grey_patches(image, 4) != image
    assert hidden.shape == (16, 30, 31, 3) and (hidden.sum(0) == 1).all()


def test_the_encoder_of_a_run_is_found_by_its_hash(tmp_path):
    import hashlib

    for name, content in (("a", b"one"), ("b", b"two")):
        (tmp_path / f"encoder-resnet18-{name}.pt").write_bytes(content)
    reward = {"encoder": "resnet18", "weights": "simulation"}
    versions = {"encoder": {"weights": hashlib.sha256(b"two").hexdigest()}}
    assert find_trained(reward, versions, [tmp_path])["weights"] == str(tmp_path / "encoder-resnet18-b.pt")
    assert find_trained({"encoder": "lite0", "weights": None}, {}, []) == {"encoder": "lite0", "weights": None}
    with pytest.raises(UserError, match="name the folder that holds it with data_dir"):
        find_trained(reward, {"encoder": {"weights": "other"}}, [tmp_path])


# Which episodes are shown


def test_the_best_the_median_the_worst_and_a_failure_that_is_liked():
    returns, success = np.array([5.0, 1, 4, 2, 3]), np.array([True, False, True, False, True])
    liked = Source(reward=np.repeat([0.0, 1, 0, 2, 0], 4))
    found = choose_episodes(truth_of(returns, success), {"mine": liked})
    assert found == {
        0: "best true return", 4: "median true return", 1: "worst true return", 3: "failure that mine scores highest",
    }  # fmt: skip


# From end to end


SMALL = [
    "algo=iql", "algo.hidden=[8]", "feedback=perfect", "query.count=20", "query.length=30", "query.held_out=0",
    "steps=1", "log_every=1", "eval_every=1", "checkpoint_every=1", "eval_episodes=1", "final_episodes=1", "workers=0",
    "threads=1", "video=false", "compile=never", "compare=false", "reward=rapl", "reward.encoder=resnet18",
    "reward.weights=none", "reward.image_size=32", "reward.steps=2", "reward.frames=4", "reward.preferred=[0]",
    "query.kind=triplet",
]  # fmt: skip


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A run on the point world, whose reward reads pictures, and the data to judge it on."""
    folder = tmp_path_factory.mktemp("pictures")
    storage.write(folder / "data", toy.episodes(6), {})
    data = {"env": {"_target_": "tests.toy.Point"}, "data": {"name": "file", "path": str(folder / "data")},
            "data_dir": str(folder)}  # fmt: skip
    run.train({**compose_config(*SMALL), **data, "run": str(folder / "run")})
    return folder, data


def configure(place, *flags: str, **changes) -> dict:
    folder, data = place
    config = compose_config("resamples=100", "query.count=50", "device=cpu", "workers=0", *flags, name="judge")
    return {**config, **data, "rewards": str(folder / "run"), "folder": str(folder / "out"), **changes}


def test_the_report_shows_episodes_and_holds_all_that_it_shows(place, capsys):
    flags = ["changes=[camera,light]", "turn_deg=90", "shown.frames=3", "shown.size=32", "shown.occlusion=2"]
    result = judge(configure(place, *flags))
    measures, out = result["sources"]["run"]["measures"], place[0] / "out"
    assert result["changes"] == {"camera": {"turn_deg": 90}, "light": {"light": [0.8, 0.6, 0.45]}}
    for name in ("order_effect", "reversed_lower", "camera_frame_correlation", "light_episode_correlation"):
        assert measures[name]["value"] is not None, measures[name]
    assert json.loads((out / "judge.json").read_text()) == json.loads(json.dumps(result))
    page = (out / "index.html").read_text()
    addresses = re.findall(r'(?:src|href)="([^"#][^"]*)"', page)
    assert addresses and all(own.startswith("data:image/") for own in addresses), "one file, which needs no other"
    for words in ("Best true return", "Median true return", "Worst true return", "Hidden patches", "preferred video",
                  "moved: frames"):  # fmt: skip
        assert words in page, words
    with Image.open(out / "episodes.png") as sheet:
        assert sheet.width > 900 and sheet.height > 900
    assert re.search(r"reversed videos: SDs lower +0 +-?\d", capsys.readouterr().out)


def test_the_pictures_of_preferred_videos_are_found_where_they_are_kept(place, tmp_path):
    folder, data = place
    config = yaml.safe_load((folder / "run/config.yaml").read_text())
    dataset = json.loads((folder / "run/versions.json").read_text())["data"]
    (liked,) = find_preferred_pictures(config, dataset) or ()
    episode, env = toy.episodes(6)[0], toy.Point(images=["above"], image_size=32)
    shown = [env.restore(episode.seed, state, t)["images"]["above"] for t, state in enumerate(episode.state)]
    np.testing.assert_array_equal(liked, shown)
    assert find_preferred_pictures({**config, "data_dir": str(tmp_path)}, dataset) is None, "nothing is rendered"


def test_changes_that_cannot_be(place):
    for changes, words in (
        ({"light": [1.0, 1.0]}, "light=.*three numbers"),
        ({"changes": ["sound"]}, "changes=.*camera or light"),
        ({"shown": {"frames": -1, "size": 32, "occlusion": 0}}, "shown.frames=-1 must be"),
    ):
        with pytest.raises(UserError, match=words):
            judge(configure(place, **changes))
