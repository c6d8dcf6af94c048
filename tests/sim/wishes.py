"""A user of the cloud who desires things, takes them back, and deletes shadows."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from iotd.vocabulary import Json

if TYPE_CHECKING:
    from tests.sim.world import Simulation

THING = "pi"
INTERVALS: tuple[Json, ...] = ("10m", "20m", "30m", "15m", "0s", "fast", 7, None)


class Wish(NamedTuple):
    """One change of what is desired, at the true time `at`; the value None takes it back."""

    at: float
    shadow: str | None
    key: str
    value: Json


class Wishes:
    """All that was desired so far; `count` is how often anything was."""

    def __init__(self, simulation: Simulation) -> None:
        self.made: list[Wish] = []
        self._simulation = simulation
        self.count = 0

    def wish(self, way: float) -> None:
        """Desire something new, of a key that has an action or of one that has none."""
        found = self._actions()
        if not found:
            return
        shadow, key = found[int(way * 997) % len(found)]
        self.count += 1
        values: list[Json] = [self.count, f"text {self.count}", {"deep": {"er": self.count, "b": [1, None]}},
                              [self.count, True], -self.count / 3, f"{self.count} {'long' * 1200}",
                              [[[[[[[[[self.count]]]]]]]]]]
        value = INTERVALS[int(way * 8)] if key == "every" else values[int(way * 7919) % len(values)]
        if isinstance(value, dict) and way > 0.5:
            value = {"deep": {"er": self.count}, "nothing": None}
        self._desire(shadow, key, value)

    def overrule(self, way: float) -> None:
        """Another program reports a key that has an action."""
        found = [(name, key) for name, key in self._actions() if key != "unknown"]
        if found:
            shadow, key = found[int(way * len(found))]
            self.count += 1
            self._simulation.broker.shadows.write(THING, shadow, {"reported": {key: f"another's {self.count}"}})

    def take_back(self, way: float) -> None:
        """Take the newest wish back, or one of the newest."""
        standing = [wish for wish in self.made[-5:] if wish.value is not None]
        if standing:
            wish = standing[int(way * len(standing))]
            self._desire(wish.shadow, wish.key, None)

    def delete(self, way: float) -> None:
        """Delete a shadow."""
        found = self._shadows()
        if found:
            name = found[int(way * len(found))]
            self._simulation.broker.shadows.delete(THING, name)
            for key in {wish.key for wish in self.made if wish.shadow == name}:
                self.made.append(Wish(self._simulation.schedule.now, name, key, None))

    def _desire(self, shadow: str | None, key: str, value: Json) -> None:
        if self._simulation.broker.shadows.desire(THING, shadow, {key: value}):  # what it does not take is no wish
            self.made.append(Wish(self._simulation.schedule.now, shadow, key, value))

    def _entries(self) -> Any:
        daemon = self._simulation.daemon
        return () if daemon is None else daemon.settings.sections.get("shadows", ())

    def _shadows(self) -> list[str | None]:
        return [entry.name for entry in self._entries()]

    def _actions(self) -> list[tuple[str | None, str]]:
        return [(entry.name, key) for entry in self._entries() for key in (*entry.on_delta, "unknown")]
