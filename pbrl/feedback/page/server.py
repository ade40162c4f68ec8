"""The labelling page's server: hands out questions and their clips, and keeps answers.

The store chooses the questions of each rater and stores every answer before the page gets a confirmation; this file is
HTTP around it. Open to this machine alone unless raters are given links: then nothing is shown or taken without one.
See API.md for what is asked and answered.
"""

import asyncio
import re
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Annotated, Any

from fastapi import APIRouter, FastAPI, HTTPException, Query, Request, Response
from fastapi.responses import FileResponse, JSONResponse, RedirectResponse
from fastapi.staticfiles import StaticFiles
from pydantic import BaseModel, Field
from starlette.middleware.trustedhost import TrustedHostMiddleware

from pbrl import __version__
from pbrl.feedback.page import owning
from pbrl.feedback.page.answering import take_answer
from pbrl.feedback.page.guard import Guard
from pbrl.feedback.page.notices import HANDLERS
from pbrl.feedback.page.own import list_answers
from pbrl.feedback.page.project import Project
from pbrl.feedback.page.visitors import Rater, TheProject, cookie_of, rater_of
from pbrl.feedback.store.address import hide_passwords
from pbrl.feedback.store.writer import Turns, Writer

PAGE = Path(__file__).parent / "static"
MONTH_S = 30 * 86400
GATHER_S = 0.005  # nobody notices, and raters who ask at once share a transaction
CLIP = re.compile(r"[0-9a-f]{32}")
routes = APIRouter()


class Next(BaseModel):
    """How many questions the page wants to have ready."""

    n: int = Field(5, ge=1, le=30)


class Skip(BaseModel):
    """That a rater wants no practice."""

    skip: bool


def make_app(project: Project, hosts: Sequence[str]) -> FastAPI:
    """The application. `hosts` are the names it may be called by."""

    @asynccontextmanager
    async def alive(app: FastAPI) -> AsyncIterator[None]:
        with Writer(project.store) as writer, Turns(project.next_each, "questions", GATHER_S) as asking:
            app.state.writer, app.state.asking = writer, asking
            yield
        project.clips.renderers.close()

    app = FastAPI(title="pbrl labels", lifespan=alive, docs_url=None, redoc_url=None, openapi_url=None)
    app.state.project = project
    app.add_middleware(Guard)
    app.add_middleware(TrustedHostMiddleware, allowed_hosts=[*hosts])  # outermost: another name is turned away first
    for kind, handler in HANDLERS.items():
        app.add_exception_handler(kind, handler)
    app.include_router(routes)
    app.include_router(owning.routes)
    for path in ("/api/answer", "/api/tell"):  # pages of older versions know the second
        app.add_route(path, take_answer, methods=["POST"])
    app.add_route("/api/next", next_questions, methods=["POST"])
    app.mount("/static", StaticFiles(directory=PAGE), name="static")
    return app


# Pages


@routes.get("/")
def page(request: Request, project: TheProject, token: str | None = None) -> Response:
    """The page; a link's token becomes a cookie, which browsers send also where another site's link led here."""
    if token is not None and not project.access.is_open and project.access.find(token) is not None:
        response = RedirectResponse("/", 303)
        response.set_cookie(cookie_of(project), token, max_age=MONTH_S, httponly=True, samesite="lax")
        return response
    rater_of(request)
    return FileResponse(PAGE / "index.html", headers={"Cache-Control": "no-cache"})


@routes.get("/media/{clip}.mp4")
async def media(clip: str, project: TheProject, rater: Rater) -> FileResponse:
    """A clip's file, once it is made."""
    found = (await asyncio.to_thread(project.store.clips, [clip])).get(clip) if CLIP.fullmatch(clip) else None
    if found is None or found.episode not in project.first_rows:
        raise HTTPException(404, "there is no such clip")
    try:
        path = await asyncio.wrap_future(project.clips.get(clip, project.row(found), found.length))
    except Exception as error:  # simulators and graphics drivers fail in many ways
        raise HTTPException(503, f"A clip could not be rendered: {hide_passwords(str(error))}") from error
    return FileResponse(path, media_type="video/mp4", headers={"Cache-Control": "private, max-age=31536000"})


# Questions and answers


@routes.get("/api/about")
def about(project: TheProject, rater: Rater) -> dict[str, Any]:
    """What the page shows around questions."""
    own = {"owner": rater == project.me, "instructions": project.instructions, "version": __version__}
    return {**own, "fps": project.clips.look.fps, **project.about(rater)}


async def next_questions(request: Request) -> JSONResponse:
    """Leases questions; their clips begin to be made. Plain, for the same reason as `take_answer`."""
    rater = rater_of(request)
    wanted = Next.model_validate_json(await request.body())
    return JSONResponse(await asyncio.wrap_future(request.app.state.asking.put((rater, wanted.n))))


@routes.post("/api/practice")
def end_practice(wanted: Skip, project: TheProject, rater: Rater) -> dict[str, Any]:
    """Ends practice where the rater does not want it."""
    return project.skip_practice(rater) if wanted.skip else project.about(rater)


@routes.get("/api/mine")
def mine(
    project: TheProject,
    rater: Rater,
    n: Annotated[int, Query(ge=1, le=200)] = 50,
    before: Annotated[int | None, Query(ge=0, lt=2**31)] = None,
) -> dict[str, Any]:
    """A rater's own answers."""
    return list_answers(project, rater, n, before)
