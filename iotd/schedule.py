"""When what recurs is due: at once, then every period after that, without drift. Pure.

Here and wherever something is due, math.inf is never.
"""

import math
from collections.abc import Mapping
from typing import Any, NamedTuple


class Timetable(NamedTuple):
    """The period and the next due time, in monotonic seconds, of each key; `next_due` is the earliest of these."""

    every_s: Mapping[Any, float]
    due_at: Mapping[Any, float]
    next_due: float


EMPTY = Timetable({}, {}, math.inf)


def changed(old: Timetable, every_s: Mapping[Any, float], now: float) -> Timetable:
    """Return the timetable for `every_s`: a key with its old period keeps its time, any other is due at once."""
    kept = {key: old.due_at[key] for key, period in every_s.items() if old.every_s.get(key) == period}
    return _table(every_s, {key: kept.get(key, now) for key in every_s})


def take(table: Timetable, now: float) -> tuple[list[Any], Timetable]:
    """Return the keys that are due, in the order of the timetable, and the timetable after them.

    A key that missed several of its times (the host slept, the clock of the loop was late) is due once; its next
    time still lies on the grid of its first.
    """
    if now < table.next_due:
        return [], table
    keys = [key for key, due_at in table.due_at.items() if due_at <= now]
    due_at = dict(table.due_at)
    for key in keys:
        period = table.every_s[key]
        due_at[key] += period * (1 + (now - due_at[key]) // period)
        if due_at[key] <= now:  # the floor was rounded down
            due_at[key] += period
    return keys, _table(table.every_s, due_at)


def put_off(table: Timetable, key: Any, due_at: float) -> Timetable:
    """Return the timetable with another next time for a key."""
    return _table(table.every_s, {**table.due_at, key: due_at})


def _table(every_s: Mapping[Any, float], due_at: Mapping[Any, float]) -> Timetable:
    return Timetable(every_s, due_at, min(due_at.values(), default=math.inf))
