"""What happens to the daemon (events), and what its rules ask of it (effects), as small frozen values.

An event enters the one inbox of the main loop; an effect leaves a rule and is performed by that loop alone.
`line` numbers the connections of one run from 1: what belongs to an earlier one is recognised and ignored.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Mapping


@dataclass(frozen=True, slots=True)
class Message:
    """One MQTT application message to publish (MQTT 3.1.1, 3.3)."""

    topic: str
    payload: bytes
    qos: int = 1
    retain: bool = False


@dataclass(frozen=True, slots=True)
class Dialled:
    """CONNACK came with code 0: the line is up."""

    line: int
    session_present: bool


@dataclass(frozen=True, slots=True)
class Down:
    """The line is down, or never came up.

    `cause` is a slug: asked, dns, tcp, tls, certificate, clock, connack, refused, closed, reset, silent,
    unacknowledged, protocol, fault. `was_up` tells whether CONNACK had been received.
    """

    line: int
    cause: str
    reason: str
    was_up: bool


@dataclass(frozen=True, slots=True)
class Acknowledged:
    """The broker has taken the publish with this token: PUBACK at QoS 1, handed to the socket at QoS 0."""

    line: int
    token: int


@dataclass(frozen=True, slots=True)
class Subscribed:
    """A SUBACK: the return code of each filter (0, 1, 2, or 128 for refused; MQTT 3.1.1, 3.9.3)."""

    line: int
    codes: tuple[tuple[str, int], ...]


@dataclass(frozen=True, slots=True)
class Received:
    """A PUBLISH from the broker."""

    line: int
    topic: str
    payload: bytes
    qos: int
    retain: bool


@dataclass(frozen=True, slots=True)
class Signalled:
    """A POSIX signal was caught."""

    number: int


@dataclass(frozen=True, slots=True)
class ThreadFailed:
    """A thread of ours ended with an exception that nobody expected."""

    thread: str
    traceback: str


@dataclass(frozen=True, slots=True)
class Entry:
    """One log line: `level` as in logging, `event` a stable slug, `message` a sentence for a person."""

    level: int
    event: str
    message: str
    fields: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Send:
    """Publish now, past the spool: the message speaks of this very moment and is made anew on the next line."""

    message: Message
