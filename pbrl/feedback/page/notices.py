"""Why a request is refused: in words, as a page for people and as JSON for the page's own requests."""

import logging
from html import escape
from typing import Any

from fastapi.exceptions import RequestValidationError
from pydantic import ValidationError
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response

from pbrl.feedback.store.address import hide_passwords
from pbrl.feedback.store.answers import Conflict, Refused
from pbrl.types import UserError

PAGES = {"/", "/stats", "/export"}  # what people open by themselves
TROUBLE = (
    "Answers cannot be kept at the moment: please try again later. What this page has not sent stays in the browser."
)
log = logging.getLogger("uvicorn.error")
NOTICE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title} – pbrl</title>
<link rel="icon" href="/static/icon.svg" type="image/svg+xml">
<link rel="stylesheet" href="/static/page.css">
</head>
<body><main><h1>{title}</h1><p>{text}</p></main></body>
</html>
"""
TITLES = {401: "A link opens this page", 403: "Not for this link", 404: "There is nothing here", 503: "One moment"}


def notice(request: Request, status: int, text: str, headers: dict[str, str] | None = None) -> Response:
    """A refusal: HTML where a person opened the address, else JSON."""
    if request.method == "GET" and request.url.path in PAGES:
        page = NOTICE.format(title=TITLES.get(status, "This did not work"), text=escape(text))
        return HTMLResponse(page, status, {"Cache-Control": "no-store", **(headers or {})})
    return JSONResponse({"detail": text}, status, headers)


async def explain_refusal(request: Request, error: Exception) -> Response:
    """Of a request that is refused with a status of its own."""
    assert isinstance(error, HTTPException)
    return notice(request, error.status_code, str(error.detail), dict(error.headers or {}))


async def explain_fault(request: Request, error: Exception) -> Response:
    """Of a request that cannot be understood: 422, with the first thing that is wrong."""
    assert isinstance(error, (ValidationError, RequestValidationError))
    first = error.errors()[0]
    where = ".".join(str(part) for part in first["loc"] if part not in ("body", "query"))
    return notice(request, 422, f"{where}: {first['msg']}" if where else str(first["msg"]))


async def explain_error(request: Request, error: Exception) -> Response:
    """Of an answer that cannot be (400, 409), or of a database in trouble (503: the page tries again).

    What a database says is for whoever runs the project: others hear no addresses.
    """
    if isinstance(error, Refused):
        return notice(request, 409 if isinstance(error, Conflict) else 400, hide_passwords(str(error)))
    text = hide_passwords(str(error))
    log.warning(text)
    return notice(request, 503, text if may_know(request) else TROUBLE)


def may_know(request: Request) -> bool:
    """Whether the request is by whoever runs the project."""
    project: Any = request.app.state.project
    return project.access.is_open or request.state._state.get("rater") == project.me


HANDLERS = {
    HTTPException: explain_refusal,
    ValidationError: explain_fault,
    RequestValidationError: explain_fault,
    UserError: explain_error,
}
