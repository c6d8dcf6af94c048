"""When what recurs is due: at once, then on its own grid for ever."""

from __future__ import annotations

import math
import random

import pytest

from iotd.schedule import EMPTY, Timetable, changed, put_off, take


def test_what_is_new_is_due_at_once_and_then_every_period() -> None:
    table = changed(EMPTY, {"a": 30.0}, 5.0)
    seen = []
    for now in (5.0, 5.1, 34.9, 35.0, 65.0):
        due, table = take(table, now)
        seen.append(due)
    assert seen == [["a"], [], [], ["a"], ["a"]]
    assert table.next_due == 95.0


def test_lateness_does_not_add_up() -> None:
    table = changed(EMPTY, {"a": 30.0}, 0.0)
    for turn in range(1000):
        due, table = take(table, turn * 30.0 + 0.4)
        assert due == ["a"]
    assert table.next_due == 30000.0


def test_a_key_that_missed_many_of_its_times_is_due_once_and_stays_on_its_grid() -> None:
    table = changed(EMPTY, {"a": 30.0, "b": 7.0}, 0.0)
    _, table = take(table, 0.0)
    due, table = take(table, 100.0)
    assert due == ["a", "b"]
    assert (table.due_at, table.next_due) == ({"a": 120.0, "b": 105.0}, 105.0)


@pytest.mark.parametrize("every_s, due_at", [
    ({"a": 30.0}, {"a": 30.0}),
    ({"a": 10.0}, {"a": 12.0}),
    ({"a": 30.0, "b": 5.0}, {"a": 30.0, "b": 12.0}),
    ({"b": 30.0}, {"b": 12.0}),
    ({}, {}),
])
def test_a_new_configuration_keeps_the_time_of_a_known_key_with_its_old_period(
        every_s: dict[str, float], due_at: dict[str, float]) -> None:
    _, old = take(changed(EMPTY, {"a": 30.0}, 0.0), 0.0)
    assert changed(old, every_s, 12.0) == Timetable(every_s, due_at, min(due_at.values(), default=math.inf))


def test_a_key_that_is_put_off_goes_on_from_there() -> None:
    _, table = take(changed(EMPTY, {"a": 30.0, "b": 50.0}, 0.0), 0.0)
    table = put_off(table, "a", 70.0)
    assert table == Timetable({"a": 30.0, "b": 50.0}, {"a": 70.0, "b": 50.0}, 50.0)
    due, table = take(table, 71.0)
    assert due == ["a", "b"] and table.due_at["a"] == 100.0


def test_nothing_that_recurs_is_never_due() -> None:
    assert EMPTY.next_due == math.inf
    assert take(EMPTY, 1e9) == ([], EMPTY)


def test_what_was_taken_is_due_later_than_now_whatever_the_rounding() -> None:
    chance = random.Random(1)
    for _ in range(20000):
        period = chance.choice([0.1, 0.5, 0.7, 1.1, 30.0]) * chance.choice([1, 1 / 3])
        start = chance.choice([0.0, 0.1, chance.uniform(0, 1e8)])
        now = start + period * chance.randrange(50)
        due, table = take(changed(EMPTY, {"a": period}, start), now)
        assert due == ["a"] and now < table.due_at["a"] <= now + period * 1.000001, (period, start, now)
