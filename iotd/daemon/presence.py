"""What stands on the presence topic: Connected while the line is up, Stopped or Rebooting after a clean end, and
the will, "Communication lost", that the broker says for a device that cannot. Pure.

All of them share one topic, one QoS and one retain flag, and carry the id of their connection, so that a reader
can tell a late will of an older connection (AWS may publish it after the new one's Connected) from the truth.
"""

import json
import logging
import math
from typing import Any, NamedTuple

from iotd.config.settings import Presence
from iotd.vocabulary import Entry, Message, Received

LOST = "Communication lost"
CONNECTED = "Connected"
STOPPED = "Stopped"
REBOOTING = "Rebooting"

# AWS IoT Core takes one retained publish a second for a topic.
PAUSE_S = 1.0


class Standing(NamedTuple):
    """What this connection has said: when last, and when Connected is to be said again (math.inf: it stands)."""

    session: str
    said_at: float
    again_at: float = math.inf


def status(presence: Presence, hostname: str, session: str, word: str, **more: Any) -> Message:
    """Return the message that puts `word` on the presence topic for the connection with this id."""
    body = {"Hostname": hostname, "status": word, "session": session, **more}
    payload = json.dumps(body, ensure_ascii=False).encode("utf-8")
    return Message(presence.topic, payload, presence.qos, presence.retain)


def heard(standing: Standing, hostname: str, received: Received, now: float) -> tuple[Standing, Entry | None]:
    """Return the standing after a message on the presence topic while the line is up, and what to log.

    A will that speaks for this device is untrue while it is connected: Connected is owed again, no sooner than the
    pause allows. Whatever else stands there (our own words, another device on a shared topic, what no device of ours
    would say) changes nothing, so that two devices never answer each other for ever.
    """
    try:
        body = json.loads(received.payload)
    except (ValueError, RecursionError):
        body = None
    if not isinstance(body, dict):
        return standing, Entry(logging.WARNING, "presence.unreadable",
                               "somebody else writes on the presence topic; ignored", {"topic": received.topic})
    if body.get("status") != LOST or body.get("Hostname") != hostname:
        return standing, None
    again_at = max(now, standing.said_at + PAUSE_S)
    return standing._replace(again_at=again_at), Entry(
        logging.INFO, "presence.overruled", "a late will says that this device is lost; it says Connected again",
        {"session": str(body.get("session"))[:40]})
