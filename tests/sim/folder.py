"""The files between programs and a shadow, on a simulated disk; loaded only where a shadow has them."""

from __future__ import annotations

from pathlib import Path

from iotd.shadows.folder import Folder, Key
from tests.sim.disk import RUNTIME, SimulatedDisk


class SimulatedFolder(Folder):
    """The files between programs and a shadow, on a simulated disk."""

    def __init__(self, disk: SimulatedDisk, runtime: Path) -> None:
        super().__init__(runtime)
        self._disk = disk

    def open(self) -> None:
        """Make the directory, which is nothing but the beginning of its files' paths."""
        self._disk.check(f"{RUNTIME}/reported.d")

    def names(self) -> list[str]:
        """Return the files in it."""
        return [path.rpartition("/")[2] for path in self._disk.content if path.startswith(f"{RUNTIME}/reported.d/")]

    def key(self, name: str) -> Key:
        """Return what tells whether it has changed: all of it."""
        return hash(self._disk.content[f"{RUNTIME}/reported.d/{name}"]), 0, 0

    def read(self, name: str, max_bytes: int) -> bytes:
        """Return what is in a file of a program's."""
        return self._disk.content[f"{RUNTIME}/reported.d/{name}"][:max_bytes + 1]

    def write(self, name: str, data: bytes, mode: int) -> None:
        """Put a file of iotd's."""
        self._disk.write(f"{RUNTIME}/{name}", data, durable=False)
