"""What is subscribed when, and what the broker is known to hold."""

from __future__ import annotations

import pytest

from iotd.daemon.subscriptions import Plan, Subscriptions, answered, changed, opened

Held = dict[str, int]


@pytest.mark.parametrize("wanted, held, session_present, subscribe, unsubscribe", [
    ({"a": 1, "b": 0}, {}, False, [("a", 1), ("b", 0)], []),
    ({"a": 1, "b": 0}, {}, True, [("a", 1), ("b", 0)], []),
    ({"a": 1, "b": 0}, {"a": 1, "b": 0}, True, [], []),
    ({"a": 1, "b": 0}, {"a": 1, "b": 0}, False, [("a", 1), ("b", 0)], []),
    ({"a": 1, "b": 0}, {"a": 1}, True, [("b", 0)], []),
    ({"a": 1}, {"a": 0}, True, [("a", 1)], []),
    ({"a": 1}, {"a": 1, "old": 1}, True, [], ["old"]),
    ({"a": 1}, {"a": 1, "old": 1}, False, [("a", 1)], []),
    ({}, {}, True, [], []),
])
def test_a_new_line_asks_only_for_what_the_broker_does_not_hold(
        wanted: Held, held: Held, session_present: bool, subscribe: list[tuple[str, int]],
        unsubscribe: list[str]) -> None:
    subscriptions, plan = opened(Subscriptions(wanted, held), session_present)
    assert plan == Plan(subscribe, unsubscribe)
    assert subscriptions.asked == {name for name, _ in subscribe}


def test_what_was_granted_is_held_and_not_asked_for_on_the_next_line() -> None:
    subscriptions, plan = opened(Subscriptions({"a": 1, "b": 0}, {}), False)
    subscriptions = answered(subscriptions, (("a", 1), ("b", 0)))
    assert subscriptions.settled(("a", "b"))
    assert opened(subscriptions, True)[1] == Plan([], [])


def test_what_was_asked_for_on_a_line_that_fell_before_the_answer_is_asked_for_again() -> None:
    subscriptions, _ = opened(Subscriptions({"a": 1}, {}), False)
    assert not subscriptions.settled(("a", "b")) and subscriptions.settled(("b",))
    assert opened(subscriptions, True)[1] == Plan([("a", 1)], [])


def test_a_refusal_is_known_and_settled_and_asked_for_again_on_the_next_line() -> None:
    subscriptions, _ = opened(Subscriptions({"a": 1, "b": 1}, {}), False)
    subscriptions = answered(subscriptions, (("a", 128), ("b", 0)))
    assert subscriptions.refused == {"a": 128} and subscriptions.settled(("a", "b"))
    assert subscriptions.held == {"b": 1}
    subscriptions, plan = opened(subscriptions, True)
    assert plan == Plan([("a", 1)], [])
    assert answered(subscriptions, (("a", 1),)).refused == {}


def test_a_filter_that_is_refused_after_it_was_held_is_held_no_longer() -> None:
    subscriptions = answered(Subscriptions({"a": 1}, {"a": 1}), (("a", 135),))
    assert subscriptions.held == {} and subscriptions.refused == {"a": 135}


def test_an_answer_for_what_nobody_wants_any_more_is_not_held_as_wanted() -> None:
    subscriptions, _ = opened(Subscriptions({"a": 1}, {}), False)
    subscriptions, _ = changed(subscriptions, {"b": 1})
    subscriptions = answered(subscriptions, (("a", 1), ("b", 1)))
    assert "b" in subscriptions.held
    assert opened(subscriptions, True)[1].subscribe == []


def test_a_change_while_the_line_is_up_asks_for_the_difference() -> None:
    subscriptions = Subscriptions({"a": 1, "b": 1, "c": 1}, {"a": 1, "b": 1, "c": 1}, refused={"x": 128, "a": 128})
    subscriptions, plan = changed(subscriptions, {"a": 1, "b": 0, "d": 1})
    assert plan == Plan([("b", 0), ("d", 1)], ["c"])
    assert subscriptions.refused == {"a": 128}


def test_a_filter_wanted_again_after_its_end_was_asked_for_is_subscribed_again() -> None:
    subscriptions, _ = changed(Subscriptions({"a": 1}, {"a": 1}), {})
    assert changed(subscriptions, {"a": 1})[1] == Plan([("a", 1)], [])


def test_what_was_given_up_while_the_line_was_down_is_unsubscribed_on_the_next_one() -> None:
    """The plan of a change without a line goes nowhere, and a line may fall before UNSUBSCRIBE is out."""
    subscriptions, _ = changed(Subscriptions({"a": 1, "b": 1}, {"a": 1, "b": 1}), {"a": 1})
    subscriptions, plan = opened(subscriptions, True)
    assert plan == Plan([], ["b"])
    assert opened(subscriptions, False)[1] == Plan([("a", 1)], [])


def test_what_was_granted_after_it_was_given_up_is_unsubscribed_on_the_next_line() -> None:
    subscriptions, _ = opened(Subscriptions({"a": 1}, {}), False)
    subscriptions, _ = changed(subscriptions, {})
    assert opened(answered(subscriptions, (("a", 1),)), True)[1] == Plan([], ["a"])
