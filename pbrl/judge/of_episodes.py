"""Measures of a judge that scores steps: their order within an episode, and what it makes of whole episodes."""

import numpy as np

from pbrl.judge import measures as formulas
from pbrl.judge.case import Case, Measured, Unmeasurable

FEWEST_FRAMES = 3  # of an episode whose order says anything


def value_order(case: Case) -> Measured:
    """Spearman's of score and time in episodes that succeed, up to their first success; the mean over episodes."""
    success, at = case.is_success, case.truth.succeeded_at
    assert at is not None
    cut = [own[: frame + 1] for own, frame, good in zip(case.scores, at, success, strict=True) if good]
    each = [formulas.value_order_correlation(own) for own in cut if len(own) >= FEWEST_FRAMES]
    return _mean_over_episodes(case, each, f"no episode succeeds after {FEWEST_FRAMES - 1} steps or more")


def reward_correlation(case: Case) -> Measured:
    """Spearman's of predicted and true reward of the steps of an episode; the mean over episodes."""
    true = case.truth.split(case.reward)
    if case.source.value is not None:
        raise Unmeasurable("it gives values of frames, and no rewards")
    return _mean_over_episodes(case, _correlate(case, true), "the true reward varies in no episode")


def cumulative_correlation(case: Case) -> Measured:
    """Spearman's of a frame's value and the true reward collected before it; the mean over episodes."""
    true = [np.concatenate([[0.0], np.cumsum(own)]) for own in case.truth.split(case.reward)]
    return _of_values(case, true)


def return_to_go_correlation(case: Case) -> Measured:
    """Spearman's of a frame's value and the true reward still to come, undiscounted; the mean over episodes."""
    true = [np.concatenate([np.cumsum(own[::-1])[::-1], [0.0]]) for own in case.truth.split(case.reward)]
    return _of_values(case, true)


def _of_values(case: Case, true: list[np.ndarray]) -> Measured:
    if case.source.value is None:
        raise Unmeasurable(f"it gives {case.form}, and no values of frames")
    return _mean_over_episodes(case, _correlate(case, true), "the true reward varies in no episode")


def _correlate(case: Case, true: list[np.ndarray]) -> list[float]:
    """The order correlation in each episode; NaN where the truth is constant."""
    cut = [(own[: len(t)], t[: len(own)]) for own, t in zip(case.scores, true, strict=True)]
    return [formulas.order_correlation(own, t) if len(t) >= FEWEST_FRAMES else np.nan for own, t in cut]


def _mean_over_episodes(case: Case, each: list[float], nothing: str) -> Measured:
    values = np.array([x for x in each if not np.isnan(x)])
    if not len(values):
        raise Unmeasurable(nothing)
    units = np.arange(len(values))
    return case.interval(float(values.mean()), lambda taken: values[taken].mean(), units, "episodes", 0.0)


# Measures of episodes


def kendall_tau(case: Case) -> Measured:
    """Kendall's tau-b of predicted and true return of episodes."""
    episode, score = case.episode_scores
    true = case.truth.add_up(case.reward)[episode]
    value = formulas.kendall_tau(score, true)
    if np.isnan(value):
        raise Unmeasurable("the true returns of its episodes do not differ")
    return case.interval(value, lambda taken: formulas.kendall_tau(score[taken], true[taken]), episode, "episodes", 0.0)


def spearman(case: Case) -> Measured:
    """Spearman's rank correlation of predicted and true return of episodes."""
    episode, score = case.episode_scores
    true = case.truth.add_up(case.reward)[episode]
    value = formulas.order_correlation(score, true)
    if np.isnan(value):
        raise Unmeasurable("the true returns of its episodes do not differ")
    return case.interval(
        value, lambda taken: formulas.order_correlation(score[taken], true[taken]), episode, "episodes", 0.0
    )


def failure_auc(case: Case) -> Measured:
    """P(an episode that succeeds scores higher than one that fails)."""
    episode, score = case.episode_scores
    success = case.is_success[episode]
    value = formulas.roc_auc(score, success)
    if np.isnan(value):
        raise Unmeasurable(f"all {len(success)} episodes that it scores {'succeed' if success.all() else 'fail'}")
    return case.interval(value, lambda taken: formulas.roc_auc(score[taken], success[taken]), episode, "episodes", 0.5)
