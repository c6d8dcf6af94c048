"""Every message from the moment it is made until its PUBACK: nothing lost, and nothing written that need not be.

What is in flight lives in the journal, in the runtime directory, which is memory: it survives a crash, a kill and a
restart, and costs the card nothing. What is not acknowledged within 5 s, or meets a lost line or a stop, moves to the
store on the disk with an fsync. `strict` puts it on disk first. Used by the main thread alone.

An fsync takes seconds on a worn card, and only between two turns is the watchdog fed: `open_disk` is a turn of its own,
and what has to move goes as one transaction.

A file that is damaged is moved aside, one that cannot be written is stood in for by the other, and at last by memory
alone; all of it is said aloud.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from operator import attrgetter
from typing import TYPE_CHECKING

from iotd.host import log
from iotd.outgoing.accounts import Drops
from iotd.outgoing.disk import Disk
from iotd.outgoing.journal import Journal, Row, dated
from iotd.outgoing.outbox import Waiting
from iotd.outgoing.section import Bounds
from iotd.outgoing.stores import GAP, Stores
from iotd.vocabulary import Message

if TYPE_CHECKING:
    from iotd.outgoing.store import Store

SETTLE_S = 5.0
RETRY_S = 60.0  # before a file that failed is tried again
AGES_S = 600.0  # between two looks for what is too old, or a sixtieth of the age where that is less
ROW_BYTES = 100  # what a row costs beside topic and payload, nearly
HELD_BYTES = 8 << 20  # the most that is kept in memory
MOVED_AT_ONCE = 10_000  # in one transaction, and in one turn unless the end is near


class Spool:
    """The disk's store and the journal as one queue in order of id; `boot` is this boot's id.

    What waits belongs to the `thing` that made it. Another one's stays in the files and is not fetched or counted, only
    its bytes are, until that thing is back or it is too old.

    Nothing here raises sqlite3.Error or OSError: a file that fails is dealt with.
    """

    def __init__(self, journal: Journal, disk: Disk, bounds: Bounds, boot: str, now: float, thing: str) -> None:
        self.bounds = bounds
        self.last_id = 0  # the highest id that was ever put
        self._drops = Drops(now)
        self.newest: dict[str, int] = {}
        self.reopened = 0  # how often a file came back, with messages that nobody has seen yet
        self._boot = boot
        self._thing = thing
        self._others: dict[str, dict[str, int]] = {}  # by the file, how many messages of other things it has
        self._move_until = -math.inf  # what was made by then moves to the disk without having waited
        self._retry_at = now
        self._undeleted: set[int] = set()  # acknowledged, but a disk that cannot be written still has them
        self._superseded: dict[str, int] = {}  # likewise, by topic, what `latest` is to take the place of
        self._journal = journal
        self._stores = Stores(journal, disk, self._came_back)
        self._belong(journal)
        self._stores.open_disk(though_empty=False)
        self._stores.reopen()
        self._stores.keep_apart()
        self.last_id = max(self._stores.guard(store, 0, store.last) for store in self._stores.all)
        self._last: int = self.last_id
        if self._stores.disk_fails or not self._journal.is_open:
            self._last += GAP
        self._stores.first = self._last + 1
        for store in self._stores.all:
            self._take_in(store)
        self._say_others()
        self._ages_at = now if self.size else now + self._ages_every_s

    @property
    def count(self) -> int:
        """How many messages wait for their PUBACK; those set aside do not."""
        return self._journal.count + (self._stores.disk.count if self._stores.disk is not None else 0)

    @property
    def size(self) -> int:
        """How many bytes they take."""
        return self._journal.size + (self._stores.disk.size if self._stores.disk is not None else 0)

    @property
    def others(self) -> dict[str, int]:
        """How many messages of other things are kept, by their names."""
        others: Counter[str] = Counter()
        for counts in self._others.values():
            others.update(counts)
        return dict(others)

    @property
    def poison(self) -> dict[str, int]:
        """How many messages of each topic are set aside: kept, and never sent."""
        poison: Counter[str] = Counter()
        for store in self._stores.all:
            poison.update(store.poison)
        return dict(+poison)

    @property
    def failures(self) -> list[str]:
        """What is wrong with the files, a sentence each."""
        return self._stores.failures.sentences()

    @property
    def dropped(self) -> Counter[str]:
        """How many messages of each topic had to go in this run."""
        return self._drops.counts

    @property
    def _ages_every_s(self) -> float:
        return max(1.0, min(AGES_S, self.bounds.max_age_s / 60))

    def belong_to(self, thing: str) -> None:
        """Keep and fetch the messages of this thing alone from now on."""
        self._thing = thing
        self.newest.clear()
        for store in self._stores.all:
            self._belong(store)
            self._take_in(store)
        self.reopened += 1
        self._say_others()

    def next_id(self) -> int:
        """Return the id of a message that is made now."""
        self._last += 1
        return self._last

    def put(self, number: int, message: Message, latest: bool, now: float) -> None:
        """Keep the message with its id; `latest`: in place of every older one of its topic."""
        self.put_all([(number, message, latest)], now)

    def put_all(self, made: Iterable[tuple[int, Message, bool]], now: float) -> None:
        """Keep messages that were made together, each as `put` does: what has to be on the disk takes one fsync."""
        rows = [self._row(number, message, latest, now) for number, message, latest in made]
        if not self._written(rows):
            for row in rows:
                if not self._stores.write(self._journal, self._journal.add_all, [row]):
                    self._hold(row)
        self._took(rows, now)

    def keep_all(self, offers: Sequence[tuple[Message, bool]], now: float) -> list[int]:
        """Keep these messages of one program with one write, in their order; return their ids, 0 for one that is larger
        than all that may wait.

        It will be told that they are kept: where no file takes them, or under `strict` the disk does not, none is, and
        every id is -1.
        """
        rows = [self._row(self.next_id(), message, latest, now) for message, latest in offers]
        ids = [row.id if row.size <= self.bounds.max_bytes else 0 for row in rows]
        rows = [row for row, number in zip(rows, ids) if number]
        if rows and not self._written(rows):
            return [-1] * len(offers)
        if rows:
            self._took(rows, now)
        return ids

    def _written(self, rows: Sequence[Row]) -> bool:
        """Write the messages with one write, where the bounds say; tell whether that was done."""
        if not self.bounds.strict and self._stores.write(self._journal, self._journal.add_all, rows):
            return True
        disk = self._stores.opened_disk()
        return disk is not None and self._stores.write(disk, disk.add_all, rows)

    def _row(self, number: int, message: Message, latest: bool, now: float) -> Row:
        topic, payload, qos, retain = message
        size = len(payload) + len(topic) + ROW_BYTES
        return Row(number, topic, payload, qos, retain, latest, size, self._boot, now, None, False, self._thing)

    def _took(self, rows: Sequence[Row], now: float) -> None:
        """Messages have come: older ones that have to make room go."""
        latest = {}
        for row in rows:
            if row.latest:
                latest[row.topic] = row.id
            if row.retain:
                self.newest[row.topic] = row.id
        for topic, number in latest.items():
            self._supersede(topic, number)
        self.last_id = rows[-1].id
        if self.size > self.bounds.max_bytes:
            self._trim("max_bytes", self.size - self.bounds.max_bytes, self._stores.all)
        if self._journal.size > HELD_BYTES:
            self._relieve(now)

    def _supersede(self, topic: str, number: int) -> None:
        """Delete what `latest` is in the place of; a disk that fails is told later."""
        self._journal.delete_superseded(topic, number)
        disk = self._stores.disk
        if self._stores.disk_fails or (disk is not None and self._stores.guard(
                disk, None, disk.delete_superseded, topic, number) is None):
            self._superseded[topic] = number

    def _hold(self, row: Row) -> None:
        """Keep a message that the journal's file does not take: on the disk, or else in memory."""
        disk = self._stores.opened_disk()
        if disk is None or not self._stores.write(disk, disk.add_all, [row]):
            self._journal.hold([row])

    def fetch(self, after: int, most: int, resting: Sequence[str] = ()) -> list[Waiting]:
        """Return up to `most` messages beyond the id `after`, in order, without those of the resting topics."""
        if self._stores.disk is None and not self._undeleted:
            return self._journal.fetch(after, most, resting)
        for _ in range(2):
            disk = self._stores.disk
            # By id: a crash amid a move leaves a message in both.
            found = {row.id: row for store in self._stores.all if store.count
                     for row in self._fetched(store, after, most + len(self._undeleted), resting)
                     if row.id not in self._undeleted}
            if disk is self._stores.disk:
                break  # else it was damaged, and what could be saved of it is elsewhere
        return sorted(found.values(), key=attrgetter("id"))[:most]

    def _fetched(self, store: Store | Journal, after: int, most: int, resting: Sequence[str]) -> list[Waiting]:
        rows: list[Waiting] | None = self._stores.guard(store, None, store.fetch, after, most, resting)
        self._stores.unseen = self._stores.unseen or rows is None
        return rows or []

    def forget(self, ids: Sequence[int]) -> None:
        """The messages are acknowledged: they need not be kept any more."""
        self._journal.delete_ids(ids)
        disk = self._stores.disk
        if disk is not None and disk.count and (
                self._stores.disk_fails or self._stores.guard(disk, None, disk.delete_ids, ids) is None):
            self._undeleted.update(ids)

    def offset_of(self, number: int, boot: str) -> float | None:
        """Return how far the wall clock was ahead of the monotonic one when this message was made in that boot, None
        where nobody knows.
        """
        found = (self._stores.guard(store, None, store.offset_of, number, boot) for store in self._stores.all)
        return next((offset_s for offset_s in found if offset_s is not None), None)

    def holding(self, piece: bytes) -> int:
        """Return how many messages that wait have this in their payload; this reads all of them."""
        return sum(self._stores.guard(store, 0, store.holding, piece) for store in self._stores.all)

    def flush(self) -> None:
        """Have what was forgotten gone from the files, where no message has taken that along."""
        self._journal.flush()

    def set_aside(self, number: int) -> None:
        """Keep the message, and never send it again."""
        for store in self._stores.all:
            self._stores.guard(store, None, store.set_aside, number)

    def take_back(self, topic: str) -> None:
        """Let what was set aside of the topic wait again."""
        for store in self._stores.all:
            self._stores.guard(store, None, store.take_back, topic)

    def settle_at(self) -> float:
        """Return when `settle` has something to do, math.inf where everything is where it belongs."""
        amiss = self._stores.amiss
        first_s = self._journal.first_made_s()
        return min(self._retry_at if amiss else first_s + (0.0 if first_s <= self._move_until else SETTLE_S),
                   self._drops.report_at(),
                   self._ages_at if self.size else math.inf)

    def asks_the_clock(self, now: float) -> bool:
        """Tell whether `settle` may have a use for the wall clock: where all is well, messages have no other age than
        the monotonic one.
        """
        amiss = self._stores.amiss
        on_disk = self._stores.disk is not None and self._stores.disk.count > 0
        return amiss or on_disk or bool(self._journal.made_before(self._moved_by(now), self._boot, 1))

    def hurry(self, now: float) -> None:
        """Let what waits now move to the disk at once, as turns allow."""
        self._move_until = now

    def open_disk(self, now: float) -> bool:
        """Open the disk where `settle` needs it now, and tell whether that was done."""
        if self._stores.disk is not None or self._stores.disk_fails or not self._journal.made_before(
                self._moved_by(now), self._boot, 1):
            return False
        self._stores.open_disk()
        return True

    def settle(self, now: float, at: float | None, everything: bool = False) -> None:
        """Move what has waited for 5 s, or everything, to the disk; drop what is too old.

        `at` is the wall clock, None where it is not set: a message is too old by the clock of its own boot, and by
        the wall clock only where that was right when it was written and is right now.
        """
        amiss = self._stores.amiss
        if everything or not amiss or now >= self._retry_at:
            if amiss:
                self._retry_at = now + RETRY_S
                self._stores.reopen()
            self._move(now if everything else self._moved_by(now), now, at, everything)
            if amiss:
                self._stores.probe()
            self._catch_up()
        if everything or now >= self._ages_at:
            self._ages_at = now + self._ages_every_s
            self._drop_old(now, at)
        self.flush()
        self._drops.report(now)

    def close(self, now: float, at: float | None) -> None:
        """Bring everything to the disk and close."""
        self.settle(now, at, everything=True)
        if self._journal.behind:
            lost = self._journal.fetch(0, self._journal.count, ())
            self._drops.add("no file can be written", [(row.id, row.topic) for row in lost])
            self._drops.report(now, at_once=True)
        for store in self._stores.all:
            self._stores.guard(store, None, store.close)

    def _catch_up(self) -> None:
        """Delete what a disk that failed could not delete, if it is well again."""
        if (self._undeleted or self._superseded) and not self._stores.disk_fails:
            undeleted, self._undeleted = self._undeleted, set()
            superseded, self._superseded = self._superseded, {}
            self.forget(list(undeleted))
            for topic, number in superseded.items():
                self._supersede(topic, number)

    def _moved_by(self, now: float) -> float:
        return max(self._move_until, now - SETTLE_S)

    def _move(self, made_before_s: float, now: float, at: float | None, everything: bool) -> None:
        """Move what was made by then from the journal to the disk: first there, and then gone from here."""
        while rows := self._journal.made_before(made_before_s, self._boot, MOVED_AT_ONCE):
            disk = self._stores.opened_disk(retry=True)
            if disk is None or not self._stores.write(disk, disk.add_all, dated(rows, now, at)):
                return
            self._journal.delete_ids([row.id for row in rows])
            if self._others.get(self._journal.path):
                self._belong(self._journal)
                self._belong(disk)
            if not everything:
                return

    def _relieve(self, now: float) -> None:
        """Keep what is in memory within its bound: on the disk, or not at all."""
        if not self._stores.disk_fails:
            self._move(now, now, None, everything=True)
        self._trim("the disk cannot be written", self._journal.size - HELD_BYTES, [self._journal])

    def _drop_old(self, now: float, at: float | None) -> None:
        disk = self._stores.disk
        if disk is not None and disk.count and at is not None:
            self._stores.guard(disk, None, disk.date, self._boot, at - now)
        oldest_at = None if at is None else at - self.bounds.max_age_s
        for store in self._stores.all:
            self._drops.add("max_age", self._stores.guard(
                store, [], store.delete_old, self._boot, now - self.bounds.max_age_s, oldest_at))
            if self._others.get(store.path):
                self._belong(store)

    def _trim(self, reason: str, excess: int, stores: Sequence[Store | Journal]) -> None:
        """Drop the oldest messages that make up `excess` bytes."""
        for store in stores:
            if excess > 0:
                before = store.size
                self._drops.add(reason, self._stores.guard(store, [], store.delete_oldest, excess))
                excess -= before - store.size

    def _came_back(self, store: Store | Journal) -> None:
        self._belong(store)
        if self._stores.first:
            self._take_in(store)
            self._say_others()
            if store.count:
                self.last_id = max(self.last_id, self._stores.guard(store, 0, store.last))
                self.reopened += 1

    def _belong(self, store: Store | Journal) -> None:
        others: dict[str, int] | None = self._stores.guard(store, None, store.belong_to, self._thing)
        self._stores.unseen = self._stores.unseen or others is None
        self._others[store.path] = others or {}

    def _say_others(self) -> None:
        for thing, count in self.others.items():
            log.warning("spool.set_aside", f"messages of the thing {thing} are kept and not sent as another's",
                        thing=thing, count=count)

    def _take_in(self, store: Store | Journal) -> None:
        """Let what an opened store holds of this thing count among the newest of its topics."""
        for topic, number in self._stores.guard(store, {}, store.newest).items():
            self.newest[topic] = max(number, self.newest.get(topic, 0))
