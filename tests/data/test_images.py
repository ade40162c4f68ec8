"""Images as observations: of the state that they stand beside, kept to the bit, and worth looking at."""

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
from pbrl.training.engine import Engine
from pbrl.types import Observation, PreferenceBatch, UserError
from sim.franka import Franka
from tests.parts import build, config

LOOKING = ("env=franka/reach", "env.images=[front,wrist]", "env.image_size=32", "env.state=robot", "env.horizon=12")


def env_of(*flags: str) -> dict:
    return config(*LOOKING, *flags)["env"]


def made(env: dict) -> Franka:
    return Franka(**{key: value for key, value in env.items() if key != "_target_"})


def same(a, b) -> bool:
    return all(np.array_equal(a[key], b[key]) for key in ("state", "image"))


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Some episodes of the expert, and what the cameras saw in them."""
    folder, env = tmp_path_factory.mktemp("data"), env_of()
    recipe = {**config("data=expert")["data"], "episodes": 24}
    episodes, dataset = collect.dataset(env, recipe, folder=folder, seed=0, workers=0)
    return env, episodes, frames.frames(env, episodes, dataset, folder=folder, workers=2)


@pytest.fixture(scope="module")
def table(data):
    _, episodes, seen = data
    return Table(episodes, frames=seen)


def test_an_observation_is_what_the_space_says():
    env = made(env_of())
    obs, info = env.reset(seed=3)
    assert obs in env.observation_space and obs["image"].shape == (2, 32, 32, 3) and obs["state"].shape == (7,)
    assert env.step(np.ones(4))[0] in env.observation_space
    env.reset(seed=3)
    for camera, image in zip(("front", "wrist"), obs["image"], strict=True):
        fine = env.render(64, 64, camera)  # the renderer's pixels are points: four of them make one of a camera's
        np.testing.assert_allclose(image.astype(int), square(fine, 32), atol=1)  # which rounds twice
    assert env.full_obs.shape == (10,), "experts are told all"


def test_images_are_of_the_state_beside_them():
    """Restored elsewhere to a state, one sees the same; two environments at once do not see each other's scene."""
    one, other, told = made(env_of()), made(env_of()), []
    obs = one.reset(seed=5)[0]
    other.reset(seed=6)
    for t in range(6):
        told.append((t, one.save_state(), obs))
        obs = one.step(np.array([1.0, -0.5, 0.3, 1.0]))[0]
        other.step(np.array([-1.0, 0.5, 0.3, -1.0]))
    for t, state, seen in reversed(told):
        assert same(other.restore(5, state, t), seen)
    assert not np.array_equal(told[0][2]["image"], told[5][2]["image"])
    goal = one.reset(seed=7)[0]["image"], one.reset(seed=8)[0]["image"]
    assert not np.array_equal(*goal), "the goal is only to be seen"


def test_without_images_nothing_is_seen_and_all_is_as_it_was():
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


def test_frames_from_disk_are_what_a_policy_saw(tmp_path):
    env, watcher = env_of(), Watcher()
    episodes = rollout([made(env), made(env)], PolicyActor(watcher), [11, 12])
    found = frames.frames(env, episodes, "x", folder=tmp_path, workers=0)
    assert isinstance(found, np.memmap) and found.shape == (26, 2, 32, 32, 3)
    for i in range(2):
        np.testing.assert_array_equal(found[13 * i : 13 * i + 12], [obs.image[i] for obs in watcher.seen])
        np.testing.assert_array_equal(episodes[i].obs[:-1], [obs.state[i] for obs in watcher.seen])
    changed = (tmp_path / next(tmp_path.glob("frames-*.npy")).name).stat().st_mtime_ns
    again = frames.frames(env, episodes, "x", folder=tmp_path, workers=0)
    assert next(tmp_path.glob("frames-*.npy")).stat().st_mtime_ns == changed, "it is made once"
    np.testing.assert_array_equal(again, found)
    frames.frames(env | {"images": ["wrist"]}, episodes, "x", folder=tmp_path, workers=0)
    assert len(list(tmp_path.glob("frames-*.npy"))) == 2


def test_one_data_set_serves_who_looks_and_who_does_not(tmp_path):
    recipe = {**config("data=expert")["data"], "episodes": 1}
    told = {"folder": tmp_path, "seed": 0, "workers": 0}
    (one,), looking = collect.dataset(env_of(), recipe, **told)
    (other,), blind = collect.dataset(frames.blind(env_of()), recipe, **told)
    assert looking == blind == content_hash([one]) == content_hash([other])
    assert frames.frames(frames.blind(env_of()), [one], blind, **{k: told[k] for k in ("folder", "workers")}) is None


def test_batches_carry_images_of_their_rows(data, table):
    _, episodes, seen = data
    assert table.spec().image == (2, 32, 32, 3) and table.image.shape == seen.shape
    rows = torch.tensor([[3, 14], [0, 20]])
    found = table.seen(rows)
    assert isinstance(found, Observation)
    np.testing.assert_array_equal(found.image, seen[rows.numpy()])
    torch.testing.assert_close(found.state, table.obs[rows])
    batch = table.transitions(rows[0])
    np.testing.assert_array_equal(batch.obs.image, seen[rows[0].numpy()])
    torch.testing.assert_close(batch.next_obs, table.obs[rows[0] + 1])


def test_who_sees_learns_what_who_does_not_cannot(data, table):
    """Where the goal is can only be seen: of episodes that were held out, the expert's first actions tell."""
    held = torch.from_numpy(np.concatenate([np.arange(f, f + 6) for f in table.first[18:]]))
    rows, error = table.rows[table.rows < table.first[18]], {}
    for name, own in (("looking", table), ("blind", Table(data[1]))):
        torch.manual_seed(0)
        learner = build("algo/bc", own.spec(), cosine_steps=0, lr=1e-3)
        for _ in range(120):
            learner.update(own.transitions(rows[torch.randint(len(rows), (64,))]))
        error[name] = -learner.policy.log_prob(own.seen(held), own.action[held]).mean().item()
    assert error["looking"] < 0.7 * error["blind"], error


def test_compiled_is_eager(table):
    torch.compiler.reset()
    rows = torch.randint(200, (4, 2, 1), generator=torch.Generator().manual_seed(0)) + torch.arange(3)
    batch = PreferenceBatch(table.seen(rows), table.action[rows], torch.tensor([0.0, 1.0, 0.5, 1.0]))
    found = []
    for compiled in (False, True):
        learner = build("algo/cpl", table.spec())
        update = Engine(torch.device("cpu"), compile=compiled, bf16=False).prepare(learner.update)
        found.append([update(batch)["cpl"].item() for _ in range(3)])
    assert found[0] == pytest.approx(found[1], rel=1e-3) and found[0][2] < found[0][0]


def test_a_saved_policy_sees_the_same(table, tmp_path):
    policy = build("policy/mlp", table.spec(), hidden=[16])
    save_policy(policy, tmp_path / "policy.pt")
    obs = table.seen(torch.arange(5))
    again = load_policy(tmp_path)
    assert torch.equal(again.act(obs), policy.act(obs)) and again.spec.image == (2, 32, 32, 3)
    with torch.no_grad():
        turned = obs._replace(image=obs.image.flip(-2))
        assert not torch.allclose(policy.act(turned), policy.act(obs))


def test_a_policy_from_before_there_were_images_loads(data, tmp_path):
    policy = build("policy/mlp", Table(data[1]).spec(), hidden=[16])
    save_policy(policy, tmp_path / "policy.pt")
    saved = torch.load(tmp_path / "policy.pt", weights_only=True)
    del saved["spec"]["image"], saved["settings"]["channels"], saved["settings"]["features"]
    torch.save(saved, tmp_path / "policy.pt")
    assert torch.equal(load_policy(tmp_path).act(torch.zeros(1, 7)), policy.act(torch.zeros(1, 7)))


def test_one_command_trains_evaluates_and_saves(tmp_path):
    more = ["algo=bc", "data=expert", "data.episodes=4", "steps=6", "eval_every=3", "eval_episodes=2", "workers=0",
            "final_episodes=2", "compare=false", f"run={tmp_path / 'run'}", f"data_dir={tmp_path}"]  # fmt: skip
    result = run.train(config(*LOOKING, *more))
    assert result["policy"]["last"]["episodes"] == 2 and (tmp_path / "run" / "policy.mp4").exists()
    policy, env = load_policy(tmp_path / "run"), made(env_of())
    assert policy.act(tensors(stacked([env.reset(seed=0)[0]]))).shape == (1, 4)


def test_preferences_train_a_policy_that_looks(tmp_path):
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
        (["algo=iql"], "IQL reads states and does not look"),
        (["algo=dtr", "reward=ensemble"], "a reward model reads states"),
        (["algo=cpl", "reward=ensemble"], "a reward model reads states"),
    ],
)
def test_what_cannot_be_is_said_in_a_sentence(flags, sentence):
    with pytest.raises(UserError, match=sentence):
        run.train(config(*LOOKING, *flags))


def test_videos_of_a_real_arm_are_looked_at_like_rendered_ones(data, tmp_path):
    env, episodes, seen = data
    rows = len(episodes[0].obs)
    (tmp_path / "cameras").mkdir()
    large = np.repeat(np.repeat(seen[:rows], 8, 2), 8, 3)  # what a camera of the same view would see
    files = {"front": "a.mp4", "wrist": "a.wrist.mp4"}
    for c, name in enumerate(files.values()):
        wide = np.pad(large[:-1, c], [(0, 0), (0, 0), (32, 32), (0, 0)])  # 4:3 is not square; the end is not filmed
        write_mp4(tmp_path / ("cameras" if c else "") / name, list(wide), fps=20)
    (tmp_path / "a.json").write_text(json.dumps({"cameras": files}))
    episode = episodes[0]._replace(state=None, video=tmp_path / "a.mp4")
    found = frames.frames(env, [episode], "x", folder=tmp_path, workers=0)
    error = np.abs(found[:-1].astype(float) - seen[: rows - 1]).mean((0, 2, 3, 4))
    assert found.shape == (rows, 2, 32, 32, 3) and (error < 6).all(), error
    np.testing.assert_array_equal(found[-1], found[-2])
    with pytest.raises(UserError, match="no pictures of side; of front, wrist it has some"):
        frames.frames(env | {"images": ["side"]}, [episode], "x", folder=tmp_path, workers=0)


def test_the_middle_of_a_picture_is_what_is_seen():
    picture = np.zeros((6, 10, 3), np.uint8)
    picture[:, 2:5], picture[:, 5:8] = 40, 200
    np.testing.assert_array_equal(square(picture, 2)[..., 0], [[40, 200], [40, 200]])


def test_data_without_states_have_no_images(data, tmp_path):
    env, episodes, _ = data
    with pytest.raises(UserError, match="neither"):
        frames.frames(env, [episodes[0]._replace(state=None)], "x", folder=tmp_path, workers=0)
    assert not list(tmp_path.glob("frames*")), "nothing is left of it"
