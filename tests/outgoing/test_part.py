"""The way out, with a real spool and a list in place of the session."""

from __future__ import annotations

import contextlib
import json
import math
import sqlite3
from pathlib import Path
from typing import Callable, Iterator

import pytest

from iotd.outgoing.outbox import DENIED_S
from iotd.outgoing.part import AHEAD, AHEAD_S, build
from iotd.outgoing.section import Bounds, Publish
from iotd.outgoing.spool import AGES_S, SETTLE_S
from iotd.vocabulary import Message, Offer, Taken
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

    def publish(self, *offers: Offer, now: float = 0.0) -> list[Taken]:
        """Offer a program's messages."""
        taken = self.part.publish(offers, now)
        assert taken is not None
        return taken

    def bound(self, bounds: Bounds) -> None:
        self.part.apply(settings({"spool": bounds}), 0.0)

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


def retained(topic: str, offline: str = "queue", every_s: float = 1e6) -> Publish:
    return Publish(topic, every_s, {"n": "{sequence}"}, offline=offline)


def after_the_session_was_lost(line: Line, now: float) -> list[tuple[str, int, bool]]:
    """Let a line fall, rise and have lost its session; return topic, sequence and RETAIN of what goes out on it."""
    line.fall(now)
    line.rise()
    line.part.session_lost(now)
    before = len(line.handed)
    line.turn(now)
    return [(message.topic, json.loads(message.payload)["n"], message.retain) for _, message in line.handed[before:]]


@pytest.mark.parametrize("offline", ["queue", "latest", "drop"])
def test_what_stands_retained_goes_out_again_where_the_session_was_lost(begin: Begin, offline: str) -> None:
    line = begin(retained("a", offline), queued("b", 1e6))
    line.rise()
    line.acknowledge(*line.turn(0.0))
    line.turn(1.0)
    assert after_the_session_was_lost(line, 2.0) == [("a", 1, True)]
    line.acknowledge(*(number for number, _ in line.handed))
    line.turn(3.0)
    assert line.part.waiting() == 0 and line.dropped == {}
    assert after_the_session_was_lost(line, 4.0) == [("a", 1, True)], "as often as it is lost"


def test_what_waits_for_the_broker_anyway_goes_out_once(begin: Begin) -> None:
    line = begin(retained("a", every_s=10.0))
    line.rise()
    line.acknowledge(*line.turn(0.0))
    line.turn(1.0)
    assert line.turn(10.0) != []
    assert after_the_session_was_lost(line, 11.0) == [("a", 2, True)]


def test_what_was_dropped_never_stood_retained(begin: Begin) -> None:
    line = begin(retained("a", "drop", every_s=10.0))
    line.rise()
    line.acknowledge(*line.turn(0.0))
    line.turn(1.0)
    line.fall(2.0)
    line.turn(10.0)
    assert line.dropped == {"a": 1}
    assert after_the_session_was_lost(line, 11.0) == [("a", 1, True)]


def test_what_the_configuration_has_no_more_is_not_sent_again(begin: Begin) -> None:
    line = begin(retained("a"))
    line.rise()
    line.acknowledge(*line.turn(0.0))
    line.turn(1.0)
    line.apply(Publish("a", 1e6, {"n": "{sequence}"}, retain=False))
    line.acknowledge(*line.turn(2.0))
    assert after_the_session_was_lost(line, 3.0) == []


def test_a_message_that_is_never_acknowledged_is_set_aside_with_its_second_line(begin: Begin) -> None:
    line = begin(queued("a", 1e6), queued("b", 1e6))
    for now in (0.0, 100.0, 200.0):
        line.rise()
        line.acknowledge(*(number for number in line.turn(now) if number != 1))
        line.part.unacknowledged(1, now + 70.0)
        line.fall(now + 70.0)
    assert [number for number, _ in line.handed] == [1, 2, 1] and line.part.waiting() == 0


def test_what_a_limit_held_back_is_not_due_while_the_line_is_not_clear(begin: Begin) -> None:
    """Else the main loop would turn without a pause until it is."""
    line = begin()
    line.part.apply(settings({"publish": (retained("a", every_s=0.75),)}, aws_limits=True), 100.0)
    line.rise()
    line.acknowledge(*line.turn(100.0))
    assert line.turn(100.75) == [] and line.part.next_due() == 101.0
    line.kernel.clear = False
    assert line.part.next_due() == 101.5


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
    assert line.clock_asked == 0, "to open the disk is a turn of its own"
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
    line.kernel.clear = False
    line.turn(8.0)  # opens the disk
    assert line.turn(8.0) == [] and line.part.next_due() > 8.0


def on_disk(path: Path) -> int:
    """Return how many messages a power cut would leave."""
    with contextlib.closing(sqlite3.connect(path / "state" / "spool.db")) as database:
        return int(database.execute("SELECT count(*) FROM message").fetchone()[0])


@pytest.mark.parametrize("falls", [True, False])
def test_the_first_use_of_the_disk_is_spread_over_turns_so_that_the_watchdog_is_fed_between(
    begin: Begin, tmp_path: Path, falls: bool
) -> None:
    """On a worn card one fsync takes seconds; nine in one turn took over a minute."""
    line = begin(queued("a"))
    line.rise()
    line.turn(0.0)
    now = 1.0 if falls else SETTLE_S
    if falls:
        line.fall(now)
        line.part.next_due()
    assert line.part.next_due() <= now
    line.turn(now)
    assert on_disk(tmp_path) == 0 and line.part.next_due() <= now
    line.turn(now)
    assert on_disk(tmp_path) == 1 and line.part.next_due() > now


def test_what_was_due_together_is_kept_together(begin: Begin, tmp_path: Path) -> None:
    line = begin()
    line.part.apply(settings({"spool": Bounds(strict=True), "publish": tuple(queued(topic) for topic in "abc")}), 0.0)
    said: list[str] = []
    line.turn(0.0)
    store = line.part._spool._stores.disk
    assert store is not None
    store._db.set_trace_callback(said.append)
    line.turn(10.0)
    assert said.count("COMMIT") == 1 and on_disk(tmp_path) == 6


def test_a_thing_that_is_renamed_while_it_runs_leaves_its_backlog_aside(begin: Begin) -> None:
    line = begin(queued("a"))
    line.turn(0.0)
    line.turn(10.0)
    renamed = settings({"publish": (queued("a"),)})._replace(thing="other")
    line.part.apply(renamed, 15.0)
    line.rise()
    assert line.turn(20.0) == [3] and line.part.waiting() == 1
    assert line.part.status()["set_aside"] == {"test-thing": 2}
    assert "set aside: 2 messages of the thing test-thing" in line.part.sentences()
    line.fall(21.0)
    line.part.apply(settings({"publish": (queued("a"),)}), 25.0)
    line.rise()
    assert line.turn(26.0) == [1, 2] and line.part.status()["set_aside"] == {"other": 1}


def offer(topic: str, offline: str = "queue", size: int = 1) -> Offer:
    return Offer(Message(topic, b"x" * size), offline)


def test_what_a_program_offers_waits_or_goes_as_it_says_and_its_ids_are_told(begin: Begin) -> None:
    line = begin()
    down = line.publish(offer("a"), offer("b", "latest"), offer("c", "drop"), offer("b", "latest"))
    assert down == [Taken(1), Taken(2), Taken(dropped="the line is down"), Taken(4)]
    assert line.part.waiting() == 2 and line.dropped == {"c": 1}
    line.rise()
    assert line.turn(1.0) == [1, 4]
    assert line.publish(offer("c", "drop"), now=2.0) == [Taken()]
    assert [message.topic for _, message in line.handed] == ["a", "b", "c"]
    line.kernel.leaving = True
    assert line.publish(offer("c", "drop"), offer("a"), now=3.0) == [
        Taken(dropped="iotd is stopping, or about to reconnect"), Taken(6)]


def test_a_message_of_a_program_that_could_never_be_kept_is_refused_and_takes_nothing_along(begin: Begin) -> None:
    line = begin()
    line.bound(Bounds(max_bytes=2000))
    kept, large, other = line.publish(offer("a"), offer("a", size=2000), offer("a"))
    assert (kept, other) == (Taken(1), Taken(3)) and "spool.max_bytes, 2000" in large.refused


def test_programs_wait_for_room_at_half_of_the_bound_while_the_line_is_up(begin: Begin) -> None:
    line = begin()
    line.bound(Bounds(max_bytes=10_000))
    line.publish(*(offer("a", size=1000) for _ in range(5)))
    assert line.part.crowded_until(1.0) == 0.0, "offline the bounds of the spool are all there is"
    line.rise()
    assert line.part.crowded_until(1.0) == math.inf
    line.acknowledge(*line.turn(1.0))
    line.turn(2.0)
    assert line.part.crowded_until(2.0) == 0.0


def test_programs_wait_a_little_where_they_run_ahead_of_a_line_that_takes_all(begin: Begin) -> None:
    line = begin()
    line.rise()
    line.publish(*(offer("a") for _ in range(AHEAD + 1)))
    assert line.part.crowded_until(7.0) == 7.0 + AHEAD_S
    line.acknowledge(*line.turn(8.0))
    line.turn(9.0)
    assert line.part.crowded_until(9.0) == 0.0
