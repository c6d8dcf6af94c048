"""What comes in, packet by packet, before paho sees it: a message that is too large to keep is read past.

paho would hold any packet in memory, up to 256 MB, and to end the line over one has the broker send it again.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from typing import Any, NamedTuple

MAX_PAYLOAD_BYTES = 1 << 20
PIECE_BYTES = 1 << 16

CONNACK, PUBLISH, PUBACK = 0x20, 0x30, 0x40  # the high half of a packet's first byte (MQTT 3.1.1, 2.2.1)


class Malformed(Exception):
    """These bytes are no MQTT."""


class Packet(NamedTuple):
    """A packet that is here whole: its first byte, and what follows the remaining length (MQTT 3.1.1, 2.2)."""

    first: int
    body: bytearray


class Piece(NamedTuple):
    """So much of a message that is read past has come: PIECE_BYTES, or the rest of it."""

    bytes: int


class Oversize(NamedTuple):
    """A PUBLISH whose payload was too large, and has been read past to its end. `identifier` is 0 at QoS 0."""

    topic: bytes
    bytes: int
    qos: int
    identifier: int


class Reader:
    """The packets of a stream; `receive` gives up to so many bytes, and raises BlockingIOError where none are here.

    `is_amid` tells whether a packet has begun to come, and not come whole.
    """

    def __init__(self, receive: Callable[[int], bytes]) -> None:
        self.is_amid = False
        self._receive = receive
        self._items = self._read()

    def next(self) -> Packet | Piece | Oversize | None:
        """Return what has come next, None where more bytes are needed for it. Raises Malformed, and as `receive`."""
        return next(self._items)

    def _read(self) -> Iterator[Packet | Piece | Oversize | None]:
        while True:
            first, low = yield from self._take(2)
            self.is_amid = True
            size = low & 0x7F
            for shift in (7, 14, 21):
                if low & 0x80:
                    low = (yield from self._take(1))[0]
                    size |= (low & 0x7F) << shift
            if low & 0x80:
                raise Malformed("a remaining length of more than four bytes")
            whole: Packet | Oversize
            if size > MAX_PAYLOAD_BYTES:
                whole = yield from self._large(first, size)
            else:
                whole = Packet(first, (yield from self._take(size)))
            self.is_amid = False
            yield whole

    def _large(self, first: int, size: int) -> Generator[Any, None, Packet | Oversize]:
        """Read a packet whose payload may be too large: first what stands before that (MQTT 3.1.1, 3.3)."""
        qos = first >> 1 & 3
        if first & 0xF0 != PUBLISH or qos == 3:
            raise Malformed(f"a packet of {size} bytes that is no PUBLISH")
        head = yield from self._take(2)
        head += yield from self._take(int.from_bytes(head, "big") + (2 if qos else 0))
        left = size - len(head)
        if left <= MAX_PAYLOAD_BYTES:
            return Packet(first, head + (yield from self._take(left)))
        end = len(head) - (2 if qos else 0)
        oversize = Oversize(bytes(head[2:end]), left, qos, int.from_bytes(head[end:], "big"))
        while left:
            piece = min(left, PIECE_BYTES)
            yield from self._take(piece)
            left -= piece
            yield Piece(piece)
        return oversize

    def _take(self, size: int) -> Generator[Any, None, bytearray]:
        taken = bytearray()
        while len(taken) < size:
            try:
                taken += self._receive(size - len(taken))
            except BlockingIOError:
                yield None
        return taken
