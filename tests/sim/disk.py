"""A disk that remembers what was synced and forgets the rest at a power cut, and a tmpfs that forgets everything.

What root has written is on the disk for sure, and meets no failure: its faults are another's.

The one database of the spool is a real SQLite in memory; what its disk would refuse is refused to its statements.
"""

from __future__ import annotations

import errno
import os
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from iotd.host.files import Files
from iotd.outgoing.disk import Disk
from iotd.outgoing.journal import Row, _read
from iotd.outgoing.line_file import LineFile
from iotd.outgoing.store import Error, Store, is_damage
from tests.sim.clock import Died

STATE, RUNTIME = Path("/state"), Path("/runtime")
FAILURES = {  # as a file meets it, and as SQLite says it
    "full": (errno.ENOSPC, sqlite3.SQLITE_FULL), "read-only": (errno.EROFS, sqlite3.SQLITE_READONLY),
    "I/O error": (errno.EIO, sqlite3.SQLITE_IOERR), "no descriptor": (errno.EMFILE, sqlite3.SQLITE_CANTOPEN)}
WRITEBACK_S = 35.0  # what the kernel has kept to itself for so long is on the disk
_READS = ("SELECT", "PRAGMA user_version", "PRAGMA cache", "PRAGMA synchronous", "PRAGMA journal_size", "ROLLBACK")


class Connection(sqlite3.Connection):
    """A database whose statements meet what its disk does."""

    disk: SimulatedDisk

    def __del__(self) -> None:
        self.close()  # with the life that it belongs to

    def execute(self, sql: str, *arguments: Any) -> sqlite3.Cursor:
        """Execute a statement."""
        if self.disk.troubled:
            self.disk.meet(sql)
        if not sql.startswith(_READS):
            if not self.in_transaction:
                self.disk.write_back()
            self.disk.changed_at["database"] = self.disk.now()
        cursor = super().execute(sql, *arguments)
        self.disk.judge_kept(sql, arguments)
        return cursor

    def executescript(self, sql: str) -> sqlite3.Cursor:
        """Execute statements."""
        if self.disk.troubled:
            self.disk.meet(sql)
        return super().executescript(sql)

    def close(self) -> None:
        """What is in it is still in the file."""


class SimulatedDisk:
    """What is on the disk (`STATE`) and in memory (`RUNTIME`): as programs see it, and as a power cut would leave it.

    `failures` are the kinds of failure that every write to STATE meets now, `runtime_failures` those to RUNTIME.
    `bugs` are the paths whose writing meets a bug in iotd.
    `overlay`: the root of the file system is one, so that a boot finds what the image had. `dies_in` counts the writes
    until the process dies in the midst of one; `dying` tells of it, and then `dies` is called. `kept` is told of every
    content that is written.
    """

    def __init__(self, overlay: bool = False) -> None:
        self.content: dict[str, bytes] = {}
        self.synced: dict[str, bytes] = {}
        self.failures: list[str] = []
        self.runtime_failures: list[str] = []
        self.bugs: set[str] = set()
        self.overlay = overlay
        self.damaged = False
        self.dies_in = 0
        self.dying = False
        self.dies: Callable[[], None] = lambda: None
        self.kept: Callable[[bytes], None] = lambda content: None
        self.lost: Callable[[bytes], None] = lambda content: None  # what a damage has taken
        self.chance: Callable[[], float] = lambda: 0.5
        self.now: Callable[[], float] = lambda: 0.0
        self.changed_at: dict[str, float] = {}
        self.writes = 0  # to the disk, all in all
        self._database: Connection | None = None
        self._uncommitted: list[bytes] = []
        self._snapshot: bytes = b""  # what a power cut leaves at least
        self._before: tuple[float, bytes] = 0.0, b""  # how the database was a while ago, and when

    @property
    def troubled(self) -> bool:
        """Whether a statement could meet anything but the database."""
        return bool(self.failures or self.damaged or self.dies_in)

    def check(self, path: str, grows: bool = True) -> None:
        """Raise the error that a write to this path meets; on a full disk none that needs no room."""
        if path in self.bugs:
            raise ZeroDivisionError("a bug")
        failures = self.failures if path.startswith(str(STATE)) else self.runtime_failures
        if failures and (grows or failures[-1] != "full"):
            number = FAILURES[failures[-1]][0]
            raise OSError(number, os.strerror(number))
        if self.dies_in:
            self.dies_in -= 1
            if not self.dies_in:
                self.dying = True
                self._roll_back()
                raise Died

    def meet(self, sql: str) -> None:
        """Raise what a statement meets."""
        if self.damaged:
            raise _database_error("database disk image is malformed", sqlite3.SQLITE_CORRUPT)
        if sql.startswith(_READS) and "=" not in sql.partition("WHERE")[0]:
            return
        try:
            self.check(str(STATE))
        except OSError as error:
            raise _database_error(str(error), FAILURES[self.failures[-1]][1]) from None

    def judge_kept(self, sql: str, arguments: tuple[Any, ...]) -> None:
        """Tell what a statement puts into the database, once that is committed."""
        self._uncommitted += [argument.payload for argument in arguments if isinstance(argument, Row)]
        if sql == "ROLLBACK":
            self._uncommitted.clear()
        elif self._uncommitted and self._database is not None and not self._database.in_transaction:
            uncommitted, self._uncommitted = self._uncommitted, []
            for payload in uncommitted:
                self.kept(payload)

    def write(self, path: str, content: bytes, durable: bool, grows: bool = True) -> None:
        """Put the content in the file's place."""
        self.check(path, grows)
        self.writes += path.startswith(str(STATE))
        self.content[path] = content
        self.changed_at[path] = self.now()
        if durable:
            self.synced[path] = content

    def write_by_root(self, path: str, content: bytes) -> None:
        """Put the content in the place of a file of root's."""
        self.content[path] = self.synced[path] = content

    def connect(self) -> Connection:
        """Open the one database, as it stands."""
        if self._database is None:
            # Garbage is collected on whichever thread allocates, which may be a client's of another test.
            database = Connection(":memory:", isolation_level=None, check_same_thread=False)
            if self._snapshot:
                database.deserialize(self._snapshot)
            database.disk = self
            self._database = database
        return self._database

    def sync_database(self) -> None:
        """Have what is committed in the database outlive a power cut."""
        if self._database is not None and self._has_table():
            self._snapshot = self._database.serialize()
            self._before = self.now(), self._snapshot
            self.writes += 1

    def write_back(self) -> None:
        """What was committed long ago is on the disk by now, whatever is about to come after it."""
        at, before = self._before
        if self._database is not None and self.now() - at > WRITEBACK_S and self._has_table():
            self._snapshot, self._before = before or self._snapshot, (self.now(), self._database.serialize())

    def drop_database(self) -> list[Row]:
        """Move the damaged database aside; return what can be read of it, the older part."""
        rows = []
        if self._database is not None and self._has_table():
            statement = "SELECT * FROM message ORDER BY id"
            rows = [Row(*values) for values in sqlite3.Connection.execute(self._database, statement)]
        self._forget_database()
        self.damaged, self._snapshot, self._before = False, b"", (0.0, b"")
        read = int(len(rows) * self.chance())
        self.lost(b"".join(row.payload for row in rows[read:]))
        return rows[:read]

    def waiting(self) -> bytes:
        """Return the payloads of all messages that are kept anywhere, those that were deleted not among them."""
        journals = [content for path, content in self.content.items() if path.endswith(".journal")]
        found = [row.payload for content in journals for row in _read(content)[0].values()]
        if self._database is None and self._snapshot:
            self.connect()
        if self._database is not None and self._has_table() and not self.damaged:
            rows = sqlite3.Connection.execute(self._database, "SELECT payload FROM message")
            found += [payload for payload, in rows]
        return b"".join(found)

    def reboot(self) -> None:
        """The host goes down in good order: what is in memory is gone, all else is synced."""
        self.sync_database()
        self.synced.update({path: content for path, content in self.content.items() if not _is_in_memory(path)})
        self._boot()

    def cut(self) -> None:
        """The power fails: what was synced is left, and what the kernel has written back; the rest is chance's."""
        for path, content in self.content.items():
            if not _is_in_memory(path) and self.synced.get(path) != content:
                fate = 0.0 if self._is_written_back(path) else self.chance()
                if fate < 0.3:
                    self.synced[path] = content
                elif fate < 0.5 and path not in self.synced:
                    self.synced[path] = content[:len(content) // 2]
        for path in [path for path in self.synced if path not in self.content and self.chance() < 0.5]:
            del self.synced[path]
        if self._is_written_back("database") or self.chance() < 0.5:
            self.sync_database()
        self._boot()

    def _roll_back(self) -> None:
        """What a process that dies has not committed was never there."""
        self._uncommitted.clear()
        if self._database is not None and self._database.in_transaction:
            sqlite3.Connection.execute(self._database, "ROLLBACK")

    def _is_written_back(self, path: str) -> bool:
        return self.now() - self.changed_at.get(path, 0.0) > WRITEBACK_S

    def _boot(self) -> None:
        self._forget_database()
        if self.overlay:
            self.synced, self._snapshot = {}, b""
        self._before = 0.0, b""
        self.content = {path: content for path, content in self.synced.items() if not _is_in_memory(path)}

    def _has_table(self) -> bool:
        return self._database is not None and bool(
            sqlite3.Connection.execute(self._database, "SELECT count(*) FROM sqlite_master").fetchone()[0])

    def _forget_database(self) -> None:
        if self._database is not None:
            sqlite3.Connection.close(self._database)
            self._database = None


class SimulatedFiles(Files):
    """The small files, on a simulated disk."""

    def __init__(self, disk: SimulatedDisk, requested: Callable[[str, dict[str, object]], None]) -> None:
        super().__init__()
        self._disk = disk
        self._requested = requested

    def read_text(self, path: Path) -> str:
        """Return the file's text."""
        try:
            return self._disk.content[str(path)].decode()
        except KeyError:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(path)) from None

    def write_text(self, path: Path, text: str, durable: bool, mode: int = 0o600) -> None:
        """Put the text in the file's place."""
        self._disk.write(str(path), text.encode("utf-8", "backslashreplace"), durable)

    def make_folder(self, path: Path) -> None:
        """Nothing is to be made: a file's path is all that there is of its folder."""

    def write_request(self, path: Path, body: dict[str, object]) -> None:
        """Leave a request for a helper."""
        self.write_json(path, body)
        self._requested(path.name, body)

    def _unlink(self, path: Path) -> None:
        self._disk.content.pop(str(path), None)


class SimulatedLineFile(LineFile):
    """The journal's file, on a simulated disk."""

    def __init__(self, disk: SimulatedDisk, path: str) -> None:
        super().__init__(path)
        self._disk = disk
        self._opened = False
        self._room = 0  # that is the file's, whatever else fills the disk

    @property
    def is_open(self) -> bool:
        """Whether it was opened, and not closed since."""
        return self._opened

    def open(self) -> bytes:
        """Return the lines of the file."""
        self._disk.check(self.path, self.path not in self._disk.content)
        content = self._disk.content.setdefault(self.path, b"")
        content = content[:content.rfind(b"\n") + 1]
        self._opened, self.size = True, len(content)
        return content

    def append(self, lines: bytes) -> None:
        """Add lines at the end."""
        content = self._disk.content.get(self.path, b"") + lines
        self._put(content, len(content) > self._room)
        self._disk.kept(lines)

    def clear(self) -> None:
        """Leave no line in it."""
        self._put(b"", False)

    def replace(self, lines: bytes) -> None:
        """Put these lines in the place of all others."""
        self._put(lines, bool(lines))
        self._disk.kept(lines)

    def move_aside(self) -> None:
        """Begin another file."""
        self._put(b"", False)

    def close(self) -> None:
        """Close the file."""
        self._opened = False

    def _put(self, content: bytes, grows: bool) -> None:
        if not self._opened:
            raise OSError(errno.EBADF, "not opened yet")
        self._disk.write(self.path, content, False, grows)
        self.size = len(content)
        self._room = max(self._room, self.size) if self._disk.runtime_failures else self.size


class SimulatedStore(Store):
    """A real store, in a database of the simulated disk."""

    def __init__(self, disk: SimulatedDisk, path: str) -> None:
        self._disk = disk
        super().__init__(path, lambda path: disk.connect())

    @contextmanager
    def _synced(self) -> Iterator[None]:
        yield
        self._disk.sync_database()

    def close(self) -> None:
        """Leave the database to the next run."""
        if not self._disk.troubled:
            self._disk.sync_database()


class SimulatedSpoolDisk(Disk):
    """The file of the store, on a simulated disk."""

    def __init__(self, disk: SimulatedDisk, path: str) -> None:
        super().__init__(path)
        self._disk = disk
        self.errors = (Error,)

    def holds_something(self) -> bool:
        """Tell whether the file has content."""
        self._disk.check(self.path)
        if self._disk.damaged:
            return True
        connection = self._disk.connect()
        return bool(connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0])

    def open(self) -> Store:
        """Return the store."""
        return SimulatedStore(self._disk, self.path)

    def is_damage(self, error: Exception) -> bool:
        """Tell whether the file is damaged."""
        return is_damage(error)

    def salvage(self) -> list[Row]:
        """Move the damaged file aside, and return what can still be read of it."""
        return self._disk.drop_database()


def _is_in_memory(path: str) -> bool:
    return path.startswith(str(RUNTIME))


def _database_error(text: str, code: int) -> sqlite3.OperationalError:
    error = sqlite3.OperationalError(text)
    error.sqlite_errorcode = code
    return error
