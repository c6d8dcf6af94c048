"""The connections of the programs, on the thread of the door: lines in, answers and messages out, all of it bounded.

One batch of a connection is with the main thread at a time; until it is answered no more of it is read, so a program
that is fast waits in its own write(2), and what it can take of memory is known.
"""

from __future__ import annotations

import json
import math
import os
import select
import socket
import struct
import time
import traceback
from collections import deque

from iotd.host import log
from iotd.local.door import Asked, Door, Left
from iotd.local.orders import Answer, Heard
from iotd.local.requests import MAX_LINE_BYTES, TOO_LONG, Clear, Refused, Request, Status, parse

CONNECTIONS = 64
REQUESTS_AT_ONCE = 256
READ_BYTES = 1 << 16
UNSENT_BYTES = 1 << 16  # answers that a program has yet to read, before no more of it is read
UNHEARD_BYTES = 1 << 20  # messages that wait for a listener
NO_DESCRIPTOR_S = 0.05

_TOO_MANY = {"refused": f"{CONNECTIONS} programs are connected already; close one of these, or try again later"}


class Connection:
    """One program: what has come of it, and what is to go."""

    def __init__(self, number: int, line: socket.socket) -> None:
        self.number = number
        self.line = line
        self.trusted = struct.unpack("3i", line.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))[1] in (
            0, os.geteuid())
        self.incoming = bytearray()
        self.has_line = False  # a whole one in `incoming`
        self.outgoing = bytearray()
        self.unheard: deque[bytes] = deque()
        self.unheard_bytes = self.lost = 0
        self.asked = self.held = self.listens = False
        self.ended = False  # it says no more
        self.gone = False  # it hears no more
        self.watched: int | None = None  # the events that are waited for

    def wants_to_read(self) -> bool:
        return not (self.asked or self.held or self.ended) and len(self.outgoing) < UNSENT_BYTES

    def is_over(self) -> bool:
        """Tell whether nothing can come of it any more."""
        if self.asked or self.held or self.has_line:
            return False
        return self.ended and (self.gone or not (self.outgoing or self.listens))

    def lose(self) -> None:
        """Nothing that is to go will get there; what it has said still counts."""
        self.gone = True
        self.outgoing.clear()
        self.unheard.clear()

    def answer(self, lines: bytes) -> None:
        """Take what is to go."""
        if not self.gone:
            self.outgoing += lines
            self.send()

    def hear(self, line: bytes) -> None:
        """Take a message for it; the oldest that wait make room."""
        if self.gone:
            return
        self.unheard.append(line)
        self.unheard_bytes += len(line)
        while self.unheard_bytes > UNHEARD_BYTES and len(self.unheard) > 1:
            self.unheard_bytes -= len(self.unheard.popleft())
            self.lost += 1
        self.send()

    def send(self) -> None:
        """Send what the program takes."""
        while True:
            if not self.outgoing:
                self._next_messages()
            if not self.outgoing:
                return
            try:
                sent = self.line.send(self.outgoing)
            except BlockingIOError:
                return
            except OSError:
                self.lose()
                return
            del self.outgoing[:sent]

    def _next_messages(self) -> None:
        if self.lost:
            self.outgoing += json.dumps({"lost": self.lost}).encode() + b"\n"
            self.lost = 0
        while self.unheard and len(self.outgoing) < UNSENT_BYTES:
            line = self.unheard.popleft()
            self.unheard_bytes -= len(line)
            self.outgoing += line


class Server:
    """All connections; `run` returns when the door closes."""

    def __init__(self, door: Door) -> None:
        self._door = door
        self._epoll = select.epoll()
        self._by_descriptor: dict[int, Connection] = {}
        self._by_number: dict[int, Connection] = {}
        self._last = 0
        for descriptor in (door.listener.fileno(), door.wake):
            self._epoll.register(descriptor, select.EPOLLIN)

    def run(self) -> None:
        """Serve until the door closes."""
        ended = False
        while not ended:
            self._door.busy_from = math.inf
            happened = self._epoll.poll()
            self._door.busy_from = time.monotonic()
            for descriptor, events in happened:
                if descriptor == self._door.listener.fileno():
                    self._accept()
                elif descriptor == self._door.wake:
                    os.eventfd_read(self._door.wake)  # type: ignore[attr-defined]
                elif descriptor in self._by_descriptor:
                    self._happened(self._by_descriptor[descriptor], events)
            ended = self._obey()
        for connection in self._by_number.values():
            connection.line.close()
        self._epoll.close()

    def _accept(self) -> None:
        while True:
            try:
                line, _ = self._door.listener.accept()
            except BlockingIOError:
                return
            except OSError:  # gone already, or no descriptor is left; then the next round tries again
                time.sleep(NO_DESCRIPTOR_S)
                return
            line.setblocking(False)
            if len(self._by_number) == CONNECTIONS:
                _say_last_word(line)
                continue
            self._last += 1
            connection = Connection(self._last, line)
            self._by_descriptor[line.fileno()] = self._by_number[self._last] = connection
            self._go_on(connection)

    def _happened(self, connection: Connection, events: int) -> None:
        if events & (select.EPOLLHUP | select.EPOLLERR):
            connection.lose()
        elif events & select.EPOLLOUT:
            connection.send()
        self._go_on(connection)

    def _obey(self) -> bool:
        """Do what the main thread has ordered; tell whether that is to end."""
        orders = self._door.orders
        for _ in range(len(orders)):
            order = orders.popleft()
            if order is None:
                return True
            if isinstance(order, Answer):
                connection = self._by_number.get(order.connection)
                if connection is None:  # it met a bug of ours
                    continue
                connection.asked, connection.held = False, order.hold
                connection.listens = connection.listens or order.listens
                connection.answer(order.lines)
                self._go_on(connection)
            elif isinstance(order, Heard):
                for listener in filter(None, map(self._by_number.get, order.connections)):
                    listener.hear(order.line)
                    self._go_on(listener)
            else:
                for connection in [found for found in self._by_number.values() if found.held]:
                    connection.held = False
                    self._go_on(connection)
        return False

    def _go_on(self, connection: Connection) -> None:
        """Read what may be read, and wait for what comes next; a bug of ours in it ends this connection alone."""
        try:
            self._read(connection)
            if connection.is_over():
                self._close(connection)
            else:
                self._watch(connection)
        except Exception:
            log.error("program.fault", "a bug in iotd; the connection of the program is closed",
                      traceback=traceback.format_exc())
            self._close(connection)

    def _read(self, connection: Connection) -> None:
        while connection.has_line and not (connection.asked or connection.held) or connection.wants_to_read():
            if connection.has_line:
                if len(connection.outgoing) >= UNSENT_BYTES and not connection.gone:
                    return
                self._take(connection)
                continue
            try:
                chunk = connection.line.recv(READ_BYTES)
            except BlockingIOError:
                return
            except OSError:
                chunk = b""
            connection.ended = not chunk
            connection.has_line = b"\n" in chunk
            connection.incoming += chunk
            if len(connection.incoming) > MAX_LINE_BYTES and not connection.has_line:
                self._ask(connection, [Refused(TOO_LONG)])

    def _take(self, connection: Connection) -> None:
        """Ask the main thread for what the next lines say."""
        *lines, rest = connection.incoming.split(b"\n", REQUESTS_AT_ONCE)
        requests: list[Request] = []
        for position, line in enumerate(lines, 1):
            if len(line) > MAX_LINE_BYTES:
                requests.append(Refused(TOO_LONG))
                break
            requests.append(parse(line))
            if isinstance(requests[-1], (Status, Clear)):  # its answer is long, or takes long: one at a time
                rest = bytearray(b"\n").join([*lines[position:], rest])
                break
        connection.incoming, connection.has_line = rest, b"\n" in rest
        self._ask(connection, requests)

    def _ask(self, connection: Connection, requests: list[Request]) -> None:
        if requests[-1] == Refused(TOO_LONG):  # where it ends nobody knows
            connection.incoming.clear()
            connection.has_line, connection.ended = False, True
        connection.asked = True
        self._door.post(Asked(connection.number, tuple(requests), connection.trusted))

    def _watch(self, connection: Connection) -> None:
        if connection.gone:
            events = None
        else:
            unsent = connection.outgoing or connection.unheard
            events = select.EPOLLIN * connection.wants_to_read() | select.EPOLLOUT * bool(unsent)
        if events == connection.watched:
            return
        descriptor = connection.line.fileno()
        if events is None:
            self._epoll.unregister(descriptor)
        elif connection.watched is None:
            self._epoll.register(descriptor, events)
        else:
            self._epoll.modify(descriptor, events)
        connection.watched = events

    def _close(self, connection: Connection) -> None:
        self._by_number.pop(connection.number, None)
        self._by_descriptor.pop(connection.line.fileno(), None)
        connection.line.close()
        if connection.listens:
            self._door.post(Left(connection.number))


def _say_last_word(line: socket.socket) -> None:
    try:
        line.send(json.dumps(_TOO_MANY).encode() + b"\n")
    except OSError:
        pass  # it has gone, or never reads
    line.close()
