"""Measures of a judge that compares pairs of clips, and the curves of them."""

from collections.abc import Callable

import numpy as np

from pbrl.judge import measures as formulas
from pbrl.judge.case import Case, Group, Judged, Measured, Unmeasurable, compare

GAPS = 5  # groups of pairs, as many in each, by how far their true returns lie apart


def pair_accuracy(case: Case) -> Measured:
    """How often the clip of the higher true return is preferred; ties of the judge count half."""
    judged = case.judged
    right = formulas.is_right(judged.preferred, judged.gap)
    return case.share(right, judged.units, judged.unit, chance=0.5)


def tie_rate(case: Case) -> Measured:
    """How often neither clip is preferred, of the pairs that are not skipped, whatever is true."""
    _, preferred, units, unit = compare(case)
    kept = ~np.isnan(preferred)
    if not kept.any():
        raise Unmeasurable("it answers nothing")
    return case.share((preferred[kept] == 0.5).astype(float), units[kept], unit, chance=None)


def skip_rate(case: Case) -> Measured:
    """How often it does not answer."""
    if case.source.ratings is not None:
        value, units, unit = case.source.ratings.value, np.arange(len(case.source.ratings.value)), "ratings"
    else:
        value, (_, _, units, unit) = case.answers.preferred, compare(case)
    return case.share(np.isnan(value).astype(float), units, unit, chance=None)


def calibration_error(case: Case) -> Measured:
    """Expected calibration error of P(second preferred), in ten bins; `floor` is what a calibrated judge has."""
    judged = case.probable
    found = _of_probability(case, judged, formulas.calibration_error, chance=None)
    return found._replace(floor=formulas.calibration_floor(judged.preferred, seed=case.seed))


def brier_score(case: Case) -> Measured:
    """The mean squared error of P(second preferred)."""
    return _of_probability(case, case.probable, formulas.brier_score, chance=0.25)


def _of_probability(
    case: Case, judged: Judged, formula: Callable[[np.ndarray, np.ndarray], float], chance: float | None
) -> Measured:
    probability, outcome = judged.preferred, (judged.gap > 0).astype(float)
    return case.interval(
        formula(probability, outcome),
        lambda taken: formula(probability[taken], outcome[taken]),
        judged.units,
        judged.unit,
        chance,
    )


def position_bias(case: Case) -> Measured:
    """How much more often the clip shown first is preferred than its being better explains."""
    own = case.answers
    question = np.arange(len(own.preferred)) if own.question is None else own.question
    if own.orders is not None and (kept := np.isfinite(own.orders).all(1)).any():
        bias = formulas.position_bias_of_orders(*own.orders[kept].T)
        return case.interval(bias.mean(), lambda taken: bias[taken].mean(), question[kept], "questions", 0.0)
    if own.shown_first is None or not (own.shown_first >= 0).any():
        raise Unmeasurable("its answers do not say which clip was shown first")
    gap = formulas.difference(case.truth.returns_of(own.clips, case.reward))
    kept = ~np.isnan(own.preferred) & (own.shown_first >= 0) & (gap != 0)
    is_second = own.shown_first[kept] == 1
    preferred = np.where(is_second, own.preferred[kept], 1 - own.preferred[kept])
    better = np.where(is_second, gap[kept] > 0, gap[kept] < 0)
    value = formulas.position_bias(preferred, better) if len(better) else np.nan
    if np.isnan(value):
        raise Unmeasurable("the better clip was always shown on the same side")
    return case.interval(
        value, lambda taken: formulas.position_bias(preferred[taken], better[taken]), question[kept], "questions", 0.0
    )


# Curves


def by_gap(case: Case) -> list[Group]:
    """Pair accuracy in groups of pairs, as many in each, by how far apart their true returns lie."""
    judged = case.judged
    right = formulas.is_right(judged.preferred, judged.gap)
    places = np.array_split(np.argsort(np.abs(judged.gap), kind="stable"), min(GAPS, len(right)))
    return [_group(case, judged, right, own, float(np.median(np.abs(judged.gap[own])))) for own in places]


def by_probability(case: Case) -> list[Group]:
    """How often the second clip is better, in ten bins of P(second preferred)."""
    judged = case.probable
    place = np.minimum((judged.preferred * formulas.BINS).astype(int), formulas.BINS - 1)
    outcome = (judged.gap > 0).astype(float)
    bins = [np.flatnonzero(place == b) for b in np.unique(place)]
    return [_group(case, judged, outcome, own, float(judged.preferred[own].mean())) for own in bins]


def _group(case: Case, judged: Judged, values: np.ndarray, own: np.ndarray, x: float) -> Group:
    found = case.share(values[own], judged.units[own], judged.unit, None)
    return Group(x, float(values[own].mean()), found.low, found.high, len(own))
