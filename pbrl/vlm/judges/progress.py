"""How far the task is done in each frame of a clip, the frames shown in random order (GVL).

Ma et al. 2024, arXiv:2411.04549: shuffled, because in the order of time a model just counts up. The clip's first frame
is the reference at 0 %. So progress is counted from where a clip begins: whole episodes can be rated so; of two clips
that begin at different stages, the one is preferred in which more was gained.
"""

import random
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import zip_longest
from typing import Annotated, Any

from pbrl.feedback.kinds import ANSWER, SKIP
from pbrl.feedback.questions import Question, Value
from pbrl.ranges import Count, Range, Share
from pbrl.types import UserError
from pbrl.vlm.asking import ask_until, check_asked, check_settings, check_task, gather
from pbrl.vlm.judging import Ask, Judgement, View, fill, load_prompt, pair_value, question_random
from pbrl.vlm.messages import Picture, Reply, Request
from pbrl.vlm.reading import Unreadable, read_words

HEAD = re.compile(r"\b(?:frame|picture|image)[\s_]*#?(\d+)[\s*_\"']*(?::|=|–|—|\s-\s)", re.I)  # "Frame 3:"
PERCENT = re.compile(r"(?<![\d.,+-])(\d+(?:\.\d+)?)\s*(?:%|percent)", re.I)
NUMBER = re.compile(r"[\s*_\"']*(\d+(?:\.\d+)?)[\s*_\"',;.}\]]*")
BARE_HEAD = re.compile(r"^[\s*_\"'{[]*(\d+)[\s*_\"'\]]*[:=]", re.M)  # "3:"
ROW = re.compile(r"\{[^{}]*\}")  # of JSON
ROW_FRAME = re.compile(r"\"(?:frame|frame_number|number|picture|image)\"\s*:\s*\"?(?:frame\s*)?(\d+)\"?\s*[,}]", re.I)
ROW_PERCENT = re.compile(
    r"\"(?:progress|percentage|percent|completion|task_completion|value)\"\s*:\s*(\"?\d+(?:\.\d+)?\s*%?\"?)\s*[,}]",
    re.I,
)
Progress = Sequence[float | None]  # of each frame in the order of time, 0 to 1; None where a model did not say


@dataclass(kw_only=True)
class ProgressJudge:
    """Settings: the longest reply in tokens, how often one is asked for, and how two clips are compared.

    P(second) is 1/2 + half of how much more progress the second ends with; with a `margin`, 1 or 0 beyond it and 1/2
    within.
    """

    max_tokens: Count = 1000
    tries: Annotated[int, Range(1, 100)] = 2
    margin: Share | None = None
    name: str = field(default="progress", init=False)
    kinds: tuple[str, ...] = field(default=("rating", "pair"), init=False)
    view: str = field(default="frames", init=False)
    wants_logprobs: bool = field(default=False, init=False)
    prompt: str = field(default_factory=lambda: load_prompt("progress"), init=False)

    def __post_init__(self):
        check_settings(self)

    async def judge(self, ask: Ask, question: Question, views: Sequence[View], task: str) -> Judgement:
        check_asked(self, question, task)
        generators = [question_random(question, place) for place in range(len(views))]
        found = await gather(self._ask(ask, v, task, r) for v, r in zip(views, generators, strict=True))
        kept = [None if progress is None else list(progress) for progress, _ in found]
        detail: dict[str, Any] = {"progress": kept, "outcomes": [why for _, why in found]}
        ends = [end for progress, _ in found if progress is not None and (end := progress[-1]) is not None]
        if len(ends) < len(found):
            return Judgement(Value(SKIP), detail=detail)
        if question.kind == "pair":
            return Judgement(pair_value([compare(ends[0], ends[1], self.margin)]), detail=detail)
        return Judgement(Value(ANSWER, ends[0]), detail=detail)

    def requests(self, question: Question, views: Sequence[View], task: str) -> list[Request]:
        check_asked(self, question, task)
        return [self._request(v, task, shuffle(v, question_random(question, i))) for i, v in enumerate(views)]

    async def values(self, ask: Ask, view: View, task: str, rng: random.Random) -> Progress | None:
        """Progress at each picture of an episode, for value-order correlation; None where a model does not say it."""
        check_task(task)
        return (await self._ask(ask, view, task, rng))[0]

    def _request(self, view: View, task: str, order: Sequence[int]) -> Request:
        named = {"task": task, "reference": view.pictures[0], "frames": show(view, order), "count": str(len(order))}
        return Request(fill(self.prompt, **named), self.max_tokens)

    async def _ask(self, ask: Ask, view: View, task: str, rng: random.Random) -> tuple[Progress | None, str]:
        order = shuffle(view, rng)
        return await ask_until(ask, self._request(view, task, order), partial(read_progress, order=order), self.tries)


def shuffle(view: View, rng: random.Random) -> list[int]:
    """The pictures after the first in random order. Raises UserError where there are none."""
    if len(view.pictures) < 2:
        raise UserError("vlm.judge=progress compares the frames of a clip, and sees one picture: set vlm.view=frames")
    return rng.sample(range(1, len(view.pictures)), len(view.pictures) - 1)


def show(view: View, order: Sequence[int]) -> Iterator[str | Picture]:
    """The pictures in this order, numbered from 1, without their times."""
    for number, place in enumerate(order, start=1):
        yield f"\nFrame {number}:\n"
        yield view.pictures[place]


def compare(first: float, second: float, margin: float | None) -> float:
    """P(second) of what both end with."""
    if margin is None:
        return 0.5 + (second - first) / 2
    return 0.5 if abs(second - first) <= margin else float(second > first)


def read_progress(reply: Reply, order: Sequence[int]) -> Progress:
    """The progress of all frames in the order of time, the first being 0.

    Raises Unreadable where that of the last frame is missing.
    """
    numbered = read_percentages(reply)
    found: list[float | None] = [0.0] + [None] * len(order)
    for number, place in enumerate(order, start=1):
        percent = numbered.get(number)
        found[place] = None if percent is None or percent > 100 else percent / 100
    if found[-1] is None:
        raise Unreadable(reply.text[:200])
    return found


def read_percentages(reply: Reply) -> dict[int, float]:
    """Percent by the number of the frame, from lines such as "Frame 3: 40%" or JSON.

    What was cut off is left out, and so is a frame that has several. Raises Unreadable where shares seem to be meant.
    """
    words = read_words(reply)
    if reply.finish == "length":  # "4" may have become "40%"
        words = words[: max(map(words.rfind, "\n,}"), default=0) + 1]
    texts = list(_rows(words)) or list(_segments(words, HEAD)) or list(_segments(words, BARE_HEAD))
    found: dict[int, float] = {}
    for number, text in texts:
        said = set(PERCENT.findall(text)) or set(map(_first_group, filter(None, [NUMBER.fullmatch(text)])))
        if len(said) == 1:
            found[number] = float(said.pop())
    if not PERCENT.search(words) and 0 < max(found.values(), default=0.0) <= 1:
        raise Unreadable("shares of 1, or percentages below 1")
    return found


def _first_group(match: re.Match[str]) -> str:
    return match[1]


def _segments(words: str, head: re.Pattern[str]) -> Iterator[tuple[int, str]]:
    """The number in each head, and the text up to the next one: of its line, or of its paragraph."""
    heads = list(head.finditer(words))
    for this, following in zip_longest(heads, heads[1:]):
        text = words[this.end() : following.start() if following else None]
        line = text.split("\n")[0]
        yield int(this[1]), line if re.search(r"\d", line) else re.split(r"\n\s*\n", text)[0]


def _rows(words: str) -> Iterator[tuple[int, str]]:
    """The frame and the percentage in rows such as {"frame": 1, "progress": 40}."""
    for row in ROW.findall(words):
        frame, percent = ROW_FRAME.findall(row), ROW_PERCENT.findall(row)
        if len(frame) == len(percent) == 1:
            yield int(frame[0]), percent[0]


make = ProgressJudge
