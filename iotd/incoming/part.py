"""Logs what comes in on the subscriptions of the configuration, and hands it to their commands."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from iotd.config.settings import Settings
from iotd.daemon.part import Kernel, Part
from iotd.host import log
from iotd.incoming.handled import Handled
from iotd.incoming.section import Subscription
from iotd.mqtt import topics
from iotd.vocabulary import Received

if TYPE_CHECKING:
    from iotd.host.tasks import Tasks
    from iotd.incoming.runs import Runs

END_S = 2.0  # for the commands that run to be killed


def build(kernel: Kernel, adapters: None) -> Incoming:
    """Return the part."""
    return Incoming(kernel)


class Incoming(Part):
    """The subscriptions, the log line of each message, and what is run for it."""

    def __init__(self, kernel: Kernel) -> None:
        self._kernel = kernel
        self._subscriptions: tuple[Subscription, ...] = ()
        self._tasks: Tasks | None = None
        self._runs: Runs | None = None

    def apply(self, settings: Settings, now: float) -> None:
        """Let the settings take effect."""
        self._subscriptions = settings.sections["subscribe"]
        commands = {entry.filter for entry in self._subscriptions if entry.command}
        if commands and self._runs is None:
            from iotd.incoming.runs import Runs

            self._tasks = self._kernel.world.tasks(self._kernel.post)
            self._runs = Runs(self._tasks.start)
        if self._runs is not None:
            self._runs.keep_only(commands)

    def filters(self) -> dict[str, int]:
        """Return the filters with their QoS."""
        return {entry.filter: entry.qos for entry in self._subscriptions}

    def shared(self) -> tuple[str, ...]:
        """Return all of the filters."""
        return tuple(entry.filter for entry in self._subscriptions)

    def heard(self, received: Received, now: float) -> None:
        """Log the message, where it is on one of the filters, and run what is to be run for it."""
        matching = [entry for entry in self._subscriptions if topics.matches(entry.filter, received.topic)]
        if any(entry.log for entry in matching):
            log.info("message.received", "a message came in", topic=received.topic, qos=received.qos,
                     retain=received.retain, **log.readable(received.payload))
        if self._runs is not None and not self._kernel.leaving:
            for entry in matching:
                if entry.command and (entry.retained or not received.retain):
                    self._runs.heard(entry, received, now)

    def handlers(self) -> dict[type, Callable[[Any, float], None]]:
        """Return who takes the ends of commands."""
        return {Handled: self._handled}

    def next_due(self) -> float:
        """Return when there is something to report."""
        return self._runs.next_due() if self._runs is not None else math.inf

    def keep(self, now: float) -> None:
        """Report what is due."""
        if self._runs is not None:
            self._runs.report(now)

    def close(self, now: float) -> None:
        """Kill the commands that run; what waits is gone."""
        if self._tasks is not None:
            self._tasks.close(END_S)

    def _handled(self, event: Handled, now: float) -> None:
        """Take the end of a command; while the line is being left no other is begun."""
        if self._runs is not None:
            self._runs.handled(event, now, go_on=not self._kernel.leaving)
