"""Each clip gets an absolute level from 1 to 5 (ERL-VLM): the expected level where there are log-probabilities.

Luu et al. 2025, arXiv:2506.12822. Two clips are compared by their levels: P(second) = P(its level is higher) +
P(equal) / 2, so that equal levels in words are a tie. How batches of ratings are drawn and what loss they have, which
that paper changes too, is not decided here but by the reward's training.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated

from pbrl.feedback.kinds import ANSWER, LEVELS, SKIP
from pbrl.feedback.questions import Question, Value
from pbrl.ranges import Count, Range
from pbrl.vlm.asking import ask_until, check_asked, check_settings, gather, show
from pbrl.vlm.judging import Ask, Judgement, View, fill, load_prompt, pair_value
from pbrl.vlm.messages import Reply, Request
from pbrl.vlm.reading import probabilities, read_choice

DIGITS = {str(level): level for level in range(1, LEVELS + 1)}
WORDS = dict(zip(("one", "two", "three", "four", "five"), range(1, LEVELS + 1), strict=True))
NAMES = dict(zip(("very bad", "bad", "fair", "good", "very good"), range(1, LEVELS + 1), strict=True))
OUT_OF = {f"{level}/{LEVELS}": level for level in range(1, LEVELS + 1)}
FIELDS = ("rating", "level", "score", "answer", "choice", "result")
Shares = Mapping[int, float]  # the probability of each level


@dataclass(kw_only=True)
class Rating:
    """Settings: alternatives a token, the longest reply in tokens, and how often one is asked for."""

    top: Annotated[int, Range(1, 20)] = 20
    max_tokens: Count = 8
    tries: Annotated[int, Range(1, 100)] = 2
    name: str = field(default="rating", init=False)
    kinds: tuple[str, ...] = field(default=("rating", "pair"), init=False)
    view: str = field(default="frames", init=False)
    wants_logprobs: bool = field(default=True, init=False)
    prompt: str = field(default_factory=lambda: load_prompt("rating"), init=False)

    def __post_init__(self):
        check_settings(self)

    async def judge(self, ask: Ask, question: Question, views: Sequence[View], task: str) -> Judgement:
        asked = self.requests(question, views, task)
        found = await gather(ask_until(ask, request, read_levels, self.tries) for request in asked)
        detail = {"levels": [s and expected_level(s) for s, _ in found], "outcomes": [why for _, why in found]}
        said = [shares for shares, _ in found if shares is not None]
        if len(said) < len(found):
            return Judgement(Value(SKIP), detail=detail)
        if question.kind == "pair":
            return Judgement(pair_value([higher_probability(*said)]), detail=detail)
        return Judgement(Value(ANSWER, expected_level(said[0])), detail=detail)

    def requests(self, question: Question, views: Sequence[View], task: str) -> list[Request]:
        check_asked(self, question, task)
        return [Request(fill(self.prompt, task=task, clip=show(view)), self.max_tokens, top=self.top) for view in views]


def expected_level(shares: Shares) -> float:
    """The mean level."""
    return sum(level * share for level, share in shares.items())


def higher_probability(first: Shares, second: Shares) -> float:
    """P(the second's level is higher) + P(equal) / 2, the two being drawn independently."""
    pairs = [(b > a, b == a, p * q) for a, p in first.items() for b, q in second.items()]
    return sum(both for above, _, both in pairs if above) + sum(both for _, equal, both in pairs if equal) / 2


def read_levels(reply: Reply) -> Shares:
    """The probability of each level; 1 for the one in words where there are no tokens. Raises Unreadable."""
    found = probabilities(reply, {**DIGITS, **WORDS})
    if found is None:
        return {read_choice(reply, {**DIGITS, **WORDS, **NAMES, **OUT_OF}, names=FIELDS): 1.0}
    total = sum(found.values())
    return {level: mass / total for level, mass in found.items()}


make = Rating
