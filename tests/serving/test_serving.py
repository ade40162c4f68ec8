"""Policies over a socket: pbrl's own server, one that speaks as openpi's, and what either may do wrong."""

import json
import signal
import socket
import subprocess
import threading
import time
import urllib.request
from contextlib import contextmanager

import msgpack
import numpy as np
import pytest
import torch
import yaml
from websockets.sync.client import connect
from websockets.sync.server import serve

from pbrl.data import episodes as storage
from pbrl.data.rollout import PolicyActor, RolloutWorkers
from pbrl.models.policy import load_policy, save_policy
from pbrl.models.text import vocabulary_of
from pbrl.serving.client import ServedPolicy
from pbrl.serving.server import PolicyService, make_server
from pbrl.serving.wire import pack, unpack
from pbrl.types import Spec, UserError
from sim.instructions import PHRASINGS
from tests import forks
from tests.parts import build, config

FLAGS = ["env=multitask/mt10", "env.tasks=[reach,push]", "env.horizon=20", "env.images=[corner2]", "env.image_size=32"]
ENV = config(*FLAGS)["env"]
CONFIG = {"url": "", "env": FLAGS,
          "state": {"observation/hand": [0, 3]}, "images": {"observation/image": "corner2"}, "instruction": "prompt",
          "actions": "actions", "execute": 4, "low": None, "high": None, "key_env": None, "timeout_s": 5.0}  # fmt: skip
WORDS = vocabulary_of([*PHRASINGS["reach"].training, *PHRASINGS["push"].training])


def spec(**changes) -> Spec:
    size = 39
    return Spec(size, 4, (0.0,) * size, (1.0,) * size, 20, {"corner2": (32, 32, 3)}, False, WORDS)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The run folder of a policy of images and words."""
    made = tmp_path_factory.mktemp("run")
    (made / "config.yaml").write_text(yaml.safe_dump({"env": ENV}))
    torch.manual_seed(0)
    policy = build("policy/vla", spec(), horizon=4, execute=4, bins=64, width=16, heads=2, layers=1, channels=4)
    with torch.no_grad():
        policy.place.mul_(5), policy.context.words.weight.mul_(50), policy.out.weight.mul_(5)
    save_policy(policy, made / "policy.pt")
    return made


@contextmanager
def serving(listening):
    """A server in a thread; its address."""
    thread = threading.Thread(target=listening.serve_forever)
    thread.start()
    try:
        yield f"ws://127.0.0.1:{listening.socket.getsockname()[1]}"
    finally:
        listening.shutdown()
        thread.join()


@pytest.fixture(scope="module")
def url(folder):
    with serving(make_server(PolicyService(load_policy(folder), ENV), "127.0.0.1", 0, lambda line: None)) as address:
        yield address


class OtherServer:
    """As openpi's: it answers each message by `answers`, in its own units, and remembers what it was asked."""

    def __init__(self, answer):
        self.answer, self.asked, self.connections = answer, [], 0

    def handle(self, connection):
        self.connections += 1
        connection.send(pack({"model": "pi0"}))
        for data in connection:
            self.asked.append(unpack(data))
            answer = self.answer(len(self.asked))
            if answer is None:
                return
            connection.send(answer if isinstance(answer, str) else pack(answer))

    @contextmanager
    def described(self, folder, **changes):
        with serving(serve(self.handle, "127.0.0.1", 0, compression=None)) as address:
            file = folder / "server.yaml"
            file.write_text(yaml.safe_dump({**CONFIG, "url": address, **changes}))
            yield file


def chunk(rows: int = 5, size: int = 4) -> dict:
    return {"actions": np.linspace(-1, 1, rows * size).reshape(rows, size)}


# The wire


def test_messages_are_read_back_to_the_bit():
    sent = {"a": np.arange(6, dtype=np.float32).reshape(2, 3), "b": {"c": [np.int64(3), "ö", None, 1.5]},
            "image": np.full((2, 2, 3), 7, np.uint8), "none": np.zeros((0, 3)),
            "big": np.arange(3, dtype=">f8")}  # fmt: skip
    found = unpack(pack(sent))
    for name in ("a", "image", "none", "big"):
        assert found[name].dtype == sent[name].dtype and np.array_equal(found[name], sent[name])
    assert found["b"] == {"c": [3, "ö", None, 1.5]} and found["b"]["c"][0].dtype == np.int64
    found["a"][0] = 1  # an array of one's own


def test_arrays_lie_on_the_wire_as_openpi_lays_them():
    plain = msgpack.unpackb(pack({"x": np.array([[1.0, 2.0]], np.float32), "y": np.uint8(3)}))
    assert plain["x"] == {b"__ndarray__": True, b"data": np.array([1, 2], "<f4").tobytes(), b"dtype": "<f4",
                          b"shape": [1, 2]}  # fmt: skip
    assert plain["y"] == {b"__npgeneric__": True, b"data": 3, b"dtype": "|u1"}


@pytest.mark.parametrize(
    ("message", "words"),
    [
        (b"\xc1", "no message"),
        (msgpack.packb({b"__ndarray__": True, b"data": b"1234", b"dtype": "<f4", b"shape": [2]}), r"shape \[2\]"),
        (msgpack.packb({b"__ndarray__": True, b"data": b"1234", b"dtype": "<f4", b"shape": [-1, -1]}), r"has 4 bytes"),
        (msgpack.packb({b"__ndarray__": True, b"data": b"12345678", b"dtype": "|O", b"shape": [1]}), "object"),
        (msgpack.packb({b"__ndarray__": True}), "no message"),
    ],
    ids=["garbage", "short", "negative", "objects", "torn"],
)
def test_what_is_no_message_is_refused(message, words):
    with pytest.raises(UserError, match=words):
        unpack(message)


def test_objects_are_not_sent():
    for value in (np.array([object()]), object()):
        with pytest.raises(UserError, match="is not sent"):
            pack({"x": value})


# Our own server


def test_a_served_policy_plays_the_same_episodes(folder, url):
    played = []
    for where in (folder, url):
        workers = RolloutWorkers(ENV, 1)
        played.append(workers.collect(PolicyActor(load_policy(where)), range(3)))
    for ours, theirs in zip(*played, strict=True):
        assert np.array_equal(ours.action, theirs.action) and np.array_equal(ours.obs, theirs.obs)
    assert played[0][0].action.std() > 0.05 and not np.array_equal(played[0][0].action, played[0][1].action)


def test_it_plays_in_other_processes(url):
    workers = RolloutWorkers(ENV, 2)
    try:
        episodes = workers.collect(PolicyActor(load_policy(url)), range(4))
    finally:
        workers.close()
    alone = RolloutWorkers(ENV, 1).collect(PolicyActor(load_policy(url)), range(4))
    assert all(np.array_equal(one.action, other.action) for one, other in zip(episodes, alone, strict=True))


def test_it_says_what_it_wants_and_what_is_wrong(folder, url):
    with connect(url) as socket:
        told = unpack(socket.recv())["pbrl"]
        assert told["server"]["images"] == {"observation/corner2": "corner2"} and told["env"]["horizon"] == 20
        good = {"observation/state": np.zeros(39), "observation/corner2": np.zeros((32, 32, 3), np.uint8),
                "prompt": "push the goal"}  # fmt: skip
        wrong = {
            "observation/corner2 is missing; this policy wants observation/state": {"observation/state": np.zeros(39)},
            r"of shape [3], not of [39]": good | {"observation/state": np.zeros(3)},
            "no finite number": good | {"observation/state": np.full(39, np.nan)},
            "is float64, not uint8": good | {"observation/corner2": np.zeros((32, 32, 3))},
            "none of its words; they are ": good | {"prompt": "dance"},
            "does what it is told": good | {"prompt": ""},
            "a message is a map": [1],
        }
        for words, message in wrong.items():
            socket.send(pack(message))
            assert words in socket.recv()
        socket.send("hello")
        assert "not text" in socket.recv()
        socket.send(pack(good))  # after all that it still answers
        assert unpack(socket.recv())["actions"].shape == (4, 4)


def test_the_port_is_taken(url):
    with pytest.raises(UserError, match="cannot listen on .*choose another port"):
        make_server(PolicyService(load_policy(url)), "127.0.0.1", int(url.rpartition(":")[2]), print)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_command_serves_until_it_is_stopped(folder, number):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = ["-m", "pbrl.serving", f"policy={folder}", f"port={port}"]
    with forks.Program(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        assert f"ws://127.0.0.1:{port}" in server.stdout.readline()
        assert urllib.request.urlopen(f"http://127.0.0.1:{port}/healthz", timeout=10).read() == b"OK\n"
        assert load_policy(f"ws://127.0.0.1:{port}").horizon == 4
        server.send_signal(number)
        try:
            assert server.wait(20) == 128 + number
        finally:
            server.kill()


def test_a_policy_that_remembers_is_not_served():
    with pytest.raises(UserError, match="remembers its episode"):
        PolicyService(build("algo/dt").policy)


def test_what_cannot_be_written_is_said_before_anything_is_played(folder, tmp_path):
    (tmp_path / "file").write_text("")
    for option in ("out", "video"):
        command = ["-m", "pbrl.rollout", f"policy={folder}", f"{option}={tmp_path}/file/played"]
        done = forks.run(command, capture_output=True, text=True, timeout=120)
        assert done.returncode and "cannot write to" in done.stderr and "playing" not in done.stderr


# Another's server


def test_names_units_and_words_are_those_of_the_file(tmp_path):
    server = OtherServer(lambda n: {"actions": np.tile([0.0, 5.0, 10.0, 2.5], (6, 1)), "policy_timing": {}})
    with server.described(tmp_path, low=[0, 0, 0, 0], high=[10, 10, 10, 10]) as file:
        policy = load_policy(file)
        (episode,) = RolloutWorkers(ENV, 1).collect(PolicyActor(policy), [3])
    assert np.allclose(episode.action, np.tile([-1, 0, 1, -0.5], (20, 1)))
    asked = server.asked[1:]  # the first was a trial
    assert len(asked) == 5 and set(asked[0]) == {"observation/hand", "observation/image", "prompt"}
    assert [np.allclose(one["observation/hand"], episode.obs[4 * i, :3]) for i, one in enumerate(asked)] == [True] * 5
    assert asked[0]["observation/image"].shape == (32, 32, 3) and asked[0]["observation/image"].std() > 10
    assert {one["prompt"] for one in asked} == {episode.instruction} and episode.instruction


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (chunk(size=7), r"shape \[5, 7\]; 4 numbers for each of at least 4 steps"),
        (chunk(rows=3), r"shape \[3, 4\]"),
        ({"actions": np.full((5, 4), np.inf)}, "no finite numbers"),
        ({"action": np.zeros((5, 4))}, "answers with action, and no actions"),
        ("Traceback (most recent call last):\n  …\nKeyError: 'observation/joints'", "says: KeyError: 'observation/jo"),
        (None, "the connection .* was lost"),
    ],
    ids=["size", "short", "infinite", "name", "its_error", "gone"],
)
def test_what_does_not_fit_is_said_before_anything_moves(answer, words, tmp_path):
    with OtherServer(lambda n: answer).described(tmp_path) as file, pytest.raises(UserError, match=words):
        load_policy(file)


def test_a_lost_connection_is_made_once_more(tmp_path):
    server = OtherServer(lambda n: None if n == 2 else chunk())
    with server.described(tmp_path) as file:
        policy = load_policy(file)
        RolloutWorkers(ENV, 1).collect(PolicyActor(policy), [0])
    assert server.connections == 2 and len(server.asked) == 1 + 6  # of five chunks one was asked for twice


def test_a_server_that_says_nothing(tmp_path):
    release = threading.Event()

    def wait(n):
        release.wait(20)
        return chunk()

    began = time.monotonic()
    with OtherServer(wait).described(tmp_path, timeout_s=0.5) as file:
        with pytest.raises(UserError, match="did not answer in 0.5 s"):
            load_policy(file)
        assert time.monotonic() - began < 10
        release.set()


def test_a_server_that_is_not_there(tmp_path):
    with pytest.raises(UserError, match="no policy server answers at ws://127.0.0.1:9"):
        load_policy("ws://127.0.0.1:9")


def test_another_server_needs_a_file(tmp_path):
    refused = pytest.raises(UserError, match="is no server of pbrl's.*describe it in a yaml")
    with OtherServer(lambda n: chunk()).described(tmp_path) as file, refused:
        load_policy(yaml.safe_load(file.read_text())["url"])


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"images": {"observation/image": "wrist"}}, r"wrist is none of env.images"),
        ({"state": {"observation/state": [0, 99]}}, r"from … to of the 39 numbers"),
        ({"low": [0, 0], "high": [1, 1]}, "low has 2 numbers, and an action 4"),
        ({"low": [0, 0, 0, 0], "high": None}, "both null"),
        ({"execute": 0}, "execute=0 must be"),
        ({"speed": 3}, "knows no speed"),
        ({"key_env": "PBRL_TEST_NO_SUCH_KEY"}, "PBRL_TEST_NO_SUCH_KEY.*is empty"),
    ],
    ids=["camera", "range", "bounds", "bound", "execute", "name", "key"],
)
def test_a_file_that_means_nothing(change, words, tmp_path):
    with OtherServer(lambda n: chunk()).described(tmp_path, **change) as file, pytest.raises(UserError, match=words):
        load_policy(file)


def test_the_example_has_all_names():
    from pbrl.configs import FOLDER

    assert set(yaml.safe_load((FOLDER / "server" / "openpi.yaml").read_text())) == set(CONFIG)


def test_the_key_is_sent(tmp_path, monkeypatch):
    seen = []
    monkeypatch.setenv("PBRL_TEST_KEY", "abc")
    server = OtherServer(lambda n: chunk())

    def handle(connection):
        seen.append(connection.request.headers.get("Authorization"))
        server.handle(connection)

    with serving(serve(handle, "127.0.0.1", 0, compression=None)) as address:
        (tmp_path / "s.yaml").write_text(yaml.safe_dump({**CONFIG, "url": address, "key_env": "PBRL_TEST_KEY"}))
        load_policy(tmp_path / "s.yaml")
    assert seen == ["Api-Key abc"]


def test_nothing_is_learnt_with_it(url):
    policy = load_policy(url)
    assert isinstance(policy, ServedPolicy)
    with pytest.raises(UserError, match="does not say how likely"):
        policy.log_prob(None, None)  # type: ignore[arg-type]


def test_episodes_that_are_kept_are_data(url, tmp_path):
    done = forks.run(
        ["-m", "pbrl.rollout", f"policy={url}", "episodes=3", "workers=1", f"out={tmp_path}/played"],
        capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "3 episodes: success" in done.stdout and "data.path=" in done.stdout
    kept = storage.read(tmp_path / "played")
    alone = RolloutWorkers(ENV, 1).collect(PolicyActor(load_policy(url)), [kept[0].seed])
    assert len(kept) == 3 and np.array_equal(kept[0].action, alone[0].action)
    again = forks.run(
        ["-m", "pbrl.rollout", f"policy={url}", f"out={tmp_path}/played"], capture_output=True, text=True, timeout=120
    )
    assert again.returncode and "is there already" in again.stderr
    assert json.loads((tmp_path / "played" / "provenance.json").read_text())["recipe"]["policy"] == url
