"""What a judge is shown: see-through arms, fixed cameras, images as observations, and tasks in words."""

import json
from typing import Any

import numpy as np
import pytest

from pbrl.data import collect, frames
from pbrl.data.episodes import episode_id
from pbrl.data.rollout import make_environment
from pbrl.feedback.page.clips import Clips, Look
from pbrl.types import UserError
from sim import instructions
from sim.tasks import tasks
from tests.parts import config

JUDGED = ("drawer-open", "soccer", "sweep-into", "door-open")
WORDS = {"metaworld": instructions.METAWORLD, "dm_control": instructions.DM_CONTROL, "gym": instructions.GYM}


def env_of(name: str, *flags: str) -> dict[str, Any]:
    return config(f"env={name}", *flags)["env"]


def make(name: str, *flags: str) -> Any:
    return make_environment(env_of(name, *flags))


@pytest.fixture(scope="module")
def drawer():
    """The same task with a solid and with a see-through arm."""
    return make("metaworld/drawer-open"), make("metaworld/drawer-open", "env.see_through=true")


def play(env: Any, steps: int) -> list[np.ndarray]:
    """States of the expert's episode, until it succeeds."""
    env.reset(seed=3)
    expert, states = env.expert(), [env.save_state()]
    for _ in range(steps):
        info = env.step(expert.act(env.full_obs))[4]
        states.append(env.save_state())
        if info["success"]:
            break
    return states


def test_a_see_through_arm_changes_no_number(drawer):
    solid, faded = drawer
    np.testing.assert_array_equal(solid.reset(seed=3)[0], faded.reset(seed=3)[0])
    rng = np.random.default_rng(0)
    for _ in range(60):
        action = rng.uniform(-1, 1, 4)
        a, b = solid.step(action), faded.step(action)
        np.testing.assert_array_equal(a[0], b[0])
        assert a[1:] == b[1:]
        np.testing.assert_array_equal(solid.save_state(), faded.save_state())


def arm_mask(env: Any, camera: str, size: int) -> np.ndarray:
    """Where the arm is: the pixels that change when all that hangs from its base is green, then pink. [H, W] bool."""
    model, shown = env.model, []

    def is_arm(body: int) -> bool:
        return model.body(body).name == "right_arm_base_link" or (body > 0 and is_arm(model.body_parentid[body]))

    before = model.geom_rgba.copy(), model.site_rgba.copy()
    for color in ([0, 1, 0, 1], [1, 0, 1, 1]):
        for rgba, bodies in ((model.geom_rgba, model.geom_bodyid), (model.site_rgba, model.site_bodyid)):
            rgba[[i for i, body in enumerate(bodies) if is_arm(body) and rgba[i, 3] > 0]] = color
        shown.append(env.render(size, size, camera).astype(int))
    model.geom_rgba[:], model.site_rgba[:] = before
    return np.abs(shown[0] - shown[1]).max(-1) > 0


def test_pictures_differ_where_the_arm_is_alone(drawer):
    solid, faded = drawer
    states = play(solid, 40)
    for state in (states[0], states[-1]):
        for env in drawer:
            env.restore(3, state)
        for camera in ("closeup", "corner2", "corner3"):
            a, b = (env.render(128, 128, camera).astype(int) for env in (solid, faded))
            changed, arm = np.abs(a - b).max(-1) > 2, arm_mask(solid, camera, 128)
            assert changed.sum() > 0.5 * arm.sum() > 100, camera
            assert not changed[~arm].any(), camera


@pytest.mark.parametrize("task", JUDGED)
def test_what_the_task_is_about_is_seen_through_the_arm(task):
    """Only the task's own things move, the arm staying where it is at first: the closeup shows that they did."""
    env = make(f"metaworld/{task}", "env.see_through=true", "env.camera=closeup")
    states = play(env, 250)
    assert env.cameras[0] == "closeup" and len(states) < 250
    moved = env.data.qpos[9:].copy()  # joints 0 to 6 are the arm's, 7 and 8 the fingers'
    env.restore(3, states[0])
    first = env.render(128, 128).astype(int)
    assert not np.array_equal(env.data.qpos[9:], moved)
    env.data.qpos[9:] = moved
    last = env.render(128, 128).astype(int)
    assert (np.abs(first - last).max(-1) > 20).sum() > 40, "of 16,384 pixels"
    env.close()


@pytest.mark.parametrize("simulator", WORDS)
def test_every_task_is_said_in_words(simulator):
    words = WORDS[simulator]
    assert set(words) == set(tasks(simulator))
    assert all(text == text.strip() and len(text.split()) > 2 and text[0].islower() for text in words.values())


@pytest.mark.parametrize("name", ["metaworld/drawer-open", "dm_control/cartpole-swingup", "gym/inverted-pendulum"])
def test_instructions_are_told_but_not_kept_in_episodes(name):
    """An episode's id holds its instruction; those of these simulators are older than their instructions."""
    env, (simulator, task) = make(name), name.split("/")
    assert env.instruction == WORDS[simulator][task] and "instruction" not in env.reset(seed=0)[1]
    assert make(name, "env.instruction=do as you like").instruction == "do as you like"
    with pytest.raises(UserError, match="env.instruction is empty"):
        make(name, "env.instruction=''")


@pytest.mark.parametrize(
    ("name", "camera"),
    [("metaworld/soccer", "closeup"), ("dm_control/cartpole-balance", "fixed"), ("gym/inverted-pendulum", "fixed"),
     ("gym/hopper", "track")],
)  # fmt: skip
def test_images_are_observed(name, camera):
    env, plain = make(name, f"env.images=[{camera}]", "env.image_size=48"), make(name)
    obs, _ = env.reset(seed=1)
    image, state = obs["images"][camera], plain.reset(seed=1)[0]
    assert obs in env.observation_space and image.shape == (48, 48, 3) and image.dtype == np.uint8 and image.std() > 5
    np.testing.assert_array_equal(obs["state"], state)
    for _ in range(3):
        action = np.full(env.action_space.shape, 0.5)
        obs, state = env.step(action)[0], plain.step(action)[0]
        np.testing.assert_array_equal(obs["state"], state)
    again = env.restore(1, env.save_state(), 3)
    np.testing.assert_array_equal(again["images"][camera], obs["images"][camera])
    env.close()


@pytest.mark.parametrize(
    ("name", "camera", "ends"), [("gym/inverted-pendulum", "fixed", 1.0), ("dm_control/cartpole-balance", "rail", 1.8)]
)
def test_a_fixed_camera_sees_the_whole_rail(name, camera, ends):
    """Wherever the cart is, the picture shows all of it, and differs."""
    env = make(name, f"env.camera={camera}")
    env.reset(seed=0)
    seen = []
    for cart in (-ends, 0.0, ends):
        env.data.qpos[:] = [cart, 0.1]
        seen.append(env.render(96, 96).astype(int))
    shift = [np.abs(a - b).max(-1) > 40 for a, b in zip(seen, seen[1:], strict=False)]
    assert all(mask.sum() > 60 for mask in shift)
    assert not any(mask[:, [0, -1]].any() for mask in shift), "nothing leaves the picture"
    env.close()


@pytest.mark.parametrize("flag", ["env.camera=selfie", "env.images=[selfie]"])
def test_unknown_cameras(flag):
    for name in ("metaworld/reach", "gym/reacher", "dm_control/walker-walk"):
        with pytest.raises(UserError, match="selfie"):
            make(name, flag)
    with pytest.raises(UserError, match="between 16 and 512"):
        make("gym/reacher", "env.images=[fixed]", "env.image_size=4")


VIEW = ("env.see_through=true", "env.camera=closeup", "env.images=[closeup]", "env.image_size=32",
        "env.instruction=pull the drawer out")  # fmt: skip


def test_views_share_one_data_set_and_one_id(tmp_path):
    """What was collected before there were views is found with them; pictures and clips are files of their own."""
    before = {"_target_": "sim.metaworld.MetaWorld", "task": "drawer-open", "horizon": 8, "goal_visible": True}
    plain = env_of("metaworld/drawer-open", "env.horizon=8")
    viewed = env_of("metaworld/drawer-open", "env.horizon=8", *VIEW)
    recipe = {**config("data=random")["data"], "episodes": 2}
    settings = {"folder": tmp_path, "seed": 0, "workers": 0}
    made = [collect.load_dataset(env, recipe, **settings) for env in (viewed, plain)]
    assert len([path for path in tmp_path.iterdir() if path.is_dir()]) == 1 and made[0][1] == made[1][1]
    assert [episode_id(e) for e in made[0][0]] == [episode_id(e) for e in made[1][0]]
    assert all(e.instruction == "" for episodes, _ in made for e in episodes)
    old = collect.dataset_path({"env": before, "data": recipe, "seed": 0}, tmp_path)
    assert old.name.rpartition("-")[2] == next(p for p in tmp_path.iterdir() if p.is_dir()).name.rpartition("-")[2]
    solid = {**plain, "images": ["closeup"], "image_size": 32}
    images = [frames.load_images(env, made[0][0], "x", **_folder(settings))["closeup"] for env in (solid, viewed)]
    assert images[0].shape == (18, 32, 32, 3) and len(list(tmp_path.glob("images-closeup-*.npy"))) == 2
    assert (images[0] != images[1]).any()
    paths = {Clips(_Source(env), tmp_path / "clips", look=Look(), limit_mb=1).path("a") for env in (plain, viewed)}  # type: ignore[arg-type]
    assert len(paths) == 2 and tmp_path / "clips" / "a-256-20.mp4" in paths


def _folder(settings: dict[str, Any]) -> dict[str, Any]:
    return {"folder": settings["folder"], "workers": settings["workers"]}


class _Source:
    """Renderers that render nothing."""

    def __init__(self, env: dict[str, Any]):
        self.source = {"env": env}


def test_images_of_before_are_found(tmp_path):
    """The names of image files did not change with the options that came later."""
    import hashlib

    env = env_of("franka/reach", "env.images=[front]", "env.image_size=32")
    settings = {key: value for key, value in env.items() if key not in ("images", "name")}
    digest = hashlib.sha256(json.dumps(["x", settings, "front"], sort_keys=True).encode()).hexdigest()[:10]
    assert frames.images_path(env, "front", "x", tmp_path).name == f"images-front-{digest}.npy"


def test_an_instruction_that_episodes_keep_names_its_data_set():
    env = {"_target_": "sim.gymnasium_env.Gymnasium", "id": "Puck-v0", "instruction": "to the target"}
    assert frames.without_view(env) == env
