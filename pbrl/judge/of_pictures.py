"""Measures of a judge that reads pictures: whether the order of a video matters to it, and the camera or the light."""

import numpy as np

from pbrl.judge import measures as formulas
from pbrl.judge.case import Case, Measured, Unmeasurable
from pbrl.judge.of_episodes import FEWEST_FRAMES

NO_PICTURES = "it is no run's reward of pictures, which others could be shown to"
ORDER_BLIND = "it scores single frames: a video and its reverse have the same score"


def order_effect(case: Case) -> Measured:
    """How much lower videos score when reversed, in standard deviations of the score over all episodes; the mean.

    Glass's delta of the score, over good episodes: those that succeed, or the better half where none is known to.
    """
    score, lost = _reverse(case)
    good = np.flatnonzero(_is_good(case))

    def effect(taken: np.ndarray) -> float:
        spread, kept = score[taken].std(), lost[taken[np.isin(taken, good)]]
        return float(kept.mean() / spread) if len(kept) and spread else np.nan

    every = np.arange(len(score))
    value = effect(every)
    if np.isnan(value):
        raise Unmeasurable("its scores of episodes do not differ")
    return case.interval(value, effect, every, "episodes", 0.0)._replace(count=len(good))


def reversed_lower(case: Case) -> Measured:
    """The share of good episodes that score lower when reversed, ties counting half."""
    lost = _reverse(case)[1][_is_good(case)]
    return case.share(0.5 + 0.5 * np.sign(lost), np.arange(len(lost)), "episodes", 0.5)


def changed_true_correlation(case: Case, change: str) -> Measured:
    """Spearman's of the return predicted from changed pictures and the true return, over episodes."""
    return _correlate_episodes(case, case.truth.add_up(_changed(case, change)), case.truth.add_up(case.reward))


def changed_episode_correlation(case: Case, change: str) -> Measured:
    """Spearman's of the returns predicted from changed and from original pictures, over episodes."""
    changed = case.truth.add_up(_changed(case, change))
    return _correlate_episodes(case, changed, np.array([own.sum() for own in case.scores]))


def changed_frame_correlation(case: Case, change: str) -> Measured:
    """Spearman's of the rewards of changed and of original pictures within an episode; the mean over episodes."""
    pairs = zip(case.truth.split(_changed(case, change)), case.scores, strict=True)
    each = [formulas.order_correlation(own, old) for own, old in pairs if len(old) >= FEWEST_FRAMES]
    values = np.array([x for x in each if not np.isnan(x)])
    if not len(values):
        raise Unmeasurable("its reward varies in no episode")
    return case.interval(float(values.mean()), lambda t: values[t].mean(), np.arange(len(values)), "episodes", 0.0)


def _correlate_episodes(case: Case, score: np.ndarray, other: np.ndarray) -> Measured:
    value = formulas.order_correlation(score, other)
    if np.isnan(value):
        raise Unmeasurable("the returns of its episodes do not differ")
    return case.interval(
        value, lambda t: formulas.order_correlation(score[t], other[t]), np.arange(len(score)), "episodes", 0.0
    )


def _changed(case: Case, change: str) -> np.ndarray:
    if case.source.visual is None and not case.source.changed_reward:
        raise Unmeasurable(NO_PICTURES)
    if change not in case.source.changed_reward:
        raise Unmeasurable(f"changes=[{change}] renders what it takes")
    return case.source.changed_reward[change]


def _reverse(case: Case) -> tuple[np.ndarray, np.ndarray]:
    """The return that is predicted of each episode [N], and how much less its reverse has [N]; 0 by rounding alone."""
    if case.source.reversed_reward is None:
        raise Unmeasurable(NO_PICTURES if case.source.visual is None else ORDER_BLIND)
    score = np.array([own.sum() for own in case.scores])
    backwards = case.truth.add_up(case.source.reversed_reward)
    return score, formulas.difference(np.stack([backwards, score], 1))


def _is_good(case: Case) -> np.ndarray:
    """Episodes [N] whose reverse is worse: those that succeed, or those of at least the median true return."""
    if case.truth.is_success is not None and case.truth.is_success.any():
        return case.truth.is_success
    returns = case.truth.returns
    if returns is None:
        raise Unmeasurable("which episodes are good is not known")
    return returns >= np.median(returns)
