"""An answer's way in: what the page sends is checked against its question and its rater before anything is queued."""

import asyncio
from typing import Any, Literal

from fastapi import HTTPException
from pydantic import AliasChoices, AwareDatetime, BaseModel, ConfigDict, Field
from starlette.requests import Request
from starlette.responses import JSONResponse

from pbrl import __version__
from pbrl.feedback.page.project import Project
from pbrl.feedback.page.visitors import rater_of
from pbrl.feedback.questions import Question, check_shown, parse_answer
from pbrl.feedback.store.answers import Answer, Refused, check_event
from pbrl.types import UserError

ID = r"^[\w-]*$"


class Message(BaseModel):
    """An answer, retraction or pass, as the page sends it. Pages of older versions name two fields otherwise."""

    model_config = ConfigDict(extra="forbid")
    uid: str = Field(min_length=16, max_length=36, pattern=ID)
    question: str = Field(max_length=32, pattern=ID)
    kind: Literal["answer", "retract", "pass"]
    value: dict[str, Any] | None = Field(None, validation_alias=AliasChoices("value", "said"))
    shown: dict[str, Any] | None = None
    seconds: float | None = Field(None, ge=0, le=1e6)
    time: AwareDatetime | None = Field(None, validation_alias=AliasChoices("time", "told"))
    supersedes: str | None = Field(None, max_length=36, pattern=ID)
    project: str | None = Field(None, max_length=32)


async def take_answer(request: Request) -> JSONResponse:
    """Keeps an answer; when this returns, it is on the disk. Says of a practice answer whether it was right.

    A plain route: what FastAPI does around one takes longer than to keep the answer.
    """
    project: Project = request.app.state.project
    rater = rater_of(request)
    message = Message.model_validate_json(await request.body())
    if message.project is not None and message.project != project.id:
        raise HTTPException(421, "This answer belongs to another project: it is kept for that one.")
    wait = project.rates.wait_s(rater)
    if wait:
        raise HTTPException(429, "That was fast: answers are sent again in a moment.", {"Retry-After": f"{wait:.0f}"})
    question = project.questions.get(message.question)
    if question is None:
        question = await asyncio.to_thread(project.question, message.question)
    if question is None:
        raise Refused(f"there is no question {message.question}")
    is_known = (rater, message.question) in project.handed_out
    if not is_known and not await asyncio.to_thread(project.was_handed_out, rater, message.question):
        raise HTTPException(403, "This question was not handed to you: answer those that the page shows.")
    answer = to_answer(message, rater, question)
    reply = {"seq": await asyncio.wrap_future(request.app.state.writer.append(answer))}
    if question.purpose == "practice" and answer.value is not None:
        reply["right"] = answer.value.label == question.expected
    return JSONResponse(reply)


def to_answer(message: Message, rater: str, question: Question) -> Answer:
    """The answer as the store keeps it. Raises Refused where it does not fit its question."""
    try:
        check_shown(question, message.shown or {})
        value = parse_answer(question, message.value or {}) if message.kind == "answer" else None
        answer = Answer(
            message.uid,
            message.question,
            rater,
            value,
            message.kind,
            seconds=message.seconds,
            time=message.time,
            shown={**(message.shown or {}), "version": __version__},
            supersedes=message.supersedes,
        )
        check_event(answer)
    except UserError as error:
        raise error if isinstance(error, Refused) else Refused(str(error)) from None
    return answer
