"""Bounds and their tolerance, tables, and pictures that can be parsed."""

from __future__ import annotations

from xml.etree import ElementTree

import pytest

from tests.bench import plot, report
from tests.bench.figures import Bound, Figure, Section, most_within, verdicts


def figure(iotd: float, bound: Bound) -> Figure:
    return Figure("memory", "MB", {"iotd": [iotd, iotd + 9, iotd - 9], "bare paho": [4.0, 5.0, 4.0]}, [bound])


@pytest.mark.parametrize("iotd, bound, kept, nearly", [
    (5.0, Bound(1.25, "bare paho"), True, True),
    (5.1, Bound(1.25, "bare paho"), False, True),
    (6.3, Bound(1.25, "bare paho"), False, False),
    (2.0, Bound(0.5, "bare paho", floor=True), True, True),
    (1.9, Bound(0.5, "bare paho", floor=True), False, True),
    (1.5, Bound(0.5, "bare paho", floor=True), False, False),
    (0.0, Bound(0.0), True, True),
    (1.0, Bound(0.0), False, False),
])
def test_a_bound_is_judged_by_medians_and_with_a_tolerance(
    iotd: float, bound: Bound, kept: bool, nearly: bool
) -> None:
    [verdict] = verdicts([Section("", "", [figure(iotd, bound)])])
    assert (verdict.kept(), verdict.kept(0.25)) == (kept, nearly)


@pytest.mark.parametrize("ours, theirs, floor, missed", [
    ([8.0, 9.0], [4.0, 5.0], False, False), ([8.0, 9.0], [4.0, 4.1], False, True), ([4.0], [4.0], False, False),
    ([1.5, 1.4], [4.0, 3.0], True, False), ([1.1, 1.2], [4.0, 3.5], True, True),
])
def test_a_bound_is_missed_for_sure_where_no_sample_would_keep_it(
    ours: list[float], theirs: list[float], floor: bool, missed: bool
) -> None:
    bound = Bound(0.5 if floor else 1.5, "bare paho", floor)
    [verdict] = verdicts([Section("", "", [Figure("CPU", "µs", {"iotd": ours, "bare paho": theirs}, [bound])])])
    assert verdict.is_missed_for_sure() == missed


def test_a_bound_against_one_that_was_not_measured_is_not_judged() -> None:
    assert list(verdicts([Section("", "", [figure(1.0, Bound(1.0, "SDK v2"))])])) == []


def test_the_fullest_window_is_found_wherever_it_begins() -> None:
    assert most_within([0.25, 0.0, 0.19, 0.11, 0.5], 0.1) == 2
    assert most_within([0.25, 0.0, 0.19, 0.16, 0.5], 0.1) == 3
    assert most_within([], 0.1) == 0


def test_a_table_says_what_was_not_measured_and_what_did_not_differ() -> None:
    section = Section("Title", "Text.", [Figure("a", "ms", {"iotd": [1.0, 3.0, 2.0], "bare paho": [4.0]}),
                                         Figure("b", "", {"iotd": [12345.6]})])
    assert report.table(section).splitlines()[4:] == [
        "| | iotd | bare paho | iotd / bare paho |", "|---|---|---|---|",
        "| a, ms | 2 (1 … 3) | 4 | 0.5 |", "| b | 12,346 | – | – |"]


def test_the_pictures_are_well_formed_and_hold_every_name() -> None:
    bars = plot.ratios([figure(40.0, Bound(1.25, "bare paho"))], ["iotd", "bare paho", "SDK v2"], "bare paho")
    fleet = plot.spread({"iotd": [0.1, 0.15, 3.0], "<other>": [0.2] * 30}, 0.1, 10)
    for picture, names in ((bars, ["iotd", "bare paho", "memory"]), (fleet, ["iotd", "<other>"])):
        text = " ".join(ElementTree.fromstring(picture).itertext())
        assert all(name in text for name in names)
