"""`feedback=routed`: what a model is unsure of, who is asked, and what is learnt; by the real labeller's answers."""

import threading
from pathlib import Path

import numpy as np
import pytest

from benchmarks import simulated_judge
from pbrl.configs import compose_config
from pbrl.data import episodes as files
from pbrl.data.table import Table
from pbrl.feedback.asking import Asking
from pbrl.feedback.kinds import ANSWER, SKIP, TIE, Value
from pbrl.feedback.questions import Question
from pbrl.feedback.raters import dawid_skene
from pbrl.feedback.sources.context import Context
from pbrl.feedback.sources.people import People
from pbrl.feedback.sources.routed import Routed, count_share, least_sure, uncertainty
from pbrl.feedback.store.answers import Answer
from pbrl.feedback.store.leases import lease
from pbrl.feedback.store.store import Store
from pbrl.run.build import build
from pbrl.run.validate import validate
from pbrl.settings import Query, RunSettings
from pbrl.types import Clip, UserError
from tests import toy

COUNT = 40


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    path = tmp_path_factory.mktemp("data") / "point"
    files.write(path, toy.episodes(10), {})
    source = {"env": {"_target_": "tests.toy.Point"}, "data": {"path": str(path)}, "folder": path.parent, "seed": 0,
              "workers": 0}  # fmt: skip
    return source, Table(files.read(path))


@pytest.fixture(scope="module")
def judge(tmp_path_factory):
    """One that is right where pictures differ much, and guesses where they are alike, and knows it."""
    key = tmp_path_factory.mktemp("key") / "key.jsonl"
    key.touch()
    running = simulated_judge.start(key, closeness=0.3, temperature=0.3)
    yield running, key
    running.stop()


@pytest.fixture
def refusing(tmp_path):
    key = tmp_path / "key.jsonl"
    key.touch()
    running = simulated_judge.start(key, refuse=0.3)
    yield running, key
    running.stop()


def flags(folder: Path, judge, *more: str) -> list[str]:
    return ["feedback=routed", "feedback@feedback.person=perfect", f"vlm.base_url={judge[0].base_url}",
            f"vlm.answer_key={judge[1]}", f"vlm.cache={folder / 'cache'}", "vlm.judge=pair_logprob", "vlm.view=frame",
            "vlm.size=32", "vlm.task=go home", "query.kind=pair", "query.length=1", *more]  # fmt: skip


class Run:
    """A run's questions to a routed source, in the store of a folder."""

    def __init__(self, folder: Path, data, judge, *more: str, rounds: int = 1, count: int = COUNT):
        config = compose_config(*flags(folder, judge, *more))
        query = Query(**{**config["query"], "count": count, "rounds": rounds})
        self.source: Routed = build(config["feedback"], flag="feedback")
        self.store = Store(f"sqlite:///{folder / 'answers.sqlite'}")
        self.source.start(Context(self.store, data[1], query, folder, source=data[0]))
        self.asking = Asking(table=data[1], query=query, source=self.source, store=self.store)

    def by(self, model: bool) -> list[str]:
        """The questions that the model, or the person, has answered."""
        return [a.question for a in self.store.answers() if (a.rater == self.source.rater) == model]

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.source.stop()


def said(label: float | None, *orders: float | None) -> Value:
    outcome = SKIP if label is None else TIE if label == 0.5 else ANSWER
    return Value(outcome, label, {"vlm": {"orders": list(orders)}} if orders else None)


@pytest.mark.parametrize(
    "value,expected",
    [
        (said(1.0, 1.0, 1.0), 0.0),
        (said(0.5, 0.5, 0.5), 0.5),
        (said(0.5, 1.0, 0.0), 1.0),
        (said(0.6, 0.6, 0.6), 0.4),
        (said(0.7, 0.9, 0.5), 0.3 + 0.2),
        (said(0.9, 0.9), 0.1),
        (said(0.9), 0.1),
        (said(0.9, 0.9, None), 0.1 + 0.5),
        (said(None), 2.0),
        (None, 2.0),
    ],
)
def test_uncertainty_by_hand(value, expected):
    assert uncertainty(value) == pytest.approx(expected)


def test_the_least_sure_come_first_and_the_share_is_exact():
    answers = {"a": said(0.9, 0.9, 0.9), "c": said(0.5, 1.0, 0.0), "d": said(None), "b": said(0.5, 1.0, 0.0), "e": None}
    assert least_sure(answers, 5) == ["d", "e", "b", "c", "a"] and least_sure(answers, 0) == []
    assert [count_share(share, 40) for share in (0, 0.2, 0.99, 1)] == [0, 8, 40, 40]
    assert count_share(0.1, 25) == 3 and count_share(0.29, 100) == 29 and count_share(0.3, 5) == 2


def give(rater: str, question: int, label: float) -> tuple[Answer, Question]:
    clips = Clip("a", 0, 4), Clip("b", 0, 4)
    value = Value(TIE if label == 0.5 else ANSWER, label)
    return Answer(f"{rater}{question}", str(question), rater, value), Question("pair", clips, position=question)


def test_a_person_outweighs_a_model_that_nothing_is_known_of():
    """By hand, of one shared question: confusion is 9 : 1 and 2 : 1 before any answer, so the person is believed."""
    answers = [give("ada", 0, 1.0), give("vlm", 0, 0.0)]
    found = dawid_skene(answers, iterations=1, model="vlm")
    half = np.array([0.5, 0.5])  # belief by majority; classes 0 and 1
    ada = np.array([[9, 1.5], [1, 9.5]])  # she said 1
    vlm = np.array([[2.5, 1], [1.5, 2]])
    ada, vlm = ada / ada.sum(1, keepdims=True), vlm / vlm.sum(1, keepdims=True)
    belief = half * ada[:, 1] * vlm[:, 0]
    assert found.label["0"] == pytest.approx(belief[1] / belief.sum(), abs=1e-5) and found.label["0"] > 0.75
    assert dawid_skene(answers).label["0"] == pytest.approx(0.5), "two raters alike beforehand cannot be told apart"


def test_a_probability_near_a_half_is_hardly_a_vote_and_no_class_of_its_own():
    def label(p: float) -> float:
        answers = [give("ada", 0, 1.0), give("bob", 0, 0.0), give("vlm", 0, p)]
        return dawid_skene(answers, iterations=1).label["0"]

    votes = [label(p) for p in (0.0, 0.3, 0.49, 0.51, 0.7, 1.0)]
    assert votes == sorted(votes) and votes[2] == pytest.approx(0.5, abs=0.02) == votes[3]
    assert votes[0] == pytest.approx(1 - votes[-1]) and votes[-1] > 0.75, "an equal vote of two is decided by the third"


def test_the_unsure_share_goes_to_the_person_and_both_are_learnt_from(data, judge, tmp_path):
    with Run(tmp_path, data, judge) as run:
        run.asking.ask(0, None)
        asked, person = run.asking.questions, run.by(model=False)
        assert sorted(run.by(model=True)) == sorted(asked) and len(set(asked)) == COUNT
        assert len(person) == len(set(person)) == 0.2 * COUNT
        value = {a.question: a.value for a in run.store.answers(rater=run.source.rater)}
        unsure = {q: uncertainty(value[q]) for q in asked}
        assert min(unsure[q] for q in person) >= max(unsure[q] for q in asked if q not in person)
        labels = run.asking.labels
        assert sorted(labels.question) == sorted(asked), "one label for each"
        model = {name: v.label for name, v in value.items() if v}
        truth = {a.question: a.value.label for a in run.store.answers() if a.question in person and a.value
                 and a.rater != run.source.rater and a.value.label is not None}  # fmt: skip
        for question, label in zip(labels.question, labels.value, strict=True):
            if question not in person:
                assert label == model[question], "kept as it is"
            else:
                assert (label > 0.5) == (truth[question] > 0.5), "the person is believed"


def test_what_the_model_would_not_say_goes_first(data, refusing, tmp_path):
    with Run(tmp_path, data, refusing) as run:
        run.asking.ask(0, None)
        values = {a.question: a.value for a in run.store.answers(rater=run.source.rater)}
        skipped = {question for question, value in values.items() if value and value.outcome == SKIP}
        assert 0 < len(skipped) <= 8 and skipped <= set(run.by(model=False))
        assert len(run.asking.labels.question) == COUNT, "the person's label is learnt where the model has none"


@pytest.mark.parametrize("share,expected", [(0.0, 0), (1.0, COUNT)])
def test_a_share_may_be_nothing_or_all(data, judge, tmp_path, share, expected):
    with Run(tmp_path, data, judge, f"feedback.share={share}") as run:
        run.asking.ask(0, None)
        assert len(run.by(model=False)) == expected


def test_each_round_has_its_share(data, judge, tmp_path):
    with Run(tmp_path, data, judge, "feedback.share=0.25", rounds=2) as run:
        for round_ in range(2):
            run.asking.ask(round_, None)
            assert len(run.by(model=False)) == 5 * (round_ + 1)


def test_a_run_that_was_killed_asks_nobody_twice(data, judge, tmp_path):
    """It dies when questions were handed on and no person has answered; then again when all have."""
    with Run(tmp_path, data, judge) as run:
        run.source.person.answer = lambda questions: (_ for _ in ()).throw(KeyboardInterrupt)  # type: ignore
        with pytest.raises(KeyboardInterrupt):
            run.asking.ask(0, None)
        handed_on = {n for n, q in run.store.questions(run.asking.questions).items() if q.rater_kind != "vlm"}
        assert len(handed_on) == 8 and run.store.has_missing(list(handed_on)) and not run.by(model=False)
    paid = judge[0].counts()["requests"]
    for _ in range(2):
        with Run(tmp_path, data, judge) as run:
            run.asking.ask(0, None)
            assert set(run.by(model=False)) == handed_on and len(run.by(model=False)) == 8
            assert len(run.by(model=True)) == COUNT and judge[0].counts()["requests"] == paid
            assert not run.store.has_missing(run.asking.questions)


def test_people_at_the_page_are_waited_for_and_handed_only_their_share(data, judge, tmp_path):
    with Run(tmp_path, data, judge, "feedback@feedback.person=people", count=10) as run:
        assert isinstance(run.source.person, People)
        thread = threading.Thread(target=run.asking.ask, args=[0, None])
        run.store.add_rater("ada", "human")
        assert not lease(run.store, "ada", 99)
        thread.start()
        answered = 0
        while thread.is_alive():
            for one in lease(run.store, "ada", 1):
                assert one.question.wording and one.question.rater_kind == "human"
                run.store.append([Answer(f"ada-{one.id}"[:36], one.id, "ada", Value(ANSWER, 1.0))])
                answered += 1
            thread.join(0.05)
        assert answered == 2 == len(run.by(model=False)) and not lease(run.store, "ada", 99)


def test_what_the_person_adds_where_the_model_is_unsure(data, judge, tmp_path):
    """Accuracy of labels: with people on the unsure fifth, on a random fifth, and on none."""

    def accuracy(name: str, *more: str, chosen=None) -> float:
        folder = tmp_path / name
        folder.mkdir()
        with pytest.MonkeyPatch.context() as patch:
            if chosen is not None:
                patch.setattr("pbrl.feedback.sources.routed.least_sure", chosen)
            with Run(folder, data, judge, *more, count=120) as run:
                return run.asking.ask(0, None)["label_accuracy"]

    none, unsure = accuracy("none", "feedback.share=0"), accuracy("unsure", "feedback.share=0.2")
    anywhere = accuracy("random", "feedback.share=0.2", chosen=lambda answers, n: sorted(answers)[:n])
    assert 1 - unsure < 0.5 * (1 - none) and unsure > anywhere, (none, anywhere, unsure)


def test_what_is_refused(tmp_path, judge):
    def refuse(*more: str) -> str:
        with pytest.raises(UserError) as refused:
            words = [*flags(tmp_path, judge), "env=metaworld/drawer-open", "algo=cpl", *more]
            validate(RunSettings.parse(compose_config(*words)))
        return str(refused.value)

    assert "query.kind=pair" in refuse("query.kind=rating")
    assert "feedback@feedback.person=" in refuse("feedback@feedback.person=stored")
    assert "feedback@feedback.person=" in refuse("feedback@feedback.person=none")
    assert "feedback@feedback.model=vlm" in refuse("feedback@feedback.model=perfect")
    assert "share" in refuse("feedback.share=1.5")
    assert "feedback.person.skip" in refuse("feedback.person.skip=-1")
    assert "has no foo" in refuse("+feedback.person.foo=1")
    assert "vlm.judge=none" in refuse("vlm.judge=none")


def test_how_the_model_is_reached_makes_no_other_run(tmp_path, judge):
    def parse(*more: str) -> RunSettings:
        return RunSettings.parse(compose_config(*flags(tmp_path, judge), *more))

    assert parse().identity == parse("vlm.concurrency=2", "vlm.base_url=http://elsewhere/v1").identity
    assert parse().identity != parse("feedback.share=0.3").identity != parse("vlm.judge=pair").identity
