"""A thread that makes looks which may block, each at its own interval, and posts what they saw."""

from __future__ import annotations

import math
import threading
import time
import traceback
from collections.abc import Callable, Mapping
from queue import Empty, SimpleQueue
from typing import Any

from iotd import schedule
from iotd.vocabulary import ThreadFailed

STUCK_S = 30.0

Look = Callable[[], Any]


class Periodic:
    """The thread; `post` takes what each look returns, on that thread."""

    def __init__(self, post: Callable[[Any], None]) -> None:
        self._post = post
        self._orders: SimpleQueue[Mapping[Any, tuple[float, Look]] | None] = SimpleQueue()
        self._due_at = math.inf
        self._thread = threading.Thread(target=self._run, name="looks", daemon=True)

    def start(self) -> None:
        """Start the thread; it waits for `look`."""
        self._thread.start()

    def look(self, looks: Mapping[Any, tuple[float, Look]]) -> None:
        """Make these looks from now on, each every so many seconds: a new one at once, a known one at its time."""
        self._orders.put(looks)

    def close(self) -> None:
        """End the thread after the look it is making; a look that hangs is left behind."""
        self._orders.put(None)

    def alive(self, now: float) -> bool:
        """Tell whether the thread lives and is not stuck in a look."""
        return self._thread.is_alive() and now < self._due_at + STUCK_S

    def _run(self) -> None:
        looks: Mapping[Any, tuple[float, Look]] = {}
        timetable = schedule.EMPTY
        try:
            while True:
                self._due_at = due_at = timetable.next_due
                try:
                    order = self._orders.get(timeout=None if due_at == math.inf else max(0, due_at - time.monotonic()))
                    if order is None:
                        return
                    looks = order
                    every_s = {key: period for key, (period, _) in looks.items()}
                    timetable = schedule.changed(timetable, every_s, time.monotonic())
                except Empty:
                    pass
                self._due_at = time.monotonic()
                due, timetable = schedule.take(timetable, self._due_at)
                for key in due:
                    self._post(looks[key][1]())
        except BaseException:  # a bug: the main thread must hear of it, whatever it is
            self._post(ThreadFailed("looks", traceback.format_exc()))
