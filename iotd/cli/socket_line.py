"""A program's line to the daemon: a request a line, an answer a line, over a restart of the daemon too."""

from __future__ import annotations

import json
import os
import socket
import sys
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

from iotd.vocabulary import Json

SYSTEM_SOCKET = Path("/run/iotd.sock")
RESTART_S = 5.0
RETRY_S = 0.1
READ_BYTES = 1 << 16
EXIT_REFUSED, EXIT_NOT_RUNNING = 1, 3


class NoLine(Exception):
    """The daemon cannot be asked; the text says why, `exit_status` is that of the command."""

    def __init__(self, text: str, exit_status: int = EXIT_NOT_RUNNING) -> None:
        super().__init__(text)
        self.exit_status = exit_status


class Shut(NoLine):
    """The socket is there, and not for this user."""


class Line:
    """A connection, which is made anew where the daemon is restarted. Everything here may raise NoLine."""

    def __init__(self, wait_s: float = RESTART_S) -> None:
        self.socket = _connected(wait_s)
        self._incoming = bytearray()

    def again(self) -> None:
        """Connect anew."""
        self.socket.close()
        self.socket = _connected()
        self._incoming.clear()

    def close(self) -> None:
        """Close the connection."""
        self.socket.close()

    def read(self) -> list[bytes] | None:
        """Return the whole lines that have come, waiting for some bytes; None where the daemon has gone."""
        try:
            chunk = self.socket.recv(READ_BYTES)
        except ConnectionError:
            chunk = b""
        if not chunk:
            return None
        self._incoming += chunk
        *lines, rest = self._incoming.split(b"\n")
        self._incoming = rest
        return [bytes(line) for line in lines]

    def ask(self, request: bytes) -> dict[str, Json]:
        """Return the answer to one request, asked again for as long as a restart takes it along."""
        while True:
            try:
                self.socket.sendall(request)
            except ConnectionError:
                pass  # what it has said before may still be there
            while (lines := self.read()) is not None:
                for line in lines:
                    return answer(line)
            self.again()


def answer(line: bytes) -> dict[str, Json]:
    """Return what the daemon has said."""
    said = json.loads(line)
    if not isinstance(said, dict):
        raise ValueError(f"the daemon said {line[:80]!r}")
    return said


def told(said: dict[str, Json]) -> str:
    """Return why a request was not carried out, nothing where it was."""
    return next((f"{word}: {said[word]}" for word in ("refused", "dropped") if word in said), "")


def carried_out(do: Callable[[Line], int], for_root: bool = False) -> int:
    """Return the exit status that `do` gives with a line; say why where the daemon cannot be asked.

    What is `for_root` is for it and the daemon's user alone, and no user is to be told to join the programs' group.
    """
    try:
        with closing(Line()) as line:
            return do(line)
    except Shut as error:
        mend = "run it as root" if for_root else "let the user join its group: adduser USER iotd-clients"
        print(f"{error}; {mend}", file=sys.stderr)
        return error.exit_status
    except NoLine as error:
        print(error, file=sys.stderr)
        return error.exit_status


def _connected(wait_s: float = RESTART_S) -> socket.socket:
    """Return a connection, waiting for a daemon that may just be restarting."""
    deadline = time.monotonic() + wait_s
    by_hand = Path(os.environ.get("RUNTIME_DIRECTORY", "/run/iotd").split(":")[0], "iotd.sock")
    while True:
        for path in (by_hand, SYSTEM_SOCKET):
            try:
                return _connection(path)
            except PermissionError:
                raise Shut(f"{path}: Permission denied", EXIT_REFUSED) from None
            except OSError:
                pass  # not there, or nobody listens
        if time.monotonic() >= deadline:
            raise NoLine(f"iotd is not running: nobody listens at {SYSTEM_SOCKET} or {by_hand}; "
                         "start it with: systemctl start iotd")
        time.sleep(RETRY_S)


def _connection(path: Path) -> socket.socket:
    folder = os.open(path.parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    line = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        line.connect(f"/proc/self/fd/{folder}/{path.name}")  # however long the path is: an address has 107 bytes
    except OSError:
        line.close()
        raise
    finally:
        os.close(folder)
    return line
