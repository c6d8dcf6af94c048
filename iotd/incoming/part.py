"""Logs what comes in on the subscriptions of the configuration."""

from __future__ import annotations

from iotd.config.settings import Settings
from iotd.daemon.part import Kernel, Part
from iotd.host import log
from iotd.incoming.section import Subscription
from iotd.mqtt import topics
from iotd.vocabulary import Received


def build(kernel: Kernel, adapters: None) -> Incoming:
    """Return the part."""
    return Incoming()


class Incoming(Part):
    """The subscriptions, and the log line of each message."""

    def __init__(self) -> None:
        self._subscriptions: tuple[Subscription, ...] = ()

    def apply(self, settings: Settings, now: float) -> None:
        """Let the settings take effect."""
        self._subscriptions = settings.sections["subscribe"]

    def filters(self) -> dict[str, int]:
        """Return the filters with their QoS."""
        return {entry.filter: entry.qos for entry in self._subscriptions}

    def shared(self) -> tuple[str, ...]:
        """Return all of the filters."""
        return tuple(entry.filter for entry in self._subscriptions)

    def heard(self, received: Received, now: float) -> None:
        """Log the message, where it is on one of the filters."""
        if any(topics.matches(entry.filter, received.topic) for entry in self._subscriptions):
            log.info("message.received", "a message came in", topic=received.topic, qos=received.qos,
                     retain=received.retain, **log.readable(received.payload))
