"""P(second better) from the probabilities of the answer's token: P(2) / (P(1) + P(2)), both orders averaged.

A continuous label: ties are rare, and a model that is unsure says so. The comparison of two cases is that of RL-VLM-F
(Wang et al. 2024, arXiv:2402.03681); the expected preference over token probabilities is common among judges of text.
Where the server gives no log-probabilities the word counts: 0, 1 or, for a tie, a half.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Annotated

from pbrl.feedback.questions import Question
from pbrl.ranges import Count, Range
from pbrl.vlm.asking import Outcome, ask_until, both_orders, check_asked, check_settings, judge_orders, show
from pbrl.vlm.judges.pair import CHOICES, FIELDS, SECOND
from pbrl.vlm.judging import Ask, Judgement, View, fill, load_prompt
from pbrl.vlm.messages import Reply, Request
from pbrl.vlm.reading import probabilities, read_choice


@dataclass(kw_only=True)
class PairLogprob:
    """Settings: order swap, alternatives a token, the longest reply in tokens, and how often one is asked for.

    Models that think first need a larger `max_tokens`.
    """

    swap: bool = True
    top: Annotated[int, Range(1, 20)] = 20
    max_tokens: Count = 8
    tries: Annotated[int, Range(1, 100)] = 2
    name: str = field(default="pair_logprob", init=False)
    kinds: tuple[str, ...] = field(default=("pair",), init=False)
    view: str = field(default="sheet", init=False)
    wants_logprobs: bool = field(default=True, init=False)
    prompt: str = field(default_factory=lambda: load_prompt("pair_logprob"), init=False)

    def __post_init__(self):
        check_settings(self)

    async def judge(self, ask: Ask, question: Question, views: Sequence[View], task: str) -> Judgement:
        asked = self.requests(question, views, task)
        return await judge_orders(self._ask(ask, request) for request in asked)

    def requests(self, question: Question, views: Sequence[View], task: str) -> list[Request]:
        check_asked(self, question, task)
        return [
            Request(fill(self.prompt, task=task, first=show(first), second=show(second)), self.max_tokens, top=self.top)
            for first, second in both_orders(views, self.swap)
        ]

    async def _ask(self, ask: Ask, request: Request) -> Outcome:
        return Outcome(*await ask_until(ask, request, read_preference, self.tries))


def read_preference(reply: Reply) -> float | None:
    """P(second): of tokens where there are any, else of the word. Raises Unreadable where neither answers."""
    found = probabilities(reply, SECOND)
    if found is None:
        return read_choice(reply, CHOICES, names=FIELDS)
    return found[1.0] / (found[0.0] + found[1.0])


make = PairLogprob
