"""Where values come from: a file, read bounded, and a command, run within its time. Any thread."""

from __future__ import annotations

import os
import stat
import time

from iotd.host.unit import hidden_among
from iotd.values.reading import MAX_BYTES, Reading, of_bytes
from iotd.values.section import Value


def read(value: Value, stop: int | None = None) -> Reading:
    """Read a value now; `stop` is a file descriptor that becomes readable when a command should give up."""
    return _of_command(value, stop) if value.source == "command" else _of_file(value)


def _of_file(value: Value) -> Reading:
    path = str(value.subject)
    try:
        # No link, which may lead to what others may not read; no device, which may do something when it is opened.
        mode = os.lstat(path).st_mode
        if not stat.S_ISREG(mode):
            return Reading(value, None, f"{path} is {'a link' if stat.S_ISLNK(mode) else 'no regular file'}")
        # It may be another one by now, and a pipe would keep its reader waiting.
        file = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    except OSError as error:
        return Reading(value, None, f"{path} cannot be read: {error.strerror}{hidden_among([path])}")
    try:
        found = os.fstat(file)
        if not stat.S_ISREG(found.st_mode):
            return Reading(value, None, f"{path} is no regular file")
        data = b""
        while len(data) <= MAX_BYTES and (more := os.read(file, MAX_BYTES + 1 - len(data))):
            data += more
    except OSError as error:
        return Reading(value, None, f"{path} cannot be read: {error.strerror}")
    finally:
        os.close(file)
    return of_bytes(value, data, 0.0 if value.max_age_s is None else time.time() - found.st_mtime)


def _of_command(value: Value, stop: int | None) -> Reading:
    from iotd.host.command import run  # costs memory, which a device without commands keeps

    assert isinstance(value.subject, tuple)
    ended = run(value.subject, value.timeout_s, stop, keep_bytes=MAX_BYTES + 1, apart=True)
    return Reading(value, None, ended.reason) if ended.reason else of_bytes(value, ended.data)
