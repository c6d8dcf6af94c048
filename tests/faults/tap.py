"""A relay before a TLS server that counts the alert records, whose type stands in the clear."""

from __future__ import annotations

import socket
import threading
from contextlib import suppress
from types import TracebackType

from tests.faults.broker import HOST

_ALERT = 21


class Tap:
    """Relays one connection to the port, and keeps what goes by."""

    def __init__(self, port: int) -> None:
        self._to = port
        self._listener = socket.create_server((HOST, 0))
        self._sockets = [self._listener]
        self._seen = [bytearray(), bytearray()]
        self.port: int = self._listener.getsockname()[1]
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def __enter__(self) -> Tap:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for sock in self._sockets:
            with suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
            sock.close()
        self._thread.join()

    def alerts(self) -> int:
        """Return how many alert records have gone by, in both directions."""
        return sum(_types(bytes(seen)).count(_ALERT) for seen in self._seen)

    def _run(self) -> None:
        with suppress(OSError):
            client = self._listener.accept()[0]
            server = socket.create_connection((HOST, self._to))
            self._sockets += [client, server]
            other = threading.Thread(target=self._relay, args=(server, client, self._seen[1]), daemon=True)
            other.start()
            self._relay(client, server, self._seen[0])
            other.join()

    def _relay(self, source: socket.socket, sink: socket.socket, seen: bytearray) -> None:
        with suppress(OSError):
            while data := source.recv(1 << 16):
                seen += data
                sink.sendall(data)
            sink.shutdown(socket.SHUT_WR)


def _types(stream: bytes) -> list[int]:
    """Return the type of every TLS record in the stream."""
    found = []
    while len(stream) >= 5:
        found.append(stream[0])
        stream = stream[5 + int.from_bytes(stream[3:5], "big"):]
    return found
