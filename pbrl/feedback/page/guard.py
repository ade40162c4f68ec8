"""What the page's server turns away before anything reads it, and what browsers may do with its pages."""

from urllib.parse import urlsplit

from fastapi.responses import JSONResponse
from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

LARGEST = 64 * 1024  # bytes of a request
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
    "media-src 'self'; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
}


class Guard:
    """Turns requests away that another site makes or that are too large, and limits what a page may do."""

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
    """Why a request is turned away: a status and a reason."""
    if method in ("GET", "HEAD"):
        return None
    origin = headers.get("origin")
    if origin is not None and urlsplit(origin).netloc != headers.get("host"):
        return 403, "another site may not answer for you"
    if headers.get("sec-fetch-site", "same-origin") not in ("same-origin", "none"):
        return 403, "another site may not answer for you"
    if headers.get("content-type", "").split(";")[0] != "application/json":
        return 415, "requests are JSON"
    length = headers.get("content-length", "")
    if not length.isdigit():
        return 411, "a request gives its length"
    if int(length) > LARGEST:
        return 413, f"at most {LARGEST} bytes"
    return None
