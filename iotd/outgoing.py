"""The way out: what is due is filled, kept in the spool, chosen by the outbox, handed to the session, forgotten.

Used by the main thread alone.
"""

from __future__ import annotations

import logging
import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping

from iotd import log, outbox, schedule, template
from iotd.model import Entry, Message
from iotd.outbox import Waiting
from iotd.settings import Json, Publish, Settings
from iotd.spool import Spool

Hand = Callable[[int, Message], None]  # gives a message with its id to the session


class Outgoing:
    """The scheduled messages, from their time to their PUBACK. `hand_over` is only called while the line is up."""

    def __init__(self, spool: Spool, hand_over: Hand) -> None:
        self._spool = spool
        self._hand_over = hand_over
        self._outbox = outbox.Outbox()
        self._entries: tuple[Publish, ...] = ()
        self._fills: list[Callable[[Mapping[str, Json]], str]] = []
        self._max_bytes: int | None = None
        self._timetable = schedule.EMPTY
        self._sequence: Counter[str] = Counter()
        self._transient: dict[int, str] = {}
        self._acknowledged: list[int] = []
        self._again_at = self._settle_at = math.inf
        self._reopened = spool.reopened
        self._up = False

    @property
    def denied(self) -> Iterable[str]:
        """The topics that the broker denies."""
        return self._outbox.denied

    def in_flight(self) -> list[str]:
        """Return what the broker has yet to acknowledge, as actions."""
        self._forget_acknowledged()
        return [f"publish to {flight.topic}" for flight in self._outbox.in_flight.values()]

    @property
    def crowded(self) -> bool:
        """Whether messages wait for others to be acknowledged."""
        return self._up and self._outbox.cursor < self._spool.last_id

    def apply(self, settings: Settings, now: float) -> None:
        """Let the settings take effect; an entry that stayed as it was keeps its times."""
        limited = settings.mqtt.aws_limits
        same = {index for index, (new, old) in enumerate(zip(settings.publish, self._entries)) if new == old}
        known = self._timetable._replace(every_s={index: self._timetable.every_s[index] for index in same})
        self._entries = settings.publish
        self._fills = [template.compile_json(entry.payload) for entry in settings.publish]
        self._max_bytes = outbox.MAX_PAYLOAD_BYTES if limited else None
        self._timetable = schedule.changed(
            known, {index: entry.every_s for index, entry in enumerate(settings.publish)}, now)
        self._outbox = self._outbox._replace(limits=outbox.AWS if limited else outbox.UNLIMITED)
        self._spool.bounds = settings.spool

    def next_due(self) -> float:
        """Return when there is something to do, in monotonic seconds, math.inf for never."""
        self._settle_at = self._spool.settle_at()
        return min(self._timetable.next_due, self._settle_at, self._again_at if self._up else math.inf)

    def make_due(self, values: Callable[[], dict[str, Json]], now: float) -> None:
        """Make every message that is due; `values` gives what the placeholders stand for, without {sequence}."""
        due, self._timetable = schedule.take(self._timetable, now)
        if not due:
            return
        self._forget_acknowledged()  # first, since the journal is told of both in one write(2)
        found = values()
        for index in due:
            entry = self._entries[index]
            self._sequence[entry.topic] += 1
            found["sequence"] = self._sequence[entry.topic]
            payload = self._fills[index](found).encode("utf-8", "backslashreplace")
            if self._max_bytes is not None and len(payload) > self._max_bytes:
                log.warning("publish.too_large", "the message is larger than AWS IoT Core takes; it is not sent",
                            topic=entry.topic, bytes=len(payload), max_bytes=self._max_bytes)
            elif entry.offline == "drop":
                self._send_or_drop(entry, payload, now)
            else:
                self._spool.put(self._spool.next_id(), Message(entry.topic, payload, entry.qos, entry.retain),
                                entry.offline == "latest", now)

    def pump(self, now: float) -> None:
        """Forget what is acknowledged, and hand over what waits, as far as the limits allow."""
        self._forget_acknowledged()
        self._again_at = math.inf
        if not self._up:
            return
        self._outbox, resting = outbox.resting(self._outbox, now)
        if self._reopened != self._spool.reopened:  # a store came back, with messages behind the cursor
            self._reopened = self._spool.reopened
            self._outbox = self._outbox._replace(cursor=0)
        while self._outbox.cursor < self._spool.last_id:
            room = outbox.room(self._outbox)
            rows = self._spool.fetch(self._outbox.cursor, room, resting) if room else []
            if room and not rows:
                self._outbox = self._outbox._replace(cursor=self._spool.last_id)
            cursor = self._outbox.cursor
            self._outbox, chosen, self._again_at = outbox.take(self._outbox, rows, self._spool.newest, now)
            if self._outbox.cursor == cursor:
                return
            self._give(chosen)

    def acknowledged(self, number: int) -> None:
        """Take the PUBACK of a message; `pump` acts on all of them at once."""
        self._acknowledged.append(number)

    def spent(self, publishes: int, size: int, now: float) -> None:
        """Count publishes that came in, or went past: they share the broker's limit."""
        self._outbox = outbox.spent(self._outbox, publishes, size, now)

    def rise(self) -> None:
        """The line is up."""
        self._up = True

    def fall(self, blamed: bool, now: float, at: float | None) -> None:
        """The line is down, ended by the broker where `blamed`: what was in flight waits on disk for the next one."""
        self._up = False
        self._forget_acknowledged()
        self._outbox, verdict = outbox.fell(self._outbox, blamed, now)
        for topic in self._transient.values():
            self._spool.dropped[topic] += 1
        self._transient.clear()
        if verdict.aside is not None:
            self._spool.set_aside(verdict.aside)
        if verdict.back is not None:
            self._spool.take_back(verdict.back)
        for entry in verdict.entries:
            log.write(entry)
        self._spool.settle(now, at, everything=True)

    def settle(self, now: float, at: Callable[[], float | None]) -> None:
        """End a turn: let the spool do what is due; `at` gives the wall clock, None while nobody has set it."""
        if now >= self._settle_at:
            self._spool.settle(now, at() if self._spool.asks_the_clock(now) else None)
        self._spool.flush()

    def _send_or_drop(self, entry: Publish, payload: bytes, now: float) -> None:
        """Send a message that is not worth keeping, or nothing."""
        waiting = Waiting(self._spool.next_id(), entry.topic, payload, entry.qos, entry.retain)
        if entry.retain:
            self._spool.newest[entry.topic] = waiting.id
        chosen: list[tuple[int, Message]] = []
        if self._up and entry.topic not in self._outbox.denied:
            cursor = self._outbox.cursor
            self._outbox, chosen, _ = outbox.take(self._outbox, [waiting], {}, now)
            self._outbox = self._outbox._replace(cursor=cursor)
        if chosen:
            self._transient[waiting.id] = entry.topic
            self._give(chosen)
        else:
            self._spool.dropped[entry.topic] += 1

    def _give(self, chosen: Iterable[tuple[int, Message]]) -> None:
        for number, message in chosen:
            self._hand_over(number, message)
            if log.enabled(logging.DEBUG):
                log.write(Entry(logging.DEBUG, "message.published", "handed to the broker", {
                    "topic": message.topic, "qos": message.qos, "retain": message.retain,
                    **log.readable(message.payload)}))

    def _forget_acknowledged(self) -> None:
        if self._acknowledged:
            ids, self._acknowledged = self._acknowledged, []
            self._outbox = outbox.acknowledged(self._outbox, ids)
            kept = [number for number in ids if self._transient.pop(number, None) is None]
            if kept:
                self._spool.forget(kept)
