"""Every message from the moment it is made until its PUBACK: nothing lost, and nothing written that need not be.

What is in flight lives in the journal, in the runtime directory, which is memory: it survives a crash, a kill and a
restart, and costs the card nothing. What is not acknowledged within 5 s, or meets a lost line or a stop, moves to the
store on the disk with an fsync. `strict` puts it on disk first. Used by the main thread alone.

A file that is damaged is moved aside, one that cannot be written is stood in for by the other, and at last by memory
alone; all of it is said aloud.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from operator import attrgetter
from typing import TYPE_CHECKING, Any

from iotd.host import log
from iotd.outgoing.disk import Disk
from iotd.outgoing.journal import Journal, Row
from iotd.outgoing.outbox import Waiting
from iotd.outgoing.section import Bounds
from iotd.vocabulary import Message

if TYPE_CHECKING:
    from iotd.outgoing.store import Store

SETTLE_S = 5.0
RETRY_S = 60.0  # before a file that failed is tried again
REPORT_S = 600.0  # what is dropped is reported at once, then counted for so long
AGES_S = 600.0  # between two looks for what is too old, or a sixtieth of the age where that is less
ROW_BYTES = 100  # what a row costs beside topic and payload, nearly
GAP = 1 << 40  # ids left free for a file that could not be opened
HELD_BYTES = 8 << 20  # the most that is kept in memory
MOVED_AT_ONCE = 500


class Spool:
    """The disk's store and the journal as one queue in order of id; `boot` is this boot's id.

    Nothing here raises sqlite3.Error or OSError: a file that fails is dealt with.
    """

    def __init__(self, journal: Journal, disk: Disk, bounds: Bounds, boot: str, now: float) -> None:
        self.bounds = bounds
        self.last_id = 0  # the highest id that was ever put
        self.dropped: Counter[str] = Counter()
        self.newest: dict[str, int] = {}
        self.reopened = 0  # how often a file came back, with messages that nobody has seen yet
        self._boot = boot
        self._unreported: Counter[tuple[str, str]] = Counter()
        self._report_at = now
        self._retry_at = now
        self._failures: dict[str, str] = {}
        self._undeleted: set[int] = set()  # acknowledged, but a disk that cannot be written still has them
        self._file = disk
        self._path = disk.path
        self._disk: Store | None = None  # until it holds something, or has to
        self._journal = journal
        self._first = 0  # the first id of this run, once it is known
        self._open_disk(though_empty=False)
        self._reopen()
        self._keep_apart()
        self.last_id = max(self._guard(store, 0, store.last) for store in self._stores)
        self._last: int = self.last_id
        if self._path in self._failures or not self._journal.is_open:
            self._last += GAP
        self._first = self._last + 1
        for store in self._stores:
            self._take_in(store)
        self._ages_at = now if self.count else now + self._ages_every_s

    @property
    def count(self) -> int:
        """How many messages wait for their PUBACK; those set aside do not."""
        return self._journal.count + (self._disk.count if self._disk is not None else 0)

    @property
    def size(self) -> int:
        """How many bytes they take."""
        return self._journal.size + (self._disk.size if self._disk is not None else 0)

    @property
    def failures(self) -> list[str]:
        """What is wrong with the files, a sentence each."""
        return list(self._failures.values())

    @property
    def _ages_every_s(self) -> float:
        return max(1.0, min(AGES_S, self.bounds.max_age_s / 60))

    @property
    def _stores(self) -> tuple[Store | Journal, ...]:
        if self._disk is None:
            return (self._journal,)
        return (self._disk, self._journal)

    def next_id(self) -> int:
        """Return the id of a message that is made now."""
        self._last += 1
        return self._last

    def put(self, number: int, message: Message, latest: bool, now: float) -> None:
        """Keep the message with its id; `latest`: in place of every older one of its topic."""
        size = len(message.payload) + len(message.topic) + ROW_BYTES
        row = Row(number, message.topic, message.payload, message.qos, message.retain, latest, size, self._boot, now,
                  None, False)
        for store in self._takers():
            if self._write(store, store.add, row):
                break
        else:
            self._journal.hold([row])
        if latest:
            for store in self._stores:
                self._guard(store, [], store.delete_superseded, message.topic, number)
        self.last_id = number
        if message.retain:
            self.newest[message.topic] = number
        if self.size > self.bounds.max_bytes:
            self._trim("max_bytes", self.size - self.bounds.max_bytes, self._stores)
        if self._journal.size > HELD_BYTES:
            self._relieve(now)

    def fetch(self, after: int, most: int, resting: Sequence[str] = ()) -> list[Waiting]:
        """Return up to `most` messages beyond the id `after`, in order, without those of the resting topics."""
        if self._disk is None and not self._undeleted:
            return self._journal.fetch(after, most, resting)
        for _ in range(2):
            disk = self._disk
            # By id: a crash amid a move leaves a message in both.
            found = {row.id: row for store in self._stores if store.count
                     for row in self._guard(store, [], store.fetch, after, most + len(self._undeleted), resting)
                     if row.id not in self._undeleted}
            if disk is self._disk:
                break  # else it was damaged, and what could be saved of it is elsewhere
        return sorted(found.values(), key=attrgetter("id"))[:most]

    def forget(self, ids: Sequence[int]) -> None:
        """The messages are acknowledged: they need not be kept any more."""
        self._journal.delete_ids(ids)
        disk = self._disk
        if disk is not None and disk.count and self._guard(disk, None, disk.delete_ids, ids) is None:
            self._undeleted.update(ids)

    def flush(self) -> None:
        """Have what was forgotten gone from the files, where no message has taken that along."""
        self._journal.flush()

    def set_aside(self, number: int) -> None:
        """Keep the message, and never send it again."""
        for store in self._stores:
            self._guard(store, None, store.set_aside, number)

    def take_back(self, topic: str) -> None:
        """Let what was set aside of the topic wait again."""
        for store in self._stores:
            self._guard(store, None, store.take_back, topic)

    def settle_at(self) -> float:
        """Return when `settle` has something to do, math.inf where everything is where it belongs."""
        amiss = bool(self._failures) or self._journal.behind
        return min(self._retry_at if amiss else self._journal.first_made_s() + SETTLE_S,
                   self._report_at if self._unreported else math.inf,
                   self._ages_at if self.count else math.inf)

    def asks_the_clock(self, now: float) -> bool:
        """Tell whether `settle` may have a use for the wall clock: where all is well, messages have no other age than
        the monotonic one.
        """
        amiss = bool(self._failures) or self._journal.behind
        on_disk = self._disk is not None and self._disk.count > 0
        return amiss or on_disk or bool(self._journal.made_before(now - SETTLE_S, self._boot, 1))

    def settle(self, now: float, at: float | None, everything: bool = False) -> None:
        """Move what has waited for 5 s, or everything, to the disk; drop what is too old.

        `at` is the wall clock, None where it is not set: a message is too old by the clock of its own boot, and by
        the wall clock only where that was right when it was written and is right now.
        """
        amiss = bool(self._failures) or self._journal.behind
        if everything or not amiss or now >= self._retry_at:
            if amiss:
                self._retry_at = now + RETRY_S
                self._reopen()
            if self._undeleted:
                undeleted, self._undeleted = self._undeleted, set()
                self.forget(list(undeleted))
            self._move(now if everything else now - SETTLE_S, now, at)
            if amiss:
                self._probe()
        if everything or now >= self._ages_at:
            self._ages_at = now + self._ages_every_s
            self._drop_old(now, at)
        self.flush()
        self._report(now)

    def close(self, now: float, at: float | None) -> None:
        """Bring everything to the disk and close."""
        self.settle(now, at, everything=True)
        if self._journal.behind:
            lost = self._journal.fetch(0, self._journal.count, ())
            self._count_drops("no file can be written", [(row.id, row.topic) for row in lost])
            self._report_at = now
            self._report(now)
        for store in self._stores:
            self._guard(store, None, store.close)

    def _move(self, made_before_s: float, now: float, at: float | None) -> None:
        """Move what was made by then from the journal to the disk: first there, and then gone from here."""
        while rows := self._journal.made_before(made_before_s, self._boot, MOVED_AT_ONCE):
            disk = self._opened_disk()
            if disk is None or not self._write(disk, disk.add_all, _dated(rows, now, at)):
                return
            self._journal.delete_ids([row.id for row in rows])

    def _relieve(self, now: float) -> None:
        """Keep what is in memory within its bound: on the disk, or not at all."""
        if self._path not in self._failures:
            self._move(now, now, None)
        self._trim("the disk cannot be written", self._journal.size - HELD_BYTES, [self._journal])

    def _probe(self) -> None:
        """Find out whether a file that failed is well again, where no message has told."""
        if self._journal.is_open and (self._journal.behind or self._journal.path in self._failures):
            self._write(self._journal, self._journal.rewrite)
        if self._disk is not None and self._path in self._failures:
            self._write(self._disk, self._disk.probe)

    def _drop_old(self, now: float, at: float | None) -> None:
        disk = self._disk
        if disk is not None and disk.count and at is not None:
            self._guard(disk, None, disk.date, self._boot, at - now)
        oldest_at = None if at is None else at - self.bounds.max_age_s
        for store in self._stores:
            self._count_drops("max_age", self._guard(
                store, [], store.delete_old, self._boot, now - self.bounds.max_age_s, oldest_at))

    def _trim(self, reason: str, excess: int, stores: Sequence[Store | Journal]) -> None:
        """Drop the oldest messages that make up `excess` bytes."""
        for store in stores:
            if excess > 0:
                before = store.size
                self._count_drops(reason, self._guard(store, [], store.delete_oldest, excess))
                excess -= before - store.size

    def _count_drops(self, reason: str, rows: Iterable[tuple[int, str]]) -> None:
        for _, topic in rows:
            self.dropped[topic] += 1
            self._unreported[topic, reason] += 1

    def _report(self, now: float) -> None:
        if self._unreported and now >= self._report_at:
            self._report_at = now + REPORT_S
            for (topic, reason), count in self._unreported.items():
                log.warning("spool.dropped", "the oldest messages had to go", topic=topic, count=count, reason=reason)
            self._unreported.clear()

    def _guard(self, store: Store | Journal, otherwise: Any, do: Callable[..., Any], *arguments: Any) -> Any:
        """Return what `do` gives, or `otherwise` after having dealt with the failure of its file."""
        try:
            return do(*arguments)
        except OSError as error:
            self._fails(store.path, error.strerror or str(error))
        except self._file.errors as error:
            if store is self._disk and self._file.is_damage(error):
                self._disk = None
                with suppress(*self._file.errors):
                    store.close()
                self._begin_anew()
            else:
                self._fails(store.path, str(error))
        return otherwise

    def _write(self, store: Store | Journal, do: Callable[..., None], *arguments: Any) -> bool:
        """Do it and tell whether it was done; a file that had failed and takes it is well again."""
        failed = object()
        if self._guard(store, failed, do, *arguments) is failed:
            return False
        if store.path in self._failures and not (store is self._journal and self._journal.behind):
            del self._failures[store.path]
            log.info("spool.restored", "the spool can write again", path=store.path)
        return True

    def _takers(self) -> Iterator[Store | Journal]:
        """Yield what may take a message, the preferred one first."""
        if not self.bounds.strict:
            yield self._journal
        disk = self._opened_disk()
        if disk is not None:
            yield disk
        if self.bounds.strict:
            yield self._journal

    def _begin_anew(self) -> None:
        """Move the damaged file aside and put what can still be read of it where it can be kept."""
        saved = self._file.salvage()
        self._say_damaged(self._path, len(saved))
        self._open_disk(last_try=True)
        if self._disk is None or not self._write(self._disk, self._disk.add_all, saved):
            self._journal.hold(saved)

    def _say_damaged(self, path: str, saved: int) -> None:
        log.error("spool.damaged", "the spool's file was damaged; it was moved aside and begun anew",
                  path=path, aside=f"{path}.damaged", saved=saved)

    def _fails(self, path: str, why: str) -> None:
        if self._failures.get(path) != why:
            self._failures[path] = why
            log.error("spool.failed", "the spool cannot write; messages are kept where they can be, and it tries again",
                      path=path, reason=why)

    def _reopen(self) -> None:
        """Open the files that failed to open; a damaged one is moved aside."""
        if self._disk is None and self._path in self._failures:
            self._open_disk()
        if not self._journal.is_open:
            damaged = self._guard(self._journal, None, self._journal.open, self._first or None)
            if damaged:
                self._say_damaged(self._journal.path, self._journal.count)
            if damaged is not None:
                self._came_back(self._journal)

    def _opened_disk(self) -> Store | None:
        """Return the disk's store, which is opened when it is needed first; None where it failed to open."""
        if self._disk is None and self._path not in self._failures:
            self._open_disk()
        return self._disk

    def _open_disk(self, though_empty: bool = True, last_try: bool = False) -> None:
        """Find out whether the disk can be written; open its store, where that is not empty or it is needed.

        A healthy line needs none, and to load SQLite for it would cost 1 MB and a tenth of the start.
        """
        try:
            if not self._file.holds_something() and not though_empty:
                return
        except OSError as error:
            self._fails(self._path, error.strerror or str(error))
            return
        try:
            self._disk = opened = self._file.open()
        except self._file.errors as error:
            if last_try or not self._file.is_damage(error):
                self._fails(self._path, str(error))
            else:
                self._begin_anew()
        else:
            self._keep_apart()
            self._came_back(opened)

    def _keep_apart(self) -> None:
        """Let no id of the disk's be one that a run without the disk has given: each of those begins beyond a gap, and
        the next boot's begins there again.
        """
        disk, beyond = self._disk, self._journal.above(GAP)
        if disk is not None and self._first:
            self._guard(disk, None, disk.renumber_below, self._first)
        if disk is not None and beyond and self._guard(disk, False, disk.clashes, beyond):
            self._guard(disk, None, disk.renumber_below, beyond[0].id)

    def _came_back(self, store: Store | Journal) -> None:
        if self._first and store.count:
            self._take_in(store)
            self.last_id = max(self.last_id, self._guard(store, 0, store.last))
            self.reopened += 1

    def _take_in(self, store: Store | Journal) -> None:
        """Let what an opened store holds count among the newest of its topics."""
        for topic, number in self._guard(store, {}, store.newest).items():
            self.newest[topic] = max(number, self.newest.get(topic, 0))


def _dated(rows: list[Row], now: float, at: float | None) -> list[Row]:
    """Return the messages with the wall clock of their making, where that is known."""
    if at is None:
        return rows
    return [row if row.made_at is not None else row._replace(made_at=at - (now - row.made_s)) for row in rows]
