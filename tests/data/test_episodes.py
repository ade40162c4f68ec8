"""Data sets are whole or not there, come back as they were, and say how they were made."""

import hashlib
import json
import os
import resource
import signal
import subprocess
import time
from pathlib import Path

import h5py
import minari
import numpy as np
import pytest
import torch
from stable_baselines3 import SAC

from pbrl.data import calibration, collect, episodes
from pbrl.data import sac_replay as sac
from pbrl.data.minari import _instruction
from pbrl.data.recordings import camera_files
from pbrl.data.rollout import PolicyActor, RolloutWorkers, rollout
from pbrl.data.table import Table
from pbrl.data.video import write_mp4
from pbrl.models.policy import LikelihoodPolicy
from pbrl.types import UserError
from tests import forks, toy
from tests.parts import SPEC, config

REAL = episodes.versions()
POINT = {"_target_": "tests.toy.Point"}
OFFSET = {
    "name": "noise",
    "behaviour": {"_target_": "pbrl.data.behaviours.Noise", "strength": 0.5, "noise": 0.0},
    "episodes": 20,
}


def same(a, b) -> bool:
    return episodes.content_hash(a) == episodes.content_hash(b)


@pytest.mark.parametrize("terminates", [False, True])
def test_written_and_read(tmp_path, terminates):
    collected = toy.episodes(12, terminates)
    provenance = episodes.write(tmp_path / "set", collected, {"how": "by hand"})
    again = episodes.read(tmp_path / "set")
    assert same(collected, again) and [e.source for e in again] == ["weaver"] * 12
    assert any(e.terminated for e in again) == terminates
    assert provenance == episodes.read_provenance(tmp_path / "set")
    assert provenance["recipe"] == {"how": "by hand"} and provenance["versions"]["numpy"] == np.__version__


def test_a_relative_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    collected = toy.episodes(3)
    episodes.write(Path("sets/one"), collected, {})
    assert same(collected, episodes.read(Path("sets/one"))) and [p.name for p in Path("sets").iterdir()] == ["one"]


def test_it_is_a_minari_data_set(tmp_path):
    collected = toy.episodes(4)
    episodes.write(tmp_path / "set", collected, {})
    dataset = minari.MinariDataset(tmp_path / "set" / "data")
    assert dataset.total_episodes == 4 and np.array_equal(dataset[1].observations, collected[1].obs)


def test_a_foreign_minari_data_set(tmp_path):
    collected = [e._replace(state=None, success=None) for e in toy.episodes(4)]
    episodes.write(tmp_path / "set", collected, {})
    (tmp_path / "set" / "provenance.json").unlink()
    again = episodes.read(tmp_path / "set")
    assert same(collected, again) and again[0].state is None


def d4rl_file(path, with_next):
    """Ten steps of three episodes: a true terminal at 3, a timeout at 7, and one that the file breaks off."""
    obs = np.arange(10, dtype=np.float32)[:, None].repeat(2, 1)
    arrays = {"observations": obs, "actions": np.zeros((10, 1), np.float32), "rewards": np.arange(10, dtype=np.float32),
              "terminals": np.arange(10) == 3, "timeouts": np.arange(10) == 7}  # fmt: skip
    if with_next:
        ends = np.isin(np.arange(10), [3, 7, 9])[:, None]
        arrays["next_observations"] = np.where(ends, obs + 0.5, obs + 1)
    with h5py.File(path, "w") as file:
        for key, value in arrays.items():
            file[key] = value
    return path


@pytest.mark.parametrize("with_next", [True, False])
def test_d4rl_files(tmp_path, with_next):
    read = episodes.read(d4rl_file(tmp_path / "hopper.hdf5", with_next))
    steps = [len(e.action) for e in read]
    assert steps == ([4, 4, 2] if with_next else [4, 3, 1])  # where the last step led is unknown: it is left out
    assert [e.terminated for e in read] == [True, False, False]
    assert read[1].obs[0, 0] == 4 and read[1].obs[-1, 0] == (7.5 if with_next else 7)


@pytest.mark.parametrize("with_next", [True, False])
def test_rows_of_the_transitions_that_d4rl_lists(tmp_path, with_next):
    path = d4rl_file(tmp_path / "hopper.hdf5", with_next)
    table, rows = Table(episodes.read(path)), episodes.d4rl_rows(path)
    listed = [0, 1, 2, 3, 4, 5, 6, 8] if with_next else [0, 1, 2, 4, 5, 6, 8]  # as qlearning_dataset goes through them
    assert table.obs[rows, 0].tolist() == listed


def test_a_d4rl_file_without_episode_ends(tmp_path):
    path = d4rl_file(tmp_path / "hopper.hdf5", True)
    with h5py.File(path, "r+") as file:
        del file["timeouts"]
    with pytest.raises(UserError, match="no timeouts"):
        episodes.read(path)


def test_damaged_files(tmp_path):
    path = tmp_path / "set"
    episodes.write(path, toy.episodes(4), {})
    file = path / "data" / "main_data.hdf5"
    whole = file.read_bytes()
    file.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UserError, match="damaged.*delete it"):
        episodes.read(path)
    file.write_bytes(whole)
    with h5py.File(file, "r+") as opened:
        opened["episode_0/rewards"][0] += 1.0
    with pytest.raises(UserError, match="not what was written"):
        episodes.read(path)
    (path / "provenance.json").write_text("{")
    with pytest.raises(UserError, match="damaged"):
        episodes.read(path)
    with pytest.raises(UserError, match="no data set"):
        episodes.read(tmp_path / "nowhere")
    with h5py.File(tmp_path / "other.hdf5", "w") as opened:
        opened["x"] = np.zeros(3)
    with pytest.raises(UserError, match="no D4RL file"):
        episodes.read(tmp_path / "other.hdf5")


def test_a_data_set_is_collected_once_and_reused(tmp_path):
    first, hash_ = collect.load_dataset(POINT, OFFSET, folder=tmp_path, seed=0, workers=0)
    path = collect.dataset_path({"env": POINT, "data": OFFSET, "seed": 0}, tmp_path)
    written = path.stat().st_mtime_ns
    second, again = collect.load_dataset(POINT, OFFSET, folder=tmp_path, seed=0, workers=0)
    assert same(first, second) and hash_ == again and path.stat().st_mtime_ns == written
    other, different = collect.load_dataset(POINT, OFFSET, folder=tmp_path, seed=1, workers=0)
    assert hash_ != different and len(other) == 20
    recipe = json.loads((path / "provenance.json").read_text())["recipe"]
    assert recipe["env"] == POINT and recipe["data"] == OFFSET and recipe["seed"] == 0


def test_processes_make_the_same_data(tmp_path):
    alone, _ = collect.load_dataset(POINT, OFFSET, folder=tmp_path / "a", seed=0, workers=0)
    together, _ = collect.load_dataset(POINT, OFFSET, folder=tmp_path / "b", seed=0, workers=2)
    assert same(alone, together)


def test_calibration_finds_the_target_success(tmp_path):
    """Holding random actions for a share of the time hurts; the share is found at which half of them succeed."""
    env = {**POINT, "horizon": 14}
    behaviour = {"_target_": "pbrl.data.behaviours.Holds", "strength": None, "steps": 5, "noise": 0.0}
    data = {"name": "holds", "behaviour": behaviour, "success": 0.5, "episodes": 200}
    collected, _ = collect.load_dataset(env, data, folder=tmp_path, seed=0, workers=0)
    assert 0.35 < np.mean([e.success.any() for e in collected]) < 0.65


def test_what_was_calibrated_before_is_not_calibrated_again(tmp_path, monkeypatch):
    env, known = {**POINT, "horizon": 14}, tmp_path / "known.json"
    monkeypatch.setattr(calibration, "EPISODES", 20)
    monkeypatch.setattr(calibration.find_known, "__defaults__", (known,))
    known.write_text("[]")
    behaviour = {"_target_": "pbrl.data.behaviours.Holds", "strength": None, "steps": 5, "noise": 0.0}
    data = {"name": "holds", "behaviour": behaviour, "success": 0.5, "episodes": 30}
    first, _ = collect.load_dataset(env, data, folder=tmp_path / "a", seed=0, workers=0)
    assert calibration.add_known(tmp_path / "a", known) == 1
    assert calibration.add_known(tmp_path / "a", known) == 0, "it is known"
    calibrated = []
    monkeypatch.setattr(calibration, "calibrate", lambda *_: calibrated.append(1) or (0.0, []))
    again, _ = collect.load_dataset(env, {**data, "name": "b"}, folder=tmp_path / "b", seed=0, workers=0)
    assert same(first, again) and not calibrated
    for seed, other in ((1, {}), (0, {"mujoco": "1.0"})):
        monkeypatch.setattr(episodes, "versions", lambda other=other: {**REAL, **other})
        collect.load_dataset(env, data, folder=tmp_path / f"seed{seed}", seed=seed, workers=0)
        assert calibrated.pop(), f"seed {seed}, {other}: that is another calibration"


def test_known_calibrations_are_of_versions_that_setup_installs():
    """Else nobody's first run would find them."""
    for one in json.loads(calibration.KNOWN.read_text()):
        assert one["of"]["versions"] == {name: REAL.get(name) for name in calibration.SIMULATORS}
        strength, success = min(one["found"]["curve"], key=lambda p: abs(p[1] - one["of"]["success"]))
        assert strength == one["found"]["strength"] and abs(success - one["of"]["success"]) < 0.1


def test_a_behaviour_without_its_expert(tmp_path):
    hopper = {"_target_": "sim.gym.Gym", "task": "hopper"}
    with pytest.raises(UserError, match="medium_replay"):
        collect.load_dataset(hopper, OFFSET, folder=tmp_path, seed=0, workers=0)
    assert [p.name[:5] for p in tmp_path.iterdir()] == [".lock"], "no data set, and none in part"


def test_a_killed_collection_leaves_no_partial_data_set(tmp_path):
    """Killed at several moments, the folder holds no data set under its name; made again, it is whole."""
    code = (
        "from pathlib import Path; from pbrl.data import collect;"
        f"collect.load_dataset({POINT}, { {**OFFSET, 'episodes': 150} }, "
        f"folder=Path({str(tmp_path)!r}), seed=0, workers=0)"
    )
    began = time.monotonic()
    whole = forks.run(["-c", code], capture_output=True)
    assert whole.returncode == 0
    took = time.monotonic() - began
    path = next(p for p in tmp_path.iterdir() if not p.name.startswith("."))
    for share in (0.5, 0.8, 0.9):
        for p in tmp_path.iterdir():
            subprocess.run(["rm", "-r", p], check=True)
        process = forks.Program(["-c", code], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        time.sleep(took * share)
        process.send_signal(signal.SIGKILL)
        process.wait()
        if path.exists():  # it was faster this time
            assert len(episodes.read(path)) == 150
    assert len(collect.load_dataset(POINT, {**OFFSET, "episodes": 150}, folder=tmp_path, seed=0, workers=0)[0]) == 150


@pytest.mark.skipif(
    os.geteuid() != 0 or not os.path.exists("/usr/bin/mount"), reason="mounting a small disk needs root"
)
def test_a_full_disk(tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", disk], capture_output=True).returncode:
        pytest.skip("no mounting here")
    try:
        with pytest.raises(UserError, match="free some space"):
            episodes.write(disk / "set", toy.episodes(200), {})
        assert not (disk / "set").exists() and not list(disk.glob(".partial*"))
    finally:
        subprocess.run(["umount", disk])


def test_a_limit_on_files_is_found_before_hdf5_does(tmp_path):
    """HDF5 crashes where it cannot write on: a quota, or `ulimit -f`, is tried first."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, before[1]))
    try:
        with pytest.raises(UserError, match="cannot write the data set .*File too large.: free some space"):
            episodes.write(tmp_path / "set", toy.episodes(4), {})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert not list(tmp_path.iterdir())


class Still(LikelihoodPolicy):
    spec = SPEC

    def act(self, obs, explore=False):
        return torch.zeros(len(obs.state), 2)


def test_lockstep_is_one_by_one():
    together = rollout([toy.Point() for _ in range(7)], PolicyActor(Still()), range(7))
    alone = [rollout([toy.Point()], PolicyActor(Still()), [seed])[0] for seed in range(7)]
    assert same(together, alone)
    rollout_workers = RolloutWorkers(POINT, 0)
    assert same(rollout_workers.collect(PolicyActor(Still()), range(7)), alone)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["offset", "noise", "holds", "mixed", "random"])
def test_recipes_on_meta_world_are_determined_by_their_seeds(tmp_path, name):
    env = {"_target_": "sim.metaworld.MetaWorld", "task": "drawer-open", "horizon": 60, "goal_visible": True}
    data = config(f"data={name}")["data"]
    data["episodes"], data["success"] = 20, None
    if "strength" in data["behaviour"]:
        data["behaviour"]["strength"] = 0.3
    one, _ = collect.load_dataset(env, data, folder=tmp_path / "a", seed=0, workers=0)
    two, _ = collect.load_dataset(env, data, folder=tmp_path / "b", seed=0, workers=2 * (name == "mixed"))
    assert same(one, two) and len({e.obs.tobytes() for e in one}) == 20
    if name == "mixed":
        assert {e.source for e in one} == {
            "mixed: right goal",
            "mixed: wrong goal",
            "mixed: other task",
            "mixed: random",
        }


@pytest.mark.slow
@pytest.mark.parametrize("take", ["replay", "rollouts"])
def test_data_from_sac(tmp_path, take):
    env = {**POINT, "horizon": 25}
    sac = {"steps": 600, "keep_every": 200, "hidden": [16], "learning_starts": 100, "batch_size": 32}
    data = {"name": "m", "take": take, "skill": 0.9, "episodes": 10, "sac": sac}
    collected, hash_ = collect.load_dataset(env, data, folder=tmp_path, seed=0, workers=0)
    assert len(collected) == (24 if take == "replay" else 10) and all(len(e.action) == 25 for e in collected)
    for e in collected[:3]:  # the recorded states are those of the recorded observations
        point = toy.Point()
        assert np.array_equal(point.restore(e.seed, e.state[7]), e.obs[7])


@pytest.mark.slow
def test_medium_expert_is_half_of_each(tmp_path):
    sac = {"steps": 600, "keep_every": 200, "hidden": [16], "learning_starts": 100, "batch_size": 32}
    data = {"name": "me", "take": "rollouts", "skill": [0.01, 1.0], "episodes": 10, "sac": sac}
    collected, _ = collect.load_dataset(POINT, data, folder=tmp_path, seed=0, workers=0)
    recipe = json.loads(next(tmp_path.glob("*-me-*/provenance.json")).read_text())["recipe"]
    first, best = recipe["checkpoints"]
    returns = dict(zip((200, 400, 600), recipe["returns"], strict=True))
    assert returns[best] == max(returns.values())
    assert [e.source for e in collected] == [f"sac at step {first}"] * 5 + [f"sac at step {best}"] * 5
    kept = next(tmp_path.glob("sac-*/returns.json"))
    assert json.loads(kept.read_text()) == recipe["returns"]
    with pytest.raises(UserError, match="data.skill"):
        collect.load_dataset(POINT, {**data, "skill": [0.5, 1.5]}, folder=tmp_path, seed=0, workers=0)


@pytest.mark.slow
def test_a_killed_sac_run_goes_on_with_the_same_bits(tmp_path, monkeypatch):
    recipe = {"steps": 600, "keep_every": 100, "hidden": [16], "learning_starts": 50, "batch_size": 32}
    env = {**POINT, "terminates": True}
    whole = sac.train_sac(env, recipe, folder=tmp_path / "whole", seed=3)
    began, step = [], sac.Keep._on_step

    def killed_at(steps):
        def on_step(self):
            began.append(self.num_timesteps)
            if self.num_timesteps == steps:
                raise KeyboardInterrupt
            return step(self)

        return on_step

    for steps in (30, 270, 271, 590):
        monkeypatch.setattr(sac.Keep, "_on_step", killed_at(steps))
        with pytest.raises(KeyboardInterrupt):
            sac.train_sac(env, recipe, folder=tmp_path / "killed", seed=3)
    monkeypatch.setattr(sac.Keep, "_on_step", killed_at(None))
    killed = sac.train_sac(env, recipe, folder=tmp_path / "killed", seed=3)
    firsts = [b for a, b in zip([10**6, *began], began, strict=False) if b <= a]
    assert firsts[:2] == [1, 1] and 200 < firsts[2] == firsts[3] < 270 and firsts[4] > 500  # from where it was kept
    assert same(episodes.read(whole / "replay"), episodes.read(killed / "replay"))
    for path in sorted((whole / "policies").glob("*.zip")):
        one, two = (SAC.load(run / "policies" / path.name).policy.state_dict() for run in (whole, killed))
        assert all(torch.equal(one[key], two[key]) for key in one)
    assert not list((tmp_path / "killed").glob(".partial*")) and not (killed / "checkpoint.pt").exists()


def test_an_episode_has_an_id_of_its_own_content(tmp_path):
    """The same in every file and data set; the behaviour's name is no part of it, the instruction is."""
    collected = [e._replace(instruction="to the middle") for e in toy.episodes(3)]
    ids = [episodes.episode_id(e) for e in collected]
    assert len(set(ids)) == 3 and all(len(own) == 32 for own in ids)
    episodes.write(tmp_path / "set", collected, {})
    again = episodes.read(tmp_path / "set")
    assert [episodes.episode_id(e) for e in again] == ids and [e.instruction for e in again] == ["to the middle"] * 3
    assert episodes.episode_id(collected[0]._replace(source="another")) == ids[0]
    doubled = collected[0]._replace(
        reward=collected[0].reward.astype(np.float64), action=np.asfortranarray(collected[0].action)
    )
    assert episodes.episode_id(doubled) == ids[0]
    changed = [
        {"instruction": ""}, {"instruction": "to the edge"}, {"seed": 9}, {"terminated": True}, {"state": None},
        {"success": ~collected[0].success}, {"reward": collected[0].reward + 1},
    ]  # fmt: skip
    assert len({episodes.episode_id(collected[0]._replace(**change)) for change in changed} | {ids[0]}) == 8
    assert episodes.dataset_id(ids) == episodes.dataset_id(iter(ids)) != episodes.dataset_id(ids[::-1])
    plain = [e._replace(instruction="") for e in collected]
    assert episodes.content_hash(plain) == episodes.content_hash(collected), "as before there were instructions"


def test_the_hash_of_a_data_set_is_what_it_was():
    """Provenance that was written before must verify."""
    digest = hashlib.sha256()
    collected = toy.episodes(2)
    for e in collected:
        for part in (np.int64(e.seed), e.obs, e.action, e.reward, np.bool_(e.terminated), e.success, e.state):
            digest.update(np.ascontiguousarray(part).tobytes())
    assert episodes.content_hash(collected) == digest.hexdigest()[:32]


def test_videos_are_copied_into_a_data_set(tmp_path):
    frame = np.zeros((16, 16, 3), np.uint8)
    collected = toy.episodes(2)
    (tmp_path / "films" / "cameras").mkdir(parents=True)
    for name in ("films/a.mp4", "films/cameras/a.hand.mp4"):
        write_mp4(tmp_path / name, [frame] * len(collected[0].obs), fps=10)
    about = {"cameras": {"front": "a.mp4", "hand": "a.hand.mp4"}, "instruction": "go"}
    (tmp_path / "films" / "a.json").write_text(json.dumps(about))
    collected[0] = collected[0]._replace(video=tmp_path / "films" / "a.mp4")
    episodes.write(tmp_path / "set", collected, {})
    again = episodes.read(tmp_path / "set")
    assert again[0].video == tmp_path / "set" / "videos" / "00000.mp4" and again[1].video is None
    files = camera_files(again[0].video)
    assert list(files) == ["front", "hand"] and all(file.exists() for file in files.values())
    assert episodes.episode_id(again[0]) == episodes.episode_id(collected[0])


def test_instructions_of_foreign_data_sets(tmp_path):
    """Of a recorder, in the json beside a video; of another's Minari data set, in the infos of each step."""
    write_mp4(tmp_path / "a.mp4", [np.zeros((16, 16, 3), np.uint8)] * 5, fps=10)
    for infos in ({"instruction": "lift"}, {"about": {"instruction": "lift"}}):
        (tmp_path / "a.json").write_text(json.dumps(infos))
        assert episodes.read(tmp_path)[0].instruction == "lift"
    (tmp_path / "a.json").write_text("[1]")
    with pytest.raises(UserError, match="object of JSON"):
        episodes.read(tmp_path)
    assert (
        _instruction({}, {"instruction": np.array([b"lift"] * 4, object)})
        == "lift"
        == _instruction({"instruction": "lift"}, {})
    )


def test_a_folder_is_named_by_what_makes_its_data_others(tmp_path):
    found = config("env=metaworld/button-press", "data=offset")
    recipe = {"env": found["env"], "data": found["data"], "seed": 0}

    def name(**changes):
        return collect.dataset_path({**recipe, **changes}, tmp_path).name

    assert name() == name() and name().startswith("metaworld-button-press-offset-")
    assert name(env={**found["env"], "name": "metaworld/renamed"}).endswith(name()[-10:]), "a name changes no data"
    assert len({name(), name(seed=1), name(env={**found["env"], "horizon": 9})}) == 3
