"""The commands that messages are handed to: one at a time for each subscription, in the order in which they came in.

A message is for now: what waits is bounded, the oldest goes, and all of it is gone when iotd ends.
"""

from __future__ import annotations

import logging
import math
from collections import Counter, deque
from collections.abc import Callable, Hashable
from functools import partial
from itertools import count
from typing import Any, NamedTuple

from iotd.config import template
from iotd.host import log
from iotd.host.command import last_line, run
from iotd.incoming.handled import Handled
from iotd.incoming.section import Subscription
from iotd.vocabulary import Entry, Received

MAX_WAITING = 100
MAX_WAITING_BYTES = 8 << 20  # of payloads, which may have a megabyte each
REPORT_S = 60.0
ERROR_CHARACTERS = 1000

Start = Callable[[Hashable, Callable[[int], Any], Callable[[str], Any]], bool]


class Order(NamedTuple):
    """A message and the command for it."""

    topic: str
    arguments: tuple[str, ...]
    timeout_s: float
    payload: bytes


class Runs:
    """The commands of all subscriptions, by the filter; `start` runs work on a thread and tells whether it could."""

    def __init__(self, start: Start) -> None:
        self._start = start
        self._waiting: dict[str, deque[Order]] = {}
        self._running: set[str] = set()
        self._runs = count()
        self._dropped: Counter[tuple[str, str]] = Counter()
        self._report_at = -math.inf
        self._faults: dict[str, str] = {}  # the bugs that have been told

    def keep_only(self, filters: set[str]) -> None:
        """What waits for a subscription that is gone is gone as well."""
        self._waiting = {name: orders for name, orders in self._waiting.items() if name in filters}

    def heard(self, entry: Subscription, received: Received, now: float) -> None:
        """Hand a message to the command of its subscription, as soon as that has done with those before it."""
        try:
            arguments = _arguments(entry, received)
        except ValueError as error:
            log.warning("message.refused", f"the command is not run: {error}", topic=received.topic, reason=str(error))
            return
        waiting = self._waiting.setdefault(entry.filter, deque())
        waiting.append(Order(received.topic, arguments, entry.timeout_s, received.payload))
        self._go_on(entry.filter)
        while len(waiting) > MAX_WAITING:
            self._drop(entry.filter, waiting, f"more than {MAX_WAITING} wait")
        while len(waiting) > 1 and sum(len(order.payload) for order in waiting) > MAX_WAITING_BYTES:
            self._drop(entry.filter, waiting, f"more than {MAX_WAITING_BYTES >> 20} MB wait")
        self.report(now)

    def handled(self, event: Handled, now: float, go_on: bool) -> None:
        """Take the end of a command, and go on with the next message where that is not too late."""
        self._running.discard(event.filter)
        if event.traceback and self._faults.get(event.filter) != event.traceback:
            log.error("message.fault", "a bug in iotd: the command for a message could not be run", topic=event.topic,
                      traceback=event.traceback)
            self._faults[event.filter] = event.traceback
        if event.reason:
            log.warning("message.failed", f"the command failed: {event.reason}", topic=event.topic,
                        reason=event.reason, stderr=event.errors)
        else:
            log.write(Entry(logging.DEBUG, "message.done", "the command has done well", {"topic": event.topic}))
        if go_on:
            self._go_on(event.filter)

    def next_due(self) -> float:
        """Return when there is something to report, math.inf for never."""
        return self._report_at if self._dropped else math.inf

    def report(self, now: float) -> None:
        """Say what was dropped: at once, then what a minute has brought."""
        if self._dropped and now >= self._report_at:
            self._report_at = now + REPORT_S
            for (topic, reason), number in self._dropped.items():
                log.warning("message.dropped", "the oldest messages had to go, since the command is too slow for them",
                            topic=topic, count=number, reason=reason)
            self._dropped.clear()

    def _go_on(self, name: str) -> None:
        """Begin with the next message, where none is being handled."""
        waiting = self._waiting.get(name)
        while waiting and name not in self._running:
            order = waiting.popleft()
            # Its key is new each time: the thread of the last command may not be gone yet when that is.
            if self._start(("message", name, next(self._runs)), partial(perform, name, order),
                           partial(faulty, name, order)):
                self._running.add(name)
            else:
                log.warning("message.failed", "the command could not be run", topic=order.topic,
                            reason="iotd cannot start a thread for it", stderr="")

    def _drop(self, name: str, waiting: deque[Order], reason: str) -> None:
        waiting.popleft()
        self._dropped[name, reason] += 1


def perform(name: str, order: Order, stop: int | None = None) -> Handled:
    """Run the command and say how it ended; `stop` readable means give up."""
    ended = run(order.arguments, order.timeout_s, stop, given=order.payload, apart=True)
    return Handled(name, order.topic, ended.reason, ended.output[-ERROR_CHARACTERS:] if ended.reason else "")


def faulty(name: str, order: Order, text: str) -> Handled:
    """Return how a command has ended that ended in a bug; `text` is its traceback."""
    return Handled(name, order.topic, f"a bug in iotd: {last_line(text)}", traceback=text)


def _arguments(entry: Subscription, received: Received) -> tuple[str, ...]:
    """Return the arguments of the command for a message. Raises ValueError where the payload cannot be one."""
    payload = ""
    if "payload" in template.placeholders(list(entry.command)):
        try:
            payload = received.payload.decode("utf-8")
        except UnicodeDecodeError:
            raise ValueError("it is no UTF-8 text; read it from standard input instead of {payload}") from None
    return template.fill_command(entry.command, {"topic": received.topic, "payload": payload})
