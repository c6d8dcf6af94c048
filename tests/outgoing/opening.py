"""A spool on two real directories, as the part opens it, and a directory that is full."""

from __future__ import annotations

import contextlib
from pathlib import Path

from iotd.outgoing.disk import Disk
from iotd.outgoing.journal import Journal
from iotd.outgoing.line_file import LineFile
from iotd.outgoing.section import Bounds
from iotd.outgoing.spool import Spool


def open_spool(runtime: Path, state: Path, bounds: Bounds = Bounds(), boot: str = "boot", now: float = 0.0,
               thing: str = "pi") -> Spool:
    """Return the spool, with what an earlier one has left in the directories."""
    journal, disk = Journal(LineFile(str(runtime / "spool.journal"))), Disk(str(state / "spool.db"))
    return Spool(journal, disk, bounds, boot, now, thing)


def fill(path: Path) -> None:
    """Let this file take all the room that its file system has left."""
    with contextlib.suppress(OSError), path.open("wb", buffering=0) as file:
        while True:
            file.write(b"x" * 512)
