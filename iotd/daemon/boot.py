"""Why this boot came, where iotd did not ask for it: what the one before left behind, or did not.

A run that ends in order leaves a mark, which the next boot takes away; a boot that finds none after others came of a
power cut, or of a host that hung. Nothing is written while iotd runs.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from iotd.daemon.world import Places
from iotd.host.files import Files

POWER, WATCHDOG, UNKNOWN = "power cut or hang", "watchdog", "unknown"
EARLY_S = 600.0  # an iotd that is started later than this after the boot was not there to see the last one end


class Boot:
    """What is known of how this boot came; `cause` is one of the three."""

    def __init__(self, places: Places, files: Files, boot_id: str, uptime_s: float,
                 by_watchdog: Callable[[], bool]) -> None:
        self._mark = places.state / "ended.json"
        self._files = files
        self._boot_id = boot_id
        seen, known = files.read_json(places.runtime / "boot.json"), (POWER, WATCHDOG, UNKNOWN)
        if isinstance(seen, dict) and seen.get("boot_id") == boot_id and seen.get("cause") in known:
            self.cause = str(seen["cause"])
        else:
            self.cause = self._judged(places.state, uptime_s, by_watchdog)
        files.keep(places.runtime / "boot.json", {"boot_id": boot_id, "cause": self.cause}, durable=False)
        if files.read_json(self._mark) is not None:
            files.remove(self._mark)

    def ended(self) -> None:
        """The run ends in order."""
        self._files.keep(self._mark, {"boot_id": self._boot_id}, durable=True)

    def _judged(self, state: Path, uptime_s: float, by_watchdog: Callable[[], bool]) -> str:
        """Judge by the files of the boots before this one."""
        if by_watchdog():
            return WATCHDOG
        try:
            self._files.read_text(state / "accepted.yaml")
        except (OSError, ValueError):  # no run before this one
            return UNKNOWN
        in_order = self._files.read_json(self._mark) is not None
        return UNKNOWN if in_order or uptime_s > EARLY_S else POWER
