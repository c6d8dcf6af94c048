"""The files of the bridge on this host: `reported.d`, where programs report, and what iotd writes beside it."""

from __future__ import annotations

import errno
import os
import stat
from itertools import islice
from pathlib import Path

MAX_ENTRIES = 1024  # of the directory, whatever they are

Key = tuple[int, int, int]  # inode, size and time of the last change


class Folder:
    """The runtime directory. Whatever it is asked for raises OSError where that cannot be."""

    def __init__(self, runtime: Path) -> None:
        self._runtime = runtime
        self._reported = runtime / "reported.d"

    def open(self) -> None:
        """Make the directory where there is none yet."""
        if not self._reported.is_dir():
            self._reported.mkdir()
            self._reported.chmod(0o755)

    def names(self) -> list[str]:
        """Return what lies in the directory, as far as it is looked at."""
        with os.scandir(self._reported) as entries:
            return [entry.name for entry in islice(entries, MAX_ENTRIES)]

    def key(self, name: str) -> Key:
        """Return what tells whether a file there has changed."""
        found = (self._reported / name).lstat()
        return found.st_ino, found.st_size, found.st_mtime_ns

    def read(self, name: str, max_bytes: int) -> bytes:
        """Return what is in a file there, one byte more than `max_bytes` at most."""
        return _read(self._reported / name, max_bytes)

    def write(self, name: str, data: bytes, mode: int) -> None:
        """Put a file beside the directory, in one step."""
        path = self._runtime / name
        beside = path.with_name(f".{name}.new")
        with beside.open("wb") as file:
            os.fchmod(file.fileno(), mode)
            file.write(data)
        beside.replace(path)


def _read(path: Path, max_bytes: int) -> bytes:
    try:
        # No link, and no pipe that keeps the reader waiting for its writer.
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise OSError(error.errno, "it is a link") from error
        raise
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise OSError(errno.EINVAL, "it is no regular file")
        return os.read(descriptor, max_bytes + 1)
    finally:
        os.close(descriptor)
