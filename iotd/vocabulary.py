"""What happens to the daemon (events), and what its rules ask of it (effects), as small frozen values.

An event enters the one inbox of the main loop; an effect leaves a rule and is performed by that loop alone. What only
one wing knows of stands in that wing. `line` numbers the connections of one run from 1: what belongs to an earlier one
is recognised and ignored.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

Json = Any  # what json.loads returns: dict, list, str, int, float, bool or None


class Message(NamedTuple):
    """One MQTT application message to publish (MQTT 3.1.1, 3.3)."""

    topic: str
    payload: bytes
    qos: int = 1
    retain: bool = False


class Offer(NamedTuple):
    """A message that a program hands over. `offline` is what becomes of it where it cannot be sent now: queue, latest
    or drop.
    """

    message: Message
    offline: str = "queue"


class Taken(NamedTuple):
    """What became of an offer: it is `kept` under this id, or `dropped` or `refused` and why; else it was sent."""

    kept: int = 0
    dropped: str = ""
    refused: str = ""


class Dialled(NamedTuple):
    """CONNACK came with code 0: the line is up."""

    line: int
    session_present: bool


class Spent(NamedTuple):
    """A packet that was sent to the last repeat, and never acknowledged.

    `kind` is PUBLISH, SUBSCRIBE or UNSUBSCRIBE; `names` are its topic, or its filters; `token` is that of a publish.
    """

    kind: str
    names: tuple[str, ...]
    token: int | None = None


class Down(NamedTuple):
    """The line is down, or never came up.

    `cause` is a slug: asked, dns, tcp, proxy, tls, certificate, clock, websocket, password, connack, refused, closed,
    reset, network, silent, unacknowledged, protocol, fault. closed and reset alone are the broker's doing; a fault is a
    bug of ours, with its `traceback`. `was_up` tells whether CONNACK had been received. `spent` is what was not
    acknowledged, where that is the cause. `layer` is that of `iotd doctor`, where the cause alone does not tell it.
    """

    line: int
    cause: str
    reason: str
    was_up: bool
    traceback: str = ""
    spent: Spent | None = None
    layer: str = ""


class Acknowledged(NamedTuple):
    """The broker has taken the publish with this token: PUBACK at QoS 1, handed to the socket at QoS 0."""

    line: int
    token: int


class Subscribed(NamedTuple):
    """A SUBACK: the return code of each filter (0, 1, 2, or 128 for refused; MQTT 3.1.1, 3.9.3)."""

    line: int
    codes: tuple[tuple[str, int], ...]


class Received(NamedTuple):
    """A PUBLISH from the broker."""

    line: int
    topic: str
    payload: bytes
    qos: int
    retain: bool


class PassedOver(NamedTuple):
    """A PUBLISH from the broker whose payload of so many `bytes` was too large to take; it was acknowledged."""

    line: int
    topic: str
    bytes: int


class Signalled(NamedTuple):
    """A POSIX signal was caught."""

    number: int


class ThreadFailed(NamedTuple):
    """A thread of ours ended with an exception that nobody expected."""

    thread: str
    traceback: str


class Overridden(NamedTuple):
    """The cloud has given a setting another value: the settings in force are to be made up anew."""


class HealthChanged(NamedTuple):
    """What `iotd status` calls healthy has changed; it is known once that is renewed."""

    healthy: bool


class Reread(NamedTuple):
    """What the configuration depends on beside its file has changed, `why` says what: it is to be read anew."""

    why: str


class Changed(NamedTuple):
    """These values, which stand from one reading to the next, are not what they were."""

    names: frozenset[str]


class Entry(NamedTuple):
    """One log line: `level` as in logging, `event` a stable slug, `message` a sentence for a person."""

    level: int
    event: str
    message: str
    fields: Mapping[str, Any] = {}


class Send(NamedTuple):
    """Publish now, past the spool: the message speaks of this very moment and is made anew on the next line."""

    message: Message
