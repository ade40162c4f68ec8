"""The loop: killed and resumed is uninterrupted, bit for bit; answers are counted; grown data are taken when asked."""

import json
import os
import random
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

import sim.configs
from pbrl import files
from pbrl.data import episodes as storage
from pbrl.feedback.sources.scripted import Teacher
from pbrl.feedback.store.store import Store
from pbrl.run import train as run
from pbrl.training import log
from pbrl.training.engine import has_compiler, wants_compile
from pbrl.training.loop import Training
from pbrl.training.replica import Replica
from pbrl.types import UserError
from tests import toy
from tests.forks import Program
from tests.parts import names

sim.configs.register()

SMALL_MLP = "policy.hidden=[16]"
# A whole run on the point world, small enough to be repeated.
BASE = [
    "env=tests/point", "data=noise", "data.success=null", "data.behaviour.strength=0.7", "data.episodes=40",
    "steps=240", "log_every=10", "eval_every=80", "checkpoint_every=20", "eval_episodes=4", "final_episodes=6",
    "workers=0", "threads=1",
    "query.count=60", "query.length=8", "video=false", "compile=never", "hydra.searchpath=[file://tests/configs]",
    "reference.steps=20", SMALL_MLP,
]  # fmt: skip
RUNS = {
    "cpl": ["algo=cpl", "algo.pretrain_steps=60", "policy.dropout=0.2"],
    "cpl-kl-in-rounds": ["algo=cpl", "algo.reference=true", "algo.pretrain_steps=40", "query.rounds=3",
                         "query.kind=pair", "feedback=boltzmann", "compare=false"],
    "piql-in-rounds": ["algo=iql", "reward=ensemble", "reward.steps=60", "reward.hidden=[16]", "query.rounds=2",
                       "query.kind=pair", "query.strategy=disagreement", "feedback=perfect", "algo.hidden=[16]",
                       "compare=false"],
    "dppo": ["algo=dppo", "algo.pretrain_steps=40", "reward=transformer", "reward.width=16", "reward.steps=60",
             "query.kind=pair", "feedback=perfect", "compare=false"],
    "piql-of-lists": ["algo=iql", "reward=linear", "reward.steps=60", "reward.hidden=[16]", "algo.hidden=[16]",
                      "query.kind=ranking", "query.per_list=25", "query.rounds=2", "feedback=perfect", "compare=false"],
    "surf-of-lists": ["algo=iql", "reward=surf", "reward.steps=60", "reward.hidden=[16]", "algo.hidden=[16]",
                      "query.kind=ranking", "query.per_list=25", "feedback=perfect", "compare=false"],
    "cpl-on-lists": ["algo=cpl", "algo.pretrain_steps=60", "objective=plackett_luce", "compare=false"],
    "ipl": ["algo=ipl", "algo.hidden=[16]", "compare=false"],
    "dtr": ["algo=dtr", "algo.width=16", "algo.layers=1", "algo.context=4", "algo.hidden=[16]", "algo.batch_size=16",
            "reward=ensemble", "reward.steps=60", "reward.hidden=[16]", "query.rounds=2", "compare=false"],
    "attributes-in-rounds": ["algo=bc", "reward=attributes", "reward.steps=60", "reward.width=16", "reward.heads=2",
                             "reward.layers=1", "query.kind=attributes", "query.attributes=[speed,right,turn]",
                             "query.rounds=2", "feedback=boltzmann", "compare=false"],
    "aligndiff-in-rounds": ["algo=aligndiff", "algo.width=16", "algo.heads=2", "algo.layers=1", "algo.candidates=4",
                            "algo.batch_size=16", "algo.execute=4", "algo.target={speed:0.8}", "reward=attributes",
                            "reward.steps=40", "reward.width=16", "reward.heads=2", "reward.layers=1",
                            "query.kind=attributes", "query.attributes=[speed,right]", "query.rounds=2",
                            "feedback=perfect", "compare=false"],
    "iql": ["algo=iql", "feedback=none", "algo.hidden=[16]"],
    "three-seeds": ["algo=iql", "reward=ensemble", "reward.steps=60", "reward.hidden=[16]", "query.rounds=2",
                    "query.kind=pair", "feedback=perfect", "algo.hidden=[16]", "seeds=3"],
    "three-seeds-by-chance": ["algo=cpl", "algo.pretrain_steps=60", "policy.dropout=0.2", "seeds=3", "compare=false"],
    "td3bc": ["algo=td3bc", "feedback=none", "algo.hidden=[16]", "compare=false"],
    "awac": ["algo=awac", "feedback=none", "algo.hidden=[16]", "policy.std=0.3", "compare=false"],
    "tpo": ["algo=tpo", "feedback=none", "policy.std=0.4", "algo.pretrain_steps=40", "algo.scenes=6", "algo.samples=3",
            "algo.batch_size=4", "algo.pretrain_batch_size=16", "algo.confidence=1", "algo.keep=true",
            "algo.mistake=0.2", "compare=false"],
    "fdpp": ["algo=fdpp", "algo.pretrain_steps=40", "algo.iterations=2", "algo.scenes=6", "algo.batch_size=16",
             "algo.pretrain_batch_size=16", "algo.hidden=[16]", "policy=diffusion", "policy.horizon=4",
             "policy.execute=3", "policy.width=16", "policy.layers=1", "policy.sample_steps=3", "reward=ensemble",
             "reward.steps=60", "reward.hidden=[16]", "query.rounds=2", "query.kind=pair", "feedback=perfect",
             "compare=false"],
}  # fmt: skip


@pytest.fixture(autouse=True)
def one_report_of_each(request):
    """A run of each kind writes its report, in the test that then kills another, and where the disk is full."""
    if not request.node.name.startswith(("test_killed", "test_a_full_disk")):
        request.getfixturevalue("without_report")


def flags(folder: Path, *extra: str, base: Sequence[str] = BASE) -> list[str]:
    base = [word for word in base if "policy=diffusion" not in extra or word != SMALL_MLP]
    return [*base, f"run={folder / 'run'}", f"data_dir={folder / 'data'}", *extra]


def command(folder: Path, *extra: str) -> list[str]:
    return ["train.py", *flags(folder, *extra)]


def train(folder: Path, *extra: str, base: Sequence[str] = BASE) -> dict:
    """What the command does, in this process."""
    return train_flags(flags(folder, *extra, base=base))


def train_flags(words: list[str]) -> dict:
    with initialize_config_dir(str(Path("configs").absolute()), version_base="1.3"):
        config = compose("train", words)
    return run.train(OmegaConf.to_container(config, resolve=True, throw_on_missing=True))  # type: ignore[arg-type]


def outcome(folder: Path) -> dict:
    """All that a run leaves, less the clock."""
    run = folder / "run"
    folders = sorted(run.glob("seed*")) or [run]
    events = [{k: v for k, v in event.items() if k != "seconds"} for own in folders for event in log.read(own)]
    state = torch.load(run / "checkpoint.pt", weights_only=True)
    state.pop("seconds"), [replica.pop("log") for replica in state["replicas"]]
    results = [json.loads((own / "result.json").read_text()) for own in folders]
    for result in results:
        result["policy"].pop("seconds"), result.pop("bc")
    return {
        "events": events,
        "state": state,
        "results": results,
        "policies": [torch.load(own / "policy.pt", weights_only=True) for own in folders],
    }


def assert_same(a, b, where="") -> None:
    assert type(a) is type(b), where
    if isinstance(a, torch.Tensor):
        assert torch.equal(a, b), where
    elif isinstance(a, dict):
        assert a.keys() == b.keys(), where
        for key in a:
            assert_same(a[key], b[key], f"{where}.{key}")
    elif isinstance(a, (list, tuple)):
        assert len(a) == len(b), where
        for i, (x, y) in enumerate(zip(a, b, strict=True)):
            assert_same(x, y, f"{where}[{i}]")
    else:
        assert a == b or (a != a and b != b), f"{where}: {a} {b}"


@pytest.mark.slow
@pytest.mark.parametrize("name", RUNS)
def test_killed_and_resumed_is_uninterrupted(tmp_path, name, request):
    extra = RUNS[name]
    train(tmp_path / "whole", *extra)
    os.makedirs(tmp_path / "killed")
    (tmp_path / "whole" / "data").rename(tmp_path / "data")  # the same data, made once
    for folder in ("whole", "killed"):
        (tmp_path / folder / "data").symlink_to(tmp_path / "data")
    kills, rng = 0, random.Random(name)  # each run is killed at other moments
    metrics = tmp_path / "killed" / "run" / ("seed2" if "seeds=3" in extra else "") / "metrics.jsonl"
    for _ in range(60):
        before = metrics.stat().st_size if metrics.exists() else 0
        process = Program(command(tmp_path / "killed", *extra), stdout=subprocess.DEVNULL)
        while process.poll() is None and not (metrics.exists() and metrics.stat().st_size > before):
            time.sleep(0.01)  # until it has gone on
        time.sleep(rng.uniform(0, 0.25))
        if process.poll() is not None:
            break
        process.kill(), process.wait()
        kills += 1
        if kills == 2:
            request.getfixturevalue("without_report")
            train(tmp_path / "killed", *extra)
            break
    assert kills >= 2
    assert_same(outcome(tmp_path / "whole"), outcome(tmp_path / "killed"))


def test_where_no_episode_is_better_than_another_a_run_says_so(tmp_path, capsys):
    train(tmp_path, *RUNS["tpo"], "algo.confidence=0", "steps=20", "eval_every=20", "algo.iterations=1")
    assert "WARNING: no scene was played both better and worse: there is nothing to learn" in capsys.readouterr().out


def test_an_iteration_goes_on_with_its_own_rollouts_and_no_others(tmp_path):
    """Those of an earlier run in the same folder are not read; those that a stopped run needs must be there."""
    flags = [*RUNS["tpo"], "steps=60", "eval_every=60", "algo.iterations=2"]
    train(tmp_path, *flags)
    rollouts = tmp_path / "run" / "rollouts"
    before = {file.name: torch.load(file, weights_only=True) for file in rollouts.iterdir()}
    assert set(before) == {"1.pt", "2.pt"} and before["1.pt"]["policy"] != before["2.pt"]["policy"]
    (tmp_path / "run" / "checkpoint.pt").unlink(), (tmp_path / "run" / "result.json").unlink()
    train(tmp_path, *flags, "seed=1")
    after = torch.load(rollouts / "1.pt", weights_only=True)
    assert after["policy"] != before["1.pt"]["policy"]
    state = torch.load(tmp_path / "run" / "checkpoint.pt", weights_only=True)
    assert state["position"]["iteration"] == 2
    state["position"] |= {"stage": state["position"]["stage"] - 1, "step": 10, "policy_step": 40}
    torch.save(state, tmp_path / "run" / "checkpoint.pt")
    (rollouts / "2.pt").unlink(), (tmp_path / "run" / "result.json").unlink()
    with pytest.raises(UserError, match="2.pt is missing, .* the run was learning from it"):
        train(tmp_path, *flags, "seed=1")


def test_a_question_that_no_episode_holds_is_refused_before_the_baseline_trains(tmp_path):
    with pytest.raises(UserError, match=r"no episode is 999 steps long.*add query\.length="):
        train(tmp_path, *RUNS["cpl"], "query.length=999")
    assert not (tmp_path / "run" / "bc" / "checkpoint.pt").exists()


def test_stored_answers_are_looked_for_before_anything_is_made(tmp_path):
    with pytest.raises(UserError, match="there is no file"):
        train(tmp_path, *RUNS["cpl"], "feedback=stored", f"store=sqlite:///{tmp_path / 'none.sqlite'}")
    assert not (tmp_path / "none.sqlite").exists() and not (tmp_path / "data").exists()


def test_the_same_command_twice_trains_once(tmp_path, capsys):
    train(tmp_path, *RUNS["iql"])
    assert "this run ended on" not in capsys.readouterr().out
    before = outcome(tmp_path)
    written = (tmp_path / "run" / "metrics.jsonl").read_bytes()
    train(tmp_path, *RUNS["iql"])
    assert "this run ended on" in capsys.readouterr().out
    assert_same(before, outcome(tmp_path))
    assert (tmp_path / "run" / "metrics.jsonl").read_bytes() == written


def test_answers_come_in_rounds_and_are_counted(tmp_path):
    extra = [a for a in RUNS["piql-in-rounds"] if a != "feedback=perfect"]
    train(tmp_path, *extra, "feedback=skip", "feedback.equal=0.2", "feedback.skip=1.0", "compare=false")
    answers = log.read(tmp_path / "run", "answers")
    assert [a["asked"] for a in answers] == [30, 60]
    last = answers[-1]
    assert last["answered"] + last["skipped"] == 60 and last["ties"] > 0 and last["ties"] <= last["answered"]
    assert last["label_accuracy"] == 1.0  # of answers that are neither ties nor skipped
    phases = [e["phase"] for e in log.read(tmp_path / "run")]
    assert phases.index("answers") < phases.index("reward") < phases.index("held_out") < phases.index("policy")
    assert phases.count("held_out") == 2


OTHERS = ("none", "discriminator", "attributes", "rapl")  # which no answers teach, or others; see test_rapl.py


@pytest.mark.parametrize("name", [name for name in names("reward") if name not in OTHERS])
def test_each_reward_model_is_tested_on_held_out_answers(tmp_path, name):
    train(tmp_path, "algo=iql", f"reward={name}", "reward.steps=10", "query.kind=pair", "query.count=60", "steps=5",
          "eval_every=5", "compare=false", *(["reward.context=8"] if name == "transformer" else []))  # fmt: skip
    (measures,) = log.read(tmp_path / "run", "held_out")
    assert 0 <= measures["held_out_accuracy"] <= 1 and -1 <= measures["rank_correlation"] <= 1
    assert 0 <= measures["calibration_error"] <= 1


def test_a_reward_without_answers_asks_nothing(tmp_path):
    train(tmp_path, "algo=iql", "reward=discriminator", "reward.steps=10", "feedback=none", "steps=5", "eval_every=5",
          "compare=false")  # fmt: skip
    assert not log.read(tmp_path / "run", "answers") and not (tmp_path / "run" / "answers.sqlite").exists()
    assert log.read(tmp_path / "run", "reward")[-1]["loss"] > 0
    with pytest.raises(UserError, match="asks nothing"):
        train(tmp_path, "algo=iql", "reward=discriminator", "only=answers", f"run={tmp_path / 'other'}")


def test_the_label_accuracy_of_a_teacher_that_errs(tmp_path):
    train(tmp_path, "query.kind=pair", "query.count=1000", "feedback=mistake", "feedback.mistake=0.3", "steps=80",
          "compare=false")  # fmt: skip
    assert log.read(tmp_path / "run", "answers")[-1]["label_accuracy"] == pytest.approx(0.7, abs=0.05)


def test_stored_answers_train_the_same_as_live_ones(tmp_path):
    """No question is asked again, and the policy is the same to the bit."""
    given = ["algo=cpl", "algo.pretrain_steps=20", "steps=40", "eval_every=40", "compare=false"]
    train(tmp_path, *given)
    (tmp_path / "run").rename(tmp_path / "first")
    store = f"store=sqlite:///{tmp_path / 'first' / 'answers.sqlite'}"
    train(tmp_path, *given, "feedback=stored", store)
    first, again = (torch.load(tmp_path / run / "policy.pt", weights_only=True) for run in ("first", "run"))
    assert_same(first, again)
    assert log.read(tmp_path / "run", "answers")[-1]["answered"] == 60
    with pytest.raises(UserError, match="holds 60 × rating of 8 steps"):
        train(tmp_path, *given, "feedback=stored", store, "query.kind=pair", f"run={tmp_path / 'other'}")


@pytest.mark.parametrize("objective", ["robust", "plackett_luce"])
def test_a_reward_model_has_an_objective_of_its_own(tmp_path, objective):
    def weights(name, *extra):
        train(tmp_path, "algo=iql", "reward=ensemble", "reward.steps=30", "steps=20", "eval_every=20", "compare=false",
              *extra, f"run={tmp_path / name}")  # fmt: skip
        return torch.load(tmp_path / name / "checkpoint.pt", weights_only=True)["replicas"][0]["reward"][
            "net.layers.0.weight"
        ]

    assert not torch.equal(weights("other", f"objective@reward_objective={objective}"), weights("plain"))


def test_a_round_that_is_skipped_whole(tmp_path, monkeypatch):
    """B-Pref fails on one. The real teacher answers the first round; no setting skips just the second."""
    label, rounds = Teacher.label, []

    def first_alone(self, table, starts, length, uniform):
        found, outcome = label(self, table, starts, length, uniform)
        rounds.append(len(starts))
        return (found, outcome) if len(rounds) == 1 else (np.full_like(found, np.nan), np.full_like(outcome, "skip"))

    monkeypatch.setattr(Teacher, "label", first_alone)
    train(tmp_path, *RUNS["piql-in-rounds"], "compare=false")
    first, second = log.read(tmp_path / "run", "answers")
    assert first["skipped"] == 0 and second["skipped"] == second["asked"] - first["asked"] > 0
    assert second["answered"] == first["answered"] and len(log.read(tmp_path / "run", "held_out")) == 2
    assert rounds == [30, 30]


def test_a_run_on_a_d4rl_file(tmp_path):
    collected = toy.episodes(30)
    ends = np.concatenate([np.arange(len(e.action)) == len(e.action) - 1 for e in collected])
    with h5py.File(tmp_path / "point-medium-v2.hdf5", "w") as file:
        for name, parts in {
            "observations": [e.obs[:-1] for e in collected], "next_observations": [e.obs[1:] for e in collected],
            "actions": [e.action for e in collected], "rewards": [e.reward for e in collected],
        }.items():  # fmt: skip
            file[name] = np.concatenate(parts)
        file["timeouts"], file["terminals"] = ends, np.zeros(len(ends), bool)
    base = [flag for flag in BASE if not flag.startswith("data")]
    extra = ["data=file", f"data.path={tmp_path / 'point-medium-v2.hdf5'}", "algo=iql", "reward=ensemble",
             "reward.steps=40", "feedback=perfect", "query.kind=pair", "steps=40", "eval_every=40"]  # fmt: skip
    result = train(tmp_path, *extra, base=base)
    assert result["data"]["episodes"] == 30 and result["answers"]["answered"] == 60


def test_every_question_skipped(tmp_path):
    with pytest.raises(UserError, match="no usable answers"):
        train(tmp_path, "query.kind=pair", "feedback=skip", "feedback.skip=100", "compare=false")


@pytest.mark.parametrize("name", ["ipl", "piql-in-rounds"])
def test_every_question_a_tie(tmp_path, name):
    """Nothing is preferred to anything: training goes on, and what cannot be measured is null in the result."""
    extra = [flag for flag in RUNS[name] if "strategy" not in flag]
    result = train(tmp_path, *extra, "query.kind=pair", "feedback=equal", "feedback.equal=1e6", "query.held_out=0.3")
    assert result["answers"]["ties"] == result["answers"]["answered"] == 60
    kept = json.loads((tmp_path / "run" / "result.json").read_text(), parse_constant=pytest.fail)
    assert kept["label_accuracy"] is None
    for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines():
        json.loads(line, parse_constant=pytest.fail)


def test_a_run_folder_of_another_run(tmp_path):
    extra = [*RUNS["iql"], "compare=false"]
    train(tmp_path, *extra)
    with pytest.raises(UserError, match="another data set: 40 of its 40 episodes are missing and 40 are new"):
        train(tmp_path, *extra, "data_seed=1")
    with pytest.raises(UserError, match="other settings"):
        train(tmp_path, *extra, "policy.hidden=[8]")
    (tmp_path / "run" / "checkpoint.pt").write_bytes(b"nothing")
    with pytest.raises(UserError, match="damaged"):
        train(tmp_path, *extra)


@pytest.mark.parametrize(("name", "free"), [("iql", 100_000), ("cpl", 300_000)])  # the checkpoint's, and the store's
def test_a_full_disk_loses_nothing(tmp_path, name, free):
    """The checkpoint of before survives, and the run goes on when there is space again."""
    disk = tmp_path / "disk"
    disk.mkdir()
    if (
        os.geteuid() != 0
        or subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", disk], capture_output=True).returncode
    ):
        pytest.skip("mounting a small disk needs root")
    try:
        filler = disk / "filler"
        extra = [*RUNS[name], f"data_dir={tmp_path / 'data'}", "compare=false"]
        filler.write_bytes(bytes(2**20 - free))
        full = "checkpoint.pt.*free some space" if name == "iql" else "answers.sqlite.*free some space"
        with pytest.raises(UserError, match=full):
            train(disk, *extra)
        assert files.load(disk / "run/checkpoint.pt", torch.device("cpu")) is not None
        filler.unlink()
        assert train(disk, *extra)["policy"]
    finally:
        subprocess.run(["umount", "--lazy", disk])  # the failed run may still hold its files


def test_when_to_compile(monkeypatch, capsys):
    assert wants_compile("auto", 10**6) and not wants_compile("auto", 100)
    assert wants_compile("always", 1) and not wants_compile("never", 10**6)
    monkeypatch.setenv("PATH", "")
    monkeypatch.delenv("CXX", raising=False)
    has_compiler.cache_clear()
    assert not wants_compile("auto", 10**6) and not wants_compile("always", 1)
    assert capsys.readouterr().out.count("no C++ compiler") == 1  # said once
    has_compiler.cache_clear()


def test_asking_alone_and_training_later_is_the_same_run(tmp_path):
    train(tmp_path / "a", *RUNS["cpl"])
    assert train(tmp_path / "b", *RUNS["cpl"], "only=answers") == {}
    store = Store(f"sqlite:///{tmp_path / 'b/run/answers.sqlite'}")
    assert store.counts()["answered"] == 60 and not (tmp_path / "b/run/policy.pt").exists()
    train(tmp_path / "b", *RUNS["cpl"])
    assert store.counts()["answered"] == 60
    assert_same(outcome(tmp_path / "a")["policies"], outcome(tmp_path / "b")["policies"])


def test_other_settings_are_another_run(tmp_path):
    extra = [*RUNS["iql"], "compare=false"]
    train(tmp_path, *extra)
    config_text = (tmp_path / "run/config.yaml").read_text()
    with pytest.raises(UserError, match=r"algo.expectile 0.7 → 0.9"):
        train(tmp_path, *extra, "algo.expectile=0.9")
    assert (tmp_path / "run/config.yaml").read_text() == config_text
    train(tmp_path, *extra, "device=cpu", "logger=tensorboard")  # where and how it runs may change


def test_only_a_reward_model_needs_answers_held_out(tmp_path, monkeypatch):
    """A share by the hash of the question, query.held_out; without a reward model all answers train."""
    found, set_labels = [], Replica.set_labels

    def counted(self, labels):
        set_labels(self, labels)
        by_hash = sum(int(question[:8], 16) < 0.1 * 16**8 for question in labels.question)
        found.append((len(self.data.train), len(self.data.test), by_hash))

    monkeypatch.setattr(Replica, "set_labels", counted)
    train(tmp_path / "a", *RUNS["cpl"], "compare=false")
    assert [part[:2] for part in found] == [(60, 0)]
    found.clear()
    train(tmp_path / "b", *RUNS["piql-in-rounds"])
    assert [part[0] + part[1] for part in found] == [30, 60]
    assert all(test == by_hash > 0 for _, test, by_hash in found)


def test_asking_alone_needs_something_to_ask(tmp_path):
    with pytest.raises(UserError, match="only=answers"):
        train(tmp_path, *RUNS["iql"], "only=answers")


GROWN = ["algo=iql", "algo.hidden=[16]", "feedback=none", "compare=false", "data=file"]


def write_data(folder: Path, count: int) -> str:
    """A data set of the first of some episodes; returns the flag that names it."""
    storage.write(folder / f"{count}-episodes", toy.episodes(40)[:count], {})
    return f"data.path={folder / f'{count}-episodes'}"


@pytest.mark.parametrize("extra", [[], ["reward=ensemble", "reward.steps=30", "feedback=perfect", "query.kind=pair"]])
def test_a_run_goes_on_on_a_grown_data_set_when_asked_to(tmp_path, monkeypatch, extra):
    base = [flag for flag in BASE if not flag.startswith("data")]
    few, more, fewer = (write_data(tmp_path, n) for n in (30, 40, 29))

    def run_on(*flags):
        own = [flag for flag in GROWN if flag != "feedback=none" or not extra]
        return train(tmp_path, *own, *extra, *flags, base=base)

    with monkeypatch.context() as patched:
        evaluate = Training._evaluate

        def stop(self, stage, bar):
            if self.policy_step >= 160:
                raise KeyboardInterrupt
            evaluate(self, stage, bar)

        patched.setattr(Training, "_evaluate", stop)
        with pytest.raises(KeyboardInterrupt):
            run_on(few)
    with pytest.raises(UserError, match="was made on 30 of these 40 episodes: grow=true"):
        run_on(more)
    with pytest.raises(UserError, match="1 of its 30 episodes are missing and 0 are new"):
        run_on(fewer, "grow=true")
    before = files.load(tmp_path / "run/checkpoint.pt", torch.device("cpu"))
    result = run_on(more, "grow=true")
    after = files.load(tmp_path / "run/checkpoint.pt", torch.device("cpu"))
    assert before is not None and after is not None and len(before["episodes"]) == 30 and len(after["episodes"]) == 40
    assert before["position"]["policy_step"] >= 120 and after["position"]["policy_step"] == 240
    assert result["data"]["episodes"] == 40
    if extra:  # the reward model labels what is new
        reward = after["replicas"][0]["labels"]["reward"]
        assert len(reward) > len(before["replicas"][0]["labels"]["reward"]) and reward.isfinite().all()
        assert torch.equal(after["replicas"][0]["reward"]["net.layers.0.weight"],
                           before["replicas"][0]["reward"]["net.layers.0.weight"])  # fmt: skip
    run_on(more)  # and has now been made on these
