"""Two cases are described and compared in words, then one line says which is better (RL-VLM-F).

Wang et al. 2024, arXiv:2402.03681. The first stage sees the pictures of both; the second reads what the first wrote,
and no picture. With `stages=1` one prompt asks for both, and its last line counts. The released code shows the pictures
in one order only; here both are asked, and averaged.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Annotated, Literal

from pbrl.feedback.questions import Question
from pbrl.ranges import Count, Range
from pbrl.vlm.asking import Outcome, ask_until, both_orders, check_asked, check_settings, judge_orders, show
from pbrl.vlm.budget import LETTERS_PER_TOKEN
from pbrl.vlm.judging import Ask, Judgement, View, fill, load_prompt
from pbrl.vlm.messages import Reply, Request
from pbrl.vlm.reading import Unreadable, read_choice, read_words

SECOND = {"1": 0.0, "first": 0.0, "one": 0.0, "2": 1.0, "second": 1.0, "two": 1.0}  # P(second) of a word
EQUAL = {"0": 0.5, "equal": 0.5, "tie": 0.5, "same": 0.5, "zero": 0.5}
CANNOT_TELL = dict.fromkeys(("?", "-1", "unsure", "unclear", "unknown", "cannot tell", "can't tell", "cant_tell"))
CHOICES = {**SECOND, **EQUAL, **CANNOT_TELL}
FIELDS = ("answer", "choice", "preferred", "preference", "better", "verdict", "result", "final_answer", "output")


@dataclass(kw_only=True)
class Pair:
    """Settings: order swap, stages, the longest description and verdict in tokens, and how often one is asked for."""

    swap: bool = True
    stages: Literal[1, 2] = 2
    max_tokens: Count = 600  # of the description
    verdict_tokens: Count = 16
    tries: Annotated[int, Range(1, 100)] = 3
    name: str = field(default="pair", init=False)
    kinds: tuple[str, ...] = field(default=("pair",), init=False)
    view: str = field(default="frame", init=False)
    wants_logprobs: bool = field(default=False, init=False)
    prompt: str = field(default="", init=False)

    def __post_init__(self):
        check_settings(self)
        self._describe, self._verdict = load_prompt("pair"), load_prompt("pair_verdict")
        if self.stages == 1:
            self._describe = load_prompt("pair_single").replace("{question}", self._describe)
        self.prompt = self._describe + (self._verdict if self.stages == 2 else "")

    async def judge(self, ask: Ask, question: Question, views: Sequence[View], task: str) -> Judgement:
        check_asked(self, question, task)
        return await judge_orders(self._ask(ask, shown, task) for shown in both_orders(views, self.swap))

    def requests(self, question: Question, views: Sequence[View], task: str) -> list[Request]:
        check_asked(self, question, task)
        shown = both_orders(views, self.swap)
        first = [self._first(pair, task) for pair in shown]
        longest = "x" * round(self.max_tokens * LETTERS_PER_TOKEN)
        return first + [self._second(longest, task) for _ in shown if self.stages == 2]

    def _first(self, views: Sequence[View], task: str) -> Request:
        parts = fill(self._describe, task=task, first=show(views[0]), second=show(views[1]))
        return Request(parts, self.max_tokens)

    def _second(self, analysis: str, task: str) -> Request:
        return Request(fill(self._verdict, task=task, analysis=analysis), self.verdict_tokens)

    async def _ask(self, ask: Ask, views: Sequence[View], task: str) -> Outcome:
        """P(second shown is better)."""
        request = self._first(views, task)
        if self.stages == 1:
            return Outcome(*await ask_until(ask, request, self._read_last, self.tries))
        analysis, why = await ask_until(ask, request, read_analysis, self.tries)
        if analysis is None:
            return Outcome(None, why)
        return Outcome(*await ask_until(ask, self._second(analysis, task), read_verdict, self.tries))

    def _read_last(self, reply: Reply) -> float | None:
        return read_choice(reply, CHOICES, names=FIELDS, first=False)


def read_analysis(reply: Reply) -> str:
    """What a model wrote of both cases. Raises Unreadable where it wrote nothing."""
    words = read_words(reply).strip()
    if not words:
        raise Unreadable("no words")
    return words


def read_verdict(reply: Reply) -> float | None:
    """P(second) in a line: 0 for 1, 1 for 2, a half for 0; None for ?. Raises Unreadable without such a line."""
    return read_choice(reply, CHOICES, names=FIELDS)


make = Pair
