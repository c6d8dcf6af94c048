"""How a host is written, and which of its addresses is reached: real sockets on loopback, some of them black holes."""

from __future__ import annotations

import select
import socket
import time
from contextlib import ExitStack
from typing import Any, Iterator

import pytest

from iotd.mqtt.addresses import MAX_ADDRESSES, Address, HasFileno, connected, host_problem, in_turn

V4, V6 = socket.AF_INET, socket.AF_INET6


@pytest.mark.parametrize("host", [
    "broker", "broker.example.com", "broker.example.com.", "mqtt_broker", "192.0.2.7", "::1", "fe80::1%eth0",
    "bücher.example", "x" * 63 + ".example", "4c.example", "a1b2c3-ats.iot.eu-central-1.amazonaws.com"])
def test_a_host_that_can_be_dialled_is_no_problem(host: str) -> None:
    assert host_problem(host) is None


@pytest.mark.parametrize(("host", "word"), [
    ("[::1]", "write the address alone"), ("[broker]", "brackets"), (".example.com", "empty part"),
    ("a..b", "empty part"), ("a.b..", "empty part"), (".", "empty part"), ("x" * 64 + ".example", "too long"),
    (".".join(["x" * 60] * 5), "too long"), ("ü" * 70, "no name of a host"), ("ü..example", "no name of a host"),
    ("${HOST}", "letters, digits"), ("*.example.com", "letters, digits"), ("a\0b", "letters, digits"),
    ("1.2.3", "no IPv4 address"), ("256.1.1.1", "no IPv4 address"), ("192.0.2.7.", "no IPv4 address"),
    ("1::2::3", "no IPv6 address")])
def test_a_host_that_cannot_be_dialled_is_named_with_what_would_be_right(host: str, word: str) -> None:
    problem = host_problem(host)
    assert problem is not None and word in problem


def rows(*families: int) -> list[Any]:
    return [(family, 1, 6, "", (f"{family}-{number}", 1)) for number, family in enumerate(families)]


def test_families_take_turns_and_each_keeps_its_order() -> None:
    found = in_turn(rows(V6, V6, V6, V4, V4))
    assert [address[0] for _, address in found] == [f"{V6}-0", f"{V4}-3", f"{V6}-1", f"{V4}-4", f"{V6}-2"]


def test_at_most_eight_addresses_are_tried_and_none_twice() -> None:
    assert len(in_turn(rows(*[V4] * 12))) == MAX_ADDRESSES
    assert len(in_turn(rows(V4) * 3)) == 1
    assert {family for family, _ in in_turn(rows(*[V6] * 12, V4))} == {V4, V6}


def wait(what: HasFileno, events: int, deadline: float) -> bool:
    poll = select.poll()
    poll.register(what, events)
    return bool(poll.poll(max(0.0, deadline - time.monotonic()) * 1000))


class Net:
    """Listeners on loopback: `good` answers, `refusing` has nobody, `hole` drops what comes: its backlog is full."""

    def __init__(self, stack: ExitStack) -> None:
        self._stack = stack

    def good(self) -> Address:
        return V4, self._stack.enter_context(socket.create_server(("127.0.0.1", 0))).getsockname()

    def refusing(self) -> Address:
        with socket.create_server(("127.0.0.1", 0)) as server:
            return V4, server.getsockname()

    def hole(self) -> Address:
        return V4, self.slow().getsockname()

    def slow(self) -> socket.socket:
        """Return a listener whose one place is taken: whoever accepts makes room for one more."""
        server = self._stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=0))
        self._stack.enter_context(socket.create_connection(server.getsockname()))
        return server


@pytest.fixture
def net() -> Iterator[Net]:
    with ExitStack() as stack:
        yield Net(stack)


def test_one_black_hole_leaves_the_others_their_time(net: Net) -> None:
    good = net.good()
    started = time.monotonic()
    with connected([net.hole(), net.hole(), net.refusing(), good], 2.0, wait) as sock:
        assert sock.getpeername() == good[1]
        assert not sock.getblocking()
    assert 0.8 < time.monotonic() - started < 1.6  # two shares: a quarter, and a third of the rest


@pytest.mark.parametrize("others", ["holes", "refusing"])
def test_an_address_that_answers_after_its_share_is_taken_all_the_same(net: Net, others: str) -> None:
    """As on a slow line, where a handshake takes longer than an eighth of the time."""
    late = net.slow()
    waits: list[float] = []

    def accepting_late(what: HasFileno, events: int, deadline: float) -> bool:
        waits.append(deadline)
        if len(waits) == 2:
            late.accept()[0].close()  # the kernel asks once more a second after the first time, and finds room
        return wait(what, events, deadline)
    more = [net.hole(), net.hole()] if others == "holes" else [net.refusing()]
    with connected([(V4, late.getsockname()), *more], 1.6, accepting_late) as sock:
        assert sock.getpeername() == late.getsockname()


def test_where_none_is_reached_every_reason_is_told_once_when_the_time_is_over(net: Net) -> None:
    started = time.monotonic()
    with pytest.raises(ConnectionError) as caught:
        connected([net.hole(), net.refusing(), net.refusing(), net.hole()], 0.6, wait)
    assert str(caught.value) == "Connection refused, no answer within 0.6 s"
    assert 0.55 < time.monotonic() - started < 1.5


def test_a_family_that_this_host_does_not_have_is_passed_over(net: Net) -> None:
    good = net.good()
    unknown: Any = 31, ("00:00:00:00:00:00", 1)  # AF_BLUETOOTH of linux/socket.h, which not every Python names
    with connected([unknown, good], 1.0, wait) as sock:
        assert sock.getpeername() == good[1]


def test_to_be_told_to_stop_leaves_no_socket_open(net: Net) -> None:
    def stopped(what: HasFileno, events: int, deadline: float) -> bool:
        raise InterruptedError("stop")
    with pytest.raises(InterruptedError):
        connected([net.hole()], 5.0, stopped)
