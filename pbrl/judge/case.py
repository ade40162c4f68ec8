"""A judge beside the truth: what its measures are made of, or why there is none.

A judge of rewards compares clips by the sums of its rewards, one of values by what a value gains over a clip, one of
ratings by the ratings; an episode as a whole it scores by its return, by the last value, by the rating of all of it.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np

from pbrl.judge import measures as formulas
from pbrl.judge.evidence import Answers, Clips, Source, Truth
from pbrl.judge.intervals import bootstrap, wilson

MOST_PAIRS = 1000  # that are made of ratings


class Unmeasurable(Exception):
    """Why a judge has no such measure."""


class Measured(NamedTuple):
    """A measure with its 95 % interval over so many units; `value` is None where there is none, and `why` says why."""

    value: float | None
    low: float | None = None
    high: float | None = None
    chance: float | None = None  # what a judge has that knows nothing
    count: int = 0
    unit: str = ""
    why: str = ""  # there is no value, or no interval
    floor: float | None = None  # of a calibration error: what a calibrated judge has by as many pairs


class Group(NamedTuple):
    """Pairs that lie near each other: where on the x axis, their share of right (or second) ones, and their number."""

    x: float
    share: float
    low: float | None
    high: float | None
    count: int


class Judged(NamedTuple):
    """Pairs whose true returns differ: the gap [Q], P(second preferred) [Q], and what they belong to [Q, k]."""

    gap: np.ndarray
    preferred: np.ndarray
    units: np.ndarray
    unit: str


@dataclass(frozen=True)
class Case:
    """A source and the truth, and what several measures need of both; raises Unmeasurable where it is not there."""

    truth: Truth
    source: Source
    pairs: Clips
    resamples: int
    seed: int

    def __post_init__(self) -> None:
        own = self.source.answers or self.source.ratings
        self.truth.check_clips(own.clips if own else self.pairs)
        if own is None:
            _ = self.scores  # refused here where they are too few

    def interval(
        self, value: float, statistic: Callable[[np.ndarray], float], units: np.ndarray, unit: str, chance: float | None
    ) -> Measured:
        """The measure with its bootstrap interval."""
        found, why = bootstrap(statistic, units, resamples=self.resamples, seed=self.seed)
        low, high = found or (None, None)
        return Measured(value, low, high, chance, len(np.unique(units)), unit, why)

    def share(self, values: np.ndarray, units: np.ndarray, unit: str, chance: float | None) -> Measured:
        """The mean of values [n] in [0, 1]; where all are 0, or all 1, with Wilson's interval of so many units."""
        found = self.interval(float(values.mean()), lambda taken: values[taken].mean(), units, unit, chance)
        if found.value in (0.0, 1.0):
            low, high = wilson(round(found.value * found.count), found.count)
            return found._replace(low=low, high=high, why="")
        return found

    @property
    def reward(self) -> np.ndarray:
        """The true reward of each step [M]."""
        if self.truth.reward is None:
            raise Unmeasurable("the true rewards of this data set are not known")
        return self.truth.reward

    @property
    def is_success(self) -> np.ndarray:
        """Which episodes succeed [N]."""
        if self.truth.is_success is None:
            raise Unmeasurable("which episodes of this data set succeed is not known")
        return self.truth.is_success

    @property
    def answers(self) -> Answers:
        """The answers to pairs."""
        if self.source.answers is None:
            raise Unmeasurable(f"it gives {self.form}, and answers no pairs")
        return self.source.answers

    @property
    def form(self) -> str:
        """What the source gives, in words."""
        return {
            "reward": "rewards of steps",
            "value": "values of frames",
            "answers": "answers to pairs",
            "ratings": "ratings of clips",
        }[self.source.form]

    @cached_property
    def scores(self) -> list[np.ndarray]:
        """The score of each step or frame, by episodes."""
        if self.source.reward is not None:
            rewards = self.truth.split(self.source.reward)
            return [own[:steps] for own, steps in zip(rewards, self.truth.steps, strict=True)]
        if self.source.value is not None:
            return self.truth.split(self.source.value)
        raise Unmeasurable(f"it gives {self.form}, and scores no steps")

    @cached_property
    def judged(self) -> Judged:
        """The pairs on which it can be right or wrong."""
        clips, preferred, units, unit = compare(self)
        gap = formulas.difference(self.truth.returns_of(clips, self.reward))
        kept = ~np.isnan(preferred) & (gap != 0)
        if not kept.any():
            raise Unmeasurable("it compares no clips whose true returns differ")
        return Judged(gap[kept], preferred[kept], units[kept], unit)

    @cached_property
    def probable(self) -> Judged:
        """The same with probabilities."""
        if self.source.ratings is not None or (self.source.answers is None and self.source.probability is None):
            raise Unmeasurable(f"it gives {self.form}, and no probabilities")
        judged = self.judged
        if np.isin(judged.preferred, (0.0, 0.5, 1.0)).all():
            raise Unmeasurable("its answers are for certain, and no probabilities")
        return judged

    @cached_property
    def episode_scores(self) -> tuple[np.ndarray, np.ndarray]:
        """The episodes that it scores as a whole [n], and their scores [n]: predicted return, last value, or rating."""
        if self.source.ratings is not None:
            clips, value = self.source.ratings.clips, self.source.ratings.value
            is_whole = (clips.first[:, 0] == 0) & (clips.length == self.truth.steps[clips.episode[:, 0]])
            kept = is_whole & ~np.isnan(value)
            if not kept.any():
                raise Unmeasurable("it rates clips, and no whole episode")
            episode, place = np.unique(clips.episode[kept, 0], return_index=True)
            return episode, value[kept][place]
        last = self.source.value is not None
        scores = [own[-1] if last else own.sum() for own in self._whole]
        return np.arange(len(scores)), np.array(scores)

    @property
    def _whole(self) -> list[np.ndarray]:
        if self.source.answers is not None:
            raise Unmeasurable("it answers pairs of clips, and scores no whole episode")
        return self.scores


def compare(case: Case) -> tuple[Clips, np.ndarray, np.ndarray, str]:
    """The pairs that a source compares, P(second preferred) (or 0, ½, 1), and the units that they belong to."""
    source, truth = case.source, case.truth
    if source.answers is not None:
        own = source.answers
        question = np.arange(len(own.clips)) if own.question is None else own.question
        return own.clips, own.preferred, question[:, None], "questions"
    if source.ratings is not None:
        clips, value = source.ratings.clips, source.ratings.value
        pair = _pair_up(clips.length, MOST_PAIRS, case.seed)
        both = Clips(clips.episode[pair, 0], clips.first[pair, 0], clips.length[pair[:, 0]])
        gap = formulas.difference(np.nan_to_num(value[pair]))
        preferred = np.where(np.isnan(value[pair]).any(1), np.nan, 0.5 + 0.5 * np.sign(gap))
        return both, preferred, pair, "ratings"
    clips = case.pairs
    if source.probability is not None:
        return clips, np.asarray(source.probability(clips), np.float64), clips.episode, "episodes"
    if source.reward is not None:
        return clips, _side(truth.returns_of(clips, np.concatenate(case.scores))), clips.episode, "episodes"
    return clips, _side(_gains(case, clips)), clips.episode, "episodes"


def _side(scores: np.ndarray) -> np.ndarray:
    return 0.5 + 0.5 * np.sign(formulas.difference(scores))


def _gains(case: Case, clips: Clips) -> np.ndarray:
    """What a value gains over each clip [Q, 2]: what comes last in it, less what comes first."""
    ends = np.minimum(
        clips.first + clips.length[:, None], np.array([len(own) - 1 for own in case.scores])[clips.episode]
    )
    value = np.concatenate(case.scores)
    opening = np.cumsum([0, *(len(own) for own in case.scores)])[clips.episode]
    return value[opening + ends] - value[opening + clips.first]


def _pair_up(length: np.ndarray, most: int, seed: int) -> np.ndarray:
    """Places [n, 2] of clips of the same length: all pairs, or `most` of them at random."""
    first, second = np.triu_indices(len(length), 1)
    same = length[first] == length[second]
    pairs = np.stack([first[same], second[same]], 1)
    if not len(pairs):
        raise Unmeasurable("no two of the clips that it rates are equally long")
    if len(pairs) > most:
        pairs = pairs[np.sort(np.random.default_rng(seed).choice(len(pairs), most, replace=False))]
    return pairs
