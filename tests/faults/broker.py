"""A scripted MQTT broker: bytes in, bytes out, on loopback, plain or TLS. A case is its script.

`Broker.accept` gives the next connection; the case reads its packets one by one, or lets `Connection.serve` answer
as a broker does until something happens. Every packet is kept with its moment, and every wait has an end.
"""

from __future__ import annotations

import select
import socket
import ssl
import struct
import time
from contextlib import suppress
from types import TracebackType
from typing import Callable, Collection, NoReturn

from tests.faults import packets
from tests.faults.packets import CONNECT, PINGREQ, PUBLISH, SUBSCRIBE, UNSUBSCRIBE, Packet, Publish

HOST = "127.0.0.1"
MAX_BACKLOG = 50

Until = Callable[[Packet], bool]


class Silence(Exception):
    """What the script waited for did not come in time."""


class Ended(Exception):
    """The client ended the connection; `how` is closed or reset."""

    def __init__(self, how: str) -> None:
        super().__init__(f"the client ended the connection: {how}")
        self.how = how


class Broker:
    """A listening socket; `context` makes every connection TLS, from the first byte that `Connection` handles."""

    def __init__(self, context: ssl.SSLContext | None = None) -> None:
        self.context = context
        self.connections: list[Connection] = []
        self._listener = socket.create_server((HOST, 0), backlog=MAX_BACKLOG)
        self.port: int = self._listener.getsockname()[1]

    def __enter__(self) -> Broker:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for connection in self.connections:
            connection.close()
        self._listener.close()

    def accept(self, within_s: float) -> Connection:
        """Return the next connection, TLS not begun. Raises Silence."""
        if not _ready(self._listener, within_s):
            raise Silence(f"no connection within {within_s:g} s")
        connection = Connection(self._listener.accept()[0])
        self.connections.append(connection)
        return connection

    def next(self, within_s: float, session_present: bool = False) -> Connection:
        """Return the next connection after TLS, CONNECT and CONNACK."""
        connection = self.dialled(within_s)
        connection.send(packets.connack(0, session_present))
        return connection

    def dialled(self, within_s: float) -> Connection:
        """Return the next connection after TLS and CONNECT, which is `packets[0]` of it."""
        connection = self.accept(within_s)
        if self.context is not None:
            connection.secure(self.context, 10)
        packets.Connect.read(connection.read_packet(10))
        return connection

    def refuse(self) -> None:
        """Listen no more: a SYN is answered by a reset."""
        self._listener.close()

    def listen(self) -> None:
        """Listen again on the same port."""
        self._listener = socket.create_server((HOST, self.port), backlog=MAX_BACKLOG)


class Connection:
    """One connection of a client. `packets` is all that it sent, `ended_at` when it ended the line."""

    def __init__(self, sock: socket.socket) -> None:
        self.opened_at = time.monotonic()
        self.ended_at: float | None = None
        self.packets: list[Packet] = []
        self.greeted_at: float | None = None
        self._sock = sock
        self._input = bytearray()
        self._acknowledged: list[Publish] = []
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def secure(self, context: ssl.SSLContext, within_s: float) -> None:
        """Do the TLS handshake. Raises ssl.SSLError or OSError as the client made it fail, and Silence."""
        self._sock.settimeout(within_s)
        try:
            self._sock = context.wrap_socket(self._sock, server_side=True)
        except TimeoutError:
            raise Silence(f"no TLS handshake within {within_s:g} s") from None

    def peek(self, within_s: float) -> bytes:
        """Return the first bytes that are here, without taking them."""
        if not _ready(self._sock, within_s):
            raise Silence(f"not a byte within {within_s:g} s")
        return self._sock.recv(1 << 16, socket.MSG_PEEK)

    def read_packet(self, within_s: float) -> Packet:
        """Return the next packet. Raises Silence, Ended, and packets.Malformed."""
        deadline = time.monotonic() + within_s
        while True:
            found = packets.take(self._input)
            if found is not None:
                packet = Packet(found[0] & 0xF0, found[0] & 0x0F, found[1], time.monotonic())
                self.packets.append(packet)
                return packet
            self._receive(deadline, within_s)

    def serve(self, until: Until, within_s: float, mute: Collection[int] = (), session_present: bool = False) -> Packet:
        """Answer as a broker does up to and including the first packet that is `until`, and return it.

        The kinds in `mute` get no answer. Raises Silence when no such packet comes in time, Ended, packets.Malformed.
        """
        deadline = time.monotonic() + within_s
        while True:
            packet = self.read_packet(deadline - time.monotonic())
            if packet.kind not in mute:
                self.answer(packet, session_present)
            if until(packet):
                return packet

    def serve_for(self, seconds: float, mute: Collection[int] = ()) -> None:
        """Answer as a broker does for so long. Raises Ended, packets.Malformed."""
        with suppress(Silence):
            self.serve(lambda packet: False, seconds, mute)

    def until_ended(self, within_s: float, mute: Collection[int] = ()) -> str:
        """Answer as a broker does until the client ends the connection; return how. Raises Silence."""
        try:
            self.serve(lambda packet: False, within_s, mute)
        except Ended as ended:
            return ended.how
        raise AssertionError("serve does not return without a packet")

    def send(self, data: bytes) -> None:
        """Send these bytes, whatever they are. Raises Ended."""
        self._sock.settimeout(10)
        if self.greeted_at is None and data[:1] == b"\x20":
            self.greeted_at = time.monotonic()
        try:
            self._sock.sendall(data)
        except TimeoutError:
            raise Silence("the client has not read for 10 s") from None
        except OSError:
            self._end("reset")

    def publishes(self, topic: str | None = None) -> list[Publish]:
        """Return what the client has published, on this topic alone where it is given."""
        found = [Publish.read(packet) for packet in self.packets if packet.kind == PUBLISH]
        return [entry for entry in found if topic is None or entry.topic == topic]

    def early(self) -> list[Packet]:
        """Return what the client sent beside CONNECT before it was greeted by a CONNACK."""
        return [packet for packet in self.packets[1:] if self.greeted_at is None or packet.at < self.greeted_at]

    def close(self) -> None:
        """Close in order (FIN)."""
        self._sock.close()

    def reset(self) -> None:
        """Close at once (RST)."""
        self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._sock.close()

    def acknowledged(self, topic: str) -> list[Publish]:
        """Return what the client has published on the topic at QoS 1 and the broker has acknowledged."""
        return [entry for entry in self._acknowledged if entry.topic == topic]

    def answer(self, packet: Packet, session_present: bool = False) -> None:
        """Answer the packet as a broker does."""
        if packet.kind == CONNECT:
            self.send(packets.connack(0, session_present))
        elif packet.kind == PUBLISH and Publish.read(packet).qos:
            self.send(packets.puback(packet.identifier))
            self._acknowledged.append(Publish.read(packet))
        elif packet.kind == SUBSCRIBE:
            self.send(packets.suback(packet.identifier, [qos for _, qos in packets.filters(packet)]))
        elif packet.kind == UNSUBSCRIBE:
            self.send(packets.unsuback(packet.identifier))
        elif packet.kind == PINGREQ:
            self.send(packets.pingresp())

    def _receive(self, deadline: float, within_s: float) -> None:
        left_s = deadline - time.monotonic()
        if left_s <= 0:
            raise Silence(f"nothing of the kind within {within_s:.1f} s")
        self._sock.settimeout(left_s)
        try:
            data = self._sock.recv(1 << 16)
        except TimeoutError:
            raise Silence(f"nothing of the kind within {within_s:.1f} s") from None
        except OSError:
            self._end("reset")
        if not data:
            self._end("closed")
        self._input += data

    def _end(self, how: str) -> NoReturn:
        self.ended_at = time.monotonic()
        raise Ended(how)


def _ready(sock: socket.socket, within_s: float) -> bool:
    return bool(select.select([sock], [], [], max(0.0, within_s))[0])
