"""What holds of the device: orders once, careful recovery, a fed watchdog, a quiet log, bounded memory, and no bug."""

from __future__ import annotations

import gc
import json
from collections import deque
from typing import Any

from iotd.vocabulary import Json
from iotd.wifi.reading import Reading
from tests.sim.device import FEED_S
from tests.sim.judge import Invariant, Judge
from tests.sim.session import SimulatedSession

DAY_S = 86400.0
DRIFT_S = 700.0  # by how much a clock that drifts may be wrong about a day
WATCHDOG_S = 4 * FEED_S
LINES_A_DAY, LINES_A_FAULT = 900, 1500  # what is dropped is told every ten minutes for each topic
LINES_A_WISH = 5  # what the cloud desires is told, and what becomes of it
OBJECTS = 20_000  # within reach of a daemon whose backlog is empty
PRIVATE = ("iotd", "every")  # keys of a report that are not an order's


class Orders(Invariant):
    """Each order is carried out once, and told."""

    name = "orders"
    says = ("A command is run once for each wish, never for one that was taken back while the device was away, not"
            " again after it was cut off, and what became of it stands in the shadow")

    def __init__(self, judge: Judge) -> None:
        super().__init__(judge)
        self._done: set[tuple[str | None, str, str, int]] = set()  # with how often it was desired by then
        self._begun: dict[tuple[str | None, str, str, int], int] = {}  # in which run
        self._line_at = 0.0
        self._forgotten = 0.0

    def dialled(self, session: SimulatedSession) -> None:
        """A line begins: what was desired before that may not be desired any more."""
        self._line_at = self.now

    def performed(self, shadow: str | None, key: str, value: Json) -> None:
        """Judge a command that begins."""
        text = json.dumps(value, sort_keys=True)
        wished = [wish for wish in self.simulation.wishes.made if (wish.shadow, wish.key) == (shadow, key)]
        times = sum(_says(wish.value) == text for wish in wished)
        if not times:
            return self.broken(f"{key} of {shadow} is done with {text}, which nobody desired")
        name = (shadow, key, text, times)
        if name in self._done:
            self.broken(f"{key} of {shadow} is done with {text} once more")
        if self._begun.get(name, self.simulation.runs) != self.simulation.runs:
            self.broken(f"{key} of {shadow} is done with {text} although a run ended over it")
        self._begun[name] = self.simulation.runs
        session = self.simulation.session
        if session is not None and session.up and not self._desired_on_this_line(wished, text):
            self.broken(f"withdrawn: {key} of {shadow} is done with {text}, which was not desired any more when the"
                        " line came up")

    def performed_well(self, shadow: str | None, key: str, value: Json) -> None:
        """Note that it is done."""
        text = json.dumps(value, sort_keys=True)
        times = sum(_says(wish.value) == text for wish in self.simulation.wishes.made
                    if (wish.shadow, wish.key) == (shadow, key))
        self._done.add((shadow, key, text, times))
        self._begun.pop((shadow, key, text, times), None)

    def logged(self, entry: dict[str, Any]) -> None:
        """Note that one has failed: it has ended, and no run ends over it; and what no configuration has any more."""
        if entry["event"] in ("daemon.started", "daemon.reloaded"):
            self._forget_what_left()
        if entry["event"] == "desired.failed":
            self._begun = {name: run for name, run in self._begun.items()
                           if name[:2] != (entry["shadow"], entry["key"]) or run != self.simulation.runs}

    def rebooted(self) -> None:
        """What an overlay forgets is not known any more."""
        if self.simulation.disk.overlay:
            self._done.clear()
            self._begun.clear()

    def _forget_what_left(self) -> None:
        """An action that is taken out of the configuration and put back begins anew with what is desired."""
        daemon = self.simulation.daemon
        here = {(entry.name, key) for entry in daemon.settings.sections.get("shadows", ())
                for key in entry.on_delta} if daemon is not None else set()
        self._done = {name for name in self._done if name[:2] in here}

    def owed(self) -> str:
        """Return an order of which nothing is told."""
        daemon = self.simulation.daemon
        for entry in daemon.settings.sections.get("shadows", ()) if daemon is not None else ():
            state = self.simulation.broker.shadows.state("pi", entry.name)
            desired, reported = state.get("desired", {}), state.get("reported", {})
            failed = {known["key"] for known in reported.get("iotd", {}).get("orders", {}).get("failed", ())}
            for key in entry.on_delta:
                if key in desired and key not in failed and _text(desired[key]) != _text(reported.get(key)):
                    return (f"{self.rests()}{entry.name} desires {key} {desired[key]!r} and reports"
                            f" {reported.get(key)!r}")
        return ""

    def _desired_on_this_line(self, wished: list[Any], text: str) -> bool:
        standing = ""
        for wish in wished:
            if wish.at <= self._line_at:
                standing = _says(wish.value)
            elif _says(wish.value) == text:
                return True
        return standing == text


class Reports(Invariant):
    """Each shadow is born, and tells how the device is."""

    name = "reports"
    says = "Each shadow tells how the device is, within its interval"

    def owed(self) -> str:
        """Return a shadow that tells something else."""
        daemon = self.simulation.daemon
        for entry in daemon.settings.sections.get("shadows", ()) if daemon is not None else ():
            reported = self.simulation.broker.shadows.state("pi", entry.name).get("reported", {})
            if reported.get("state") != entry.healthy:
                return f"{self.rests()}{entry.name} reports {reported.get('state')!r} and all is well"
        return ""


class Careful(Invariant):
    """Recovery goes by what was seen, spends no more reboots than there are, and cuts no line."""

    name = "recovery"
    says = ("A recovery step follows a grace of wrong readings, never an unknown one, and cuts no line by restarting"
            " the network or the host; in any day there are no more reboots than max_per_day, and where a reboot"
            " forgets their count none before the Wi-Fi was right in this boot")

    def __init__(self, judge: Judge) -> None:
        super().__init__(judge)
        self._reading: Reading | None = None
        self._wrong_since: float | None = None
        self._reboots: deque[float] = deque()
        self._right_in_this_boot = False

    def looked(self, reading: Reading) -> None:
        """Note what was seen."""
        self._reading = reading
        right = reading.outcome == "associated" and reading.ssid == b"fleet-ap"
        if right:
            self._wrong_since, self._right_in_this_boot = None, True
        elif reading.outcome != "unknown" and self._wrong_since is None:
            self._wrong_since = self.now

    def started(self, daemon: Any) -> None:
        """A run begins to count anew."""
        self._wrong_since = None

    def rebooted(self) -> None:
        """A boot begins."""
        self._right_in_this_boot = False

    def requested(self, verb: str) -> None:
        """Judge a step."""
        daemon, simulation = self.simulation.daemon, self.simulation
        wifi = daemon.settings.sections.get("wifi") if daemon is not None else None
        if wifi is None:
            return self.broken(f"{verb} was asked for without a section wifi")
        if self._reading is None or self._reading.outcome == "unknown" or self._wrong_since is None:
            return self.broken(f"{verb} was asked for when the last look said {self._reading}")
        if self.now - self._wrong_since < wifi.grace_s - 1.0:
            self.broken(f"{verb} was asked for after {self.now - self._wrong_since:.0f} s, the grace is {wifi.grace_s}")
        if verb in ("restart-network", "reboot") and simulation.session is not None and simulation.session.up:
            self.broken(f"{verb} was asked for with a line")
        if verb == "reboot":
            self._reboot(wifi)

    def _reboot(self, wifi: Any) -> None:
        simulation = self.simulation
        uptime_s = simulation.clock.monotonic()
        if simulation.air.other_route:
            self.broken("a reboot was asked for though another route leads out")
        if uptime_s < wifi.reboot.min_uptime_s:
            self.broken(f"a reboot was asked for {uptime_s:.0f} s after the last boot")
        if simulation.disk.overlay:
            if not self._right_in_this_boot:
                self.broken("a reboot was asked for that would be forgotten, and the Wi-Fi was not right in this boot")
            return
        while self._reboots and self._reboots[0] <= self.now - DAY_S + DRIFT_S:
            self._reboots.popleft()
        self._reboots.append(self.now)
        most = max(profile.wifi.max_per_day for profile in self.plan.profiles if profile.wifi is not None)
        if len(self._reboots) > most:
            self.broken(f"{len(self._reboots)} reboots within a day, {most} are allowed")


class Fed(Invariant):
    """The watchdog is fed."""

    name = "watchdog"
    says = "While the process runs and no thread hangs, systemd's watchdog is fed within its time"

    def __init__(self, judge: Judge) -> None:
        super().__init__(judge)
        self._at = 0.0
        self._due_s = WATCHDOG_S

    def started(self, daemon: Any) -> None:
        """A run begins."""
        self._at, self._due_s = self.now, WATCHDOG_S

    def fed(self) -> None:
        """Compare with the last time."""
        hung = any(fault.at_s <= self.now and fault.at_s + fault.for_s + WATCHDOG_S >= self._at
                   for fault in self.plan.faults if fault.kind in ("looks hang", "thread hangs"))
        if self.now - self._at > self._due_s and not hung:
            self.broken(f"not fed for {self.now - self._at:.0f} s")
        self._at = self.now
        self._due_s = 4 * self.simulation.systemd.feed_every_s


class Quiet(Invariant):
    """The log is bounded."""

    name = "log"
    says = "The log has at most so many lines a day, and so many more for each fault and each wish of the cloud's"

    def __init__(self, judge: Judge) -> None:
        super().__init__(judge)
        self._lines = self._wishes = 0
        self._from = 0.0

    def logged(self, entry: dict[str, Any]) -> None:
        """Count; messages that come in are asked for, and so is what debug says."""
        if entry["level"] == "debug" or entry["event"] == "message.received":
            return
        if self.now - self._from > DAY_S:
            self._from, self._lines, self._wishes = self.now, 0, self.simulation.wishes.count
        self._lines += 1
        if self._lines % 50:
            return
        faults = sum(1 for fault in self.plan.faults if fault.at_s <= self.now <= fault.at_s + fault.for_s + 2 * DAY_S)
        wishes = self.simulation.wishes.count - self._wishes
        if self._lines > LINES_A_DAY + LINES_A_FAULT * faults + LINES_A_WISH * wishes:
            self.broken(f"{self._lines} lines within {self.now - self._from:.0f} s, with {faults} faults; the last is"
                        f" {entry['event']}")


class Small(Invariant):
    """Memory is bounded."""

    name = "memory"
    says = "After a life, with nothing waiting, the objects of the daemon are no more than so many"

    def finish(self) -> None:
        """Count all that the daemon holds on to."""
        daemon = self.simulation.daemon
        seen: set[int] = set()
        todo: list[Any] = [daemon._line, daemon._parts, daemon.outages] if daemon is not None else []
        while todo and len(seen) <= 20 * OBJECTS:
            thing = todo.pop()
            if id(thing) in seen or not _is_own(thing):
                continue
            seen.add(id(thing))
            todo += gc.get_referents(thing)
        if len(seen) > OBJECTS:
            self.broken(f"{len(seen)} objects")


class Sound(Invariant):
    """There is no bug."""

    name = "bug"
    says = "No exception ends the process, or what a part was at, and the main loop never turns without end"

    def logged(self, entry: dict[str, Any]) -> None:
        """A bug that was kept from ending more is one all the same; a thread that fails is a kind of fault."""
        if entry["event"].endswith(".fault") and entry["event"] != "daemon.fault":
            self.broken(entry["traceback"].strip())

    def failed(self, trace: str) -> None:
        """Say it with its traceback."""
        self.broken(trace.strip())


def _says(value: Json) -> str:
    """Return a wish as the service keeps it: a null in an object takes the key out."""
    return json.dumps(_whole(value), sort_keys=True)


def _whole(value: Json) -> Json:
    if isinstance(value, dict):
        return {key: _whole(below) for key, below in value.items() if below is not None}
    return value


def _text(value: Json) -> str:
    return json.dumps(value, sort_keys=True)


def _is_own(thing: Any) -> bool:
    """Tell whether a thing is state of the daemon: not code, not what the simulation itself is made of."""
    kind = type(thing)
    return kind.__module__.startswith("iotd.") or kind in (dict, list, tuple, set, frozenset, deque) or issubclass(
        kind, (dict, tuple))


DEVICE = (Orders, Reports, Careful, Fed, Quiet, Small, Sound)
