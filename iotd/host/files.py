"""The small files of the state and the runtime directory.

Every file is written beside its place and renamed into it, so that a reader, or a boot after a power cut, finds
the old one or the new one and never half of either.
"""

from __future__ import annotations

import json
import math
import os
from contextlib import suppress
from pathlib import Path

from iotd.host import log
from iotd.vocabulary import Json

MAX_FILE_BYTES = 1 << 20
RETRY_S = 60.0
FOUND_ANEW = "a file cannot be written; it is tried again; until then a restart knows what it said before, or nothing"

_encode = json.JSONEncoder(ensure_ascii=False).encode


class Files:
    """Reads and writes; a simulated disk stands in for it."""

    def __init__(self) -> None:
        # What `keep` could not write, and how that is done; None where nobody needs it any more.
        self._unwritten: dict[Path, tuple[str, bool, int] | None] = {}
        self._again_at = -math.inf

    def read_text(self, path: Path) -> str:
        """Return the file's text. Raises OSError, ValueError where it is no UTF-8."""
        with path.open("rb") as file:
            return file.read(MAX_FILE_BYTES).decode("utf-8")

    def read_json(self, path: Path) -> Json:
        """Return what the JSON file says, None where it is missing, unreadable or no JSON."""
        try:
            return json.loads(self.read_text(path))
        except (OSError, ValueError, RecursionError):
            return None

    def write_text(self, path: Path, text: str, durable: bool, mode: int = 0o600) -> None:
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

    def keep(self, path: Path, value: Json, durable: bool, event: str = "file.unwritable", message: str = FOUND_ANEW,
             mode: int = 0o600, **fields: Json) -> str:
        """Write the value as JSON; return why that failed, nothing where it did not. A failure that lasts is said once,
        by this event with these fields, and `write_again` tries until it is over.
        """
        text = _encode(value)
        try:
            self.write_text(path, text, durable, mode)
        except OSError as error:
            if path not in self._unwritten:
                log.warning(event, message, path=str(path), reason=str(error), **fields)
            self._unwritten[path] = text, durable, mode
            return error.strerror or str(error)
        self._unwritten.pop(path, None)
        return ""

    def write_again(self, now: float) -> None:
        """Write what `keep` could not write, once in RETRY_S: else a restart would take for true what was before."""
        if not self._unwritten or now < self._again_at:
            return
        for path, how in list(self._unwritten.items()):
            if how is not None:
                with suppress(OSError):
                    self.write_text(path, *how)
                    del self._unwritten[path]
        self._again_at = now + RETRY_S

    def make_folder(self, path: Path) -> None:
        """Make a folder that nobody else may look into, where there is none. Raises OSError."""
        path.mkdir(mode=0o700, exist_ok=True)

    def write_json(self, path: Path, value: Json, mode: int = 0o600) -> None:
        """Put the value in the file's place in one step. Raises OSError."""
        self.write_text(path, _encode(value), durable=False, mode=mode)

    def write_request(self, path: Path, body: dict[str, Json]) -> None:
        """Leave a request for a helper of root's, in a file with the name of its verb. Raises OSError."""
        path.parent.mkdir(mode=0o750, exist_ok=True)
        self.write_json(path, body)

    def remove(self, path: Path) -> None:
        """Remove the file, where there is one and that can be done: a file system may be read-only."""
        if path in self._unwritten:
            self._unwritten[path] = None
        with suppress(OSError):
            self._unlink(path)

    def _unlink(self, path: Path) -> None:
        path.unlink()


def read_line(path: Path) -> str:
    """Return the file's text without the blanks around it, empty where it cannot be read."""
    try:
        return path.read_text("utf-8", "replace").strip()
    except OSError:
        return ""
