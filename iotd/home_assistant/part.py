"""What Home Assistant is told of this device: the announcement when it is owed, and the state of its own entities."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from functools import partial
from hashlib import sha256
from typing import Any

from iotd.config.settings import Settings
from iotd.daemon.part import Kernel, Part
from iotd.home_assistant import announcing, discovery
from iotd.home_assistant.announcing import Announcing
from iotd.vocabulary import HealthChanged, Json, Message, Received

FILE = "home_assistant.json"  # in the state directory: what the broker has taken last
STATE_S = 60.0
STATE_PAUSE_S = 1.5  # AWS IoT Core takes one retained message a second for a topic, as they arrive
OBSERVED = ("uptime", "rssi", "temperature")


def build(kernel: Kernel, adapters: Any) -> HomeAssistantPart:
    """Return the part; it knows what an earlier run has announced."""
    return HomeAssistantPart(kernel)


class HomeAssistantPart(Part):
    """The announcement and the state."""

    def __init__(self, kernel: Kernel) -> None:
        self._kernel = kernel
        self._settings = kernel.written
        self._file = kernel.world.places.state / FILE
        told = kernel.world.files.read_json(self._file)
        self._standing: Mapping[str, Json] = told if isinstance(told, dict) else {}
        facts = kernel.values(("model", "cpu_serial", "temperature"))
        self._about = discovery.About(facts["model"], facts["cpu_serial"], facts["temperature"] is not None)
        self._announcing = Announcing()
        self._state_at, self._told_at = math.inf, -math.inf
        self._is_waiting = False  # for the broker to acknowledge what was sent: one at a time

    def apply(self, settings: Settings, now: float) -> None:
        """Let the settings take effect."""
        self._settings = settings
        if self._digest() != self._standing.get("digest"):
            self._owe(now)

    def filters(self) -> dict[str, int]:
        """Return where Home Assistant says that it is there."""
        return {discovery.birth_topic(self._prefix): 0}

    def session_lost(self, now: float) -> None:
        """The broker has perhaps lost the announcement too."""
        self._owe(now)

    def opened(self, now: float, careful: bool, resting: Any) -> None:
        """The line is up: say how it is, and announce it where that was cleared, or may be where no session is kept."""
        self._is_waiting = False
        self._state_at = now
        if self._settings.mqtt.clean_session or not self._kernel.is_retained(self._topic):
            self._owe(now)

    def closed(self, blamed: bool, now: float) -> None:
        """The line is down."""
        self._state_at = math.inf

    def heard(self, received: Received, now: float) -> None:
        """Answer Home Assistant's birth message."""
        if received.topic == discovery.birth_topic(self._prefix) and received.payload == b"online":
            self._announcing = announcing.born(self._announcing, self._kernel.world.chance(), now)

    def handlers(self) -> Mapping[type, Callable[[Any, float], None]]:
        """Return who takes that a problem has come or gone."""
        return {HealthChanged: self._on_health_changed}

    def next_due(self) -> float:
        """Return when something is to be said."""
        if not self.is_open or self._is_waiting or not self._kernel.clear:
            return math.inf
        return min(self._announcing.due_at, self._state_at)

    def keep(self, now: float) -> None:
        """Say what is due, one after the other, so that the broker can be asked which of them it denies."""
        if now < self.next_due():
            return
        self._is_waiting = True
        if now >= self._announcing.due_at:
            self._announcing = announcing.said(self._announcing, now)
            digest, announced = self._digest(), self._announced(self._left())
            self._send(self._topic, announced, partial(self._answered, digest, announced))
        else:
            self._state_at, self._told_at = now + STATE_S, now
            problems = self._kernel.status().get("problems", [])
            body = discovery.state(self._settings, self._about, problems, self._kernel.values(OBSERVED))
            self._send(discovery.state_topic(self._prefix, self._settings.thing), body, self._went)

    @property
    def _prefix(self) -> str:
        return str(self._settings.sections["home_assistant"].discovery)

    @property
    def _topic(self) -> str:
        return discovery.topic(self._prefix, self._settings.thing)

    def _announced(self, left: Mapping[str, str] = {}) -> dict[str, Json]:
        return discovery.announcement(self._settings, self._about, left)

    def _digest(self) -> str:
        """Return what tells this announcement from another one, that of another topic included."""
        body = json.dumps([self._topic, self._announced()], ensure_ascii=False)
        return sha256(body.encode("utf-8", "backslashreplace")).hexdigest()

    def _left(self) -> dict[str, str]:
        """Return the components that the broker was told of last, and that are not there any more."""
        told = self._standing.get("components")
        if self._standing.get("topic") != self._topic or not isinstance(told, dict):
            return {}
        known = discovery.platforms(self._announced())
        return {name: platform for name, platform in told.items()
                if name not in known and platform in discovery.PLATFORMS}

    def _owe(self, now: float) -> None:
        self._announcing = announcing.owed(self._announcing, now)

    def _send(self, topic: str, body: Json, then: Callable[[str], None]) -> None:
        payload = json.dumps(body, ensure_ascii=False).encode("utf-8", "backslashreplace")
        self._kernel.send(Message(topic, payload, 1, True), then)

    def _went(self, why: str) -> None:
        self._is_waiting = False

    def _answered(self, digest: str, announced: Mapping[str, Json], why: str) -> None:
        """The broker has taken the announcement, or has not."""
        self._is_waiting = False
        if why:
            now = self._kernel.world.monotonic()
            self._announcing = announcing.failed(self._announcing, self._kernel.connected, now)
            return
        platforms = {name: component["platform"] for name, component in announced["components"].items()
                     if "unique_id" in component}
        self._standing = {"topic": self._topic, "digest": digest, "components": platforms}
        self._kernel.world.files.keep(self._file, self._standing, durable=True)

    def _on_health_changed(self, event: HealthChanged, now: float) -> None:
        if self.is_open:
            self._state_at = min(self._state_at, max(now, self._told_at + STATE_PAUSE_S))
