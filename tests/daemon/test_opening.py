"""What the end of a line tells of its opening."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import cast

from iotd.daemon.denial import AT_ONCE_S
from iotd.daemon.fence import Fence
from iotd.daemon.opening import Opening
from iotd.daemon.part import Part
from iotd.mqtt.session import Session
from iotd.vocabulary import Dialled, Down, Subscribed
from tests.kernel import FakeKernel, settings


class Opened(Part):
    """A part that meets a bug as the line opens, or does not."""

    def __init__(self, bug: bool) -> None:
        self.bug = bug
        self.heard_of: list[str] = []

    def session_lost(self, now: float) -> None:
        self._hear("session lost")

    def opened(self, now: float, careful: bool, resting: Iterable[str]) -> None:
        self._hear("opened")

    def _hear(self, what: str) -> None:
        if self.bug:
            raise KeyError("a bug")
        self.heard_of.append(what)


class Silent:
    """A session of which nothing comes back."""

    def subscribe(self, line: int, filters: list[tuple[str, int]]) -> None:
        """Send nothing."""

    def unsubscribe(self, line: int, filters: list[str]) -> None:
        """Send nothing."""


def ended_after_a_refusal(path: Path, after_s: float) -> tuple[bool, int]:
    """Return whether the messages in flight are blamed, and how many lines ended over nothing."""
    world = FakeKernel(path).world
    opening = Opening(world, cast(Session, Silent()), [], Fence(world.monotonic), settings())
    opening.begin(Dialled(1, False), settings(), 0.0, False)
    opening.answered(Subscribed(1, (("t/will", 128),)), 1.0)
    blamed = opening.fell(Down(1, "closed", "", True), False, False, 1.0 + after_s)
    return blamed, opening.suspicion.quiet


def test_a_line_that_the_broker_closes_over_what_it_has_just_refused_accuses_nobody(tmp_path: Path) -> None:
    assert ended_after_a_refusal(tmp_path, 0.1) == (False, 0)
    assert ended_after_a_refusal(tmp_path, AT_ONCE_S + 1.0) == (True, 1)


def test_a_bug_of_one_part_as_the_line_opens_keeps_no_other_from_it(tmp_path: Path) -> None:
    world = FakeKernel(tmp_path).world
    fence, parts = Fence(world.monotonic), [Opened(True), Opened(False)]
    opening = Opening(world, cast(Session, Silent()), [*parts], fence, settings())
    opening.begin(Dialled(1, False), settings(), 0.0, False)
    assert parts[1].heard_of == ["session lost", "opened"] and fence.problems([*parts], world.monotonic()) != []
