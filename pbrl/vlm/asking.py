"""What all ways of judging do: check what is asked, show clips, ask in both orders, and ask again."""

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from typing import NamedTuple, TypeVar

from pbrl.feedback.questions import Question
from pbrl.ranges import check_values, hints
from pbrl.types import UserError
from pbrl.vlm.judging import Ask, Judge, Judgement, View, pair_value
from pbrl.vlm.messages import Picture, Reply, Request
from pbrl.vlm.reading import Unreadable

REPEAT_TEMPERATURE = 0.5  # of a request that is repeated, which at 0 would mostly be answered as before
SAID, UNSURE, REFUSED, UNREADABLE = "said", "unsure", "refused", "unreadable"
T = TypeVar("T")


class Outcome(NamedTuple):
    """What came of a request: a value, or None and why: unsure, refused or unreadable."""

    value: float | None
    why: str = SAID


def check_settings(judge: Judge) -> None:
    """Raises UserError where a setting of a judge is out of its range."""
    check_values(vars(judge), hints(type(judge)), "vlm.judge.")


def check_task(task: str) -> None:
    """Raises UserError where there are no words for the task."""
    if not task.strip():
        raise UserError("a model judges with respect to a task in words, and there are none: set env.instruction=…")


def check_asked(judge: Judge, question: Question, task: str) -> None:
    """Raises UserError, before anything is asked, where a judge cannot answer a question or the task is missing."""
    check_task(task)
    if question.kind not in judge.kinds:
        kinds = " and ".join(judge.kinds)
        raise UserError(f"vlm.judge={judge.name} answers questions of the kinds {kinds}, not {question.kind}")


def show(view: View) -> Iterator[str | Picture]:
    """The pictures of a clip for a prompt, each with its time where there are several."""
    for picture, time_s in zip(view.pictures, view.times_s, strict=True):
        if len(view.pictures) > 1:
            yield f"\nAt {time_s:.1f} s:\n"
        yield picture


async def gather(asked: Iterable[Awaitable[T]]) -> list[T]:
    """All at once. Where one raises, the others still come to their end, so that no reply is paid for and lost."""
    found = await asyncio.gather(*asked, return_exceptions=True)
    for one in found:
        if isinstance(one, BaseException):
            raise one
    return found  # type: ignore[return-value]


async def ask_until(ask: Ask, request: Request, read: Callable[[Reply], T], tries: int) -> tuple[T | None, str]:
    """Asks up to `tries` times for a reply that can be read: (what it says, why not).

    A refusal is final. `read` returns None where the model says that it cannot tell.
    """
    for attempt in range(tries):
        temperature = REPEAT_TEMPERATURE if attempt else request.temperature
        reply = await ask(replace(request, attempt=attempt, temperature=temperature))
        if reply.is_refused:
            return None, REFUSED
        try:
            said = read(reply)
        except Unreadable:
            continue
        return said, UNSURE if said is None else SAID
    return None, UNREADABLE


def both_orders(views: Sequence[View], swap: bool) -> list[Sequence[View]]:
    """The views of two clips as asked and, with `swap`, the other way round."""
    return [views, views[::-1]] if swap else [views]


async def judge_orders(asked: Iterable[Awaitable[Outcome]]) -> Judgement:
    """Of P(second shown is preferred) in each order of `both_orders`: the judgement of the question's own second."""
    outcomes = await gather(asked)
    said = [o.value for o in outcomes]
    orders = tuple(p if p is None or i == 0 else 1 - p for i, p in enumerate(said))
    return Judgement(pair_value(orders), orders, {"outcomes": [o.why for o in outcomes]})
