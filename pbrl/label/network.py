"""Where the page can be reached."""

import socket

from pbrl.types import UserError


def free_port(host: str, first: int) -> int:
    """The first port from there on that is free. Raises UserError."""
    for port in range(first, min(first + 100, 65536)):
        with socket.socket() as tried:
            tried.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                tried.bind((host, port))
                return port
            except PermissionError as error:
                raise UserError(f"port {port} is not ours to use: choose another with port=…") from error
            except OSError:
                continue
    raise UserError(f"no port is free from {first} on: choose another with port=…")


def addresses(host: str) -> list[str]:
    """The names by which other machines know this one, if they may call."""
    if host in ("127.0.0.1", "localhost", "::1"):
        return []
    own = socket.gethostname()
    try:
        found = {str(info[4][0]) for info in socket.getaddrinfo(own, None, socket.AF_INET)}
    except OSError:
        found = set()
    return [own, *sorted(found - {"127.0.0.1"}), *([] if host == "0.0.0.0" else [host])]
