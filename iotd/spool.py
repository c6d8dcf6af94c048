"""Every message from the moment it is made until its PUBACK: nothing lost, and nothing written that need not be.

Two stores of one class. What is in flight lives in the runtime directory, which is memory: it survives a crash, a
kill and a restart, and costs the card nothing. What is not acknowledged within 5 s, or meets a lost line or a stop,
moves to the state directory with an fsync. `strict` puts it on disk first. Used by the main thread alone.

A store that is damaged is moved aside, one that cannot be written is replaced by one in memory; both are said aloud.
"""

from __future__ import annotations

import json
import sqlite3
from collections import Counter
from contextlib import closing, contextmanager, suppress
from operator import attrgetter
from pathlib import Path
from typing import Any, Callable, Iterable, Iterator, Sequence

from iotd import log
from iotd.model import Message
from iotd.outbox import Waiting
from iotd.settings import Spool as Bounds

SETTLE_S = 5.0
RETRY_S = 60.0  # before a store that failed is tried again
REPORT_S = 600.0  # what is dropped is reported at once, then counted for so long
AGES_S = 600.0  # between two looks for what is too old, or a sixtieth of the age where that is less
ROW_BYTES = 100  # what a row costs beside topic and payload, nearly
GAP = 1 << 40  # ids left free for a store that could not be opened
MEMORY = ":memory:"  # where messages are kept while no file can be written
HELD_BYTES = 8 << 20  # the most that is kept there

SCHEMA_VERSION = 1
_SCHEMA = """
CREATE TABLE IF NOT EXISTS message (
  id INTEGER PRIMARY KEY, topic TEXT NOT NULL, payload BLOB NOT NULL, qos INTEGER NOT NULL, retain INTEGER NOT NULL,
  latest INTEGER NOT NULL, size INTEGER NOT NULL, boot TEXT NOT NULL, made_s REAL NOT NULL, made_at REAL,
  aside INTEGER NOT NULL DEFAULT 0);
CREATE INDEX IF NOT EXISTS latest_of_topic ON message (topic) WHERE latest;
"""
_COLUMNS = "id, topic, payload, qos, retain, latest, size, boot, made_s, made_at, aside"


Row = tuple[Any, ...]  # one message, in the order of _COLUMNS


class Store:
    """The messages of one SQLite file. Any method may raise sqlite3.Error."""

    def __init__(self, path: str, durable: bool) -> None:
        self.path = path
        self.durable = durable
        self.count = self.size = 0
        self.first_made_s: float | None = None  # when the oldest message was made, or earlier, until `recount`
        self._db = sqlite3.connect(path, isolation_level=None)
        try:
            self._prepare(durable)
        except sqlite3.Error:
            self._db.close()
            raise

    def _prepare(self, durable: bool) -> None:
        self._db.execute(f"PRAGMA synchronous = {'NORMAL' if durable else 'OFF'}")
        self._db.execute("PRAGMA cache_size = -256")
        self._db.execute("PRAGMA journal_size_limit = 1048576")
        if self._db.execute("PRAGMA user_version").fetchone()[0] == 0:
            self._db.execute("PRAGMA auto_vacuum = INCREMENTAL")
            # A write-ahead log survives the death of this process even unsynced; synced, it needs one fsync a time.
            self._db.execute("PRAGMA journal_mode = WAL")
            self._db.executescript(f"BEGIN; {_SCHEMA} PRAGMA user_version = {SCHEMA_VERSION}; COMMIT")
        self.recount()

    def add(self, row: Row) -> None:
        """Add one message."""
        with self._synced():
            self._db.execute(f"INSERT INTO message ({_COLUMNS}) VALUES (?,?,?,?,?,?,?,?,?,?,?)", row)
        self.count += 1
        self.size += row[6]
        self.first_made_s = row[8] if self.first_made_s is None else self.first_made_s

    def add_all(self, rows: Iterable[Row]) -> None:
        """Add all of the messages or none; one whose id is here already stays as it is."""
        count, size = self.count, self.size
        insert = f"INSERT OR IGNORE INTO message ({_COLUMNS}) VALUES (?,?,?,?,?,?,?,?,?,?,?)"
        with self._synced():
            self._db.execute("BEGIN IMMEDIATE")
            try:
                for row in rows:
                    if self._db.execute(insert, row).rowcount:
                        self.count += not row[10]
                        self.size += row[6]
                        self.first_made_s = row[8] if self.first_made_s is None else self.first_made_s
                self._db.execute("COMMIT")
            except sqlite3.Error:
                self.count, self.size = count, size
                raise
            finally:
                if self._db.in_transaction:
                    self._db.execute("ROLLBACK")

    @contextmanager
    def _synced(self) -> Iterator[None]:
        """Have what is committed within on the disk when this ends, where the store is durable.

        Only what is added needs that: a deletion that a power cut undoes costs a QoS 1 duplicate, not a message.
        """
        if not self.durable:
            yield
            return
        self._db.execute("PRAGMA synchronous = FULL")
        try:
            yield
        finally:
            self._db.execute("PRAGMA synchronous = NORMAL")

    def fetch(self, after: int, most: int, resting: Sequence[str]) -> list[Waiting]:
        """Return up to `most` messages beyond the id `after`, without those of the resting topics."""
        found = self._db.execute(
            "SELECT id, topic, payload, qos, retain FROM message WHERE id > ? AND NOT aside"
            " AND topic NOT IN (SELECT value FROM json_each(?)) ORDER BY id LIMIT ?",
            (after, json.dumps(resting), most))
        return [Waiting(number, topic, payload, qos, bool(retain)) for number, topic, payload, qos, retain in found]

    def rows(self, made_before_s: float, boot: str, most: int) -> list[Row]:
        """Return up to `most` whole rows, oldest first: those made by then, and those of another boot."""
        return self._db.execute(f"SELECT {_COLUMNS} FROM message WHERE made_s <= ? OR boot <> ? ORDER BY id LIMIT ?",
                                (made_before_s, boot, most)).fetchall()

    def delete(self, where: str, values: Sequence[object]) -> list[tuple[int, str]]:
        """Delete the messages that match; return the id and topic of each."""
        gone = self._db.execute(f"DELETE FROM message WHERE {where} RETURNING id, topic, size, aside",
                                values).fetchall()
        for _, _, size, aside in gone:
            self.count -= not aside
            self.size -= size
        if not self.size:
            self.first_made_s = None
        if gone and not self.count and self.durable:
            self._db.executescript("PRAGMA incremental_vacuum")  # execute() would free a single page
        return [(number, topic) for number, topic, _, _ in gone]

    def delete_oldest(self, excess: int) -> list[tuple[int, str]]:
        """Delete the oldest messages that make up `excess` bytes; return the id and topic of each."""
        last = 0
        for last, size in self._db.execute("SELECT id, size FROM message ORDER BY id"):
            excess -= size
            if excess <= 0:
                break
        return self.delete("id <= ?", (last,))

    def date(self, boot: str, booted_at: float) -> None:
        """Give the messages of this boot that have none the wall clock of their making."""
        self._db.execute("UPDATE message SET made_at = ? + made_s WHERE made_at IS NULL AND boot = ?",
                         (booted_at, boot))

    def probe(self) -> None:
        """Write something that changes nothing."""
        self._db.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")

    def delete_ids(self, ids: Sequence[int]) -> set[int]:
        """Delete the messages with these ids; return the ids of those that were here."""
        where = "id = ?" if len(ids) == 1 else "id IN (SELECT value FROM json_each(?))"
        return {number for number, _ in self.delete(where, (ids[0] if len(ids) == 1 else json.dumps(ids),))}

    def set_aside(self, number: int) -> None:
        """Keep the message, and never fetch it again."""
        self._db.execute("UPDATE message SET aside = 1 WHERE id = ?", (number,))
        self.recount()

    def take_back(self, topic: str) -> None:
        """Let what was set aside of the topic be fetched again."""
        self.count += self._db.execute("UPDATE message SET aside = 0 WHERE aside AND topic = ?", (topic,)).rowcount

    def newest(self) -> dict[str, int]:
        """Return the id of the newest retained message of each topic."""
        return dict(self._db.execute("SELECT topic, max(id) FROM message WHERE retain AND NOT aside GROUP BY topic"))

    def last(self) -> int:
        """Return the highest id."""
        return int(self._db.execute("SELECT ifnull(max(id), 0) FROM message").fetchone()[0])

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
        """Close the file; its write-ahead log is folded in."""
        self._db.close()

    def recount(self) -> None:
        """Take the count, the size and the age from the file."""
        self.count, self.size, self.first_made_s = self._db.execute(
            "SELECT ifnull(sum(NOT aside), 0), ifnull(sum(size), 0),"
            " (SELECT made_s FROM message ORDER BY id LIMIT 1) FROM message").fetchone()


class Spool:
    """The stores as one queue in order of id. Nothing here raises sqlite3.Error: a store that fails is dealt with."""

    def __init__(self, runtime: Path, state: Path, bounds: Bounds, boot: str, now: float) -> None:
        self.bounds = bounds
        self.last_id = 0  # the highest id that was ever put
        self.dropped: Counter[str] = Counter()
        self.newest: dict[str, int] = {}
        self._boot = boot
        self._unreported: Counter[tuple[str, str]] = Counter()
        self._report_at = now
        self._retry_at = now
        self._ages_at = now
        self._newcomer: tuple[int, Waiting] | None = None  # the last message, until it is touched, and the id before
        self._failures: dict[str, str] = {}
        self._undeleted: set[int] = set()  # acknowledged, but a store that cannot be written still has them
        self._paths = {str(state / "spool.db"): True, str(runtime / "spool.db"): False}
        self._stores: tuple[Store, ...] = tuple([])
        self.reopened = 0  # how often a store came back, with messages that nobody has seen yet
        self._first = 1
        self._reopen()
        self._last = self.last_id = max((self._guard(store, 0, store.last) for store in self._stores), default=0)
        if len(self._stores) < len(self._paths):
            self._last += GAP
        self._first = self._last + 1
        for store in self._stores:
            self._take_in(store)

    @property
    def count(self) -> int:
        """How many messages wait for their PUBACK; those set aside do not."""
        return sum(store.count for store in self._stores)

    @property
    def size(self) -> int:
        """How many bytes they take."""
        return sum(store.size for store in self._stores)

    @property
    def failures(self) -> list[str]:
        """What is wrong with the stores, a sentence each."""
        return list(self._failures.values())

    def next_id(self) -> int:
        """Return the id of a message that is made now."""
        self._last += 1
        return self._last

    def put(self, number: int, message: Message, latest: bool, now: float) -> None:
        """Keep the message with its id; `latest`: in place of every older one of its topic."""
        size = len(message.payload) + len(message.topic) + ROW_BYTES
        row = (number, message.topic, message.payload, message.qos, message.retain, latest, size, self._boot, now,
               None, False)
        preferred = self._stores if self.bounds.strict else reversed(self._stores)  # the disk's is the first
        if not any(self._write(store, store.add, row) for store in preferred if store.path != MEMORY):
            self._hold(row)
        if latest:
            self._delete("topic = ? AND latest AND id < ?", (message.topic, number))
        self._newcomer = self.last_id, Waiting(number, message.topic, message.payload, message.qos, message.retain)
        self.last_id = number
        if message.retain:
            self.newest[message.topic] = number
        if self.size > self.bounds.max_bytes:
            self._trim("max_bytes", self.size - self.bounds.max_bytes, self._stores)

    def fetch(self, after: int, most: int, resting: Sequence[str] = ()) -> list[Waiting]:
        """Return up to `most` messages beyond the id `after`, in order, without those of the resting topics."""
        if self._newcomer and self._newcomer[0] == after and self._newcomer[1].topic not in resting:
            return [self._newcomer[1]]
        for _ in range(2):
            stores = self._stores
            # By id: a crash amid a move leaves a message in both stores.
            found = {row.id: row for store in stores if store.count
                     for row in self._guard(store, [], store.fetch, after, most + len(self._undeleted), resting)
                     if row.id not in self._undeleted}
            if stores is self._stores:
                break  # else one was damaged, and what could be saved of it is in another
        return sorted(found.values(), key=attrgetter("id"))[:most]

    def forget(self, ids: Sequence[int]) -> None:
        """The messages are acknowledged: they need not be kept any more."""
        if self._newcomer and self._newcomer[1].id in ids:
            self._newcomer = None
        for store in self._stores:
            if store.count and self._guard(store, None, store.delete_ids, ids) is None:
                self._undeleted.update(ids)

    def set_aside(self, number: int) -> None:
        """Keep the message, and never send it again."""
        self._newcomer = None
        for store in self._stores:
            self._guard(store, None, store.set_aside, number)

    def take_back(self, topic: str) -> None:
        """Let what was set aside of the topic wait again."""
        for store in self._stores:
            self._guard(store, None, store.take_back, topic)

    def settle_at(self) -> float | None:
        """Return when `settle` has something to do, None where everything is where it belongs."""
        made = [store.first_made_s for store in self._stores if not store.durable]
        times = [made_s + SETTLE_S for made_s in made if made_s is not None and not self._failures]
        if self._failures:
            times.append(self._retry_at)
        if self._unreported:
            times.append(self._report_at)
        if self.count:
            times.append(self._ages_at)
        return min(times, default=None)

    def settle(self, now: float, at: float | None, everything: bool = False) -> None:
        """Move what has waited for 5 s, or everything, to the disk; drop what is too old.

        `at` is the wall clock, None where it is not set: a message is too old by the clock of its own boot, and by
        the wall clock only where that was right when it was written and is right now.
        """
        if everything or not self._failures or now >= self._retry_at:
            if self._failures:
                self._retry_at = now + RETRY_S
                self._reopen()
            if self._undeleted:
                undeleted, self._undeleted = self._undeleted, set()
                self.forget(list(undeleted))
            made_before_s = now if everything else now - SETTLE_S
            for source in [store for store in self._stores if not store.durable]:
                while self._moved(source, made_before_s, now, at):
                    pass
                self._guard(source, None, source.recount)
            self._probe()
        if now >= self._ages_at:
            self._ages_at = now + max(1.0, min(AGES_S, self.bounds.max_age_s / 60))
            self._drop_old(now, at)
        self._report(now)

    def close(self, now: float, at: float | None) -> None:
        """Bring everything to the disk and close."""
        self.settle(now, at, everything=True)
        for store in self._stores:
            if store.path == MEMORY and store.count:
                self._count_drops("no store can be written", store.delete("NOT aside", ()))
                self._report_at = now
                self._report(now)
            self._guard(store, None, store.close)

    def _moved(self, source: Store, made_before_s: float, now: float, at: float | None) -> bool:
        """Move some messages to the disk, first there and then gone from here; tell whether there may be more."""
        disk = next((store for store in self._stores if store.durable), None)
        rows = self._guard(source, [], source.rows, made_before_s, self._boot, 500)
        if disk is None or not rows or not self._write(disk, disk.add_all, _dated(rows, now, at)):
            return False
        return bool(self._guard(source, None, source.delete_ids, [row[0] for row in rows]))

    def _probe(self) -> None:
        """Find out whether a store that failed is well again, where no message tells."""
        for store in self._stores:
            if store.path in self._failures and not any(other.count for other in self._stores if not other.durable):
                self._write(store, store.probe)

    def _drop_old(self, now: float, at: float | None) -> None:
        for store in self._stores:
            if store.durable and store.count and at is not None:
                self._guard(store, None, store.date, self._boot, at - now)
        oldest_at = None if at is None else at - self.bounds.max_age_s
        self._count_drops("max_age", self._delete("(boot = ? AND made_s < ?) OR (boot <> ? AND made_at < ?)", (
            self._boot, now - self.bounds.max_age_s, self._boot, oldest_at)))

    def _trim(self, reason: str, excess: int, stores: Sequence[Store]) -> None:
        """Drop the oldest messages that make up `excess` bytes."""
        for store in stores:
            if excess > 0:
                before = store.size
                self._count_drops(reason, self._guard(store, [], store.delete_oldest, excess))
                excess -= before - store.size

    def _delete(self, where: str, values: Sequence[object]) -> list[tuple[int, str]]:
        return [row for store in self._stores
                for row in self._guard(store, [], store.delete, where, values)]

    def _count_drops(self, reason: str, rows: list[tuple[int, str]]) -> None:
        self._newcomer = None
        for _, topic in rows:
            self.dropped[topic] += 1
            self._unreported[topic, reason] += 1

    def _report(self, now: float) -> None:
        if self._unreported and now >= self._report_at:
            self._report_at = now + REPORT_S
            for (topic, reason), count in self._unreported.items():
                log.warning("spool.dropped", "the oldest messages had to go", topic=topic, count=count, reason=reason)
            self._unreported.clear()

    def _guard(self, store: Store, otherwise: Any, do: Callable[..., Any], *arguments: Any) -> Any:
        """Return what `do` gives, or `otherwise` after having dealt with the failure of its store."""
        try:
            return do(*arguments)
        except sqlite3.Error as error:
            self._failed(store, error)
            return otherwise

    def _write(self, store: Store, do: Callable[..., None], *arguments: Any) -> bool:
        """Do it and tell whether it was done; a store that had failed and takes it is well again."""
        failed = object()
        if self._guard(store, failed, do, *arguments) is failed:
            return False
        if self._failures.pop(store.path, None):
            log.info("spool.restored", "the spool can write again", path=store.path)
        return True

    def _failed(self, store: Store, error: sqlite3.Error) -> None:
        if _is_damage(error):
            self._stores = tuple(other for other in self._stores if other is not store)
            with suppress(sqlite3.Error):
                store.close()
            self._begin_anew(store.path)
        else:
            self._fails(store.path, str(error))

    def _begin_anew(self, path: str) -> None:
        """Move the damaged file aside and put what can still be read of it where it can be kept."""
        saved = _salvaged(path)
        _move_aside(path)
        log.error("spool.damaged", "the spool's file was damaged; it was moved aside and begun anew",
                  path=path, aside=f"{path}.damaged", saved=len(saved))
        self._open(path, last_try=True)
        if not any(self._write(store, store.add_all, saved) for store in self._stores):
            for row in saved:
                self._hold(row)

    def _fails(self, path: str, why: str) -> None:
        if self._failures.get(path) != why:
            self._failures[path] = why
            log.error("spool.failed", "the spool cannot write; messages are kept where they can be, and it tries again",
                      path=path, reason=why)

    def _reopen(self) -> None:
        """Open the stores that are not open, the disk's first; a damaged one is moved aside."""
        for path in self._paths:
            if not any(store.path == path for store in self._stores):
                self._open(path)

    def _open(self, path: str, last_try: bool = False) -> None:
        durable, self._newcomer = self._paths[path], None  # what comes back may hold more than that
        try:
            store = Store(path, durable)
        except sqlite3.Error as error:
            if last_try or not _is_damage(error):
                self._fails(path, str(error))
            else:
                self._begin_anew(path)
        else:
            self._stores = (store, *self._stores) if durable else (*self._stores, store)
            if self._first > 1:
                self._guard(store, None, store.renumber_below, self._first)
                self._take_in(store)
                self.last_id = max(self.last_id, self._guard(store, 0, store.last))
                self.reopened += 1

    def _take_in(self, store: Store) -> None:
        """Let what an opened store holds count among the newest of its topics."""
        for topic, number in self._guard(store, {}, store.newest).items():
            self.newest[topic] = max(number, self.newest.get(topic, 0))

    def _hold(self, row: Row) -> None:
        """Keep the message in memory, where no file takes it."""
        held = next((store for store in self._stores if store.path == MEMORY), None)
        if held is None:
            held = Store(MEMORY, durable=False)
            self._stores += (held,)
        held.add(row)
        if held.size > HELD_BYTES:
            self._trim("no store can be written", held.size - HELD_BYTES, [held])


def _dated(rows: list[Row], now: float, at: float | None) -> list[Row]:
    """Return the rows with the wall clock of their making, where that is known."""
    return [row[:9] + (row[9] if row[9] is not None or at is None else at - (now - row[8]),) + row[10:] for row in rows]


def _is_damage(error: sqlite3.Error) -> bool:
    if isinstance(error, sqlite3.OperationalError) and not hasattr(error, "sqlite_errorcode"):
        return True  # Python's own: a text that is no UTF-8
    return getattr(error, "sqlite_errorcode", 0) & 0xFF in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)


def _salvaged(path: str) -> list[Row]:
    """Return the rows of a damaged file that can still be read: those before the damage, and those behind it."""
    saved: dict[int, Row] = {}
    for order in ("ASC", "DESC"):
        with suppress(sqlite3.Error), closing(sqlite3.connect(path)) as database:
            for row in database.execute(f"SELECT {_COLUMNS} FROM message ORDER BY id {order}"):
                saved[row[0]] = row
    return list(saved.values())


def _move_aside(path: str) -> None:
    for ending in ("-wal", "-shm"):
        Path(path + ending).unlink(missing_ok=True)
    try:
        Path(path).replace(path + ".damaged")
    except OSError:
        pass  # opening it anew will say what is wrong
