"""How probable the word True is after the statement that the task is done (TOPReward).

Chen et al. 2026, arXiv:2602.19313. The label of a clip is log P(True) - log P(False), that of a pair the sigmoid of
their difference; the paper takes log P(True) alone and scales it within an episode. There the word stands at the end of
a raw prompt. OpenAI's chat protocol wraps it in the model's chat template, which hurt in an ablation that we know from
a note (value-order correlation .945 raw, .500 wrapped; not measured here). A server that is started with a template
that adds nothing, or that takes one in `vlm.more`, gives the raw prompt: that is the user's choice, and `chat=true` the
only setting here.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Annotated

from pbrl.feedback.kinds import ANSWER, SKIP
from pbrl.feedback.questions import Question, Value
from pbrl.ranges import Count, Range
from pbrl.types import UserError
from pbrl.vlm.asking import ask_until, check_asked, check_settings, gather, show
from pbrl.vlm.judging import Ask, Judgement, View, fill, load_prompt, pair_value
from pbrl.vlm.messages import Reply, Request
from pbrl.vlm.reading import Unreadable, alternatives, bare_token, find_place, read_words

SPELLINGS = {"true": True, "false": False}
LEAST_LOGPROB = -20.0  # servers write -9999 for what they do not know


@dataclass(kw_only=True)
class TrueProbability:
    """Settings: `chat`, which cannot be otherwise, alternatives a token, and the longest reply in tokens."""

    chat: bool = True
    top: Annotated[int, Range(2, 20)] = 20
    max_tokens: Count = 4
    tries: Annotated[int, Range(1, 100)] = 2
    name: str = field(default="true_probability", init=False)
    kinds: tuple[str, ...] = field(default=("rating", "pair"), init=False)
    view: str = field(default="frames", init=False)
    wants_logprobs: bool = field(default=True, init=False)
    prompt: str = field(default_factory=lambda: load_prompt("true_probability"), init=False)

    def __post_init__(self):
        check_settings(self)
        if not self.chat:
            raise UserError("vlm.judge.chat=false: the chat protocol has no raw prompt; give the server a raw template")

    async def judge(self, ask: Ask, question: Question, views: Sequence[View], task: str) -> Judgement:
        asked = self.requests(question, views, task)
        found = await gather(ask_until(ask, request, read_log_odds, self.tries) for request in asked)
        detail = {"log_odds": [odds for odds, _ in found], "outcomes": [why for _, why in found]}
        said = [odds for odds, _ in found if odds is not None]
        if len(said) < len(found):
            return Judgement(Value(SKIP), detail=detail)
        if question.kind == "pair":
            return Judgement(pair_value([1 / (1 + math.exp(said[0] - said[1]))]), detail=detail)
        return Judgement(Value(ANSWER, said[0]), detail=detail)

    def requests(self, question: Question, views: Sequence[View], task: str) -> list[Request]:
        check_asked(self, question, task)
        return [Request(fill(self.prompt, task=task, clip=show(view)), self.max_tokens, top=self.top) for view in views]


def read_log_odds(reply: Reply) -> float:
    """log P(True) - log P(False); a word that is not listed counts as the least probable alternative that is.

    Raises UserError where words came without log-probabilities, Unreadable where neither word is likely.
    """
    if reply.tokens is None and read_words(reply).strip():
        raise UserError(
            f"vlm.judge=true_probability needs log-probabilities, which {reply.model or 'the server'} does not give: "
            "choose vlm.judge=progress"
        )
    place = find_place(reply, SPELLINGS, is_alone=False)
    if place is None:
        raise Unreadable(reply.text[:200])
    listed = [(bare_token(text), max(logprob, LEAST_LOGPROB)) for text, logprob in alternatives(place)]
    if len(listed) < 2:
        raise Unreadable("no alternatives")
    least = min(logprob for _, logprob in listed)
    masses = {word: sum(math.exp(lp) for text, lp in listed if text == word) for word in SPELLINGS}
    true, false = (math.log(mass) if mass else least for mass in masses.values())
    return true - false


make = TrueProbability
