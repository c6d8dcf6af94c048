"""Some of the runs in which the Nth call fails; `python3 -m tests.faults.nth` makes them all."""

from __future__ import annotations

from tests.faults.nth import run


def test_whichever_call_fails_nothing_that_was_kept_is_lost_and_it_ends_as_asked() -> None:
    found = run(0.3, seed=1)
    assert len(found) > 5 and any(one.met for one in found)
    assert [(one.trial.words(), one.findings) for one in found if one.findings] == []
