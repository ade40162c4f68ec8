"""What is to be thought of those who answer: do they agree, do they look, and how far is each to be believed.

Agreement is Krippendorff's alpha and Cohen's kappa; who guesses is found by Wald's sequential test on gold questions,
who always presses the same side by a binomial test. Dawid and Skene's model (1979) weighs raters by what they confuse.
"""

import math
from collections import defaultdict
from collections.abc import Sequence
from itertools import combinations
from typing import Any, NamedTuple

import numpy as np
from scipy.stats import binomtest

from pbrl.feedback.store.store import Store

CLASSES = (0.0, 0.5, 1.0)  # first, equal, second
SKILLED, GUESSING = 0.9, 0.5  # shares of gold questions that are answered right
FALSE_ALARM, MISSED = 0.05, 0.01  # of the sequential test, for skill of just 0.9


class Said(NamedTuple):
    """An answer that stands, with what its question was for."""

    question: str
    rater: str
    kind: str
    outcome: str
    label: float | None
    seconds: float | None
    order: tuple[int, ...]  # which clip was shown where
    purpose: str
    expected: float | None
    repeats: str | None


def said(store: Store, dataset: str) -> list[Said]:
    """All answers about a data set that stand, in the order in which they were given."""
    rows = [(row.pop("shown") or {}, row) for row in store.standing(dataset)]
    return [Said(**row, order=tuple(shown.get("order", ()))) for shown, row in rows]


def about(answers: Sequence[Said]) -> dict[str, dict[str, Any]]:
    """For each rater, what can be told from the answers; None where there is nothing to tell it from."""
    by: dict[str, list[Said]] = defaultdict(list)
    for one in answers:
        by[one.rater].append(one)
    return {rater: {**_habits(own), **_checks(own), "kappa": _kappa(rater, answers)} for rater, own in by.items()}


def _habits(own: Sequence[Said]) -> dict[str, Any]:
    pairs = [one for one in own if len(one.order) == 2 and one.label in (0.0, 1.0)]
    left = sum(one.order[0] == one.label for one in pairs)
    test = binomtest(left, len(pairs)) if pairs else None
    seconds = [one.seconds for one in own if one.seconds is not None]
    return {
        "answers": len(own),
        "median_seconds": float(np.median(seconds)) if seconds else None,
        "equal": sum(one.outcome == "tie" for one in own) / len(own),
        "cant_tell": sum(one.outcome == "skip" for one in own) / len(own),
        "left": left / len(pairs) if pairs else None,
        "one_sided": bool(test and test.pvalue < 0.001),
    }


def _checks(own: Sequence[Said]) -> dict[str, Any]:
    gold = [one.label == one.expected for one in own if one.purpose == "gold" and one.outcome != "skip"]
    first = {one.question: one.label for one in own if one.kind == "pair"}
    mirrored = [
        one.label == 1 - first[one.repeats]  # type: ignore[operator]
        for one in own
        if one.purpose == "repeat" and one.label is not None and first.get(one.repeats or "") is not None
    ]
    return {
        "gold": float(np.mean(gold)) if gold else None,
        "guesses": guesses(gold),
        "consistent": float(np.mean(mirrored)) if mirrored else None,
    }


def guesses(right: Sequence[bool]) -> bool | None:
    """Whether somebody guesses, by answers to gold questions in their order; None while it is open.

    Wald's sequential probability-ratio test of 0.5 against 0.9 right.
    """
    high, low = math.log((1 - MISSED) / FALSE_ALARM), math.log(MISSED / (1 - FALSE_ALARM))
    ratio = 0.0
    for one in right:
        ratio += math.log(GUESSING / SKILLED) if one else math.log((1 - GUESSING) / (1 - SKILLED))
        if ratio >= high or ratio <= low:
            return ratio >= high
    return None


def _kappa(rater: str, answers: Sequence[Said]) -> float | None:
    """Cohen's kappa with each of the others on the pairs that both have judged, weighed by how many those are."""
    table = labels(answers)
    found = [cohen(table[rater], table[other]) for other in table if rater in table and other != rater]
    known = [(kappa, n) for kappa, n in found if n]
    return sum(kappa * n for kappa, n in known) / sum(n for _, n in known) if known else None


def labels(answers: Sequence[Said]) -> dict[str, dict[str, float]]:
    """For each rater, what was said of each pair that was asked to learn from."""
    table: dict[str, dict[str, float]] = defaultdict(dict)
    for one in answers:
        if one.kind == "pair" and one.purpose == "learn" and one.label in CLASSES:
            table[one.rater][one.question] = one.label  # type: ignore[assignment]
    return table


def cohen(a: dict[str, float], b: dict[str, float]) -> tuple[float, int]:
    """Agreement beyond chance on what both have judged (Cohen 1960), and how many that are."""
    both = sorted(a.keys() & b.keys())
    if not both:
        return math.nan, 0
    x, y = (np.array([z[q] for q in both]) for z in (a, b))
    chance = sum(np.mean(x == c) * np.mean(y == c) for c in CLASSES)
    return (1.0 if chance == 1 else float((np.mean(x == y) - chance) / (1 - chance))), len(both)


def alpha(answers: Sequence[Said]) -> float | None:
    """Krippendorff's alpha over pairs: 1 is agreement, 0 is chance; None where no two raters have judged the same."""
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


class Believed(NamedTuple):
    """`label` of each question, P(second preferred) by what all have said; `accuracy` of each rater."""

    label: dict[str, float]
    accuracy: dict[str, float]


def dawid_skene(answers: Sequence[Said], iterations: int = 50) -> Believed:
    """What is true and who knows it, by expectation maximisation (Dawid and Skene 1979), from pairs.

    One count is added to each cell of what a rater may confuse, two where it is right, so that few answers say little.
    """
    table = labels(answers)
    raters, questions = sorted(table), sorted({q for own in table.values() for q in own})
    if not questions:
        return Believed({}, {})
    classes = sorted({label for own in table.values() for label in own.values()})  # none that nobody ever says
    votes = np.zeros((len(raters), len(questions), len(classes)))
    for r, rater in enumerate(raters):
        for q, question in enumerate(questions):
            if question in table[rater]:
                votes[r, q, classes.index(table[rater][question])] = 1
    belief = votes.sum(0) / votes.sum((0, 2))[:, None]  # [Q, C]: by majority
    confusion = np.zeros((len(raters), len(classes), len(classes)))
    for _ in range(iterations):
        share = belief.mean(0) + 1e-6
        confusion = np.einsum("qt,rqs->rts", belief, votes) + 1 + np.eye(len(classes))  # true, said
        confusion /= confusion.sum(-1, keepdims=True)
        log = np.log(share) + np.einsum("rqs,rts->qt", votes, np.log(confusion))
        belief = np.exp(log - log.max(1, keepdims=True))
        belief /= belief.sum(1, keepdims=True)
    label = belief @ np.array(classes)
    right = np.einsum("rtt,t->r", confusion, belief.mean(0))
    return Believed(dict(zip(questions, label.tolist(), strict=True)), dict(zip(raters, right.tolist(), strict=True)))
