"""A scripted HTTP proxy on loopback: it answers each CONNECT as the test says, and joins the line to the broker."""

from __future__ import annotations

import socket
import threading
from contextlib import suppress
from types import TracebackType
from typing import Callable

ESTABLISHED = b"HTTP/1.1 200 Connection established\r\n\r\n"


class ConnectProxy:
    """`answer` takes the head of a request and returns what to say, ESTABLISHED to join; `requests` are the heads.

    `names` says to which port of loopback each host leads, so that nobody else need know the host.
    """

    def __init__(self, names: dict[str, int] | None = None,
                 answer: Callable[[bytes], bytes] = lambda request: ESTABLISHED) -> None:
        self.requests: list[bytes] = []
        self._names = names or {}
        self._answer = answer
        self._server = socket.create_server(("127.0.0.1", 0))
        self.host, self.port = self._server.getsockname()
        self._open: list[socket.socket] = []

    def __enter__(self) -> ConnectProxy:
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown(socket.SHUT_RDWR)
        self._thread.join()
        self._server.close()

    def _serve(self) -> None:
        threads = []
        with suppress(OSError):
            while True:
                sock = self._server.accept()[0]
                self._open.append(sock)
                threads.append(threading.Thread(target=self._take, args=(sock,)))
                threads[-1].start()
        for sock in self._open:
            with suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
        for thread in threads:
            thread.join()
        for sock in self._open:
            sock.close()

    def _take(self, client: socket.socket) -> None:
        request = b""
        while not request.endswith(b"\r\n\r\n"):
            piece = client.recv(1)
            if not piece:
                return
            request += piece
        self.requests.append(request)
        answer = self._answer(request)
        host, _, port = request.split()[1].decode().rpartition(":")
        with suppress(OSError):
            if not answer.startswith(ESTABLISHED):
                client.sendall(answer)
                client.shutdown(socket.SHUT_WR)
                return
            broker = socket.create_connection(("127.0.0.1", self._names.get(host, int(port))))
            self._open.append(broker)
            client.sendall(answer)
            threading.Thread(target=_copy, args=(broker, client), daemon=True).start()
            _copy(client, broker)


def _copy(source: socket.socket, target: socket.socket) -> None:
    with suppress(OSError):
        while piece := source.recv(1 << 16):
            target.sendall(piece)
    with suppress(OSError):
        target.shutdown(socket.SHUT_WR)
