"""The host that iotd runs on: who it is, what systemd wants to hear, and the small files in the two directories.

Every file is written beside its place and renamed into it, so that a reader, or a boot after a power cut, finds
the old one or the new one and never half of either.
"""

from __future__ import annotations

import json
import os
import socket
import time
from pathlib import Path

import sdnotify

from iotd.settings import Identity, Json
from iotd.typed import Any

MAX_FILE_BYTES = 1 << 20

_encode = json.JSONEncoder(ensure_ascii=False).encode


def identity() -> Identity:
    """Return what this host is called and the id it was given at its installation (machine-id(5))."""
    return Identity(socket.gethostname().split(".")[0], read_line(Path("/etc/machine-id")))


def boot_id() -> str:
    """Return the id of this boot, new with every boot (random(4))."""
    return read_line(Path("/proc/sys/kernel/random/boot_id"))


def uptime_s() -> float:
    """Return how long the host has been up, sleep included."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def clock_is_set() -> bool:
    """Tell whether the kernel's clock has been set by a time service (adjtimex(2): no STA_UNSYNC)."""
    import ctypes  # costs memory, and is needed only once a certificate is not yet valid

    class Timex(ctypes.Structure):
        _fields_ = [("modes", ctypes.c_uint), ("offset", ctypes.c_long), ("freq", ctypes.c_long),
                    ("maxerror", ctypes.c_long), ("esterror", ctypes.c_long), ("status", ctypes.c_int),
                    ("rest", ctypes.c_byte * 256)]

    unsynchronised = 0x0040
    timex = Timex()
    library = ctypes.CDLL(None, use_errno=True)
    return bool(library.adjtimex(ctypes.byref(timex)) >= 0 and not timex.status & unsynchronised)


class Systemd:
    """sd_notify(3): silent where systemd does not listen."""

    def __init__(self) -> None:
        self._notifier = sdnotify.SystemdNotifier()
        self.feed_every_s = self._quarter_of_watchdog()
        self._status = ""

    def ready(self) -> None:
        """Say that the configuration is loaded and the threads run."""
        self._notifier.notify("READY=1")

    def stopping(self) -> None:
        """Say that the end has begun."""
        self._notifier.notify("STOPPING=1")

    def status(self, sentence: str) -> None:
        """Say in a sentence what the daemon is at, where it differs from the last one."""
        if sentence != self._status:
            self._status = sentence
            self._notifier.notify(f"STATUS={sentence}")

    def feed(self) -> None:
        """Say that the main loop has completed a turn and every thread lives."""
        self._notifier.notify("WATCHDOG=1")

    @staticmethod
    def _quarter_of_watchdog() -> float | None:
        """Return a quarter of the watchdog's time in seconds, None where it does not watch this process."""
        pid, microseconds = os.environ.get("WATCHDOG_PID"), os.environ.get("WATCHDOG_USEC", "")
        if not microseconds.isdecimal() or (pid is not None and pid != str(os.getpid())):
            return None
        return int(microseconds) / 4e6


def read_line(path: Path) -> str:
    """Return the file's text without the blanks around it, empty where it cannot be read."""
    try:
        return path.read_text("utf-8", "replace").strip()
    except OSError:
        return ""


def read_json(path: Path) -> Json:
    """Return what the JSON file says, None where it is missing, unreadable or no JSON."""
    try:
        with path.open("rb") as file:
            return json.loads(file.read(MAX_FILE_BYTES))
    except (OSError, ValueError, RecursionError):
        return None


def write_json(path: Path, value: Any, mode: int = 0o600) -> None:
    """Put the value in the file's place in one step. Raises OSError."""
    write_text(path, _encode(value), durable=False, mode=mode)


def write_request(path: Path, interface: str, reason: str) -> None:
    """Leave a request for the recovery helper under the name of its verb. Raises OSError."""
    path.parent.mkdir(mode=0o750, exist_ok=True)
    write_json(path, {"interface": interface, "reason": reason})


def write_text(path: Path, text: str, durable: bool, mode: int = 0o600) -> None:
    """Put the text in the file's place in one step; `durable` waits until the disk has it. Raises OSError."""
    folder, name = os.path.split(path)  # pathlib's way to the same was a third of a beat's cost
    beside = os.path.join(folder, f".{name}.new")
    rest = text.encode("utf-8", "backslashreplace")
    file = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, mode)
    try:
        os.fchmod(file, mode)
        while rest:  # a disk that is nearly full takes a part, and says so the next time
            rest = rest[os.write(file, rest):]
        if durable:
            os.fsync(file)
    finally:
        os.close(file)
    os.replace(beside, path)
    if durable:
        directory = os.open(folder or ".", os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)
