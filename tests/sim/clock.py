"""Simulated time: what happens when, the clocks of a device that has none when it boots, and the inbox that waits."""

from __future__ import annotations

import heapq
import itertools
import math
from collections.abc import Callable
from typing import Any

EPOCH_S = 1_790_000_000.0
IMAGE_S = EPOCH_S - 200 * 86400.0  # the time of day that an image without any other begins with
GRAIN_S = 1e-5
SPINS = 5000  # turns in a row for nothing: the main loop would take the whole of a processor


class Died(BaseException):
    """The process is gone in the midst of what it did; nothing of it may catch this."""


class Spinning(Exception):
    """The main loop turns and turns, and there is nothing to do."""


class Schedule:
    """What happens when: a clock that goes on to the next event, never by itself."""

    def __init__(self) -> None:
        self.now = 0.0
        self._order = itertools.count()
        self._events: list[tuple[float, int, Callable[[], Any]]] = []

    def after(self, delay_s: float, do: Callable[[], Any]) -> None:
        """Have something done in so many seconds."""
        heapq.heappush(self._events, (self.now + delay_s, next(self._order), do))

    def next_at(self) -> float:
        """Return when the next event happens, math.inf for never."""
        return self._events[0][0] if self._events else math.inf

    def step(self) -> None:
        """Go on to the next event and have it happen."""
        self.now, _, do = heapq.heappop(self._events)
        do()


class Clock:
    """The clocks of the host. The monotonic one begins at each boot, the wall clock is wrong until it is set.

    `error_s` is by how much the wall clock is ahead of the truth, `drift` what that gains in a second.
    """

    def __init__(self, schedule: Schedule) -> None:
        self.is_set = True
        self.error_s = 0.0
        self.drift = 0.0
        self._schedule = schedule
        self._booted_at = 0.0
        self._set_at = 0.0

    def monotonic(self) -> float:
        """Return the seconds since this boot."""
        return self._schedule.now - self._booted_at

    def true(self) -> float:
        """Return the epoch seconds that everybody else believes in."""
        return EPOCH_S + self._schedule.now

    def wall(self) -> float:
        """Return the epoch seconds that the host believes in."""
        now = self._schedule.now
        return EPOCH_S + now + self.error_s + (now - self._set_at) * self.drift

    def boot(self, remembers: bool) -> None:
        """Begin anew, with the time of the shutdown or with that of the image, and unset."""
        before = self.wall() if remembers else IMAGE_S
        self._booted_at = self._set_at = self._schedule.now
        self.error_s, self.is_set = before - EPOCH_S - self._schedule.now, False

    def set(self, error_s: float = 0.0) -> None:
        """A time service sets the wall clock, right or so many seconds ahead."""
        self.error_s, self._set_at, self.is_set = error_s, self._schedule.now, True


class SimulatedInbox:
    """An inbox whose wait runs the schedule on. `gone` is set when its process has died."""

    def __init__(self, schedule: Schedule) -> None:
        self.events: list[Any] = []
        self.until = math.inf  # no wait goes on beyond it
        self.gone = False
        self._schedule = schedule
        self._spins = 0

    def put(self, event: Any) -> None:
        """Take an event."""
        self.events.append(event)

    def size(self) -> int:
        """Return how many wait."""
        return len(self.events)

    def take(self, timeout_s: float) -> list[Any]:
        """Return what has arrived, going on up to `timeout_s` for the first."""
        schedule, events = self._schedule, self.events
        # A turn takes a moment, so that no rounding keeps the time from passing.
        deadline = min(schedule.now + max(timeout_s, GRAIN_S), self.until)
        while not events and schedule.next_at() <= deadline:
            schedule.step()
            if self.gone:
                raise Died
        if not events:
            schedule.now = max(schedule.now, deadline)
        self._spins = self._spins + 1 if timeout_s <= 0.0 and not events else 0
        if self._spins > SPINS:
            raise Spinning(f"{SPINS} turns in a row for nothing")
        self.events = []
        return events
