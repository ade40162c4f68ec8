"""A wire between two sockets that can be held up or cut, as networks are."""

import contextlib
import socket
import threading
import time


class Wire:
    """Forwards what connects to `port` to another port; held up, what was sent waits, and arrives when it is let go."""

    def __init__(self, port: int):
        self.there, self.held, self.pairs, self.closed = port, threading.Event(), [], False
        self.held.set()
        self.up = True
        self.server = socket.create_server(("127.0.0.1", 0))
        self.port = self.server.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def hold(self) -> None:
        self.held.clear()

    def let_go(self) -> None:
        self.held.set()

    def cut(self) -> None:
        """Ends all connections, and takes no new ones until `mend`."""
        self.up = False
        for pair in self.pairs:
            for end in pair:
                with contextlib.suppress(OSError):
                    end.shutdown(socket.SHUT_RDWR)
        self.pairs.clear()

    def mend(self) -> None:
        self.up = True

    def close(self) -> None:
        self.closed = True
        self.let_go()
        self.cut()
        self.server.close()

    def _accept(self) -> None:
        while not self.closed:
            try:
                client_side, _ = self.server.accept()
            except OSError:
                return
            if not self.up:
                client_side.close()
                continue
            try:
                server_side = socket.create_connection(("127.0.0.1", self.there))
            except OSError:
                client_side.close()
                continue
            self.pairs.append((client_side, server_side))
            for a, b in ((client_side, server_side), (server_side, client_side)):
                threading.Thread(target=self._forward, args=(a, b), daemon=True).start()

    def _forward(self, a: socket.socket, b: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := a.recv(65_536):
                self.held.wait()
                b.sendall(data)
        time.sleep(0.01)
        for end in (a, b):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
