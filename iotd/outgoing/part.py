"""The way out: what is due is filled, kept in the spool, chosen by the outbox, handed to the session, forgotten."""

from __future__ import annotations

import logging
import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple

from iotd import schedule
from iotd.config import template
from iotd.config.settings import Settings
from iotd.daemon.part import Kernel, Part
from iotd.host import log
from iotd.outgoing import outbox
from iotd.outgoing.disk import Disk
from iotd.outgoing.journal import Journal
from iotd.outgoing.line_file import LineFile
from iotd.outgoing.outbox import Waiting
from iotd.outgoing.section import Publish
from iotd.outgoing.spool import Spool
from iotd.vocabulary import Entry, Json, Message


class Adapters(NamedTuple):
    """How the files of the spool are opened."""

    line_file: Callable[[str], LineFile] = LineFile
    disk: Callable[[str], Disk] = Disk


def build(kernel: Kernel, adapters: Adapters | None) -> Outgoing:
    """Return the part; it takes up what an earlier run has left."""
    return Outgoing(kernel, adapters or Adapters())


class Outgoing(Part):
    """The scheduled messages, from their time to their PUBACK."""

    def __init__(self, kernel: Kernel, adapters: Adapters) -> None:
        world = kernel.world
        self._kernel = kernel
        self._world = world
        journal = Journal(adapters.line_file(str(world.places.runtime / "spool.journal")))
        disk = adapters.disk(str(world.places.state / "spool.db"))
        self._spool = Spool(journal, disk, kernel.written.sections["spool"], world.boot_id, world.monotonic())
        self._outbox = outbox.Outbox()
        self._entries: tuple[Publish, ...] = ()
        self._fills: list[Callable[[Mapping[str, Json]], str]] = []
        self._max_bytes: int | None = None
        self._timetable = schedule.EMPTY
        self._sequence: Counter[str] = Counter()
        self._transient: dict[int, str] = {}
        self._acknowledged: list[int] = []
        self._again_at = self._settle_at = math.inf
        self._reopened = self._spool.reopened
        self._names: frozenset[str] = frozenset()

    def in_flight(self) -> list[str]:
        """Return what the broker has yet to acknowledge, as actions."""
        self._forget_acknowledged()
        return [f"publish to {flight.topic}" for flight in self._outbox.in_flight.values()]

    def apply(self, settings: Settings, now: float) -> None:
        """Let the settings take effect; an entry that stayed as it was keeps its times."""
        limited, publish = settings.mqtt.aws_limits, settings.sections["publish"]
        same = {index for index, (new, old) in enumerate(zip(publish, self._entries)) if new == old}
        known = self._timetable._replace(every_s={index: self._timetable.every_s[index] for index in same})
        self._entries = publish
        self._names = template.placeholders([entry.payload for entry in publish]) - {"sequence"}
        self._fills = [template.compile_json(entry.payload) for entry in publish]
        self._max_bytes = outbox.MAX_PAYLOAD_BYTES if limited else None
        self._timetable = schedule.changed(known, {index: entry.every_s for index, entry in enumerate(publish)}, now)
        self._outbox = self._outbox._replace(limits=outbox.AWS if limited else outbox.UNLIMITED)
        self._spool.bounds = settings.sections["spool"]

    def next_due(self) -> float:
        """Return when there is something to do."""
        self._settle_at = self._spool.settle_at()
        return min(self._timetable.next_due, self._settle_at, self._again_at if self._kernel.clear else math.inf)

    def keep(self, now: float) -> None:
        """Make what is due, hand over what may go, and let the spool do what is due."""
        self._make_due(now)
        if self._kernel.clear:
            self._pump(now)
            crowded = self._outbox.cursor < self._spool.last_id
            self._acknowledged += self._kernel.acknowledged(eager=crowded)
            if crowded and self._acknowledged:  # those that came before it was said
                self._pump(now)
        else:
            self._forget_acknowledged()
        if now >= self._settle_at:
            self._spool.settle(now, self._world.known_wall() if self._spool.asks_the_clock(now) else None)
        self._spool.flush()
        self._kernel.outages.dropped = self._spool.dropped.total()

    def closed(self, blamed: bool, now: float) -> None:
        """The line is down: what was in flight waits on disk for the next one."""
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
        self.settle(now)

    def settle(self, now: float) -> None:
        """Bring everything to the disk."""
        self._spool.settle(now, self._world.known_wall(), everything=True)
        self._kernel.outages.dropped = self._spool.dropped.total()

    def close(self, now: float) -> None:
        """Bring everything to the disk and close its files."""
        self._forget_acknowledged()
        self._spool.close(now, self._world.known_wall())

    def waiting(self) -> int:
        """Return how many messages wait for their PUBACK."""
        return self._spool.count

    def status(self) -> dict[str, Json]:
        """Return what waits and what was dropped."""
        return {"waiting": self._spool.count, "waiting_bytes": self._spool.size, "dropped": dict(self._spool.dropped)}

    def problems(self) -> list[str]:
        """Return what is wrong with the files, and the topics that the broker denies."""
        return [*self._spool.failures, *(f"publish to {topic} denied" for topic in self._outbox.denied)]

    def sentences(self) -> list[str]:
        """Return what waits and what was dropped."""
        return [f"waiting for the broker: {self._spool.count} messages, {self._spool.size} bytes",
                *(f"dropped: {count} messages of {topic}" for topic, count in self._spool.dropped.items())]

    def _make_due(self, now: float) -> None:
        due, self._timetable = schedule.take(self._timetable, now)
        if not due:
            return
        self._forget_acknowledged()  # first, since the journal is told of both in one write(2)
        found = self._kernel.values(self._names)
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

    def _pump(self, now: float) -> None:
        """Forget what is acknowledged, and hand over what waits, as far as the limits allow."""
        self._forget_acknowledged()
        self._again_at = math.inf
        publishes, size = self._kernel.passed()
        self._outbox = outbox.spent(self._outbox, publishes, size, now)
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

    def _send_or_drop(self, entry: Publish, payload: bytes, now: float) -> None:
        """Send a message that is not worth keeping, or nothing."""
        waiting = Waiting(self._spool.next_id(), entry.topic, payload, entry.qos, entry.retain)
        if entry.retain:
            self._spool.newest[entry.topic] = waiting.id
        chosen: list[tuple[int, Message]] = []
        if self._kernel.connected and entry.topic not in self._outbox.denied:
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
            self._kernel.hand_over(number, message)
            if log.enabled(logging.DEBUG):
                log.write(Entry(logging.DEBUG, "message.published", "handed to the broker", {
                    "topic": message.topic, "qos": message.qos, "retain": message.retain,
                    **log.readable(message.payload)}))

    def _forget_acknowledged(self) -> None:
        self._acknowledged += self._kernel.acknowledged()
        if self._acknowledged:
            ids, self._acknowledged = self._acknowledged, []
            self._outbox = outbox.acknowledged(self._outbox, ids)
            kept = [number for number in ids if self._transient.pop(number, None) is None]
            if kept:
                self._spool.forget(kept)
