"""Configs: every environment composes by its name, every preset is a run that could start."""

import pytest
from hydra.utils import instantiate

from pbrl.run.folder import run_folder
from pbrl.run.validate import validate
from pbrl.settings import RunSettings
from tests.parts import config, names


@pytest.mark.parametrize(
    "env", ["metaworld/button-press", "dm_control/walker-walk", "dm_control/ball_in_cup-catch", "gym/hopper"]
)
def test_an_environment_by_its_name(env):
    env_object = instantiate(config(f"env={env}")["env"])
    assert (
        env_object.task == env.split("/")[1] and env_object.reset(seed=0)[0].shape == env_object.observation_space.shape
    )


@pytest.mark.parametrize("name", names("experiment"))
def test_a_preset_could_start(name, tmp_path):
    found = config(f"experiment={name}", "env=metaworld/drawer-open")
    if "path" in found["policy"]:  # of a model that cannot be had here: a tiny one
        pytest.importorskip("peft", reason="needs peft: pip install -e '.[vla]'")
        from tests.models.vision_language import openvla

        openvla(tmp_path)
        found["policy"]["path"] = str(tmp_path)
    validate(RunSettings.parse(found))


@pytest.mark.parametrize("name", names("data"))
def test_a_data_recipe_composes(name):
    found = config(f"data={name}", *(["data.path=x"] if name in ("file", "recordings") else []))["data"]
    assert found["name"] == name
    if "behaviour" in found:
        instantiate(found["behaviour"])


def test_true_reward_learnt_reward_and_none_differ_by_the_command_line():
    for overrides in (["algo=iql"], ["algo=iql", "reward=ensemble"], ["algo=cpl"], ["algo=dppo", "reward=ensemble"]):
        validate(RunSettings.parse(config(*overrides)))


def test_data_have_a_seed_of_their_own():
    one, two = config("seed=1"), config("seed=2")
    assert (
        one["data_seed"] == two["data_seed"]
        and run_folder(RunSettings.parse(one)).name != run_folder(RunSettings.parse(two)).name
    )
