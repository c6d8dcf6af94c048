"""The clocks of this host: which boot it is, how long it has been up, and whether anybody has set the wall clock."""

from __future__ import annotations

import time
from pathlib import Path

from iotd.host.files import read_line


def boot_id() -> str:
    """Return the id of this boot, new with every boot (random(4))."""
    return read_line(Path("/proc/sys/kernel/random/boot_id"))


def reset_by_watchdog() -> bool:
    """Tell whether the hardware watchdog ended the last boot, as far as its driver says (WDIOF_CARDRESET)."""
    found = read_line(Path("/sys/class/watchdog/watchdog0/bootstatus"))
    return found.isdecimal() and bool(int(found) & 0x20)


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
