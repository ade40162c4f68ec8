"""Scripted teachers: they know the true reward and answer as people might, all questions at once.

The six of B-Pref (Lee et al. 2021, arXiv:2111.03026) are one teacher with its dials turned: perfect (beta = inf),
Boltzmann (beta), myopic (gamma), mistake (epsilon), skip and equal (thresholds). Thresholds are shares of the mean
return of a segment in the data; the released code multiplies by the share twice from its second session on.
With `criterion="regret"` a segment is scored by its advantage under a reference value, as in CPL (arXiv:2310.13639,
D.2): V(end) - V(start) + sum of rewards.

Of attributes (`query.kind=attributes`) a segment has what its environment measures, as the mean over its steps. Gaps
are then in standard deviations over the data's segments: `beta` and `equal` are about those. Each attribute is answered
by itself; where a segment has none of it, as a stride before the second step, the teacher can't tell. Triplets that
name attributes are answered by the distance over all of them.
"""

import hashlib
import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import groupby
from typing import Any

import numpy as np
import torch

from pbrl.data.measured import Measured, mean_over, measure_table
from pbrl.data.table import Table
from pbrl.feedback.kinds import KINDS, word_likeness
from pbrl.feedback.labels import Selection
from pbrl.feedback.questions import ANSWER, SKIP, TIE, Question, Value, identity
from pbrl.feedback.sources.context import Context
from pbrl.feedback.sources.reference import Reference, check_settings
from pbrl.feedback.store.answers import Answer
from pbrl.ranges import NotNegative, NotNegativeOrInfinite, Seed, Share
from pbrl.settings import Query
from pbrl.types import Environment, UserError


class Teacher:
    """Answers pairs with P(second preferred), by the reward or by attributes, single segments with a score, and
    triplets with P(third more alike): two segments are alike where their scores, or their attributes, are close.

    `reference` are the settings of the policy that a regret is relative to; see sources/reference.py.
    """

    kinds: tuple[str, ...] = ("pair", "rating", "attributes", "triplet")
    attributes: Sequence[str] = ()  # that it is asked about
    measured: Measured  # all that its environment measures, of each row, where it is asked about attributes
    value: Callable[[np.ndarray], np.ndarray]  # rows [...] → reference values [...], of a teacher that scores by regret

    def __init__(
        self,
        *,
        criterion: str,
        discount: Share,
        beta: NotNegativeOrInfinite,
        gamma: float,
        mistake: float,
        skip: NotNegative,
        equal: NotNegative,
        seed: Seed,
        reference: dict[str, Any] | None,
    ):
        if criterion not in ("return", "regret"):
            raise UserError(f"feedback.criterion={criterion}: it is return or regret")
        for name, value in (("mistake", mistake), ("gamma", gamma)):
            if not 0 <= value <= 1:
                raise UserError(f"feedback.{name} lies in [0, 1], not at {value}")
        if criterion == "regret" and not (0 <= discount < 1 and gamma == 1):
            raise UserError("feedback.criterion=regret takes feedback.discount in [0, 1) and feedback.gamma=1")
        self.criterion, self.discount, self.beta, self.gamma = criterion, discount, beta, gamma
        self.mistake, self.skip, self.equal, self.seed = mistake, skip, equal, seed
        self.reference = reference if criterion == "regret" else None
        self.rater = f"scripted-{identity(self.dials)[:8]}"  # other dials are another rater
        self.selection = Selection(rater=self.rater)

    @property
    def dials(self) -> dict[str, Any]:
        """All settings, as JSON holds them."""
        names = ("criterion", "discount", "beta", "gamma", "mistake", "skip", "equal", "seed", "reference")
        return {name: str(x) if (x := getattr(self, name)) == math.inf else x for name in names}

    # A feedback source

    def check(self, query: Query, env: Environment) -> None:
        """Raises UserError where the teacher cannot answer what is asked, or not in an environment like this."""
        if query.kind == "spans":
            raise UserError("scripted teachers mark no spans: feedback=people, or feedback=stored")
        if query.kind == "rating" and not (self.beta == math.inf and self.mistake == self.equal == 0):
            raise UserError(
                "feedback.beta, feedback.mistake and feedback.equal are about comparisons: choose query.kind=pair, or "
                "a teacher that is always right"
            )
        if query.attributes:
            self._check_attributes(query.attributes or (), env)
        if self.reference is None:
            return
        check_settings(self.reference)
        if not self.reference["policy"] and env.expert is None:
            raise UserError(
                "feedback=regret needs a scripted expert, which this environment has not: choose feedback=perfect, or "
                "reference.policy=<run folder>"
            )

    def _check_attributes(self, names: Sequence[str], env: Environment) -> None:
        if self.criterion != "return" or self.skip:
            raise UserError(
                "feedback.criterion=regret and feedback.skip are about rewards: of attributes choose feedback=perfect, "
                "mistake, boltzmann, myopic or equal"
            )
        known, unknown = ", ".join(env.attributes), [name for name in names if name not in env.attributes]
        if not known:
            raise UserError(
                f"{env.name or 'this environment'} measures no attributes, which a scripted teacher answers by: choose "
                "feedback=people"
            )
        if unknown:
            raise UserError(
                f"query.attributes: {env.name or 'this environment'} measures no {', '.join(unknown)}; it measures "
                f"{known}. Other words are for feedback=people"
            )

    def start(self, context: Context) -> None:
        """Makes the teacher known to the store as a rater. Raises UserError."""
        self.store, self.table = context.store, context.table
        self.store.add_rater(self.rater, "script", self.dials)
        self.attributes = context.query.attributes or ()
        if self.attributes:
            workers = context.experts or context.workers
            if workers is None:
                raise UserError("attributes are measured by an environment, and there is none: start train.py env=…")
            self.measured = measure_table(context.table, workers, context.data_dir)
        if self.reference is not None:
            self.value = self._values(context, self.reference)

    def _values(self, context: Context, reference: dict[str, Any]) -> Callable[[np.ndarray], np.ndarray]:
        workers = context.workers if reference["policy"] else context.experts
        if workers is None:
            raise UserError("feedback=regret rolls a policy out, and there is no environment: choose feedback=perfect")
        settings = {"dataset": context.dataset, "folder": context.data_dir, "discount": self.discount, **reference}
        return Reference(context.table, workers, **settings).values

    def form(self, question: Question) -> Question:
        """The question as it is, with the attributes that it asks about: a script reads no other wording."""
        if question.kind == "triplet" and self.attributes:  # another question than by the return
            return replace(question, wording=KINDS["triplet"].wording({"text": word_likeness(self.attributes)}))
        if question.kind != "attributes":
            return question
        return replace(question, wording=KINDS["attributes"].wording({"attributes": list(self.attributes)}))

    def answer(self, questions: Sequence[str]) -> None:
        """Answers those of these questions of the store that this teacher has not answered yet, at once."""
        known = {answer.question for answer in self.store.answers(questions, rater=self.rater)}
        asked = self.store.questions([question for question in questions if question not in known])
        by_form = sorted(asked, key=lambda name: (len(asked[name].clips), asked[name].length))
        for (_, length), names in groupby(by_form, key=lambda name: (len(asked[name].clips), asked[name].length)):
            ids = list(names)
            rows = [[self.table.row(clip) for clip in asked[name].clips] for name in ids]
            starts = torch.tensor(rows, device=self.table.device)
            values = self._values_of(ids, starts, length)
            answers = [
                Answer(identity("answer", name, self.rater), name, self.rater, value)
                for name, value in zip(ids, values, strict=True)
            ]
            self.store.append(answers)

    def _values_of(self, questions: Sequence[str], starts: torch.Tensor, length: int) -> list[Value]:
        """The answers to questions about the segments at `starts` [Q, k]."""
        if not self.attributes or starts.shape[1] == 3:
            decide = self.label_likeness if self.attributes else self.label
            label, outcome = decide(self.table, starts, length, chance(self.seed, questions))
            return [Value(str(o), None if np.isnan(x) else float(x)) for x, o in zip(label, outcome, strict=True)]
        labels = {
            name: self.label_attribute(
                self.table, self.measured[name], starts, length, chance(self.seed, [f"{q} {name}" for q in questions])
            )
            for name in self.attributes
        }
        values = []
        for i in range(len(questions)):
            own = {name: None if np.isnan(label[i]) else float(label[i]) for name, label in labels.items()}
            knows = any(label is not None for label in own.values())
            values.append(Value(ANSWER, None, {"attributes": own}) if knows else Value(SKIP))
        return values

    def stop(self) -> None:
        """Nothing is left to end."""

    # Formulas

    def label_attribute(
        self, table: Table, measured: np.ndarray, starts: torch.Tensor, length: int, uniform: np.ndarray
    ) -> np.ndarray:
        """What is measured of each row [R] → P(second has more of it) at starts [Q, 2]: [Q], NaN if it can't tell.

        `uniform` as of `label`.
        """
        strength = self.strengths(table, measured, starts, length)  # [Q, 2]
        gap = strength[:, 1] - strength[:, 0]
        label, _ = self.choose(gap, self.equal, uniform)
        return np.where(np.isnan(gap), np.nan, label)

    def label_likeness(
        self, table: Table, starts: torch.Tensor, length: int, uniform: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """As `label` of triplets at starts [Q, 3], by their Euclidean distances over all attributes in standard
        deviations; what a segment has none of makes it skip."""
        strength = np.stack([self.strengths(table, self.measured[a], starts, length) for a in self.attributes], -1)
        away = np.linalg.norm(strength[:, 1:] - strength[:, :1], axis=-1)  # [Q, 2]
        gap = away[:, 0] - away[:, 1]
        label, tie = self.choose(gap, self.equal, uniform)
        outcome = np.where(np.isnan(gap), SKIP, np.where(tie, TIE, ANSWER))
        return np.where(np.isnan(gap), np.nan, label), outcome

    def strengths(self, table: Table, measured: np.ndarray, starts: torch.Tensor, length: int) -> np.ndarray:
        """What is measured of each row [R] → the mean over segments [...], in standard deviations over the data's."""
        recency = self.gamma ** np.arange(length - 1, -1, -1)
        apart = table.segment_rows(table.separate_starts(length), length).cpu().numpy()  # a sample of all segments
        spread = float(np.nanstd(mean_over(measured, apart, recency)))
        return mean_over(measured, table.segment_rows(starts, length).cpu().numpy(), recency) / (spread or 1.0)

    def choose(self, gap: np.ndarray, close: float, uniform: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """By how much the second is better [Q] → P(second preferred) [Q], and whether it is a tie [Q] bool."""
        probability = (
            np.where(gap == 0, 0.5, gap > 0)
            if np.isinf(self.beta)
            else 1 / (1 + np.exp(-np.clip(self.beta * gap, -700, 700)))
        )
        label = (uniform[:, 0] < probability).astype(np.float64)
        label = np.where(uniform[:, 1] < self.mistake, 1 - label, label)
        tie = (np.abs(gap) < close) | (gap == 0)
        return np.where(tie, 0.5, label), tie

    def label(
        self, table: Table, starts: torch.Tensor, length: int, uniform: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """starts [Q, 1], [Q, 2] or [Q, 3] → label [Q] (NaN where skipped) and outcome [Q] of "answer", "tie", "skip".

        `uniform` [Q, 2] are random numbers in [0, 1): the first decides a Boltzmann teacher's choice, the second
        whether it is a mistake.
        """
        score = self.scores(table, starts, length)  # [Q, k]
        outcome = np.full(len(score), ANSWER, object)
        skipped = self.skips(table, starts, length, score)
        if score.shape[1] == 1:
            outcome[skipped] = SKIP
            return np.where(skipped, np.nan, score[:, 0]), outcome
        gap = score[:, 1] - score[:, 0]
        if score.shape[1] == 3:  # how much closer the third is to the first than the second is
            gap = np.abs(gap) - np.abs(score[:, 2] - score[:, 0])
        label, tie = self.choose(gap, self.equal * self.scale(table, length), uniform)
        outcome[tie] = TIE
        label[skipped], outcome[skipped] = np.nan, SKIP
        return label, outcome

    def skips(self, table: Table, starts: torch.Tensor, length: int, score: np.ndarray) -> np.ndarray:
        """Which questions [Q] are skipped: all their segments' returns are below a share `skip` of the mean.

        With regret it is the reference policy's return from their starts that counts: where nothing can be won nothing
        can be lost, so hopeless segments have no regret.
        """
        if self.skip <= 0:
            return np.zeros(len(score), bool)
        worth, mean = score, length * float(table.returns.sum() / table.steps.sum())
        if self.criterion == "regret":
            worth = self.value(starts.cpu().numpy())
            mean = float(worth.mean())
        if mean <= 0:
            raise UserError(f"feedback.skip is a share of the mean return, and that is not positive here ({mean:.3g})")
        return worth.max(1) < self.skip * mean

    def scores(self, table: Table, starts: torch.Tensor, length: int) -> np.ndarray:
        """The score by which segments are compared [Q, k] float64: their return, or regret. Not finite: UserError."""
        rows = table.segment_rows(starts, length)
        reward = table.reward[rows].double().cpu().numpy()
        recency = self.gamma ** np.arange(length - 1, -1, -1)  # a myopic teacher remembers the end best
        score = (reward * recency).sum(-1)
        if self.criterion == "regret":
            value = self.value(torch.stack([starts, starts + length]).cpu().numpy())
            discounts = self.discount ** np.arange(length)
            alive = 1 - table.done[rows].amax(-1).double().cpu().numpy()  # nothing follows a true terminal
            score = (reward * discounts).sum(-1) + alive * self.discount**length * value[1] - value[0]
        self._check_finite(table, starts, score)
        return score

    def _check_finite(self, table: Table, starts: torch.Tensor, score: np.ndarray) -> None:
        """Raises UserError where a score is no finite number: every comparison with it would be false."""
        wrong = ~np.isfinite(score)
        if wrong.any():
            row = int(starts.cpu().numpy()[wrong][0])
            episode = int(table.episode[row])
            raise UserError(
                f"the {self.criterion} of the segment of episode {episode} from step {row - int(table.first[episode])} "
                f"on is {score[wrong][0]}: a scripted teacher cannot compare it; mend the rewards"
            )

    def scale(self, table: Table, length: int) -> float:
        """The mean return of a segment of this length in the data: what the thresholds are shares of."""
        return abs(float(table.returns.sum() / table.steps.sum())) * length


def chance(seed: int, questions: Sequence[str]) -> np.ndarray:
    """Two random numbers in [0, 1) for each question, by its id and the seed alone: [Q, 2]."""
    digests = [hashlib.sha256(f"{seed} {question}".encode()).digest()[:16] for question in questions]
    return np.frombuffer(b"".join(digests), "<u8").reshape(-1, 2) / 2.0**64
