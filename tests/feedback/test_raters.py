"""Raters that agree, guess, press one side or are skilled: by formulas, and by simulated raters of each kind."""

import math
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from pbrl.feedback.agreement import cohen
from pbrl.feedback.labels import Selection
from pbrl.feedback.questions import Question, Value
from pbrl.feedback.raters import alpha, alphas, dawid_skene, describe, is_guessing
from pbrl.feedback.read import read
from pbrl.feedback.store.answers import Answer
from pbrl.feedback.store.progress import answers_with_questions
from pbrl.feedback.store.store import Store
from pbrl.settings import Query
from pbrl.types import Clip
from tests import toy
from tests.feedback.examples import value


def respond(
    rater: str, question: str, label: float | None, *, seconds: float = 2.0, order: tuple[int, ...] = (0, 1), **asked
) -> tuple[Answer, Question]:
    """An answer to a question, whose purpose may be another one than to learn from it."""
    answer = Answer(f"{rater} {question}", question, rater, value(label), seconds=seconds, shown={"order": order})
    return answer, Question("pair", (), **asked)


def test_cohens_kappa_by_hand():
    """Twenty yes of both, fifteen no of both, five and ten of one alone: Cohen's own kind of table gives 0.4."""
    pairs = [(1.0, 1.0)] * 20 + [(1.0, 0.0)] * 5 + [(0.0, 1.0)] * 10 + [(0.0, 0.0)] * 15
    a, b = ({str(i): pair[k] for i, pair in enumerate(pairs)} for k in (0, 1))
    assert cohen(a, b) == (pytest.approx(0.4), 50)
    assert cohen(a, a)[0] == pytest.approx(1) and cohen(a, {})[1] == 0


def test_weighted_kappa_by_hand():
    """Four ratings each: disagreements of 0, 1, 0 and 2 are squared, 1.25 on average.

    By chance, of 1, 2, 4, 5 against 1, 3, 4, 3: the 16 squared gaps add up to 0+4+9+4 + 1+1+4+1 + 9+1+0+1 + 16+4+1+4.
    """
    a, b = ({str(i): float(v) for i, v in enumerate(own)} for own in ((1, 2, 4, 5), (1, 3, 4, 3)))
    assert cohen(a, b, is_ordinal=True) == (pytest.approx(1 - 1.25 / (60 / 16)), 4)


def give(rater: str, kind: str, question: str, own: Value, clips: int = 2, **asked) -> tuple[Answer, Question]:
    """An answer to a question of a kind about clips of four steps."""
    about = Question(kind, tuple(Clip("e", i, 4) for i in range(clips)), **asked)
    return Answer(f"{rater} {question}", question, rater, own, shown={"order": list(range(clips))}), about


def spans(*parts: tuple[int, int, bool]) -> Value:
    return Value("answer", None, {"spans": [dict(zip(("start", "end", "good"), p, strict=True)) for p in parts]})


ALIKE = {  # of each kind, answers of two raters to two questions that agree, and one that does not
    "pair": (2, [value(1.0), value(0.0)], value(0.0)),
    "triplet": (3, [value(1.0), value(0.5)], value(0.0)),
    "rating": (1, [Value("answer", 4.0), Value("answer", 1.0)], Value("answer", 2.0)),
    "attributes": (2, [Value("answer", None, {"attributes": {"a": p, "b": 1.0}}) for p in (1.0, 0.0)],
                   Value("answer", None, {"attributes": {"a": 0.5, "b": 0.0}})),
    "ranking": (3, [Value("answer", None, {"tiers": t}) for t in ([[0], [1, 2]], [[2], [1], [0]])],
                Value("answer", None, {"tiers": [[1], [2], [0]]})),
    "spans": (1, [spans((0, 1, True)), spans((2, 4, False))], spans((0, 3, False))),
}  # fmt: skip


@pytest.mark.parametrize("kind", ALIKE)
def test_agreement_is_known_of_every_kind(kind):
    clips, alike, other = ALIKE[kind]
    first = [give("ada", kind, str(i), own, clips) for i, own in enumerate(alike)]
    same = [give("bob", kind, str(i), own, clips) for i, own in enumerate(alike)]
    assert alphas([*first, *same]) == {kind: pytest.approx(1.0)}
    assert describe([*first, *same])["ada"]["kappa"] == pytest.approx(1.0)
    differs = [*first, give("bob", kind, "0", other, clips), same[1]]
    assert alphas(differs)[kind] < 1 and describe(differs)["bob"]["kappa"] < 1
    assert alphas(first) == {kind: None} and describe(first)["ada"]["kappa"] is None


def test_alpha_of_ratings_and_spans_by_hand():
    """Ratings 1, 2 against 1, 3: ordinal distances by Krippendorff's (2011) sums of counts, here 1 twice, 2 and 3 once.

    d(1, 2) = (1 + 1 + 0.5 - 1.5)² = ((2 + 1) - 1.5)², d(2, 3) = (2 - 1)², d(1, 3) = (4 - 1.5)².
    Observed: 2 * d(2, 3) / 4 = 0.5. Expected: 2 (2 d12 + 2 d13 + d23) / (4 * 3) = (4.5 + 12.5 + 1) / 6 = 3.
    """
    given = {"ada": (1.0, 2.0), "bob": (1.0, 3.0)}
    ratings = [give(r, "rating", str(i), Value("answer", x), 1) for r, own in given.items() for i, x in enumerate(own)]
    assert alphas(ratings)["rating"] == pytest.approx(1 - 0.5 / 3)
    marked = [give("ada", "spans", "q", spans((0, 1, True)), 1), give("bob", "spans", "q", spans((0, 0, True)), 1)]
    # steps good good - - against good - - -: 8 values, 3 good; observed 2 / 8, expected 2 * 3 * 5 / (8 * 7)
    assert alphas(marked)["spans"] == pytest.approx(1 - (2 / 8) / (30 / 56))


def test_scores_of_scripts_and_practice_are_no_agreement():
    scores = [give(r, "rating", str(i), Value("answer", x), 1) for r in "ab" for i, x in enumerate((-3.5, 120.0, 3.25))]
    practice = [give(r, "rating", "p", Value("answer", 3.0), 1, purpose="practice") for r in "ab"]
    assert alphas([*scores, *practice]) == {"rating": None}


def test_answers_that_do_not_fit_break_no_statistic():
    """As stores of older versions hold them: `shown` that is no order, labels and details of other shapes."""
    good = [respond("ada", str(i), float(i % 2)) for i in range(4)]
    odd = [
        (replace(respond("eve", str(i), 1.0)[0], shown=shown), Question("pair", ()))
        for i, shown in enumerate(({"order": 5}, {"order": ["a", "b"]}, {"order": [0]}, {"order": {"0": 1}}, None))
    ]
    odd += [give("eve", kind, "x", own, clips) for kind, clips, own in (
        ("pair", 2, Value("answer", 7.0)), ("pair", 2, Value("answer")), ("pair", 2, Value("answer", math.nan)),
        ("ranking", 3, Value("answer", None, {"tiers": [[0.0], [1.0], [2.0]]})), ("ranking", 3, Value("answer", 1.0)),
        ("spans", 1, spans((0, 1_000_000, True))), ("attributes", 2, Value("answer", None, {"attributes": 3})),
    )]  # fmt: skip
    odd += [(replace(good[0][0], rater="eve", seconds=math.nan, question="z"), Question("mood", ()))]
    found = describe([*good, *odd])
    assert found["ada"]["answers"] == 4 and found["ada"]["left_out"] == 0
    assert (found["eve"]["answers"], found["eve"]["left_out"], found["eve"]["left"]) == (5, 8, None)
    assert found["eve"]["median_seconds"] == 2.0 and alphas([*good, *odd])["pair"] is not None
    assert set(dawid_skene([*good, *odd]).accuracy) == {"ada", "eve"}
    assert describe(odd[5:])["eve"]["answers"] == 0 and dawid_skene(odd[5:]) == ({}, {})


def test_probabilities_of_a_model_count_as_what_it_finds_likelier():
    answers = [give(r, "pair", str(q), Value("answer", p)) for q, (x, y) in enumerate(((0.9, 1.0), (0.2, 0.0)))
               for r, p in (("vlm", x), ("ada", y))]  # fmt: skip
    assert alpha(answers) == pytest.approx(1.0) and set(dawid_skene(answers).accuracy) == {"vlm", "ada"}


def test_krippendorffs_alpha_by_its_definition():
    """1 - observed / expected disagreement, from coincidences counted out (Krippendorff 2011), with gaps."""
    chance = np.random.default_rng(0)
    answers = [
        respond(f"r{r}", str(q), float(chance.choice([q % 2, q % 2, 0.5, 1 - q % 2])))
        for q in range(40)
        for r in range(4)
        if chance.random() < 0.7
    ]
    by_question: dict[str, list[float]] = {}
    for one, _ in answers:
        by_question.setdefault(one.question, []).append(one.value.label)
    coincidence: Counter = Counter()
    for values in by_question.values():
        for i, a in enumerate(values):
            for j, b in enumerate(values):
                if i != j:
                    coincidence[a, b] += 1 / (len(values) - 1)
    n = sum(coincidence.values())
    marginal: Counter = Counter()
    for (a, _), count in coincidence.items():
        marginal[a] += count
    observed = sum(c for (a, b), c in coincidence.items() if a != b) / n
    expected = sum(marginal[a] * marginal[b] for a in marginal for b in marginal if a != b) / (n * (n - 1))
    assert alpha(answers) == pytest.approx(1 - observed / expected, abs=1e-9)
    assert alpha([respond("a", "1", 1.0)]) is None
    assert alpha([respond("a", "1", 1.0), respond("b", "1", 1.0)]) == 1.0


def test_guessing_raters_are_found_soon_and_skilled_ones_are_not():
    chance = np.random.default_rng(1)
    random = [is_guessing(list(chance.random(20) < 0.5)) for _ in range(500)]
    assert np.mean([verdict is True for verdict in random]) >= 0.95
    skilled = [is_guessing(list(chance.random(60) < 0.95)) for _ in range(500)]
    assert np.mean([verdict is True for verdict in skilled]) <= 0.01
    assert is_guessing([]) is None and is_guessing([True]) is None


def test_raters_that_press_one_side():
    chance = np.random.default_rng(2)
    orders = [(0, 1) if chance.random() < 0.5 else (1, 0) for _ in range(30)]
    lazy = [respond("lazy", str(i), float(order[0]), order=order) for i, order in enumerate(orders)]
    keen = [respond("keen", str(i), float(chance.random() < 0.5), order=order) for i, order in enumerate(orders)]
    found = describe([*lazy, *keen])
    assert found["lazy"]["one_sided"] and found["lazy"]["left"] == 1.0
    assert not found["keen"]["one_sided"]


def test_gold_repeats_and_habits():
    answers = [
        respond("ada", "g", 1.0, purpose="gold", expected=1.0), respond("ada", "h", 0.0, purpose="gold", expected=1.0),
        respond("ada", "1", 1.0, seconds=1.0), respond("ada", "1m", 0.0, purpose="repeat", repeats="1", seconds=4.0),
        respond("ada", "2", 0.5), respond("ada", "2m", 1.0, purpose="repeat", repeats="2"), respond("ada", "3", None),
        respond("ada", "3m", 1.0, purpose="repeat", repeats="3"),
    ]  # fmt: skip
    found = describe(answers)["ada"]
    assert found["gold"] == 0.5 and found["guesses"] is None and found["consistent"] == 0.5
    assert found["equal"] == 1 / 8 and found["cant_tell"] == 1 / 8 and found["median_seconds"] == 2.0
    assert found["kappa"] is None


def test_dawid_and_skene_find_skilled_raters():
    """Raters of known skill, some guessing (three or more are skilled): their accuracy is estimated."""
    chance = np.random.default_rng(3)
    truth = chance.integers(0, 2, 600).astype(float)
    skill = {"ada": 0.95, "bob": 0.8, "eve": 0.75, "max": 0.5, "zoe": 0.5}
    answers = [
        respond(rater, str(q), t if chance.random() < p else 1 - t)
        for q, t in enumerate(truth)
        for rater, p in skill.items()
    ]
    found = dawid_skene(answers)
    for rater, p in skill.items():
        assert found.accuracy[rater] == pytest.approx(p, abs=0.06)
    votes = {str(q): np.mean([one.value.label for one, _ in answers[q * 5 : q * 5 + 5]]) for q in range(600)}

    def right(label) -> float:
        return float(np.mean([(label[str(q)] > 0.5) == t for q, t in enumerate(truth)]))

    assert right(found.label) >= 0.93 and right(found.label) > right(votes) + 0.05


def test_dawid_and_skene_with_equals():
    chance = np.random.default_rng(4)
    truth = chance.choice([0.0, 0.5, 1.0], 400)
    answers = [
        respond(rater, str(q), t if chance.random() < p else float(chance.choice([0.0, 0.5, 1.0])))
        for q, t in enumerate(truth)
        for rater, p in {"ada": 0.9, "bob": 0.7, "eve": 0.6}.items()
    ]
    found = dawid_skene(answers)
    is_close = np.abs(np.array([found.label[str(q)] for q in range(400)]) - truth) < 0.25
    assert is_close.mean() > 0.9 and found.accuracy["ada"] > found.accuracy["bob"] > found.accuracy["eve"]


def test_from_the_store(tmp_path):
    table = toy.table(2)
    store = Store(f"sqlite:///{tmp_path / 'answers.sqlite'}")
    clips = table.clips(np.array([1, 2, 3, 4]), 8)
    ids = store.ask([Question("pair", (clips[i], clips[i + 1]), wanted=2, position=i) for i in (0, 2)])
    for name in ("ada", "bob"):
        store.add_rater(name, "human")
    shown = {"order": [1, 0]}
    store.append([Answer(f"{r}{q}"[:36], q, r, value(1.0), shown=shown) for q in ids for r in ("ada", "bob")])
    store.append([Answer("x", ids[0], "bob", value(0.5))])
    found = answers_with_questions(store, store.register(table.ids))
    assert len(found) == 4 and found[0][0].shown == shown
    query = Query(kind="pair", count=9, rounds=1, length=8, span=2, strategy="uniform", candidates=1, per_list=1,
                  held_out=0.0, seed=0)  # fmt: skip
    plain, _ = read(store, table, query, Selection())
    one_each, _ = read(store, table, query, Selection(aggregate=True))
    assert plain.value.tolist() == [1.0, 0.5, 1.0, 1.0] and one_each.starts.tolist() == [[1, 2], [3, 4]]
    assert 0.5 < one_each.value[0] < one_each.value[1] <= 1, "where they disagree, less is known"
    assert one_each.rater.tolist() == [-1, -1] and one_each.question.tolist() == ids
    assert describe(found)["bob"]["equal"] == 0.5 and answers_with_questions(store, store.register(["another"])) == []
