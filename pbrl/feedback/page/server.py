"""What the labelling page asks of us: the next questions, their clips, and to keep what was said.

The store decides who sees what and keeps every answer before the page hears "kept"; this file is HTTP around it. Open
to this machine alone unless raters are given links: then nobody sees or says anything without one, and who speaks is
read from the link's cookie, never from what is sent.
"""

import asyncio
import hashlib
import secrets
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit
from uuid import uuid4

import numpy as np
from fastapi import Cookie, Depends, FastAPI, HTTPException, Request, Response
from fastapi.responses import FileResponse, JSONResponse, RedirectResponse
from fastapi.staticfiles import StaticFiles
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from starlette.datastructures import Headers, MutableHeaders
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from pbrl import __version__
from pbrl.feedback import questions as kinds
from pbrl.feedback import raters
from pbrl.feedback.page.clips import Clips
from pbrl.feedback.store import leases
from pbrl.feedback.store.events import Refused, Told
from pbrl.feedback.store.leases import Leased
from pbrl.feedback.store.store import Store
from pbrl.feedback.store.writer import Writer
from pbrl.types import UserError

PAGE = Path(__file__).parent / "static"
COOKIE = "pbrl_rater"
LARGEST = 64 * 1024  # bytes of a request
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
    "media-src 'self'; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
}


@dataclass
class Desk:
    """What people work on: questions about one data set."""

    store: Store
    clips: Clips
    dataset: str
    instructions: str
    raters: dict[str, str] = field(default_factory=dict)  # token → name; none: whoever is at this machine
    me: str = "me"
    pass_mark: float = 0.8  # share of practice questions to get right before others are shown
    asked: dict[str, Leased] = field(default_factory=dict)  # questions that somebody has seen
    passed: set[str] = field(default_factory=set)  # raters


class Next(BaseModel):
    """How many questions the page wants to have ready."""

    n: int = Field(5, ge=1, le=30)


class Event(BaseModel):
    """What somebody said, as the page tells it."""

    model_config = ConfigDict(extra="forbid")
    uid: str = Field(min_length=16, max_length=36)
    question: str = Field(max_length=32)
    kind: Literal["answer", "retract", "pass"]
    said: dict[str, Any] | None = None
    shown: dict[str, Any] | None = None
    seconds: float | None = Field(None, ge=0, le=1e6)
    told: datetime | None = None
    supersedes: str | None = Field(None, max_length=36)


def make_app(desk: Desk, hosts: Sequence[str]) -> FastAPI:
    """The application. `hosts` are the names it may be called by."""

    @asynccontextmanager
    async def alive(app: FastAPI) -> AsyncIterator[None]:
        with Writer(desk.store) as writer:
            app.state.writer = writer
            yield
        desk.clips.renderers.close()

    app = FastAPI(title="pbrl labels", lifespan=alive, docs_url=None, redoc_url=None, openapi_url=None)
    tokens = {hashed(token): name for token, name in desk.raters.items()}
    for name in tokens.values() if tokens else [desk.me]:
        desk.store.add_rater(name, "human")

    async def who(pbrl_rater: Annotated[str | None, Cookie()] = None) -> str:
        if not tokens:
            return desk.me
        name = tokens.get(hashed(pbrl_rater or ""))
        if name is None:
            raise HTTPException(401, "Open the link that you were given.")
        return name

    app.add_middleware(Guard)
    app.add_middleware(TrustedHostMiddleware, allowed_hosts=[*hosts])  # outermost: another name is turned away first

    @app.exception_handler(UserError)
    async def explain(request: Request, error: UserError) -> JSONResponse:
        return JSONResponse({"detail": str(error)}, 400 if isinstance(error, Refused) else 503)

    @app.exception_handler(ValidationError)
    async def misshapen(request: Request, error: ValidationError) -> JSONResponse:
        return JSONResponse({"detail": str(error)}, 422)

    @app.get("/")
    async def page(token: str | None = None, pbrl_rater: Annotated[str | None, Cookie()] = None) -> Response:
        if token is not None and hashed(token) in tokens:
            response = RedirectResponse("/", 303)
            response.set_cookie(COOKIE, token, max_age=30 * 86400, httponly=True, samesite="strict")
            return response
        await who(pbrl_rater if token is None else None)
        return FileResponse(PAGE / "index.html", headers={"Cache-Control": "no-cache"})

    @app.get("/api/about")
    def about(rater: Annotated[str, Depends(who)]) -> dict[str, Any]:
        return {"rater": rater, "instructions": desk.instructions, "version": __version__, "fps": desk.clips.look.fps,
                **progress(desk, rater)}  # fmt: skip

    @app.post("/api/next")
    def following(wanted: Next, rater: Annotated[str, Depends(who)]) -> dict[str, Any]:
        """Leases questions; their clips begin to be made."""
        purpose, again = practice(desk, rater)
        leased = leases.lease(desk.store, rater, wanted.n, dataset=desk.dataset, **purpose)
        desk.asked.update({one.question: one for one in leased})
        places = desk.store.places([clip for one in leased for clip in one.clips])
        words = desk.store.wordings([one.wording for one in leased if one.wording])
        for clip, (row, length) in places.items():
            desk.clips.get(clip, row, length)
        questions = [
            {"question": one.question, "kind": one.kind, "purpose": "practice" if one.purpose == "practice" else None,
             "clips": [f"/media/{clip}.mp4" for clip in one.clips], "order": order(one, rater),
             "words": words.get(one.wording or "", {})}
            for one in leased
        ]  # fmt: skip
        return {"questions": questions, "again": again, **progress(desk, rater)}

    async def tell(request: Request) -> JSONResponse:
        """Keeps an event; when this returns, it is on the disk. Says of a practice answer whether it was right.

        A plain route: what FastAPI does around one takes longer than to keep the answer.
        """
        rater = await who(request.cookies.get(COOKIE))
        event = Event.model_validate_json(await request.body())
        if event.question not in desk.asked:
            found = await asyncio.to_thread(leases.asked, desk.store, event.question)
            if found is None:
                raise Refused(f"there is no question {event.question}")
            desk.asked[event.question] = found
        asked = desk.asked[event.question]
        told = checked(event, rater, asked.kind, len(asked.clips))
        kept = {"seq": await asyncio.wrap_future(app.state.writer.append(told))}
        if asked.purpose == "practice" and event.kind == "answer":
            kept["right"] = told.label == asked.expected
        return JSONResponse(kept)

    app.add_route("/api/tell", tell, methods=["POST"])

    @app.get("/api/stats")
    def stats(rater: Annotated[str, Depends(who)]) -> dict[str, Any]:
        """What is to be thought of the answers so far; not for those who give them by a link."""
        if tokens and rater != desk.me:
            raise HTTPException(403, "This page is for whoever asks.")
        answers = raters.said(desk.store, desk.dataset)
        return {"counts": desk.store.counts(dataset=desk.dataset), "alpha": raters.alpha(answers),
                "raters": raters.about(answers), "believed": raters.dawid_skene(answers).accuracy,
                "seconds": [one.seconds for one in answers if one.seconds is not None]}  # fmt: skip

    @app.get("/stats")
    def overview(rater: Annotated[str, Depends(who)]) -> FileResponse:
        return FileResponse(PAGE / "stats.html", headers={"Cache-Control": "no-cache"})

    @app.get("/media/{clip}.mp4")
    async def media(clip: str, rater: Annotated[str, Depends(who)]) -> FileResponse:
        places = await asyncio.to_thread(desk.store.places, [clip], desk.dataset)
        if clip not in places:
            raise HTTPException(404, "there is no such clip")
        try:
            path = await asyncio.wrap_future(desk.clips.get(clip, *places[clip]))
        except Exception as error:  # whatever the simulator or the graphics driver thinks of
            raise HTTPException(503, f"A clip could not be rendered: {error}") from error
        return FileResponse(path, media_type="video/mp4", headers={"Cache-Control": "private, max-age=31536000"})

    app.mount("/static", StaticFiles(directory=PAGE), name="static")
    return app


class Guard:
    """Turns requests away that another site makes or that are too much, and tells browsers what the page may do."""

    def __init__(self, app: ASGIApp):
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(HEADERS)
            await send(message)

        refused = objection(scope["method"], Headers(scope=scope)) if scope["type"] == "http" else None
        go_on: ASGIApp = JSONResponse({"detail": refused[1]}, refused[0]) if refused else self.app
        await go_on(scope, receive, guarded)


def objection(method: str, headers: Headers) -> tuple[int, str] | None:
    """Why a request is turned away before anybody reads it: a status and a reason."""
    if method in ("GET", "HEAD"):
        return None
    origin = headers.get("origin")
    if origin is not None and urlsplit(origin).netloc != headers.get("host"):
        return 403, "another site may not speak for you"
    if headers.get("sec-fetch-site", "same-origin") not in ("same-origin", "none"):
        return 403, "another site may not speak for you"
    if headers.get("content-type", "").split(";")[0] != "application/json":
        return 415, "what is sent is JSON"
    length = headers.get("content-length", "")
    if not length.isdigit():
        return 411, "say how long it is"
    if int(length) > LARGEST:
        return 413, f"at most {LARGEST} bytes"
    return None


def checked(event: Event, rater: str, kind: str, clips: int) -> Told:
    """The event as the store keeps it. Raises Refused where an answer does not fit its question."""
    outcome = label = detail = None
    if event.kind == "answer":
        try:
            outcome, label, detail = kinds.judge(kind, event.said or {}, clips)
        except UserError as error:
            raise Refused(str(error)) from None
    shown = {**(event.shown or {}), "version": __version__}
    when = None if event.told is None else event.told.astimezone(UTC)
    return Told(event.uid, event.question, rater, event.kind, outcome, label, detail, shown, seconds=event.seconds,
                told=when, supersedes=event.supersedes)  # fmt: skip


def practice(desk: Desk, rater: str) -> tuple[dict[str, Any], bool]:
    """What a rater may be asked, and whether to begin again: practice comes first, until enough of it is right."""
    if rater in desk.passed:
        return {}, False
    asked, found = desk.store.practice(rater, desk.dataset)
    if len(found) < asked:
        return {"purpose": "practice"}, False
    if sum(right for _, right in found.values()) >= desk.pass_mark * asked:
        desk.passed.add(rater)
        return {}, False
    desk.store.append([
        Told(uuid4().hex, question, rater, "retract", supersedes=uid) for question, (uid, _) in found.items()
    ])  # fmt: skip
    return {"purpose": "practice"}, True


def progress(desk: Desk, rater: str) -> dict[str, int]:
    """How many answers of this rater stand, and how many questions still want one."""
    return {"done": desk.store.answered_by(rater, desk.dataset), "left": desk.store.wanting(desk.dataset)}


def order(one: Leased, rater: str) -> list[int]:
    """Which clip is shown where: by chance, but the same whenever this rater sees it. An anchor stays first."""
    chance = np.random.default_rng(list(hashlib.sha256(f"{one.question} {rater}".encode()).digest()))
    fixed = 1 if one.kind == "triplet" else 0
    return [*range(fixed), *(int(i) + fixed for i in chance.permutation(len(one.clips) - fixed))]


def hashed(token: str) -> str:
    """So that tokens are compared without telling by the time it takes how much of one was right."""
    return hashlib.sha256(token.encode()).hexdigest()


def new_token() -> str:
    return secrets.token_urlsafe(24)
