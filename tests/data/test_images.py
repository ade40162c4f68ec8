"""Images as observations: of the state that they stand beside, kept to the bit, and worth training on."""

import json

import numpy as np
import pytest
import torch

from pbrl.data import collect, frames
from pbrl.data.episodes import content_hash
from pbrl.data.rollout import PolicyActor, rollout, stacked, tensors
from pbrl.data.table import Table
from pbrl.data.video import square, write_mp4
from pbrl.models.policy import load_policy, save_policy
from pbrl.run import train as run
from pbrl.training.batches import Data
from pbrl.training.engine import Engine
from pbrl.types import Observation, UserError
from sim.tabletop import Tabletop
from tests.parts import build, config, labels

LOOKING = ("env=franka/reach", "env.images=[front,wrist]", "env.image_size=32", "env.state=robot", "env.horizon=12")


def env_of(*flags: str) -> dict:
    return config(*LOOKING, *flags)["env"]


def made(env: dict) -> Tabletop:
    return Tabletop(**{key: value for key, value in env.items() if key != "_target_"})


def same(a, b) -> bool:
    return np.array_equal(a["state"], b["state"]) and all(
        np.array_equal(a["images"][camera], b["images"][camera]) for camera in a["images"]
    )


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Some episodes of the expert, and what the cameras saw in them."""
    folder, env = tmp_path_factory.mktemp("data"), env_of()
    recipe = {**config("data=expert")["data"], "episodes": 24}
    episodes, dataset = collect.dataset(env, recipe, folder=folder, seed=0, workers=0)
    return env, episodes, frames.frames(env, episodes, dataset, folder=folder, workers=2)


@pytest.fixture(scope="module")
def table(data):
    _, episodes, images = data
    return Table(episodes, images=images)


def test_an_observation_is_what_the_space_says():
    env = made(env_of())
    obs, info = env.reset(seed=3)
    assert obs in env.observation_space and obs["state"].shape == (7,)
    assert [(camera, image.shape) for camera, image in obs["images"].items()] == [
        ("front", (32, 32, 3)), ("wrist", (32, 32, 3)),
    ]  # fmt: skip
    assert env.step(np.ones(4))[0] in env.observation_space
    env.reset(seed=3)
    for camera, image in obs["images"].items():
        fine = env.render(64, 64, camera)  # the renderer's pixels are points: four of them make one of a camera's
        np.testing.assert_allclose(image.astype(int), square(fine, 32), atol=1)  # which rounds twice
    assert env.full_obs.shape == (10,), "experts observe everything"


def test_images_are_of_the_state_beside_them():
    """Restored elsewhere to a state, one sees the same; two environments at once do not see each other's scene."""
    one, other, kept = made(env_of()), made(env_of()), []
    obs = one.reset(seed=5)[0]
    other.reset(seed=6)
    for t in range(6):
        kept.append((t, one.save_state(), obs))
        obs = one.step(np.array([1.0, -0.5, 0.3, 1.0]))[0]
        other.step(np.array([-1.0, 0.5, 0.3, -1.0]))
    for t, state, seen in reversed(kept):
        assert same(other.restore(5, state, t), seen)
    assert not np.array_equal(kept[0][2]["images"]["front"], kept[5][2]["images"]["front"])
    goal = one.reset(seed=7)[0]["images"]["front"], one.reset(seed=8)[0]["images"]["front"]
    assert not np.array_equal(*goal), "the goal is in the images alone"


def test_without_images_nothing_is_rendered_and_states_are_the_same():
    blind, looking = made(frames.blind(env_of("env.state=full"))), made(env_of("env.state=full"))
    a, b = blind.reset(seed=2)[0], looking.reset(seed=2)[0]
    for _ in range(5):
        np.testing.assert_array_equal(a, b["state"])
        action = np.array([0.3, 0.2, -0.5, 1.0])
        a, b = blind.step(action)[0], looking.step(action)[0]
    assert isinstance(a, np.ndarray) and "_eyes" not in vars(blind)


class Watcher:
    """Keeps all it is shown, and moves on."""

    def reset(self):
        self.seen = []

    def act(self, obs):
        self.seen.append(obs)
        return torch.linspace(-1, 1, 4).repeat(len(obs.state), 1)


def test_frames_from_disk_are_what_a_policy_observed(tmp_path):
    env, watcher = env_of(), Watcher()
    episodes = rollout([made(env), made(env)], PolicyActor(watcher), [11, 12])
    found = frames.frames(env, episodes, "x", folder=tmp_path, workers=0)
    assert list(found) == ["front", "wrist"]
    assert all(isinstance(images, np.memmap) and images.shape == (26, 32, 32, 3) for images in found.values())
    for i in range(2):
        for camera, images in found.items():
            shown = [obs.images[camera][i] for obs in watcher.seen]
            np.testing.assert_array_equal(images[13 * i : 13 * i + 12], shown)
        np.testing.assert_array_equal(episodes[i].obs[:-1], [obs.state[i] for obs in watcher.seen])
    changed = (tmp_path / next(tmp_path.glob("frames-*.npy")).name).stat().st_mtime_ns
    again = frames.frames(env, episodes, "x", folder=tmp_path, workers=0)
    assert next(tmp_path.glob("frames-*.npy")).stat().st_mtime_ns == changed, "it is made once"
    for camera, images in found.items():
        np.testing.assert_array_equal(again[camera], images)
    frames.frames(env | {"images": ["wrist"]}, episodes, "x", folder=tmp_path, workers=0)
    assert len(list(tmp_path.glob("frames-*.npy"))) == 2


def test_one_data_set_serves_runs_with_images_and_without(tmp_path):
    recipe = {**config("data=expert")["data"], "episodes": 1}
    (one,), looking = collect.dataset(env_of(), recipe, folder=tmp_path, seed=0, workers=0)
    (other,), blind = collect.dataset(frames.blind(env_of()), recipe, folder=tmp_path, seed=0, workers=0)
    assert looking == blind == content_hash([one]) == content_hash([other])
    assert frames.frames(frames.blind(env_of()), [one], blind, folder=tmp_path, workers=0) == {}


def test_batches_carry_images_of_their_rows(data, table):
    _, _, images = data
    assert table.spec().images == {"front": (32, 32, 3), "wrist": (32, 32, 3)}
    rows = torch.tensor([[3, 14], [0, 20]])
    found, batch = table.observe(rows, images=True), table.transitions(rows[0], images=True)
    segments = table.segments(rows, 3, images=True)
    assert isinstance(found, Observation) and list(found.images) == ["front", "wrist"]
    for camera, column in images.items():
        np.testing.assert_array_equal(found.images[camera], column[rows.numpy()])
        np.testing.assert_array_equal(batch.obs.images[camera], column[rows[0].numpy()])
        np.testing.assert_array_equal(segments.obs.images[camera][0, 1], column[14:17])
    torch.testing.assert_close(found.state, table.obs[rows])
    torch.testing.assert_close(batch.next_obs.state, table.obs[rows[0] + 1])
    assert not batch.next_obs.images and not table.observe(rows).images and not table.segments(rows, 3).obs.images


def test_images_teach_what_the_state_cannot(data, table):
    """The goal is in the images alone: in episodes that were held out, the expert's first actions depend on it."""
    held = torch.from_numpy(np.concatenate([np.arange(f, f + 6) for f in table.first[18:]]))
    rows, error = table.rows[table.rows < table.first[18]], {}
    for name, own in (("looking", table), ("blind", Table(data[1]))):
        torch.manual_seed(0)
        learner = build("algo/bc", own.spec(), cosine_steps=0, lr=1e-3)
        for _ in range(120):
            learner.update(own.transitions(rows[torch.randint(len(rows), (64,))], images=True))
        error[name] = -learner.policy.log_prob(own.observe(held, images=True), own.action[held]).mean().item()
    assert error["looking"] < 0.7 * error["blind"], error


def test_compiled_is_eager(table):
    torch.compiler.reset()
    starts = table.segment_starts(3)[torch.randint(200, (4, 2), generator=torch.Generator().manual_seed(0))]
    data, found = Data(table, torch.Generator().manual_seed(0)), []
    data.set_labels(labels("pair", starts.numpy(), np.array([0.0, 1.0, 0.5, 1.0]), length=3))
    for compiled in (False, True):
        learner = build("algo/cpl", table.spec(), batch_size=4)
        phase = learner.phases(1)[-1]
        data.generator.manual_seed(0)
        batch = phase.draw(data)
        assert list(batch.segments.obs.images) == ["front", "wrist"]
        update = Engine(torch.device("cpu"), compile=compiled, bf16=False).prepare(phase)
        found.append([update(batch)["cpl"].item() for _ in range(3)])
    assert found[0] == pytest.approx(found[1], rel=1e-3) and found[0][2] < found[0][0]


def test_a_saved_policy_acts_the_same_on_images(table, tmp_path):
    policy = build("policy/mlp", table.spec(), hidden=[16])
    save_policy(policy, tmp_path / "policy.pt")
    obs = table.observe(torch.arange(5), images=True)
    again = load_policy(tmp_path)
    assert torch.equal(again.act(obs), policy.act(obs)) and dict(again.spec.images) == table.spec().images
    with torch.no_grad():
        turned = obs._replace(images={camera: image.flip(-2) for camera, image in obs.images.items()})
        assert not torch.allclose(policy.act(turned), policy.act(obs))


def test_a_policy_from_before_there_were_images_loads(data, tmp_path):
    policy = build("policy/mlp", Table(data[1]).spec(), hidden=[16])
    save_policy(policy, tmp_path / "policy.pt")
    saved = torch.load(tmp_path / "policy.pt", weights_only=True)
    del saved["spec"]["images"], saved["settings"]["channels"], saved["settings"]["features"]
    torch.save(saved, tmp_path / "policy.pt")
    obs = Observation(torch.zeros(1, 7))
    assert torch.equal(load_policy(tmp_path).act(obs), policy.act(obs))


def test_one_command_trains_evaluates_and_saves(tmp_path):
    more = ["algo=bc", "data=expert", "data.episodes=4", "steps=6", "eval_every=3", "eval_episodes=2", "workers=0",
            "final_episodes=2", "compare=false", f"run={tmp_path / 'run'}", f"data_dir={tmp_path}"]  # fmt: skip
    result = run.train(config(*LOOKING, *more))
    assert result["policy"]["last"]["episodes"] == 2 and (tmp_path / "run" / "policy.mp4").exists()
    policy, env = load_policy(tmp_path / "run"), made(env_of())
    assert policy.act(tensors(stacked([env.reset(seed=0)[0]]))).shape == (1, 4)


def test_preferences_train_a_policy_on_images(tmp_path):
    more = ["algo=cpl", "feedback=regret", "data=expert", "data.episodes=3", "steps=3", "algo.pretrain_steps=2",
            "query.count=12", "query.length=4", "reference.steps=3", "eval_every=3", "eval_episodes=1", "workers=0",
            "final_episodes=1", "compare=false", "video=false", f"run={tmp_path / 'run'}",
            f"data_dir={tmp_path}"]  # fmt: skip
    assert run.train(config(*LOOKING, *more))["answers"]["answered"] == 12


@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        (["algo=bc", "env.images=[back]"], "no back; it takes front, side, wrist"),
        (["algo=bc", "env.image_size=8"], "between 16 and 512"),
        (["algo=bc", "env.state=none"], "one of full, robot"),
        (["algo=bc", "policy.channels=0"], "channels=0 and policy.features=64 must be at least 1"),
        (["algo=iql"], "IQL reads states and not images"),
        (["algo=dtr", "reward=ensemble"], "a reward model reads states"),
        (["algo=dppo", "reward=ensemble"], "a reward model reads states"),
    ],
)
def test_what_cannot_work_is_refused_in_a_sentence(flags, sentence):
    with pytest.raises(UserError, match=sentence):
        run.train(config(*LOOKING, *flags))


def test_videos_of_a_real_arm_are_observed_like_rendered_ones(data, tmp_path):
    env, episodes, seen = data
    rows = len(episodes[0].obs)
    (tmp_path / "cameras").mkdir()
    large = {c: np.repeat(np.repeat(images[:rows], 8, 1), 8, 2) for c, images in seen.items()}  # of the same view
    files = {"front": "a.mp4", "wrist": "a.wrist.mp4"}
    for camera, name in files.items():
        wide = np.pad(large[camera][:-1], [(0, 0), (0, 0), (32, 32), (0, 0)])  # 4:3 is no square; the end is not filmed
        write_mp4(tmp_path / ("cameras" if camera == "wrist" else "") / name, list(wide), fps=20)
    (tmp_path / "a.json").write_text(json.dumps({"cameras": files}))
    episode = episodes[0]._replace(state=None, video=tmp_path / "a.mp4")
    found = frames.frames(env, [episode], "x", folder=tmp_path, workers=0)
    for camera, images in found.items():
        error = np.abs(images[:-1].astype(float) - seen[camera][: rows - 1]).mean()
        assert images.shape == (rows, 32, 32, 3) and error < 6, (camera, error)
        np.testing.assert_array_equal(images[-1], images[-2])
    with pytest.raises(UserError, match="no pictures of side; of front, wrist it has some"):
        frames.frames(env | {"images": ["side"]}, [episode], "x", folder=tmp_path, workers=0)


def test_the_middle_of_a_picture_is_observed():
    picture = np.zeros((6, 10, 3), np.uint8)
    picture[:, 2:5], picture[:, 5:8] = 40, 200
    np.testing.assert_array_equal(square(picture, 2)[..., 0], [[40, 200], [40, 200]])


def test_data_without_states_have_no_images(data, tmp_path):
    env, episodes, _ = data
    with pytest.raises(UserError, match="neither"):
        frames.frames(env, [episodes[0]._replace(state=None)], "x", folder=tmp_path, workers=0)
    assert not list(tmp_path.glob("frames*")), "nothing is left of it"
