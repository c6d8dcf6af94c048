"""Some of the runs in which the Nth call fails; `python3 -m tests.faults.nth` makes them all."""

from __future__ import annotations

import random

from tests.faults.nth import run


def test_whichever_call_fails_nothing_that_was_kept_is_lost_and_it_ends_as_asked() -> None:
    seed = random.randrange(10**6)
    found = run(0.3, seed)
    assert len(found) > 5 and any(one.met for one in found), seed
    assert [(one.trial.words(), one.findings) for one in found if one.findings] == [], seed
