"""The journal and the store on the disk as files that fail: opened, stood in for, moved aside, tried again.

Nothing here raises sqlite3.Error or OSError.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from iotd.host import log
from iotd.outgoing.accounts import Failures
from iotd.outgoing.disk import Disk
from iotd.outgoing.journal import Journal, Row

if TYPE_CHECKING:
    from iotd.outgoing.store import Store

GAP = 1 << 40  # ids left free for a file that could not be opened


class Stores:
    """Both of them. `opened` is called with each that was opened, or can be read again.

    `first` is the first id of this run, once known: what is opened later has its own below it. `unseen` says that the
    disk could not be read: it may have messages that nobody has seen.
    """

    def __init__(self, journal: Journal, file: Disk, opened: Callable[[Store | Journal], None]) -> None:
        self.journal = journal
        self.disk: Store | None = None  # until it holds something, or has to
        self.failures = Failures()
        self.first = 0
        self.unseen = False
        self._is_apart = False  # no id of the disk's is one that this run has given to another
        self._file = file
        self._opened = opened

    @property
    def all(self) -> tuple[Store | Journal, ...]:
        """Those that are open, the disk's first."""
        if self.disk is None:
            return (self.journal,)
        return (self.disk, self.journal)

    @property
    def disk_fails(self) -> bool:
        """Whether the disk's file fails."""
        return self._file.path in self.failures

    @property
    def amiss(self) -> bool:
        """Whether a file fails, or lacks something."""
        return bool(self.failures) or self.journal.behind

    def guard(self, store: Store | Journal, otherwise: Any, do: Callable[..., Any], *arguments: Any) -> Any:
        """Return what `do` gives, or `otherwise` after having dealt with the failure of its file."""
        try:
            return do(*arguments)
        except OSError as error:
            self.failures.begin(store.path, error.strerror or str(error))
        except self._file.errors as error:
            if store is self.disk and self._file.is_damage(error):
                self.disk = None
                with suppress(*self._file.errors):
                    store.close()
                self._begin_anew()
            else:
                self.failures.begin(store.path, str(error))
        return otherwise

    def write(self, store: Store | Journal, do: Callable[..., None], *arguments: Any) -> bool:
        """Do it and tell whether it was done; a file that had failed and takes it is well again."""
        failed = object()
        if self.guard(store, failed, do, *arguments) is failed:
            return False
        if store.path in self.failures and not (store is self.journal and self.journal.behind):
            self.failures.end(store.path)
            if self.unseen and store is self.disk:
                self.unseen = False
                self._opened(store)
        return True

    def _begin_anew(self) -> None:
        """Move the damaged file aside and put what can still be read of it where it can be kept."""
        saved = self._apart(self._file.salvage())
        self._say_damaged(self._file.path, len(saved))
        self.open_disk(last_try=True)
        if self.disk is not None and self.write(self.disk, self.disk.add_all, saved):
            self._opened(self.disk)
        else:
            self.journal.hold(saved)
            self._opened(self.journal)

    def _apart(self, saved: list[Row]) -> list[Row]:
        """Return what was saved with ids that are nobody else's, where `keep_apart` had not come to see them."""
        mine = {row.id: row for row in self.journal.above(GAP)}
        clashes = any(row.id in mine and not _is_same(row, mine[row.id]) for row in saved)
        first = self.first or (min(mine) if clashes else 0)
        if self._is_apart or not first or not any(row.id >= first for row in saved):
            return saved
        return [row._replace(id=first - len(saved) + number) for number, row in enumerate(saved)]

    def _say_damaged(self, path: str, saved: int) -> None:
        log.error("spool.damaged", "the spool's file was damaged; it was moved aside and begun anew",
                  path=path, aside=f"{path}.damaged", saved=saved)

    def reopen(self) -> None:
        """Open the files that failed to open; a damaged one is moved aside."""
        if self.disk is None and self.disk_fails:
            self.open_disk()
        if not self.journal.is_open:
            damaged = self.guard(self.journal, None, self.journal.open, self.first or None)
            if damaged is not None:
                self._opened(self.journal)
            if damaged:
                self._say_damaged(self.journal.path, self.journal.count)

    def opened_disk(self, retry: bool = False) -> Store | None:
        """Return the disk's store, which is opened when it is needed first; None where it failed, unless to `retry`.

        A disk that fails is left alone until it is time to try again: each try may take seconds, and what it is wanted
        for can be kept elsewhere.
        """
        if self.disk_fails:
            return self.disk if retry else None
        if self.disk is None:
            self.open_disk()
        return self.disk

    def open_disk(self, though_empty: bool = True, last_try: bool = False) -> None:
        """Find out whether the disk can be written; open its store, where that is not empty or it is needed.

        A healthy line needs none, and to load SQLite for it would cost 1 MB and a tenth of the start.
        """
        try:
            if not self._file.holds_something() and not though_empty:
                return
        except OSError as error:
            self.failures.begin(self._file.path, error.strerror or str(error))
            return
        try:
            self.disk = opened = self._file.open()
        except self._file.errors as error:
            if last_try or not self._file.is_damage(error):
                self.failures.begin(self._file.path, str(error))
            else:
                self._begin_anew()
        else:
            self.keep_apart()
            self._opened(opened)

    def keep_apart(self) -> None:
        """Let no id of the disk's be one that a run without the disk has given: each of those begins beyond a gap, and
        the next boot's begins there again.
        """
        self._is_apart = False
        disk, beyond = self.disk, self.journal.above(GAP)
        if disk is not None and self.first:
            self.guard(disk, None, disk.renumber_below, self.first)
        if disk is not None and beyond and self.guard(disk, False, disk.clashes, beyond):
            self.guard(disk, None, disk.renumber_below, beyond[0].id)
        self._is_apart = self.disk is not None

    def probe(self) -> None:
        """Find out whether a file that failed is well again, where no message has told."""
        if self.journal.is_open and (self.journal.behind or self.journal.path in self.failures):
            self.write(self.journal, self.journal.rewrite)
        if self.disk is not None and self.disk_fails:
            self.write(self.disk, self.disk.probe)


def _is_same(one: Row, other: Row) -> bool:
    """Tell whether two messages are one that both files have."""
    return (one.topic, one.boot, one.made_s) == (other.topic, other.boot, other.made_s)
