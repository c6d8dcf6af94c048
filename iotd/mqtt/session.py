"""The MQTT session: paho on a thread of its own, driven by our own poll(2) with exact deadlines.

Commands come in from the main thread, events go out to its inbox. A connection gets a new paho client, which is thrown
away with it, and paho's own queue, timers and reconnects are never used: what waits is in the spool, and when to dial
again is the daemon's decision.
"""

from __future__ import annotations

import math
import os
import select
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable
from contextlib import closing
from queue import SimpleQueue
from typing import Any

from iotd.mqtt import credentials
from iotd.mqtt.addresses import HasFileno
from iotd.mqtt.connection import Connection, Dial
from iotd.mqtt.stream import StreamError, open_stream
from iotd.vocabulary import Acknowledged, Down, Message, ThreadFailed

FILTERS_PER_SUBSCRIBE = 8  # AWS IoT Core takes no more
FULL_INBOX = 256  # events the main thread has yet to take; the socket is not read beyond that
FULL_INBOX_PAUSE_S = 0.05
STUCK_S = 30.0


class Session:
    """The thread and its commands; `post` takes the events of `model`, on that thread.

    What is to be published and subscribed is only noted; `go` at the end of a turn has the thread take all of it.
    """

    def __init__(self, post: Callable[[Any], None], backlog: Callable[[], int]) -> None:
        self._post = post
        self._backlog = backlog
        self._commands: SimpleQueue[tuple[int, Callable[..., None], tuple[Any, ...]]] = SimpleQueue()
        self._dials: SimpleQueue[Dial | None] = SimpleQueue()
        self._wake = _Wake()
        self._poller = _Poller(self._wake)
        self._taken: deque[tuple[int, int]] = deque()
        self._events: list[Any] = []
        self.eager = True  # whether an acknowledgement wakes the main thread; it waits for `acknowledged` either way
        self._ordered = False
        self._stopping = False
        self._in_order = True
        self._hang_up = 0
        self._thread = threading.Thread(target=self._run, name="mqtt", daemon=True)

    def start(self) -> None:
        """Start the thread; it waits for `dial`."""
        self._thread.start()

    def dial(self, dial: Dial) -> None:
        """Open a line; ends in Dialled or Down. Only after the line before it is Down."""
        self._dials.put(dial)
        self._wake.up()

    def publish(self, line: int, token: int | None, message: Message) -> None:
        """Publish on this line, or nowhere; ends in Acknowledged, unless the token is None, or Down.

        A positive token is given by `acknowledged`, and is an event only while `eager`: to wake the main thread for
        each would double what a message costs, and where nothing waits for its place it can be taken at the next turn.
        """
        self._order(line, Connection.publish, token, message)

    def subscribe(self, line: int, filters: list[tuple[str, int]]) -> None:
        """Subscribe the (filter, QoS) pairs, at most 8 in a packet; ends in Subscribed for all of them, or Down."""
        for start in range(0, len(filters), FILTERS_PER_SUBSCRIBE):
            self._order(line, Connection.subscribe, filters[start:start + FILTERS_PER_SUBSCRIBE])

    def unsubscribe(self, line: int, filters: list[str]) -> None:
        """Unsubscribe the filters."""
        for start in range(0, len(filters), FILTERS_PER_SUBSCRIBE):
            self._order(line, Connection.unsubscribe, filters[start:start + FILTERS_PER_SUBSCRIBE])

    def acknowledged(self, line: int) -> list[int]:
        """Return the positive tokens that were acknowledged on this line since the last call."""
        tokens = []
        while self._taken:
            number, token = self._taken.popleft()
            if number == line:
                tokens.append(token)
        return tokens

    def go(self) -> None:
        """Have the thread take what was ordered; woken amid the turn it would only fight for the interpreter."""
        if self._ordered:
            self._ordered = False
            self._wake.up()

    def hang_up(self, line: int) -> None:
        """Send DISCONNECT and close; ends in Down with the cause asked. Also ends a dialling under way."""
        self._hang_up = line
        self._wake.up()

    def close(self, timeout_s: float, in_order: bool = True) -> bool:
        """Hang up and end the thread; tell whether it ended in time. Not `in_order`: without DISCONNECT, so that the
        broker says the will.
        """
        self._in_order = in_order
        self._stopping = True
        self._dials.put(None)
        self._wake.up()
        if self._thread.ident is not None:
            self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def alive(self, now: float) -> bool:
        """Tell whether the thread lives and keeps its own deadlines."""
        return self._thread.is_alive() and now < self._poller.due_at + STUCK_S

    def _order(self, line: int, do: Callable[..., None], *arguments: Any) -> None:
        self._commands.put((line, do, arguments))
        self._ordered = True

    def _run(self) -> None:
        try:
            while True:
                self._poller.due_at = math.inf
                dial = self._dials.get()
                self._poller.due_at = time.monotonic()
                if dial is None:
                    return
                self._events.append(self._live(dial))
                self._deliver()
        except BaseException:  # a bug: the main thread must hear of it, whatever it is
            self._post(ThreadFailed("mqtt", traceback.format_exc()))

    def _live(self, dial: Dial) -> Down:
        """Live through one connection, from DNS to its end."""
        def wait(what: HasFileno, events: int, deadline: float) -> bool:
            return self._wait(dial.line, what, events, deadline)

        connection = None
        try:
            password = _password(dial)
            stream = open_stream(dial.host, dial.port, _context(dial), wait, dial.proxy, dial.path)
            with closing(stream):
                connection = Connection(dial, stream, self._events.append, self._acknowledge, password=password)
                connection.start()
                while not self._told_to_stop(dial.line):
                    self._turn(connection)
                if self._in_order:
                    connection.disconnect()
                self._deliver()
                stream.finish(lambda what, events, deadline: self._poller.wait(what, events, deadline) != 0)
                return Down(dial.line, "asked", "asked to disconnect", connection.up)
        except StreamError as error:
            return connection.down(error) if connection else Down(
                dial.line, error.cause, str(error), False, layer=error.layer)
        except Exception as error:  # a bug ends its line, never more
            was_up = connection is not None and connection.up
            return Down(dial.line, "fault", f"a bug in iotd: {error!r}", was_up, traceback.format_exc())

    def _acknowledge(self, line: int, token: int) -> None:
        if token > 0:
            self._taken.append((line, token))
        if token <= 0 or self.eager:
            self._events.append(Acknowledged(line, token))

    def _turn(self, connection: Connection) -> None:
        """Wait for the socket, a command or a deadline; do what there is to do."""
        stream, full = connection.stream, self._backlog() >= FULL_INBOX
        events = (0 if full else select.POLLIN) | (select.POLLOUT if connection.flush() else 0)
        self._deliver()
        deadline = due_at = connection.next_due()
        if full:
            deadline = min(due_at, time.monotonic() + FULL_INBOX_PAUSE_S)
        elif stream.has_input():
            deadline = 0.0
        ready = self._poller.wait(stream, events, deadline)
        if not full and (ready & ~select.POLLOUT or stream.has_input()):
            connection.read()
        for _ in range(self._commands.qsize()):
            number, do, arguments = self._commands.get_nowait()
            if number == connection.number:  # an order for an earlier line came too late
                do(connection, *arguments)
        now = time.monotonic()
        if full or now >= due_at:
            connection.keep(now, full)

    def _deliver(self) -> None:
        """Post what has come: last, since the main thread, once woken, fights with this one for the interpreter."""
        for event in self._events:
            self._post(event)
        self._events.clear()

    def _wait(self, number: int, what: HasFileno, events: int, deadline: float) -> bool:
        """Wait while the line is being opened; only hanging up interrupts it."""
        while True:
            ready = self._poller.wait(what, events, deadline)
            if self._told_to_stop(number):
                raise StreamError("asked", "asked to stop dialling")
            if ready or time.monotonic() >= deadline:
                return ready != 0

    def _told_to_stop(self, number: int) -> bool:
        return self._stopping or self._hang_up == number


def _context(dial: Dial) -> Any:
    try:
        return dial.context()
    except (OSError, ValueError) as error:
        raise StreamError("certificate", f"the certificates cannot be used: {error}", "certificates") from error


def _password(dial: Dial) -> bytes | None:
    try:
        return credentials.password(dial.password_file) if dial.password_file else None
    except ValueError as error:
        raise StreamError("password", f"there is no password to log in with: {error}") from None


class _Wake:
    """An eventfd(2) that wakes a poll from another thread."""

    def __init__(self) -> None:
        self._fd: int = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)  # type: ignore[attr-defined]

    def fileno(self) -> int:
        return self._fd

    def up(self) -> None:
        os.eventfd_write(self._fd, 1)  # type: ignore[attr-defined]

    def clear(self) -> None:
        os.eventfd_read(self._fd)  # type: ignore[attr-defined]


class _Poller:
    """poll(2) on one descriptor and the wake, which says beforehand when it will be back."""

    def __init__(self, wake: _Wake) -> None:
        self._wake = wake
        self._poll = select.poll()
        self._poll.register(wake.fileno(), select.POLLIN)
        self._registered = (-1, 0)
        self.due_at = math.inf

    def wait(self, what: HasFileno, events: int, deadline: float) -> int:
        """Return the events of `what`, 0 where there were none by the deadline or the wake came first."""
        fd = what.fileno()
        if (fd, events) != self._registered:
            if self._registered[0] not in (-1, fd):
                self._poll.unregister(self._registered[0])
            self._poll.register(fd, events)
            self._registered = fd, events
        self.due_at = deadline
        timeout_ms = max(0, math.ceil((deadline - time.monotonic()) * 1000))
        ready = dict(self._poll.poll(timeout_ms))
        self.due_at = time.monotonic()
        if self._wake.fileno() in ready:
            self._wake.clear()
        return ready.get(fd, 0)
