"""A file of whole lines: what is appended is taken whole or, with an OSError, not at all."""

from __future__ import annotations

import errno
import os


class LineFile:
    """One file; `size` is that of the lines in it. Every method raises OSError where the file does not do it."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.size = 0
        self._file: int | None = None
        self._failure = OSError(errno.EBADF, "not opened yet")

    @property
    def is_open(self) -> bool:
        """Whether it was opened, and not closed since."""
        return self._file is not None

    def open(self) -> bytes:
        """Return the lines of the file, which is made where there is none; half a line at its end is cut off."""
        try:
            return self._open()
        except OSError as error:
            self._failure = error
            raise

    def append(self, lines: bytes) -> None:
        """Add lines at the end."""
        file = self._opened_file()
        try:
            _write(file, lines)
        except OSError:
            os.ftruncate(file, self.size)  # half a line may have been taken
            raise
        self.size += len(lines)

    def clear(self) -> None:
        """Leave no line in it."""
        os.ftruncate(self._opened_file(), 0)
        self.size = 0

    def replace(self, lines: bytes) -> None:
        """Put these lines in the place of all others, in one step."""
        beside = f"{self.path}.new"
        file = _opened(beside)
        try:
            os.ftruncate(file, 0)
            _write(file, lines)
            os.replace(beside, self.path)
        except OSError:
            os.close(file)
            os.unlink(beside)
            raise
        self.close()
        self._file, self.size = file, len(lines)

    def move_aside(self) -> None:
        """Leave the file as PATH.damaged, and begin another."""
        try:
            os.replace(self.path, f"{self.path}.damaged")
        finally:
            self.close()
        self._file, self.size = _opened(self.path), 0

    def close(self) -> None:
        """Close the file."""
        if self._file is not None:
            os.close(self._file)
            self._file = None

    def _open(self) -> bytes:
        file = _opened(self.path)
        try:
            with open(file, "rb", closefd=False) as reader:
                content = reader.read()
            end = content.rfind(b"\n") + 1  # what follows is a message whose writing was never finished
            os.ftruncate(file, end)
        except OSError:
            os.close(file)
            raise
        self._file, self.size = file, end
        return content[:end]

    def _opened_file(self) -> int:
        if self._file is None:
            raise OSError(self._failure.errno, self._failure.strerror)
        return self._file


def _opened(path: str) -> int:
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)


def _write(file: int, content: bytes) -> None:
    """Write all of it, or raise OSError."""
    if os.write(file, content) < len(content):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
