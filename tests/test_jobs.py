"""One thread for each job while it runs."""

from __future__ import annotations

import select
import threading
import time
from queue import SimpleQueue
from typing import Any

from iotd.jobs import Jobs
from iotd.model import ThreadFailed


def test_one_job_that_hangs_delays_no_other_and_is_not_begun_again() -> None:
    events: SimpleQueue[Any] = SimpleQueue()
    jobs = Jobs(events.put)
    release = threading.Event()
    assert jobs.start("hangs", lambda stop: release.wait(30) and "at last")
    assert not jobs.start("hangs", lambda stop: "a second time")
    assert jobs.start("quick", lambda stop: "at once")
    assert events.get(timeout=5) == "at once"
    release.set()
    assert events.get(timeout=5) == "at last"
    jobs.close(5.0)


def test_a_key_is_free_again_after_its_job() -> None:
    events: SimpleQueue[Any] = SimpleQueue()
    jobs = Jobs(events.put)
    assert jobs.start("check", lambda stop: threading.current_thread())
    events.get(timeout=5).join(5)
    assert jobs.start("check", lambda stop: "again")
    assert events.get(timeout=5) == "again"
    jobs.close(5.0)


def test_a_bug_in_a_job_is_told_to_the_main_thread() -> None:
    events: SimpleQueue[Any] = SimpleQueue()
    jobs = Jobs(events.put)
    jobs.start("division", lambda stop: 1 // 0)
    failed = events.get(timeout=5)
    assert isinstance(failed, ThreadFailed) and "ZeroDivisionError" in failed.traceback
    jobs.close(5.0)


def test_close_asks_every_job_to_give_up_and_leaves_behind_what_does_not() -> None:
    events: SimpleQueue[Any] = SimpleQueue()
    jobs = Jobs(events.put)
    release = threading.Event()
    for name in ("one", "two"):
        jobs.start(name, lambda stop: select.select([stop], [], [], 30)[0] == [stop])
    jobs.start("deaf", lambda stop: release.wait(30))
    started = time.monotonic()
    jobs.close(0.3)
    assert time.monotonic() - started < 5
    assert (events.get(timeout=5), events.get(timeout=5)) == (True, True)
    release.set()
