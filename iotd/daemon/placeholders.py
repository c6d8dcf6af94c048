"""What the placeholders stand for at this moment; only what is asked for is looked up."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

from iotd.config.template import MOMENTS
from iotd.daemon.world import World
from iotd.host import facts
from iotd.vocabulary import Json


class Placeholders:
    """The values of every placeholder but {sequence} and {health}, which belong to one topic or shadow."""

    def __init__(self, world: World, run_id: str, boot_cause: str) -> None:
        self.of_settings: Mapping[str, Json] = {}
        self.of_parts: Mapping[str, Callable[[], Json]] = {}  # how to look up those of the parts that are there
        self._wall = world.wall
        self._passing: Mapping[str, Callable[[], Json]] = {  # what differs from one moment to the next
            "uptime": lambda: int(world.uptime()), "clock": lambda: "set" if world.wall_is_set() else "unset"}
        self._constant: Mapping[str, Json] = {
            "machine_id": world.identity.machine_id, "cpu_serial": world.identity.cpu_serial or None,
            "boot_id": world.boot_id, "run": run_id,
            "boot_cause": boot_cause}

    def values(self, names: Iterable[str]) -> dict[str, Json]:
        """Return the values now, None for a name that nobody knows: its part is not there."""
        at = self._wall()
        found: dict[str, Json] = {}
        for name in names:
            if name in MOMENTS:
                found[name] = MOMENTS[name](at)
            elif name in self._passing:
                found[name] = self._passing[name]()
            elif name in self._constant:
                found[name] = self._constant[name]
            elif name in self.of_parts:
                found[name] = self.of_parts[name]()
            elif name in facts.NAMES:
                found.update(facts.read([name]))
            else:
                found[name] = self.of_settings.get(name)
        return found
