"""Publish on change: whether what a message said last is still so, and when it may say the next. Pure."""

import math
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from iotd.outgoing.section import Publish
from iotd.vocabulary import Json

ROUNDING = 1e-9  # 0.3 is reached from 0.1 by 0.2, whatever floats say


class Said(NamedTuple):
    """What an entry with `on_change` has said: the values, None before its first message, and when the last was made.

    A message that was dropped has said nothing. `due_at` is when the next one is due since a value has changed,
    math.inf for never.
    """

    values: Mapping[str, Json] | None = None
    made_at: float = -math.inf
    due_at: float = math.inf


def heard(before: Said, entry: Publish, values: Mapping[str, Json], now: float) -> Said:
    """Take the values as they are now: one that has changed is due at once, or as soon as `at_most` allows it."""
    if before.values is None or not changed(entry.on_change, before.values, values):
        return before  # the first message is on its way
    return before._replace(due_at=min(before.due_at, max(now, before.made_at + entry.at_most_s)))


def said(before: Said, entry: Publish, values: Mapping[str, Json], kept: bool) -> Said:
    """Take the values of a message that was made; `kept`: it was not dropped."""
    if kept:
        return before._replace(values={name: values.get(name) for name in entry.on_change})
    return before._replace(values=before.values or {})


def next_due(entries: Iterable[Said]) -> float:
    """Return when the first of these is due by a change, math.inf for never."""
    return min(entry.due_at for entry in entries)


def changed(on_change: Mapping[str, float | None], old: Mapping[str, Json], new: Mapping[str, Json]) -> bool:
    """Tell whether one of the values has changed: a number by its threshold at least, anything else at all."""
    return any(name not in old or _differs(old[name], new[name], threshold) for name, threshold in on_change.items())


def _differs(old: Json, new: Json, threshold: float | None) -> bool:
    if isinstance(old, bool) is not isinstance(new, bool) or threshold is None:
        return isinstance(old, bool) is not isinstance(new, bool) or bool(old != new)
    if isinstance(old, (int, float)) and isinstance(new, (int, float)) and not isinstance(old, bool):
        return abs(new - old) >= threshold * (1 - ROUNDING)
    return bool(old != new)
