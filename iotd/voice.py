"""The shadows as the main thread sees them: what they are told of this device, and what they say is desired of it.

In a report come together, the later over the earlier: what other programs' files say, the template, what was done of
what is desired, and under `iotd` what checks and orders have failed.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from functools import partial

from iotd import health, log, schedule, shadow, template
from iotd.bridge import Bridge
from iotd.config import OWN_KEY
from iotd.ears import Ears
from iotd.finding import CheckResult, Performed
from iotd.health import Doubt, Verdict
from iotd.jobs import Jobs
from iotd.model import Entry, Message, Received, Send
from iotd.places import Places
from iotd.settings import Check, Json, Settings, Shadow
from iotd.typed import Any

END_S = 2.0  # for the commands that run to be killed


class Voice:
    """The conversation with all shadows, the checks behind their health, and the orders that come from them.

    `send` publishes at once and is only called between `opened` and `closed`; `post` takes events for this thread;
    `values` gives what the placeholders stand for, without {sequence} and {health}.
    """

    def __init__(
        self, send: Callable[[Message], None], post: Callable[[Any], None], places: Places, run_id: str,
        values: Callable[[], Mapping[str, Json]]
    ) -> None:
        self._send = send
        self._post = post
        self._places = places
        self._run_id = run_id
        self._values = values
        self._jobs = Jobs(post)
        self._ears = Ears(places.state / "desired.json", self._jobs.start, post)
        self._shadows: tuple[Shadow, ...] = ()
        self._subject: Any = None
        self._conversation = shadow.start("", (), run_id)
        self._fills: list[template.Fill] = []
        self._sequence: Counter[str | None] = Counter()
        self._reports = schedule.EMPTY
        self._checks = schedule.EMPTY
        self._results: dict[Check, CheckResult] = {}
        self._verdicts: dict[str | None, Verdict] = {}
        self._bridge: Bridge | None = None
        self._remembered: Json = None
        self._files_failed = False
        self.is_open = False

    @property
    def filters(self) -> tuple[str, ...]:
        """What has to be subscribed before the conversation can be opened."""
        return shadow.filters(self._conversation)

    @property
    def unanswered(self) -> list[str]:
        """The actions that the service has yet to answer."""
        return shadow.unanswered(self._conversation)

    def follow(self, settings: Settings, now: float) -> Settings:
        """Take a configuration that was read just now; return it with the values that the cloud has set."""
        return self._ears.follow(settings, now)

    def overridden(self) -> Settings:
        """Return the configuration last read with the values that the cloud has set."""
        return self._ears.overridden()

    def apply(self, settings: Settings, now: float) -> None:
        """Let the settings take effect; where the shadows have others than before the conversation begins anew."""
        self._shadows = settings.shadows
        subject = (settings.thing, [entry._replace(every_s=0.0) for entry in settings.shadows])
        if subject != self._subject:
            self._subject = subject
            # Tokens go on, so that an answer on its way is not taken for one to come.
            self._conversation = shadow.start(settings.thing, settings.shadows, self._run_id)._replace(
                requests=self._conversation.requests)
            self._verdicts = {}
            self.is_open = False
        self._fills = [template.compile_tree(entry.reported) for entry in settings.shadows]
        self._reports = schedule.changed(
            self._reports, {index: entry.every_s for index, entry in enumerate(settings.shadows)}, now)
        every_s = {check: check.every_s for entry in settings.shadows for check in entry.checks}
        self._checks = schedule.changed(self._checks, every_s, now)
        self._results = {check: result for check, result in self._results.items() if check in every_s}
        self._open_files()

    def opened(self, now: float, careful: bool, resting: Iterable[str]) -> None:
        """The line is up and `filters` are subscribed."""
        self.is_open = True
        self._conversation, effects = shadow.opened(self._conversation, now, careful, resting)
        self._perform(effects, now)

    def closed(self) -> None:
        """The line is down."""
        self.is_open = False
        self._conversation = shadow.closed(self._conversation)

    def heard(self, received: Received, now: float) -> None:
        """Take a message; one on another topic is none of ours."""
        self._conversation, effects = shadow.heard(self._conversation, received, now)
        self._perform(effects, now)

    def checked(self, result: CheckResult, now: float) -> None:
        """Take the end of a check, and report at once where it changes a shadow's health."""
        if result.check not in self._checks.every_s:
            return
        self._results[result.check] = result
        for index, entry in enumerate(self._shadows):
            if result.check in entry.checks:
                before = self._verdicts.get(entry.name, Verdict())
                if health.changed(before, self._judge(entry, now)):
                    self._report(shadow.Report(index), now)

    def performed(self, event: Performed, now: float) -> None:
        """Take the end of a command, and report it."""
        if self._ears.performed(event, now):
            self._report_named(event.shadow, now)

    def next_due(self) -> float:
        """Return when `keep` has something to do, math.inf for never."""
        due_at = min(self._checks.next_due, self._ears.next_due())
        return min(due_at, self._reports.next_due, shadow.next_due(self._conversation)) if self.is_open else due_at

    def keep(self, now: float) -> None:
        """Do what is due: checks, orders to be tried again, reports, requests without an answer."""
        self._look(now)
        for name in self._ears.keep(now):
            self._report_named(name, now)
        if self.is_open:
            due, self._reports = schedule.take(self._reports, now)
            for index in due:
                self._report(shadow.Report(index), now)
            self._conversation, effects = shadow.keep(self._conversation, now)
            self._perform(effects, now)

    def status(self) -> dict[str, Json]:
        """Return what `iotd status` shows of it."""
        return {
            "shadows": [entry.name for entry in self._shadows],
            "checks": [{"shadow": name, **health.reported(verdict)} for name, verdict in self._verdicts.items()
                       if verdict != Verdict()],
            "orders": [{"shadow": entry.name, "failed": failed} for entry in self._shadows
                       if (failed := self._ears.failures(entry.name))],
            "settings": self._ears.origins(),
        }

    def problems(self) -> list[str]:
        """Return what is not as it should be, a sentence each."""
        checks = (f"check {doubt.name} has failed: {doubt.reason}"
                  for verdict in self._verdicts.values() for doubt in verdict.failed)
        orders = (f"what is desired of {failed['key']} could not be done: {failed['reason']}"
                  for entry in self._shadows for failed in self._ears.failures(entry.name))
        return list(dict.fromkeys((*checks, *orders)))

    def close(self) -> None:
        """Kill the commands that run."""
        self._jobs.close(END_S)

    def _perform(self, effects: list[shadow.Effect], now: float) -> None:
        """Do what a rule asks for; one report says all that came before it."""
        reporting = {effect.shadow for effect in effects if isinstance(effect, shadow.Report)}
        for effect in effects:
            if isinstance(effect, Entry):
                log.write(effect)
            elif isinstance(effect, Send):
                self._send(effect.message)
            elif isinstance(effect, shadow.Report):
                self._report(effect, now)
            elif isinstance(effect, shadow.Wanted):
                news = self._ears.heard(self._shadows[effect.shadow].name, effect.delta, now)
                if news and effect.shadow not in reporting:
                    self._report(shadow.Report(effect.shadow), now)
            elif self._bridge is not None and self._shadows[effect.shadow].files:
                self._with_files(partial(self._bridge.desired, effect.state))

    def _report_named(self, name: str | None, now: float) -> None:
        for index, entry in enumerate(self._shadows):
            if entry.name == name:
                self._report(shadow.Report(index), now)

    def _report(self, report: shadow.Report, now: float) -> None:
        """Fill the templates of a shadow and hand them to the conversation."""
        entry = self._shadows[report.shadow]
        verdict = self._judge(entry, now)
        self._sequence[entry.name] += 1
        values = {**self._values(), "sequence": self._sequence[entry.name],
                  "health": entry.healthy if verdict.healthy else entry.unhealthy}
        done = self._ears.reported(entry.name)
        own = {**self._fills[report.shadow](values), **{key: value for key, value in done.items() if value is not None}}
        if entry.checks or entry.on_delta:
            own[OWN_KEY] = {"checks": health.reported(verdict), "orders": {"failed": self._ears.failures(entry.name)}}
        reported = {**done, **self._from_files(entry, own), **own}
        seed = template.compile_tree(report.desired)(values) if report.desired else {}
        self._conversation, effects = shadow.report(self._conversation, report.shadow, reported, seed, now)
        self._perform(effects, now)

    def _look(self, now: float) -> None:
        """Make the checks that are due, those that may wait on threads of their own; none while its last one runs."""
        due, self._checks = schedule.take(self._checks, now)
        if due:
            from iotd import checks  # costs memory, which a device without checks keeps
        for check in due:
            if isinstance(check.probe, checks.QUICK):
                self._post(checks.make(check))
            else:
                self._jobs.start(check, partial(checks.make, check))

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
        return new

    def _open_files(self) -> None:
        if not any(entry.files for entry in self._shadows):
            self._bridge = None
        elif self._bridge is None:
            self._bridge = Bridge(self._places.runtime)
            self._with_files(self._bridge.open)

    def _from_files(self, entry: Shadow, own: Mapping[str, Json]) -> dict[str, Json]:
        """Return what other programs report, and remember it for a restart to know what to take out."""
        if self._bridge is None or not entry.files:
            return {}
        found, news = self._bridge.reported(frozenset(own) | {OWN_KEY})
        for name, reason in news.items():
            log.warning("bridge.skipped", f"{name or 'the files'} cannot be reported, or not all of it: {reason}",
                        file=name, reason=reason)
        if found != self._remembered:
            self._remembered = found
            self._with_files(self._bridge.remember)
        return found

    def _with_files(self, step: Callable[[], None]) -> None:
        try:
            step()
            self._files_failed = False
        except OSError as error:
            if not self._files_failed:
                log.warning("bridge.failed", "the files between other programs and the shadow do not work",
                            path=str(self._places.runtime), reason=str(error))
            self._files_failed = True


def _fields(entry: Shadow, doubt: Doubt) -> dict[str, Json]:
    return {"shadow": entry.name, "check": doubt.name, "value": doubt.value, "reason": doubt.reason}
