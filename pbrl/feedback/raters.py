"""Quality of raters: whether they agree, guess or prefer a side, and how reliable each is.

Agreement is Krippendorff's alpha and Cohen's kappa, of every kind of question; see agreement.py. Raters who guess are
found by Wald's sequential test on gold questions, raters who always choose the same side by a binomial test. Dawid and
Skene's model (1979) weighs raters by their confusion matrices on pairs.
"""

import math
from collections import Counter
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from scipy.stats import binomtest

from pbrl.feedback import agreement
from pbrl.feedback.kinds import SKIP, TIE, is_permutation
from pbrl.feedback.limits import is_number
from pbrl.feedback.questions import Question, check_value
from pbrl.feedback.store.answers import Answer
from pbrl.types import UserError

Answered = tuple[Answer, Question]
SKILLED, GUESSING = 0.9, 0.5  # shares of gold questions that are answered right
PEOPLE = 9  # answers of a person who checks a model that are taken to have been right before any is known, to one wrong
FALSE_ALARM, MISSED = 0.05, 0.01  # of the sequential test, for skill of just 0.9


def usable(answers: Sequence[Answered]) -> list[Answered]:
    """Those that fit their questions: stores may hold others, of older versions and other programs."""
    return [one for one in answers if _fits(*one)]


def _fits(answer: Answer, question: Question) -> bool:
    if answer.value is None:
        return False
    try:
        check_value(question, answer.value)
    except UserError:
        return False
    return True


def describe(answers: Sequence[Answered]) -> dict[str, dict[str, Any]]:
    """For each rater, what can be found out from the answers; None where there is nothing to find it from.

    Answers that do not fit their questions are left out, and counted as `left_out`.
    """
    fitting = usable(answers)
    by: dict[str, list[Answered]] = {answer.rater: [] for answer, _ in answers}
    for one in fitting:
        by[one[0].rater].append(one)
    given = Counter(answer.rater for answer, _ in answers)
    kappas = agreement.kappas(fitting)
    return {
        rater: {**_habits(own), **_checks(own), "kappa": kappas.get(rater), "left_out": given[rater] - len(own)}
        for rater, own in by.items()
    }


def _habits(own: Sequence[Answered]) -> dict[str, Any]:
    choices = [(_left(answer, question), _label(answer)) for answer, question in own]
    pairs = [(left, label) for left, label in choices if left is not None and label in (0.0, 1.0)]
    chosen = sum(left == label for left, label in pairs)
    test = binomtest(chosen, len(pairs)) if pairs else None
    seconds = [answer.seconds for answer, _ in own if is_number(answer.seconds, 0)]
    return {
        "answers": len(own),
        "median_seconds": float(np.median(seconds)) if seconds else None,  # type: ignore[arg-type]
        "equal": sum(_outcome(answer) == TIE for answer, _ in own) / len(own) if own else 0.0,
        "cant_tell": sum(_outcome(answer) == SKIP for answer, _ in own) / len(own) if own else 0.0,
        "left": chosen / len(pairs) if pairs else None,
        "one_sided": bool(test and test.pvalue < 0.001),
    }


def _left(answer: Answer, question: Question) -> int | None:
    """Which of the two clips to choose from was shown at the left, 0 or 1; None where that is not known."""
    order, fixed = (answer.shown or {}).get("order"), 1 if question.kind == "triplet" else 0
    if question.kind not in ("pair", "triplet") or not is_permutation(order, 2 + fixed):
        return None
    return order[fixed] - fixed  # type: ignore[index]


def _checks(own: Sequence[Answered]) -> dict[str, Any]:
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


def alpha(answers: Sequence[Answered], kind: str = "pair") -> float | None:
    """Krippendorff's alpha over questions of a kind; None where no two raters have answered the same."""
    return agreement.alphas(usable(answers)).get(kind)


def alphas(answers: Sequence[Answered]) -> dict[str, float | None]:
    """Krippendorff's alpha of each kind of question that was answered; see agreement.py for what is compared."""
    return agreement.alphas(usable(answers))


class Aggregate(NamedTuple):
    """`label` of each question, P(second preferred) given all answers; `accuracy` of each rater."""

    label: dict[str, float]
    accuracy: dict[str, float]


def dawid_skene(answers: Sequence[Answered], iterations: int = 50, model: str | None = None) -> Aggregate:
    """True labels and accuracies by expectation maximisation (Dawid and Skene 1979), from pairs.

    One count is added to each cell of a rater's confusion matrix, two on its diagonal, so that few answers say little.
    Of raters who check a `model` it is PEOPLE on the diagonal: of two raters, their answers cannot tell who is right.
    A probability p is a vote for what it finds likelier, with weight ``|2p - 1|``; a tie of 0.5 is a vote for it.
    """
    answers = usable(answers)
    table = agreement.choices(answers, "pair")
    raters, questions = sorted(table), sorted({q for own in table.values() for q in own})
    if not questions:
        return Aggregate({}, {})
    classes = sorted({label for own in table.values() for label in own.values()})  # only those that occur
    weight = {(answer.rater, answer.question): _certainty(answer) for answer, _ in answers}
    prior = np.array([PEOPLE if model not in (None, rater) else 2 for rater in raters])  # counts on the diagonal
    added = 1 + np.einsum("r,ts->rts", prior - 1, np.eye(len(classes)))
    votes = np.zeros((len(raters), len(questions), len(classes)))
    for r, rater in enumerate(raters):
        for q, question in enumerate(questions):
            if question in table[rater]:
                votes[r, q, classes.index(table[rater][question])] = weight[rater, question]
    belief = votes.sum(0) / votes.sum((0, 2))[:, None]  # [Q, C]: by majority
    confusion = np.zeros((len(raters), len(classes), len(classes)))
    for _ in range(iterations):
        share = belief.mean(0) + 1e-6
        confusion = np.einsum("qt,rqs->rts", belief, votes) + added  # true, answered
        confusion /= confusion.sum(-1, keepdims=True)
        log = np.log(share) + np.einsum("rqs,rts->qt", votes, np.log(confusion))
        belief = np.exp(log - log.max(1, keepdims=True))
        belief /= belief.sum(1, keepdims=True)
    label = belief @ np.array(classes)
    right = np.einsum("rtt,t->r", confusion, belief.mean(0))
    return Aggregate(dict(zip(questions, label.tolist(), strict=True)), dict(zip(raters, right.tolist(), strict=True)))


def _certainty(answer: Answer) -> float:
    """How much of a vote an answer to a pair is: 1 of who chooses or calls a tie, less where p is near to a half."""
    label = _label(answer)
    return 1.0 if label is None or label == 0.5 else abs(2 * label - 1)
