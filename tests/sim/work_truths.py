"""What holds of the work between the device and its programs: messages made, values in them, commands for messages."""

from __future__ import annotations

import json
import math
import re
from typing import Any

from iotd.incoming.part import Incoming
from iotd.shadows.bridge import SETTLED_S
from iotd.vocabulary import Message
from tests.sim.cloud import unpacked
from tests.sim.judge import Invariant, Judge
from tests.sim.kinds import KINDS
from tests.sim.programs import REPORTED
from tests.sim.session import SimulatedSession
from tests.sim.swarm import Value, topics_of

TOLD = re.compile(rb"#([0-9a-f]{16}:([a-z]\d+):\d+)#v([^#]*)#")
MINUTE_S = 60.0
SLACK_S = 90.0  # a minute of rounding, and the time to read
RECENT_S = 600.0  # what a value that failed or hung leaves behind


class Made(Invariant):
    """Messages are made for ever."""

    name = "made"
    says = ("Once all is healed each topic has a new message within its interval, unless some were dropped or set"
            " aside")

    def __init__(self, judge: Judge) -> None:
        super().__init__(judge)
        self._at: dict[str, float] = {}

    def arrived(self, message: Message, by: SimulatedSession | None) -> None:
        """Note when the last one came."""
        if by is not None:
            self._at[message.topic] = self.now

    def logged(self, entry: dict[str, Any]) -> None:
        """Note that a message was made, and is set aside."""
        if entry["event"] == "publish.set_aside":
            self._at[str(entry["topic"])] = self.now

    def finish(self) -> None:
        """Find a topic that has fallen silent."""
        daemon = self.simulation.daemon
        for entry in daemon.settings.sections["publish"] if daemon is not None else ():
            for_s = self.now - self._at.get(entry.topic, 0.0)
            if entry.batch:  # a boot begins anew with what is collected
                for_s = min(for_s, self.simulation.clock.monotonic())
            every_s = entry.every_s + (entry.batch.within_s if entry.batch else 0.0)
            if for_s > every_s + SLACK_S and not self.simulation.drops()[entry.topic]:
                self.broken(f"{entry.topic} has been silent for {for_s:.0f} s, its interval is {every_s:.0f} s")


class Told(Invariant):
    """A message tells a value as it was measured a moment ago, or null."""

    name = "values"
    says = ("A value in a message was measured, or told by a program, within its interval or age before the message was"
            " made, or is null; once all is healed it is not null")

    def __init__(self, judge: Judge) -> None:
        super().__init__(judge)
        self._topics = topics_of(self.plan.profiles)
        self._values = {value.name: value for profile in self.plan.profiles for value in profile.values}
        self._seen: set[bytes] = set()
        self._newest: dict[str, tuple[float, bytes]] = {}
        self._read_at = 0.0  # the configuration in force
        # Kept only where they have to stand retained once more, long after they were made.
        self._sent_at_once = {topic.name for topic in self._topics.values() if topic.offline == "drop"}

    def arrived(self, message: Message, by: SimulatedSession | None) -> None:
        """Note what has gone out without having been kept."""
        if message.topic in self._sent_at_once and by is not None:
            self._seen.update(token for token, _, _ in TOLD.findall(unpacked(message.payload)))

    def started(self, daemon: Any) -> None:
        """A run begins, to which programs have told nothing yet."""
        self._read_at = self.now

    def logged(self, entry: dict[str, Any]) -> None:
        """Another configuration may have a value that programs have told to nobody yet."""
        if entry["event"] == "daemon.reloaded":
            self._read_at = self.now

    def kept(self, content: bytes) -> None:
        """Compare what is told with what there was to be measured; only once, since what is kept is moved."""
        for token, topic, told in TOLD.findall(content):
            if token in self._seen:
                continue
            self._seen.add(token)
            self._newest[topic.decode()] = self.now, told or b"nothing"
            if told.isdigit():  # else it was not measured, or what was measured made no sense
                self._judge(topic.decode(), int(told))

    def finish(self) -> None:
        """Find the messages that were made last, long after all was healed."""
        daemon = self.simulation.daemon
        for entry in daemon.settings.sections["publish"] if daemon is not None else ():
            topic = entry.topic.rpartition("/")[2]
            at, told = self._newest.get(topic, (0.0, b""))
            if told and not told.isdigit() and self.now - at < entry.every_s and self._is_to_be_told(topic):
                self.broken(f"{entry.topic} tells {told.decode()}")

    def _judge(self, topic: str, minute: int) -> None:
        value = self._value(topic)
        age_s = self.now - minute * MINUTE_S
        most_s = (value.max_age_s if value.source == "socket" else value.every_s or 0.0) + self._topics[topic].within_s
        if age_s > most_s + SLACK_S and not self._was_troubled(value.source, most_s + RECENT_S):
            self.broken(f"{topic} tells {value.name} as it was {age_s:.0f} s ago, {most_s:.0f} s are allowed")

    def _is_to_be_told(self, topic: str) -> bool:
        value = self._value(topic)
        since_s = self.now - self._read_at - SLACK_S
        return value.source != "socket" or value.tell_s < min(value.max_age_s, since_s)

    def _value(self, topic: str) -> Value:
        return self._values[self._topics[topic].value.partition(".")[0]]

    def _was_troubled(self, source: str, within_s: float) -> bool:
        """Tell whether what is read failed, or no file took what was made: that is seen only once one does."""
        return any(fault.at_s <= self.now <= fault.at_s + fault.for_s + within_s for fault in self.plan.faults
                   if KINDS[fault.kind].group == "disk" or source != "socket" and fault.kind.startswith("values "))


class Handled(Invariant):
    """What comes in is handled by one command at a time, in its order."""

    name = "commands"
    says = ("The command of a subscription runs for one message at a time, in the order in which they came in; only"
            " what the broker sends again is handled again")

    def __init__(self, judge: Judge) -> None:
        super().__init__(judge)
        self._running: set[str] = set()
        self._last: dict[str, int] = {}
        self._done: set[tuple[str, int]] = set()

    def started(self, daemon: Any) -> None:
        """What ran before was killed."""
        self._running.clear()

    def handling(self, name: str, payload: bytes) -> None:
        """Compare with the one before."""
        if name in self._running:
            self.broken(f"two commands of {name} at a time")
        self._running.add(name)
        try:
            number = json.loads(payload)["n"]
        except (ValueError, KeyError, TypeError, RecursionError):
            return
        if number < self._last.get(name, 0) and (name, number) not in self._done:
            self.broken(f"{name}: message {number} is handled after {self._last[name]}")
        self._last[name] = max(number, self._last.get(name, 0))
        self._done.add((name, number))

    def handled(self, name: str) -> None:
        """It has ended."""
        self._running.discard(name)

    def owed(self) -> str:
        """Return a subscription whose messages wait for nothing."""
        daemon = self.simulation.daemon
        part = daemon._by_wing.get("incoming") if daemon is not None else None
        waiting = part._runs._waiting if isinstance(part, Incoming) and part._runs is not None else {}
        stuck = [name for name, orders in waiting.items() if orders and name not in self._running]
        return f"messages of {stuck[0]} wait, and none is handled" if stuck else ""


class Joined(Invariant):
    """What programs report by files stands in the shadow."""

    name = "files"
    says = ("What programs report by files stands in the shadow within its interval, and what they take away goes from"
            " it")

    def __init__(self, judge: Judge) -> None:
        super().__init__(judge)
        self._refused_at = -math.inf  # the next report comes with the interval

    def arrived(self, message: Message, by: SimulatedSession | None) -> None:
        """Note that the service refuses a report."""
        if message.topic.endswith("/update/rejected"):
            self._refused_at = self.now

    def owed(self) -> str:
        """Return what the shadow tells of an earlier report."""
        daemon, programs = self.simulation.daemon, self.simulation.programs
        for entry in daemon.settings.sections.get("shadows", ()) if daemon is not None else ():
            long_s = entry.every_s + SLACK_S
            known = [report for report in programs.reports if self.now - report.at > long_s]
            if self.now - self._refused_at < long_s or self.simulation.clock.monotonic() < SETTLED_S + long_s:
                continue
            if entry.files and known and f"{REPORTED}/pump.json" in self.simulation.disk.content:
                reported = self.simulation.broker.shadows.state("pi", entry.name).get("reported", {})
                told = reported.get("pump", {}).get("at", -1), "door" in reported
                later = programs.reports[programs.reports.index(known[-1]):]
                expected = {(report.minute, report.is_open) for report in later}
                if told not in expected and not (told[1] and (told[0], False) in expected and self._may_forget()):
                    return f"{self.rests()}{entry.name} tells {told} of {[tuple(report) for report in later]}"
        return ""

    def _may_forget(self) -> bool:
        """Tell whether a boot may have lost what stood in the shadow before it."""
        return self.plan.overlay or any(KINDS[fault.kind].group == "disk" for fault in self.plan.faults)


WORK = (Made, Told, Handled, Joined)
