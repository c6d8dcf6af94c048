"""A clock that jumps by years: nobody may set this host's clock for a test, so the parts that look at it are asked."""

from __future__ import annotations

from pathlib import Path

import pytest

from iotd.outgoing.section import Bounds
from iotd.vocabulary import Message
from tests.outgoing.opening import open_spool

YEARS_S = 20 * 365.25 * 86400
NOW = 1_800_000_000.0


def kept_over(directory: Path, made_at: float | None, looked_at: float | None, boot: str) -> int:
    """Make a message at one wall clock, start anew with another (in the boot of that name); return what is left."""
    for place in ("run", "state"):
        (directory / place).mkdir()
    places = directory / "run", directory / "state"
    first = open_spool(*places, Bounds(), "this boot", 100.0)
    first.put(first.next_id(), Message("t", b"{}"), False, 100.0)
    first.close(106.0, made_at)
    second = open_spool(*places, Bounds(), boot, 200.0)
    second.settle(200.0, looked_at)
    second.close(200.0, looked_at)
    return second.count


@pytest.mark.parametrize(("made_at", "looked_at"), [
    (NOW, NOW + YEARS_S), (NOW, NOW - YEARS_S), (None, NOW), (NOW, None), (None, None),
])
def test_a_message_outlives_a_clock_that_jumps_within_its_boot(
    tmp_path: Path, made_at: float | None, looked_at: float | None
) -> None:
    assert kept_over(tmp_path, made_at, looked_at, "this boot") == 1


@pytest.mark.parametrize(("made_at", "looked_at"), [(NOW, NOW - YEARS_S), (None, NOW), (NOW, None), (None, None)])
def test_a_message_of_another_boot_is_too_old_only_by_two_clocks_that_were_set(
    tmp_path: Path, made_at: float | None, looked_at: float | None
) -> None:
    assert kept_over(tmp_path, made_at, looked_at, "the next boot") == 1


def test_a_message_of_another_boot_that_is_too_old_goes(tmp_path: Path) -> None:
    assert kept_over(tmp_path, NOW, NOW + YEARS_S, "the next boot") == 0
