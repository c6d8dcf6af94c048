"""One thread for each task while it runs."""

from __future__ import annotations

import select
import threading
import time
from queue import SimpleQueue
from typing import Any, NoReturn

from iotd.host.tasks import Tasks


def unforeseen(traceback: str) -> NoReturn:
    """What these tests do not expect of their tasks: a bug."""
    raise AssertionError(traceback)


def test_one_task_that_hangs_delays_no_other_and_is_not_begun_again() -> None:
    events: SimpleQueue[Any] = SimpleQueue()
    tasks = Tasks(events.put)
    release = threading.Event()
    assert tasks.start("hangs", lambda stop: release.wait(30) and "at last", unforeseen)
    assert not tasks.start("hangs", lambda stop: "a second time", unforeseen)
    assert tasks.start("quick", lambda stop: "at once", unforeseen)
    assert events.get(timeout=5) == "at once"
    release.set()
    assert events.get(timeout=5) == "at last"
    tasks.close(5.0)


def test_a_key_is_free_again_after_its_task() -> None:
    events: SimpleQueue[Any] = SimpleQueue()
    tasks = Tasks(events.put)
    assert tasks.start("check", lambda stop: threading.current_thread(), unforeseen)
    events.get(timeout=5).join(5)
    assert tasks.start("check", lambda stop: "again", unforeseen)
    assert events.get(timeout=5) == "again"
    tasks.close(5.0)


def test_a_bug_in_a_task_is_what_its_owner_makes_of_it_and_ends_nothing_else() -> None:
    events: SimpleQueue[Any] = SimpleQueue()
    tasks = Tasks(events.put)
    tasks.start("division", lambda stop: 1 // 0, lambda traceback: ("failed", traceback))
    told, traceback = events.get(timeout=5)
    assert told == "failed" and "ZeroDivisionError" in traceback
    tasks.start("next", lambda stop: "well", unforeseen)
    assert events.get(timeout=5) == "well"
    tasks.close(5.0)


def test_close_asks_every_task_to_give_up_and_leaves_behind_what_does_not() -> None:
    events: SimpleQueue[Any] = SimpleQueue()
    tasks = Tasks(events.put)
    release = threading.Event()
    for name in ("one", "two"):
        tasks.start(name, lambda stop: select.select([stop], [], [], 30)[0] == [stop], unforeseen)
    tasks.start("deaf", lambda stop: release.wait(30), unforeseen)
    started = time.monotonic()
    tasks.close(0.3)
    assert time.monotonic() - started < 5
    assert (events.get(timeout=5), events.get(timeout=5)) == (True, True)
    release.set()
