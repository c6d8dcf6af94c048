"""A TCP relay between device and broker that can hold, cut and refuse, and knows what the broker has acknowledged.

One thread owns every socket. What the broker acknowledges is written into the ledger as it passes: the proof that a
message has arrived, whatever becomes of the broker afterwards.
"""

from __future__ import annotations

import json
import selectors
import socket
import struct
import threading
import time
from collections import deque
from contextlib import suppress
from dataclasses import dataclass, field
from queue import Empty, SimpleQueue
from typing import Callable

from tests.faults import packets
from tests.faults.broker import HOST
from tests.faults.packets import PUBACK, PUBLISH, Packet, Publish

Key = tuple[str, str, int]  # run, topic, sequence number


def key_of(topic: str, payload: bytes) -> Key:
    """Return which message of which run this is."""
    body = json.loads(payload)
    return body["run"], topic, body["n"]


@dataclass(slots=True)
class Ledger:
    """When each message passed on its way to the broker, when it was acknowledged, when that reached the device."""

    topics: str
    sent: dict[Key, list[float]] = field(default_factory=dict)
    acknowledged: dict[Key, float] = field(default_factory=dict)
    told: dict[Key, float] = field(default_factory=dict)
    out_of_order: int = 0
    newest_s: float = 0.0  # the highest uptime that a message carries
    _highest: dict[tuple[str, str], int] = field(default_factory=dict)

    def pass_publish(self, publish: Publish, now: float) -> Key | None:
        """Enter a PUBLISH that goes to the broker; return its key where it is one of ours."""
        if not publish.topic.startswith(self.topics):
            return None
        key = key_of(publish.topic, publish.payload)
        run, topic, number = key
        self.newest_s = max(self.newest_s, json.loads(publish.payload)["up"])
        if key not in self.sent:
            self.out_of_order += number < self._highest.get((run, topic), 0)
            self._highest[run, topic] = max(number, self._highest.get((run, topic), 0))
        self.sent.setdefault(key, []).append(now)
        return key


class _Side:
    """One socket of a pair, what has come in for parsing, and what waits to go out of it."""

    def __init__(self, sock: socket.socket, to_broker: bool) -> None:
        self.sock = sock
        self.to_broker = to_broker  # whether this is the socket to the broker
        self.peer: _Side = self
        self.stream = bytearray()
        self.output: deque[tuple[float, bytes]] = deque()
        self.frozen = False
        self.keys: dict[int, Key] = {}


class Proxy:
    """Relays to the port of the broker. `delay_s` holds every piece back for so long, in both directions."""

    def __init__(self, to_port: int, ledger: Ledger) -> None:
        self.delay_s = 0.0
        self.ledger = ledger
        self._to_port = to_port
        self._orders: SimpleQueue[tuple[Callable[[], None] | None, threading.Event]] = SimpleQueue()
        self._wake, self._waker = socket.socketpair()
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._wake, selectors.EVENT_READ)
        self._sides: set[_Side] = set()
        self._listener = socket.create_server((HOST, 0), backlog=50)
        self._selector.register(self._listener, selectors.EVENT_READ)
        self.port: int = self._listener.getsockname()[1]
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def close(self) -> None:
        """End every connection and the thread."""
        self._order(None)
        self._thread.join()

    def cut(self, reset: bool) -> None:
        """End every connection, by RST or by FIN."""
        def do() -> None:
            for side in list(self._sides):
                self._drop(side, reset)
        self._order(do)

    def freeze(self) -> None:
        """Relay nothing more on the connections that are open, and keep them open."""
        def do() -> None:
            for side in self._sides:
                side.frozen = True
                with suppress(KeyError):
                    self._selector.unregister(side.sock)
        self._order(do)

    def refuse(self) -> None:
        """Listen no more."""
        def do() -> None:
            with suppress(KeyError):
                self._selector.unregister(self._listener)
            self._listener.close()
        self._order(do)

    def listen(self) -> None:
        """Listen again."""
        def do() -> None:
            self._listener = socket.create_server((HOST, self.port), backlog=50)
            self._selector.register(self._listener, selectors.EVENT_READ)
        self._order(do)

    def _order(self, do: Callable[[], None] | None) -> None:
        done = threading.Event()
        self._orders.put((do, done))
        self._waker.send(b"!")
        if not done.wait(10):
            raise RuntimeError("the proxy's thread is dead")

    def _run(self) -> None:
        while True:
            now = time.monotonic()
            due_at = min((side.output[0][0] for side in self._sides if side.output and not side.frozen), default=None)
            for key, _ in self._selector.select(None if due_at is None else max(0.0, due_at - now)):
                if key.fileobj is self._listener:
                    self._accept()
                elif key.fileobj is self._wake:
                    self._wake.recv(4096)
                elif isinstance(key.data, _Side) and key.data in self._sides:
                    self._receive(key.data)
            with suppress(Empty):
                while True:
                    order, done = self._orders.get_nowait()
                    if order is None:
                        self._end()
                    else:
                        order()
                    done.set()
                    if order is None:
                        return
            for side in list(self._sides):
                self._send_due(side)

    def _accept(self) -> None:
        sock = self._listener.accept()[0]
        client = _Side(sock, to_broker=False)
        try:
            server = _Side(socket.create_connection((HOST, self._to_port), timeout=5), to_broker=True)
        except OSError:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            sock.close()
            return
        client.peer, server.peer = server, client
        for side in (client, server):
            side.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            side.sock.settimeout(5)
            self._sides.add(side)
            self._selector.register(side.sock, selectors.EVENT_READ, side)

    def _receive(self, side: _Side) -> None:
        try:
            data = side.sock.recv(1 << 16)
        except OSError:
            self._drop(side, reset=True)
            return
        if not data:
            self._send_all(side.peer)
            self._drop(side, reset=False)
            return
        side.stream += data
        while (found := packets.take(side.stream)) is not None:
            self._enter(side, *found)
        side.peer.output.append((time.monotonic() + self.delay_s, data))

    def _enter(self, side: _Side, first: int, body: bytes) -> None:
        """Enter what has come in on this side into the ledger."""
        now = time.monotonic()
        if side.to_broker:
            if first == PUBACK:
                key = side.peer.keys.pop(int.from_bytes(body[:2], "big"), None)
                if key is not None:
                    self.ledger.acknowledged.setdefault(key, now)
                    self.ledger.told.setdefault(key, now + self.delay_s)
        elif first & 0xF0 == PUBLISH:
            publish = Publish.read(Packet(PUBLISH, first & 0x0F, body, now))
            key = self.ledger.pass_publish(publish, now)
            if key is not None:
                side.keys[publish.identifier] = key

    def _send_due(self, side: _Side) -> None:
        now = time.monotonic()
        try:
            while not side.frozen and side.output and side.output[0][0] <= now:
                side.sock.sendall(side.output.popleft()[1])
        except OSError:
            self._drop(side, reset=True)

    def _send_all(self, side: _Side) -> None:
        with suppress(OSError):
            while not side.frozen and side.output:
                side.sock.sendall(side.output.popleft()[1])

    def _drop(self, side: _Side, reset: bool) -> None:
        for end in (side, side.peer):
            if end in self._sides:
                self._sides.remove(end)
                with suppress(KeyError):
                    self._selector.unregister(end.sock)
                if reset:
                    end.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                end.sock.close()

    def _end(self) -> None:
        for side in list(self._sides):
            self._drop(side, reset=True)
        self._listener.close()
        self._selector.close()
        self._wake.close()
        self._waker.close()
