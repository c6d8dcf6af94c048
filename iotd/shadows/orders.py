"""What is desired of the device, done: by a command on a thread of its own, or by a value in place of the file's.

What is known of the orders stands in a file of the state directory before anything is begun, and outlives a restart.
Used by the main thread alone.
"""

from __future__ import annotations

import json
import math
import traceback
from collections.abc import Callable, Hashable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from iotd.config import override, parse, template
from iotd.config.settings import Settings
from iotd.errors import Problem
from iotd.host import log
from iotd.host.files import Files
from iotd.shadows import desired
from iotd.shadows.desired import Orders
from iotd.shadows.findings import Performed
from iotd.shadows.section import Run, Set
from iotd.vocabulary import Entry, Json, Overridden

Start = Callable[[Hashable, Callable[[int], Any], Callable[[str], Any]], bool]

KNOWN = frozenset({"value"})


class Executor:
    """The orders of all shadows, each by its name.

    `start` runs work on a thread and tells whether it could (`Tasks.start`); `post` takes `Performed` and `Overridden`.
    """

    def __init__(self, file: Path, files: Files, start: Start, post: Callable[[Any], None]) -> None:
        self._file = file
        self._files = files
        self._start = start
        self._post = post
        self._settings: Settings | None = None
        self._orders: dict[str | None, Orders] = {}
        self._faults: dict[str, str] = {}  # the bugs that have been told, by the key or the setting

    def follow(self, settings: Settings, now: float) -> Settings:
        """Take a configuration that was read just now, go on with the orders known; return it with the cloud's values.

        A value that the configuration has no use for any more is dropped; where it is still desired it is tried anew.
        """
        kept = self._files.read_json(self._file)
        orders: dict[str | None, Orders] = {}
        for entry in settings.sections["shadows"]:
            known = self._orders.get(entry.name)
            written = kept.get(entry.name or "") if isinstance(kept, dict) else None
            if known is not None:
                orders[entry.name] = desired.changed(known, entry.on_delta)
            elif entry.on_delta or written:
                orders[entry.name] = desired.start(entry.name, entry.on_delta, written, now)
        self._settings, self._orders = settings, orders
        self._drop_unfit(settings)
        return self.overridden()

    def overridden(self) -> Settings:
        """Return the settings of the file with those of the cloud in their place."""
        assert self._settings is not None
        return override.applied(self._settings, self.overrides())

    def away(self) -> None:
        """The line is down: what is desired may change unheard."""
        self._orders = {name: desired.away(orders) for name, orders in self._orders.items()}

    def heard(self, shadow: str | None, delta: Json, version: int, now: float) -> bool:
        """Take all of what is desired and not reported; tell whether there is something to report."""
        orders = self._orders.get(shadow)
        return orders is not None and self._obey(shadow, desired.heard(orders, delta, version, now), now)

    def taken(self, shadow: str | None, reported: Mapping[str, Json], version: int, now: float) -> None:
        """Take what has arrived of what was reported."""
        if shadow in self._orders:
            self._orders[shadow] = desired.taken(self._orders[shadow], reported, version, now)

    def unreported(self, shadow: str | None, reasons: Mapping[str, str], now: float) -> bool:
        """Take which keys cannot be reported, and why; tell whether there is something to report of that."""
        orders = self._orders.get(shadow)
        return orders is not None and self._obey(shadow, desired.unreported(orders, reasons), now)

    def performed(self, event: Performed, now: float) -> bool:
        """Take the end of a command; tell whether there is something to report."""
        orders = self._orders.get(event.shadow)
        if event.traceback:
            self._tell(event.key, event.traceback)
        return orders is not None and self._obey(
            event.shadow, desired.finished(orders, event.key, event.reason, now), now)

    def keep(self, now: float) -> list[str | None]:
        """Act again where that is due; return the shadows that have something to report."""
        return [name for name, orders in list(self._orders.items()) if self._obey(name, desired.keep(orders, now), now)]

    def next_due(self) -> float:
        """Return when `keep` has something to do, math.inf for never."""
        return min(map(desired.next_due, self._orders.values()), default=math.inf)

    def reported(self, shadow: str | None) -> dict[str, Json]:
        """Return the keys to report of what was done, null for those of which nothing is known.

        So a device that was set up anew takes back what an earlier one reported of itself, and is told it again.
        """
        orders = self._orders.get(shadow)
        if orders is None:
            return {}
        return {**{key: None for key in orders.actions if key not in orders.orders}, **desired.reported(orders)}

    def failures(self, shadow: str | None) -> list[Json]:
        """Return all that could not be done, or not be reported, and why."""
        orders = self._orders.get(shadow)
        return [] if orders is None else desired.failures(orders)

    def told(self, shadow: str | None) -> dict[str, Json]:
        """Return what is reported of that."""
        return desired.told(self.failures(shadow))

    def origins(self) -> dict[str, Json]:
        """Return the value of each setting that is open to the cloud, and where it comes from: "file" or "shadow"."""
        settings, set_by_cloud = self.overridden(), self.overrides()
        opened = [action.setting for entry in settings.sections["shadows"] for action in entry.on_delta.values()
                  if isinstance(action, Set)]
        return dict(override.origins(settings, {setting: set_by_cloud.get(setting) for setting in opened}))

    def overrides(self) -> dict[str, Json]:
        """Return the settings that the cloud has set, by their names."""
        return {setting: value for orders in self._orders.values()
                for setting, value in desired.overrides(orders).items()}

    def _drop_unfit(self, settings: Settings) -> None:
        fit: dict[str, Json] = {}
        for name, setting, value in list(self._set_by_cloud()):
            reason = self._unfit(settings, {**fit, setting: value}, setting)
            if reason:
                self._orders[name] = desired.without(self._orders[name], setting)
                log.warning("desired.dropped", f"the configuration has no use for the cloud's {setting} any more",
                            shadow=name, setting=setting, value=value, reason=reason)
            else:
                fit[setting] = value

    def _set_by_cloud(self) -> Iterator[tuple[str | None, str, Json]]:
        for name, orders in self._orders.items():
            for setting, value in desired.overrides(orders).items():
                yield name, setting, value

    def _obey(self, shadow: str | None, outcome: tuple[Orders, list[desired.Effect]], now: float) -> bool:
        """Do what the rules ask for; tell whether that is to report."""
        self._orders[shadow], effects = outcome
        news, unkept = False, ""
        for effect in effects:
            if isinstance(effect, Entry):
                log.write(effect)
            elif effect is desired.Duty.KEEP:
                unkept = self._keep()
            elif effect is desired.Duty.REPORT:
                news = True
            else:
                news = self._act(shadow, effect, unkept, now) or news
        return news

    def _act(self, shadow: str | None, act: desired.Act, unkept: str, now: float) -> bool:
        reason = unkept or self._begin(shadow, act)
        if reason is None:
            return False
        news = self._obey(shadow, desired.finished(self._orders[shadow], act.key, reason, now), now)
        if isinstance(act.action, Set) and not reason:
            self._post(Overridden())
        return news

    def _begin(self, shadow: str | None, act: desired.Act) -> str | None:
        """Return None where it will end later, else why it failed, empty where it did well."""
        if isinstance(act.action, Set):
            assert self._settings is not None
            setting = act.action.setting
            return self._unfit(self._settings, {**self.overrides(), setting: act.value}, setting)
        started = self._start(("order", shadow, act.key), partial(perform, shadow, act.key, act.action, act.value),
                              partial(faulty, shadow, act.key))
        return None if started else "iotd cannot start a thread for it"

    def _unfit(self, settings: Settings, values: dict[str, Json], setting: str) -> str:
        """Return why the settings cannot have these values, that of `setting` among them; empty where they can."""
        try:
            problems: list[Problem] = parse.problems(override.applied(settings, values))
        except ValueError as error:
            return str(error)
        except Exception as error:  # whatever a value of the cloud's leads to, it ends nothing but its order
            self._tell(setting, traceback.format_exc())
            return f"a bug in iotd: {error!r}"
        return "; ".join(f"{problem.key} {problem.text}" for problem in problems[:1])

    def _tell(self, of: str, text: str) -> None:
        """Log the traceback of a bug, unless it is the same as the last time."""
        if self._faults.get(of) != text:
            log.error("desired.fault", f"a bug in iotd: {of} cannot be done as desired", key=of, traceback=text)
            self._faults[of] = text

    def _keep(self) -> str:
        """Write down what is known; return why that failed, empty where it did not."""
        known = {name or "": desired.to_json(orders) for name, orders in self._orders.items()}
        why = self._files.keep(self._file, known, True, "desired.unwritable",
                               "what is known of the orders cannot be written down; none is begun")
        return why and f"it cannot be written down first: {why}"


def perform(shadow: str | None, key: str, action: Run, value: Json, stop: int | None = None) -> Performed:
    """Run the command for a desired value and say how it ended; `stop` readable means give up."""
    from iotd.host import command  # costs memory, which a device without orders keeps

    try:
        arguments = arguments_of(action.command, value)
    except ValueError as error:
        return Performed(shadow, key, str(error))
    return Performed(shadow, key, command.run(arguments, action.timeout_s, stop).reason)


def faulty(shadow: str | None, key: str, text: str) -> Performed:
    """Return how an order has ended that ended in a bug; `text` is its traceback."""
    return Performed(shadow, key, f"a bug in iotd: {text.strip().splitlines()[-1]}", text)


def arguments_of(command: tuple[str, ...], value: Json) -> tuple[str, ...]:
    """Return the command with `value` in the place of `{value}`: text as it is, anything else as JSON writes it.

    Raises ValueError for a text that no program can be given (NUL), or that it may take for an option.
    """
    is_text = isinstance(value, str)
    text = value if is_text else json.dumps(value, ensure_ascii=False)
    return template.fill_command(command, {"value": text}, wary=is_text)
