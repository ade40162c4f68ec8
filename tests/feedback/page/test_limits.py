"""A real server over loopback: it says its address when it listens, and ends connections that bring no request."""

import socket
import threading
import time
import urllib.request

import pytest

from pbrl.feedback.page.limits import PatientProtocol
from pbrl.label.network import Server, is_local, listen


@pytest.fixture
def port(monkeypatch):
    """Of a server that gives a request half a second, and takes six connections of one address."""
    import uvicorn

    monkeypatch.setattr(PatientProtocol, "request_s", 0.5)
    monkeypatch.setattr(PatientProtocol, "from_one_address", 6)

    async def app(scope, receive, send):
        if scope["type"] == "http":
            await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
            await send({"type": "http.response.body", "body": b"ok"})

    at, said = listen("127.0.0.1", 21500), threading.Event()
    server = Server(uvicorn.Config(app, log_level="critical", http=PatientProtocol, lifespan="off"), said.set)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [at]})
    thread.start()
    assert said.wait(10)
    yield at.getsockname()[1]
    server.should_exit = True
    thread.join(10)


def fetch(port: int) -> bytes:
    return urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=5).read()


def is_open(connection: socket.socket) -> bool:
    connection.setblocking(False)
    try:
        return connection.recv(1) != b""
    except BlockingIOError:
        return True
    except OSError:
        return False


def test_the_first_request_after_the_address_is_said_is_answered(port):
    assert fetch(port) == b"ok"


def test_half_a_request_is_given_half_a_second_and_others_are_served(port):
    halves = [socket.create_connection(("127.0.0.1", port)) for _ in range(9)]
    for connection in halves:
        try:
            connection.send(b"GET / HTTP/1.1\r\nHo")
        except OSError:
            continue  # it is one too many, and ended already
    time.sleep(0.2)
    assert sum(map(is_open, halves)) == 6
    time.sleep(0.6)
    assert sum(map(is_open, halves)) == 0 and fetch(port) == b"ok"


def test_a_request_without_end_is_ended(port):
    with socket.create_connection(("127.0.0.1", port)) as connection:
        connection.sendall(b"GET / HTTP/1.1\r\n")
        with pytest.raises(OSError):
            for _ in range(200):
                connection.sendall(b"X: " + b"x" * 4096 + b"\r\n")
                time.sleep(0.001)


@pytest.mark.parametrize(
    ("host", "local"),
    [("127.0.0.1", True), ("localhost", True), ("::1", True), ("0.0.0.0", False), ("::", False), ("10.0.0.1", False)],
)
def test_what_only_this_machine_can_reach(host, local):
    assert is_local(host) == local
