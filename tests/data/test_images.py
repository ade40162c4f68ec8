"""Images as observations: of the state that they stand beside, kept to the bit, and worth looking at."""

import json

import numpy as np
import pytest
import torch

from pbrl.data import collect, frames
from pbrl.data.episodes import content_hash
from pbrl.data.rollout import PolicyActor, rollout, stack_observations, to_observation
from pbrl.data.table import Table
from pbrl.data.video import square, write_mp4
from pbrl.models.policy import load_policy, save_policy
from pbrl.run import train as run
from pbrl.training.engine import Engine
from pbrl.types import Comparisons, Observation, Phase, UserError
from sim.tabletop import Tabletop
from tests.parts import SPEC, build, config

CAMERAS = ("front", "wrist")
LOOKING = ("env=franka/reach", "env.images=[front,wrist]", "env.image_size=32", "env.state=robot", "env.horizon=12")


def env_of(*flags: str) -> dict:
    return config(*LOOKING, *flags)["env"]


def make_env(env: dict) -> Tabletop:
    return Tabletop(**{key: value for key, value in env.items() if key != "_target_"})


def same(a, b) -> bool:
    images = all(np.array_equal(a["images"][camera], b["images"][camera]) for camera in a["images"])
    return np.array_equal(a["state"], b["state"]) and images


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Some episodes of the expert, and what the cameras saw in them."""
    folder, env = tmp_path_factory.mktemp("data"), env_of()
    recipe = {**config("data=expert")["data"], "episodes": 24}
    episodes, dataset = collect.load_dataset(env, recipe, folder=folder, seed=0, workers=0)
    return env, episodes, frames.load_images(env, episodes, dataset, folder=folder, workers=2)


@pytest.fixture(scope="module")
def table(data):
    _, episodes, images = data
    return Table(episodes, images=images)


def test_an_observation_is_what_the_space_says():
    env = make_env(env_of())
    obs, info = env.reset(seed=3)
    assert obs in env.observation_space and list(obs["images"]) == ["front", "wrist"] and obs["state"].shape == (7,)
    assert env.step(np.ones(4))[0] in env.observation_space
    env.reset(seed=3)
    for camera, image in obs["images"].items():
        fine = env.render(64, 64, camera)  # the renderer's pixels are points: four of them make one of a camera's
        np.testing.assert_allclose(image.astype(int), square(fine, 32), atol=1)  # which rounds twice
    assert env.full_obs.shape == (10,), "experts observe the full state"


def test_images_are_of_the_state_beside_them():
    """Restored elsewhere to a state, one sees the same; two environments at once do not see each other's scene."""
    one, other, steps = make_env(env_of()), make_env(env_of()), []
    obs = one.reset(seed=5)[0]
    other.reset(seed=6)
    for t in range(6):
        steps.append((t, one.save_state(), obs))
        obs = one.step(np.array([1.0, -0.5, 0.3, 1.0]))[0]
        other.step(np.array([-1.0, 0.5, 0.3, -1.0]))
    for t, state, expected in reversed(steps):
        assert same(other.restore(5, state, t), expected)
    assert not np.array_equal(steps[0][2]["images"]["front"], steps[5][2]["images"]["front"])
    goal = [one.reset(seed=seed)[0]["images"]["front"] for seed in (7, 8)]
    assert not np.array_equal(*goal), "the goal shows in images alone"


def test_without_images_observations_are_the_state():
    without_images, with_images = (
        make_env(frames.without_images(env_of("env.state=full"))),
        make_env(env_of("env.state=full")),
    )
    a, b = without_images.reset(seed=2)[0], with_images.reset(seed=2)[0]
    for _ in range(5):
        np.testing.assert_array_equal(a, b["state"])
        action = np.array([0.3, 0.2, -0.5, 1.0])
        a, b = without_images.step(action)[0], with_images.step(action)[0]
    assert isinstance(a, np.ndarray) and "_image_camera" not in vars(without_images)


class Watcher:
    """Keeps all it is shown, and moves on."""

    spec, reads_words = SPEC, False

    def reset(self):
        self.observed = []

    def looks(self):
        return True

    def act(self, obs, explore=False):
        self.observed.append(obs)
        return torch.linspace(-1, 1, 4).repeat(len(obs.state), 1)


def test_frames_from_disk_are_what_a_policy_saw(tmp_path):
    env, watcher = env_of(), Watcher()
    episodes = rollout([make_env(env), make_env(env)], PolicyActor(watcher), [11, 12])
    found = frames.load_images(env, episodes, "x", folder=tmp_path, workers=0)
    assert {camera: images.shape for camera, images in found.items()} == dict.fromkeys(CAMERAS, (26, 32, 32, 3))
    for i in range(2):
        for camera in CAMERAS:
            shown = [obs.images[camera][i] for obs in watcher.observed]
            np.testing.assert_array_equal(found[camera][13 * i : 13 * i + 12], shown)
        np.testing.assert_array_equal(episodes[i].obs[:-1], [obs.state[i] for obs in watcher.observed])
    modified_at = {path: path.stat().st_mtime_ns for path in tmp_path.glob("images-*.npy")}
    again = frames.load_images(env, episodes, "x", folder=tmp_path, workers=0)
    assert len(modified_at) == 2 and all(path.stat().st_mtime_ns == at for path, at in modified_at.items()), "made once"
    np.testing.assert_array_equal(again["wrist"], found["wrist"])
    alone = frames.load_images(env | {"images": ["wrist"]}, episodes, "x", folder=tmp_path, workers=0)
    assert list(alone) == ["wrist"] and set(tmp_path.glob("images-*.npy")) == set(modified_at), "cameras are shared"
    other = frames.load_images(env | {"image_size": 16}, episodes, "x", folder=tmp_path, workers=0)
    assert other["front"].shape == (26, 16, 16, 3) and isinstance(other["front"], np.memmap)


def test_one_data_set_serves_policies_with_and_without_images(tmp_path):
    recipe = {**config("data=expert")["data"], "episodes": 1}
    settings = {"folder": tmp_path, "seed": 0, "workers": 0}
    (one,), with_images = collect.load_dataset(env_of(), recipe, **settings)
    (other,), without_images = collect.load_dataset(frames.without_images(env_of()), recipe, **settings)
    assert with_images == without_images == content_hash([one]) == content_hash([other])
    assert frames.load_images(frames.without_images(env_of()), [one], without_images, folder=tmp_path, workers=0) == {}


def test_batches_carry_images_of_their_rows(data, table):
    _, episodes, images = data
    assert table.spec().images == dict.fromkeys(CAMERAS, (32, 32, 3))
    rows = torch.tensor([[3, 14], [0, 20]])
    found = table.observe(rows, images=True)
    assert isinstance(found, Observation)
    torch.testing.assert_close(found.state, table.obs[rows])
    for camera in CAMERAS:
        np.testing.assert_array_equal(found.images[camera], images[camera][rows.numpy()])


def test_a_policy_with_images_learns_what_one_without_cannot(data, table):
    """The goal shows in images alone; the first actions of held-out expert episodes depend on it."""
    held = torch.from_numpy(np.concatenate([np.arange(f, f + 6) for f in table.first[18:]]))
    rows, error = table.rows[table.rows < table.first[18]], {}
    for name, own in (("with images", table), ("without", Table(data[1]))):
        torch.manual_seed(0)
        learner = build("algo/bc", own.spec(), cosine_steps=0, lr=1e-3)
        for _ in range(120):
            learner.update(own.transitions(rows[torch.randint(len(rows), (64,))], images=True))
        error[name] = -learner.policy.log_prob(own.observe(held, images=True), own.action[held]).mean().item()
    assert error["with images"] < 0.7 * error["without"], error


def test_compiled_is_eager(table, graph_alone):
    torch.compiler.reset()
    rows = torch.randint(200, (4, 2, 1), generator=torch.Generator().manual_seed(0)) + torch.arange(3)
    label, ones = torch.tensor([0.0, 1.0, 0.5, 1.0]), torch.ones(4)
    batch = Comparisons(table.segments(rows[..., 0], 3, images=True), label, torch.zeros(4, dtype=torch.long), ones)
    found = []
    for compiled in (False, True):
        learner = build("algo/cpl", table.spec())
        phase = Phase("policy", 1, lambda data: batch, learner.update)
        update = Engine(torch.device("cpu"), compile=compiled, bf16=False).prepare(phase)
        found.append([update(batch)["cpl"].item() for _ in range(3)])
    assert found[0] == pytest.approx(found[1], rel=1e-3) and found[0][2] < found[0][0]


def test_a_saved_policy_sees_the_same(table, tmp_path):
    policy = build("policy/mlp", table.spec(), hidden=[16])
    save_policy(policy, tmp_path / "policy.pt")
    obs = table.observe(torch.arange(5), images=True)
    again = load_policy(tmp_path)
    assert torch.equal(again.act(obs), policy.act(obs)) and again.spec.images == policy.spec.images
    with torch.no_grad():
        turned = obs._replace(images={camera: image.flip(-2) for camera, image in obs.images.items()})
        assert not torch.allclose(policy.act(turned), policy.act(obs))


def test_a_policy_from_before_there_were_images_loads(data, tmp_path):
    policy = build("policy/mlp", Table(data[1]).spec(), hidden=[16])
    save_policy(policy, tmp_path / "policy.pt")
    saved = torch.load(tmp_path / "policy.pt", weights_only=True)
    saved["spec"]["steps"] = saved["spec"].pop("max_steps")
    del saved["spec"]["images"], saved["settings"]["channels"], saved["settings"]["features"]
    torch.save(saved, tmp_path / "policy.pt")
    obs = Observation(torch.zeros(1, 7))
    assert torch.equal(load_policy(tmp_path).act(obs), policy.act(obs))


def test_one_command_trains_evaluates_and_saves(tmp_path):
    more = ["algo=bc", "data=expert", "data.episodes=4", "steps=6", "eval_every=3", "eval_episodes=2", "workers=0",
            "final_episodes=2", "compare=false", f"run={tmp_path / 'run'}", f"data_dir={tmp_path}"]  # fmt: skip
    result = run.train(config(*LOOKING, *more))
    assert result["policy"]["last"]["episodes"] == 2 and (tmp_path / "run" / "policy.mp4").exists()
    policy, env = load_policy(tmp_path / "run"), make_env(env_of())
    assert policy.act(to_observation(stack_observations([env.reset(seed=0)[0]]))).shape == (1, 4)


def test_preferences_train_a_policy_with_images(tmp_path):
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
        (["algo=bc", "policy.channels=0"], "policy.channels=0 must be a whole number, at least 1"),
        (["algo=iql"], "IQL reads states and not images"),
        (["algo=dtr", "reward=ensemble"], "Ensemble reads states and not images"),
        (["algo=iql", "reward=ensemble"], "Ensemble reads states and not images"),
    ],
)
def test_impossible_settings_are_explained(flags, sentence):
    with pytest.raises(UserError, match=sentence):
        run.train(config(*LOOKING, *flags))


def test_videos_of_a_real_arm_match_rendered_images(data, tmp_path):
    env, episodes, images = data
    rows = len(episodes[0].obs)
    (tmp_path / "cameras").mkdir()
    files = {"front": "a.mp4", "wrist": "a.wrist.mp4"}
    for camera, name in files.items():
        large = images[camera][: rows - 1].repeat(8, 1).repeat(8, 2)  # what a camera of the same view would see
        wide = np.pad(large, [(0, 0), (0, 0), (32, 32), (0, 0)])  # 4:3 is not square; the end is not filmed
        write_mp4(tmp_path / ("" if camera == "front" else "cameras") / name, list(wide), fps=20)
    (tmp_path / "a.json").write_text(json.dumps({"cameras": files}))
    episode = episodes[0]._replace(state=None, video=tmp_path / "a.mp4")
    found = frames.load_images(env, [episode], "x", folder=tmp_path, workers=0)
    for camera in CAMERAS:
        error = np.abs(found[camera][:-1].astype(float) - images[camera][: rows - 1]).mean()
        assert found[camera].shape == (rows, 32, 32, 3) and error < 6, (camera, error)
        np.testing.assert_array_equal(found[camera][-1], found[camera][-2])
    with pytest.raises(UserError, match="no video of side; it has front, wrist"):
        frames.load_images(env | {"images": ["side"]}, [episode], "x", folder=tmp_path, workers=0)


def test_images_are_center_crops():
    picture = np.zeros((6, 10, 3), np.uint8)
    picture[:, 2:5], picture[:, 5:8] = 40, 200
    np.testing.assert_array_equal(square(picture, 2)[..., 0], [[40, 200], [40, 200]])


def test_data_without_states_have_no_images(data, tmp_path):
    env, episodes, _ = data
    with pytest.raises(UserError, match="neither"):
        frames.load_images(env, [episodes[0]._replace(state=None)], "x", folder=tmp_path, workers=0)
    assert not list(tmp_path.glob("images*")), "nothing is left of it"
