"""Names the layer that fails when the line has been down for long; what it judges by is loaded only then."""

from __future__ import annotations

import math

from iotd.config.settings import Settings
from iotd.daemon.part import Kernel, Part
from iotd.host import log
from iotd.vocabulary import Json

LONG_S = 300.0  # before a line that is down is judged, and from one judgement to the next


def build(kernel: Kernel, adapters: None) -> Doctor:
    """Return the part."""
    return Doctor(kernel)


class Doctor(Part):
    """Judges what the daemon knows."""

    def __init__(self, kernel: Kernel) -> None:
        self._kernel = kernel
        self._essid: tuple[str, ...] = ()
        self._verdict: Json = None
        self._judged_at = math.inf

    def apply(self, settings: Settings, now: float) -> None:
        """Take the networks that are right."""
        self._essid = getattr(settings.sections.get("wifi"), "essid", ())

    def next_due(self) -> float:
        """Return when the line has been down for long, or was last judged long ago."""
        since = None if self._kernel.connected else self._kernel.outages.since
        if since is None:
            return math.inf
        return (since if self._verdict is None else self._judged_at) + LONG_S

    def keep(self, now: float) -> None:
        """Judge what is known of a time without a line; what has not changed since is not told again."""
        if self._kernel.connected:
            self._verdict = None
        elif now >= self.next_due():
            self._judged_at = now
            self._judge()

    def status(self) -> dict[str, Json]:
        """Return the verdict, None where there is none."""
        return {"verdict": self._verdict}

    def _judge(self) -> None:
        from iotd.doctor import rows
        from iotd.doctor.facts import Clock, Facts
        from iotd.doctor.known import known

        world = self._kernel.world
        findings = rows.judge(Facts(
            **known(self._kernel.status(), self._essid), clock=Clock(world.wall(), world.wall_is_set(), 0.0)))
        cause = rows.cause(findings)
        if cause is None:  # a line that is being dialled for the first time, for long
            self._verdict = {}
            return
        before, self._verdict = self._verdict, {"layer": cause.layer, "finding": cause.finding, "fix": cause.fix}
        self._kernel.outages.judged(cause.layer)
        if before is None or before.get("layer") != cause.layer:
            log.warning("doctor.verdict", f"not connected for long: {cause.layer}: {cause.finding}", **self._verdict)
        self._kernel.status_changed()
