"""A camera that was moved and another light: against a camera that stands there, and what a share of a light leaves."""

from typing import Any

import mujoco
import numpy as np
import pytest

from pbrl.data import frames
from pbrl.data.rollout import make_environment
from pbrl.types import UserError
from sim.render import Camera, Viewpoint
from sim.simulation import PHYSICS
from sim.view_change import UNCHANGED, ViewChange
from tests.parts import config

SCENE = """<mujoco><statistic center="0.1 0 0.2" extent="1"/>
  <visual><headlight ambient="0.2 0.2 0.2" diffuse="0.5 0.5 0.5" specular="0 0 0"/><map znear="0.01"/></visual>
  <worldbody><light pos="0 0 2" dir="0 0 -1" diffuse="0.4 0.4 0.4" ambient="0 0 0" specular="0 0 0"/>
    <geom type="box" pos="0.1 0 0.1" size="0.1 0.2 0.1" rgba="0.8 0.6 0.4 1"/>
    <geom type="sphere" pos="0.3 0.1 0.3" size="0.05" rgba="0.2 0.4 0.8 1"/></worldbody></mujoco>"""


@pytest.fixture(scope="module")
def scene():
    model = mujoco.MjModel.from_xml_string(SCENE)
    state = np.empty(mujoco.mj_stateSize(model, PHYSICS))
    mujoco.mj_getState(model, mujoco.MjData(model), state, PHYSICS)
    camera = Camera()

    def show(azimuth: float = 30.0, change: ViewChange = UNCHANGED) -> np.ndarray:
        place = Viewpoint((0.1, 0.0, 0.2), 1.0, azimuth, -35)
        return camera.frame(model, state, PHYSICS, 96, 96, place, True, change).astype(float)

    yield show
    camera.close()


def test_a_turned_camera_is_the_camera_that_stands_there(scene):
    """The camera looks at the middle of the model, so it goes round what it looks at."""
    moved, there = scene(change=ViewChange(turn_deg=20)), scene(azimuth=50)
    assert np.abs(moved - there).mean() < 0.2 < np.abs(moved - scene()).mean()


def test_half_of_the_light_leaves_half_of_each_color_and_a_colored_one_a_share_of_each(scene):
    full, lit = scene(), scene().sum(2) > 30
    half = scene(change=ViewChange(light=(0.5, 0.5, 0.5)))
    np.testing.assert_allclose(half[lit], full[lit] / 2, atol=1.5)
    warm = scene(change=ViewChange(light=(1.0, 0.5, 0.25)))
    np.testing.assert_allclose(warm[lit], full[lit] * (1.0, 0.5, 0.25), atol=1.5)


def env_of(name: str, **change: Any) -> Any:
    return make_environment({**config(f"env={name}")["env"], **({"view_change": change} if change else {})})


def test_a_flat_world_turned_by_a_right_angle_is_its_picture_turned():
    plain, turned = env_of("magical/grouping"), env_of("magical/grouping", turn_deg=90)
    shown = []
    for env in (plain, turned):
        env.reset(seed=3)
        shown.append(env.render(64, 64).astype(int))
    assert np.abs(np.rot90(shown[0], -1) - shown[1]).mean() < 4 < np.abs(shown[0] - shown[1]).mean()
    dim = env_of("magical/grouping", light=[0.5, 0.5, 0.5])
    dim.reset(seed=3)
    np.testing.assert_allclose(dim.render(64, 64), shown[0] / 2, atol=1)
    np.testing.assert_array_equal(dim.reset(seed=3)[0], plain.reset(seed=3)[0])


def test_it_is_part_of_a_pictures_file_and_of_no_data_set(tmp_path):
    env = {**config("env=magical/grouping")["env"], "images": ["allocentric"]}
    changed = {**env, "view_change": {"turn_deg": 10}}
    paths = [frames.images_path(own, "allocentric", "x", tmp_path) for own in (env, changed)]
    assert paths[0] != paths[1] and frames.without_view(changed) == frames.without_view(env)


@pytest.mark.parametrize("name", ["multitask/mt10"])
def test_what_cannot_be_changed_says_so(name):
    with pytest.raises(UserError, match="no camera of"):
        env_of(name, turn_deg=5)
