"""A disk that remembers what was synced and forgets the rest at a power cut, and a tmpfs that forgets everything."""

from __future__ import annotations

import errno
import os
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from iotd.host.files import Files
from iotd.outgoing.disk import Disk
from iotd.outgoing.journal import Row
from iotd.outgoing.line_file import LineFile
from iotd.outgoing.store import Error, Store, is_damage

STATE, RUNTIME = Path("/state"), Path("/runtime")


class SimulatedDisk:
    """What is on the disk (`STATE`) and in memory (`RUNTIME`): as programs see it, and as a power cut would leave it.

    `failure` is the error number with which every write to STATE fails, None while it is well.
    """

    def __init__(self) -> None:
        self.content: dict[str, bytes] = {}
        self.synced: dict[str, bytes] = {}
        self.failure: int | None = None
        self.database: sqlite3.Connection | None = None
        self._snapshot: bytes = b""

    def check(self, path: str) -> None:
        """Raise the error that a write to this path meets."""
        if self.failure is not None and path.startswith(str(STATE)):
            raise OSError(self.failure, os.strerror(self.failure))

    def write(self, path: str, content: bytes, durable: bool) -> None:
        """Put the content in the file's place."""
        self.check(path)
        self.content[path] = content
        if durable:
            self.synced[path] = content

    def connect(self) -> sqlite3.Connection:
        """Open the one database, as it stands."""
        if self.database is None:
            self.database = sqlite3.connect(":memory:", isolation_level=None)
            if self._snapshot:
                self.database.deserialize(self._snapshot)
        return self.database

    def sync_database(self) -> None:
        """Have what is committed in the database outlive a power cut."""
        if self.database is not None:
            self._snapshot = self.database.serialize()

    def reboot(self) -> None:
        """The host goes down in good order: what is in memory is gone, all else is synced."""
        self.sync_database()
        self.synced.update({path: content for path, content in self.content.items() if path.startswith(str(STATE))})
        self.cut()

    def cut(self) -> None:
        """The power fails: only what was synced is left."""
        if self.database is not None:
            self.database.close()
            self.database = None
        self.content = dict(self.synced)


class SimulatedFiles(Files):
    """The small files, on a simulated disk."""

    def __init__(self, disk: SimulatedDisk) -> None:
        self._disk = disk

    def read_text(self, path: Path) -> str:
        """Return the file's text."""
        try:
            return self._disk.content[str(path)].decode()
        except KeyError:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(path)) from None

    def write_text(self, path: Path, text: str, durable: bool, mode: int = 0o600) -> None:
        """Put the text in the file's place."""
        self._disk.write(str(path), text.encode("utf-8", "backslashreplace"), durable)

    def write_request(self, path: Path, body: dict[str, object]) -> None:
        """Leave a request for a helper."""
        self.write_json(path, body)

    def remove(self, path: Path) -> None:
        """Remove the file."""
        self._disk.content.pop(str(path), None)


class SimulatedLineFile(LineFile):
    """The journal's file, on a simulated disk."""

    def __init__(self, disk: SimulatedDisk, path: str) -> None:
        super().__init__(path)
        self._disk = disk
        self._opened = False

    @property
    def is_open(self) -> bool:
        """Whether it was opened, and not closed since."""
        return self._opened

    def open(self) -> bytes:
        """Return the lines of the file."""
        content = self._disk.content.setdefault(self.path, b"")
        self._opened, self.size = True, len(content)
        return content

    def append(self, lines: bytes) -> None:
        """Add lines at the end."""
        self._put(self._disk.content.get(self.path, b"") + lines)

    def clear(self) -> None:
        """Leave no line in it."""
        self._put(b"")

    def replace(self, lines: bytes) -> None:
        """Put these lines in the place of all others."""
        self._put(lines)

    def close(self) -> None:
        """Close the file."""
        self._opened = False

    def _put(self, content: bytes) -> None:
        self._disk.write(self.path, content, durable=False)
        self.size = len(content)


class SimulatedStore(Store):
    """A real store, in a database of the simulated disk."""

    def __init__(self, disk: SimulatedDisk, path: str) -> None:
        self._disk = disk
        super().__init__(path, lambda path: disk.connect())

    @contextmanager
    def _synced(self) -> Iterator[None]:
        self._check()
        yield
        self._disk.sync_database()

    def probe(self) -> None:
        """Write something that changes nothing."""
        self._check()
        super().probe()

    def close(self) -> None:
        """Leave the database to the next run."""
        self._disk.sync_database()

    def _check(self) -> None:
        try:
            self._disk.check(self.path)
        except OSError as error:
            raise Error(str(error)) from None


class SimulatedSpoolDisk(Disk):
    """The file of the store, on a simulated disk."""

    def __init__(self, disk: SimulatedDisk, path: str) -> None:
        super().__init__(path)
        self._disk = disk
        self.errors = (Error,)

    def holds_something(self) -> bool:
        """Tell whether the file has content."""
        self._disk.check(self.path)
        connection = self._disk.connect()
        return bool(connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0])

    def open(self) -> Store:
        """Return the store."""
        return SimulatedStore(self._disk, self.path)

    def is_damage(self, error: Exception) -> bool:
        """Tell whether the file is damaged."""
        return is_damage(error)

    def salvage(self) -> list[Row]:
        """A simulated database is never damaged."""
        raise AssertionError("nothing damages a simulated database")
