"""`feedback=vlm` in a run: what is asked, what is learnt from, what is refused before anything is paid."""

from pathlib import Path

import pytest

from benchmarks import simulated_judge
from pbrl.configs import compose_config
from pbrl.feedback.store.store import Store
from pbrl.run import train as run
from pbrl.run.validate import validate
from pbrl.settings import RunSettings
from pbrl.training import log
from pbrl.types import UserError
from tests import forks

KEY = "sk-a-secret-of-the-user"


@pytest.fixture(scope="module")
def judge(tmp_path_factory):
    key = tmp_path_factory.mktemp("key") / "key.jsonl"
    key.touch()
    running = simulated_judge.start(key)
    yield running, key
    running.stop()


def flags(folder: Path, judge, *more: str) -> list[str]:
    running, key = judge
    return ["env=metaworld/drawer-open", "env.horizon=20", "data=random", "data.episodes=6", "feedback=vlm",
            f"vlm.base_url={running.base_url}", f"vlm.answer_key={key}", f"vlm.cache={folder / 'cache'}",
            "vlm.judge=pair_logprob", "vlm.view=frame", "vlm.size=32", "query.kind=pair", "query.length=1",
            "query.count=16", "algo=iql", "reward=ensemble", "reward.steps=10", "steps=20", "eval_every=20",
            "log_every=10", "checkpoint_every=10", "eval_episodes=1", "final_episodes=1", "compare=false", "workers=0",
            "video=false", "compile=never", f"data_dir={folder}", f"run={folder / 'run'}", *more]  # fmt: skip


def train(folder: Path, judge, *more: str) -> dict:
    return run.train(compose_config(*flags(folder, judge, *more)))


@pytest.mark.slow
def test_a_run_learns_from_a_model(tmp_path, judge):
    train(tmp_path, judge)
    counts = log.read(tmp_path / "run", "answers")[-1]
    assert counts["asked"] == counts["answered"] == 16 and counts["label_accuracy"] > 0.9
    (rater,) = {a.rater for a in Store(f"sqlite:///{tmp_path / 'run' / 'answers.sqlite'}").answers()}
    assert rater.startswith(simulated_judge.MODEL)


def refuse(tmp_path: Path, judge, *more: str) -> str:
    before = judge[0].counts()["requests"]
    with pytest.raises(UserError) as refused:
        validate(RunSettings.parse(compose_config(*flags(tmp_path, judge, *more))))
    assert judge[0].counts()["requests"] == before, "nothing was paid"
    return str(refused.value)


def test_what_is_refused_before_anything_is_paid(tmp_path, judge, monkeypatch):
    assert "not query.kind=ranking" in refuse(tmp_path, judge, "query.kind=ranking")
    assert "vlm.judge=none: choose one of" in refuse(tmp_path, judge, "vlm.judge=none")
    monkeypatch.delenv("MY_KEY", raising=False)
    assert "set that environment variable" in refuse(tmp_path, judge, "vlm.key_env=MY_KEY")
    assert "has no setting" in refuse(tmp_path, judge, "vlm.options={stage:1}")
    assert "vlm.budget.money" in refuse(tmp_path, judge, "vlm.budget.money=-1")


def test_how_a_model_is_reached_makes_no_other_run(tmp_path, judge):
    def parse(*more: str) -> RunSettings:
        return RunSettings.parse(compose_config(*flags(tmp_path, judge, *more)))

    same = ["vlm.concurrency=2", "vlm.budget.questions=9", "vlm.base_url=http://elsewhere/v1", "vlm.replay=true"]
    assert parse().named == parse(*same).named and parse().identity == parse(*same).identity
    assert parse().identity != parse("vlm.judge=pair").identity
    plain = [word for word in flags(tmp_path, judge) if not word.startswith(("vlm.", "feedback="))]
    assert "vlm" not in RunSettings.parse(compose_config(*plain)).named, "runs of other sources keep their names"


@pytest.mark.slow
def test_no_key_is_kept_or_said(tmp_path, judge):
    """By the command, with a key that the server takes, and with one that no server is asked with."""
    root = Path(__file__).parents[3]
    env = {"MY_KEY": KEY, "PATH": "/usr/bin:/bin", "PYTHONPATH": str(root), "HOME": str(tmp_path)}
    words = flags(tmp_path, judge, "vlm.key_env=MY_KEY", "only=answers")
    done = forks.run(["train.py", *words], cwd=root, env=env, capture_output=True, timeout=300)
    assert done.returncode == 0, done.stderr.decode()
    lost = flags(tmp_path, judge, "vlm.key_env=MY_KEY", "vlm.base_url=http://127.0.0.1:1/v1", "vlm.retries=0",
                 "only=answers", f"run={tmp_path / 'lost'}", "query.seed=1")  # fmt: skip
    failed = forks.run(["train.py", *lost], cwd=root, env=env, capture_output=True, timeout=300)
    assert failed.returncode != 0 and b"nothing answers at" in failed.stderr
    said = done.stdout + done.stderr + failed.stdout + failed.stderr
    kept = [path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()]
    assert len(kept) > 5 and not any(KEY.encode() in part for part in [said, *kept])
