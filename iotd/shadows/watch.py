"""The checks behind the health of shadows: when they are made, what they found, and what has turned."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Hashable, Mapping
from functools import partial
from typing import Any

from iotd import schedule
from iotd.daemon.part import Kernel
from iotd.host import log
from iotd.shadows import health
from iotd.shadows.findings import CheckResult
from iotd.shadows.health import Doubt, Verdict
from iotd.shadows.section import Check, Shadow
from iotd.vocabulary import Json

Start = Callable[[Hashable, Callable[[int], Any], Callable[[str], Any]], bool]


class Watch:
    """All checks of all shadows. `start` runs work on a thread (`Tasks.start`), the kernel takes each CheckResult."""

    def __init__(self, start: Start, kernel: Kernel) -> None:
        self._start = start
        self._kernel = kernel
        self._post = kernel.post
        self._shadows: tuple[Shadow, ...] = ()
        self._timetable = schedule.EMPTY
        self._results: dict[Check, CheckResult] = {}
        self._verdicts: dict[str | None, Verdict] = {}
        self._outside_since: dict[Check, float] = {}  # of the checks of values that are outside of their range
        self._faults: dict[Check, str] = {}  # the bugs that have been told

    def apply(self, shadows: tuple[Shadow, ...], now: float) -> None:
        """Make the checks of these shadows; a known one at its time, a new one at once."""
        checks = {entry.name: entry.checks for entry in self._shadows}
        # A check that was taken out has not recovered: what is known of other checks than these is forgotten.
        self._verdicts = {entry.name: self._verdicts[entry.name] for entry in shadows
                          if entry.name in self._verdicts and entry.checks == checks.get(entry.name)}
        self._shadows = shadows
        every_s = {check: check.every_s for entry in shadows for check in entry.checks}
        self._timetable = schedule.changed(self._timetable, every_s, now)
        self._results = {check: result for check, result in self._results.items() if check in every_s}
        self._outside_since = {check: at for check, at in self._outside_since.items() if check in every_s}
        self._faults = {check: fault for check, fault in self._faults.items() if check in every_s}

    def next_due(self) -> float:
        """Return when a check is due, math.inf for never."""
        return self._timetable.next_due

    def keep(self, now: float) -> None:
        """Make the checks that are due, those that may wait on threads of their own; none while its last one runs."""
        due, self._timetable = schedule.take(self._timetable, now)
        if due:
            from iotd.shadows import kinds
        for check in due:
            if kinds.KINDS[check.kind].look is None:
                self._kernel.gather([check.subject], partial(self._measured, check))
                continue
            if not kinds.KINDS[check.kind].quick:
                self._start(check, partial(kinds.make, check), partial(kinds.faulty, check))
                continue
            try:
                result = kinds.make(check)
            except Exception:
                result = kinds.faulty(check, traceback.format_exc())
            self._post(result)

    def _measured(self, check: Check, values: Mapping[str, Json]) -> None:
        """Judge a value that was measured."""
        now = self._kernel.world.monotonic()
        finding, since = health.within(check, values[check.subject], self._outside_since.get(check), now)
        if since is None:
            self._outside_since.pop(check, None)
        else:
            self._outside_since[check] = since
        self._post(CheckResult(check, *finding, now))

    def checked(self, result: CheckResult, now: float) -> list[int]:
        """Take the end of a check; return the shadows whose health it changes."""
        if result.check not in self._timetable.every_s:
            return []
        if result.traceback and result.traceback != self._faults.get(result.check):
            log.error("check.fault", f"a bug in iotd: {result.check.name} could not be made", check=result.check.name,
                      traceback=result.traceback)
            self._faults[result.check] = result.traceback
        self._results[result.check] = result
        changed = []
        for index, entry in enumerate(self._shadows):
            if result.check in entry.checks:
                before = self._verdicts.get(entry.name, Verdict())
                if health.changed(before, self._judge(entry, now)):
                    changed.append(index)
        return changed

    def judged(self, entry: Shadow, now: float) -> tuple[bool, Json]:
        """Return whether a shadow is healthy, and what it reports of its checks; log what has turned."""
        verdict = self._judge(entry, now)
        return verdict.healthy, health.reported(verdict)

    def _judge(self, entry: Shadow, now: float) -> Verdict:
        """Judge a shadow's health, and log what has turned."""
        old = self._verdicts.get(entry.name, Verdict())
        self._verdicts[entry.name] = new = health.judge(entry.checks, self._results, now)
        failed, recovered, unknown = health.turned(old, new)
        for doubt in failed:
            log.warning("check.failed", f"{doubt.name}: {doubt.reason}", **_fields(entry, doubt))
        for name in recovered:
            log.info("check.recovered", f"{name} is well again", shadow=entry.name, check=name)
        for doubt in unknown:
            log.warning("check.unknown", f"{doubt.name} says nothing: {doubt.reason}", **_fields(entry, doubt))
        if failed or recovered:
            self._kernel.status_changed()
        return new

    def status(self) -> list[Json]:
        """Return the shadows that have something to say, with what is not good."""
        return [{"shadow": name, **health.reported(verdict)} for name, verdict in self._verdicts.items()
                if verdict != Verdict()]

    def problems(self) -> list[str]:
        """Return what has failed, a sentence each."""
        return [f"check {doubt.name} has failed: {doubt.reason}"
                for verdict in self._verdicts.values() for doubt in verdict.failed]


def _fields(entry: Shadow, doubt: Doubt) -> dict[str, Json]:
    return {"shadow": entry.name, "check": doubt.name, "value": doubt.value, "reason": doubt.reason}
