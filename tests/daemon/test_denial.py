"""A broker that only ever closes the line is asked with care until it shows which action it denies."""

from __future__ import annotations

import pytest

from iotd.daemon import denial
from iotd.daemon.denial import REST_S, STRIKES_OF_AN_ACTION, Suspicion


def after(*falls: str, now: float = 100.0) -> tuple[Suspicion, list[str]]:
    """Return the suspicion after lines that fell over these actions (a letter each), and the actions named.

    A line is as the suspicion has it, careful or not.
    """
    suspicion, named = Suspicion(), []
    for unanswered in falls:
        suspicion, entries = denial.fell(suspicion, set(unanswered), suspicion.careful, now)
        named += [entry.fields["action"] for entry in entries]
    return suspicion, named


@pytest.mark.parametrize(("falls", "careful", "named"), [
    ([], False, []),
    (["ab"], False, []),
    (["ab", "ab"], True, []),
    (["a", "a"], True, []),  # lines that were opened as usual prove nothing
    (["ab", "ab", "a"], True, []),
    (["ab", "ab", "a", "a"], True, ["a"]),
    (["ab", "ab", "a", "b", "a"], True, ["a"]),  # the suspected one is tried last, others may come before it
    (["ab", "ab", "a", "a", "b", "b"], True, ["a", "b"]),
    (["ab", "ab", "ab"], False, []),  # nothing found: the next one is opened as usual
    (["ab", "ab", "ab", "ab"], True, []),
    (["ab", "ab", "ab", "a", "a"], True, []),
])
def test_an_action_is_named_when_two_careful_lines_end_over_it_alone(
    falls: list[str], careful: bool, named: list[str]
) -> None:
    suspicion, found = after(*falls)
    assert (suspicion.careful, found, list(suspicion.resting)) == (careful, named, named)


def test_an_action_alone_on_a_line_that_had_long_been_up_is_as_suspect_as_on_a_careful_one() -> None:
    suspicion, entries = denial.fell(Suspicion(), {"a"}, True, 0.0)
    assert (suspicion.careful, suspicion.strikes, entries) == (True, {"a": 1}, [])


def test_an_action_that_was_accepted_has_no_strike_and_comes_first_and_a_suspected_one_last() -> None:
    suspicion, _ = after("ab", "ab", "b", "a")
    suspicion = denial.answered(suspicion, "b")
    assert suspicion.strikes == {"a": 1}
    assert denial.in_order(suspicion, ["a", "c", "b"]) == ["b", "c", "a"]


def test_what_is_never_acknowledged_has_a_strike_and_more_than_one_action_is_tried_with_care() -> None:
    suspicion, _ = denial.unacknowledged(Suspicion(), {"a", "b"}, 0.0)
    assert (suspicion.careful, suspicion.strikes) == (True, {})
    suspicion, _ = denial.unacknowledged(suspicion, {"a"}, 0.0)
    suspicion, [entry] = denial.unacknowledged(suspicion, {"a"}, 0.0)
    assert entry.fields["action"] == "a" and "acknowledges" in entry.message
    assert denial.unacknowledged(suspicion, set(), 0.0) == (suspicion, [])


def test_what_is_named_rests_for_an_hour_outlives_a_stable_line_and_is_known_when_it_is_tried_again() -> None:
    suspicion, _ = after("a", "a", "a", "a", now=100.0)
    assert denial.proven(suspicion) == Suspicion(resting={"a": 100.0 + REST_S})
    assert denial.over(suspicion, 99.0 + REST_S) == []
    tried = denial.rested(suspicion, denial.over(suspicion, 100.0 + REST_S))
    assert (tried.resting, tried.strikes) == ({}, {"a": STRIKES_OF_AN_ACTION - 1})
    assert denial.fell(tried, {"a"}, True, 9e9)[1] != []


def test_what_was_refused_in_the_answer_rests_too() -> None:
    assert denial.refused(Suspicion(welcome=frozenset("a")), "a", 5.0) == Suspicion(resting={"a": 5.0 + REST_S})


def contested_after(*lines: str, rival: bool = False) -> int:
    """Return how often a second client was blamed after lines that were "quiet", "away" (no line) or "stable"."""
    suspicion, told = Suspicion(rival=rival), 0
    for line in lines:
        if line == "quiet":
            suspicion, entries = denial.fell_over_nothing(suspicion)
            told += len(entries)
        else:
            suspicion = denial.away(suspicion) if line == "away" else denial.proven(suspicion)
    return told


@pytest.mark.parametrize(("lines", "rival", "told"), [
    (["quiet"] * 4, False, 0),  # a broker that is started again, four times
    (["quiet"] * 5, False, 1),
    (["quiet"] * 50, False, 1),  # said once
    (["quiet", "quiet", "away"] * 10, False, 0),  # a second client keeps nobody from the broker
    ((["quiet"] * 4 + ["stable"]) * 10, False, 0),
    (["quiet"] * 5 + ["stable"] + ["quiet"] * 5, False, 2),
    (["quiet"], True, 0),
    (["quiet"] * 2, True, 1),
])
def test_a_second_client_is_blamed_for_lines_that_end_over_nothing_again_and_again(
    lines: list[str], rival: bool, told: int
) -> None:
    assert contested_after(*lines, rival=rival) == told


def test_what_is_unanswered_by_chance_as_a_second_client_takes_the_line_clears_it_of_nothing() -> None:
    suspicion = Suspicion(quiet=4)
    suspicion, _ = denial.fell(suspicion, {"a", "b"}, False, 0.0)
    assert len(denial.fell_over_nothing(suspicion)[1]) == 1


def test_a_line_that_fell_over_nothing_clears_who_was_suspected() -> None:
    suspicion, _ = after("ab", "ab", "a")
    suspicion, _ = denial.fell_over_nothing(suspicion)
    assert (suspicion.strikes, suspicion.falls, suspicion.careful) == ({}, 0, False)
