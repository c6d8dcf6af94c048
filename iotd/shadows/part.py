"""The shadows as the main thread sees them: what they are told of this device, and what they say is desired of it."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

from iotd import schedule
from iotd.config import template
from iotd.config.settings import Settings
from iotd.daemon.part import Kernel, Part
from iotd.host import log
from iotd.shadows import conversation, exchange, reports
from iotd.shadows.section import OWN_KEY, Shadow
from iotd.vocabulary import Entry, Json, Received, Send

if TYPE_CHECKING:
    from pathlib import Path

    from iotd.shadows.bridge import Bridge
    from iotd.shadows.findings import CheckResult, Performed
    from iotd.shadows.folder import Folder
    from iotd.shadows.orders import Executor
    from iotd.shadows.watch import Watch

    OpenFolder = Callable[[Path], Folder]

REPORTED = "reported.json"  # in the state directory: the keys that programs report by files
WRITE_S = 600.0  # from one change of it to the next: a program may invent keys without end
END_S = 2.0  # for the commands that run to be killed
NOTHING_FOUND: Json = {"failed": [], "unknown": [], "left_out": 0}
NO_ORDERS: Json = {"failed": []}


def build(kernel: Kernel, open_folder: OpenFolder | None) -> Shadows:
    """Return the part."""
    return Shadows(kernel, open_folder)


class Shadows(Part):
    """The conversation with all shadows; what they have besides is loaded with the first that has it.

    That is the checks behind their health, the orders that come from them, and the files of other programs.
    """

    def __init__(self, kernel: Kernel, open_folder: OpenFolder | None) -> None:
        self._kernel = kernel
        self._open_folder = open_folder
        self._places = kernel.world.places
        self._tasks = kernel.world.tasks(kernel.post)
        self._executor: Executor | None = None
        self._watch: Watch | None = None
        self._shadows: tuple[Shadow, ...] = ()
        self._subject = ""
        self._conversation = exchange.start("", (), kernel.run_id)
        self._fills: list[template.Fill] = []
        self._names: list[frozenset[str]] = []
        self._asked: dict[int, exchange.Report] = {}  # the reports whose values are being gathered
        self._sequence: Counter[str | None] = Counter()
        self._reports = schedule.EMPTY
        self._bridge: Bridge | None = None
        self._remembered: dict[str, Json] = {}  # what is on the disk of it
        self._remembered_at = -math.inf
        self._files_failed = False

    def read(self, settings: Settings, now: float) -> None:
        """Take the settings of the file, and what is known of the orders."""
        shadows: tuple[Shadow, ...] = settings.sections["shadows"]
        if self._watch is None and any(entry.checks for entry in shadows):
            from iotd.shadows.watch import Watch

            self._watch = Watch(self._tasks.start, self._kernel)
        file, files = self._places.state / "desired.json", self._kernel.world.files
        if self._executor is None and (any(entry.on_delta for entry in shadows) or files.read_json(file)):
            from iotd.shadows.orders import Executor

            self._executor = Executor(file, files, self._tasks.start, self._kernel.post)
        if self._executor is not None:
            self._executor.follow(settings, now)

    def overrides(self) -> Mapping[str, Json]:
        """Return the settings that the cloud has set."""
        return self._executor.overrides() if self._executor else {}

    def apply(self, settings: Settings, now: float) -> None:
        """Let the settings take effect; where the shadows have others than before the conversation begins anew."""
        self._shadows = settings.sections["shadows"]
        subject = repr((settings.thing, [entry._replace(every_s=0.0) for entry in self._shadows]))  # 0 is not false
        if subject != self._subject:
            self._subject = subject
            # Tokens go on, so that an answer on its way is not taken for one to come.
            self._conversation = exchange.start(settings.thing, self._shadows, self._kernel.run_id,
                                                self._conversation.requests.made)
            self.closed(False, now)
            self.is_open = False
            self._asked = {}
        self._fills = [template.compile_tree(entry.reported) for entry in self._shadows]
        self._names = [template.placeholders(entry.reported) - {"sequence", "health"} for entry in self._shadows]
        self._reports = schedule.changed(
            self._reports, {index: entry.every_s for index, entry in enumerate(self._shadows)}, now)
        if self._watch is not None:
            self._watch.apply(self._shadows, now)
        self._open_files(now)

    def filters(self) -> dict[str, int]:
        """Return what has to be subscribed before the conversation can be opened."""
        return dict.fromkeys(exchange.filters(self._conversation), 1)

    def actions(self) -> dict[str, str]:
        """Return the shadow of each topic and filter: it is denied as a whole."""
        return exchange.actions(self._conversation)

    def pending(self) -> list[str]:
        """Return the actions that the service has yet to answer."""
        return exchange.unanswered(self._conversation)

    def opened(self, now: float, careful: bool, resting: Iterable[str]) -> None:
        """Get every shadow."""
        self._conversation, effects = conversation.opened(self._conversation, now, careful, resting)
        self._perform(effects, now)

    def closed(self, blamed: bool, now: float) -> None:
        """No answer will come any more."""
        self._conversation = conversation.closed(self._conversation)
        if self._executor is not None:
            self._executor.away()

    def heard(self, received: Received, now: float) -> None:
        """Take a message; one on another topic is none of ours. While the line is being left nothing is begun."""
        if not self._kernel.leaving:
            self._conversation, effects = conversation.heard(self._conversation, received, now)
            self._perform(effects, now)

    def handlers(self) -> dict[type, Callable[[Any, float], None]]:
        """Return who takes the ends of checks and commands."""
        from iotd.shadows.findings import CheckResult, Performed

        return {CheckResult: self._checked, Performed: self._performed}

    def next_due(self) -> float:
        """Return when `keep` has something to do."""
        due_at = min(self._watch.next_due() if self._watch else math.inf,
                     self._executor.next_due() if self._executor else math.inf)
        if self.is_open:
            due_at = min(due_at, self._reports.next_due, conversation.next_due(self._conversation))
        return due_at

    def keep(self, now: float) -> None:
        """Do what is due: checks, orders to be tried again, reports, requests without an answer."""
        if self._watch is not None:
            self._watch.keep(now)
        for name in self._executor.keep(now) if self._executor else ():
            self._report_named(name, now)
        if self.is_open:
            due, self._reports = schedule.take(self._reports, now)
            for index in due:
                self._report(exchange.Report(index), now)
            self._conversation, effects = conversation.keep(self._conversation, now)
            self._perform(effects, now)

    def status(self) -> dict[str, Json]:
        """Return the names, what is not good, and where each setting that is open to the cloud comes from."""
        return {
            "shadows": [entry.name for entry in self._shadows],
            "checks": self._watch.status() if self._watch else [],
            "orders": [{"shadow": entry.name, "failed": failed} for entry in self._shadows
                       if (failed := self._failures(entry))],
            "settings": self._executor.origins() if self._executor else {},
        }

    def problems(self) -> list[str]:
        """Return the checks and the orders that have failed, and what the service does not take."""
        orders = (f"what is desired of {failed['key']} could not be done: {failed['reason']}"
                  for entry in self._shadows for failed in self._failures(entry))
        return list(dict.fromkeys((*(self._watch.problems() if self._watch else ()), *orders,
                                   *reports.problems(self._conversation))))

    def sentences(self) -> list[str]:
        """Return the checks that say nothing, and the settings that are open to the cloud."""
        status = self.status()
        return [*["the shadow service does not answer"] * self._conversation.mute_told,
                *(f"check {doubt['check']} says nothing: {doubt['reason']}"
                  for checks in status["checks"] for doubt in checks["unknown"]),
                *(f"{name} is {found['value']}, from the {found['from']}"
                  for name, found in status["settings"].items())]

    def settle(self, now: float) -> None:
        """Let the next boot know what programs have reported by files."""
        self._remember(now)

    def close(self, now: float) -> None:
        """Kill the commands that run."""
        self.settle(now)
        self._tasks.close(END_S)

    def _checked(self, result: CheckResult, now: float) -> None:
        """Take the end of a check, and report at once where it changes a shadow's health."""
        for index in self._watch.checked(result, now) if self._watch else ():
            self._report(exchange.Report(index), now)

    def _performed(self, event: Performed, now: float) -> None:
        """Take the end of a command, and report it."""
        if self._executor is not None and self._executor.performed(event, now):
            self._report_named(event.shadow, now)

    def _perform(self, effects: list[exchange.Effect], now: float) -> None:
        """Do what a rule asks for; one report says all that came before it."""
        reporting = {effect.shadow for effect in effects if isinstance(effect, exchange.Report)}
        for effect in effects:
            if isinstance(effect, Entry):
                log.write(effect)
            elif isinstance(effect, Send):
                self._kernel.send(effect.message)
            elif isinstance(effect, exchange.Report):
                self._report(effect, now)
            elif isinstance(effect, exchange.Wanted) and self._executor is not None:
                news = self._executor.heard(self._shadows[effect.shadow].name, effect.delta, effect.version, now)
                if news and effect.shadow not in reporting:
                    self._report(exchange.Report(effect.shadow), now)
            elif isinstance(effect, exchange.Taken):
                self._taken(effect, now)
            elif (isinstance(effect, exchange.Desired) and self._bridge is not None
                  and self._shadows[effect.shadow].files):
                self._with_files(partial(self._bridge.desired, effect.state))

    def _taken(self, effect: exchange.Taken, now: float) -> None:
        """The service has taken a report."""
        entry = self._shadows[effect.shadow]
        if self._executor is not None:
            self._executor.taken(entry.name, effect.reported, effect.version, now)
        if self._bridge is not None and entry.files and not exchange.is_reporting(self._conversation, effect.shadow):
            self._bridge.taken(effect.reported)

    def _report_named(self, name: str | None, now: float) -> None:
        for index, entry in enumerate(self._shadows):
            if entry.name == name:
                self._report(exchange.Report(index), now)

    def _report(self, report: exchange.Report, now: float, again: bool = False) -> None:
        """Report a shadow once what its templates name is there; one that waits for that already will say all of it.

        `again`: it was reported just now, but not all of it could be, which this says.
        """
        if report.shadow in self._asked and not report.desired:
            return
        self._asked[report.shadow] = report
        names = self._names[report.shadow]
        if report.desired:
            names |= template.placeholders(report.desired)
        self._kernel.gather(names, partial(self._fill, report, again))

    def _fill(self, report: exchange.Report, again: bool, found: Mapping[str, Json]) -> None:
        """Fill the templates of a shadow and hand them to the conversation."""
        if self._asked.get(report.shadow) is not report:
            return  # another configuration, or another report in its place
        del self._asked[report.shadow]
        if self._kernel.leaving:
            return
        now = self._kernel.world.monotonic()
        entry = self._shadows[report.shadow]
        healthy, own_report = self._watch.judged(entry, now) if self._watch else (True, NOTHING_FOUND)
        self._sequence[entry.name] += 1
        values = {**found, "sequence": self._sequence[entry.name],
                  "health": entry.healthy if healthy else entry.unhealthy}
        done = self._executor.reported(entry.name) if self._executor else {}
        own = {**self._fills[report.shadow](values), **{key: value for key, value in done.items() if value is not None}}
        if entry.checks or entry.on_delta:
            orders = self._executor.told(entry.name) if self._executor else NO_ORDERS
            own[OWN_KEY] = {"checks": own_report, "orders": orders, **self._kernel.about()}
        reported = {**done, **self._from_files(entry, own, now), **own}
        seed = template.compile_tree(report.desired)(values) if report.desired else {}
        self._conversation, effects = reports.report(self._conversation, report.shadow, reported, seed, now)
        self._perform(effects, now)
        unreported = reports.unreported(self._conversation, report.shadow)
        if self._executor is not None and self._executor.unreported(entry.name, unreported, now) and not again:
            self._report(exchange.Report(report.shadow), now, again=True)

    def _failures(self, entry: Shadow) -> list[Json]:
        """Return what is desired of this shadow and could not be done."""
        return self._executor.failures(entry.name) if self._executor else []

    def _open_files(self, now: float) -> None:
        if not any(entry.files for entry in self._shadows):
            self._remember(now)
            self._bridge = None
        elif self._bridge is None:
            from iotd.shadows import folder
            from iotd.shadows.bridge import Bridge

            left = self._kernel.world.files.read_json(self._places.state / REPORTED)
            self._remembered = left if isinstance(left, dict) else {}
            self._bridge = Bridge((self._open_folder or folder.Folder)(self._places.runtime), self._remembered)
            self._with_files(self._bridge.open)

    def _from_files(self, entry: Shadow, own: Mapping[str, Json], now: float) -> dict[str, Json]:
        """Return what other programs report."""
        if self._bridge is None or not entry.files:
            return {}
        found, news = self._bridge.reported(frozenset(own) | {OWN_KEY}, self._kernel.world.uptime())
        for name, reason in news.items():
            log.warning("bridge.skipped", f"{name or 'the files'} cannot be reported, or not all of it: {reason}",
                        file=name, reason=reason)
        if now >= self._remembered_at + WRITE_S:
            self._remember(now)
        return found

    def _remember(self, now: float) -> None:
        """Let the next boot know what to take out."""
        keys = self._bridge.keys if self._bridge is not None else self._remembered
        if keys != self._remembered:
            self._remembered_at = now
            if not self._kernel.world.files.keep(self._places.state / REPORTED, keys, durable=True):
                self._remembered = keys

    def _with_files(self, step: Callable[[], None]) -> None:
        try:
            step()
            self._files_failed = False
        except OSError as error:
            if not self._files_failed:
                log.warning("bridge.failed", "the files between other programs and the shadow do not work",
                            path=str(self._places.runtime), reason=str(error))
            self._files_failed = True
