"""The socket of the programs, and the thread that waits for the first of them and then serves all.

Under systemd the socket is handed over open (sd_listen_fds(3)), so that a connection waits while iotd restarts; by
hand it is made in the runtime directory. Until somebody comes nothing else of the wing is loaded.
"""

from __future__ import annotations

import math
import os
import select
import socket
import threading
import traceback
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from iotd.vocabulary import ThreadFailed

NAME = "iotd.sock"
WAITING = 128  # connections that the kernel lets wait to be taken
STUCK_S = 30.0
_FIRST_HANDED_OVER = 3  # SD_LISTEN_FDS_START


class Asked(NamedTuple):
    """Requests of one connection, in their order. `trusted`: root's or the daemon's own user's, who may ask for what
    changes iotd itself; under PrivateUsers= all others look alike, and the socket's mode decides for them.
    """

    connection: int
    requests: tuple[Any, ...]
    trusted: bool


class Left(NamedTuple):
    """A connection that listened has gone."""

    connection: int


class Door:
    """The socket and its thread; `post` takes Asked and Left, on that thread. `problem` says why there is none."""

    def __init__(self, post: Callable[[Any], None], runtime: Path) -> None:
        self.problem = ""
        self.post = post
        self.orders: deque[Any] = deque()  # None is the end
        self.wake: int = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)  # type: ignore[attr-defined]
        self.busy_from = math.inf
        self._made = runtime / NAME
        self._thread = threading.Thread(target=self._run, name="programs", daemon=True)
        try:
            handed_over = _handed_over()
            self.listener = handed_over or _made(self._made)
        except OSError as error:
            self.problem = f"no program can connect: {self._made}: {error.strerror or error}"
            return
        self._unlink = handed_over is None
        self.listener.setblocking(False)
        self._thread.start()

    def order(self, order: Any) -> None:
        """Have the thread do this, one of `orders`."""
        self.orders.append(order)
        os.eventfd_write(self.wake, 1)  # type: ignore[attr-defined]

    def alive(self, now: float) -> bool:
        """Tell whether the thread lives and is not stuck; one that never began is neither."""
        return bool(self.problem) or self._thread.is_alive() and now < self.busy_from + STUCK_S

    def close(self, limit_s: float) -> None:
        """Send the answers that are there and end; connections that wait in systemd's socket go on waiting."""
        if not self.problem:
            self.order(None)
            self._thread.join(limit_s)
            self.listener.close()
            if self._unlink:
                with suppress(OSError):
                    self._made.unlink()

    def _run(self) -> None:
        try:
            first = select.poll()
            for descriptor in (self.listener.fileno(), self.wake):
                first.register(descriptor, select.POLLIN)
            first.poll()
            if not self.orders:
                from iotd.local.server import Server

                Server(self).run()
        except BaseException:  # a bug: the main thread must hear of it, whatever it is
            self.post(ThreadFailed("programs", traceback.format_exc()))


def _handed_over() -> socket.socket | None:
    """Return the socket that systemd has opened, None where it has opened none for this process."""
    if os.environ.get("LISTEN_PID") != str(os.getpid()) or os.environ.get("LISTEN_FDS", "0") == "0":
        return None
    given = socket.socket(fileno=_FIRST_HANDED_OVER)
    given.set_inheritable(False)
    return given


def _made(path: Path) -> socket.socket:
    """Return a socket at the path, for this user alone, in the place of one that nobody listens on any more."""
    folder = os.open(path.parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        address = f"/proc/self/fd/{folder}/{path.name}"  # however long the path is: an address has 107 bytes
        if _nobody_listens(address):
            path.unlink()
        os.fchmod(listener.fileno(), 0o600)  # which is the mode of the file that bind(2) makes
        listener.bind(address)
        listener.listen(WAITING)
    except OSError:
        listener.close()
        raise
    finally:
        os.close(folder)
    return listener


def _nobody_listens(address: str) -> bool:
    """Tell whether a socket is there and was left behind by a run that was killed."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        try:
            probe.connect(address)
        except ConnectionRefusedError:
            return True
        except OSError:
            pass
        return False
