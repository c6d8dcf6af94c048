"""From results to a verdict, as tables."""

from __future__ import annotations

import json

import pytest

from iotd.shadows import health
from iotd.shadows.findings import CheckResult, Outcome
from iotd.shadows.health import Doubt, Verdict
from iotd.shadows.section import Check
from iotd.vocabulary import Json

WEB = Check("web", "command", ("true",), every_s=30.0, timeout_s=5.0)
LINE = Check("line", "gateway", True, every_s=10.0, timeout_s=10.0)
NOW = 1000.0


def result(check: Check, outcome: Outcome, at: float = NOW, reason: str = "why") -> CheckResult:
    return CheckResult(check, outcome, 7, "" if outcome == "good" else reason, at)


def verdict(*results: CheckResult, now: float = NOW) -> Verdict:
    return health.judge((WEB, LINE), {result.check: result for result in results}, now)


def names(doubts: tuple[Doubt, ...]) -> list[str]:
    return [doubt.name for doubt in doubts]


@pytest.mark.parametrize("web, line, healthy, failed, unknown", [
    ("good", "good", True, [], []),
    ("good", "bad", False, ["line"], []),
    ("bad", "bad", False, ["web", "line"], []),
    ("unknown", "good", True, [], ["web"]),
    ("unknown", "bad", False, ["line"], ["web"]),
])
def test_one_bad_check_is_enough_and_an_unknown_one_never_is(
    web: Outcome, line: Outcome, healthy: bool, failed: list[str], unknown: list[str]
) -> None:
    found = verdict(result(WEB, web), result(LINE, line))
    assert (found.healthy, names(found.failed), names(found.unknown)) == (healthy, failed, unknown)


def test_without_a_result_there_is_no_data_and_no_data_is_not_bad() -> None:
    found = verdict(result(LINE, "good"))
    assert found.healthy
    assert found.unknown == (Doubt("web", "no result yet"),)
    assert health.judge((), {}, NOW) == Verdict()


@pytest.mark.parametrize("age_s, healthy", [(0.0, False), (95.0, False), (95.1, True), (1e6, True)])
def test_a_result_holds_for_three_intervals_and_the_time_out(age_s: float, healthy: bool) -> None:
    found = verdict(result(WEB, "bad", NOW - age_s), result(LINE, "good"))
    assert found.healthy == healthy
    if healthy:
        assert found.unknown == (Doubt("web", f"no result for {age_s:.0f} s; it hangs", age_s=NOW - (NOW - age_s)),)


def test_the_result_of_a_check_that_is_configured_differently_now_counts_for_nothing() -> None:
    old = Check("web", "command", ("false",))
    assert verdict(result(old, "bad"), result(LINE, "good")).healthy


def test_a_report_is_due_at_once_when_other_checks_fail_and_not_when_a_reason_or_an_age_changes() -> None:
    good, bad = verdict(result(WEB, "good")), verdict(result(WEB, "bad"))
    other_reason = verdict(result(WEB, "bad", reason="12 bytes are free"), now=NOW + 1)
    other_check = verdict(result(LINE, "bad"))
    assert health.changed(good, bad) and health.changed(bad, good) and health.changed(bad, other_check)
    assert not health.changed(bad, other_reason)
    assert not health.changed(good, verdict(result(WEB, "unknown")))


def test_what_turned_is_named_once() -> None:
    empty, good = verdict(), verdict(result(WEB, "good"), result(LINE, "good"))
    bad = verdict(result(WEB, "bad"), result(LINE, "unknown"))
    failed, recovered, unknown = health.turned(empty, bad)
    assert (names(tuple(failed)), recovered, names(tuple(unknown))) == (["web"], [], ["line"])
    assert health.turned(bad, bad) == ([], [], [])
    assert health.turned(bad, good) == ([], ["line", "web"], [])
    assert health.turned(empty, good) == ([], [], [])


def test_the_report_says_which_failed_and_why_with_value_and_age() -> None:
    found = verdict(result(WEB, "bad", NOW - 12.4, "exit status 1: no pump"))
    assert health.reported(found) == {
        "failed": [{"check": "web", "reason": "exit status 1: no pump", "value": 7, "age_s": 12}],
        "unknown": [{"check": "line", "reason": "no result yet"}], "left_out": 0}


def test_the_report_is_bounded_and_says_what_it_left_out() -> None:
    checks = [Check(f"check {number}", "gateway", True) for number in range(60)]
    results = {check: result(check, "bad", reason="雪" * 40) for check in checks}
    report = health.reported(health.judge(checks, results, NOW))
    assert len(json.dumps(report, ensure_ascii=False).encode()) < health.MAX_REPORT_BYTES + 100
    assert report["left_out"] == 60 - len(report["failed"]) > 0


LEVEL = Check("value level", "value", "level", (5.0, 80.0, 30.0))


@pytest.mark.parametrize("limit, value, outcome, reason", [
    ((5, 80, 0.0), 5, "good", ""), ((5, 80, 0.0), 80.0, "good", ""),
    ((5, 80, 0.0), 4.9, "bad", "4.9, expected at least 5"),
    ((5, 80, 0.0), 81, "bad", "81, expected at most 80"), ((None, 80, 0.0), -1000, "good", ""),
    ((5, None, 0.0), 1e9, "good", ""), ((None, None, 0.0), 3, "good", ""),
    ((5, 80, 0.0), None, "unknown", "there is no value"), ((5, 80, 0.0), "high", "unknown", "it is no number"),
    ((5, 80, 0.0), True, "unknown", "it is no number"), ((None, None, 0.0), None, "unknown", "there is no value"),
])
def test_a_value_is_judged_by_its_range(limit: Json, value: Json, outcome: str, reason: str) -> None:
    (found, _, why), _ = health.within(LEVEL._replace(limit=limit), value, None, 0.0)
    assert (found, why) == (outcome, reason)


def test_it_fails_once_it_has_been_outside_for_long_enough_and_no_value_takes_nothing_back() -> None:
    since: float | None = None
    outcomes = []
    for now, value in ((0.0, 90), (20.0, None), (29.0, 4), (30.0, 90), (60.0, 90), (70.0, 50), (80.0, 90), (111.0, 90)):
        (outcome, _, reason), since = health.within(LEVEL, value, since, now)
        outcomes.append(outcome)
    assert outcomes == ["good", "unknown", "good", "bad", "bad", "good", "good", "bad"]
    assert reason == "90, expected at most 80, for 31 s"
