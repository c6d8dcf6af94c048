"""What the log is told of lines: that one is up or down, and of what lasts once an hour."""

from __future__ import annotations

import logging
import math

from iotd.host import log
from iotd.vocabulary import Down, Entry, PassedOver

REPEAT_S = 3600.0
MAX_NAMED = 100  # topics of which is remembered when they were named


class LineLog:
    """The log of one line after the other."""

    def __init__(self, now: float) -> None:
        self._failure = ("", now, 0)  # the last one that was told, when, and how many like it came since
        self._passed_over: dict[str, float] = {}  # when a topic was named for a message too large to take

    def connected(self, host: str, port: int, session_present: bool, waiting: int, now: float) -> None:
        """Tell that a line is up; whatever fails next is news."""
        self._failure = ("", now, 0)
        log.info("session.connected", f"connected to {host}", host=host, port=port, session_present=session_present,
                 waiting=waiting)

    def down(self, event: Down, cause: str, retry_in_s: float | None, now: float) -> None:
        """Tell the end of a line, or of an attempt at one: a failure that lasts once, and again each hour, counted."""
        if event.was_up:
            level = logging.INFO if cause == "asked" else logging.WARNING
            log.write(Entry(level, "session.disconnected", f"the line is down: {event.reason}", {
                "reason": event.reason, "cause": cause, "retry_in_s": retry_in_s}))
        else:
            said, said_at, count = self._failure
            if cause == "asked" or (said == f"{cause}: {event.reason}" and now < said_at + REPEAT_S):
                self._failure = (said, said_at, count + 1)
                return
            log.warning("session.connect_failed", f"no line to the broker: {event.reason}", reason=event.reason,
                        cause=cause, retry_in_s=retry_in_s, attempts=count + 1)
            self._failure = (f"{cause}: {event.reason}", now, 0)
        if event.traceback:
            log.error("daemon.fault", "a bug in iotd ended this line; the next one is dialled all the same",
                      traceback=event.traceback)

    def passed_over(self, event: PassedOver, now: float) -> None:
        """Name a topic on which a message was too large to take; again only after an hour."""
        if now < self._passed_over.get(event.topic, -math.inf) + REPEAT_S:
            return
        self._passed_over.pop(event.topic, None)
        self._passed_over[event.topic] = now
        if len(self._passed_over) > MAX_NAMED:
            del self._passed_over[next(iter(self._passed_over))]
        log.warning("message.passed_over", "a message of more than 1 MB came in; it is acknowledged and not kept",
                    topic=event.topic, bytes=event.bytes)
