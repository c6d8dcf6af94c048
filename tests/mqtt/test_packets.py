"""Packets out of a stream: cut anywhere, of any size, and what is too large read past without being kept."""

from __future__ import annotations

import random
import tracemalloc
from collections import deque
from typing import Any, Iterable

import pytest

from iotd.mqtt.packets import MAX_PAYLOAD_BYTES, PIECE_BYTES, Malformed, Oversize, Packet, Piece, Reader
from tests.faults import packets

TOPIC = "cam/1/image"


class Pieces:
    """Bytes that come in these pieces; between two of them none are here."""

    def __init__(self, pieces: Iterable[bytes]) -> None:
        self._left = deque(pieces)

    def receive(self, size: int) -> bytes:
        if not self._left:
            raise BlockingIOError
        piece = self._left.popleft()
        if len(piece) > size:
            self._left.appendleft(piece[size:])
        elif not piece:
            raise BlockingIOError
        return piece[:size]


def read(data: bytes, cuts: Iterable[int] = ()) -> list[Any]:
    """Return what comes of the bytes, which arrive cut at these places; pieces read past are left out."""
    places = [0, *sorted(cuts), len(data)]
    pieces = [part for start, end in zip(places, places[1:]) for part in (data[start:end], b"")]
    reader = Reader(Pieces(pieces).receive)
    items = [reader.next() for _ in range(4 * len(pieces) + len(data) // PIECE_BYTES + 9)]
    assert not reader.is_amid
    return [item for item in items if item is not None and not isinstance(item, Piece)]


@pytest.mark.parametrize("seed", range(20))
def test_packets_come_whole_wherever_they_were_cut(seed: int) -> None:
    chance = random.Random(seed)
    sizes = [0, 1, 127, 128, 16_383, 16_384, chance.randrange(100_000)]
    bodies = [chance.randbytes(size) for size in chance.sample(sizes, len(sizes))]
    data = b"".join(bytes((chance.choice((0x20, 0x40, 0x90, 0xD0)),)) + packets.length(len(body)) + body
                    for body in bodies)
    found = read(data, (chance.randrange(len(data)) for _ in range(30)))
    assert [packet.body for packet in found] == bodies


def test_a_packet_is_amid_from_its_first_bytes_to_its_last() -> None:
    data = packets.publish(TOPIC, b"x")
    reader = Reader(Pieces([data[:3], b"", data[3:]]).receive)
    assert (reader.next(), reader.is_amid) == (None, True)
    assert isinstance(reader.next(), Packet) and not reader.is_amid
    assert (reader.next(), reader.is_amid) == (None, False)


@pytest.mark.parametrize("qos", [0, 1, 2])
@pytest.mark.parametrize("retain", [False, True])
def test_a_payload_of_one_mebibyte_is_taken_and_one_byte_more_is_read_past(qos: int, retain: bool) -> None:
    after = packets.puback(7)
    fits = packets.publish(TOPIC, bytes(MAX_PAYLOAD_BYTES), qos, 300, retain)
    first, second = read(fits + after)
    assert (bytes((first.first,)) + packets.length(len(first.body)) + first.body, second.body) == (fits, b"\0\7")
    large = packets.publish(TOPIC, bytes(MAX_PAYLOAD_BYTES + 1), qos, 300, retain)
    assert read(large + after, [1, 3, 6, 12, 18, 700_000]) == [
        Oversize(TOPIC.encode(), MAX_PAYLOAD_BYTES + 1, qos, 300 if qos else 0), Packet(0x40, bytearray(b"\0\7"))]


def test_the_largest_message_of_mqtt_is_read_past_in_little_memory() -> None:
    head = b"\x32" + packets.length(268_435_455) + b"\0\1t\0\7"
    zeros = bytes(1 << 14)
    sent = 0

    def receive(size: int) -> bytes:
        nonlocal sent
        piece = head[sent:sent + size] if sent < len(head) else zeros[:size]
        sent += len(piece)
        return piece
    reader = Reader(receive)
    tracemalloc.start()
    item, pieces = reader.next(), 0
    while isinstance(item, Piece):
        item, pieces = reader.next(), pieces + 1
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert (item, pieces) == (Oversize(b"t", 268_435_455 - 5, 1, 7), 4096)
    assert sent == 268_435_455 + 5 and peak < 10 * PIECE_BYTES


@pytest.mark.parametrize("data", [
    b"\x30\xff\xff\xff\xff\x01",
    b"\x40" + packets.length(MAX_PAYLOAD_BYTES + 1),
    b"\x36" + packets.length(MAX_PAYLOAD_BYTES + 1),
], ids=["a length of five bytes", "a PUBACK of a megabyte", "a PUBLISH at QoS 3"])
def test_what_mqtt_does_not_know_is_malformed(data: bytes) -> None:
    with pytest.raises(Malformed):
        read(data)
