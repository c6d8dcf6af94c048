"""The ledger of what this device has retained: a topic is written down before its first retained message goes out.

A broker keeps such a message for ever. What the configuration has left is named once, and stays known until it is
cleared; what a `transient` section has left is cleared without being asked.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

from iotd.daemon.world import World
from iotd.host import log
from iotd.vocabulary import Json, Message

FILE = "retained.json"  # in the state directory
MAX_BYTES = 800_000  # of its topics, with what a file of 1 MB has beside each
ENTRY_BYTES = 120
SHOWN = 100  # orphans in the status
NAMED = 10  # of them in a log line


class Entry(NamedTuple):
    """Since when, by the clock of then (epoch seconds, None where that is not known), and whose it is.

    `program`: a program's, which is never an orphan by itself. `transient`: cleared as soon as nothing retains it.
    `named`: that it is an orphan was told.
    """

    since: int | None
    program: bool = False
    transient: bool = False
    named: bool = False


def read(told: Json) -> dict[str, Entry]:
    """Return the entries of the file's content by their topics, without what is none."""
    entries = told.get("topics") if isinstance(told, dict) else None
    if not isinstance(entries, dict):
        return {}
    return {topic: Entry(since if type(since := entry.get("since")) is int else None,
                         *(entry.get(flag) is True for flag in Entry._fields[1:]))
            for topic, entry in entries.items() if isinstance(entry, dict)}


class Ledger:
    """The topics, in memory and in `retained.json`."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._file: Path = world.places.state / FILE
        told = world.files.read_json(self._file)
        self._entries = read(told)
        self._broker = told.get("broker") if isinstance(told, dict) else None  # the host that keeps them
        self._bytes = sum(map(_size, self._entries))
        self._used: Mapping[str, bool] = {}
        self._is_full = False
        self.left: list[str] = []  # what is to be cleared without being asked
        self._emptying: dict[int, str] = {}  # by its number, the topic of an empty message that is on its way
        self._of_programs: set[str] = set()  # at the former broker; what waits in the spool may still go to this one

    def apply(self, used: Mapping[str, bool]) -> None:
        """Take the topics that the configuration retains now, and whether each is to be cleared with its section."""
        self._used = used
        before = self._entries
        self._entries = {topic: entry._replace(named=False, transient=used[topic]) if topic in used else entry
                         for topic, entry in before.items()}
        new = [topic for topic in self.orphans() if not self._entries[topic].named]
        for topic in new:
            self._entries[topic] = self._entries[topic]._replace(named=True)
        self._find_left()
        if self._entries != before:
            self._write()
        if new:
            log.warning("retained.orphaned", f"the broker keeps messages on {len(new)} topics that are not published"
                        " any more; to clear them: iotd retained --clear --orphaned", topics=new[:NAMED],
                        count=len(new))

    def reached(self, broker: str) -> bool:
        """Take the host of the line that is up; return whether it is another than that which keeps what is known.

        The other one never had any of it: what stood there is told once and forgotten.
        """
        before, self._broker = self._broker, broker
        if before == broker:
            return False
        is_other = isinstance(before, str)  # else it was written down before this was
        topics = list(self._entries) if is_other else []
        if topics:
            log.info("retained.left_behind", f"{len(topics)} topics stand retained on {before}, which is not the broker"
                     " any more; iotd clears nothing there", host=before, topics=topics[:NAMED], count=len(topics))
            self._of_programs = {topic for topic, entry in self._entries.items() if entry.program}
            self._entries, self._bytes, self._is_full = {}, 0, False
            self.left, self._emptying = [], {}
        if self._entries or topics:
            self._write()
        return is_other

    def has(self, topic: str) -> bool:
        """Tell whether something is retained on the topic."""
        return topic in self._entries

    def orphans(self) -> list[str]:
        """Return the topics that nothing publishes any more; those of programs are none."""
        return [topic for topic, entry in self._entries.items()
                if topic not in self._used and not (entry.program or entry.transient)]

    def note(self, messages: Iterable[Message], program: bool = False) -> None:
        """Write down the topics of those that are retained, before they go out; `program`: they are a program's."""
        found = False
        for topic, payload, _, retain in messages:
            if not retain or not payload:
                continue
            known = self._entries.get(topic)
            if known is None and not self._has_room(topic) or known is not None and (known.program or not program):
                continue
            # Whether that clock was set is not asked: it would cost each first start 1 MB of memory.
            self._entries[topic] = known._replace(program=True) if known is not None else Entry(
                int(self._world.wall()), program or topic in self._of_programs, self._used.get(topic, False))
            found = True
        if found:
            self._write()

    def handed_over(self, number: int, message: Message) -> None:
        """A message that is kept under this number goes out: an empty one clears its topic, a newer one does not."""
        if message.retain and not message.payload:
            self._emptying[number] = message.topic
        elif message.retain and self._emptying:
            self._emptying = {other: topic for other, topic in self._emptying.items() if topic != message.topic}

    def acknowledged(self, numbers: Iterable[int]) -> None:
        """The broker has these messages."""
        if self._emptying:
            for topic in filter(None, [self._emptying.pop(number, None) for number in numbers]):
                self.cleared(topic)

    def cleared(self, topic: str) -> None:
        """The broker keeps nothing on the topic any more."""
        if self._entries.pop(topic, None) is not None:
            self._bytes -= _size(topic)
            self._is_full = False
            self._find_left()
            self._write()

    def status(self) -> dict[str, Json]:
        """Return how many topics there are, and which are orphans."""
        return {"topics": len(self._entries), "orphaned": self.orphans()[:SHOWN]}

    def sentences(self) -> list[str]:
        """Return the orphans for a person."""
        found = self.orphans()
        if not found:
            return []
        more = f" and {len(found) - NAMED} more" if len(found) > NAMED else ""
        return [f"retained, and not published any more: {', '.join(found[:NAMED])}{more}; "
                "to clear: iotd retained --clear --orphaned"]

    def _find_left(self) -> None:
        self.left = [topic for topic, entry in self._entries.items() if entry.transient and topic not in self._used]

    def _has_room(self, topic: str) -> bool:
        size = _size(topic)
        if self._bytes + size > MAX_BYTES:
            if not self._is_full:
                log.warning("retained.full", "so many topics are retained that no more are remembered", topic=topic,
                            topics=len(self._entries))
            self._is_full = True
            return False
        self._bytes += size
        return True

    def _write(self) -> None:
        """Write the file and wait for the disk; one that fails keeps no message back, and is tried again."""
        body: Json = {"broker": self._broker, "topics": {topic: _told(entry) for topic, entry in self._entries.items()}}
        self._world.files.keep(self._file, body, True, "retained.unwritable",
                               "what is retained cannot be written down; it is tried again")


def _size(topic: str) -> int:
    return len(json.dumps(topic, ensure_ascii=False).encode("utf-8", "backslashreplace")) + ENTRY_BYTES


def _told(entry: Entry) -> dict[str, Json]:
    flags = {name: True for name in Entry._fields[1:] if getattr(entry, name)}
    return {"since": entry.since, **flags}
