"""The way out, with a real spool and a list in place of the session."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Callable, Iterator

import pytest

from iotd.outgoing.outbox import DENIED_S
from iotd.outgoing.part import build
from iotd.outgoing.section import Publish
from iotd.outgoing.spool import AGES_S, SETTLE_S
from tests.kernel import FakeKernel, settings


class Line:
    """The part, and what it has handed over."""

    def __init__(self, path: Path, *publish: Publish) -> None:
        self.clock_asked = 0  # how often it was asked whether the wall clock is set
        self.kernel = FakeKernel(path)
        self.kernel.world = self.kernel.world._replace(wall_is_set=self._ask_the_clock)
        self.handed = self.kernel.handed
        self.part = build(self.kernel, None)
        self.apply(*publish)

    @property
    def dropped(self) -> object:
        return self.part.status()["dropped"]

    def apply(self, *publish: Publish) -> None:
        self.part.apply(settings({"publish": publish}), 0.0)
        self.part.next_due()

    def turn(self, now: float) -> list[int]:
        """Let the part do what is due, as the main loop does; return the ids that went."""
        before = len(self.handed)
        self.part.keep(now)
        self.part.next_due()
        return [number for number, _ in self.handed[before:]]

    def rise(self) -> None:
        self.kernel.rise()

    def fall(self, now: float) -> None:
        self.kernel.fall()
        self.part.closed(True, now)

    def acknowledge(self, *numbers: int) -> None:
        self.kernel.taken += numbers

    def _ask_the_clock(self) -> bool:
        self.clock_asked += 1
        return False


Begin = Callable[..., Line]


@pytest.fixture
def begin(tmp_path: Path) -> Iterator[Begin]:
    """A line with these entries, whose spool is closed in the end."""
    lines: list[Line] = []

    def begin(*publish: Publish) -> Line:
        lines.append(Line(tmp_path, *publish))
        return lines[-1]
    yield begin
    for line in lines:
        line.part.close(0.0)


def queued(topic: str, every_s: float = 10.0, offline: str = "queue") -> Publish:
    return Publish(topic, every_s, {"n": "{sequence}"}, retain=False, offline=offline)


def test_what_is_made_offline_goes_out_in_order_and_is_forgotten_when_acknowledged(begin: Begin) -> None:
    line = begin(queued("a"))
    assert line.turn(0.0) == line.turn(10.0) == []
    line.rise()
    assert line.turn(20.0) == [1, 2, 3]
    assert [json.loads(message.payload)["n"] for _, message in line.handed] == [1, 2, 3]
    line.acknowledge(1, 2)
    assert line.turn(21.0) == [] and line.part.waiting() == 1
    line.fall(22.0)
    line.rise()
    assert line.turn(23.0) == [3]


def test_what_is_not_worth_keeping_is_dropped_offline_and_never_sent_twice(begin: Begin) -> None:
    line = begin(queued("a", offline="drop"))
    assert line.turn(0.0) == [] and line.dropped == {"a": 1}
    line.rise()
    sent = line.turn(10.0)
    assert len(sent) == 1 and line.part.waiting() == 0
    line.fall(10.5)
    line.rise()
    assert line.turn(11.0) == [] and line.dropped == {"a": 2}


def test_what_is_dropped_as_the_line_falls_counts_for_the_outage_at_once(begin: Begin) -> None:
    """The fall may be that of a goodbye before a reboot, after which there is no other turn."""
    line = begin(queued("a", offline="drop"))
    line.rise()
    assert line.turn(0.0) and line.kernel.outages.dropped == 0
    line.fall(0.5)
    assert line.kernel.outages.dropped == 1


def bring_down(line: Line, topic: str, now: float) -> float:
    """Let the broker end every line over this topic, and acknowledge all others; return the time afterwards."""
    for _ in range(400):
        line.rise()
        now += 1.0
        sent = line.turn(now)
        guilty = [number for number, message in line.handed if number in sent and message.topic == topic]
        line.acknowledge(*(number for number in sent if number not in guilty))
        if guilty:
            line.fall(now)
    return now


def test_what_a_newer_message_replaced_on_a_careful_line_holds_nothing_up(begin: Begin) -> None:
    line = begin(queued("a", 30.0, offline="latest"), queued("b", 1.0))
    now = bring_down(line, "nothing", 0.0)
    assert line.part.waiting() <= 2 and now == 400.0


@pytest.mark.parametrize("offline", ["queue", "drop"])
def test_a_denied_topic_rests_and_then_all_of_it_that_was_kept_goes_out_once(begin: Begin, offline: str) -> None:
    line = begin(queued("a", 7.0, offline=offline), queued("b", 7.0))
    now = bring_down(line, "a", 0.0)
    assert line.part.problems() == ["publish to a denied"]
    assert {message.topic for _, message in line.handed[-5:]} == {"b"}
    kept = line.part.waiting()
    line.apply()
    handed = len(line.handed)
    for _ in range(kept + 2):
        now += DENIED_S
        line.acknowledge(*line.turn(now))
    again = [number for number, _ in line.handed[handed:]]
    assert len(again) == len(set(again)) == kept
    assert (kept > 0) == (offline == "queue")


def test_the_wall_clock_is_asked_for_what_goes_to_the_disk_and_not_for_a_look_at_ages(begin: Begin) -> None:
    """To ask it takes ctypes, a quarter of a megabyte that a healthy line does without."""
    line = begin(queued("a", every_s=AGES_S))
    line.rise()
    line.acknowledge(*line.turn(0.0))
    assert line.turn(SETTLE_S) == []
    assert line.turn(AGES_S) and line.part.next_due() == AGES_S, "ages are not looked at, nothing is tested"
    line.turn(AGES_S)
    assert line.clock_asked == 0 and line.part.next_due() == AGES_S + SETTLE_S
    line.turn(AGES_S + SETTLE_S)
    assert line.clock_asked == 1


def test_a_limit_of_an_earlier_line_is_no_reason_to_turn_while_the_next_one_is_not_open_yet(begin: Begin) -> None:
    """What is due and cannot be done would have the main loop turn without end."""
    line = begin(queued("a"))
    line.part.apply(settings({"publish": (queued("a"),)}, aws_limits=True), 0.0)
    line.rise()
    line.kernel.went_past = (200, 0)
    assert line.turn(0.0) == [] and 0.0 < line.part.next_due() < SETTLE_S, "nothing is held back"
    line.fall(1.0)
    line.kernel.connected = True  # and not clear: its filters are not answered for
    assert line.turn(8.0) == [] and line.part.next_due() > 8.0
