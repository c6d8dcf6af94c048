"""Publish on change, as tables."""

from __future__ import annotations

import math

import pytest

from iotd.outgoing import changes
from iotd.outgoing.changes import Said
from iotd.outgoing.section import Publish
from iotd.vocabulary import Json

ENTRY = Publish("t", 600.0, {}, on_change={"level": 0.5, "door": None}, at_most_s=2.0)


@pytest.mark.parametrize("old, new, threshold, changed", [
    (20.0, 20.4, 0.5, False), (20.0, 20.5, 0.5, True), (20.5, 20.0, 0.5, True), (20, 20.5, 0.5, True),
    (0.1, 0.3, 0.2, True), (0.3, 0.1, 0.2, True), (1, 1.0, None, False), (1, True, None, True), (0, False, 0.5, True),
    (True, False, 0.5, True), (None, 5, 100, True), (5, None, 100, True), (None, None, 0.5, False),
    ("a", "a", 0.5, False), ("a", "b", 0.5, True), ("5", 5, 0.5, True), ({"a": 1}, {"a": 1}, None, False),
    ({"a": 1}, {"a": 2}, None, True), ([1], [1, 2], 0.5, True),
])
def test_what_is_a_change(old: Json, new: Json, threshold: float | None, changed: bool) -> None:
    assert changes.changed({"v": threshold}, {"v": old}, {"v": new}) is changed


def test_nothing_is_due_before_the_first_message() -> None:
    assert changes.heard(Said(), ENTRY, {"level": 1, "door": 1}, 5.0) == Said()


def test_a_change_is_due_at_once_or_as_soon_as_it_may() -> None:
    said = changes.said(Said(made_at=10.0), ENTRY, {"level": 1.0, "door": "shut", "other": 1}, kept=True)
    assert said == Said({"level": 1.0, "door": "shut"}, 10.0, math.inf)
    assert changes.heard(said, ENTRY, {"level": 1.2, "door": "shut"}, 11.0).due_at == math.inf
    assert changes.heard(said, ENTRY, {"level": 1.2, "door": "open"}, 11.0).due_at == 12.0
    due = changes.heard(said, ENTRY, {"level": 9, "door": "shut"}, 20.0)
    assert due.due_at == 20.0 and changes.heard(due, ENTRY, {"level": 0, "door": "shut"}, 21.0).due_at == 20.0
    assert changes.next_due([said, due]) == 20.0


def test_a_message_that_was_dropped_has_said_nothing() -> None:
    first = changes.said(Said(made_at=10.0), ENTRY, {"level": 1.0, "door": None}, kept=False)
    assert changes.heard(first, ENTRY, {"level": 1.0, "door": None}, 30.0).due_at == 30.0
    then = changes.said(Said({"level": 1.0, "door": None}, 10.0), ENTRY, {"level": 5, "door": None}, kept=False)
    assert then.values == {"level": 1.0, "door": None}
