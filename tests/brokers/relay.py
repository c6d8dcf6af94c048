"""A TCP relay before a broker, which can be cut."""

from __future__ import annotations

import select
import socket
import threading
from contextlib import suppress
from types import TracebackType

from tests.mosquitto import HOST, free_port


class Relay:
    """Every connection to `port` is one to the broker's `target`, unless it is cut: then there is none."""

    def __init__(self, target: int) -> None:
        self.host, self.port = HOST, free_port()
        self._target = target
        self._is_cut = threading.Event()
        self._ends = threading.Event()
        self._listener = socket.create_server((self.host, self.port))
        self._listener.settimeout(0.1)
        self._threads = [threading.Thread(target=self._accept)]

    def __enter__(self) -> Relay:
        self._threads[0].start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ends.set()
        for thread in self._threads:
            thread.join()
        self._listener.close()

    def cut(self) -> None:
        """Close every connection, and every new one at once."""
        self._is_cut.set()

    def mend(self) -> None:
        """Relay again."""
        self._is_cut.clear()

    def _accept(self) -> None:
        while not self._ends.is_set():
            with suppress(TimeoutError):
                near, _ = self._listener.accept()
                thread = threading.Thread(target=self._serve, args=(near,))
                self._threads.append(thread)
                thread.start()

    def _serve(self, near: socket.socket) -> None:
        with near, suppress(OSError):
            if self._is_cut.is_set():
                return
            with socket.create_connection((HOST, self._target), timeout=5.0) as far:
                other = {near: far, far: near}
                while not (self._is_cut.is_set() or self._ends.is_set()):
                    for ready in select.select([near, far], [], [], 0.1)[0]:
                        data = ready.recv(65536)
                        if not data:
                            return
                        other[ready].sendall(data)
