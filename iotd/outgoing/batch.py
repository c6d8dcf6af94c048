"""Payloads that go together as one message, a list of them, the oldest first.

What is being collected stands in a file of the runtime directory, a line a payload: while that has room a crash or a
kill loses none of it, and the next run sends it as it is. A power cut takes it. What was taken must not stay there:
sent by the next run, it would take the place of what is newer.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from typing import NamedTuple

from iotd.host import log
from iotd.outgoing.line_file import LineFile
from iotd.outgoing.section import Publish
from iotd.vocabulary import Json

Key = tuple[str, int]  # an entry over a reload: its topic, and how many of that stand before it


class Left(NamedTuple):
    """What an earlier run had collected: whose it is, how it is to be sent, and the payloads."""

    thing: str
    topic: str
    qos: int
    retain: bool
    offline: str
    gzip: bool
    payloads: tuple[str, ...]


class Batches:
    """What is being collected for each entry, until it is full or `within` is over."""

    def __init__(self, file: LineFile) -> None:
        self._file = file
        self._payloads: dict[Key, list[str]] = {}
        self._due_at: dict[Key, float] = {}
        self.next_due = math.inf  # when the first of them is to go
        self._lines: dict[Key, list[bytes]] = {}
        self._is_stale = False  # the file still has what was taken
        self._is_short = False  # it lacks some of what is collected
        self._failure = ""

    @property
    def is_open(self) -> bool:
        """Whether `left` has read the file."""
        return self._file.is_open

    def left(self) -> list[Left]:
        """Open the file, and return what an earlier run had collected; it stays there until `flush`.

        Where the file cannot be opened, that is to be tried again.
        """
        try:
            lines = self._file.open().splitlines()
        except OSError as error:
            self._say(error)
            return []
        found: dict[tuple[Json, ...], list[str]] = {}
        for line in lines:
            try:
                *head, payload = json.loads(line)
                found.setdefault(tuple(head), []).append(payload)
            except (ValueError, TypeError, RecursionError):
                log.warning("batch.damaged", "a line of a batch makes no sense and is lost", path=self._file.path)
        self._is_stale, self._is_short = bool(lines), bool(self._lines)
        return [batch for head, payloads in found.items() if (batch := _left(head, payloads)) is not None]

    def add(self, key: Key, thing: str, entry: Publish, payload: str, most_bytes: int, now: float) -> list[str]:
        """Collect a payload; return the lists that are full with it."""
        assert entry.batch is not None
        full = []
        size = len(payload.encode("utf-8", "backslashreplace"))
        if key in self._payloads and self._size(key) + size + 2 > most_bytes:
            full.append(self.take(key))
        if key not in self._payloads:
            self._payloads[key], self._lines[key] = [], []
            self._due_at[key] = now + entry.batch.within_s
            self.next_due = min(self._due_at.values())
        self._payloads[key].append(payload)
        if len(self._payloads[key]) >= entry.batch.most:
            return [*full, self.take(key)]
        line = json.dumps([thing, entry.topic, entry.qos, entry.retain, entry.offline, entry.gzip, payload])
        self._lines[key].append(line.encode() + b"\n")
        try:
            self._file.append(self._lines[key][-1])
        except OSError as error:
            self._is_short = True
            self._say(error)
        return full

    def take(self, key: Key) -> str:
        """Return what has been collected for an entry as one payload; the file has it until `flush`."""
        self._is_stale = True
        del self._due_at[key], self._lines[key]
        self.next_due = min(self._due_at.values(), default=math.inf)
        return together(self._payloads.pop(key))

    def has(self, key: Key) -> bool:
        """Tell whether anything is being collected for this entry."""
        return key in self._payloads

    def due(self, now: float) -> list[Key]:
        """Return the entries whose `within` is over by then."""
        return [key for key, due_at in self._due_at.items() if due_at <= now]

    def flush(self) -> None:
        """Have the file forget what was taken, which is kept elsewhere now, and hold what is collected."""
        if not (self._is_stale or self._is_short or self._failure) or not self.is_open:
            return
        try:
            self._rewrite(b"".join(line for lines in self._lines.values() for line in lines))
            self._is_stale = self._is_short = False
        except OSError as error:
            self._say(error)

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def _size(self, key: Key) -> int:
        return sum(len(line) for line in self._lines[key])  # more than the payloads alone

    def _rewrite(self, lines: bytes) -> None:
        """Put these lines in the place of all others, in their room where there is no more. Raises OSError."""
        if lines:
            try:
                self._file.replace(lines)
                self._failure = ""  # to be rid of lines proves nothing: a full disk allows that
                return
            except OSError:
                if not self._is_stale:
                    raise
        self._file.clear()
        self._is_stale, self._is_short = False, True
        if lines:
            self._file.append(lines)

    def _say(self, error: OSError) -> None:
        reason = error.strerror or str(error)
        if reason != self._failure:
            self._failure = reason
            log.warning("batch.unkept", "what is collected for a batch stands in memory alone; a crash would lose it",
                        path=self._file.path, reason=reason)


def together(payloads: Iterable[str]) -> str:
    """Return the payloads, each JSON, as one list."""
    return f"[{', '.join(payloads)}]"


def _left(head: tuple[Json, ...], payloads: list[str]) -> Left | None:
    kinds = (str, str, int, bool, str, bool)
    if len(head) != len(kinds) or not all(isinstance(*pair) for pair in zip(head, kinds)):
        return None
    thing, topic, qos, retain, offline, gzip = head
    return Left(thing, topic, qos, retain, offline, gzip, tuple(map(str, payloads)))
