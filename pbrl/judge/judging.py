"""One judge, measured: every measure that what it said allows, each with its interval, chance level and count.

truth = Truth(steps=np.array([50, 50, 50]), reward=true, succeeded_at=np.array([31, -1, 40]))
found = measure(truth, Source(reward=mine), pairs=draw_pairs(truth, length=25, count=1000, seed=0))
print(found.measures["pair_accuracy"])
"""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple, TypeVar

from pbrl.judge import of_episodes, of_pairs, of_pictures
from pbrl.judge.case import Case, Group, Measured, Unmeasurable
from pbrl.judge.evidence import Clips, Source, Truth, draw_pairs

T = TypeVar("T")
DEFAULT_PAIRS = 1000
OF_PICTURES: dict[str, Callable[[Case], Measured]] = {
    "order_effect": of_pictures.order_effect,
    "reversed_lower": of_pictures.reversed_lower,
    **{
        f"{change}_{name}": partial(measured, change=change)
        for change in ("camera", "light")
        for name, measured in {
            "true_correlation": of_pictures.changed_true_correlation,
            "episode_correlation": of_pictures.changed_episode_correlation,
            "frame_correlation": of_pictures.changed_frame_correlation,
        }.items()
    },
}
MEASURES: dict[str, Callable[[Case], Measured]] = {  # in the order in which they are shown; docs/judging.md says more
    "pair_accuracy": of_pairs.pair_accuracy,
    "voc": of_episodes.value_order,
    "reward_correlation": of_episodes.reward_correlation,
    "cumulative_correlation": of_episodes.cumulative_correlation,
    "return_to_go_correlation": of_episodes.return_to_go_correlation,
    "kendall_tau": of_episodes.kendall_tau,
    "spearman": of_episodes.spearman,
    "failure_auc": of_episodes.failure_auc,
    "calibration_error": of_pairs.calibration_error,
    "brier_score": of_pairs.brier_score,
    "position_bias": of_pairs.position_bias,
    "tie_rate": of_pairs.tie_rate,
    "skip_rate": of_pairs.skip_rate,
    **OF_PICTURES,
}


class Verdict(NamedTuple):
    """All measures by name; pair accuracy by the gap of true returns; the reliability of probabilities."""

    measures: dict[str, Measured]
    by_gap: list[Group]
    reliability: list[Group]


def measure(
    truth: Truth, source: Source, *, pairs: Clips | None = None, resamples: int = 2000, seed: int = 0
) -> Verdict:
    """Measures a source against the truth.

    `pairs` [Q, 2] are what a source of rewards or values compares (None: a thousand random pairs of clips of a quarter
    of the shortest episode); answers are about pairs of their own. `resamples` of the bootstrap are drawn by `seed`.
    Raises UserError where a source does not fit the data.
    """
    if pairs is None:
        pairs = draw_pairs(truth, length=max(1, int(truth.steps.min()) // 4), count=DEFAULT_PAIRS, seed=seed)
    case = Case(truth, source, pairs, resamples, seed)
    found = {name: _try(lambda own=own: own(case), Measured(None)) for name, own in MEASURES.items()}
    return Verdict(found, _try(lambda: of_pairs.by_gap(case), []), _try(lambda: of_pairs.by_probability(case), []))


def _try(ask: Callable[[], T], nothing: T) -> T:
    """What is asked for, or `nothing` with the reason."""
    try:
        return ask()
    except Unmeasurable as error:
        return nothing._replace(why=str(error)) if isinstance(nothing, Measured) else nothing  # type: ignore[return-value]
