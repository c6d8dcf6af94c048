"""Messages in flight: in memory, and line by line in a file of the runtime directory, which is memory too.

The file outlives a crash, a kill and a restart, and costs one write(2) a message: what is gone is told along with the
next one, or by `flush`. It is read at the start of a run and never again. A line is a message as a JSON array in the
order of `Row`, or `{"gone": [ID, …]}`. A payload that is no UTF-8 stands in it with its bytes as surrogates (PEP 383).
Lines of before `thing` end ahead of it.
"""

import json
import math
from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import islice
from json.encoder import encode_basestring_ascii as _quoted  # type: ignore[attr-defined]

from iotd.outgoing.line_file import LineFile
from iotd.outgoing.outbox import Waiting
from typing import Any, NamedTuple

_WORDS = {False: "false", True: "true"}
_NOTHING = b'{"gone": []}\n'
COMPACT_BYTES = 1 << 16  # the file is written anew when so much of it speaks of messages that are gone


class Row(NamedTuple):
    """One message that waits: made `made_s` after the `boot`, by the wall clock `made_at` where that was known.

    `latest`: it gives way to the next of its topic. `aside`: it is kept and never fetched. It is the `thing`'s alone to
    send; one that names none is of whoever finds it.
    """

    id: int
    topic: str
    payload: bytes
    qos: int
    retain: bool
    latest: bool
    size: int
    boot: str
    made_s: float
    made_at: float | None
    aside: bool
    thing: str = ""


def is_whole(row: Row) -> bool:
    """Tell whether every value is of its kind, which those of a damaged file may not be."""
    flags = (row.qos, row.retain, row.latest, row.aside)
    numbers = (row.made_s, row.made_s if row.made_at is None else row.made_at)
    return (isinstance(row.id, int) and isinstance(row.topic, str) and isinstance(row.payload, bytes)
            and isinstance(row.size, int) and isinstance(row.boot, str) and isinstance(row.thing, str)
            and all(flag in (0, 1) for flag in flags)
            and all(isinstance(number, (int, float)) and math.isfinite(number) for number in numbers))


def dated(rows: list[Row], now: float, at: float | None) -> list[Row]:
    """Return the messages with the wall clock of their making, where that is known."""
    if at is None:
        return rows
    return [row if row.made_at is not None else row._replace(made_at=at - (now - row.made_s)) for row in rows]


class Journal:
    """The messages by id. What raises OSError has changed nothing, or says so; what does not is done in memory.

    `count` is of those that wait, which another thing's do not; `poison` of those set aside, by topic.
    """

    def __init__(self, file: LineFile) -> None:
        self.path = file.path
        self.count = self.size = 0
        self.poison = Counter[str]()
        self.behind = False  # whether the file lacks something that is true here
        self._file = file
        self._thing = ""
        self._rows: dict[int, Row] = {}
        self._gone: list[int] = []  # which the file has yet to be told

    @property
    def is_open(self) -> bool:
        """Whether the file was read; before that nothing is written into it."""
        return self._file.is_open

    def open(self, below: int | None) -> int:
        """Take in what the file holds, with ids smaller than `below` where that is given; return how many lines of it
        were no message. Then the file is moved aside. Raises OSError.
        """
        found, damaged = _read(self._file.open())
        renumbered = below is not None and max(found, default=0) >= below
        if below is not None and renumbered:
            first = below - len(found)
            found = {number: row._replace(id=number) for number, row in enumerate(found.values(), first)}
        self.behind = bool(damaged or self._rows or renumbered)
        self._rows = found | self._rows
        self._recount()
        if damaged:
            self._file.move_aside()
        return damaged

    def belong_to(self, thing: str) -> dict[str, int]:
        """Serve this thing alone from now on; return how many messages are other things'."""
        self._thing = thing
        unnamed = {number: row._replace(thing=thing) for number, row in self._rows.items() if not row.thing}
        self._rows.update(unnamed)
        self.behind = self.behind or bool(unnamed)
        self._recount()
        return dict(Counter(row.thing for row in self._rows.values() if row.thing != thing))

    def add_all(self, rows: Sequence[Row]) -> None:
        """Add messages with one write(2). Raises OSError where the file does not take them; then none is here."""
        self._file.append(_gone(self._gone) + b"".join(map(_line, rows)))
        self._gone.clear()
        for row in rows:
            self._rows[row.id] = row
            self.count += self._waits(row)
            self.size += row.size

    def hold(self, rows: Iterable[Row]) -> None:
        """Add the messages in memory alone, until `rewrite`."""
        self._rows = dict(sorted((self._rows | {row.id: row for row in rows}).items()))
        self._recount()
        self.behind = True

    def fetch(self, after: int, most: int, resting: Sequence[str]) -> list[Waiting]:
        """Return up to `most` messages beyond the id `after`, without those of the resting topics."""
        return list(islice((Waiting(row.id, row.topic, row.payload, row.qos, row.retain)
                            for row in self._rows.values()
                            if row.id > after and self._waits(row) and row.topic not in resting), most))

    def made_before(self, made_s: float, boot: str, most: int) -> list[Row]:
        """Return up to `most` messages, oldest first: those made by then, and those of another boot."""
        return list(islice((row for row in self._rows.values() if row.made_s <= made_s or row.boot != boot), most))

    def first_made_s(self) -> float:
        """Return when the oldest message was made, math.inf where there is none."""
        for row in self._rows.values():
            return row.made_s
        return math.inf

    def delete_ids(self, ids: Sequence[int]) -> set[int]:
        """Delete the messages with these ids; return the ids of those that were here."""
        return {number for number, _ in self._delete([self._rows[number] for number in ids if number in self._rows])}

    def delete_superseded(self, topic: str, number: int) -> list[tuple[int, str]]:
        """Delete the `latest` messages of the topic before this id; return the id and topic of each."""
        return self._delete([row for row in self._rows.values()
                             if row.topic == topic and row.latest and row.id < number and row.thing == self._thing])

    def delete_old(self, boot: str, made_s: float, made_at: float | None) -> list[tuple[int, str]]:
        """Delete what was made before `made_s` of this boot or `made_at`; return the id and topic of each."""
        return self._delete([row for row in self._rows.values() if (
            row.made_s < made_s if row.boot == boot else
            made_at is not None and row.made_at is not None and row.made_at < made_at)])

    def delete_oldest(self, excess: int) -> list[tuple[int, str]]:
        """Delete the oldest messages that make up `excess` bytes; return the id and topic of each."""
        oldest = []
        for row in self._rows.values():
            if excess <= 0:
                break
            oldest.append(row)
            excess -= row.size
        return self._delete(oldest)

    def set_aside(self, number: int) -> None:
        """Keep the message, and never fetch it again."""
        if number in self._rows:
            self._change(self._rows[number]._replace(aside=True))

    def take_back(self, topic: str) -> None:
        """Let what was set aside of the topic be fetched again."""
        for row in [row for row in self._rows.values()
                    if row.aside and row.topic == topic and row.thing == self._thing]:
            self._change(row._replace(aside=False))

    def offset_of(self, number: int, boot: str) -> float | None:
        """Return how far the wall clock was ahead of the monotonic one when this message was made in that boot."""
        row = self._rows.get(number)
        return None if row is None or row.boot != boot or row.made_at is None else row.made_at - row.made_s

    def holding(self, piece: bytes) -> int:
        """Return how many messages that wait have this in their payload."""
        return sum(self._waits(row) and piece in row.payload for row in self._rows.values())

    def newest(self) -> dict[str, int]:
        """Return the id of the newest retained message of each topic."""
        return {row.topic: row.id for row in self._rows.values() if row.retain and self._waits(row)}

    def last(self) -> int:
        """Return the highest id."""
        return max(self._rows, default=0)

    def above(self, number: int) -> list[Row]:
        """Return the messages with ids above this one, in their order."""
        return [row for row in self._rows.values() if row.id > number]

    def flush(self) -> None:
        """Have the file say what was deleted; where it cannot, it is behind."""
        crowded = self._file.size > COMPACT_BYTES + 4 * self.size
        if not self._gone and not crowded:
            return
        try:
            if self._file.is_open and not self._rows:
                self._file.clear()
                self.behind = False
            elif crowded:
                self.rewrite()
            else:
                self._file.append(_gone(self._gone))
        except OSError:
            self.behind = True
        self._gone.clear()

    def rewrite(self) -> None:
        """Write the file anew, from what is here, in any case something: a full disk takes nothing. Raises OSError."""
        self._file.replace(b"".join(map(_line, self._rows.values())) or _NOTHING)
        self.behind = False
        self._gone.clear()

    def close(self) -> None:
        """Close the file."""
        self.flush()
        self._file.close()

    def _change(self, row: Row) -> None:
        self._rows[row.id] = row
        self._recount()
        try:
            self._file.append(_line(row))
        except OSError:
            self.behind = True

    def _delete(self, rows: list[Row]) -> list[tuple[int, str]]:
        for row in rows:
            del self._rows[row.id]
            if self._waits(row):
                self.count -= 1
            elif row.aside and row.thing == self._thing:
                self.poison[row.topic] -= 1
            self.size -= row.size
            self._gone.append(row.id)
        return [(row.id, row.topic) for row in rows]

    def _recount(self) -> None:
        self.count = sum(map(self._waits, self._rows.values()))
        self.size = sum(row.size for row in self._rows.values())
        self.poison = Counter(row.topic for row in self._rows.values() if row.aside and row.thing == self._thing)

    def _waits(self, row: Row) -> bool:
        return not row.aside and row.thing == self._thing


def _line(row: Row) -> bytes:
    number, topic, payload, qos, retain, latest, size, boot, made_s, made_at, aside, thing = row
    text = payload.decode("utf-8", "surrogateescape")
    # What json.dumps writes, at a third of its cost: it makes an encoder for each list.
    return (f"[{number}, {_quoted(topic)}, {_quoted(text)}, {qos}, {_WORDS[retain]}, {_WORDS[latest]}, {size}, "
            f"{_quoted(boot)}, {made_s}, {'null' if made_at is None else made_at}, {_WORDS[aside]}, {_quoted(thing)}]\n"
            ).encode()


def _gone(ids: list[int]) -> bytes:
    return b'{"gone": %a}\n' % ids if ids else b""


def _read(content: bytes) -> tuple[dict[int, Row], int]:
    """Return the messages that the whole lines tell of, by id, and how many of these could not be read."""
    rows: dict[int, Row] = {}
    damaged = 0
    for line in content.split(b"\n")[:-1]:
        try:
            said = json.loads(line)
            if isinstance(said, dict):
                for number in said["gone"]:
                    rows.pop(number, None)
            else:
                row = _row(said)
                rows[row.id] = row
        except (ValueError, TypeError, LookupError, AttributeError, RecursionError):
            damaged += 1
    return dict(sorted(rows.items())), damaged


def _row(said: Any) -> Row:
    """Return the message; raise ValueError, TypeError or AttributeError where it is none."""
    number, topic, payload, *rest = said
    row = Row(number, topic, payload.encode("utf-8", "surrogateescape"), *rest)
    if not is_whole(row):
        raise ValueError(said)
    return row
