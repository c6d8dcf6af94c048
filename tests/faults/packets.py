"""MQTT 3.1.1 packets, exact to the byte: what the scripted broker reads and what it says."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Sequence

CONNECT, CONNACK, PUBLISH, PUBACK, PUBREC = 0x10, 0x20, 0x30, 0x40, 0x50
SUBSCRIBE, SUBACK, UNSUBSCRIBE, UNSUBACK = 0x80, 0x90, 0xA0, 0xB0
PINGREQ, PINGRESP, DISCONNECT = 0xC0, 0xD0, 0xE0

NAMES = {CONNECT: "CONNECT", PUBLISH: "PUBLISH", PUBACK: "PUBACK", PUBREC: "PUBREC", SUBSCRIBE: "SUBSCRIBE",
         UNSUBSCRIBE: "UNSUBSCRIBE", PINGREQ: "PINGREQ", DISCONNECT: "DISCONNECT"}
_FLAGS = {SUBSCRIBE: 2, UNSUBSCRIBE: 2}  # the reserved bits of a fixed header (MQTT 3.1.1, 2.2.2), elsewhere 0


class Malformed(Exception):
    """A client sent what MQTT 3.1.1 does not allow."""


@dataclass(frozen=True, slots=True)
class Packet:
    """One packet of a client: its kind (the high half of the first byte), its flags, and when it was here whole."""

    kind: int
    flags: int
    body: bytes
    at: float

    def __post_init__(self) -> None:
        if self.kind not in NAMES:
            raise Malformed(f"packet type {self.kind >> 4} is not a client's")
        if self.kind != PUBLISH and self.flags != _FLAGS.get(self.kind, 0):
            raise Malformed(f"{NAMES[self.kind]} with flags {self.flags:04b}")

    @property
    def identifier(self) -> int:
        """The packet identifier of PUBLISH at QoS 1, PUBACK, SUBSCRIBE and UNSUBSCRIBE."""
        if self.kind == PUBLISH:
            return Publish.read(self).identifier
        return int.from_bytes(self.body[:2], "big")


@dataclass(frozen=True, slots=True)
class Connect:
    """The fields of a CONNECT."""

    client_id: str
    clean_session: bool
    keepalive_s: int
    will_topic: str
    will_payload: bytes
    will_qos: int
    will_retain: bool

    @classmethod
    def read(cls, packet: Packet) -> Connect:
        """Raises Malformed where it is no CONNECT of MQTT 3.1.1."""
        body = _Reader(packet.body)
        if packet.kind != CONNECT or body.take(7) != b"\x00\x04MQTT\x04":
            raise Malformed("no CONNECT of MQTT 3.1.1")
        flags, keepalive_s = body.take(1)[0], body.number()
        client_id = body.field().decode()
        will = (body.field().decode(), body.field()) if flags & 0x04 else ("", b"")
        for bit in (0x80, 0x40):
            if flags & bit:
                body.field()
        body.end()
        if flags & 0x01 or (not flags & 0x04 and flags & 0x38):
            raise Malformed(f"CONNECT with flags {flags:08b}")
        return cls(client_id, bool(flags & 0x02), keepalive_s, *will, flags >> 3 & 3, bool(flags & 0x20))


@dataclass(frozen=True, slots=True)
class Publish:
    """The fields of a PUBLISH; `identifier` is 0 at QoS 0."""

    topic: str
    payload: bytes
    qos: int
    retain: bool
    duplicate: bool
    identifier: int

    @classmethod
    def read(cls, packet: Packet) -> Publish:
        """Raises Malformed."""
        body = _Reader(packet.body)
        qos = packet.flags >> 1 & 3
        topic = body.field().decode()
        identifier = body.number() if qos else 0
        if packet.kind != PUBLISH or qos > 2 or (qos and not identifier) or set(topic) & set("#+\0") or not topic:
            raise Malformed(f"no PUBLISH: topic {topic!r}, QoS {qos}, identifier {identifier}")
        return cls(topic, body.rest(), qos, bool(packet.flags & 1), bool(packet.flags & 8), identifier)


def filters(packet: Packet) -> list[tuple[str, int]]:
    """Return the filters and QoS of a SUBSCRIBE. Raises Malformed."""
    body = _Reader(packet.body[2:])
    found = []
    while body.left():
        found.append((body.field().decode(), body.take(1)[0]))
    if packet.kind != SUBSCRIBE or not found or max(qos for _, qos in found) > 2:
        raise Malformed("no SUBSCRIBE")
    return found


def connect(client_id: str, *, clean_session: bool = True, keepalive_s: int = 60,
            will: tuple[str, bytes, int, bool] | None = None) -> bytes:
    """Return a CONNECT; the will is its topic, payload, QoS and RETAIN."""
    topic, payload, qos, retain = will or ("", b"", 0, False)
    flags = clean_session << 1 | (will is not None) << 2 | qos << 3 | retain << 5
    fields = [client_id.encode(), *((topic.encode(), payload) if will else ())]
    return whole(CONNECT, b"\x00\x04MQTT\x04" + bytes((flags,)) + keepalive_s.to_bytes(2, "big")
                 + b"".join(len(field).to_bytes(2, "big") + field for field in fields))


def subscribe(identifier: int, asked: Sequence[tuple[str, int]]) -> bytes:
    """Return a SUBSCRIBE of filters with their QoS."""
    return whole(SUBSCRIBE | 2, identifier.to_bytes(2, "big") + b"".join(
        len(name.encode()).to_bytes(2, "big") + name.encode() + bytes((qos,)) for name, qos in asked))


def connack(code: int = 0, session_present: bool = False) -> bytes:
    """Return a CONNACK."""
    return whole(CONNACK, bytes((session_present, code)))


def puback(identifier: int) -> bytes:
    """Return a PUBACK."""
    return whole(PUBACK, identifier.to_bytes(2, "big"))


def suback(identifier: int, codes: Sequence[int]) -> bytes:
    """Return a SUBACK."""
    return whole(SUBACK, identifier.to_bytes(2, "big") + bytes(codes))


def unsuback(identifier: int) -> bytes:
    """Return an UNSUBACK."""
    return whole(UNSUBACK, identifier.to_bytes(2, "big"))


def pingresp() -> bytes:
    """Return a PINGRESP."""
    return whole(PINGRESP, b"")


def publish(topic: str | bytes, payload: bytes, qos: int = 0, identifier: int = 1, retain: bool = False) -> bytes:
    """Return a PUBLISH; a topic in bytes may be what UTF-8 is not."""
    name = topic.encode() if isinstance(topic, str) else topic
    number = identifier.to_bytes(2, "big") if qos else b""
    return whole(PUBLISH | qos << 1 | retain, len(name).to_bytes(2, "big") + name + number + payload)


def length(size: int) -> bytes:
    """Return a remaining length (MQTT 3.1.1, 2.2.3)."""
    encoded = bytearray()
    while True:
        size, low = divmod(size, 128)
        encoded.append(low | (0x80 if size else 0))
        if not size:
            return bytes(encoded)


def take(stream: bytearray) -> tuple[int, bytes] | None:
    """Take the first whole packet out of the stream, as its first byte and its body; None where there is none yet."""
    size = 0
    for position, byte in enumerate(stream[1:5], start=2):
        size |= (byte & 0x7F) << 7 * (position - 2)
        if not byte & 0x80:
            if len(stream) < position + size:
                return None
            first, body = stream[0], bytes(stream[position:position + size])
            del stream[:position + size]
            return first, body
    if len(stream) >= 5:
        raise Malformed("a remaining length of more than four bytes")
    return None


def whole(first: int, body: bytes) -> bytes:
    """Return a packet with this first byte."""
    return bytes((first,)) + length(len(body)) + body


class _Reader:
    def __init__(self, body: bytes) -> None:
        self._body = body
        self._position = 0

    def take(self, size: int) -> bytes:
        piece = self._body[self._position:self._position + size]
        if len(piece) < size:
            raise Malformed("a packet ends inside a field")
        self._position += size
        return piece

    def number(self) -> int:
        return int.from_bytes(self.take(2), "big")

    def field(self) -> bytes:
        return self.take(self.number())

    def left(self) -> int:
        return len(self._body) - self._position

    def rest(self) -> bytes:
        return self.take(self.left())

    def end(self) -> None:
        if self.left():
            raise Malformed("a packet is longer than its fields")
