"""A model answers every comparison; people are asked about the share of them where the model is least sure.

As in PrefVLM (ROVED, 2025) and Hybrid Preferences (Miranda et al. 2024, arXiv:2410.19133), which learn where a person
is worth asking; here a formula decides:

    uncertainty = (1 - |2p - 1|) / 2 + |p_asked - p_swapped| / 2

where p is the label, P(second preferred), and the others are what the model said in each order of the clips. It is 0
for a model that is sure and says so in both orders, 1/2 where it says 0.5 in both, and 1 where it is sure of the first
clip that it is shown. An order that was asked for and not answered is a disagreement of 1. Skips, and questions that
the model has not answered, come before all others, at 2.

Where both have answered, the label is Dawid and Skene's; see `aggregate` in pbrl/feedback/read.py. Elsewhere the
model's label is kept as it is: to weigh it by the model's accuracy where it is unsure would make too little of it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from pbrl.feedback.kinds import SKIP, Value
from pbrl.feedback.labels import Selection
from pbrl.feedback.questions import Question
from pbrl.feedback.sources.context import Context
from pbrl.feedback.sources.people import People
from pbrl.feedback.sources.vlm import VLM
from pbrl.feedback.store.store import Store
from pbrl.ranges import Share
from pbrl.settings import Query
from pbrl.types import Environment, FeedbackSource, UserError

UNANSWERED = 2.0  # the uncertainty of a skip: above all others


class Routed:
    """Two sources: `model` answers everything, `person` the `share` of each round that the model is least sure of.

    For experiments a scripted teacher can be the person: `feedback@feedback.person=mistake`.
    """

    kinds: tuple[str, ...] = ("pair",)

    def __init__(self, *, model: Any, person: Any, share: Share):
        for name, part in (("model", model), ("person", person)):
            if part is None or isinstance(part, str | Mapping):
                raise UserError(f"feedback.{name} is a feedback source: choose it with feedback@feedback.{name}=…")
        if not isinstance(model, VLM):
            raise UserError("feedback.model is one that says how sure it is: feedback@feedback.model=vlm")
        self.model, self.share = model, share
        self.person: FeedbackSource = person
        self.selection = Selection(aggregate=True)

    def check(self, query: Query, env: Environment) -> None:
        """Raises UserError where either cannot answer what is asked."""
        if query.kind != "pair" or "pair" not in self.person.kinds:
            raise UserError(
                "feedback=routed is about comparisons that a model and a person both answer: query.kind=pair, and "
                "feedback@feedback.person=people, perfect or another that answers pairs"
            )
        self.model.check(query, env)
        self.person.check(query, env)

    def start(self, context: Context) -> None:
        """Starts both. Raises UserError."""
        self.store: Store = context.store
        self.model.start(context)
        self.rater = self.model.selection.rater
        if isinstance(self.person, People):
            self.person.apart = self.rater
        self.person.start(context)
        self.selection = Selection(aggregate=True, model=self.rater)

    def form(self, question: Question) -> Question:
        """The question with what people read, for the model alone at first."""
        return replace(self.model.form(self.person.form(question)), wanted=1)

    def answer(self, questions: Sequence[str]) -> None:
        """Has the model answer, hands on what it is least sure of, and waits for the person. Raises UserError."""
        handed_on = self._find_handed_on(questions)  # by this run, before it was stopped
        left = [question for question in questions if question not in handed_on]
        if left:
            self.model.answer(left)
        more = max(0, count_share(self.share, len(questions)) - len(handed_on))
        given = {answer.question: answer.value for answer in self.store.answers(left, rater=self.rater)}
        chosen = least_sure({question: given.get(question) for question in left}, more)
        self._hand_on(chosen)
        asked = [question for question in questions if question in handed_on or question in set(chosen)]
        print(f"routed  {len(asked)} of {len(questions)} questions go to people", flush=True)
        if asked:
            self.person.answer(asked)

    def _find_handed_on(self, questions: Sequence[str]) -> set[str]:
        """Those that are no longer for the model alone."""
        return {name for name, question in self.store.questions(questions).items() if question.rater_kind != "vlm"}

    def _hand_on(self, questions: Sequence[str]) -> None:
        for name, question in self.store.questions(questions).items():
            formed = self.person.form(replace(question, rater_kind=None))
            self.store.hand_on([name], formed.rater_kind, formed.wanted)

    def stop(self) -> None:
        """Stops both."""
        self.person.stop()
        self.model.stop()


def uncertainty(value: Value | None) -> float:
    """How unsure a model is of a comparison, by its answer: 0 to 1; UNANSWERED where it skipped or has not answered."""
    if value is None or value.outcome == SKIP or value.label is None:
        return UNANSWERED
    orders = ((value.detail or {}).get("vlm") or {}).get("orders") or []
    disagreement = 0.0
    if len(orders) == 2:
        asked, swapped = orders
        disagreement = 1.0 if asked is None or swapped is None else abs(asked - swapped)
    return (1 - abs(2 * value.label - 1)) / 2 + disagreement / 2


def least_sure(answers: Mapping[str, Value | None], count: int) -> list[str]:
    """The `count` questions of which the model is least sure; of equally unsure ones, those whose ids come first."""
    return sorted(answers, key=lambda question: (-uncertainty(answers[question]), question))[:count]


def count_share(share: float, count: int) -> int:
    """So many of `count` questions are a share of them, to the nearest, halves up."""
    return int(share * count + 0.5 + 1e-9)
