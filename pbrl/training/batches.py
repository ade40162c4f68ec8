"""What learners draw their batches from: the table, and the labels that answers gave to its segments.

Five kinds of answer become comparisons. A comparison is one pair. A rating gives its segment a value, and pairs are
drawn anew from all rated segments in each batch ("dense" in CPL, arXiv:2310.13639). A ranking does so within each list.
Spans that were marked as good or bad are segments rated 1 or 0. From ratings and rankings, lists of more than two
segments are drawn in the same way. For unpaired objectives, a pair's winner is good and its loser bad, and so is what
lies above or below the mean of its list, or of all ratings. What is like what is drawn from them too: a triplet is
answered, or made of a preferred segment and two that were compared. Comparisons by several attributes are batches of
their own.
"""

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from pbrl.data.table import Table
from pbrl.feedback.labels import Labels, split
from pbrl.training.own_data import OwnData
from pbrl.training.weights import rank, scale
from pbrl.types import (
    AttributeComparisons,
    AttributeWindows,
    Comparisons,
    Segment,
    Transitions,
    UserError,
    Weighted,
    Windows,
)

NO_RATER = -1
OTHERS = 256  # segments, evenly spread over the data, that a win rate is against


class Frames(NamedTuple):
    """What is shown of a segment to a reward of pictures: `frames` of its steps (0: all), `stack` pictures of each."""

    frames: int = 0
    stack: int = 1


class Answers(NamedTuple):
    """Labels as tensors on the table's device."""

    starts: Tensor  # [Q, k] rows
    value: Tensor  # [Q] float32; of M attributes [Q, M], NaN where the answer leaves one open
    group: Tensor  # [Q] long
    rater: Tensor  # [Q] long
    confidence: Tensor  # [Q] float32

    @classmethod
    def of(cls, labels: Labels, device: torch.device) -> "Answers":
        """The labels as tensors on a device."""
        arrays = labels.starts, labels.value, labels.group, labels.rater, labels.confidence
        starts, value, group, rater, confidence = (torch.from_numpy(x).to(device) for x in arrays)
        return cls(starts, value.float(), group, rater, confidence.float())

    def __len__(self) -> int:
        return len(self.value)


class Data(OwnData):
    """What one learner draws from, on the device, with random numbers of its own `generator`.

    Of the labels a share `held_out` trains nothing; `test` has it. `length` is the number of steps of a segment that
    no rater labelled.
    """

    def __init__(self, table: Table, generator: torch.Generator, *, length: int = 1, held_out: float = 0.0):
        super().__init__(generator)
        self.table = table
        self.length, self.held_out = length, held_out
        self.labels: Labels | None = None
        self._best: dict[float, Tensor] = {}
        self._starts: Tensor | None = None
        self._windows: dict[int, Tensor] = {}  # where windows begin, by their length

    def set_labels(self, labels: Labels) -> None:
        """Draws from these labels from now on."""
        self.labels, self.length = labels, labels.length
        train, test = split(labels, self.held_out)
        self.train, self.test = (Answers.of(_comparable(part), self.table.device) for part in (train, test))
        if labels.kind == "attributes":
            return
        group, value = self.train.group.cpu(), self.train.value.double().cpu()
        count = torch.bincount(group)
        self._mean = (torch.bincount(group, value) / count).to(self.table.device)
        self._shortest = int(count[count > 0].min()) if len(count) else 0
        self._rank = rank(self.train.value, self.train.rater)
        self._decided = (self.train.value != 0.5).nonzero()[:, 0]  # [W], answers that are no ties

    # Steps

    def transitions(self, n: int, *, fraction: float = 1.0, images: bool = False) -> Transitions:
        """n steps, of the `fraction` of episodes with the highest true return."""
        return self.table.transitions(self._rows(n, fraction), images)

    def windows(self, n: int, length: int) -> Windows:
        """n windows of `length` rows, which begin at any step."""
        return self.table.windows(self._rows(n), length)

    def chunks(self, n: int, length: int, *, fraction: float = 1.0, images: bool = False) -> Segment:
        """n times `length` actions, from any step of the `fraction` of episodes with the highest true return on.

        What is observed is that of their first step alone: [n, 1, O]. The mask is 0 beyond an episode's end.
        """
        return self.table.chunks(self._rows(n, fraction), length, images)

    def attribute_windows(self, n: int, length: int) -> AttributeWindows:
        """n windows of `length` steps within an episode, with the strengths of their attributes.

        Raises UserError where no attribute model has labelled the table, or no episode is so long.
        """
        places = self._window_starts(length)
        starts = places[self._randint(len(places), n)]
        found = AttributeWindows(self.table.segments(starts, length), self.table.labels["attributes"][starts])
        return self.table.to_target(found)

    def attribute_strengths(self, length: int) -> Tensor:
        """The strengths of all such windows [N, M]. Raises UserError."""
        return self.table.to_target(self.table.labels["attributes"][self._window_starts(length)])

    def _window_starts(self, length: int) -> Tensor:
        if "attributes" not in self.table.labels:
            raise UserError("no attribute model has labelled these data: add reward=attributes query.kind=attributes")
        if length not in self._windows:
            self._windows[length] = self.table.segment_starts(length)
        return self._windows[length]

    def _rows(self, n: int, fraction: float = 1.0) -> Tensor:
        if fraction < 1 and fraction not in self._best:
            self._best[fraction] = self.table.best_rows(fraction)
        rows = self.table.rows if fraction == 1 else self._best[fraction]
        return rows[self._randint(len(rows), n)]

    # Segments that were labelled

    def comparisons(
        self, n: int, segments: int = 2, *, images: bool = False, frames: Frames | None = None
    ) -> Comparisons:
        """n pairs with P(second preferred), or n lists of more segments with the worth of each.

        With `images` they hold what a policy sees; with `frames`, the pictures that an image reward looks at.

        Raises UserError if the labels do not allow it.
        """
        return self._batch(*self._draw_compared(n, segments), images, frames)

    def comparisons_with_win_rates(self, n: int, *, images: bool = False) -> tuple[Comparisons, Tensor]:
        """n pairs with P(second preferred), and P(each of them beats any segment of the data) [n, 2].

        The second is Bradley-Terry's, by the reward that learners see; of it no offset matters, and the scale does.
        Raises UserError.
        """
        starts, label, answer = self._draw_compared(n, 2)
        others = self._segment_starts()
        others = others[torch.linspace(0, len(others) - 1, min(OTHERS, len(others)), device=others.device).long()]
        lead = self._reward_of(starts)[..., None] - self._reward_of(others)  # [n, 2, others]
        win_rate = self.table.to_target(lead.sigmoid().mean(-1))
        return self._batch(starts, label, answer, images), win_rate

    def _draw_compared(self, n: int, segments: int) -> tuple[Tensor, Tensor, Tensor]:
        """Where n lists of segments begin [n, k], their label [n] or [n, k], and the answers they are of [n] or [n, k].

        Raises UserError if the labels do not allow it.
        """
        self._check(segments)
        answers = self.train
        if self._has_pairs:
            first = self._randint(len(answers), n)
            return answers.starts[first], answers.value[first], first
        drawn = draw_from_groups(answers.group, segments, n, self.generator)
        worth = answers.value[drawn]
        return answers.starts[drawn, 0], worth if segments > 2 else order(worth), drawn

    def triplets(self, n: int, *, frames: Frames | None = None) -> Comparisons:
        """n times three segments, with P(the third is more like the first than the second is).

        They are triplets as they were answered; of a list, three with its best as the first; of pairs, a pair behind
        the winner of another one. So a preferred segment is what others should be like. Raises UserError.
        """
        answers = self.train
        self._check(3 if answers.starts.shape[1] == 1 else 1, triplets=True)
        if answers.starts.shape[1] == 1:
            drawn = draw_from_groups(answers.group, 3, n, self.generator)
            drawn = drawn.gather(1, answers.value[drawn].sort(dim=1, descending=True, stable=True).indices)
            swap = self._randint(2, n).bool()  # else the third were never the closer one
            drawn = torch.where(swap[:, None], drawn[:, [0, 2, 1]], drawn)
            return self._batch(answers.starts[drawn, 0], order(answers.value[drawn[:, 1:]]), drawn, False, frames)
        first = self._randint(len(answers), n)
        starts = answers.starts[first]
        if self._has_pairs:
            starts = torch.cat([self._winners(first)[:, None], starts], 1)
        batch = self._batch(starts, answers.value[first], first, False, frames)
        is_itself = self.table.to_target((starts[:, :1] == starts[:, 1:]).any(1))  # a winner of both pairs
        return batch._replace(confidence=batch.confidence * ~is_itself)

    def _winners(self, answer: Tensor) -> Tensor:
        """Where the winner of another pair begins, for each of these answers [n]."""
        own = torch.searchsorted(self._decided, answer)
        is_own = self._decided[own.clamp(max=len(self._decided) - 1)] == answer
        others = len(self._decided) - is_own.long()
        place = (torch.rand(len(answer), generator=self.generator, device=answer.device) * others).long()
        place = torch.minimum(place, others - 1)  # a product may round up
        other = self._decided[place + (is_own & (place >= own))]
        return self.train.starts[other, (self.train.value[other] > 0.5).long()]

    def marked(self, n: int, *, images: bool = False, frames: Frames | None = None) -> Comparisons:
        """n times two segments with how good each is [n, 2]: 1, 0, or 0.5 for neither good nor bad.

        Of pairs, the winner and the loser; else what lies above and below the mean of its list.
        """
        self._check(2)
        answers = self.train
        if self._has_pairs:
            first = self._randint(len(answers), n)
            second = answers.value[first]
            return self._batch(answers.starts[first], torch.stack([1 - second, second], 1), first, images, frames)
        drawn = draw_from_groups(answers.group, 2, n, self.generator)
        good = 0.5 * (1 + torch.sign(answers.value[drawn] - self._mean[answers.group[drawn]])).float()
        return self._batch(answers.starts[drawn, 0], good, drawn, images, frames)

    def attribute_comparisons(self, n: int) -> AttributeComparisons:
        """n pairs with P(the second has more) of each attribute. Raises UserError if no answer is about attributes."""
        if self.labels is not None and self.labels.kind != "attributes":
            raise UserError(f"these answers are of kind={self.labels.kind}, and attributes are learnt from attributes")
        self._check_any()
        drawn = self._randint(len(self.train), n)
        pairs = self._batch(self.train.starts[drawn], self.train.value[drawn], drawn, False)
        label = pairs.label.nan_to_num(0.5)
        return AttributeComparisons(
            pairs.segments, label, (~pairs.label.isnan()).float(), pairs.rater, pairs.confidence
        )

    @property
    def _has_pairs(self) -> bool:
        return self.train.starts.shape[1] == 2

    def _check(self, segments: int, triplets: bool = False) -> None:
        if self.labels is not None and self.labels.kind == "triplet" and not triplets:
            raise UserError(
                "triplets say what is alike, and not what is good: reward=rapl learns from them, and all else from "
                "query.kind=pair, rating or ranking"
            )
        if self.labels is not None and self.labels.kind == "attributes":
            raise UserError(
                f"answers about several attributes ({', '.join(self.labels.attributes)}) are for reward=attributes; by "
                "one of them, answers that are stored compare: feedback=stored feedback.attribute=… query.kind=pair"
            )
        self._check_any()
        if triplets and self._has_pairs and len(self._decided) < 2:
            raise UserError("a triplet is made of two comparisons, and fewer are no ties: ask more (query.count)")
        if segments > 2 and self._has_pairs:
            raise UserError("the objective learns from lists: query.kind=ranking or rating")
        if segments > 2 and self._shortest < segments:
            raise UserError(
                f"{'a triplet takes 3' if triplets else f'objective.segments={segments}'}, but a list holds "
                f"{self._shortest} segments to learn from: {'' if triplets else 'lower it, or '}ask more (query.count, "
                "query.per_list)"
            )

    def _check_any(self) -> None:
        if self.labels is None or len(self.train) < (1 if self.train.starts.shape[1] > 1 else 2):
            raise UserError(
                "there are no usable answers to learn from: every question is open, was skipped, taken back, or held "
                "out (query.held_out), or no list has two segments left; ask more (query.count), or answer some"
            )

    def rated(self, n: int, *, above: float | None = None, images: bool = False) -> Weighted:
        """n steps of rated segments, weighted by the rank of the rating and the answer's confidence, 1 in the mean.

        A rank is among the same rater's ratings, from 0 for the lowest to 1 for the highest. With `above` only steps of
        segments whose rank is higher are drawn, and weighted by confidence alone. Raises UserError if none is.
        """
        self._check(1)
        if self._has_pairs:
            raise UserError("steps are weighed by ratings of segments: query.kind=rating")
        answers, ranks = self.train, self._rank
        kept = torch.arange(len(answers), device=ranks.device) if above is None else (ranks > above).nonzero()[:, 0]
        weight = scale((answers.confidence * (ranks if above is None else 1.0))[kept])
        drawn = self._randint(len(weight), n)
        rows = answers.starts[kept[drawn], 0] + self._randint(self.length, n)
        return Weighted(self.table.transitions(rows, images), self.table.to_target(weight[drawn]))

    # Segments from anywhere in the data

    def unlabelled(self, n: int, *, images: bool = False) -> Comparisons:
        """n pairs of any segments in the data, which no rater compared: their label is a tie."""
        starts = self._anywhere(n, 2)
        return self._batch(starts, torch.full((n,), 0.5, device=self.table.device), None, images)

    def labelled_by_reward(self, n: int, segments: int = 2, *, images: bool = False) -> Comparisons:
        """n pairs or lists of any segments in the data, compared by the reward that learners see."""
        starts = self._anywhere(n, segments)
        worth = self._reward_of(starts)
        return self._batch(starts, worth if segments > 2 else order(worth), None, images)

    def marked_by_reward(self, n: int, *, images: bool = False) -> Comparisons:
        """n times two of any segments, good where their reward is above the mean of the data."""
        starts = self._anywhere(n, 2)
        mean = self.length * self.table.labels["reward"].mean()
        return self._batch(starts, 0.5 * (1 + torch.sign(self._reward_of(starts) - mean)), None, images)

    def _anywhere(self, n: int, segments: int) -> Tensor:
        starts = self._segment_starts()
        return starts[self._randint(len(starts), n, segments)]

    def _segment_starts(self) -> Tensor:
        if self._starts is None:
            self._starts = self.table.segment_starts(self.length)
        return self._starts

    def _reward_of(self, starts: Tensor) -> Tensor:
        return self.table.labels["reward"][self.table.segment_rows(starts, self.length)].sum(-1)

    def _batch(
        self, starts: Tensor, label: Tensor, answer: Tensor | None, images: bool, frames: Frames | None = None
    ) -> Comparisons:
        """Comparisons of the segments at `starts` [n, k]; `answer` [n] or [n, k] are the answers they are of."""
        if frames is None:
            segments = self.table.segments(starts, self.length, images)
        else:
            segments = self.table.picture_segments(starts, self.length, **frames._asdict(), generator=self.generator)
        if answer is None:
            rater = torch.full_like(starts[:, 0], NO_RATER)
            confidence = torch.ones(len(starts), device=starts.device)
        else:
            rater, confidence = self.train.rater[answer], self.train.confidence[answer]
            if answer.ndim == 2:  # of values by the same rater or not, as sure as both are together
                rater, confidence = rater[:, 0], confidence.prod(1)
        return self.table.to_target(Comparisons(segments, label, rater, confidence))


def _comparable(labels: Labels) -> Labels:
    """The labels without segments that are alone in their list: nothing is left to compare those with."""
    if labels.kind in ("pair", "attributes", "triplet") or not labels.size:
        return labels
    return labels.take(np.bincount(labels.group)[labels.group] > 1)


def order(worth: Tensor) -> Tensor:
    """P(second preferred) [n] of pairs that are worth [n, 2]."""
    return 0.5 * (1 + torch.sign(worth[:, 1] - worth[:, 0])).float()


def draw_from_groups(group: Tensor, segments: int, n: int, generator: torch.Generator) -> Tensor:
    """Places [n, segments] of distinct answers, those of a row being of one group; `group` [Q] is sorted."""
    first = torch.randint(len(group), (n,), generator=generator, device=group.device)
    begins = torch.searchsorted(group, group[first])
    length = torch.searchsorted(group, group[first], right=True) - begins
    steps: list[Tensor] = [torch.zeros_like(first)]  # ahead of the first, around the list
    for taken in range(1, segments):
        left = length - taken
        step = (torch.rand(n, generator=generator, device=group.device) * left).long()
        step = torch.minimum(step, left - 1)  # a product may round up
        for other in torch.stack(steps).sort(0).values:  # counts those not taken yet
            step = step + (step >= other)
        steps.append(step)
    return (begins + (first - begins + torch.stack(steps)) % length).T
