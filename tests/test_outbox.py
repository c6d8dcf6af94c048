"""What goes out next: limits in every second, RETAIN, and the message or topic that brings the line down."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest

from iotd.model import Message
from iotd.outbox import (AWS, BLAME_S, DENIED_S, MAX_PAYLOAD_BYTES, UNLIMITED, Limits, Outbox, Waiting, acknowledged,
                         fell, resting, room, spent, take)


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
    assert (box.cursor, list(box.in_flight), again_at) == (5, [3, 5], None)


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
    assert chosen[0][1].retain and again_at is None
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
        now = max(now + chance.choice([0.0, 0.001, 0.05, 0.3]), min(again_at or now, now + 1.0))
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
        now = max(now + 1e-6, again_at or now)
    assert max(sum(at - 1.0 < other <= at for other in times) for at in times) <= 91


def test_a_limit_says_when_to_ask_again_and_keeps_its_word() -> None:
    box, chosen, again_at = take(Outbox(AWS), rows(*range(1, 60)), {}, 1000.0)
    assert len(chosen) == AWS.burst and again_at is not None and 1000.0 < again_at < 1000.1
    assert len(take(box, rows(*range(21, 60)), {}, again_at + 1e-6)[1]) == 1


def test_what_goes_past_the_outbox_uses_its_limit() -> None:
    box = spent(Outbox(AWS), 20, 100, 1000.0)
    assert take(box, rows(1), {}, 1000.0)[1] == []
    assert spent(Outbox(), 20, 100, 1000.0) == Outbox()


def test_a_line_that_falls_sends_everything_in_flight_again() -> None:
    box, aside, entries = fell(in_flight(1, 2, 3), False, 1.0)
    assert (box.cursor, dict(box.in_flight), aside, entries) == (0, {}, None, []) and room(box) == 100


def falls(box: Outbox, now: float = 1.0) -> tuple[Outbox, int | None, list[str]]:
    box, aside, entries = fell(box, True, now)
    return box, aside, [entry.event for entry in entries]


@pytest.mark.parametrize("poison", [1, 2, 3])
def test_the_message_that_brings_the_line_down_is_found_and_set_aside(poison: int) -> None:
    """The broker closes the line whenever it is sent this message; all others it acknowledges."""
    kept, box, drops = rows(1, 2, 3), Outbox(), 0
    delivered: set[int] = set()
    while kept and drops < 10:
        behind = [each for each in kept if each.id > box.cursor][:room(box)]
        box, chosen, _ = take(box, behind, {}, float(drops))
        if poison in [number for number, _ in chosen]:
            box, aside, events = falls(box, float(drops))
            drops += 1
            if aside is not None:
                assert (aside, events) == (poison, ["publish.set_aside"])
                kept = [each for each in kept if each.id != aside]
        else:
            delivered.update(number for number, _ in chosen)
            kept = [each for each in kept if each.id not in delivered]
            box = acknowledged(box, list(delivered))
    assert delivered == {1, 2, 3} - {poison} and drops == 3
    assert room(box) == 100, "nobody is under suspicion any more"


def test_a_line_that_the_broker_did_not_end_or_ended_late_accuses_nobody() -> None:
    for blamed, now in ((False, 1.0), (True, BLAME_S + 0.1)):
        box, aside, entries = fell(in_flight(1), blamed, now)
        assert (box.suspects, box.drops, aside, entries) == ({}, {}, None, [])


def test_an_acknowledged_message_is_beyond_suspicion() -> None:
    box, _, _ = falls(in_flight(1, 2))
    assert room(box) == 1
    for number in (1, 2):
        assert room(box) == 1
        box, _, _ = take(box, rows(number), {}, 2.0)
        box = acknowledged(box, [number])
    assert room(box) == 100


@pytest.mark.parametrize("first", [3, 4])
def test_a_suspect_that_is_in_the_spool_no_more_narrows_nothing(first: int) -> None:
    """A newer message took its place (latest), it was too old, or its topic rests."""
    box, _, _ = falls(in_flight(1, 2, 3))
    box, chosen, _ = take(box, rows(first), {}, 2.0)
    assert [number for number, _ in chosen] == [first] and 1 not in box.suspects and 2 not in box.suspects
    box = acknowledged(box, [first])
    assert room(box) == 100


def test_a_topic_of_which_every_message_brings_the_line_down_rests_for_an_hour() -> None:
    box, told = Outbox(), []
    for number in (1, 1, 2):
        box, _, _ = take(box, [row(number, "denied")], {}, 0.0)
        box, aside, events = falls(box)
        told += events + ([f"{aside} aside"] if aside else [])
    assert told == ["publish.set_aside", "1 aside", "publish.denied"]
    assert resting(box, 1.0 + DENIED_S - 1) == (box, ("denied",))
    box, topics = resting(replace(box, cursor=9), 1.0 + DENIED_S)
    assert (topics, box.cursor, room(box)) == ((), 0, 100)


def test_one_acknowledged_message_of_a_topic_clears_it() -> None:
    box = Outbox()
    for number in range(1, 9):
        box, _, _ = take(box, [row(number)], {}, 0.0)
        box, _, events = falls(box)
        assert events == []
        box, _, _ = take(box, [row(number)], {}, 0.0)
        box = acknowledged(box, [number])
    assert box.drops == {} and box.denied == {}


def test_what_is_in_flight_is_not_sent_again_when_the_rows_come_from_the_first() -> None:
    """So they do when the rest of a topic is over."""
    box, chosen, _ = take(replace(in_flight(2, 4), cursor=0), rows(1, 2, 3, 4, 5), {}, 1.0)
    assert [number for number, _ in chosen] == [1, 3, 5]
    box, chosen, _ = take(replace(box, cursor=0), rows(1, 2, 3), {}, 1.0)
    assert (chosen, box.cursor) == ([], 3)
