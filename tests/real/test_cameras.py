"""Cameras behind the mock's bridge: a policy sees what it saw in training, and nothing moves on old pictures."""

import json
import subprocess
import sys
import time

import numpy as np
import pytest
import yaml

from pbrl.data import collect, frames
from pbrl.data.video import square
from pbrl.models.gaussian import GaussianPolicy
from pbrl.models.policy import save_policy
from pbrl.run import train as training
from pbrl.types import Spec, UserError
from real.cameras import Cameras
from real.control import FAULTS
from real.mock.arm import MockArm
from real.mock.bridge import Bridge
from real.mock.hub import Hub
from real.mock.process import MockProcess
from real.robot import StateError
from real.settings import load_robot_settings
from sim.tabletop import Tabletop
from tests.parts import config
from tests.real.test_deploy import wait_for

LOOKING = ("env=franka/reach", "env.images=[front,wrist]", "env.image_size=32", "env.state=robot", "env.horizon=40")


@pytest.fixture(scope="module", params=["panda websockets", "fr3 websockets", "panda roslibpy"])
def robot(request):
    """A robot with cameras in this process, in either dialect, and where its bridge is."""
    name, transport = request.param.split()
    settings = load_robot_settings(name) | {"transport": transport}
    hub = Hub(dialect=settings["dialect"])
    env = Tabletop("reach", robot=name, control="cartesian", horizon=10**9, style={}, preference={})
    robot, bridge = MockArm(hub, env, settings), Bridge(hub, port=0)
    bridge.start()
    yield robot, {**settings, "url": f"ws://127.0.0.1:{bridge.port}"}
    bridge.stop()
    robot.close()


@pytest.fixture
def cameras(robot):
    arm, settings = robot
    arm.fault(cameras="")
    opened = Cameras(settings, ["front", "wrist"])
    opened.wait(5)
    wait_for(lambda: sees(opened))
    yield opened
    opened.close()


def sees(cameras: Cameras) -> bool:
    try:
        return bool(cameras.images())
    except StateError:
        return False


def test_without_subscribers_nothing_is_rendered(robot):
    assert not robot[0].cameras.published


def test_camera_images_match_training(robot, cameras):
    arm, _ = robot
    pairs = {}
    for seed in (3, 4):
        arm.reset(seed)
        time.sleep(0.4)
        pictures = cameras.images()
        env = Tabletop("reach", robot=arm.env.robot, control="cartesian", horizon=9, style={}, preference={},
                     images=["front", "wrist"])  # fmt: skip
        env.reset(seed=seed)
        with arm.lock:
            state = arm.env.save_state()
        images = env.restore(seed, state)["images"]
        for name in ("front", "wrist"):
            assert pictures[name].shape == (240, 320, 3)
            pairs[seed, name] = square(pictures[name], 64).astype(float), images[name].astype(float)
    for (seed, name), (there, here) in pairs.items():
        other = pairs[7 - seed, name][1]
        assert np.abs(there - here).mean() < 2, "JPEG loses a little"
        assert np.abs(there - here).max() < 0.6 * np.abs(there - other).max(), "and the goal's place is not lost"


def test_old_and_torn_images_are_dropped(robot, cameras):
    arm, settings = robot
    for fault in ("silent", "frozen", "torn"):
        began = time.monotonic()
        arm.fault(cameras=fault)
        wait_for(lambda: not sees(cameras), 3)
        with pytest.raises(StateError, match="/(front|wrist)/image_raw/compressed") as raised:
            cameras.images()
        assert raised.value.fault == "no_image" and time.monotonic() - began < settings["latest_image_s"] + 1
        arm.fault(cameras="")
        wait_for(lambda: sees(cameras), 3)


def test_impossible_settings_are_explained():
    with pytest.raises(UserError, match="observes camera ceiling: name its topic"):
        Cameras(load_robot_settings("panda"), ["front", "ceiling"])
    with pytest.raises(UserError, match="over ROS"):
        Cameras(load_robot_settings("fr3_direct"), ["front"])


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A policy that looks, and has learnt nothing."""
    folder = tmp_path_factory.mktemp("looking")
    spec = Spec(7, 4, (0.0,) * 7, (1.0,) * 7, 40, dict.fromkeys(("front", "wrist"), (32, 32, 3)))
    save_policy(GaussianPolicy(spec, hidden=[16], dropout=0.0, std=0.0, channels=8, features=16), folder / "policy.pt")
    (folder / "config.yaml").write_text(yaml.safe_dump(config(*LOOKING)))
    return folder


def test_an_arm_without_new_images_stops_and_its_recording_trains(run, tmp_path):
    with MockProcess(task="reach") as mock:
        mock.request(reset=0)
        process = subprocess.Popen(
            [sys.executable, "-m", "real.deploy", "--go", f"policy={run}", f"url={mock.url}", "steps=4000",
             "home=false", f"record={tmp_path}/recorded"],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        wait_for(lambda: mock.request()["count"].get("executed", 0) > 150)
        mock.request(fault={"cameras": "silent"})
        output, error = process.communicate(timeout=60)
        assert process.returncode == FAULTS["no_image"] and "aborted:no_image" in output, output + error
        assert "the newest image on" in error and not mock.request()["active"]
    assert "✓ camera front" in output and "✓ camera wrist" in output
    recorded = tmp_path / "recorded" / "aborted"
    (about,) = recorded.glob("*.json")
    assert set(json.loads(about.read_text())["cameras"]) == {"front", "wrist"}
    env, flags = config(*LOOKING)["env"], [
        "data=recordings", f"data.path={recorded}", "algo=bc", "feedback=none", "steps=3", "workers=0", "eval_every=3",
        "eval_episodes=1", "final_episodes=1", "compare=false", "video=false", f"data_dir={tmp_path}",
        f"run={tmp_path}/run",
    ]  # fmt: skip
    assert training.train(config(*LOOKING, *flags))["data"]["episodes"] == 1
    (episode,), dataset = collect.load_dataset(env, {"path": str(recorded)}, folder=tmp_path, seed=0, workers=0)
    images = frames.load_images(env, [episode], dataset, folder=tmp_path, workers=0)
    assert len(images["front"]) == len(images["wrist"]) == len(episode.obs) > 5 and episode.obs.shape[1] == 7
    sim = Tabletop(**{key: value for key, value in env.items() if key != "_target_"})
    for camera, image in sim.reset(seed=0)[0]["images"].items():  # what the simulator shows at the episode's beginning
        assert np.abs(images[camera][0].astype(float) - image).mean() < 8
