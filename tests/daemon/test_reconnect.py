"""When the broker is dialled again: the formula of the contract, and what forgets a failure."""

from __future__ import annotations

import math
import random

import pytest

from iotd.daemon.reconnect import Attempts, connected, dialling, first, lost, wait_s
from iotd.mqtt.settings import Backoff

DEFAULT = Backoff(1.0, 120.0)


@pytest.mark.parametrize("backoff, failures, chance, wait", [
    (DEFAULT, 0, 0.999, 1.0),
    (DEFAULT, 1, 0.0, 1.0),
    (DEFAULT, 1, 0.5, 1.5),
    (DEFAULT, 1, 1.0, 2.0),
    (DEFAULT, 4, 1.0, 16.0),
    (DEFAULT, 4, 0.5, 8.5),
    (DEFAULT, 7, 1.0, 120.0),
    (DEFAULT, 10**9, 1.0, 120.0),
    (Backoff(5.0, 60.0), 2, 0.5, 10.5),
    (Backoff(0.1, 120.0), 1, 1.0, 1.0),
    (Backoff(1.0, 0.5), 9, 1.0, 1.0),
])
def test_the_wait_is_full_jitter_over_one_second(backoff: Backoff, failures: int, chance: float,
                                                 wait: float) -> None:
    assert wait_s(backoff, failures, chance) == pytest.approx(wait)


@pytest.mark.parametrize("spread_s, phase, dial_at", [(0.0, 0.7, 100.0), (60.0, 0.0, 100.0), (60.0, 0.25, 115.0)])
def test_each_device_takes_its_own_part_of_the_spread(spread_s: float, phase: float, dial_at: float) -> None:
    assert first(100.0, spread_s, phase).dial_at == dial_at


def test_nothing_is_dialled_while_a_dialling_is_under_way_or_the_line_is_up() -> None:
    attempts = dialling(first(0.0, 0.0, 0.0))
    assert attempts.dial_at == math.inf
    assert connected(attempts, 5.0).dial_at == math.inf


@pytest.mark.parametrize("up_s, failures, most_s", [
    (None, 4, 16.0), (0.0, 4, 16.0), (29.9, 4, 16.0), (30.0, 1, 16.0), (1e6, 1, 16.0)])
def test_only_a_line_that_was_up_for_thirty_seconds_forgets_the_failures(
    up_s: float | None, failures: int, most_s: float
) -> None:
    attempts = dialling(Attempts(failures=3, dial_at=0.0))
    if up_s is not None:
        attempts = connected(attempts, 100.0)
    ended = 100.0 + (up_s or 0.0)
    assert lost(attempts, DEFAULT, "reset", ended, 1.0) == Attempts(failures, ended + most_s)


def test_a_fleet_that_loses_its_broker_comes_back_no_more_than_ten_in_any_tenth_of_a_second() -> None:
    """Two hundred daemons, and a broker that is back before the first of them dials."""
    for seed in range(50):
        chance = random.Random(seed)
        fleet = (lost(connected(Attempts(), 0.0), DEFAULT, "closed", 100.0, chance.random()) for _ in range(200))
        times = sorted(attempts.dial_at for attempts in fleet)
        assert max(sum(at <= other < at + 0.1 for other in times) for at in times) <= 10


def test_a_second_line_does_not_inherit_the_age_of_the_first() -> None:
    attempts = dialling(lost(connected(Attempts(), 0.0), DEFAULT, "reset", 10.0, 0.0))
    assert lost(attempts, DEFAULT, "tcp", 100.0, 0.0).failures == 2


@pytest.mark.parametrize("chance, dial_at", [(0.0, 101.0), (1.0, 106.0)])
def test_a_clock_that_is_not_set_spends_no_backoff(chance: float, dial_at: float) -> None:
    assert lost(Attempts(failures=5), DEFAULT, "clock", 100.0, chance) == Attempts(5, dial_at)


def test_no_two_attempts_lie_within_a_second_of_each_other() -> None:
    chance, attempts, now = random.Random(1), first(0.0, 0.0, 0.0), 0.0
    for _ in range(2000):
        assert attempts.dial_at < math.inf
        dialled, now = attempts.dial_at, attempts.dial_at + chance.choice([0.0, 0.01, 40.0])
        attempts = dialling(attempts)
        if chance.random() < 0.3:
            attempts = connected(attempts, dialled)
        attempts = lost(attempts, DEFAULT, chance.choice(["tcp", "clock", "reset"]), now, chance.random())
        assert 1.0 <= attempts.dial_at - dialled < math.inf
