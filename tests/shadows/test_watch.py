"""The checks of several shadows together: what has turned, and what a configuration read anew makes of that."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Callable

import pytest

from iotd.host import log
from iotd.host.tasks import Tasks
from iotd.shadows.findings import CheckResult, Outcome
from iotd.shadows.section import Check, Shadow
from iotd.shadows.watch import Watch
from tests.kernel import FakeKernel, WaitingKernel

Watching = Callable[..., Watch]
WEB, PUMP = Check("web", "tcp", ("localhost", 80)), Check("pump", "unit", "pump.service")


@pytest.fixture
def entries() -> io.StringIO:
    """What is logged."""
    stream = io.StringIO()
    log.start("debug", "json", under_journald=False, stream=stream)
    return stream


def events(entries: io.StringIO) -> list[tuple[str, str | None, str]]:
    """Return the event, the shadow and the check of each entry since the last call."""
    lines = [json.loads(line) for line in entries.getvalue().splitlines()]
    entries.truncate(0)
    entries.seek(0)
    return [(line["event"], line.get("shadow"), line["check"]) for line in lines]


@pytest.fixture
def watching(tmp_path: Path) -> Watching:
    """What begins to watch the checks of these shadows."""
    def begin(*shadows: Shadow) -> Watch:
        watch = Watch(lambda key, work, failed: True, FakeKernel(tmp_path))
        watch.apply(shadows, 0.0)
        return watch
    return begin


def result(check: Check, outcome: Outcome, at: float = 0.0) -> CheckResult:
    return CheckResult(check, outcome, None, "" if outcome == "good" else "why", at)


def test_a_check_of_two_shadows_turns_both(watching: Watching, entries: io.StringIO) -> None:
    watch = watching(Shadow("a", checks=(WEB,)), Shadow("b", checks=(PUMP,)), Shadow("c", checks=(PUMP, WEB)))
    assert watch.checked(result(WEB, "bad"), 0.0) == [0, 2]
    assert events(entries) == [("check.failed", "a", "web"), ("check.failed", "c", "web")]
    assert watch.problems() == ["check web has failed: why"] * 2
    assert watch.checked(result(WEB, "bad"), 1.0) == []
    assert watch.checked(result(WEB, "good"), 2.0) == [0, 2]
    assert events(entries) == [("check.recovered", "a", "web"), ("check.recovered", "c", "web")]
    assert watch.problems() == []


def test_what_failed_stays_so_over_a_reload_and_is_said_once(watching: Watching, entries: io.StringIO) -> None:
    watch = watching(Shadow("a", checks=(WEB,)))
    watch.checked(result(WEB, "bad"), 0.0)
    changed = Shadow("a", every_s=5.0, reported={"x": 1}, checks=(WEB,))
    watch.apply((Shadow("b"), changed), 1.0)
    assert watch.problems() == ["check web has failed: why"]
    assert not watch.judged(changed, 1.0)[0]
    assert events(entries) == [("check.failed", "a", "web")]


def test_a_check_that_is_taken_out_of_the_configuration_has_not_recovered_and_is_no_problem(
    watching: Watching, entries: io.StringIO
) -> None:
    watch = watching(Shadow("a", checks=(WEB, PUMP)), Shadow("b", checks=(WEB,)))
    watch.checked(result(WEB, "bad"), 0.0)
    watch.checked(result(PUMP, "bad"), 0.0)
    assert len(events(entries)) == 3
    without = Shadow("a", checks=(PUMP,))
    watch.apply((without,), 1.0)
    assert watch.problems() == []
    assert not watch.judged(without, 1.0)[0]
    assert watch.problems() == ["check pump has failed: why"]
    assert ("check.recovered", "a", "web") not in events(entries)


def test_the_end_of_a_check_that_is_configured_no_more_says_nothing(watching: Watching, entries: io.StringIO) -> None:
    watch = watching(Shadow("a", checks=(PUMP,)))
    assert watch.checked(result(WEB, "bad"), 0.0) == []
    assert watch.problems() == [] and watch.status() == [] and events(entries) == []


@pytest.mark.parametrize("check", [
    Check("odd", "process", 5), Check("odd", "tcp", ("localhost",)), Check("odd", "command", (5,)),
], ids=["quick", "tcp", "command"])  # values that the file cannot have stand for a bug
def test_a_bug_in_a_check_is_this_checks_unknown_and_is_told_once(
    tmp_path: Path, entries: io.StringIO, check: Check
) -> None:
    kernel = WaitingKernel(tmp_path)
    tasks = Tasks(kernel.post)
    watch = Watch(tasks.start, kernel)
    watch.apply((Shadow("a", checks=(check,)),), 0.0)
    for now in (0.0, 30.0):
        watch.keep(now)
        result = kernel.events.get(timeout=5)
        assert (result.check, result.outcome) == (check, "unknown") and result.reason.startswith("a bug in iotd: ")
        assert watch.checked(result, now) == []
        tasks.close(5.0)
    logged = entries.getvalue()
    assert "Traceback (most recent call last)" in logged
    assert events(entries) == [("check.fault", None, "odd"), ("check.unknown", "a", "odd")]
    assert watch.problems() == []
