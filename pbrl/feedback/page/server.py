"""The labelling page's server: hands out questions and their clips, and keeps answers.

The store chooses the questions of each rater and stores every answer before the page gets a confirmation; this file is
HTTP around it. Open to this machine alone unless raters are given links: then nothing is shown or taken without one,
and the rater is read from the link's cookie, never from the request's body.
"""

import asyncio
import secrets
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Cookie, Depends, FastAPI, HTTPException, Request, Response
from fastapi.responses import FileResponse, JSONResponse, RedirectResponse
from fastapi.staticfiles import StaticFiles
from pydantic import AliasChoices, BaseModel, ConfigDict, Field, ValidationError
from starlette.middleware.trustedhost import TrustedHostMiddleware

from pbrl import __version__
from pbrl.feedback import raters
from pbrl.feedback.page.guard import Guard
from pbrl.feedback.page.project import Project, hash_token
from pbrl.feedback.questions import Question, parse
from pbrl.feedback.store.answers import Answer, Refused
from pbrl.feedback.store.progress import answers_with_questions
from pbrl.feedback.store.writer import Writer
from pbrl.types import UserError

PAGE = Path(__file__).parent / "static"
COOKIE = "pbrl_rater"
routes = APIRouter()


class Next(BaseModel):
    """How many questions the page wants to have ready."""

    n: int = Field(5, ge=1, le=30)


class Message(BaseModel):
    """An answer, retraction or pass, as the page sends it. Pages of older versions name two fields otherwise."""

    model_config = ConfigDict(extra="forbid")
    uid: str = Field(min_length=16, max_length=36)
    question: str = Field(max_length=32)
    kind: Literal["answer", "retract", "pass"]
    value: dict[str, Any] | None = Field(None, validation_alias=AliasChoices("value", "said"))
    shown: dict[str, Any] | None = None
    seconds: float | None = Field(None, ge=0, le=1e6)
    time: datetime | None = Field(None, validation_alias=AliasChoices("time", "told"))
    supersedes: str | None = Field(None, max_length=36)


def make_app(project: Project, hosts: Sequence[str]) -> FastAPI:
    """The application. `hosts` are the names it may be called by."""

    @asynccontextmanager
    async def alive(app: FastAPI) -> AsyncIterator[None]:
        with Writer(project.store) as writer:
            app.state.writer = writer
            yield
        project.clips.renderers.close()

    app = FastAPI(title="pbrl labels", lifespan=alive, docs_url=None, redoc_url=None, openapi_url=None)
    app.state.project = project
    app.add_middleware(Guard)
    app.add_middleware(TrustedHostMiddleware, allowed_hosts=[*hosts])  # outermost: another name is turned away first
    app.add_exception_handler(UserError, explain)
    app.add_exception_handler(ValidationError, explain)
    app.include_router(routes)
    for path in ("/api/answer", "/api/tell"):  # pages of older versions know the second
        app.add_route(path, take_answer, methods=["POST"])
    app.mount("/static", StaticFiles(directory=PAGE), name="static")
    return app


async def explain(request: Request, error: Exception) -> JSONResponse:
    """What is wrong with a request (4xx), or with the database (503: the page keeps its answer and tries again)."""
    status = 400 if isinstance(error, Refused) else 422 if isinstance(error, ValidationError) else 503
    return JSONResponse({"detail": str(error)}, status)


# The rater of a request


async def project_of(request: Request) -> Project:
    """The project that this server shows."""
    return request.app.state.project


async def rater_of(
    project: Annotated[Project, Depends(project_of)], pbrl_rater: Annotated[str | None, Cookie()] = None
) -> str:
    """The name of the rater whose link set the cookie. Raises 401 without one."""
    if not project.tokens:
        return project.me
    name = project.tokens.get(hash_token(pbrl_rater or ""))
    if name is None:
        raise HTTPException(401, "Open the link that you were given.")
    return name


TheProject = Annotated[Project, Depends(project_of)]
Rater = Annotated[str, Depends(rater_of)]


# Pages


@routes.get("/")
async def page(
    project: TheProject, token: str | None = None, pbrl_rater: Annotated[str | None, Cookie()] = None
) -> Response:
    """The page; a link's token becomes a cookie."""
    if token is not None and hash_token(token) in project.tokens:
        response = RedirectResponse("/", 303)
        response.set_cookie(COOKIE, token, max_age=30 * 86400, httponly=True, samesite="strict")
        return response
    await rater_of(project, pbrl_rater if token is None else None)
    return FileResponse(PAGE / "index.html", headers={"Cache-Control": "no-cache"})


@routes.get("/stats")
def statistics_page(rater: Rater) -> FileResponse:
    """The overview of raters."""
    return FileResponse(PAGE / "stats.html", headers={"Cache-Control": "no-cache"})


@routes.get("/media/{clip}.mp4")
async def media(clip: str, project: TheProject, rater: Rater) -> FileResponse:
    """A clip's file, once it is made."""
    found = (await asyncio.to_thread(project.store.clips, [clip])).get(clip)
    if found is None or found.episode not in project.first_rows:
        raise HTTPException(404, "there is no such clip")
    try:
        path = await asyncio.wrap_future(project.clips.get(clip, project.row(found), found.length))
    except Exception as error:  # simulators and graphics drivers fail in many ways
        raise HTTPException(503, f"A clip could not be rendered: {error}") from error
    return FileResponse(path, media_type="video/mp4", headers={"Cache-Control": "private, max-age=31536000"})


# Questions and answers


@routes.get("/api/about")
def about(project: TheProject, rater: Rater) -> dict[str, Any]:
    """What the page shows around questions."""
    look = project.clips.look
    own = {"rater": rater, "instructions": project.instructions, "version": __version__, "fps": look.fps}
    return {**own, **project.progress(rater)}


@routes.post("/api/next")
def next_questions(wanted: Next, project: TheProject, rater: Rater) -> dict[str, Any]:
    """Leases questions; their clips begin to be made."""
    return project.next(rater, wanted.n)


async def take_answer(request: Request) -> JSONResponse:
    """Keeps an answer; when this returns, it is on the disk. Says of a practice answer whether it was right.

    A plain route: what FastAPI does around one takes longer than to keep the answer.
    """
    project: Project = request.app.state.project
    rater = await rater_of(project, request.cookies.get(COOKIE))
    message = Message.model_validate_json(await request.body())
    question = project.questions.get(message.question)
    if question is None:
        question = await asyncio.to_thread(project.question, message.question)
    if question is None:
        raise Refused(f"there is no question {message.question}")
    answer = to_answer(message, rater, question)
    reply = {"seq": await asyncio.wrap_future(request.app.state.writer.append(answer))}
    if question.purpose == "practice" and answer.value is not None:
        reply["right"] = answer.value.label == question.expected
    return JSONResponse(reply)


def to_answer(message: Message, rater: str, question: Question) -> Answer:
    """The answer as the store keeps it. Raises Refused where it does not fit its question."""
    value = None
    if message.kind == "answer":
        try:
            value = parse(question.kind, message.value or {}, clips=len(question.clips), length=question.length)
        except UserError as error:
            raise Refused(str(error)) from None
    return Answer(
        message.uid,
        message.question,
        rater,
        value,
        message.kind,
        seconds=message.seconds,
        time=None if message.time is None else message.time.astimezone(UTC),
        shown={**(message.shown or {}), "version": __version__},
        supersedes=message.supersedes,
    )


@routes.get("/api/stats")
def statistics(project: TheProject, rater: Rater) -> dict[str, Any]:
    """The quality of raters so far; not for raters that come by a link."""
    if project.tokens and rater != project.me:
        raise HTTPException(403, "This page is for the owner of the project.")
    answers = answers_with_questions(project.store, project.dataset)
    return {
        "counts": project.store.counts(dataset=project.dataset),
        "alpha": raters.alpha(answers),
        "raters": raters.describe(answers),
        "accuracy": raters.dawid_skene(answers).accuracy,
        "seconds": [answer.seconds for answer, _ in answers if answer.seconds is not None],
    }


def new_token() -> str:
    """A token that opens the page."""
    return secrets.token_urlsafe(24)
