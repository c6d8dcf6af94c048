"""The deadlines of one connection, on a socket whose other end the test holds and at times that it says."""

from __future__ import annotations

import socket
from typing import Any, Iterator

import pytest

from iotd.mqtt.connection import Connection, Dial
from iotd.mqtt.stream import Stream, StreamError
from iotd.vocabulary import Dialled, Message, PassedOver, Received
from tests.faults import packets

WILL = Message("t/will", b"lost", 1, True)


class Peer:
    """A connection that is driven by hand as the thread does, at times that the test says, and the broker's end."""

    def __init__(self, keepalive_s: int) -> None:
        ours, self.sock = socket.socketpair()
        ours.setblocking(False)
        self.sock.setblocking(False)
        self.now = 0.0
        self.events: list[Any] = []
        dial = Dial(1, "broker", 1883, "t", True, keepalive_s, WILL, lambda: None)
        self.connection = Connection(dial, Stream(ours), self.events.append, lambda line, token: None, lambda: self.now)
        self.connection.start()
        self.heard()
        self.says(packets.connack())

    def says(self, data: bytes) -> None:
        """Send the bytes, which are read at once."""
        for start in range(0, len(data), 1 << 16):
            self.sock.sendall(data[start:start + (1 << 16)])
            self.connection.read()

    def heard(self) -> bytes:
        """Return what the connection has sent."""
        self.connection.flush()
        try:
            return self.sock.recv(1 << 20)
        except BlockingIOError:
            return b""

    def live(self, until: float, deaf: bool = False) -> None:
        """Let time pass, in which what is due is done when it is."""
        while self.now < until:
            self.now = until if deaf else min(until, max(self.now, self.connection.next_due()))
            self.connection.keep(self.now, deaf)
            self.connection.flush()

    def close(self) -> None:
        self.connection.stream.close()
        self.sock.close()


@pytest.fixture
def peer() -> Iterator[Peer]:
    one = Peer(keepalive_s=60)
    yield one
    one.close()


@pytest.mark.parametrize(("qos", "answer"), [(0, b""), (1, b"\x40\x02\x01\x2c"), (2, b"\x50\x02\x01\x2c")])
def test_a_message_that_is_passed_over_is_acknowledged_once_it_is_here(peer: Peer, qos: int, answer: bytes) -> None:
    message = packets.publish("t", bytes(1_200_000), qos, 300)
    peer.says(message[:-1])
    assert peer.heard() == b""
    peer.says(message[-1:])
    assert peer.heard() == answer
    assert peer.events == [Dialled(1, False), PassedOver(1, "t", 1_200_000)]


@pytest.mark.parametrize("begin", [
    b"\x30" + packets.length(800_000) + b"\x00\x01t",
    b"\x30" + packets.length(200_000_000) + b"\x00\x01t",
    b"\x90\xff\x7f"], ids=["800 KB", "200 MB", "a SUBACK"])
def test_a_packet_that_never_comes_whole_is_a_dead_line(peer: Peer, begin: bytes) -> None:
    peer.live(until=10)
    peer.says(begin)
    for second in range(11, 100):
        peer.live(until=second)
        peer.says(packets.pingresp())
    with pytest.raises(StreamError) as caught:
        peer.live(until=101)
    assert (caught.value.cause, "no packet came whole" in str(caught.value)) == ("silent", True)


def test_amid_a_packet_the_broker_is_told_that_we_are_there_and_no_acknowledgement_is_missed(peer: Peer) -> None:
    peer.says(b"\x30" + packets.length(800_000) + b"\x00\x01t")
    peer.connection.publish(1, Message("t", b"1"))
    assert peer.heard().endswith(b"1")
    peer.live(until=99)
    assert peer.heard() == b"\xc0\x00"
    peer.says(bytes(800_000 - 3) + packets.puback(1) + packets.pingresp())
    peer.live(until=119)
    assert [type(event) for event in peer.events] == [Dialled, Received]
    assert peer.heard() == b""


def test_a_message_that_is_passed_over_may_take_its_time_and_not_stand_still(peer: Peer) -> None:
    """At 64 KB in 90 s the next 19 take half an hour, in which PINGREQ goes out within every keep-alive."""
    peer.says(b"\x32" + packets.length(200_000_005) + b"\x00\x01t\x00\x07")
    for number in range(1, 20):
        peer.live(until=90 * number)
        peer.says(bytes(1 << 16))
    assert len(peer.heard()) == 2 * (90 * 19 // 60)
    with pytest.raises(StreamError):
        peer.live(until=90 * 19 + 101)


def test_a_line_that_is_idle_lives_on_pings_and_dies_without(peer: Peer) -> None:
    for number in range(1, 10):
        peer.live(until=60 * number)
        assert peer.heard() == b"\xc0\x00"
        peer.says(packets.pingresp())
    peer.live(until=600)
    with pytest.raises(StreamError) as caught:
        peer.live(until=611)
    assert "no PINGRESP" in str(caught.value)


def test_what_is_not_acknowledged_is_repeated_and_in_the_end_the_line_is_no_good(peer: Peer) -> None:
    peer.connection.publish(1, Message("t", b"1"))
    peer.heard()
    peer.live(until=65)
    assert peer.heard().count(b"\x3a") == 6
    with pytest.raises(StreamError) as caught:
        peer.live(until=71)
    assert caught.value.cause == "unacknowledged"


def test_no_silence_is_the_brokers_while_we_do_not_listen(peer: Peer) -> None:
    """The main thread has fallen behind, and the socket is not read: not even acknowledgements."""
    peer.connection.publish(1, Message("t", b"1"))
    peer.heard()
    for second in range(5, 300, 5):
        peer.live(until=second, deaf=True)
    assert b"\x3a" not in peer.heard()
    for second in (300, 306):
        peer.says(packets.pingresp())
        peer.live(until=second)
    assert b"\x3a" in peer.heard()


def test_the_last_words_of_a_broker_that_is_gone_are_read(peer: Peer) -> None:
    peer.sock.sendall(packets.publish("t", b"last"))
    peer.sock.close()
    peer.connection.publish(1, Message("t", b"1"))
    peer.connection.flush()
    with pytest.raises(StreamError) as caught:
        peer.connection.read()
        peer.connection.read()
    assert caught.value.cause in ("closed", "reset")
    assert Received(1, "t", b"last", 0, False) in peer.events


def test_a_line_that_takes_no_bytes_is_ended_without_disconnect(peer: Peer) -> None:
    for number in range(30):
        peer.connection.publish(number + 1, Message("t", bytes(100_000)))
    peer.connection.flush()
    peer.connection.disconnect()
    peer.connection.stream.finish(lambda what, events, deadline: False)
    heard = b""
    while piece := peer.sock.recv(1 << 20):
        heard += piece
    assert 0 < len(heard) < 3_000_000 and not heard.endswith(b"\xe0\x00")
