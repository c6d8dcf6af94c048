"""When a certificate is renewed, and how often that is tried."""

from __future__ import annotations

import math
from typing import Any

import pytest

from iotd.provision.renewal import Life, Moment, due_at, pause_s, rests_s

DAY = 86400.0
YEAR = Life(1000 * DAY, 1365 * DAY)
AWS = Life(1000 * DAY, 10_000 * DAY)


@pytest.mark.parametrize("life, renew, renew_after, expected", [
    (YEAR, 30 * DAY, 0.0, 1335 * DAY), (YEAR, 0.0, 0.0, math.inf), (AWS, 30 * DAY, 365 * DAY, 1365 * DAY),
    (YEAR, 30 * DAY, 365 * DAY, 1335 * DAY), (YEAR, 0.0, 100 * DAY, 1100 * DAY),
])
def test_it_is_due_before_its_end_and_at_its_age(
    life: Life, renew: float, renew_after: float, expected: float
) -> None:
    assert due_at(life, renew, renew_after) == expected


@pytest.mark.parametrize("life, renew_after, expected", [
    (YEAR, 0.0, 36.5 * DAY), (AWS, 365 * DAY, 36.5 * DAY), (Life(0.0, 3600.0), 0.0, 3600.0), (AWS, 0.0, 900 * DAY),
])
def test_an_attempt_follows_another_in_an_hour_or_a_tenth_of_the_life(
    life: Life, renew_after: float, expected: float
) -> None:
    assert pause_s(life, renew_after) == expected


@pytest.mark.parametrize("earlier, here, rests", [
    (Moment("b", 100.0, None), Moment("b", 700.0, None), 3000.0),
    (Moment("b", 0.0, None), Moment("b", 4000.0, 9e9), 0.0),
    (Moment("a", 9000.0, 1000.0), Moment("b", 5.0, 1600.0), 3000.0), (None, Moment("b", 5.0, 1600.0), 0.0),
    (Moment("a", 0.0, None), Moment("b", 5.0, 1600.0), 0.0),
    (Moment("a", 0.0, 2000.0), Moment("b", 5.0, 1000.0), 3600.0),
])
def test_a_rest_is_told_over_a_reboot_where_the_clocks_were_set(
    earlier: Moment | None, here: Moment, rests: float
) -> None:
    assert rests_s(earlier, here, 3600.0) == rests


@pytest.mark.parametrize("body", [None, {}, [], {"boot": "b", "uptime": "x", "wall": None}, {"boot": "b"}, 7])
def test_what_is_no_moment_is_none(body: Any) -> None:
    assert Moment.of(body) is None
    assert Moment.of(Moment("b", 1.0, None)._asdict()) == Moment("b", 1.0, None)
