"""`python -m pbrl.judge` from end to end, on a point that walks: an ensemble's run, stored answers, files of scores."""

import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pbrl.configs import compose_config
from pbrl.data import episodes as storage
from pbrl.data.table import Table
from pbrl.feedback.questions import Question, Value, identity
from pbrl.feedback.sources.context import Context
from pbrl.feedback.store.answers import Answer
from pbrl.feedback.store.store import Store
from pbrl.judge.command import judge, measure_sources
from pbrl.judge.judging import MEASURES
from pbrl.judge.report import TITLES
from pbrl.run import train as run
from pbrl.run.build import build
from pbrl.settings import Query
from pbrl.types import Clip, UserError
from tests import forks, toy

POINT = {"_target_": "tests.toy.Point"}
LENGTH, ASKED = 8, 120
SMALL = [
    "algo=iql", "algo.hidden=[8]", "reward=ensemble", "reward.steps=300", "reward.hidden=[32]", "feedback=perfect",
    "query.kind=pair", "query.count=200", f"query.length={LENGTH}", "steps=5", "log_every=5", "eval_every=5",
    "checkpoint_every=5", "eval_episodes=1", "final_episodes=1", "workers=0", "threads=1", "video=false",
    "compile=never", "compare=false", "seeds=2",
]  # fmt: skip


class Place:
    """A folder with two data sets of the same kind, a run that learnt from the first, and answers about the second."""

    def __init__(self, folder: Path):
        self.folder = folder
        for name, seeds in (("learnt", slice(0, 30)), ("judged", slice(30, 60))):
            storage.write(folder / name, toy.episodes(60)[seeds], {})
        self.table = Table(storage.read(folder / "judged"))
        run.train({**compose_config(*SMALL), **self.data("learnt"), "run": str(folder / "run")})
        self.run = folder / "run/seed0"
        self.store = f"sqlite:///{folder / 'answers.sqlite'}"
        self.raters = [self.answer("perfect"), self.answer("mistake", "feedback.mistake=0.3")]

    def data(self, name: str = "judged") -> dict[str, Any]:
        return {
            "env": POINT, "data": {"name": "file", "path": str(self.folder / name)}, "data_dir": str(self.folder)
        }  # fmt: skip

    def answer(self, feedback: str, *flags: str) -> str:
        """Has a scripted teacher answer; returns its name."""
        settings = compose_config(f"feedback={feedback}", *flags)
        teacher, store = build(settings["feedback"]), Store(self.store)
        query = Query(**settings["query"])
        starts = np.random.default_rng(0).choice(self.table.segment_starts(LENGTH).numpy(), (ASKED, 2))
        clips = np.array(self.table.clips(starts.ravel(), LENGTH), object).reshape(ASKED, 2, 3)
        questions = [Question("pair", tuple(Clip(*c) for c in own), position=i) for i, own in enumerate(clips)]
        teacher.start(Context(store, self.table, query, data_dir=self.folder))
        teacher.answer(store.ask(questions, store.register(self.table.ids)))
        return teacher.rater

    def file(self, **arrays: Any) -> str:
        path = self.folder / "scores.npz"
        np.savez(path, **arrays)
        return str(path)

    def config(self, **changes: Any) -> dict[str, Any]:
        config = compose_config("resamples=100", "query.count=200", "device=cpu", "workers=0", name="judge")
        query = config["query"] | changes.pop("query", {})
        return {**config, **self.data(), "folder": str(self.folder / "out"), **changes, "query": query}

    def judge(self, **changes: Any) -> dict[str, Any]:
        """What is measured, without a picture."""
        return measure_sources(self.config(**changes)).result


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return Place(tmp_path_factory.mktemp("judge"))


def value(result: dict[str, Any], source: str, name: str) -> float:
    return result["sources"][source]["measures"][name]["value"]


def test_every_measure_has_a_title():
    assert set(MEASURES) == set(TITLES)


def test_several_sources_side_by_side(place, capsys):
    true = place.table.reward[place.table.rows].numpy()
    sources = {
        "ensemble": str(place.run.parent / "seed1"),
        "perfect": {"store": place.store, "rater": place.raters[0]},
        "wrong": {"store": place.store, "rater": place.raters[1]},
        "opposite": place.file(reward=-true),
    }
    result = judge(place.config(sources=sources))
    assert value(result, "perfect", "pair_accuracy") == 1
    wrong = result["sources"]["wrong"]["measures"]["pair_accuracy"]
    assert abs(wrong["value"] - 0.7) < 3 * (0.7 * 0.3 / ASKED) ** 0.5
    assert wrong["count"] == ASKED - 1 and wrong["unit"] == "questions", "a question is a tie"
    assert value(result, "ensemble", "pair_accuracy") > 0.8 and value(result, "ensemble", "kendall_tau") > 0.5
    assert value(result, "ensemble", "brier_score") < 0.25
    for name, worst in (("pair_accuracy", 0), ("kendall_tau", -1), ("failure_auc", 0), ("reward_correlation", -1)):
        assert value(result, "opposite", name) == pytest.approx(worst, abs=1e-6)
    assert result["warnings"] == [], "the run learnt from other episodes"
    assert result["pairs"]["length"] == [LENGTH, LENGTH], "as long as the raters' clips"
    written = json.loads((place.folder / "out/judge.json").read_text())
    assert written["sources"]["perfect"]["measures"]["voc"]["value"] is None
    assert written["sources"]["ensemble"]["seed"] == 1 and len(written["sources"]["wrong"]["accuracy_by_gap"]) == 5
    assert (place.folder / "out/judge.png").read_bytes()[:4] == b"\x89PNG"
    printed = capsys.readouterr().out
    assert re.search(r"pair accuracy +0\.5 +0\.\d\d \[", printed) and "nan" not in printed.lower()
    assert re.search(r"–  perfect, wrong: .*scores no steps", printed)


def test_the_run_brings_its_data_and_its_answers_are_not_a_test(place):
    own = {**place.data("learnt"), "env": None, "data": None}
    sources = {"ensemble": str(place.run), "teacher": f"sqlite:///{place.run.parent / 'answers.sqlite'}"}
    result = place.judge(sources=sources, query={"pairs": "asked"}, **own)
    assert result["pairs"]["count"] == 200 and value(result, "teacher", "pair_accuracy") == 1
    assert result["warnings"] == ["ensemble has learnt from answers to 200 of the 200 pairs that it is judged on"]
    drawn = place.judge(sources=sources, **own)
    assert drawn["warnings"] == [] or "of the 200" in drawn["warnings"][0]


def test_the_rewards_are_those_that_the_policy_learnt_from(place):
    """On the data of the run: the labels that its checkpoint keeps."""
    import torch

    from pbrl.judge.from_run import load_run
    from pbrl.judge.material import Material

    table_of = storage.read(place.folder / "learnt")
    material = Material(table_of, storage.content_hash(table_of), POINT, place.folder, 0)
    source = load_run(place.run, material, torch.device("cpu"))
    kept = torch.load(place.run.parent / "checkpoint.pt")["replicas"][0]["labels"]["reward"]
    assert np.allclose(source.reward, kept[Table(table_of).rows], atol=1e-6)


def test_single_flags_and_forms_of_files(place):
    result = place.judge(rewards=str(place.run), store=place.store, rater=place.raters[0])
    assert list(result["sources"]) == ["seed0", place.raters[0]]
    true = place.table.reward.numpy()  # rows, of which one in each episode holds no step
    assert value(place.judge(file=place.file(reward=true)), "scores", "pair_accuracy") == 1
    steps = np.concatenate([np.arange(n + 1.0) for n in place.table.steps])
    clock = place.judge(file=place.file(value=steps))
    assert value(clock, "scores", "voc") == 1 and value(clock, "scores", "failure_auc") == 0.5, "a clock knows time"
    clips = {"episode": np.array(place.table.ids[:20]).reshape(10, 2), "first": np.zeros((10, 2), int), "length": 5}
    pairs = place.judge(file=place.file(**clips | {"probability": np.linspace(0, 1, 10)}))
    assert pairs["sources"]["scores"]["measures"]["brier_score"]["count"] == 10
    whole = {"episode": np.arange(30), "first": np.zeros(30, int), "length": place.table.steps}
    assert value(place.judge(file=place.file(**whole, value=place.table.returns)), "scores", "kendall_tau") == 1


def record(place: Place, rater: str, kind: str, clips: list[tuple[Clip, ...]], values: list[Value], **more: Any) -> str:
    url = f"sqlite:///{place.folder / f'{rater}.sqlite'}"
    store = Store(url)
    store.add_rater(rater, "vlm")
    ids = store.ask([Question(kind, own, position=i) for i, own in enumerate(clips)], store.register(place.table.ids))
    store.append([Answer(identity(rater, q), q, rater, v, **more) for q, v in zip(ids, values, strict=True)])
    return url


def clips_of(place: Place, count: int, width: int) -> list[tuple[Clip, ...]]:
    ids = place.table.ids
    return [tuple(Clip(ids[(i * width + k) % len(ids)], i % 9, LENGTH) for k in range(width)) for i in range(count)]


def test_what_a_model_said_in_both_orders_is_its_bias(place):
    values = [Value("answer", 0.6, {"vlm": {"orders": [0.5, 0.7]}}) for _ in range(40)]
    url = record(place, "model", "pair", clips_of(place, 40, 2), [*values[:-1], Value("skip")])
    result = place.judge(store=url)
    assert value(result, "answers", "position_bias") == pytest.approx(0.1)
    assert value(result, "answers", "skip_rate") == pytest.approx(1 / 40)


def test_which_clip_was_shown_first_is_read(place):
    url = record(place, "left", "pair", clips_of(place, 40, 2), [Value("answer", 1.0)] * 40, shown={"order": [1, 0]})
    assert value(place.judge(sources={"left": url}), "left", "position_bias") == 0.5


def test_rankings_and_ratings(place):
    clips = clips_of(place, 20, 3)
    by_return = [np.argsort([-returns(place, clip) for clip in own]).tolist() for own in clips]
    values = [Value("answer", None, {"tiers": [[k] for k in order]}) for order in by_return]
    result = place.judge(store=record(place, "ranker", "ranking", clips, values))
    accuracy = result["sources"]["answers"]["measures"]["pair_accuracy"]
    assert accuracy["value"] == 1 and accuracy["count"] == 20, "sixty pairs of twenty questions"
    clips = clips_of(place, 30, 1)
    url = record(place, "grader", "rating", clips, [Value("answer", returns(place, own[0])) for own in clips])
    assert value(place.judge(store=url), "answers", "pair_accuracy") == 1


def returns(place: Place, clip: Clip) -> float:
    row = place.table.row(clip)
    return float(place.table.reward[row : row + clip.length].double().sum())


def test_a_data_set_without_rewards_still_has_an_order(place):
    videos = [e._replace(reward=np.zeros_like(e.reward), success=None) for e in toy.episodes(6)]
    storage.write(place.folder / "bare", videos, {})
    rows = np.concatenate([np.arange(31.0)] * 6)
    arguments = {"file": place.file(value=rows), **place.data("bare")}
    with pytest.raises(UserError, match="nothing is known to judge by.*demonstrations=true"):
        place.judge(**arguments)
    result = place.judge(**arguments, demonstrations=True)
    assert value(result, "scores", "voc") == 1 and value(result, "scores", "pair_accuracy") is None
    assert "not known" in result["sources"]["scores"]["measures"]["pair_accuracy"]["why"]


@pytest.mark.parametrize(
    ("words", "changes"),
    [
        ("nothing to judge: add rewards=", {}),
        ("there is no file .*missing.sqlite", {"store": "sqlite:///missing.sqlite"}),
        ("choose one of them with rater=", {"store": "STORE"}),
        ("no answers by nobody about this data set, but by", {"store": "STORE", "rater": "nobody"}),
        ("rater=me is one of a store", {"rater": "me", "file": "x.npz"}),
        ("no answers: give the data set", {"store": "EMPTY"}),
        ("about episodes that this data set does not have", {"store": "STORE", "data": "learnt"}),
        ("answered 120 × pair: .*choose one by kind=", {"store": "STORE", "rater": "PERFECT", "kind": "rating"}),
        ("no run folder", {"rewards": "FOLDER"}),
        ("holds 2 seeds: choose one, as in .*/run/seed0", {"rewards": "SEEDS"}),
        ("there is no file .*nothing.npz", {"file": "nothing.npz"}),
        ("which data set", {"file": "x.npz", "data": None, "env": None}),
        ("takes a rater of pairs", {"rewards": "RUN", "query": {"pairs": "asked"}}),
        ("query.pairs=some must be drawn or asked", {"rewards": "RUN", "query": {"pairs": "some"}}),
        (
            "changes=.camera.: none of the sources is a run's reward of pictures",
            {"rewards": "RUN", "changes": ["camera"]},
        ),
        ("query has no n", {"rewards": "RUN", "query": {"n": 3}}),
        ("choose a smaller query.length", {"rewards": "RUN", "query": {"length": 999}}),
        ("resamples=3 must be", {"rewards": "RUN", "resamples": 3}),
        ("sources.a=7: a run folder", {"sources": {"a": 7}}),
        ("sources.a has no who", {"sources": {"a": {"store": "STORE", "who": "me"}}}),
    ],
)
def test_what_cannot_be_judged_is_one_sentence(place, words, changes):
    Store(empty := f"sqlite:///{place.folder / 'empty.sqlite'}")
    stand_for = {"STORE": place.store, "EMPTY": empty, "PERFECT": place.raters[0], "RUN": str(place.run),
                 "FOLDER": str(place.folder), "SEEDS": str(place.run.parent)}  # fmt: skip
    changes = {key: stand_for.get(given, given) if isinstance(given, str) else given for key, given in changes.items()}
    if changes.get("data") == "learnt":
        changes |= place.data("learnt")
    with pytest.raises(UserError) as raised:
        place.judge(**changes)
    assert re.search(words, str(raised.value)) and "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("words", "arrays"),
    [
        ("score this data set, in its order", {"reward": np.zeros(5)}),
        ("holds a, b; what can be judged", {"a": np.zeros(5), "b": np.zeros(5)}),
        ("scores the data set x", {"reward": np.zeros(900), "dataset": "x"}),
        ("not finite", {"reward": np.full(900, np.nan)}),
        ("no numbers", {"reward": np.array(["a"] * 900)}),
        ("1 ids are unknown", {"episode": [["x", "x"]], "first": [[0, 0]], "length": [5], "probability": [0.5]}),
        ("does not have", {"episode": [[0, 1]], "first": [[0, 29]], "length": [5], "probability": [0.5]}),
        ("from 0 .* to 1", {"episode": [[0, 1]], "first": [[0, 2]], "length": [5], "probability": [1.5]}),
        ("2 clips of each", {"episode": [0, 1], "first": [0, 2], "length": [5, 5], "probability": [1, 0]}),
    ],
)
def test_a_file_that_does_not_fit_is_said(place, words, arrays):
    with pytest.raises(UserError) as raised:
        place.judge(file=place.file(**{name: np.asarray(values) for name, values in arrays.items()}))
    assert re.search(words, str(raised.value)) and "\n" not in str(raised.value)


def test_a_file_that_is_no_npz_and_a_run_that_has_no_reward(place, tmp_path):
    (tmp_path / "x.npz").write_text("scores")
    with pytest.raises(UserError, match="is no .npz of numbers"):
        place.judge(file=str(tmp_path / "x.npz"))
    shutil.copytree(place.run, tmp_path / "run")
    shutil.copy(place.run.parent / "checkpoint.pt", tmp_path / "run")
    config = (tmp_path / "run/config.yaml").read_text()
    (tmp_path / "run/config.yaml").write_text(config.replace("pbrl.rewards.ensemble.Ensemble", "''"))
    with pytest.raises(UserError, match="without a reward model"):
        place.judge(rewards=str(tmp_path / "run"))
    (tmp_path / "run/config.yaml").write_text(config)
    (tmp_path / "run/checkpoint.pt").unlink()
    with pytest.raises(UserError, match=r"no checkpoint.pt yet"):
        place.judge(rewards=str(tmp_path / "run"))


def test_the_command_itself(place, tmp_path):
    flags = [
        "env=tests/point", "hydra.searchpath=[file://tests/configs]", "data=file", f"data.path={place.folder}/judged",
        f"sources={{me: {{store: '{place.store}', rater: {place.raters[0]}}}, reward: {place.run}}}", "workers=0",
        "resamples=100", "query.count=50", f"folder={tmp_path}/out", "device=cpu", "shown.frames=0",
    ]  # fmt: skip
    done = forks.run(["-m", "pbrl.judge", *flags], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "pair accuracy" in done.stdout and (tmp_path / "out/judge.json").exists()
    done = forks.run(["-m", "pbrl.judge", "reward=x"], capture_output=True, text=True)
    assert done.returncode == 1 and "Traceback" not in done.stderr and "reward" in done.stderr
