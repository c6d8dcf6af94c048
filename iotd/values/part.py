"""The values as the main thread sees them: when each is read, how it stands, and who waits for it."""

from __future__ import annotations

import math
import traceback
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from itertools import count
from typing import Any, NamedTuple

from iotd import schedule
from iotd.config.settings import Settings
from iotd.daemon.part import Kernel, Part
from iotd.host import log
from iotd.values import reading, sources, standing
from iotd.values.reading import Missing, Reading
from iotd.values.section import Value
from iotd.values.standing import Standing
from iotd.vocabulary import Changed, Json

END_S = 2.0  # for the commands that run to be killed


class Adapters(NamedTuple):
    """How a value is read; a file descriptor tells when to give up."""

    read: Callable[[Value, int | None], Reading] = sources.read


class Wait(NamedTuple):
    """Somebody who waits: for which readings, and what is asked for once they have ended."""

    values: set[Value]
    names: tuple[str, ...]
    then: Callable[[Mapping[str, Json]], None]


def build(kernel: Kernel, adapters: Adapters | None) -> Values:
    """Return the part."""
    return Values(kernel, adapters or Adapters())


class Values(Part):
    """All values by their names."""

    def __init__(self, kernel: Kernel, adapters: Adapters) -> None:
        self._kernel = kernel
        self._world = kernel.world
        self._read = adapters.read
        self._tasks = kernel.world.tasks(kernel.post)
        self._values: dict[str, Value] = {}
        self._standings: dict[str, Standing] = {}
        self._timetable = schedule.EMPTY
        self._running: dict[Value, float] = {}  # until when each is waited for, math.inf for one that is late
        self._runs = count()
        self._waits: list[Wait] = []
        self._changed: set[str] = set()
        self._ends_at = math.inf
        self._unwritable = False
        self._faults: dict[Value, str] = {}  # the bugs that have been told

    def apply(self, settings: Settings, now: float) -> None:
        """Let the settings take effect; a value that is read in another way than before begins anew."""
        old, self._values = self._values, {value.name: value for value in settings.sections["values"]}
        before, self._standings = self._standings, {}
        for name, value in self._values.items():
            if old.get(name) == value:
                self._standings[name] = before[name]
            else:
                self._standings[name] = standing.start(value)
                self._take_up(value, now)
        self._timetable = schedule.changed(self._timetable, {
            value: value.every_s for value in self._values.values() if value.every_s is not None}, now)
        self._release([value for name, value in old.items() if self._values.get(name) != value])

    def fetch(self, names: Iterable[str], then: Callable[[Mapping[str, Json]], None]) -> bool:
        """Read what has to be read for these names, and give them to `then` once that is done."""
        own = {name: value for name in names if (value := self._values.get(name.partition(".")[0])) is not None}
        if not own:
            return False
        now = self._world.monotonic()
        awaited = {value for value in dict.fromkeys(own.values()) if self._is_awaited(value, now)}
        if awaited:
            self._waits.append(Wait(awaited, tuple(own), then))
        else:
            then(self._found(own))
        return True

    def tell(self, name: str, value: Json, now: float) -> str | None:
        """Take what a program tells."""
        known = self._values.get(name)
        if known is None:
            return None
        if known.source != "socket":
            return f"{name} is read from a {known.source}; only a value with socket: true can be told"
        try:
            told = reading.of_told(known, value)
        except Missing as why:
            return f"{name} cannot be told that: {why}"
        self._take(Reading(known, told, "null was told" if told is None else ""), now)
        self._write_down(known, value)
        self._announce()
        return ""

    def handlers(self) -> dict[type, Callable[[Any, float], None]]:
        """Return who takes the readings that threads have made."""
        return {Reading: self._ended}

    def next_due(self) -> float:
        """Return when there is something to do."""
        return min(self._timetable.next_due, self._ends_at, *self._running.values())

    def keep(self, now: float) -> None:
        """Read what is due, wait no longer for what is late, and take what is too old for no value."""
        due, self._timetable = schedule.take(self._timetable, now)
        for value in due:
            self._begin(value, now)
        for value, until in list(self._running.items()):
            if until <= now:
                self._running[value] = math.inf
                self._take(Reading(value, None, f"did not end within {value.timeout_s:g} s"), now)
        if now >= self._ends_at:
            self._look_for_old(now)
        self._announce()

    def settle(self, now: float) -> None:
        """Let nobody wait any longer: what waits for a value is to be kept now."""
        awaited = {value for wait in self._waits for value in wait.values}
        for value in awaited:
            self._standings[value.name] = Standing(reason="iotd ends")
        self._release(awaited)

    def close(self, now: float) -> None:
        """Let nobody wait any longer, and kill the commands that run."""
        self.settle(now)
        self._tasks.close(END_S)

    def status(self) -> dict[str, Json]:
        """Return each value, its age, and why there is none."""
        now = self._world.monotonic()
        return {"values": {name: standing.shown(found, now) for name, found in self._standings.items()}}

    def sentences(self) -> list[str]:
        """Return the same for a person."""
        now = self._world.monotonic()
        return [standing.sentence(name, found, now) for name, found in self._standings.items()]

    def _is_awaited(self, value: Value, now: float) -> bool:
        """Have the value read, where that has to be done for who asks now; tell whether it takes a while."""
        if value.source == "socket" or value.every_s is not None and self._standings[value.name].at is not None:
            return False
        return self._begin(value, now)

    def _begin(self, value: Value, now: float) -> bool:
        """Read the value; tell whether its end is still to come. One that runs is never begun twice."""
        if not value.may_wait:
            try:
                found = self._read(value, None)
            except Exception:
                found = reading.faulty(value, traceback.format_exc())
            self._take(found, now)
            return False
        if value not in self._running:
            # Its key is new each time: the thread of the last reading may not be gone yet when that is.
            if not self._tasks.start(("value", value.name, next(self._runs)), partial(self._read, value),
                                     partial(reading.faulty, value)):
                self._take(Reading(value, None, "iotd cannot start a thread for it"), now)
                return False
            self._running[value] = now + value.timeout_s
        return self._running[value] < math.inf

    def _ended(self, found: Reading, now: float) -> None:
        """Take the end of a reading."""
        self._running.pop(found.value, None)
        self._take(found, now)
        self._announce()

    def _take(self, found: Reading, now: float) -> None:
        """Note how a value stands after a reading, say what has turned, and go on with who waits for it.

        One of a value that is read in another way by now, or not at all, is of no use.
        """
        value = found.value
        if self._values.get(value.name) != value:
            return
        if found.traceback and self._faults.get(value) != found.traceback:
            log.error("value.fault", f"a bug in iotd: {value.name} could not be read", value=value.name,
                      traceback=found.traceback)
            self._faults[value] = found.traceback
        old = self._standings[value.name]
        self._stand(value, old, *standing.taken(old, found, now))
        if self._waits:
            self._release([value])

    def _stand(self, value: Value, old: Standing, new: Standing, entry: Any) -> None:
        self._standings[value.name] = new
        self._ends_at = min(self._ends_at, new.until)
        if entry is not None:
            log.write(entry)
        if value.stands and standing.differs(old.data, new.data):
            self._changed.add(value.name)

    def _look_for_old(self, now: float) -> None:
        self._ends_at = math.inf
        for name, old in list(self._standings.items()):
            value = self._values[name]
            self._stand(value, old, *standing.kept(old, value, now))

    def _announce(self) -> None:
        if self._changed:
            self._kernel.post(Changed(frozenset(self._changed)))
            self._changed.clear()

    def _release(self, values: Iterable[Value]) -> None:
        """Wait no longer for these, and give what there is to those who waited for nothing else."""
        for wait in self._waits:
            wait.values.difference_update(values)
        ready = [wait for wait in self._waits if not wait.values]
        self._waits = [wait for wait in self._waits if wait.values]
        for wait in ready:
            wait.then(self._found(wait.names))

    def _found(self, names: Iterable[str]) -> dict[str, Json]:
        found: dict[str, Json] = {}
        for name in names:
            head, *members = name.split(".")
            stands = self._standings.get(head, Standing())
            found[name] = reading.member(stands.data, members)
        return found

    # What programs have told outlives a restart of iotd, in a small file of its own for each value.

    def _write_down(self, value: Value, told: Json) -> None:
        known = {"boot_id": self._world.boot_id, "uptime_s": self._world.uptime(), "told": told}
        path = self._world.places.runtime / f"value-{value.name}.json"
        try:
            self._world.files.write_json(path, known)
            self._unwritable = False
        except OSError as error:
            if not self._unwritable:
                log.warning("value.unwritable", "what programs tell cannot be written down; a restart will forget it",
                            path=str(path), reason=str(error))
            self._unwritable = True
            self._world.files.remove(path)  # what was told before is not true any more

    def _take_up(self, value: Value, now: float) -> None:
        """Take up what an earlier run was told in this boot."""
        if value.source != "socket":
            return
        known = self._world.files.read_json(self._world.places.runtime / f"value-{value.name}.json")
        if not isinstance(known, dict) or known.get("boot_id") != self._world.boot_id or "told" not in known:
            return
        at = known.get("uptime_s")
        age_s = max(0.0, self._world.uptime() - at) if isinstance(at, (int, float)) else 0.0
        try:
            told = reading.of_told(value, known["told"])
            reading.check_age(value, age_s)
        except Missing as why:
            self._take(Reading(value, None, str(why), age_s), now)
        else:
            self._take(Reading(value, told, "null was told" if told is None else "", age_s), now)
