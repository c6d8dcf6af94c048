"""The messages of the configuration, from their time to the moment when they are made."""

from __future__ import annotations

import math
from collections import Counter, deque
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import NamedTuple

from iotd import schedule
from iotd.config import template
from iotd.config.settings import Settings
from iotd.daemon.part import Kernel
from iotd.host import log
from iotd.outgoing import changes, encoding, outbox
from iotd.outgoing.batch import Batches, Key, together
from iotd.outgoing.changes import Said
from iotd.outgoing.line_file import LineFile
from iotd.outgoing.section import Publish
from iotd.vocabulary import Changed, Json, Message

MOST_BYTES = 1 << 20  # of a batch, where the broker has no limit that is known

Fill = Callable[[Mapping[str, Json]], str]


class Made(NamedTuple):
    """A message, what is to become of it without a line, and whose it is, nothing for the thing of now."""

    message: Message
    offline: str
    thing: str = ""


class Held:
    """A message that is due, and waits for what is measured for it or for one before it of the same topic."""

    def __init__(self, entry: Publish, fill: Fill, key: Key, values: Mapping[str, Json]) -> None:
        self.entry = entry
        self.fill = fill
        self.key = key
        self.values = values
        self.is_filled = False


class Scheduled:
    """What is due, filled and collected. `keep` takes what was made; it is told which of it is on its way.

    `at_once` tells whether a message that is made now goes out now; one that waits has marks in the place of its times,
    of which `marked` is told.
    """

    def __init__(self, kernel: Kernel, file: LineFile, keep: Callable[[list[Made], float], list[bool]],
                 at_once: Callable[[], bool], marked: Callable[[float], None]) -> None:
        self._kernel = kernel
        self._world = kernel.world
        self._keep = keep
        self._at_once = at_once
        self._marked = marked
        self._batches = Batches(file)
        self._entries: tuple[Publish, ...] = ()
        self._fills: list[Fill] = []
        self._max_bytes: int | None = None
        self._marks_times = self._marks_always = True
        self._thing = kernel.written.thing
        self._timetable = schedule.EMPTY
        self._sequence: Counter[str] = Counter()
        self._names: frozenset[str] = frozenset()
        self._measured: list[frozenset[str] | None] = []  # what to gather for an entry, None where nothing has to be
        self._moments: list[tuple[str, ...]] = []  # the placeholders of the time in an entry
        self._keys: list[Key] = []
        self._said: dict[Key, Said] = {}
        self._held: dict[str, deque[Held]] = {}
        self._made: list[tuple[Held | None, Made]] = []
        self._too_large: Counter[Key] = Counter()  # how many messages in a row

    def take_up(self, now: float, is_late: bool = False) -> None:
        """Have kept what an earlier run had collected; late, it takes the place of nothing, retained or waiting."""
        left = self._batches.left()
        self._keep([Made(Message(batch.topic, _packed(together(batch.payloads), batch.gzip), batch.qos,
                                 batch.retain and not is_late),
                         "queue" if is_late and batch.offline == "latest" else batch.offline, batch.thing)
                    for batch in left], now)
        self._batches.flush()

    def apply(self, settings: Settings, now: float) -> None:
        """Let the settings take effect; an entry that stayed as it was keeps its times, and what it has collected."""
        limited, publish, spool = settings.mqtt.aws_limits, settings.sections["publish"], settings.sections["spool"]
        same = {index for index, (new, old) in enumerate(zip(publish, self._entries)) if new == old}
        known = self._timetable._replace(every_s={index: self._timetable.every_s[index] for index in same})
        keys = _keys(publish)
        stays = {} if settings.thing != self._thing else dict(zip(keys, publish))
        self._send_batches([key for key, entry in zip(self._keys, self._entries) if stays.get(key) != entry], now)
        self._thing, self._keys, self._entries = settings.thing, keys, publish
        names = [template.placeholders(entry.payload).union(entry.on_change) - {"sequence"} for entry in publish]
        self._measured = [found if found - template.PAYLOAD else None for found in names]
        self._moments = [tuple(found & template.MOMENTS.keys()) if spool.corrects else () for found in names]
        self._marks_always = not spool.strict
        self._names = frozenset().union(*(found for found in names if not found - template.PAYLOAD))
        self._said = {key: self._said.get(key, Said()) for key, entry in zip(self._keys, publish) if entry.on_change}
        self._too_large = Counter({key: count for key, count in self._too_large.items() if stays.get(key)})
        self._fills = [template.compile_json(entry.payload) if entry.batch else template.compile_payload(entry.payload)
                       for entry in publish]
        self._max_bytes = outbox.MAX_PAYLOAD_BYTES if limited else None
        self._timetable = schedule.changed(known, {index: entry.every_s for index, entry in enumerate(publish)}, now)

    def awaited(self) -> set[str]:
        """Return the topics of which a newer retained message is about to be made: it waits for what it tells.

        What is collected is none: it may be made only hours later.
        """
        return {topic for topic, waiting in self._held.items()
                if any(held.entry.retain and held.entry.batch is None for held in waiting)}

    def next_due(self) -> float:
        """Return when there is something to do."""
        due_at = min(self._timetable.next_due, self._batches.next_due)
        return min(due_at, changes.next_due(self._said.values())) if self._said else due_at

    def make_due(self, now: float) -> None:
        """Make what is due."""
        due, self._timetable = schedule.take(self._timetable, now)
        if self._said:
            due = self._with_changed(due, now)
        if due:
            self._make(due, now)
        if now >= self._batches.next_due:
            self._send_batches(self._batches.due(now), now)

    def on_changed(self, event: Changed, now: float) -> None:
        """Values have changed: find out for which entries that is enough."""
        for key, entry in zip(self._keys, self._entries):
            if any(name.partition(".")[0] in event.names for name in entry.on_change):
                self._kernel.gather(entry.on_change, partial(self._judge, key, entry))

    def settle(self, now: float) -> None:
        """Have kept what has been collected, since this run or boot ends."""
        self._send_batches(self._keys, now)

    def close(self) -> None:
        """Close the file."""
        self._batches.close()

    def _make(self, due: Iterable[int], now: float) -> None:
        found = self._kernel.values(self._names)
        for index in due:
            entry, fill, measured = self._entries[index], self._fills[index], self._measured[index]
            self._sequence[entry.topic] += 1
            own = self._marks(index, now) if self._moments[index] else {}
            own["sequence"] = self._sequence[entry.topic]
            if measured is None and entry.topic not in self._held:
                self._put(entry, self._keys[index], fill({**found, **own}), now)
                continue
            held = Held(entry, fill, self._keys[index], own)
            self._held.setdefault(entry.topic, deque()).append(held)
            if measured is None:
                self._fill(held, found)
            else:
                self._kernel.gather(measured, partial(self._fill, held))
        self._keep_made(now)

    def _marks(self, index: int, now: float) -> dict[str, Json]:
        """Return what stands for the placeholders of the time, nothing where they can be filled now."""
        if self._entries[index].batch is None and self._at_once():
            return {}
        if not self._marks_always and self._world.wall_is_set():
            return {}  # on the disk at once, so that even after a power cut it is known
        self._marked(now)
        return {name: encoding.mark(name, self._world.boot_id, now) for name in self._moments[index]}

    def _fill(self, held: Held, found: Mapping[str, Json]) -> None:
        """Make a message of what was measured for it.

        The messages of a topic stay in the order in which they were due: what waits holds back those, and no others.
        """
        held.values = {**found, **held.values}
        held.is_filled = True
        waiting = self._held[held.entry.topic]
        while waiting and waiting[0].is_filled:
            first = waiting.popleft()
            self._put(first.entry, first.key, first.fill(first.values), self._world.monotonic(), first)
        if not waiting:
            del self._held[held.entry.topic]
        self._keep_made(self._world.monotonic())

    def _put(self, entry: Publish, key: Key, text: str, now: float, held: Held | None = None) -> None:
        """Have a message kept, or a payload collected."""
        if entry.batch is None:
            self._finish(key, entry, text, held)
            return
        for full in self._batches.add(key, self._thing, entry, text, self._max_bytes or MOST_BYTES, now):
            self._finish(key, entry, full, None)
        self._note_said(held, True)

    def _finish(self, key: Key, entry: Publish, text: str, held: Held | None) -> None:
        message = Message(entry.topic, _packed(text, entry.gzip), entry.qos, entry.retain)
        size, most = len(message.payload), self._max_bytes
        if most is not None and size > most and entry.gzip:  # what counts is how it goes out
            size = len(encoding.finished(message.payload, lambda boot: None))
        if most is not None and size > most:
            if key not in self._too_large:
                log.warning("publish.too_large", "messages of this topic are larger than AWS IoT Core takes; they are "
                            "not sent until they are smaller", topic=entry.topic, bytes=size, max_bytes=most)
            self._too_large[key] += 1
            self._note_said(held, False)
            return
        if key in self._too_large:
            log.info("publish.fits", "the messages of this topic are small enough again", topic=entry.topic,
                     not_sent=self._too_large.pop(key))
        self._made.append((held, Made(message, entry.offline)))

    def _keep_made(self, now: float) -> None:
        """Have kept what was made, all of it at once."""
        made, self._made = self._made, []
        if made:
            for (held, _), kept in zip(made, self._keep([one for _, one in made], now)):
                if held is not None:
                    self._note_said(held, kept)
        if self._batches.is_open:
            self._batches.flush()
        else:
            self.take_up(now, is_late=True)

    def _send_batches(self, keys: Iterable[Key], now: float) -> None:
        entries = dict(zip(self._keys, self._entries))
        for key in keys:
            if self._batches.has(key):
                self._finish(key, entries[key], self._batches.take(key), None)
        self._keep_made(now)

    def _note_said(self, held: Held | None, kept: bool) -> None:
        if held is not None and held.key in self._said:
            self._said[held.key] = changes.said(self._said[held.key], held.entry, held.values, kept)

    def _judge(self, key: Key, entry: Publish, values: Mapping[str, Json]) -> None:
        said = self._said.get(key)
        if said is not None:
            self._said[key] = changes.heard(said, entry, values, self._world.monotonic())

    def _with_changed(self, due: list[int], now: float) -> list[int]:
        """Return what is due with what is so by a change; from there on `every` counts anew."""
        found = []
        for index, (key, entry) in enumerate(zip(self._keys, self._entries)):
            said = self._said.get(key)
            if index in due or said is not None and said.due_at <= now:
                found.append(index)
                if said is not None:
                    self._said[key] = said._replace(made_at=now, due_at=math.inf)
                    self._timetable = schedule.put_off(self._timetable, index, now + entry.every_s)
        return found


def _packed(text: str, gzip: bool) -> bytes:
    payload = text.encode("utf-8", "backslashreplace")
    return encoding.GZIP + payload if gzip else payload


def _keys(publish: Iterable[Publish]) -> list[Key]:
    before = Counter[str]()
    keys = []
    for entry in publish:
        keys.append((entry.topic, before[entry.topic]))
        before[entry.topic] += 1
    return keys
