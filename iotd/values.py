"""What the placeholders stand for at this moment; only what the templates ask for is looked up."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from datetime import datetime, timezone

from iotd import facts, host, template
from iotd.rescue import Rescue
from iotd.settings import Identity, Json, Settings

# What differs from one moment to the next, by the wall clock and what is known of the Wi-Fi.
_MOMENTS: Mapping[str, Callable[[float, Rescue], Json]] = {
    "timestamp": lambda at, wifi: int(at),
    "isotime": lambda at, wifi: datetime.fromtimestamp(at, timezone.utc).isoformat(timespec="milliseconds"),
    "uptime": lambda at, wifi: int(host.uptime_s()),
    "essid": lambda at, wifi: wifi.essid,
    "bssid": lambda at, wifi: wifi.reading and wifi.reading.bssid,
    "rssi": lambda at, wifi: wifi.reading and wifi.reading.rssi_dbm,
    "frequency": lambda at, wifi: wifi.reading and wifi.reading.frequency_mhz,
}


class Values:
    """The values of every placeholder but {sequence} and {health}, which belong to one topic or shadow."""

    def __init__(self, identity: Identity, boot_id: str, run_id: str, rescue: Rescue) -> None:
        self._constant: dict[str, Json] = {"hostname": identity.hostname, "machine_id": identity.machine_id,
                                           "boot_id": boot_id, "run": run_id}
        self._rescue = rescue
        self._facts: frozenset[str] = frozenset()
        self._moments: list[tuple[str, Callable[[float, Rescue], Json]]] = []

    def follow(self, settings: Settings) -> None:
        """Look up what the templates of these settings ask for, and nothing else."""
        trees = [entry.payload for entry in settings.publish]
        trees += [tree for entry in settings.shadows for tree in (entry.reported, entry.desired)]
        asked = template.placeholders(trees)
        self._constant["thing"] = settings.thing
        self._facts = template.FACTS & asked
        self._moments = [(name, moment) for name, moment in _MOMENTS.items() if name in asked]

    def now(self) -> dict[str, Json]:
        """Return the values at this moment."""
        at, values = time.time(), self._constant.copy()
        if self._facts:
            values.update(facts.read(self._facts))
        for name, moment in self._moments:
            values[name] = moment(at, self._rescue)
        return values
