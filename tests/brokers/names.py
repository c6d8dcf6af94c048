"""A name server with one name, which gives all its addresses, each time beginning with the next (round robin)."""

from __future__ import annotations

import socket
import struct
import threading
from collections.abc import Sequence
from contextlib import suppress
from types import TracebackType

HOST, PORT = "127.0.0.1", 53
_A, _RESPONSE, _NO_SUCH_NAME, _TTL_S = 1, 0x8580, 3, 0


class Names:
    """Answers on loopback's port 53 while it is entered; whatever else is asked for there is not."""

    def __init__(self, name: str, addresses: Sequence[str]) -> None:
        self._name = b"".join(bytes([len(part)]) + part for part in name.encode().split(b".")) + b"\0"
        self._addresses = [socket.inet_aton(address) for address in addresses]
        self._turn = 0
        self._ends = threading.Event()
        self._thread = threading.Thread(target=self._serve)

    def __enter__(self) -> Names:
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.bind((HOST, PORT))
        self._socket.settimeout(0.2)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ends.set()
        self._thread.join()
        self._socket.close()

    def _serve(self) -> None:
        while not self._ends.is_set():
            with suppress(TimeoutError):
                question, whose = self._socket.recvfrom(512)
                self._socket.sendto(self._answer(question), whose)

    def _answer(self, question: bytes) -> bytes:
        """Return the answer to a question as in RFC 1035, 4.1; one that is not for A has none."""
        end = question.index(b"\0", 12) + 1
        asked, (kind,) = question[12:end].lower(), struct.unpack_from(">H", question, end)
        found: list[bytes] = []
        if asked == self._name and kind == _A:
            found = self._addresses[self._turn:] + self._addresses[:self._turn]
            self._turn = (self._turn + 1) % len(self._addresses)
        code = _RESPONSE if asked == self._name else _RESPONSE | _NO_SUCH_NAME
        return (question[:2] + struct.pack(">HHHHH", code, 1, len(found), 0, 0) + question[12:end + 4]
                + b"".join(struct.pack(">HHHIH", 0xC00C, _A, 1, _TTL_S, 4) + address for address in found))
