"""Quality of raters: whether they agree, guess or prefer a side, and how reliable each is.

Agreement is Krippendorff's alpha and Cohen's kappa; raters who guess are found by Wald's sequential test on gold
questions, raters who always choose the same side by a binomial test. Dawid and Skene's model (1979) weighs raters by
their confusion matrices.
"""

import math
from collections import defaultdict
from collections.abc import Sequence
from itertools import combinations
from typing import Any, NamedTuple

import numpy as np
from scipy.stats import binomtest

from pbrl.feedback.questions import SKIP, TIE, Question
from pbrl.feedback.store.answers import Answer

CLASSES = (0.0, 0.5, 1.0)  # first, equal, second
SKILLED, GUESSING = 0.9, 0.5  # shares of gold questions that are answered right
FALSE_ALARM, MISSED = 0.05, 0.01  # of the sequential test, for skill of just 0.9


def describe(answers: Sequence[tuple[Answer, Question]]) -> dict[str, dict[str, Any]]:
    """For each rater, what can be found out from the answers; None where there is nothing to find it from."""
    by: dict[str, list[tuple[Answer, Question]]] = defaultdict(list)
    for one in answers:
        by[one[0].rater].append(one)
    return {rater: {**_habits(own), **_checks(own), "kappa": _kappa(rater, answers)} for rater, own in by.items()}


def _habits(own: Sequence[tuple[Answer, Question]]) -> dict[str, Any]:
    orders = [((answer.shown or {}).get("order", ()), _label(answer)) for answer, _ in own]
    pairs = [(order, label) for order, label in orders if len(order) == 2 and label in (0.0, 1.0)]
    left = sum(order[0] == label for order, label in pairs)
    test = binomtest(left, len(pairs)) if pairs else None
    seconds = [answer.seconds for answer, _ in own if answer.seconds is not None]
    return {
        "answers": len(own),
        "median_seconds": float(np.median(seconds)) if seconds else None,
        "equal": sum(_outcome(answer) == TIE for answer, _ in own) / len(own),
        "cant_tell": sum(_outcome(answer) == SKIP for answer, _ in own) / len(own),
        "left": left / len(pairs) if pairs else None,
        "one_sided": bool(test and test.pvalue < 0.001),
    }


def _checks(own: Sequence[tuple[Answer, Question]]) -> dict[str, Any]:
    gold = [
        _label(answer) == question.expected
        for answer, question in own
        if question.purpose == "gold" and _outcome(answer) != SKIP
    ]
    first = {answer.question: _label(answer) for answer, question in own if question.kind == "pair"}
    repeats = [
        (_label(answer), first.get(question.repeats or "")) for answer, question in own if question.purpose == "repeat"
    ]
    mirrored = [again == 1 - before for again, before in repeats if again is not None and before is not None]
    return {
        "gold": float(np.mean(gold)) if gold else None,
        "guesses": is_guessing(gold),
        "consistent": float(np.mean(mirrored)) if mirrored else None,
    }


def _label(answer: Answer) -> float | None:
    assert answer.value is not None
    return answer.value.label


def _outcome(answer: Answer) -> str:
    assert answer.value is not None
    return answer.value.outcome


def is_guessing(right: Sequence[bool]) -> bool | None:
    """Whether a rater guesses, by answers to gold questions in their order; None while it is open.

    Wald's sequential probability-ratio test of 0.5 against 0.9 right.
    """
    high, low = math.log((1 - MISSED) / FALSE_ALARM), math.log(MISSED / (1 - FALSE_ALARM))
    ratio = 0.0
    for one in right:
        ratio += math.log(GUESSING / SKILLED) if one else math.log((1 - GUESSING) / (1 - SKILLED))
        if ratio >= high or ratio <= low:
            return ratio >= high
    return None


def _kappa(rater: str, answers: Sequence[tuple[Answer, Question]]) -> float | None:
    """Cohen's kappa with each of the others on the pairs that both have answered, weighed by how many those are."""
    table = labels(answers)
    found = [cohen(table[rater], table[other]) for other in table if rater in table and other != rater]
    known = [(kappa, n) for kappa, n in found if n]
    return sum(kappa * n for kappa, n in known) / sum(n for _, n in known) if known else None


def labels(answers: Sequence[tuple[Answer, Question]]) -> dict[str, dict[str, float]]:
    """For each rater, the label of each pair that was asked to learn from."""
    table: dict[str, dict[str, float]] = defaultdict(dict)
    for answer, question in answers:
        label = _label(answer)
        if question.kind == "pair" and question.purpose == "learn" and label in CLASSES:
            table[answer.rater][answer.question] = label  # type: ignore[assignment]
    return table


def cohen(a: dict[str, float], b: dict[str, float]) -> tuple[float, int]:
    """Agreement beyond chance on what both have answered (Cohen 1960), and how many that are."""
    both = sorted(a.keys() & b.keys())
    if not both:
        return math.nan, 0
    x, y = (np.array([z[q] for q in both]) for z in (a, b))
    chance = sum(np.mean(x == c) * np.mean(y == c) for c in CLASSES)
    return (1.0 if chance == 1 else float((np.mean(x == y) - chance) / (1 - chance))), len(both)


def alpha(answers: Sequence[tuple[Answer, Question]]) -> float | None:
    """Krippendorff's alpha over pairs: 1 is agreement, 0 is chance; None where no two raters have answered the same."""
    import krippendorff

    table = labels(answers)
    questions = sorted({q for own in table.values() for q in own})
    shared = any(a.keys() & b.keys() for a, b in combinations(table.values(), 2))
    if not shared:
        return None
    data = np.array([[own.get(q, np.nan) for q in questions] for own in table.values()])
    if len(np.unique(data[~np.isnan(data)])) < 2:
        return 1.0
    return float(krippendorff.alpha(reliability_data=data, level_of_measurement="nominal"))


class Aggregate(NamedTuple):
    """`label` of each question, P(second preferred) given all answers; `accuracy` of each rater."""

    label: dict[str, float]
    accuracy: dict[str, float]


def dawid_skene(answers: Sequence[tuple[Answer, Question]], iterations: int = 50) -> Aggregate:
    """True labels and accuracies by expectation maximisation (Dawid and Skene 1979), from pairs.

    One count is added to each cell of a rater's confusion matrix, two on its diagonal, so that few answers say little.
    """
    table = labels(answers)
    raters, questions = sorted(table), sorted({q for own in table.values() for q in own})
    if not questions:
        return Aggregate({}, {})
    classes = sorted({label for own in table.values() for label in own.values()})  # only those that occur
    votes = np.zeros((len(raters), len(questions), len(classes)))
    for r, rater in enumerate(raters):
        for q, question in enumerate(questions):
            if question in table[rater]:
                votes[r, q, classes.index(table[rater][question])] = 1
    belief = votes.sum(0) / votes.sum((0, 2))[:, None]  # [Q, C]: by majority
    confusion = np.zeros((len(raters), len(classes), len(classes)))
    for _ in range(iterations):
        share = belief.mean(0) + 1e-6
        confusion = np.einsum("qt,rqs->rts", belief, votes) + 1 + np.eye(len(classes))  # true, answered
        confusion /= confusion.sum(-1, keepdims=True)
        log = np.log(share) + np.einsum("rqs,rts->qt", votes, np.log(confusion))
        belief = np.exp(log - log.max(1, keepdims=True))
        belief /= belief.sum(1, keepdims=True)
    label = belief @ np.array(classes)
    right = np.einsum("rtt,t->r", confusion, belief.mean(0))
    return Aggregate(dict(zip(questions, label.tolist(), strict=True)), dict(zip(raters, right.tolist(), strict=True)))
