"""The limits of AWS IoT Core on what a client sends, and what else it does otherwise than MQTT says. Pure.

Sources: AWS IoT Core developer guide "MQTT", "MQTT topics", "reserved topics"; "endpoints and quotas".
"""

from __future__ import annotations

import re
from collections import deque

from tests.faults import packets

MAX_PAYLOAD_BYTES = 128 * 1024
MAX_PACKET_BYTES = MAX_PAYLOAD_BYTES + 64 * 1024  # with every topic that MQTT allows
MAX_TOPIC_BYTES = 256
MAX_SLASHES = 7
MAX_FILTERS = 8  # of one SUBSCRIBE
MAX_SUBSCRIPTIONS = 50  # of one client
MAX_PUBLISHES_PER_S = 100  # of one line, in both directions together
MAX_SHADOW_REQUESTS_PER_S = 20  # of one thing
MAX_CLIENT_ID_BYTES = 128
# One a second: what was a second apart when it was sent may be less when it arrives.
MIN_RETAINED_GAP_S = MIN_CONNECT_GAP_S = 0.9

_BASIC_INGEST = re.compile(r"^\$aws/rules/[^/]+/")
_PUBLISHED = re.compile(r"\$aws/(rules/[^/]+/|things/|certificates/|provisioning-templates/)")
_SUBSCRIBED = re.compile(r"\$(aws|share)/")


class Spacing:
    """How far apart things of one name have to be."""

    def __init__(self, gap_s: float) -> None:
        self._gap_s = gap_s
        self._last: dict[str, float] = {}

    def take(self, name: str, now: float) -> bool:
        """Tell whether it is its time; what came too early does not count."""
        if now - self._last.get(name, -self._gap_s) < self._gap_s:
            return False
        self._last[name] = now
        return True


def take_place(passed: deque[float], now: float, most: int = MAX_PUBLISHES_PER_S) -> bool:
    """Take one of the places of this second; tell whether one was left."""
    while passed and passed[0] <= now - 1:
        passed.popleft()
    if len(passed) >= most:
        return False
    passed.append(now)
    return True


def keepalive(asked_s: int) -> int:
    """Return the keep-alive that is held to: 30 to 1200 s, 0 being the longest."""
    return min(max(asked_s or 1200, 30), 1200)


def client_problem(client_id: str) -> str | None:
    """Judge a client id."""
    if not client_id or client_id.startswith("$") or len(client_id.encode()) > MAX_CLIENT_ID_BYTES:
        return f"client id {client_id[:40]!r}: 1 to {MAX_CLIENT_ID_BYTES} bytes that do not begin with $"
    return None


def publish_problem(topic: str, retain: bool, payload_bytes: int) -> str | None:
    """Judge what is published."""
    if payload_bytes > MAX_PAYLOAD_BYTES:
        return f"a payload of {payload_bytes} bytes; {MAX_PAYLOAD_BYTES} are allowed"
    if topic.startswith("$") and not _PUBLISHED.match(topic):
        return f"{topic} is reserved"
    if topic.startswith("$") and retain:
        return f"RETAIN on {topic}, which is reserved"
    return _text_problem(topic)


def filter_problem(name: str) -> str | None:
    """Judge a filter."""
    if name.startswith("$") and not _SUBSCRIBED.match(name):
        return f"{name} is reserved"
    return _text_problem(name)


def matches(name: str, topic: str) -> bool:
    """Tell whether a filter matches a topic; `a/#` does not match `a`, as it does elsewhere."""
    levels, parts = name.split("/"), topic.split("/")
    if levels[0] == "$share":
        levels = levels[2:]
    if topic.startswith("$") and levels[0] in ("+", "#"):
        return False
    if levels[-1] == "#":
        levels.pop()
        if len(parts) <= len(levels):
            return False
        parts = parts[:len(levels)]
    return len(levels) == len(parts) and all(level in ("+", part) for level, part in zip(levels, parts))


def connect(body: bytes, keepalive_s: int, with_will: bool) -> bytes:
    """Return the CONNECT with another keep-alive, and with its will or without."""
    flags, fields = body[7], list(_fields(body[10:]))
    if flags & 0x04 and not with_will:
        flags &= ~0x3C
        fields[1:3] = []
    return packets.whole(packets.CONNECT, body[:7] + bytes((flags,)) + keepalive_s.to_bytes(2, "big")
                         + b"".join(len(field).to_bytes(2, "big") + field for field in fields))


def unsubscribed(body: bytes) -> list[str]:
    """Return the filters of an UNSUBSCRIBE."""
    return [field.decode() for field in _fields(body[2:])]


def _fields(data: bytes) -> list[bytes]:
    found = []
    while data:
        size = int.from_bytes(data[:2], "big")
        found.append(data[2:2 + size])
        data = data[2 + size:]
    return found


def _text_problem(text: str) -> str | None:
    counted = _BASIC_INGEST.sub("", text)
    if len(counted.encode()) > MAX_TOPIC_BYTES:
        return f"{text[:40]}…: {len(counted.encode())} bytes; {MAX_TOPIC_BYTES} are allowed"
    if counted.count("/") > MAX_SLASHES:
        return f"{text}: {counted.count('/')} slashes; {MAX_SLASHES} are allowed"
    return None
