"""Cameras behind the mock's bridge: a policy sees what it saw in training, and nothing moves on old pictures."""

import base64
import contextlib
import json
import subprocess
import time
from io import BytesIO

import numpy as np
import pytest
import yaml
from PIL import Image

from pbrl.data import collect, frames
from pbrl.data.video import square
from pbrl.models.gaussian import GaussianPolicy
from pbrl.models.policy import save_policy
from pbrl.run import train as training
from pbrl.types import Spec, UserError
from real.cameras import Cameras, decode
from real.control import FAULTS
from real.drivers.messages import to_stamp
from real.mock.arm import MockArm
from real.mock.bridge import Bridge
from real.mock.hub import Hub
from real.mock.process import MockProcess
from real.robot import StateError
from real.settings import load_robot_settings
from sim.tabletop import Tabletop
from tests import forks
from tests.parts import config
from tests.real.memory import MemoryLink
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


class Pictures:
    """A camera whose messages are put in by hand."""

    def __init__(self):
        self.now, self.link = time.time(), MemoryLink()
        self.cameras = Cameras(load_robot_settings("panda"), ["front"], lambda: self.now, lambda url: self.link)
        self.topic = "/front/image_raw/compressed"

    def show(self, pixels, format_, kind="PNG", offset_s=0.0, stamped=True):
        """The image that comes of pixels, as a message of this format."""
        out = BytesIO()
        Image.fromarray(pixels).save(out, kind)
        self.now += 0.01
        stamp = to_stamp(self.now + offset_s if stamped else 0.0, True)
        message = {"header": {"stamp": stamp}, "format": format_, "data": base64.b64encode(out.getvalue()).decode()}
        self.link.topics[self.topic].received = message, time.monotonic()
        return self.cameras.images()["front"]


RAMP = np.linspace(0, 255, 48 * 64).reshape(48, 64)
RED = np.dstack([np.full((48, 64), 200, np.uint8), np.zeros((48, 64, 2), np.uint8)])
DEPTH = (400 + 4 * RAMP).astype(np.uint16)  # mm


@pytest.mark.parametrize("pixels, format_, kind, expected", [
    (RAMP.astype(np.uint8), "mono8; jpeg compressed ", "JPEG", RAMP), (RED, "bgr8; jpeg compressed bgr8", "JPEG", RED),
    (RED, "rgb8; png compressed bgr8", "PNG", RED), (RED, "", "PNG", RED), (RED, "jpeg", "JPEG", RED),
    (np.dstack([RED, np.full((48, 64), 128, np.uint8)]), "rgba8; png compressed ", "PNG", RED),
    (np.dstack([RAMP, RAMP]).astype(np.uint8), "png", "PNG", RAMP), (RAMP > 128, "png", "PNG", 255 * (RAMP > 128)),
])  # fmt: skip
def test_images_of_8_bits_are_what_they_show(pixels, format_, kind, expected):
    seen = Pictures().show(pixels, format_, kind).astype(float)
    expected = expected if expected.ndim == 3 else np.dstack([expected] * 3)
    assert seen.shape == (48, 64, 3) and np.abs(seen - expected).max() < 4


@pytest.mark.parametrize("pixels, format_, kind", [
    (DEPTH, "16UC1; png compressed ", "PNG"), (DEPTH, "png", "PNG"), (DEPTH, "mono16; png compressed ", "PNG"),
    (DEPTH, "16UC1; tiff compressed", "TIFF"), (DEPTH.astype(np.int32), "tiff", "TIFF"),
    (RAMP.astype(np.float32), "32FC1; tiff compressed", "TIFF"), (RAMP.astype(np.float32), "tiff", "TIFF"),
    (RAMP.astype(np.uint8), "16UC1; compressedDepth png", "PNG"),
])  # fmt: skip
def test_images_of_more_bits_are_refused_by_their_format(pixels, format_, kind):
    with pytest.raises(StateError, match="8 bits") as raised:
        Pictures().show(pixels, format_, kind)
    assert raised.value.fault == "no_image"
    assert repr(format_) in str(raised.value) and "/front/image_raw/compressed" in str(raised.value)


def test_a_colour_png_of_16_bits_is_refused():
    """Pillow would read it as 8 bits without a word; a PNG's header says how many there are."""
    out = BytesIO()
    Image.fromarray(RED).save(out, "PNG")
    deep = bytearray(out.getvalue())
    deep[24] = 16
    with pytest.raises(ValueError, match="'rgb8; png'.* 8 bits"):
        decode({"format": "rgb8; png", "data": base64.b64encode(bytes(deep)).decode()})


@pytest.mark.parametrize("offset, words", [(-0.3, "0.30 s old"), (0.3, "0.300 s ahead of ours")])
def test_a_cameras_clock_is_named_as_that(offset, words):
    pictures = Pictures()
    for _ in range(3):
        with pytest.raises(StateError, match=words) as raised:
            pictures.show(RED, "png", offset_s=offset)
    with pytest.raises(StateError) if offset > 0 else contextlib.nullcontext():
        assert pictures.cameras.age("front") == pytest.approx(0.3, abs=0.05)
    assert raised.value.fault == "no_image"


def test_a_camera_without_stamps_is_watched_by_arrivals():
    pictures = Pictures()
    assert pictures.show(RED, "png", stamped=False).any()
    assert not pictures.show(0 * RED, "png", stamped=False).any(), "a new one, though its stamp is the same"
    message, t = pictures.link.topics[pictures.topic].received
    pictures.link.topics[pictures.topic].received = message, t - 0.3
    with pytest.raises(StateError, match="newest image on /front/image_raw/compressed is 0.3"):
        pictures.cameras.images()


@pytest.mark.parametrize("data", ["", "bm8gaW1hZ2U=", "no base64", None])
def test_what_is_no_image_is_named_in_words(data):
    pictures = Pictures()
    message = {"header": {"stamp": to_stamp(pictures.now, True)}, "format": "png", "data": data}
    pictures.link.topics[pictures.topic].received = message, time.monotonic()
    with pytest.raises(StateError, match="image on /front/image_raw/compressed that cannot be read") as raised:
        pictures.cameras.images()
    assert "Error(" not in str(raised.value)


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
        process = forks.Program(
            ["-m", "real.deploy", "--go", f"policy={run}", f"url={mock.url}", "steps=4000",
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


def test_a_camera_that_sends_one_image_for_ever_is_noticed_once_the_arm_has_moved():
    pictures, q = Pictures(), np.zeros(7)
    for i in range(40):  # in 10 of which joint 4 moves by a third of a radian; 0.2 are allowed
        pictures.show(RED, "png")
        q[3] = 0.033 * min(i, 10)
        with pytest.raises(StateError, match="all are the same") if q[3] > 0.2 else contextlib.nullcontext():
            pictures.cameras.check_frozen(q.copy())
    pictures.show(0 * RED, "png")
    pictures.cameras.check_frozen(q)
