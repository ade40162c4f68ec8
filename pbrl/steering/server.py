"""The page on which a planner is steered live: for this machine alone, with what is asked, read and measured as JSON.

`GET /film` is the simulator's picture as JPEGs in one long response (multipart/x-mixed-replace). What a request may be
is the labelling page's guard.
"""

import asyncio
import signal
from collections.abc import AsyncIterator
from pathlib import Path
from threading import Thread
from typing import Annotated, Any

import torch
from fastapi import APIRouter, Depends, FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import FileResponse, JSONResponse, Response, StreamingResponse
from fastapi.staticfiles import StaticFiles
from pydantic import BaseModel, Field
from starlette.middleware.trustedhost import TrustedHostMiddleware

from pbrl.data.rollout import make_environment
from pbrl.feedback.page.guard import Guard
from pbrl.feedback.page.notices import explain_fault
from pbrl.feedback.page.server import PAGE as LABEL_PAGE
from pbrl.label import network
from pbrl.models.planner import Planner, Targets
from pbrl.processor import available_cores
from pbrl.steering.live import Player
from pbrl.types import UserError

PAGE = Path(__file__).parent / "static"
HOST = "127.0.0.1"
LOOK_S = 1 / 60  # how often a film looks for a new picture
routes = APIRouter()


class Changes(BaseModel):
    """Targets that change; null is any."""

    targets: dict[str, Annotated[float, Field(ge=0, le=1)] | None]


class Sentence(BaseModel):
    """Changes in words."""

    words: str = Field(max_length=500)


class Pause(BaseModel):
    """Whether it waits."""

    paused: bool


class Start(BaseModel):
    """The episode that begins."""

    seed: int = Field(ge=0, lt=2**31)


def player_of(request: Request) -> Player:
    """The player that this server shows."""
    return request.app.state.player


ThePlayer = Annotated[Player, Depends(player_of)]


def make_app(player: Player) -> FastAPI:
    """The application."""
    app = FastAPI(title="pbrl steering", docs_url=None, redoc_url=None, openapi_url=None)
    app.state.player = player
    app.add_middleware(Guard)
    app.add_middleware(TrustedHostMiddleware, allowed_hosts=["localhost", HOST])
    app.add_exception_handler(UserError, refuse)
    app.add_exception_handler(RequestValidationError, explain_fault)
    app.include_router(routes)
    app.mount("/static", StaticFiles(directory=PAGE), name="static")
    app.mount("/label", StaticFiles(directory=LABEL_PAGE), name="label")  # its looks, and how it sends requests
    return app


async def refuse(request: Request, error: Exception) -> Response:
    """400: what the user can mend, in its words."""
    return JSONResponse({"detail": str(error)}, 400)


@routes.get("/")
def page() -> FileResponse:
    """The page."""
    return FileResponse(PAGE / "index.html", headers={"Cache-Control": "no-cache"})


@routes.get("/film")
def film(player: ThePlayer) -> StreamingResponse:
    """Pictures as they are drawn, until the player stops."""
    return StreamingResponse(pictures(player), media_type="multipart/x-mixed-replace; boundary=picture")


async def pictures(player: Player) -> AsyncIterator[bytes]:
    """The parts of a film. The boundary follows each picture at once: browsers show it when they have read that."""
    shown = None
    yield b"--picture\r\n"
    while not player.stopped.is_set():
        picture = player.picture
        if picture is not None and picture is not shown:
            shown = picture
            head = f"Content-Type: image/jpeg\r\nContent-Length: {len(picture)}\r\n\r\n"
            yield head.encode() + picture + b"\r\n--picture\r\n"
        await asyncio.sleep(LOOK_S)


@routes.get("/api/about")
def about(player: ThePlayer) -> dict[str, Any]:
    """What stays the same."""
    env = player.env
    return {"attributes": player.policy.attributes, "hz": env.control_hz, "horizon": env.horizon, "task": env.task}


@routes.get("/api/state")
def state(player: ThePlayer) -> dict[str, Any]:
    """What is asked for, read and measured now."""
    return player.state()


@routes.post("/api/targets")
def set_targets(changes: Changes, player: ThePlayer) -> dict[str, Any]:
    """Changes targets; 400 for attributes that the planner lacks."""
    player.ask(changes.targets)
    return player.state()


@routes.post("/api/say")
def say(sentence: Sentence, player: ThePlayer) -> dict[str, Any]:
    """Changes targets as the words say, and returns these too; 400 where they are not understood."""
    return {"changes": player.say(sentence.words), **player.state()}


@routes.post("/api/pause")
def pause(wanted: Pause, player: ThePlayer) -> dict[str, Any]:
    """Waits, or goes on."""
    player.pause(wanted.paused)
    return player.state()


@routes.post("/api/start")
def start(wanted: Start, player: ThePlayer) -> dict[str, Any]:
    """Begins an episode."""
    player.start_again(wanted.seed)
    return player.state()


def serve(settings: dict[str, Any], policy: Planner, targets: Targets, *, seed: int, port: int) -> None:
    """Serves the page, on the first free port from `port` on, and acts until Ctrl-C. Raises UserError.

    The simulator and its renderer stay in this thread, as OpenGL wants; requests are answered in another.
    """
    torch.set_num_threads(max(1, min(torch.get_num_threads(), available_cores() - 1)))  # one is for the page
    env = make_environment(settings)
    mirror = make_environment(settings) if env.attributes and env.can_restore else None
    player = Player(env, mirror, policy, targets, seed=seed)
    at = network.listen(HOST, port)
    address = f"http://localhost:{at.getsockname()[1]}/"
    server = network.make_server(make_app(player), lambda: print(f"steer at {address} · Ctrl-C stops", flush=True))

    def answer() -> None:
        try:
            server.run(sockets=[at])
        finally:
            player.stop()

    for number in (signal.SIGINT, signal.SIGTERM):  # a shell's background job begins with Ctrl-C ignored
        signal.signal(number, signal.default_int_handler)
    answering = Thread(target=answer, daemon=True)
    answering.start()
    try:
        player.run()
    except KeyboardInterrupt:
        print()
    finally:
        player.stop()
        server.should_exit = True
        answering.join()
        for one in (env, mirror):
            if one is not None:
                one.close()
