"""A client of a gate, made of packets."""

from __future__ import annotations

import socket
from contextlib import suppress
from types import TracebackType
from typing import Any

from tests.aws.gate import Gate
from tests.faults import packets
from tests.faults.packets import CONNACK, PUBACK, PUBLISH, SUBACK, Packet, Publish

PATIENCE_S = 10.0


class Raw:
    """A client that sends what it is told to, well or ill."""

    def __init__(self, gate: Gate, client_id: str = "pi", *, greet: bool = True, **connect: Any) -> None:
        self._input = bytearray()
        self._socket = socket.create_connection((gate.host, gate.port), timeout=PATIENCE_S)
        self.send(packets.connect(client_id, **connect))
        if greet:
            assert self.read() == (CONNACK, b"\0\0")

    def __enter__(self) -> Raw:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._socket.close()

    def send(self, data: bytes) -> None:
        with suppress(OSError):  # whoever is cut off amid a large packet learns it by reading
            self._socket.sendall(data)

    def read(self) -> tuple[int, bytes] | None:
        """Return the next packet, None at the end of the line."""
        while (found := packets.take(self._input)) is None:
            try:
                data = self._socket.recv(1 << 16)
            except ConnectionError:
                return None
            if not data:
                return None
            self._input += data
        return found

    def subscribe(self, *names: str, qos: int = 1) -> list[int]:
        """Return the codes of the SUBACK."""
        self.send(packets.subscribe(7, [(name, qos) for name in names]))
        found = self.read()
        assert found is not None and found[0] == SUBACK
        return list(found[1][2:])

    def next_publish(self) -> Publish:
        found = self.read()
        assert found is not None and found[0] & 0xF0 == PUBLISH
        return Publish.read(Packet(PUBLISH, found[0] & 0x0F, found[1], 0.0))

    def answers(self) -> bool:
        """Tell whether the line is there: what is sent on a topic of its own is acknowledged."""
        self.send(packets.publish("alive", b"", qos=1, identifier=99))
        while (found := self.read()) is not None:
            if found == (PUBACK, (99).to_bytes(2, "big")):
                return True
        return False
