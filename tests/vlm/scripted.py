"""Models in memory: pictures that hold a number, and replies that are made from what a request shows."""

import asyncio
import math
from collections.abc import Callable, Mapping, Sequence

from pbrl.feedback.questions import Question
from pbrl.types import Clip
from pbrl.vlm.judging import Ask, Judgement, View, make_judge
from pbrl.vlm.messages import Picture, Reply, Request, Token

PNG = b"\x89P"
TASK = "open the drawer"


def picture(quality: float) -> Picture:
    return Picture(PNG + str(quality).encode())


def quality(shown: Picture) -> float:
    return float(shown.data.removeprefix(PNG))


def view(*qualities: float) -> View:
    return View(tuple(map(picture, qualities)), tuple(0.5 * i for i in range(len(qualities))))


def question(kind: str = "pair", first: int = 0) -> Question:
    return Question(kind, tuple(Clip("abc", first + 10 * i, 10) for i in range(2 if kind == "pair" else 1)))


def reply(text: str, probabilities: Mapping[str, float] | None = None, finish: str = "stop") -> Reply:
    """Words, as one token with the alternatives that `probabilities` names."""
    if probabilities is None:
        return Reply(text, finish)
    return Reply(text, finish, (token(text, probabilities),))


def token(text: str, probabilities: Mapping[str, float]) -> Token:
    listed = tuple((word, math.log(p)) for word, p in probabilities.items())
    return Token(text, dict(listed).get(text, -9999.0), listed)


def asked(answer: Callable[[Request], Reply]) -> tuple[Ask, list[Request]]:
    """A model that answers by a function, and the list of what it is asked."""
    requests: list[Request] = []

    async def ask(request: Request) -> Reply:
        requests.append(request)
        await asyncio.sleep(0)
        return answer(request)

    return ask, requests


def in_turn(*replies: Reply | str) -> Callable[[Request], Reply]:
    """Replies one after the other."""
    left = iter(replies)
    return lambda request: one if isinstance(one := next(left), Reply) else Reply(one, "stop")


def judge(
    name: str, answer: Callable[[Request], Reply], views: Sequence[View], kind: str = "pair", **settings: object
) -> Judgement:
    ask, _ = asked(answer)
    return asyncio.run(make_judge(name, **settings).judge(ask, question(kind), views, TASK))
