"""How far raters agree beyond chance, for every kind of question: Krippendorff's alpha and Cohen's kappa.

What is compared, and how:

- pair, triplet: each question; first, equal or second, nominal
- attributes: each attribute of a question; first, equal or second, nominal
- ranking: each two clips of a question; which is better, or equal, nominal
- rating: each question; 1 to 5, ordinal for alpha, quadratic weights for kappa (Cohen 1968)
- spans: each step of a clip; good, bad or neither, nominal

Only questions that were asked to learn from count. Scripted scores that are no ratings from 1 to 5 are on a scale of
their own and left out, and there is no figure for stage marks.
"""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from itertools import combinations
from typing import Any

import numpy as np

from pbrl.feedback.kinds import LEVELS, SKIP
from pbrl.feedback.questions import Question
from pbrl.feedback.store.answers import Answer

Answered = tuple[Answer, Question]
Choices = dict[str, dict[Any, float]]  # of each rater, the value of each unit
NOMINAL = ("pair", "triplet", "attributes", "ranking", "spans")


def choices(answers: Sequence[Answered], kind: str) -> Choices:
    """For each rater, the value of each unit of questions of a kind that were asked to learn from."""
    table: Choices = defaultdict(dict)
    for answer, question in answers:
        if question.kind == kind and question.purpose == "learn" and answer.value and answer.value.outcome != SKIP:
            table[answer.rater].update(_units(answer, question))
    return table


def alphas(answers: Sequence[Answered]) -> dict[str, float | None]:
    """Krippendorff's alpha of each kind that was answered: 1 is agreement, 0 is chance.

    None where no two raters have answered the same.
    """
    kinds = dict.fromkeys(question.kind for _, question in answers)
    return {kind: _alpha(choices(answers, kind), kind) for kind in kinds}


def kappas(answers: Sequence[Answered]) -> dict[str, float]:
    """Of each rater Cohen's kappa with each of the others, weighed by how many units both have judged."""
    found: dict[str, list[tuple[float, int]]] = defaultdict(list)
    for kind in dict.fromkeys(question.kind for _, question in answers):
        table = choices(answers, kind)
        for a, b in combinations(table, 2):
            kappa, n = cohen(table[a], table[b], is_ordinal=kind not in NOMINAL)
            for rater in (a, b) if n else ():
                found[rater].append((kappa, n))
    return {rater: sum(kappa * n for kappa, n in own) / sum(n for _, n in own) for rater, own in found.items()}


def cohen(a: dict[Any, float], b: dict[Any, float], is_ordinal: bool = False) -> tuple[float, int]:
    """Agreement beyond chance on what both have judged (Cohen 1960), and how many units that are.

    Of ordinal values disagreement counts by its square (Cohen 1968).
    """
    both = [unit for unit in a if unit in b]
    if not both:
        return float("nan"), 0
    x, y = (np.array([own[unit] for unit in both]) for own in (a, b))
    values = np.unique([x, y])
    share_x, share_y = (np.mean(own[:, None] == values, axis=0) for own in (x, y))
    gap = values[:, None] - values
    cost = gap**2 if is_ordinal else (gap != 0).astype(float)
    chance = float(share_x @ cost @ share_y)
    seen = float(np.mean((x - y) ** 2 if is_ordinal else x != y))
    return (1.0 if chance == 0 else 1 - seen / chance), len(both)


def _alpha(table: Choices, kind: str) -> float | None:
    import krippendorff

    raters: dict[Any, int] = defaultdict(int)
    for own in table.values():
        for unit in own:
            raters[unit] += 1
    shared = [unit for unit, count in raters.items() if count > 1]  # others say nothing of agreement
    if not shared:
        return None
    data = np.array([[own.get(unit, np.nan) for unit in shared] for own in table.values()])
    if len(np.unique(data[~np.isnan(data)])) < 2:
        return 1.0
    level = "nominal" if kind in NOMINAL else "ordinal"
    return float(krippendorff.alpha(reliability_data=data, level_of_measurement=level))


def _units(answer: Answer, question: Question) -> Iterator[tuple[Any, float]]:
    """What an answer says, unit by unit."""
    name, kind = answer.question, question.kind
    assert answer.value is not None
    label, detail = answer.value.label, answer.value.detail or {}
    if kind in ("pair", "triplet"):
        yield name, _choice(label)
    elif kind == "attributes":
        yield from (((name, own), _choice(p)) for own, p in detail["attributes"].items() if p is not None)
    elif kind == "ranking":
        tier = {place: i for i, places in enumerate(detail["tiers"]) for place in places}
        for a, b in combinations(sorted(tier), 2):
            yield (name, a, b), 0.5 + 0.5 * float(np.sign(tier[a] - tier[b]))
    elif kind == "spans":
        judged = dict.fromkeys(range(question.length), 0.5)
        for span in detail.get("spans", []):
            judged.update(
                dict.fromkeys(range(span["start"], min(span["end"] + 1, question.length)), float(span["good"]))
            )
        yield from (((name, step), value) for step, value in judged.items())
    elif label is not None and label.is_integer() and 1 <= label <= LEVELS:
        yield name, label


def _choice(label: float | None) -> float:
    """First, equal or second: 0, 0.5 or 1. A model's probability is what it finds likelier."""
    assert label is not None
    return 0.5 + 0.5 * float(np.sign(label - 0.5))
