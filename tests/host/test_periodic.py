"""The thread that looks: when, what it posts, and whether it is known to be alive. Real threads, no sleeps."""

from __future__ import annotations

import time
from collections.abc import Iterator
from queue import SimpleQueue
from threading import Event
from typing import Any

import pytest

from iotd.host.periodic import STUCK_S, Periodic
from iotd.vocabulary import ThreadFailed

WAIT_S = 20.0


class Watched:
    """A thread that looks, and what it has posted."""

    def __init__(self) -> None:
        self.posted: SimpleQueue[Any] = SimpleQueue()
        self.looks = Periodic(self.posted.put)
        self.looks.start()

    def next(self) -> Any:
        return self.posted.get(timeout=WAIT_S)

    def ended(self) -> bool:
        self.looks._thread.join(WAIT_S)
        return not self.looks.alive(time.monotonic())


@pytest.fixture
def watched() -> Iterator[Watched]:
    watched = Watched()
    yield watched
    watched.looks.close()
    watched.looks._thread.join(WAIT_S)


def test_a_look_is_made_at_once_and_at_its_interval(watched: Watched) -> None:
    began = time.monotonic()
    watched.looks.look({"a": (0.05, time.monotonic)})
    times = [watched.next() for _ in range(4)]
    assert times[0] - began < 5.0
    for number, at in enumerate(times):
        assert at - times[0] >= 0.05 * number - 0.04


def test_a_new_look_is_made_at_once_and_a_known_one_at_its_time(watched: Watched) -> None:
    watched.looks.look({"a": (3600.0, lambda: "a")})
    assert watched.next() == "a"
    watched.looks.look({"a": (3600.0, lambda: "a again"), "b": (3600.0, lambda: "b")})
    assert watched.next() == "b"
    watched.looks.look({"a": (1800.0, lambda: "a changed")})
    assert watched.next() == "a changed"
    assert watched.posted.empty()


def test_a_look_that_was_taken_away_is_made_no_more(watched: Watched) -> None:
    watched.looks.look({"a": (0.001, lambda: "a")})
    assert watched.next() == "a"
    watched.looks.look({"b": (3600.0, lambda: "b")})
    while watched.next() != "b":
        pass
    watched.looks.look({"c": (0.01, lambda: "c")})
    assert {watched.next() for _ in range(5)} == {"c"}


def test_a_slow_look_is_not_made_up_for(watched: Watched) -> None:
    slow = Event()
    watched.looks.look({"a": (0.01, lambda: slow.wait(0.2))})
    began = time.monotonic()
    for _ in range(3):
        watched.next()
    assert time.monotonic() - began >= 0.55


def test_a_thread_that_waits_is_alive_whatever_its_interval(watched: Watched) -> None:
    watched.looks.look({"a": (3600.0, lambda: "a")})
    watched.next()
    watched.looks.look({"b": (3600.0, lambda: "b"), "a": (3600.0, lambda: "a")})
    watched.next()
    now = time.monotonic()
    assert watched.looks.alive(now) and watched.looks.alive(now + STUCK_S)


def test_a_thread_in_a_look_that_hangs_is_stuck(watched: Watched) -> None:
    inside, release = Event(), Event()

    def hang() -> str:
        inside.set()
        release.wait(WAIT_S)
        return "back"

    watched.looks.look({"a": (3600.0, hang)})
    assert inside.wait(WAIT_S)
    now = time.monotonic()
    assert watched.looks.alive(now) and not watched.looks.alive(now + STUCK_S + 1.0)
    release.set()
    assert watched.next() == "back"


def test_an_error_that_nobody_expected_is_told_with_its_traceback(watched: Watched) -> None:
    def fault() -> None:
        raise KeyError("nobody expected this")

    watched.looks.look({"a": (3600.0, fault)})
    failed = watched.next()
    assert isinstance(failed, ThreadFailed) and failed.thread == "looks" and "nobody expected this" in failed.traceback
    assert watched.ended()


def test_closing_ends_the_thread_also_while_looks_are_overdue(watched: Watched) -> None:
    watched.looks.look({"a": (1e-6, lambda: "a")})
    watched.next()
    watched.looks.close()
    assert watched.ended()


def test_a_thread_that_was_never_started_is_not_alive() -> None:
    looks = Periodic(lambda event: None)
    looks.close()
    assert not looks.alive(time.monotonic())
