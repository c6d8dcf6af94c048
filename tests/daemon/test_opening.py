"""What the end of a line tells of its opening."""

from __future__ import annotations

from pathlib import Path
from typing import cast

from iotd.daemon.denial import AT_ONCE_S
from iotd.daemon.opening import Opening
from iotd.mqtt.session import Session
from iotd.vocabulary import Dialled, Down, Subscribed
from tests.kernel import FakeKernel, settings


class Silent:
    """A session of which nothing comes back."""

    def subscribe(self, line: int, filters: list[tuple[str, int]]) -> None:
        """Send nothing."""

    def unsubscribe(self, line: int, filters: list[str]) -> None:
        """Send nothing."""


def ended_after_a_refusal(path: Path, after_s: float) -> tuple[bool, int]:
    """Return whether the messages in flight are blamed, and how many lines ended over nothing."""
    opening = Opening(FakeKernel(path).world, cast(Session, Silent()), [], settings())
    opening.begin(Dialled(1, False), settings(), 0.0)
    opening.answered(Subscribed(1, (("t/will", 128),)), 1.0)
    blamed = opening.fell(Down(1, "closed", "", True), False, False, 1.0 + after_s)
    return blamed, opening.suspicion.quiet


def test_a_line_that_the_broker_closes_over_what_it_has_just_refused_accuses_nobody(tmp_path: Path) -> None:
    assert ended_after_a_refusal(tmp_path, 0.1) == (False, 0)
    assert ended_after_a_refusal(tmp_path, AT_ONCE_S + 1.0) == (True, 1)
