"""Messages in one SQLite file on the disk: what has to outlive a power cut."""

from __future__ import annotations

import json
import os
import sqlite3
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from pathlib import Path

from iotd.outgoing.journal import Row, is_whole
from iotd.outgoing.outbox import Waiting

SCHEMA_VERSION = 2  # 1 had no thing
BUSY_S = 0.2  # for another process to let go of the file; the main loop waits meanwhile
_SCHEMA = """
CREATE TABLE IF NOT EXISTS message (
  id INTEGER PRIMARY KEY, topic TEXT NOT NULL, payload BLOB NOT NULL, qos INTEGER NOT NULL, retain INTEGER NOT NULL,
  latest INTEGER NOT NULL, size INTEGER NOT NULL, boot TEXT NOT NULL, made_s REAL NOT NULL, made_at REAL,
  aside INTEGER NOT NULL DEFAULT 0, thing TEXT NOT NULL DEFAULT '');
CREATE INDEX IF NOT EXISTS latest_of_topic ON message (topic) WHERE latest;
"""
Error = sqlite3.Error
_COLUMNS = "id, topic, payload, qos, retain, latest, size, boot, made_s, made_at, aside, thing"
_VALUES = ", ".join("?" * len(Row._fields))


def connect(path: str) -> sqlite3.Connection:
    """Open the file; every statement is a transaction of its own where none is begun."""
    return sqlite3.connect(path, isolation_level=None, timeout=BUSY_S)


def create(path: str) -> None:
    """Put a database without messages into the place of a file without bytes, on the disk. Raises OSError, Error.

    To have SQLite make it there takes six fsyncs, and on a slow card each takes seconds: it is made beside, unsynced,
    and is whole when it is renamed. That it was renamed is on the disk with the first message: SQLite syncs the
    directory of a new write-ahead log.
    """
    beside = f"{path}.new"
    Path(beside).unlink(missing_ok=True)
    file = os.open(beside, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        with closing(connect(beside)) as database:
            database.execute("PRAGMA synchronous = OFF")
            _make(database)
        os.fsync(file)
    finally:
        os.close(file)
    os.replace(beside, path)


def _make(database: sqlite3.Connection) -> None:
    database.execute("PRAGMA auto_vacuum = INCREMENTAL")
    # A write-ahead log survives the death of this process even unsynced; synced, it needs one fsync a time.
    database.execute("PRAGMA journal_mode = WAL")
    database.executescript(f"BEGIN; {_SCHEMA} PRAGMA user_version = {SCHEMA_VERSION}; COMMIT")


class Store:
    """The messages of one SQLite file. Any method may raise `Error`.

    `count` is of those that wait, which another thing's do not; `poison` of those set aside, by topic.
    """

    def __init__(self, path: str, connect: Callable[[str], sqlite3.Connection] = connect) -> None:
        self.path = path
        self.count = self.size = 0
        self.poison: dict[str, int] = {}
        self._thing = ""
        self._db = connect(path)
        try:
            self._prepare()
        except sqlite3.Error:
            self._db.close()
            raise

    def _prepare(self) -> None:
        self._db.execute("PRAGMA synchronous = NORMAL")
        self._db.execute("PRAGMA cache_size = -256")
        self._db.execute("PRAGMA journal_size_limit = 1048576")
        version = self._db.execute("PRAGMA user_version").fetchone()[0]
        if version == 0:
            _make(self._db)
        elif version == 1:
            self._db.executescript("BEGIN IMMEDIATE; ALTER TABLE message ADD COLUMN thing TEXT NOT NULL DEFAULT '';"
                                   f" PRAGMA user_version = {SCHEMA_VERSION}; COMMIT")
        self._recount()

    def belong_to(self, thing: str) -> dict[str, int]:
        """Serve this thing alone from now on; return how many messages are other things'."""
        self._thing = thing
        counts = dict(self._db.execute("SELECT thing, count(*) FROM message GROUP BY thing"))
        if counts.pop("", 0):
            self._db.execute("UPDATE message SET thing = ? WHERE thing = ''", (thing,))
        self._recount()
        counts.pop(thing, None)
        return counts

    def add_all(self, rows: Iterable[Row]) -> None:
        """Add all of the messages or none; one whose id is here already stays as it is."""
        count, size, poison = self.count, self.size, self.poison
        insert = f"INSERT OR IGNORE INTO message ({_COLUMNS}) VALUES ({_VALUES})"
        with self._synced():
            self._db.execute("BEGIN IMMEDIATE")
            try:
                for row in rows:
                    if self._db.execute(insert, row).rowcount:
                        self.count += self._waits(row.aside, row.thing)
                        self.size += row.size
                        self._note_poison(row.topic, row.aside, row.thing, 1)
                self._db.execute("COMMIT")
            except sqlite3.Error:
                self.count, self.size, self.poison = count, size, poison
                raise
            finally:
                if self._db.in_transaction:
                    self._db.execute("ROLLBACK")

    @contextmanager
    def _synced(self) -> Iterator[None]:
        """Have what is committed within on the disk when this ends.

        Only what is added needs that: a deletion that a power cut undoes costs a QoS 1 duplicate, not a message.
        """
        self._db.execute("PRAGMA synchronous = FULL")
        try:
            yield
        finally:
            self._db.execute("PRAGMA synchronous = NORMAL")

    def fetch(self, after: int, most: int, resting: Sequence[str]) -> list[Waiting]:
        """Return up to `most` messages beyond the id `after`, without those of the resting topics."""
        found = self._db.execute(
            "SELECT id, topic, payload, qos, retain FROM message WHERE id > ? AND NOT aside AND thing = ?"
            " AND topic NOT IN (SELECT value FROM json_each(?)) ORDER BY id LIMIT ?",
            (after, self._thing, json.dumps(resting), most))
        return [Waiting(number, topic, payload, qos, bool(retain)) for number, topic, payload, qos, retain in found]

    def delete_ids(self, ids: Sequence[int]) -> set[int]:
        """Delete the messages with these ids; return the ids of those that were here."""
        where = "id = ?" if len(ids) == 1 else "id IN (SELECT value FROM json_each(?))"
        return {number for number, _ in self._delete(where, (ids[0] if len(ids) == 1 else json.dumps(ids),))}

    def delete_superseded(self, topic: str, number: int) -> list[tuple[int, str]]:
        """Delete the `latest` messages of the topic before this id; return the id and topic of each."""
        return self._delete("topic = ? AND latest AND id < ? AND thing = ?", (topic, number, self._thing))

    def delete_old(self, boot: str, made_s: float, made_at: float | None) -> list[tuple[int, str]]:
        """Delete what was made before `made_s` of this boot or `made_at`; return the id and topic of each."""
        return self._delete("(boot = ? AND made_s < ?) OR (boot <> ? AND made_at < ?)", (boot, made_s, boot, made_at))

    def delete_oldest(self, excess: int) -> list[tuple[int, str]]:
        """Delete the oldest messages that make up `excess` bytes; return the id and topic of each."""
        last = 0
        for last, size in self._db.execute("SELECT id, size FROM message ORDER BY id"):
            excess -= size
            if excess <= 0:
                break
        return self._delete("id <= ?", (last,))

    def date(self, boot: str, booted_at: float) -> None:
        """Give the messages of this boot that have none the wall clock of their making."""
        self._db.execute("UPDATE message SET made_at = ? + made_s WHERE made_at IS NULL AND boot = ?",
                         (booted_at, boot))

    def probe(self) -> None:
        """Write something that changes nothing."""
        self._db.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")

    def set_aside(self, number: int) -> None:
        """Keep the message, and never fetch it again."""
        self._db.execute("UPDATE message SET aside = 1 WHERE id = ?", (number,))
        self._recount()

    def take_back(self, topic: str) -> None:
        """Let what was set aside of the topic be fetched again."""
        self._db.execute("UPDATE message SET aside = 0 WHERE aside AND topic = ? AND thing = ?", (topic, self._thing))
        self._recount()

    def offset_of(self, number: int, boot: str) -> float | None:
        """Return how far the wall clock was ahead of the monotonic one when this message was made in that boot."""
        rows = self._db.execute("SELECT made_at - made_s FROM message WHERE id = ? AND boot = ?", (number, boot))
        return next((offset_s for offset_s, in rows), None)

    def holding(self, piece: bytes) -> int:
        """Return how many messages that wait have this in their payload."""
        return int(self._db.execute("SELECT count(*) FROM message WHERE NOT aside AND thing = ? AND instr(payload, ?)",
                                    (self._thing, piece)).fetchone()[0])

    def newest(self) -> dict[str, int]:
        """Return the id of the newest retained message of each topic."""
        return dict(self._db.execute("SELECT topic, max(id) FROM message WHERE retain AND NOT aside AND thing = ?"
                                     " GROUP BY topic", (self._thing,)))

    def last(self) -> int:
        """Return the highest id."""
        return int(self._db.execute("SELECT ifnull(max(id), 0) FROM message").fetchone()[0])

    def clashes(self, rows: Iterable[Row]) -> bool:
        """Tell whether one of these ids is another message's here."""
        for row in rows:
            found = self._db.execute("SELECT topic, boot, made_s FROM message WHERE id = ?", (row.id,)).fetchone()
            if found not in (None, (row.topic, row.boot, row.made_s)):
                return True
        return False

    def renumber_below(self, first: int) -> None:
        """Let every id be smaller than `first`, in the same order, where one is not.

        A store that could not be opened when this run began comes back with ids that the run may have given again.
        """
        if self.last() >= first:
            self._db.execute("BEGIN IMMEDIATE")
            try:
                self._db.execute("UPDATE message SET id = -rank FROM (SELECT id AS old, row_number() OVER"
                                 " (ORDER BY id DESC) AS rank FROM message) WHERE id = old AND id >= 0")
                self._db.execute("UPDATE message SET id = id + ?", (first,))
                self._db.execute("COMMIT")
            finally:
                if self._db.in_transaction:
                    self._db.execute("ROLLBACK")

    def close(self) -> None:
        """Close the file; its write-ahead log is folded in. Of one that holds nothing no byte is left."""
        try:
            empty = not self.last()
        finally:
            self._db.close()
        if empty:
            os.truncate(self.path, 0)

    def _delete(self, where: str, values: Sequence[object]) -> list[tuple[int, str]]:
        gone = self._db.execute(f"DELETE FROM message WHERE {where} RETURNING id, topic, size, aside, thing",
                                values).fetchall()
        for _, topic, size, aside, thing in gone:
            self.count -= self._waits(aside, thing)
            self.size -= size
            self._note_poison(topic, aside, thing, -1)
        if gone and not self.count:
            self._db.executescript("PRAGMA incremental_vacuum")  # execute() would free a single page
        return [(number, topic) for number, topic, *_ in gone]

    def _recount(self) -> None:
        """Take the counts and the size from the file."""
        self.count, self.size, aside = self._db.execute(
            "SELECT ifnull(sum(NOT aside AND thing = ?), 0), ifnull(sum(size), 0), ifnull(sum(aside), 0) FROM message",
            (self._thing,)).fetchone()
        self.poison = dict(self._db.execute("SELECT topic, count(*) FROM message WHERE aside AND thing = ? GROUP BY"
                                            " topic", (self._thing,))) if aside else {}

    def _note_poison(self, topic: str, aside: bool, thing: str, more: int) -> None:
        if aside and thing == self._thing:
            self.poison = {**self.poison, topic: self.poison.get(topic, 0) + more}

    def _waits(self, aside: bool, thing: str) -> bool:
        return not aside and thing == self._thing


def is_damage(error: Exception) -> bool:
    """Tell whether the file is damaged, rather than out of reach or full."""
    if isinstance(error, sqlite3.OperationalError) and not hasattr(error, "sqlite_errorcode"):
        return True  # Python's own: a text that is no UTF-8
    return getattr(error, "sqlite_errorcode", 0) & 0xFF in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)


def salvaged(path: str) -> list[Row]:
    """Return the messages of a damaged file that can still be read: those before the damage, and those behind it."""
    saved: dict[int, Row] = {}
    for order in ("ASC", "DESC"):
        with suppress(sqlite3.Error), closing(sqlite3.connect(path)) as database:
            for values in database.execute(f"SELECT * FROM message ORDER BY id {order}"):  # of either version
                if is_whole(row := Row(*values)):
                    saved[row.id] = row
    return list(saved.values())


def move_aside(path: str) -> None:
    """Move the damaged file out of the way, as far as that can be done."""
    for ending in ("-wal", "-shm"):
        Path(path + ending).unlink(missing_ok=True)
    try:
        Path(path).replace(path + ".damaged")
    except OSError:
        pass  # opening it anew will say what is wrong
