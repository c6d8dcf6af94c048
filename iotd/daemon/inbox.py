"""The inbox of the main loop: everything that happens is put here, from any thread or signal handler."""

from __future__ import annotations

from queue import Empty, SimpleQueue
from typing import Any

EVENTS_PER_TURN = 256


class Inbox:
    """A queue whose reader takes all that has arrived at once."""

    def __init__(self) -> None:
        self._queue: SimpleQueue[Any] = SimpleQueue()
        self.put = self._queue.put
        self.size = self._queue.qsize

    def take(self, timeout_s: float) -> list[Any]:
        """Return what has arrived, waiting up to `timeout_s` for the first."""
        try:
            first = self._queue.get(timeout=timeout_s)
        except Empty:
            return []
        return [first, *(self._queue.get_nowait() for _ in range(min(self.size(), EVENTS_PER_TURN)))]
