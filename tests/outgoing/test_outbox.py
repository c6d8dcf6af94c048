"""What goes out next: limits in every second, RETAIN, and the message or topic that brings the line down."""

from __future__ import annotations

import math
import random
from typing import Callable

import pytest

from iotd.outgoing.outbox import (
    AWS, BLAME_S, CARE_S, DENIED_S, MAX_PAYLOAD_BYTES, MUTE_S, QUIET_S, SHARE, UNLIMITED, Flight, Limits, Outbox,
    Verdict, Waiting, acknowledged, fell, resting, room, spent, suspects, take, unacknowledged,
)
from iotd.vocabulary import Message


def row(number: int, topic: str = "a", size: int = 10, qos: int = 1, retain: bool = False) -> Waiting:
    return Waiting(number, topic, b"x" * size, qos, retain)


def rows(*numbers: int) -> list[Waiting]:
    return [row(number, f"t{number}") for number in numbers]


def in_flight(*numbers: int, limits: Limits = UNLIMITED) -> Outbox:
    """Return an outbox that has just sent these, each on a topic of its own, at 0."""
    return take(Outbox(limits), rows(*numbers), {}, 0.0)[0]


def test_messages_go_out_as_they_are_in_order_and_move_the_cursor() -> None:
    box, chosen, again_at = take(Outbox(), [row(3, "a", qos=0), row(5, "b", retain=True)], {"b": 5}, 1.0)
    assert chosen == [(3, Message("a", b"x" * 10, 0, False)), (5, Message("b", b"x" * 10, 1, True))]
    assert (box.cursor, list(box.in_flight), again_at) == (5, [3, 5], math.inf)


def test_at_most_a_window_is_unacknowledged() -> None:
    box, chosen, _ = take(Outbox(), rows(*range(1, 151)), {}, 0.0)
    assert [number for number, _ in chosen] == list(range(1, 101)) and room(box) == 0
    box = acknowledged(box, [4, 9, 9, 77])
    assert room(box) == 3
    assert [number for number, _ in take(box, rows(*range(101, 151)), {}, 0.0)[1]] == [101, 102, 103]


@pytest.mark.parametrize("newest, carried", [
    ({"a": 3}, [False, False, True]),
    ({"a": 9}, [False, False, False]),
    ({"a": 2}, [False, True, True]),
    ({}, [True, True, True]),
    ({"b": 9}, [True, True, True]),
])
def test_only_the_newest_of_a_topic_carries_retain(newest: dict[str, int], carried: list[bool]) -> None:
    _, chosen, _ = take(Outbox(), [row(number, retain=True) for number in (1, 2, 3)], newest, 0.0)
    assert [message.retain for _, message in chosen] == carried


def test_a_topic_is_retained_once_a_second_and_what_is_behind_keeps_its_place() -> None:
    box, chosen, again_at = take(Outbox(AWS), [row(1, retain=True)], {"a": 1}, 10.0)
    assert chosen[0][1].retain and again_at == math.inf
    waiting = [row(2, retain=True), row(3, "b")]
    box, chosen, again_at = take(box, waiting, {"a": 2}, 10.4)
    assert (chosen, again_at) == ([], 11.0)
    _, chosen, _ = take(box, waiting, {"a": 2}, 11.0)
    assert [(number, message.retain) for number, message in chosen] == [(2, True), (3, False)]


def drained(seed: int, sizes: tuple[int, ...]) -> list[tuple[float, int, Message]]:
    """Drain a backlog under AWS limits, woken when it asks and whenever something is acknowledged; a busy second
    side takes its share. Return (time, size, message) of all that counts."""
    chance, box, now = random.Random(seed), Outbox(AWS), 1000.0
    waiting = [row(number, f"t{number % 5}", chance.choice(sizes), retain=True) for number in range(1, 600)]
    newest = {f"t{number % 5}": number for number in range(1, 600)}
    out: list[tuple[float, int, Message]] = []
    while box.cursor < 599:
        behind = [each for each in waiting if each.id > box.cursor][:room(box)]
        box, chosen, again_at = take(box, behind, newest, now)
        out += [(now, len(message.payload) + len(message.topic) + 8, message) for _, message in chosen]
        if chance.random() < 0.05:
            box = spent(box, 1, 300, now)
            out.append((now, 300, Message("shadow", b"")))
        if chance.random() < 0.5:
            box = acknowledged(box, list(box.in_flight))
        assert now < 2000.0
        asked = now if again_at == math.inf else min(again_at, now + 1.0)
        now = max(now + chance.choice([0.0, 0.001, 0.05, 0.3]), asked)
    return out


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("sizes", [(10,), (300, 5000), (MAX_PAYLOAD_BYTES, 10, 50_000)])
def test_aws_limits_hold_in_every_second(seed: int, sizes: tuple[int, ...]) -> None:
    out = drained(seed, sizes)
    assert [message.topic for _, _, message in out if message.retain].count("t1") == 1
    first = publishes = volume = 0
    for at, size, _ in out:
        publishes, volume = publishes + 1, volume + size
        while out[first][0] <= at - 1.0:
            publishes, volume = publishes - 1, volume - out[first][1]
            first += 1
        assert publishes < 100 and volume <= 512_000
    if max(sizes) < 1000:
        assert out[-1][0] - out[0][0] < 12.0, "599 at 70 a second"


def test_a_reader_that_is_quick_gets_no_more_than_the_limit() -> None:
    box, now, times = Outbox(AWS), 1000.0, []
    while box.cursor < 500:
        box, chosen, again_at = take(box, rows(*range(box.cursor + 1, box.cursor + 50)), {}, now)
        times += [now] * len(chosen)
        box = acknowledged(box, list(box.in_flight))
        now = max(now + 1e-6, now if again_at == math.inf else again_at)
    assert max(sum(at - 1.0 < other <= at for other in times) for at in times) <= 91


def test_a_limit_says_when_to_ask_again_and_keeps_its_word() -> None:
    box, chosen, again_at = take(Outbox(AWS), rows(*range(1, 60)), {}, 1000.0)
    assert len(chosen) == AWS.burst and 1000.0 < again_at < 1000.1
    assert len(take(box, rows(*range(21, 60)), {}, again_at + 1e-6)[1]) == 1


def test_what_goes_past_the_outbox_uses_its_limit() -> None:
    box = spent(Outbox(AWS), 20, 100, 1000.0)
    assert take(box, rows(1), {}, 1000.0)[1] == []
    assert spent(Outbox(), 20, 100, 1000.0) == Outbox()


def test_a_line_that_falls_sends_everything_in_flight_again() -> None:
    box, verdict = fell(in_flight(1, 2, 3), False, 1.0)
    assert (box.cursor, dict(box.in_flight), verdict, room(box)) == (0, {}, Verdict(), 100)


class Lines:
    """Lines to a broker that ends them over what `ends` says, and acknowledges everything before that."""

    def __init__(self, ends: Callable[[Waiting], bool], *kept: Waiting) -> None:
        self.box, self.ends, self.kept = Outbox(), ends, list(kept)
        self.aside: list[int] = []
        self.told: list[str] = []
        self.delivered: list[int] = []
        self.now = 0.0

    def live(self, lasts_s: float = 20.0) -> None:
        """Live through one line of at most `lasts_s`; it ends by itself, blamed on the broker."""
        began = self.now
        while self.now < began + lasts_s:
            self.box, topics = resting(self.box, self.now)
            waiting = [each for each in self.kept if each.id > self.box.cursor and each.topic not in topics]
            self.box, chosen, again_at = take(self.box, waiting[:room(self.box)], {}, self.now)
            for number, _ in chosen:
                each = next(each for each in self.kept if each.id == number)
                if self.ends(each):
                    return self.fall()
                self.delivered.append(number)
                self.kept.remove(each)
                self.box = acknowledged(self.box, [number])
            self.now = self.now + 1.0 if again_at == math.inf else again_at
        self.now = began + lasts_s
        self.fall()

    def fall(self) -> None:
        self.box, verdict = fell(self.box, True, self.now)
        self.told += [entry.event for entry in verdict.entries]
        if verdict.aside is not None:
            self.aside += [each.id for each in self.kept if each.id == verdict.aside]
            self.kept = [each for each in self.kept if each.id != verdict.aside]
        self.now += 1.0


@pytest.mark.parametrize("poison", [1, 2, 3])
def test_the_message_that_brings_the_line_down_is_found_and_set_aside(poison: int) -> None:
    lines = Lines(lambda each: each.id == poison, *rows(1, 2, 3))
    for _ in range(8):
        lines.live()
    assert sorted(lines.delivered) == sorted({1, 2, 3} - {poison})
    assert (lines.aside, lines.told, lines.kept) == ([poison], ["publish.set_aside"], [])


@pytest.mark.parametrize("lasts_s", [0.5, QUIET_S - 1])
def test_a_line_that_falls_by_itself_accuses_nobody(lasts_s: float) -> None:
    """Acknowledgements are slower than the line lives: everything is in flight whenever it falls."""
    box, now = Outbox(), 0.0
    for _ in range(50):
        box, chosen, _ = take(box, rows(1, 2, 3)[:room(box)], {}, now)
        box, _, _ = take(box, rows(1, 2, 3)[:room(box)], {}, now + lasts_s) if not chosen else (box, [], None)
        box, verdict = fell(box, True, now + lasts_s)
        assert verdict == Verdict() and box.strikes == {}
        now += lasts_s + 1


def test_every_other_line_delivers_without_a_trial() -> None:
    box, careful = Outbox(), []
    for now in range(6):
        careful.append(box.careful)
        box, _, _ = take(box, rows(1, 2), {}, now * 100.0)
        box, _, _ = take(box, rows(1, 2)[:room(box)], {}, now * 100.0 + QUIET_S)
        box, _ = fell(box, True, now * 100.0 + QUIET_S)
    assert careful == [False, False, True, False, True, False]


def test_a_line_that_the_broker_did_not_end_or_ended_late_is_no_fall() -> None:
    for blamed, now in ((False, 1.0), (True, BLAME_S + 0.1)):
        box, verdict = fell(in_flight(1), blamed, now)
        assert (box.falls, box.careful, verdict) == (0, False, Verdict())


def test_a_careful_line_is_quiet_then_sends_one_at_a_time_then_as_ever() -> None:
    box = Outbox()._replace(careful=True, falls=2)
    box, chosen, again_at = take(box, rows(1, 2), {}, 0.0)
    assert (chosen, again_at) == ([], QUIET_S)
    for number, now in ((1, QUIET_S), (2, QUIET_S + 1)):
        box, chosen, _ = take(box, rows(number, 9), {}, now)
        assert [each for each, _ in chosen] == [number] and room(box) == 0
        box = acknowledged(box, [number])
        assert room(box) == 1
    box, chosen, _ = take(box, rows(3, 4), {}, CARE_S)
    assert len(chosen) == 2 and room(box) == 98


def test_a_topic_of_which_every_message_brings_the_line_down_rests_for_an_hour_and_loses_nothing() -> None:
    lines = Lines(lambda each: each.topic == "denied", row(1, "denied"), row(2, "denied"), row(3, "fine"))
    for _ in range(9):
        lines.live()
    assert lines.told == ["publish.set_aside", "publish.denied"] and lines.aside == [1]
    box = Outbox()._replace(careful=True, trial=2, drops={"denied": 2}, in_flight={2: Flight("denied", 0.0)})
    box, verdict = fell(box, True, 1.0)
    assert (verdict.back, list(box.denied)) == ("denied", ["denied"])
    box, topics = resting(box._replace(cursor=9), DENIED_S)
    assert (topics, box.cursor) == (("denied",), 9)
    box, topics = resting(box, 1.0 + DENIED_S)
    assert (topics, box.cursor) == ((), 0)
    box = box._replace(careful=True, trial=3, in_flight={3: Flight("denied", 1.0 + DENIED_S)})
    assert "denied" in fell(box, True, 1.0 + DENIED_S)[0].denied, "what has rested is known"


def test_one_acknowledged_message_of_a_topic_clears_it() -> None:
    box = in_flight(1)._replace(drops={"t1": 2}, strikes={1: 1})
    box = acknowledged(box, [1])
    assert (box.drops, box.strikes) == ({}, {})


def test_what_is_in_flight_is_not_sent_again_when_the_rows_come_from_the_first() -> None:
    """So they do when the rest of a topic is over."""
    box, chosen, _ = take(in_flight(2, 4)._replace(cursor=0), rows(1, 2, 3, 4, 5), {}, 1.0)
    assert [number for number, _ in chosen] == [1, 3, 5]
    box, chosen, _ = take(box._replace(cursor=0), rows(1, 2, 3), {}, 1.0)
    assert (chosen, box.cursor) == ([], 3)


class Topics:
    """A broker that acknowledges a second later what is not of the `mute` topics; each topic has a message a tick.

    `most` is the most places that each topic has held at a time, `waits` the longest that a message has waited until
    it went.
    """

    def __init__(self, limits: Limits, mute: set[str], *topics: str, backlog: int = 0) -> None:
        self.box = Outbox(limits, frozenset(topics))
        self.mute, self.topics = mute, topics
        self.kept: list[Waiting] = []
        self.made: dict[int, float] = {}
        self.most: dict[str, int] = dict.fromkeys(topics, 0)
        self.waits: dict[str, float] = dict.fromkeys(topics, 0.0)
        self.sent: list[int] = []
        self.now = 0.0
        self._last = 0
        for _ in range(backlog):
            self._make()

    def live(self, for_s: float, every_s: float = 0.25) -> None:
        end = self.now + for_s
        while self.now < end:
            self._make()
            done = [number for number, flight in self.box.in_flight.items()
                    if self.now - flight.sent_at >= 1.0 and flight.topic not in self.mute]
            self.box = acknowledged(self.box, done)
            self.kept = [row for row in self.kept if row.id not in done]
            self.pump()
            self.now += every_s

    def pump(self) -> None:
        self.box, left_out = resting(self.box, self.now)
        while self.box.cursor < self._last:
            rows = [row for row in self.kept if row.id > self.box.cursor and row.topic not in left_out][:room(self.box)]
            if room(self.box) and not rows:
                self.box = self.box._replace(cursor=self._last)
            cursor = self.box.cursor
            self.box, chosen, _ = take(self.box, rows, {}, self.now)
            self.sent += [number for number, _ in chosen]
            for number, message in chosen:
                self.waits[message.topic] = max(self.waits[message.topic], self.now - self.made[number])
            for topic in self.topics:
                held = sum(flight.topic == topic for flight in self.box.in_flight.values())
                self.most[topic] = max(self.most[topic], held)
            if self.box.cursor == cursor:
                return

    def _make(self) -> None:
        for topic in self.topics:
            self._last += 1
            self.made[self._last] = self.now
            self.kept.append(row(self._last, topic))


@pytest.mark.parametrize("limits", [UNLIMITED, AWS])
def test_a_topic_that_is_never_acknowledged_has_its_share_of_the_places_and_the_others_go_on(limits: Limits) -> None:
    topics = Topics(limits, {"mute"}, "mute", "well")
    topics.live(70.0)
    share = limits.window // SHARE
    assert topics.most["mute"] == share
    assert len([number for number in topics.sent if number % 2 == 0]) > 270, "of 280"
    assert topics.waits["well"] <= MUTE_S + 1.0
    assert topics.sent.count(1) == 1


def test_what_was_left_out_goes_in_order_once_the_topic_is_answered_again() -> None:
    topics = Topics(UNLIMITED, {"mute"}, "mute", "well")
    topics.live(40.0)
    topics.mute.clear()
    topics.live(60.0)
    mine = [number for number in topics.sent if number % 2]
    assert mine == sorted(mine) and len(mine) == len(set(mine)) > 390


def test_three_topics_that_are_never_acknowledged_leave_places_to_a_fourth() -> None:
    topics = Topics(UNLIMITED, {"a", "b", "c"}, "a", "b", "c", "well")
    topics.live(70.0)
    assert len([number for number in topics.sent if number % 4 == 0]) > 250


def test_a_topic_that_is_alone_may_have_every_place() -> None:
    topics = Topics(UNLIMITED, {"mute"}, "mute", backlog=200)
    topics.live(1.0)
    assert topics.most["mute"] == UNLIMITED.window


def test_a_backlog_of_one_topic_among_others_drains_in_order_and_as_fast_as_aws_allows() -> None:
    topics = Topics(AWS, set(), "a", "b", backlog=1)
    topics.kept = [row(number, "a") for number in range(1, 701)]
    topics.made = dict.fromkeys(range(1, 701), 0.0)
    topics._last = 700
    topics.topics = ()
    for _ in range(60):
        topics.box = acknowledged(topics.box, [number for number, flight in topics.box.in_flight.items()
                                               if topics.now - flight.sent_at >= 0.25])
        topics.pump()
        topics.now += 0.25
    assert topics.sent == list(range(1, 701))


def test_a_message_that_is_never_acknowledged_is_set_aside_and_then_its_topic_denied() -> None:
    box = in_flight(1, 2, 3)
    box = acknowledged(box, [2, 3])
    box, verdict = unacknowledged(box, 1, 70.0)
    assert (verdict, box.strikes, box.drops) == (Verdict(), {1: 1}, {"t1": 1})
    box, verdict = unacknowledged(box, 1, 140.0)
    assert verdict.aside == 1 and [entry.fields["topic"] for entry in verdict.entries] == ["t1"]
    box, verdict = unacknowledged(box, 1, 210.0)
    assert (verdict.back, list(box.denied)) == ("t1", ["t1"])
    assert "acknowledges" in verdict.entries[0].message
    assert unacknowledged(box, 99, 300.0) == (box, Verdict())


def test_a_broker_that_is_silent_to_every_topic_accuses_none() -> None:
    box = in_flight(1, 2)
    assert unacknowledged(box, 1, 70.0) == (box, Verdict())
    assert unacknowledged(in_flight(1), 1, 70.0)[0].strikes == {1: 1}, "nothing else was silent"


def test_a_line_ends_over_what_has_just_gone_and_is_not_known_to_be_taken() -> None:
    box = take(Outbox(topics=frozenset(["t1", "t2"])), rows(1, 2), {}, 0.0)[0]
    assert suspects(box, BLAME_S) == {"t1", "t2"} and suspects(box, BLAME_S + 0.1) == set()
    box = take(acknowledged(box, [1]), [row(3, "t1")], {}, 1.0)[0]
    assert suspects(box, 1.0) == {"t2"}


@pytest.mark.parametrize(("qos", "size", "largest", "said"), [
    (1, 5000, 2000, "it has 5000 bytes, and the largest that was taken 2000"), (1, 100, 2000, ""),
    (1, 100, 0, "it has taken nothing at QoS 1 yet"), (0, 5000, 2000, "it has 5000 bytes")])
def test_what_of_the_broker_may_be_the_cause_is_told(qos: int, size: int, largest: int, said: str) -> None:
    box = Outbox()._replace(careful=True, trial=2, strikes={2: 1}, largest=largest,
                            in_flight={2: Flight("a", 0.0, size, qos)})
    [entry] = fell(box, True, 1.0)[1].entries
    assert entry.event == "publish.set_aside" and entry.fields["bytes"] == size and entry.fields["qos"] == qos
    assert said in entry.message if said else entry.message.endswith("not sent again")


def test_the_largest_that_was_taken_is_known_and_what_goes_at_qos_0_is_not_known_to_be_taken() -> None:
    box = Outbox()._replace(in_flight={1: Flight("a", 0.0, 50), 2: Flight("a", 0.0, 30), 3: Flight("a", 0.0, 90, 0)})
    assert acknowledged(box, [1, 2, 3]).largest == 50
