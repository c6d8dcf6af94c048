"""The file of the store on the disk, for a spool that opens it only once it needs it.

A healthy line needs none, and to load SQLite for it would cost 1 MB and a tenth of the start.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from iotd.outgoing.journal import Row

if TYPE_CHECKING:
    from iotd.outgoing.store import Store


class Disk:
    """One file, `errors` are what opening it and the methods of its store raise."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.errors: tuple[type[Exception], ...] = ()

    def holds_something(self) -> bool:
        """Tell whether the file has content; it is made where there is none. Raises OSError where it cannot be
        written.
        """
        os.close(os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
        return os.path.getsize(self.path) > 0

    def open(self) -> Store:
        """Return the store. Raises one of `errors`."""
        from iotd.outgoing import store

        self.errors = (store.Error, OSError)
        if not os.path.getsize(self.path):
            store.create(self.path)
        return store.Store(self.path)

    def is_damage(self, error: Exception) -> bool:
        """Tell whether the file is damaged, rather than out of reach or full."""
        from iotd.outgoing import store

        return store.is_damage(error)

    def salvage(self) -> list[Row]:
        """Move a damaged file aside, and return what can still be read of it."""
        from iotd.outgoing import store

        saved = store.salvaged(self.path)
        store.move_aside(self.path)
        return saved
