"""A broker that only ever closes the line is asked with care until it shows which action it denies."""

from __future__ import annotations

import pytest

from iotd.daemon import denial
from iotd.daemon.denial import REST_S, Suspicion


def after(*falls: list[str], now: float = 100.0) -> tuple[Suspicion, list[str]]:
    """Return the suspicion after lines that fell over these actions, and the actions that were named."""
    suspicion, named = Suspicion(), []
    for unanswered in falls:
        suspicion, entries = denial.fell(suspicion, unanswered, now)
        named += [entry.fields.get("action", entry.event) for entry in entries]
    return suspicion, named


@pytest.mark.parametrize(("falls", "careful", "named"), [
    ([], False, []),
    ([["a", "b"]], False, []),
    ([["a", "b"], ["a", "b"]], True, []),
    ([["a", "b"], ["a", "b"], ["a"]], False, []),  # every other line is opened as usual
    ([["a"]] * 7, False, ["a"]),  # careful lines are the third, fifth and seventh
    ([["a"]] * 6, True, []),
    ([["a", "b"]] * 2 + [["a"], ["b", "c"]] * 3, True, ["a"]),  # what falls on the lines between proves nothing
    ([["a"]] * 4 + [["b"]] + [["a"]] * 3, True, []),  # not in a row
    ([["a"]] * 5 + [["a", "b"], ["a", "b"], ["a"], ["a"]], False, ["a"]),  # nor does company
    ([["a"], ["a"], [], ["a"]], False, []),  # a careful line that fell over nothing: it was no denial
    ([[], [], ["a"], [], []], False, []),
    ([[], [], [], []], False, ["session.contested"]),  # said once
])
def test_an_action_is_named_when_the_line_ends_over_it_alone_three_times_in_a_row(
    falls: list[list[str]], careful: bool, named: list[str]
) -> None:
    suspicion, found = after(*falls)
    resting = [action for action in named if action != "session.contested"]
    assert (suspicion.careful, found, list(suspicion.resting)) == (careful, named, resting)


def test_what_is_named_rests_for_an_hour_and_outlives_a_stable_line() -> None:
    suspicion, _ = after(*[["a"]] * 7, now=100.0)
    assert denial.proven(suspicion, 100.0 + REST_S - 1) == Suspicion(resting={"a": 100.0 + REST_S})
    assert denial.proven(suspicion, 100.0 + REST_S) == Suspicion()
