"""What stands on the presence topic: Connected while the line is up, Stopped or Rebooting after a clean end, and
the will, "Communication lost", that the broker says for a device that cannot. Pure.

All of them share one topic, one QoS and one retain flag, and carry the id of their connection, so that a reader
can tell a late will of an older connection (AWS may publish it after the new one's Connected) from the truth.
"""

import json
import logging
import math
import re
from typing import Any, NamedTuple

from iotd.config.settings import Presence
from iotd.vocabulary import Entry, Message, Received

LOST = "Communication lost"
CONNECTED = "Connected"
STOPPED = "Stopped"
REBOOTING = "Rebooting"

# AWS IoT Core takes one retained publish a second for a topic, as they arrive: the first may have been the slower one.
PAUSE_S = 1.5
EARLIER_SESSIONS = 8


class Standing(NamedTuple):
    """What this connection has said: when last, and when Connected is to be said again (math.inf: it stands).

    `earlier` are the sessions of the connections before it. `rival` is the host of another client that has said
    Connected in the name of this device. `unreadable`: that somebody writes what makes no sense was told.
    """

    session: str
    said_at: float
    again_at: float = math.inf
    earlier: tuple[str, ...] = ()
    rival: str | None = None
    unreadable: bool = False


def next_line(standing: Standing, session: str) -> Standing:
    """Return the standing of a new connection, which has not said anything."""
    return Standing(session, 0.0, earlier=(*standing.earlier, standing.session)[-EARLIER_SESSIONS:])


def is_own(topic: str, thing: str) -> bool:
    """Tell whether the topic holds the name of the thing, so that nobody else has anything to say there."""
    return re.search(rf"(?<![^\W_]){re.escape(thing)}(?![^\W_])", topic) is not None


def status(presence: Presence, hostname: str, session: str, word: str, **more: Any) -> Message:
    """Return the message that puts `word` on the presence topic for the connection with this id."""
    body = {"Hostname": hostname, "status": word, "session": session, **more}
    payload = json.dumps(body, ensure_ascii=False).encode("utf-8")
    return Message(presence.topic, payload, presence.qos, presence.retain)


def heard(
    standing: Standing, own: bool, hostname: str, received: Received, now: float
) -> tuple[Standing, Entry | None]:
    """Return the standing after a message on the presence topic while the line is up, and what to log.

    On the device's `own` topic whatever is not of this connection is untrue: a late will or Stopped, another's word,
    nothing at all. Connected is owed again, no sooner than the pause allows. On a topic that devices share only a will
    that names this host is untrue, so that two of them never answer each other for ever.
    """
    try:
        body = json.loads(received.payload) if received.payload else {}
    except (ValueError, RecursionError):
        body = None
    if not isinstance(body, dict):
        entry = None if standing.unreadable else Entry(
            logging.WARNING, "presence.unreadable", "somebody else writes on the presence topic what makes no sense",
            {"topic": received.topic})
        standing = standing._replace(unreadable=True)
        return (_owed(standing, now) if own else standing), entry
    word, session = body.get("status"), body.get("session")
    if own and word == CONNECTED and session not in (standing.session, *standing.earlier):
        standing = standing._replace(rival=str(body.get("Hostname"))[:64])
    lost = word == LOST and body.get("Hostname") == hostname
    if not lost and not (own and session != standing.session):
        return standing, None
    entry = Entry(logging.INFO, "presence.overruled", "what came on the presence topic is not true; Connected is said"
                  " again", {"status": str(word)[:40] if received.payload else None, "session": str(session)[:40]})
    return _owed(standing, now), entry if standing.again_at == math.inf else None


def _owed(standing: Standing, now: float) -> Standing:
    return standing._replace(again_at=min(standing.again_at, max(now, standing.said_at + PAUSE_S)))
