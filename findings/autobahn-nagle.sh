#!/usr/bin/env bash
# autobahn 22.7.1 and 24.4.2 (Twisted): a WebSocket server's sockets keep Nagle's algorithm on, though the default is
# tcpNoDelay=True.
#
# A good guess: the factory's option tcpNoDelay=True, the default, sets TCP_NODELAY on each accepted socket. Seen: 24.4.2
# and 22.7.1 accept with TCP_NODELAY off, 21.2.1 with it on. rosbridge_suite for ROS 1 serves through this class, so a
# robot's bridge answers up to 40 ms late whenever small messages follow each other on one connection (Nagle's algorithm
# against delayed acknowledgements). A client cannot set it: it needs a connection on which nothing else is sent.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cat > "$folder/show.py" <<'PYTHON'
import importlib.metadata
import socket
import sys

from autobahn.twisted.websocket import (
    WebSocketClientFactory,
    WebSocketClientProtocol,
    WebSocketServerFactory,
    WebSocketServerProtocol,
)
from twisted.internet import reactor

seen = []


class Server(WebSocketServerProtocol):
    def onOpen(self):
        seen.append(self.transport.getHandle().getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) != 0)
        reactor.stop()


server = WebSocketServerFactory()
server.protocol = Server
assert server.tcpNoDelay, "the default has changed"
port = reactor.listenTCP(0, server, interface="127.0.0.1").getHost().port
client = WebSocketClientFactory(f"ws://127.0.0.1:{port}")
client.protocol = WebSocketClientProtocol
reactor.connectTCP("127.0.0.1", port, client)
reactor.callLater(20, reactor.stop)
reactor.run()
version = importlib.metadata.version("autobahn")
print(f"autobahn {version}: factory.tcpNoDelay={server.tcpNoDelay}, TCP_NODELAY on the accepted socket: {seen}")
assert seen == [sys.argv[1] == "on"], "this version does something else now"
PYTHON
for pair in 21.2.1:on 22.7.1:off 24.4.2:off; do
    version=${pair%:*}
    "${PYTHON:-python3}" -m venv "$folder/$version"
    "$folder/$version/bin/pip" install --quiet "autobahn==$version" "twisted==24.11.0" "setuptools<81"
    "$folder/$version/bin/python" -W ignore "$folder/show.py" "${pair#*:}"
done
