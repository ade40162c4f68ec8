"""Where the page can be reached: its socket, the names of this machine, and what else a connection must keep to."""

import asyncio
import ipaddress
import socket
from collections.abc import Callable
from typing import Any

import uvicorn

from pbrl.feedback.page.limits import CONNECTIONS, PatientProtocol
from pbrl.types import UserError


def is_local(host: str) -> bool:
    """Whether only this machine can reach that address."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def listen(host: str, first: int) -> socket.socket:
    """A socket bound to the first port from there on that is free. Raises UserError."""
    if not 0 < first < 65536:
        raise UserError(f"port={first}: a port is a number from 1 to 65535")
    try:
        family, _, _, _, address = socket.getaddrinfo(host, first, type=socket.SOCK_STREAM)[0]
    except OSError as error:
        raise UserError(
            f"host={host} is no address of this machine ({error}); 127.0.0.1 is this machine alone"
        ) from error
    for port in range(first, min(first + 100, 65536)):
        tried = socket.socket(family)
        tried.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            tried.bind((address[0], port))
            tried.listen(128)
            return tried
        except PermissionError as error:
            tried.close()
            raise UserError(f"port {port} is not ours to use: choose another with port=…") from error
        except OSError as error:
            tried.close()
            if error.errno not in (98, 48, 10048):  # in use, on Linux, macOS and Windows
                raise UserError(f"host={host}: this machine cannot listen there ({error})") from error
    raise UserError(f"no port is free from {first} on: choose another with port=…")


def addresses(host: str) -> list[str]:
    """The names by which other machines know this one, if they may call."""
    if is_local(host):
        return []
    own = socket.gethostname()
    try:
        found = {str(info[4][0]) for info in socket.getaddrinfo(own, None, socket.AF_INET)}
    except OSError:
        found = set()
    return [own, *sorted(found - {"127.0.0.1"}), *([] if host in ("0.0.0.0", "::") else [host])]


class Server(uvicorn.Server):
    """Says that it listens when it does, and not before."""

    def __init__(self, config: uvicorn.Config, say: Callable[[], None]):
        super().__init__(config)
        self.say = say

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Starts to listen."""
        await super().startup(sockets)
        if self.started:
            await asyncio.to_thread(self.say)


def make_server(app: Any, say: Callable[[], None]) -> Server:
    """A server of that application; `say` is called once, when the first request would be answered."""
    config = uvicorn.Config(
        app,
        log_level="warning",
        http=PatientProtocol,
        ws="none",
        timeout_keep_alive=15,
        limit_concurrency=2 * CONNECTIONS,
        timeout_graceful_shutdown=5,
        server_header=False,
    )
    return Server(config, say)


def run(app: Any, at: socket.socket, say: Callable[[], None]) -> None:
    """Serves until it is stopped; `say` is called once, when the first request would be answered."""
    try:
        make_server(app, say).run(sockets=[at])
    except KeyboardInterrupt:
        return
