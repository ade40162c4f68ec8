"""A bridge that sends what nobody asked for: the link goes on."""

import json
import threading
import time

import pytest
from websockets.sync.server import serve

from real.transports.websockets import WebsocketsLink

ODD = (
    "", "no json", "5", "null", '"op"', "[1]", "{}",
    '{"op": []}', '{"op": "publish"}', '{"op": "publish", "topic": []}',
    '{"op": "publish", "topic": {}, "msg": 1}', '{"op": "service_response", "id": [1], "values": {}}',
    '{"op": "service_response", "id": null}', '{"op": "status", "level": "error", "msg": [[]]}',
    "[" * 100_000, '{"op": "publish", "topic": "/a", "msg": ' + '{"a":' * 50_000, b"\x00\xff", "1" * 10_000,
)  # fmt: skip


@pytest.fixture
def url():
    def odd_first(socket):
        socket.recv()
        for frame in ODD:
            socket.send(frame)
        socket.send(json.dumps({"op": "publish", "topic": "/a", "msg": {"data": 5}}))
        socket.recv()

    with serve(odd_first, "127.0.0.1", 0) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"ws://127.0.0.1:{server.socket.getsockname()[1]}"
        server.shutdown()


def test_odd_frames_end_no_link(url):
    link = WebsocketsLink(url)
    heard = link.subscribe("/a", "std_msgs/Int32")
    link.wait(5)
    end = time.monotonic() + 5
    while heard.received[0] is None and time.monotonic() < end:
        time.sleep(0.01)
    assert heard.received[0] == {"data": 5} and link.connections == 1 and link.thread.is_alive()
    link.close()
