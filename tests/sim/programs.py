"""Programs on the device, on the other side of iotd's door: they publish, tell values, listen, and now and then err.

What was asked for and not answered when iotd ended is asked for again, as docs/programs.md has it.
"""

from __future__ import annotations

import base64
import json
from collections import Counter, deque
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

from iotd.vocabulary import Json, Offer
from tests.sim.disk import RUNTIME

if TYPE_CHECKING:
    from tests.sim.swarm import Profile, Topic, Value
    from tests.sim.world import Simulation

LISTENS = "plant/all/#"
ERRORS = (
    b"{", b"[]", b"\xff", b"[" * 3000, b"NaN", b"{}", b'{"fly": 1}', b'{"publish": 7}', b'{"publish": "a", "qos": 2}',
    b'{"publish": "a", "retain": 1}', b'{"publish": "a", "offline": "later"}', b'{"publish": "a"}',
    b'{"publish": "a", "text": 7}', b'{"publish": "a", "payload": 1, "text": ""}', b'{"publish": "a", "base64": "="}',
    b'{"publish": "a", "payload": 1, "colour": 1}', b'{"publish": "\\ud800", "text": ""}',
    b'{"publish": "+", "text": ""}',
    b'{"publish": "a", "text": "\\ud800"}', b'{"publish": "MQTTServer/pi/will", "text": ""}',
    b'{"publish": "$aws/things/pi/shadow/update", "text": "{}"}', b'{"set": 7}', b'{"set": "nothing"}',
    b'{"set": "nothing", "value": 1}', b'{"listen": "#"}', b'{"listen": 7}', b'{"listen": "MQTTServer/pi/will"}',
    b'{"ask": 7}', b'{"ask": "to fly"}', b'{"status": true}', b'{"status": 7}', b'{"clear_retained": 7}',
    b'{"set": "%s", "value": "%s"}')


REPORT_S = 3600.0
REPORTED = f"{RUNTIME}/reported.d"


class Report(NamedTuple):
    """What was reported by files at the true time `at`: the minute, and whether there was a file that says open."""

    at: float
    minute: int
    is_open: bool


class Programs:
    """All of them, on one connection for each run of iotd. `made` counts the messages of each topic."""

    def __init__(self, simulation: Simulation) -> None:
        self.topics: list[Topic] = []
        self.told: list[Value] = []
        self.made: Counter[str] = Counter()
        self.heard = 0
        self.is_shut_out = False
        self.reports: list[Report] = []  # of this boot
        self._reports_files = False
        self._simulation = simulation
        self._post: Callable[[Any], None] = lambda event: None
        self._round = 0
        self._is_held = False
        self._unanswered: deque[bytes] = deque()  # the lines that were sent
        self._waiting: deque[bytes] = deque()  # those that are yet to be sent

    def follow(self, profiles: tuple[Profile, ...]) -> None:
        """Do from now on what these configurations have programs for."""
        self.topics = list({topic.id: topic for profile in profiles for topic in profile.programs}.values())
        self.told = list({value.name: value for profile in profiles for value in profile.values
                          if value.source == "socket"}.values())
        self._reports_files = any(shadow.files for profile in profiles for shadow in profile.shadows)

    def connect(self, post: Callable[[Any], None]) -> None:
        """iotd has begun to run: ask again what was not answered, and go on."""
        self._post, self._is_held, self.is_shut_out = post, False, False
        self._round += 1
        self._waiting.extendleft(reversed(self._unanswered))
        self._unanswered.clear()
        if self._reports_files:
            self._later(REPORT_S * self._simulation.chance(), self._report)
        if self.topics or self.told:
            self._later(1.0, partial(self._send, [b'{"listen": "%s"}' % LISTENS.encode()]))
        for topic in self.topics:
            self._later(topic.every_s * self._simulation.chance(), partial(self._publish, topic))
        for value in self.told:
            self._later(10.0 * self._simulation.chance(), partial(self._tell, value))

    def shut_out(self) -> None:
        """iotd runs, and none of them can reach it."""
        self.is_shut_out = True
        self._round += 1
        self._waiting.extendleft(reversed(self._unanswered))
        self._unanswered.clear()

    def burst(self, count: int) -> None:
        """One of them publishes as fast as it can."""
        if self.topics and self._simulation.daemon is not None and not self.is_shut_out:
            self._send([self._line(self.topics[0]) for _ in range(count)])

    def err(self, way: float) -> None:
        """One of them asks for what makes no sense."""
        if self._simulation.daemon is not None and not self.is_shut_out:
            line = ERRORS[int(way * len(ERRORS))]
            name = self.told[0].name if self.told else "nothing"
            self._send([line % (name.encode(), b"x" * 70_000) if b"%s" in line else line])
        if self._reports_files:
            self._simulation.disk.content[f"{REPORTED}/wrong.json"] = ERRORS[int(way * len(ERRORS))]

    def order(self, order: Any) -> None:
        """Take what iotd has to say."""
        from iotd.local.orders import Answer, Heard, Release
        from iotd.local.requests import parse

        if isinstance(order, Answer):
            for answer in order.lines.splitlines():
                asked = self._unanswered.popleft()
                offer = parse(asked)
                if b'"kept"' in answer and isinstance(offer, Offer):
                    self._simulation.judge.promised(offer.message.payload)
            self._is_held = self._is_held or order.hold
        elif isinstance(order, Heard):
            self.heard += 1
        elif isinstance(order, Release):
            self._is_held = False
            self._send([])

    def _publish(self, topic: Topic) -> None:
        if not self._simulation.air.moods["programs are away"]:
            self._send([self._line(topic)])
        self._later(float(topic.every_s), partial(self._publish, topic))

    def _tell(self, value: Value) -> None:
        if not self._simulation.air.moods["programs are away"]:
            told: Json = self._simulation.measure() * (2 if value.form == "scaled" else 1)
            told = {"at": [told]} if value.form == "json" else told
            self._send([json.dumps({"set": value.name, "value": told}).encode()])
        self._later(value.tell_s, partial(self._tell, value))

    def _report(self) -> None:
        """Report by files: one whose content changes, and one that comes and goes."""
        simulation, content = self._simulation, self._simulation.disk.content
        if f"{REPORTED}/pump.json" not in content:
            self.reports.clear()
        if not simulation.air.moods["programs are away"]:
            minute, is_open = simulation.measure(), simulation.chance() < 0.5
            content[f"{REPORTED}/pump.json"] = b'{"pump": {"at": %d}}' % minute
            content[f"{REPORTED}/door.json"] = b'{"door": "open"}'
            if not is_open:
                del content[f"{REPORTED}/door.json"]
            self.reports = [*self.reports[-20:], Report(simulation.schedule.now, minute, is_open)]
        self._later(REPORT_S, self._report)

    def _line(self, topic: Topic) -> bytes:
        assert self._simulation.daemon is not None
        self.made[topic.id] += 1
        text = f"#{self._simulation.daemon.run_id}:{topic.id}:{self.made[topic.id]}#" + "x" * topic.pad
        kind = ("text", "payload", "base64")[self.made[topic.id] % 3]
        body = base64.b64encode(text.encode()).decode() if kind == "base64" else text
        request: dict[str, Json] = {"publish": topic.name, kind: body, "qos": topic.qos, "retain": topic.retain,
                                    "offline": topic.offline}
        return json.dumps(request).encode()

    def _send(self, lines: list[bytes]) -> None:
        from iotd.local.door import Asked
        from iotd.local.requests import parse

        self._waiting.extend(lines)
        if self._waiting and not self._is_held:
            self._post(Asked(self._round, tuple(map(parse, self._waiting)), False))
            self._unanswered.extend(self._waiting)
            self._waiting.clear()

    def _later(self, delay_s: float, do: Callable[[], None]) -> None:
        of_round = self._round
        self._simulation.schedule.after(delay_s, lambda: do() if of_round == self._round and (
            self._simulation.daemon is not None) else None)
