"""What a running process costs, read from /proc and from its CPU clock."""

from __future__ import annotations

import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Memory:
    """KB: `pss` with shared pages divided among those who share them, `private`, `rss` with every page whole.

    `anonymous` is what is no page of a file: the one that does not change with who else maps the same libraries.
    """

    pss: float
    private: float
    rss: float
    anonymous: float


@dataclass(frozen=True, slots=True)
class Spent:
    """What a process has spent since it began: CPU seconds, wake-ups of all its threads, bytes sent to a disk."""

    at: float
    cpu_s: float
    wakeups: int
    disk_bytes: int


def memory(pid: int) -> Memory:
    """Return the memory of the process (proc(5), smaps_rollup)."""
    fields = _fields(Path(f"/proc/{pid}/smaps_rollup"))
    return Memory(fields["Pss"], fields["Private_Clean"] + fields["Private_Dirty"], fields["Rss"],
                  fields["Anonymous"])


def spent(pid: int) -> Spent:
    """Return what the process has spent; a wake-up is a return from a wait, a voluntary context switch."""
    wakeups = 0
    for task in Path(f"/proc/{pid}/task").iterdir():
        with suppress(FileNotFoundError):  # it has just ended
            wakeups += _fields(task / "status")["voluntary_ctxt_switches"]
    return Spent(time.monotonic(), cpu_s(pid), wakeups, _fields(Path(f"/proc/{pid}/io"))["write_bytes"])


def cpu_s(pid: int) -> float:
    """Return the CPU seconds of all threads of the process, ended ones too (clock_getcpuclockid(3))."""
    return time.clock_gettime(~pid << 3 | 2)


def size_of(directory: Path) -> int:
    """Return the bytes that the files below the directory take."""
    return sum(path.stat().st_blocks * 512 for path in directory.rglob("*") if path.is_file())


def _fields(path: Path) -> dict[str, int]:
    """Return the lines `NAME: NUMBER …` of the file."""
    found = {}
    for line in path.read_text().splitlines():
        name, _, rest = line.partition(":")
        with suppress(ValueError, IndexError):
            found[name] = int(rest.split()[0])
    return found
