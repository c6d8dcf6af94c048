"""The way out: what is due is filled, kept in the spool, chosen by the outbox, handed to the session, forgotten."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import groupby
from typing import Any, NamedTuple

from iotd.config.settings import Settings
from iotd.daemon.part import Kernel, Part
from iotd.host import log
from iotd.outgoing import encoding, outbox
from iotd.outgoing.disk import Disk
from iotd.outgoing.journal import Journal
from iotd.outgoing.line_file import LineFile
from iotd.outgoing.outbox import Waiting
from iotd.outgoing.scheduled import Made, Scheduled
from iotd.outgoing.section import Publish
from iotd.outgoing.spool import Spool
from iotd.vocabulary import Changed, Entry, Json, Message, Offer, Taken

AHEAD, AHEAD_S = 1000, 0.05  # messages, and the time for which programs wait while there are more
STEP_S = 1.0  # the clock was set, not slewed


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
        self._thing = kernel.written.thing
        self._spool = Spool(journal, disk, kernel.written.sections["spool"], world.boot_id, world.monotonic(),
                            self._thing)
        self._outbox = outbox.Outbox()
        self._transient: dict[int, str] = {}
        self._again_at = self._settle_at = math.inf
        self._is_crowded: bool | None = None  # whether messages wait for the acknowledgement of others
        self._reopened = self._spool.reopened
        self._offset_s: float | None = None  # of the wall clock to the monotonic one, as a message was filled by it
        self._retained: Mapping[str, Publish] = {}  # by topic, those whose newest message the broker is to keep
        self._carrying: dict[int, Message] = {}  # in flight, with RETAIN
        self._standing: dict[str, tuple[int, Message]] = {}  # what stands retained, by topic
        self._scheduled = Scheduled(kernel, adapters.line_file(str(world.places.runtime / "batches.journal")),
                                    self._keep_made, self._goes_at_once, self._marked)
        self._scheduled.take_up(world.monotonic())

    def in_flight(self, now: float) -> list[str]:
        """Return what the line may end over, as actions."""
        self._forget_acknowledged()
        return [f"publish to {topic}" for topic in outbox.suspects(self._outbox, now)]

    def unacknowledged(self, number: int, now: float) -> None:
        """The broker has never acknowledged this message."""
        self._forget_acknowledged()
        self._outbox, verdict = outbox.unacknowledged(self._outbox, number, now)
        self._execute(verdict)

    def session_lost(self, now: float) -> None:
        """Keep what stood retained once more, but where a newer message waits for the broker anyway."""
        for topic, (number, message) in self._standing.items():
            if topic in self._retained and self._spool.newest.get(topic) == number:
                self._spool.put(self._spool.next_id(), message, self._retained[topic].offline != "queue", now)

    def apply(self, settings: Settings, now: float) -> None:
        """Let the settings take effect; an entry that stayed as it was keeps its times."""
        limited, publish = settings.mqtt.aws_limits, settings.sections["publish"]
        self._scheduled.apply(settings, now)
        self._outbox = self._outbox._replace(
            limits=outbox.AWS if limited else outbox.UNLIMITED, topics=frozenset(entry.topic for entry in publish))
        self._retained = {entry.topic: entry for entry in publish if entry.retain}
        self._standing = {topic: kept for topic, kept in self._standing.items() if topic in self._retained}
        self._spool.bounds = settings.sections["spool"]
        if settings.thing != self._thing:
            self._thing = settings.thing
            self._spool.belong_to(settings.thing)

    def next_due(self) -> float:
        """Return when there is something to do."""
        self._settle_at = self._spool.settle_at()
        due_at = min(self._scheduled.next_due(), self._settle_at)
        return min(due_at, self._again_at) if self._again_at < due_at and self._kernel.clear else due_at

    def keep(self, now: float) -> None:
        """Make what is due, hand over what may go, and let the spool do what is due."""
        self._forget_acknowledged()  # first, since the journal is told of it and of what is made in one write(2)
        self._scheduled.make_due(now)
        if self._kernel.clear:
            self._pump(now)
            crowded = self._outbox.cursor < self._spool.last_id
            if crowded != self._is_crowded:
                self._is_crowded = crowded
                if self._forget_acknowledged(eager=crowded) and crowded:  # those that came before it was said
                    self._pump(now)
        if now >= self._settle_at and not self._spool.open_disk(now):  # which on a slow card is a turn's work
            self._spool.settle(now, self._world.known_wall() if self._spool.asks_the_clock(now) else None)
        self._spool.flush()
        self._kernel.outages.dropped = self._spool.dropped.total()

    def handlers(self) -> dict[type, Callable[[Any, float], None]]:
        """Return who takes what has been measured."""
        return {Changed: self._scheduled.on_changed}

    def closed(self, blamed: bool, now: float) -> None:
        """The line is down: what was in flight waits for the next one, on the disk within a turn or two."""
        self._forget_acknowledged()
        self._outbox, verdict = outbox.fell(self._outbox, blamed, now)
        for topic in self._transient.values():
            self._spool.dropped[topic] += 1
        self._transient.clear()
        self._carrying.clear()
        self._execute(verdict)
        self._spool.hurry(now)
        self._settle_at = now
        self._kernel.outages.dropped = self._spool.dropped.total()

    def settle(self, now: float) -> None:
        """Bring everything to the disk."""
        self._scheduled.settle(now)
        self._spool.settle(now, self._world.known_wall(), everything=True)
        self._kernel.outages.dropped = self._spool.dropped.total()

    def close(self, now: float) -> None:
        """Bring everything to the disk and close its files."""
        self._forget_acknowledged()
        self._scheduled.settle(now)
        self._scheduled.close()
        self._spool.close(now, self._world.known_wall())

    def publish(self, offers: Sequence[Offer], now: float) -> list[Taken]:
        """Keep a program's messages as the bounds of the spool say, or send those that are not worth keeping."""
        self._forget_acknowledged()  # first, since the journal is told of both in one write(2)
        taken: list[Taken] = []
        for transient, group in groupby(offers, lambda offer: offer.offline == "drop"):
            taken += ([self._send_offer(offer, now) for offer in group] if transient else
                      self._keep_offers(list(group), now))
        return taken

    def crowded_until(self, now: float) -> float:
        """Return until when programs are to wait: they make messages faster than the line takes them.

        At half of what may wait they wait for room. Before that they are only kept from running far ahead of a line
        that takes what it is given, for so long that one which does not shows.
        """
        if not self._kernel.connected:
            return 0.0
        if self._spool.size >= self._spool.bounds.max_bytes / 2:
            return math.inf
        ahead = self._kernel.clear and self._again_at == math.inf and self._spool.count > AHEAD
        return now + AHEAD_S if ahead else 0.0

    def waiting(self) -> int:
        """Return how many messages wait for their PUBACK."""
        return self._spool.count

    def status(self) -> dict[str, Json]:
        """Return what waits, what was dropped, and what is kept and not sent: by topic, and of other things."""
        return {"waiting": self._spool.count, "waiting_bytes": self._spool.size, "dropped": dict(self._spool.dropped),
                "poison": self._spool.poison, "set_aside": self._spool.others}

    def about(self) -> dict[str, Json]:
        """Return how many messages are kept and never sent."""
        return {"set_aside": sum(self._spool.poison.values()) or None}

    def problems(self) -> list[str]:
        """Return what is wrong with the files, and the topics that the broker denies."""
        return [*self._spool.failures, *(f"publish to {topic} denied" for topic in self._outbox.denied)]

    def sentences(self) -> list[str]:
        """Return the same for a person."""
        return [f"waiting for the broker: {self._spool.count} messages, {self._spool.size} bytes",
                *(f"dropped: {count} messages of {topic}" for topic, count in self._spool.dropped.items()),
                *(f"set aside: {count} messages of {topic}, over which the line ended or which were never acknowledged"
                  for topic, count in self._spool.poison.items()),
                *(f"set aside: {count} messages of the thing {thing}" for thing, count in self._spool.others.items())]

    def _goes_at_once(self) -> bool:
        """Tell whether a message that is made now goes out in this turn, as far as can be told."""
        return self._outbox.cursor >= self._spool.last_id and self._again_at == math.inf and self._kernel.clear

    def _marked(self, now: float) -> None:
        """A message has marks in the place of its times: by how much the clock is set until it goes out is told then.
        """
        if self._offset_s is None:
            self._offset_s = self._world.wall() - now

    def _keep_made(self, made: list[Made], now: float) -> list[bool]:
        """Keep what was made, all of it at once, or send what is not worth keeping; tell what is on its way."""
        rows, kept = [], []
        for message, offline, thing in made:
            if thing not in ("", self._thing):  # collected by an earlier run, for what was the thing then
                self._spool.belong_to(thing)
                self._spool.put(self._spool.next_id(), message, offline == "latest", now)
                self._spool.belong_to(self._thing)
            elif offline != "drop":
                rows.append((self._spool.next_id(), message, offline == "latest"))
            kept.append(offline != "drop" or not self._send_or_drop(message, now))
        if rows:
            self._spool.put_all(rows, now)
        return kept

    def _pump(self, now: float) -> None:
        """Hand over what waits, as far as the limits allow."""
        self._again_at = math.inf
        publishes, size = self._kernel.passed()
        self._outbox = outbox.spent(self._outbox, publishes, size, now)
        self._outbox, resting = outbox.resting(self._outbox, now)
        if self._reopened != self._spool.reopened:  # a store came back, with messages behind the cursor
            self._reopened = self._spool.reopened
            self._outbox = self._outbox._replace(cursor=0)
        # What a power cut has brought back may be older than what stands there, and what is awaited newer than both.
        awaited = self._scheduled.awaited()
        newest = {**self._spool.newest, **dict.fromkeys(awaited, self._spool.last_id + 1)} if awaited else (
            self._spool.newest)
        while self._outbox.cursor < self._spool.last_id:
            room = outbox.room(self._outbox)
            rows = self._spool.fetch(self._outbox.cursor, room, resting) if room else []
            if room and not rows:
                self._outbox = self._outbox._replace(cursor=self._spool.last_id)
            cursor = self._outbox.cursor
            self._outbox, chosen, self._again_at = outbox.take(self._outbox, rows, newest, now)
            if self._outbox.cursor == cursor:
                return
            self._give(chosen)
        self._offset_s = None

    def _execute(self, verdict: outbox.Verdict) -> None:
        if verdict.aside is not None:
            self._spool.set_aside(verdict.aside)
        if verdict.back is not None:
            self._spool.take_back(verdict.back)
        for entry in verdict.entries:
            log.write(entry)

    def _keep_offers(self, offers: Sequence[Offer], now: float) -> list[Taken]:
        ids = self._spool.keep_all([(message, offline == "latest") for message, offline in offers], now)
        if min(ids) > 0:
            return list(map(Taken, ids))
        why = {0: f"the message is larger than spool.max_bytes, {self._spool.bounds.max_bytes} bytes",
               -1: f"the spool cannot be written: {'; '.join(self._spool.failures)}"}
        return [Taken(number) if number > 0 else Taken(refused=why[number]) for number in ids]

    def _send_offer(self, offer: Offer, now: float) -> Taken:
        if self._kernel.leaving:
            return Taken(dropped="iotd is stopping, or about to reconnect")
        return Taken(dropped=self._send_or_drop(offer.message, now))

    def _send_or_drop(self, message: Message, now: float) -> str:
        """Send a message that is not worth keeping; return why it is dropped, nothing where it is not."""
        topic, payload, qos, retain = message
        waiting = Waiting(self._spool.next_id(), topic, payload, qos, retain)
        chosen: list[tuple[int, Message]] = []
        if not self._kernel.connected:
            why = "the line is down"
        elif topic in self._outbox.denied:
            why = "the broker denies the topic"
        else:
            why = "the broker would not take more now"
            cursor = self._outbox.cursor
            self._outbox, chosen, _ = outbox.take(self._outbox, [waiting], {}, now)
            self._outbox = self._outbox._replace(cursor=cursor)
        if chosen:
            if retain:
                self._spool.newest[topic] = waiting.id
            self._transient[waiting.id] = topic
            self._give(chosen)
            return ""
        self._spool.dropped[topic] += 1
        return why

    def _give(self, chosen: Iterable[tuple[int, Message]]) -> None:
        messages = [(number, self._finished(number, message) if encoding.WAITS in message.payload else message)
                    for number, message in chosen]
        self._kernel.hand_over(messages)
        for number, message in messages:
            if message.retain and message.topic in self._retained:
                self._carrying[number] = message
            if log.enabled(logging.DEBUG):
                log.write(Entry(logging.DEBUG, "message.published", "handed to the broker", {
                    "topic": message.topic, "qos": message.qos, "retain": message.retain,
                    **log.readable(message.payload)}))

    def _finished(self, number: int, message: Message) -> Message:
        """Return the message as it goes out; say so where its times are others than they would have been when made."""
        now = self._world.monotonic()
        offset_s = self._world.wall() - now
        if self._offset_s is not None and abs(offset_s - self._offset_s) > STEP_S:
            log.info("clock.set", "the clock was set; the times in what waits are right now",
                     by_s=round(offset_s - self._offset_s, 3), waiting=self._spool.holding(encoding.TIME))
        self._offset_s = offset_s

        def offset_of(boot: str) -> float | None:
            return offset_s if boot == self._world.boot_id else self._spool.offset_of(number, boot)

        return message._replace(payload=encoding.finished(message.payload, offset_of))

    def _forget_acknowledged(self, eager: bool | None = None) -> bool:
        """Forget what has been acknowledged since the last call, and tell whether anything was."""
        ids = self._kernel.acknowledged(eager)
        if ids:
            self._outbox = outbox.acknowledged(self._outbox, ids)
            for number in ids:
                message = self._carrying.pop(number, None)
                if message is not None:
                    self._standing[message.topic] = number, message
            kept = [number for number in ids if self._transient.pop(number, None) is None]
            if kept:
                self._spool.forget(kept)
        return bool(ids)
