"""The way out, with a real spool and a list in place of the session."""

from __future__ import annotations

import json
from pathlib import Path

from iotd.model import Message
from iotd.outbox import DENIED_S
from iotd.outgoing import Outgoing
from iotd.settings import Mqtt, Presence, Publish, Settings
from iotd.settings import Spool as Bounds
from iotd.spool import Spool


class Line:
    """An `Outgoing` and what it has handed over."""

    def __init__(self, path: Path, *publish: Publish) -> None:
        (path / "runtime").mkdir()
        (path / "state").mkdir()
        self.spool = Spool(path / "runtime", path / "state", Bounds(), "boot", 0.0)
        self.handed: list[tuple[int, Message]] = []
        self.outgoing = Outgoing(self.spool, lambda number, message: self.handed.append((number, message)))
        self.apply(*publish)

    def apply(self, *publish: Publish) -> None:
        self.outgoing.apply(Settings("t", Mqtt("localhost"), Presence("t/will"), publish), 0.0)

    def turn(self, now: float) -> list[int]:
        """Make what is due and hand over what may go; return the ids that went."""
        before = len(self.handed)
        self.outgoing.make_due(dict, now)
        self.outgoing.pump(now)
        return [number for number, _ in self.handed[before:]]

    def fall(self, now: float) -> None:
        self.outgoing.fall(True, now, None)

    def acknowledge(self, *numbers: int) -> None:
        for number in numbers:
            self.outgoing.acknowledged(number)


def queued(topic: str, every_s: float = 10.0, offline: str = "queue") -> Publish:
    return Publish(topic, every_s, {"n": "{sequence}"}, retain=False, offline=offline)


def test_what_is_made_offline_goes_out_in_order_and_is_forgotten_when_acknowledged(tmp_path: Path) -> None:
    line = Line(tmp_path, queued("a"))
    assert line.turn(0.0) == line.turn(10.0) == []
    line.outgoing.rise()
    assert line.turn(20.0) == [1, 2, 3]
    assert [json.loads(message.payload)["n"] for _, message in line.handed] == [1, 2, 3]
    line.acknowledge(1, 2)
    assert line.turn(21.0) == [] and line.spool.count == 1
    line.fall(22.0)
    line.outgoing.rise()
    assert line.turn(23.0) == [3]


def test_what_is_not_worth_keeping_is_dropped_offline_and_never_sent_twice(tmp_path: Path) -> None:
    line = Line(tmp_path, queued("a", offline="drop"))
    assert line.turn(0.0) == [] and line.spool.dropped == {"a": 1}
    line.outgoing.rise()
    sent = line.turn(10.0)
    assert len(sent) == 1 and line.spool.count == 0
    line.fall(10.5)
    line.outgoing.rise()
    assert line.turn(11.0) == [] and line.spool.dropped == {"a": 2}


def test_a_suspect_that_a_newer_message_replaced_does_not_slow_the_rest_for_ever(tmp_path: Path) -> None:
    line = Line(tmp_path, queued("a", offline="latest"), queued("b"))
    line.outgoing.rise()
    line.turn(0.0)
    line.fall(1.0)
    line.turn(10.0)
    line.outgoing.rise()
    for now in (11.0, 12.0, 13.0):
        line.acknowledge(*line.turn(now))
    line.turn(20.0)
    assert len(line.turn(30.0)) == 2, "more than one at a time"


def test_what_is_under_suspicion_stays_so_while_other_messages_come_and_go(tmp_path: Path) -> None:
    line = Line(tmp_path, queued("a", 1e6), queued("b", 1e6), queued("c", offline="drop"))
    line.outgoing.rise()
    line.turn(0.0)
    line.fall(1.0)
    line.outgoing.rise()
    line.acknowledge(*line.turn(10.0))
    assert len(line.turn(11.0)) == 1


def test_a_denied_topic_rests_also_where_its_messages_are_not_worth_keeping(tmp_path: Path) -> None:
    line = Line(tmp_path, queued("a", offline="drop"))
    sent = 0
    for now in range(0, 300, 10):
        line.outgoing.rise()
        if line.turn(float(now)):
            sent += 1
            line.fall(float(now))
    assert sent == 3 and list(line.outgoing.denied) == ["a"]
    line.outgoing.rise()
    line.turn(DENIED_S + 300.0)
    assert len(line.turn(DENIED_S + 310.0)) == 1


def test_when_a_rest_is_over_what_waited_goes_out_and_nothing_in_flight_goes_twice(tmp_path: Path) -> None:
    line = Line(tmp_path, queued("a"))
    for now in (0.0, 1.0, 10.0):
        line.outgoing.rise()
        assert len(line.turn(now)) == 1
        line.fall(now)
    assert list(line.outgoing.denied) == ["a"]
    line.outgoing.rise()
    line.apply(queued("a"), queued("b", 1e6))
    b = line.turn(20.0)
    assert [message.topic for number, message in line.handed if number in b] == ["b"]
    waiting = line.spool.count
    again = line.turn(10.0 + DENIED_S)
    assert len(again) == len(set(again)) == waiting and not set(again) & set(b)
