"""What is desired is done once: single rules as tables, and a whole conversation cut after every message."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, field
from typing import Any, Iterable

import pytest

from iotd.shadows import desired
from iotd.shadows.desired import Act, Duty, Orders
from iotd.shadows.documents import difference
from iotd.shadows.orders import arguments_of
from iotd.shadows.section import Run, Set
from iotd.vocabulary import Entry, Json

FAN = Run(("/usr/bin/fan", "{value}"))
EVERY = Set("publish[0].every")
ACTIONS: dict[str, Any] = {"fan": FAN, "interval": EVERY}


def fresh(kept: Json = None, actions: dict[str, Any] = ACTIONS, now: float = 0.0) -> Orders:
    return desired.start("device_0", actions, kept, now)


def hear(orders: Orders, delta: Json, now: float, version: int = 1) -> tuple[Orders, list[Any]]:
    return desired.heard(orders, delta, version, now)


def acts(effects: Iterable[Any]) -> list[tuple[str, Json]]:
    return [(effect.key, effect.value) for effect in effects if isinstance(effect, Act)]


def logged(effects: Iterable[Any]) -> list[str]:
    return [effect.event for effect in effects if isinstance(effect, Entry)]


def done(orders: Orders, delta: Json, now: float = 0.0) -> Orders:
    """Return the orders after everything in the delta has been done."""
    orders, effects = hear(orders, delta, now)
    for key, _ in acts(effects):
        orders, _ = desired.finished(orders, key, "", now)
    return orders


def test_what_is_desired_is_written_down_then_done_then_reported() -> None:
    orders, effects = hear(fresh(), {"fan": 3}, 0.0)
    assert effects == [Duty.KEEP, Act("fan", FAN, 3)]
    assert desired.reported(orders) == {}
    orders, effects = desired.finished(orders, "fan", "", 1.0)
    assert logged(effects) == ["desired.done"] and effects[1:] == [Duty.KEEP, Duty.REPORT]
    assert desired.reported(orders) == {"fan": 3}
    assert desired.next_due(orders) == math.inf


def test_the_same_value_again_is_not_done_again() -> None:
    orders, _ = hear(fresh(), {"fan": {"a": 1, "b": 2}}, 0.0)
    orders, while_acting = hear(orders, {"fan": {"b": 2, "a": 1}}, 1.0)
    orders, _ = desired.finished(orders, "fan", "", 2.0)
    orders, after = hear(orders, {"fan": {"a": 1, "b": 2}}, 3.0)
    assert while_acting == []
    assert after == [Duty.REPORT]


def test_a_number_is_the_same_however_it_is_written() -> None:
    orders = done(fresh(), {"fan": {"speed": 1, "steps": [2.0]}})
    assert acts(hear(orders, {"fan": {"speed": 1.0, "steps": [2]}}, 1.0)[1]) == []


@pytest.mark.parametrize("first, second", [(1, 2), (1, True), (0, False), ("1", 1), ([1], [1, 1]), ({}, [])])
def test_another_value_is_done(first: Json, second: Json) -> None:
    orders = done(fresh(), {"fan": first})
    assert acts(hear(orders, {"fan": second}, 1.0)[1]) == [("fan", second)]


def test_what_is_desired_while_the_last_is_under_way_waits_for_its_end_and_only_the_newest_is_done() -> None:
    orders, _ = hear(fresh(), {"fan": 1}, 0.0)
    orders, second = hear(orders, {"fan": 2}, 1.0)
    orders, third = hear(orders, {"fan": 3}, 2.0)
    assert second == third == []
    orders, effects = desired.finished(orders, "fan", "", 3.0)
    assert acts(effects) == [("fan", 3)]
    assert desired.reported(orders) == {"fan": 1}


def test_what_failed_is_not_reported_as_done_when_something_else_is_desired_by_then() -> None:
    orders, _ = hear(fresh(), {"fan": 1}, 0.0)
    orders, _ = hear(orders, {"fan": 2}, 1.0)
    orders, effects = desired.finished(orders, "fan", "no fan", 2.0)
    assert acts(effects) == [("fan", 2)]
    assert desired.reported(orders) == {}


def test_a_failure_is_reported_beside_and_tried_again_after_a_pause_that_grows() -> None:
    orders, effects = hear(fresh(), {"fan": 9}, 0.0)
    now, pauses = 0.0, []
    for _ in range(9):
        orders, effects = desired.finished(orders, "fan", "exit status 1: no fan", now)
        assert logged(effects) == ["desired.failed"] and effects[1:] == [Duty.KEEP, Duty.REPORT]
        due_at = desired.next_due(orders)
        pauses.append(due_at - now)
        assert desired.keep(orders, due_at - 0.1) == (orders, [])
        orders, effects = hear(orders, {"fan": 9}, due_at - 0.1)
        assert effects == []
        now = due_at
        orders, effects = desired.keep(orders, now)
        assert acts(effects) == [("fan", 9)]
    assert pauses == [30, 60, 120, 240, 480, 960, 1920, 3600, 3600]


def test_a_failure_stands_in_the_report_until_it_is_mended_or_not_desired_any_more() -> None:
    orders, _ = hear(fresh(), {"fan": 9}, 0.0)
    failed, _ = desired.finished(orders, "fan", "no fan", 0.0)
    assert desired.failures(failed) == [{"key": "fan", "reason": "no fan"}]
    assert desired.reported(failed) == {}
    assert desired.failures(done(failed, {"fan": 8}, 1.0)) == []
    taken_back, effects = hear(failed, None, 1.0)
    assert effects == [Duty.KEEP, Duty.REPORT]
    assert (desired.failures(taken_back), desired.next_due(taken_back)) == ([], math.inf)


def test_a_wish_taken_back_after_a_failure_leaves_what_was_done_before() -> None:
    orders = done(fresh(), {"fan": 1})
    orders, _ = hear(orders, {"fan": 9}, 100.0)
    orders, _ = desired.finished(orders, "fan", "no", 100.0)
    assert desired.reported(orders) == {"fan": 1}
    orders, _ = hear(orders, None, 101.0)
    assert (desired.reported(orders), desired.failures(orders)) == ({"fan": 1}, [])
    assert acts(hear(orders, {"fan": 9}, 200.0)[1]) == [("fan", 9)]


def test_a_key_without_an_action_is_named_once_and_left() -> None:
    orders, effects = hear(fresh(), {"door": "open"}, 0.0)
    assert logged(effects) == ["desired.left"] and len(effects) == 1
    assert hear(orders, {"door": "open"}, 1.0) == (orders, [])
    assert logged(hear(orders, {"door": "shut"}, 1.0)[1]) == ["desired.left"]
    orders, _ = hear(orders, None, 2.0)
    assert logged(hear(orders, {"door": "open"}, 3.0)[1]) == ["desired.left"]


def deep(levels: int) -> Json:
    value: Json = 1
    for _ in range(levels):
        value = [value]
    return value


@pytest.mark.parametrize("value, why", [
    ("x" * 8193, "it has 8195 bytes"), (deep(9), "deeper than 8"), (deep(900), "deeper than 8"),
    ([[1], {"a": deep(7)}], "deeper than 8"), ("\ud800", "half a character"), (float("nan"), "no JSON"),
    (float("inf"), "no JSON"),
], ids=["large", "deep", "deeper", "deep in part", "surrogate", "nan", "infinity"])
def test_what_is_too_large_too_deep_or_no_json_is_refused_and_named_once(value: Json, why: str) -> None:
    orders, effects = hear(fresh(), {"fan": value}, 0.0)
    assert logged(effects) == ["desired.refused"] and effects[1:] == [Duty.KEEP, Duty.REPORT]
    [failure] = desired.failures(orders)
    assert why in failure["reason"]
    assert hear(orders, {"fan": value}, 1.0) == (orders, [])
    assert json.loads(json.dumps(desired.to_json(orders), allow_nan=False)) == desired.to_json(orders)
    assert acts(hear(orders, {"fan": 1}, 2.0)[1]) == [("fan", 1)]


@pytest.mark.parametrize("value", [deep(8), "x" * 8190, {"a": {"b": [1, {"c": None}]}}, "", 0, False, 1e300],
                         ids=["deep", "large", "tree", "empty", "zero", "false", "number"])
def test_anything_else_is_taken(value: Json) -> None:
    assert acts(hear(fresh(), {"fan": value}, 0.0)[1]) == [("fan", value)]


@pytest.mark.parametrize("value, text", [
    ("$(reboot)", "$(reboot)"), ("a\nb; reboot", "a\nb; reboot"), ("{hostname}", "{hostname}"), ("{value}", "{value}"),
    ("", ""), (3, "3"), (-3, "-3"), (True, "true"), (1.5, "1.5"), ({"a": [1, "雪"]}, '{"a": [1, "雪"]}'),
])
def test_a_value_is_exactly_one_argument(value: Json, text: str) -> None:
    assert arguments_of(("fan", "{value}", "{{now}}"), value) == ("fan", text, "{now}")
    assert arguments_of(("fan", "--speed={value}"), value) == ("fan", f"--speed={text}")


@pytest.mark.parametrize("command, value", [
    (("fan", "{value}"), "a\0b"), (("fan", "--speed={value}"), "\0"), (("fan", "{value}"), "--help"),
    (("fan", "{value}x", "--"), "-r"),
])
def test_nul_and_what_looks_like_an_option_are_refused(command: tuple[str, ...], value: str) -> None:
    with pytest.raises(ValueError):
        arguments_of(command, value)


def test_after_a_double_dash_nothing_is_an_option() -> None:
    assert arguments_of(("fan", "--", "{value}"), "--help") == ("fan", "--", "--help")


def reported_and_taken(orders: Orders, version: int, now: float) -> Orders:
    return desired.taken(orders, desired.reported(orders), version, now)


def test_a_slider_is_followed_at_once_and_ends_at_its_newest_value() -> None:
    """40 values in 10 s, each done and reported long before the next one."""
    orders, done_at, events = fresh(), [], []
    for number in range(40):
        now = number / 4
        orders, effects = hear(orders, {"fan": number}, now, 2 * number + 2)
        events += logged(effects)
        done_at += [(value, now) for _, value in acts(effects)]
        orders, effects = desired.finished(orders, "fan", "", now + 0.05)
        orders = reported_and_taken(orders, 2 * number + 3, now + 0.1)
    assert done_at == [(number, number / 4) for number in range(40)]
    assert "desired.loop" not in events
    orders, _ = desired.keep(orders, now + 4.0)
    assert desired.reported(orders) == {"fan": 39}


def test_a_slider_that_is_faster_than_the_command_ends_at_its_newest_value_when_the_command_has_ended() -> None:
    orders, ran = fresh(), []
    for number in range(40):
        orders, effects = hear(orders, {"fan": number}, number / 4, number + 1)
        ran += acts(effects)
    orders, effects = desired.finished(orders, "fan", "", 10.0)
    assert acts(effects) == [("fan", 39)] and len(ran) == 1


@pytest.mark.parametrize("interval_s", [0.3, 1.0, 1.5, 3.0, 5.0, 10.0, 30.0, 50.0, 90.0])
def test_steady_changes_are_no_fight(interval_s: float) -> None:
    orders, events, now = fresh(), [], 0.0
    for number in range(100):
        now += interval_s
        orders, effects = hear(orders, {"fan": number}, now, 2 * number + 2)
        assert acts(effects) == [("fan", number)]
        events += logged(effects)
        orders, _ = desired.finished(orders, "fan", "", now)
        orders = reported_and_taken(orders, 2 * number + 3, now)
        due_at = desired.next_due(orders)
        if due_at < now + interval_s:
            orders, _ = desired.keep(orders, due_at)
            orders = reported_and_taken(orders, 2 * number + 3, due_at)
    assert "desired.loop" not in events


@pytest.mark.parametrize("reaction_s", [0.05, 0.9, 3.0])
def test_a_program_that_answers_each_report_by_another_wish_is_named_once_and_heard_ever_less(
    reaction_s: float
) -> None:
    orders, events, times, now, version = fresh(), [], [], 0.0, 1
    while now < 6 * 3600.0:
        orders, effects = hear(orders, {"fan": version % 3}, now, version)
        assert len(acts(effects)) == 1  # what is desired is done at once all the same
        times.append(now)
        events += logged(effects)
        orders, effects = desired.finished(orders, "fan", "", now)
        if Duty.REPORT not in effects:
            now = desired.next_due(orders)
            orders, effects = desired.keep(orders, now)
            assert effects == [Duty.REPORT]
        orders = reported_and_taken(orders, version + 1, now)
        now, version = now + reaction_s, version + 2
    assert events.count("desired.loop") == 1
    assert len(times) < 30 and times[-1] - times[-2] > 3600.0


def test_who_reports_another_value_after_us_is_contradicted_three_times_and_then_named_once_and_ever_less() -> None:
    orders, events, reports, now, version = done(fresh(), {"fan": 1}), [], 0, 0.0, 2
    while now < 3600.0:
        orders = reported_and_taken(orders, version, now)
        orders, effects = hear(orders, {"fan": 1}, now, version + 1)
        events += logged(effects)
        if Duty.REPORT not in effects:
            assert desired.reported(orders) == {}
            now = desired.next_due(orders)
            orders, _ = desired.keep(orders, now)
        assert desired.reported(orders) == {"fan": 1}
        reports, now, version = reports + 1, now + 0.1, version + 2
    assert events == ["desired.loop"] and reports < 20
    assert acts(hear(orders, {"fan": 2}, now, version)[1]) == [("fan", 2)]


def test_a_delta_that_is_older_than_our_report_contradicts_nothing() -> None:
    orders = reported_and_taken(done(fresh(), {"fan": 1}), 9, 0.0)
    for version in range(1, 10):
        assert hear(orders, {"fan": 1}, 1.0, version) == (orders, [])


def held_back() -> tuple[Orders, float, int]:
    """Return orders whose report of the fan is held back, the time, and the next version."""
    orders, now, version = done(fresh(), {"fan": 0}), 0.0, 2
    while not orders.orders["fan"].loop.is_held:
        orders = reported_and_taken(orders, version, now)
        orders, _ = hear(orders, {"fan": version}, now + 0.1, version + 1)
        orders, _ = desired.finished(orders, "fan", "", now + 0.1)
        now, version = now + 0.1, version + 2
    return orders, now, version


def test_who_goes_on_while_the_report_is_held_back_is_not_suspected_any_more() -> None:
    orders, now, version = held_back()
    orders, effects = hear(orders, {"fan": -1}, now, version)
    assert acts(effects) == [("fan", -1)]
    orders, effects = desired.finished(orders, "fan", "", now)
    assert Duty.REPORT in effects and desired.reported(orders) == {"fan": -1}


def test_a_value_that_is_desired_again_while_its_report_is_held_back_is_reported_to_be_told_anew() -> None:
    orders, now, version = held_back()
    orders, effects = hear(orders, None, now, version)
    assert effects == [Duty.REPORT] and "fan" in desired.reported(orders)


def test_nothing_is_tried_again_while_the_line_is_away_or_after_a_restart_before_it_is_heard_again() -> None:
    orders, _ = hear(fresh(), {"fan": 1}, 0.0)
    orders, _ = desired.finished(orders, "fan", "no", 0.0)
    for lost in (desired.away(orders), fresh(desired.to_json(orders))):
        assert desired.next_due(lost) == math.inf
        assert desired.keep(lost, 1000.0) == (lost, [])
        withdrawn, _ = hear(lost, None, 1000.0)
        assert acts(desired.keep(withdrawn, 2000.0)[1]) == []
        back, _ = hear(lost, {"fan": 1}, 1000.0)
        assert acts(desired.keep(back, 2000.0)[1]) == [("fan", 1)]


def test_what_was_taken_back_while_it_is_acted_on_is_not_tried_again_where_it_fails() -> None:
    orders, _ = hear(done(fresh(), {"fan": 1}), {"fan": 2}, 0.0)
    orders, _ = hear(orders, None, 1.0)
    assert desired.to_json(orders)["fan"]["stage"] == "acting"
    failed, effects = desired.finished(orders, "fan", "it will not", 2.0)
    assert effects == [Duty.KEEP, Duty.REPORT] and desired.reported(failed) == {"fan": 1}
    assert desired.failures(failed) == [] and acts(desired.keep(failed, 10_000.0)[1]) == []
    well, effects = desired.finished(orders, "fan", "", 2.0)
    assert logged(effects) == ["desired.done"] and desired.reported(well) == {"fan": 2}
    again, effects = hear(orders, {"fan": 2}, 1.5)
    assert acts(effects) == []
    again, _ = desired.finished(again, "fan", "it will not", 2.0)
    assert acts(desired.keep(again, 10_000.0)[1]) == [("fan", 2)]


def test_the_end_of_a_command_while_the_line_is_away_begins_nothing() -> None:
    orders, _ = hear(fresh(), {"fan": 1}, 0.0)
    orders, _ = hear(orders, {"fan": 2}, 0.0)
    orders, effects = desired.finished(desired.away(orders), "fan", "", 1.0)
    assert acts(effects) == []
    orders, _ = hear(orders, {"fan": 2}, 2.0)
    assert acts(desired.keep(orders, 2.0)[1]) == [("fan", 2)]


def test_what_was_done_and_cannot_be_reported_is_told_as_such_and_not_reported_for_ever() -> None:
    orders = done(fresh(), {"fan": 1})
    orders, effects = desired.unreported(orders, {"fan": "it is too large"})
    assert effects == [Duty.REPORT]
    assert "cannot be reported: it is too large" in desired.failures(orders)[0]["reason"]
    assert desired.unreported(orders, {"fan": "it is larger still"})[1] == []
    assert hear(orders, {"fan": 1}, 1.0)[1] == []
    orders, effects = desired.unreported(orders, {})
    assert effects == [Duty.REPORT] and desired.failures(orders) == []


def test_what_was_done_survives_a_restart_and_is_not_done_again() -> None:
    kept = json.loads(json.dumps(desired.to_json(done(fresh(), {"fan": 3, "interval": "5s"}))))
    orders = fresh(kept, now=1000.0)
    assert desired.reported(orders) == {"fan": 3, "interval": "5s"}
    assert desired.overrides(orders) == {"publish[0].every": "5s"}
    assert hear(orders, {"fan": 3}, 1000.0)[1] == [Duty.REPORT]


def test_a_command_that_iotd_did_not_see_end_is_not_run_again_by_itself() -> None:
    """It may be the reboot itself, and the host would never stay up."""
    begun, _ = hear(fresh(), {"fan": "reboot"}, 0.0)
    orders = fresh(desired.to_json(begun), now=1000.0)
    [failure] = desired.failures(orders)
    assert "iotd ended" in failure["reason"]
    orders, effects = hear(orders, {"fan": "reboot"}, 1000.0)
    assert effects == [] and desired.next_due(orders) == math.inf
    assert acts(hear(orders, {"fan": "again"}, 1001.0)[1]) == [("fan", "again")]


def test_what_was_desired_while_a_command_ran_that_iotd_did_not_see_end_is_done() -> None:
    orders, _ = hear(done(fresh(), {"fan": 0}), {"fan": 1}, 0.0)
    orders, _ = hear(orders, {"fan": 2, "interval": "5s"}, 1.0)
    orders = fresh(desired.to_json(orders), now=1000.0)
    assert acts(hear(orders, {"fan": 2}, 1000.0)[1]) == [("fan", 2)]


def test_what_was_done_before_a_command_that_iotd_did_not_see_end_is_done_again_where_it_is_desired_again() -> None:
    orders, _ = hear(done(fresh(), {"fan": 0}), {"fan": 1}, 0.0)
    orders = fresh(desired.to_json(orders), now=1000.0)
    assert desired.reported(orders) == {"fan": None}
    orders, _ = hear(orders, None, 1000.0)
    assert desired.failures(orders) == []
    assert acts(hear(orders, {"fan": 0}, 1001.0)[1]) == [("fan", 0)]


def test_a_setting_that_iotd_did_not_see_taken_is_set_again() -> None:
    begun, _ = hear(fresh(), {"interval": "5s"}, 0.0)
    orders = fresh(desired.to_json(begun), now=9.0)
    assert desired.keep(orders, 9.0) == (orders, [])
    orders, _ = hear(orders, {"interval": "5s"}, 9.0)
    assert acts(desired.keep(orders, 9.0)[1]) == [("interval", "5s")]


def test_a_failure_survives_a_restart_with_its_count() -> None:
    orders, _ = hear(fresh(), {"fan": 1}, 0.0)
    orders, _ = desired.finished(orders, "fan", "no", 0.0)
    orders = fresh(desired.to_json(orders), now=1000.0)
    assert desired.failures(orders) == [{"key": "fan", "reason": "no"}]
    orders, _ = hear(orders, {"fan": 1}, 1000.0)
    assert desired.next_due(orders) == 1030.0
    orders, effects = desired.keep(orders, 1030.0)
    orders, _ = desired.finished(orders, "fan", "no", 1030.0)
    assert desired.next_due(orders) == 1090.0


@pytest.mark.parametrize("actions", [{}, {"interval": FAN}, {"interval": Set("log.level")}])
def test_a_value_is_dropped_when_the_file_does_not_open_its_setting_any_more(actions: dict[str, Any]) -> None:
    orders = fresh(desired.to_json(done(fresh(), {"interval": "5s"})), actions)
    assert desired.overrides(orders) == {}
    assert desired.reported(orders) == {"interval": None}
    assert desired.to_json(orders) == {}


def test_a_configuration_read_anew_lets_end_what_is_under_way_and_drops_what_it_closes() -> None:
    orders = done(fresh(), {"interval": "5s"})
    orders, _ = hear(orders, {"fan": 1}, 1.0)
    slower = Run(("/usr/bin/fan", "--slow", "{value}"))
    orders = desired.changed(orders, {**ACTIONS, "fan": slower, "interval": FAN})
    assert desired.overrides(orders) == {}
    orders, _ = desired.finished(orders, "fan", "", 2.0)
    assert desired.reported(orders) == {"fan": 1, "interval": None}
    assert hear(orders, {"fan": 2}, 3.0)[1] == [Duty.KEEP, Act("fan", slower, 2)]
    orders = desired.changed(orders, ACTIONS)
    assert acts(hear(orders, {"interval": "5s"}, 4.0)[1]) == [("interval", "5s")]


@pytest.mark.parametrize("kept", [
    None, [], "x", {"fan": None}, {"fan": {}}, {"fan": {"action": "run"}}, {"fan": {"action": "run", "text": 3}},
    {"fan": {"action": "run", "text": "{", "stage": "done", "reason": "", "applied": None, "failures": 0}},
    {"fan": {"action": "run", "text": "1", "stage": "done", "reason": "", "applied": 1, "failures": 0}},
    {"fan": {"action": "run", "text": "1", "stage": "done", "reason": "", "applied": None, "failures": "0"}},
])
def test_a_file_that_makes_no_sense_is_as_none(kept: Json) -> None:
    orders = fresh(kept)
    assert orders.orders == {}
    assert acts(hear(orders, {"fan": 1}, 0.0)[1]) == [("fan", 1)]


def test_the_end_of_an_act_that_nobody_waits_for_is_nothing() -> None:
    assert desired.finished(fresh(), "fan", "", 0.0) == (fresh(), [])
    orders = done(fresh(), {"fan": 1})
    assert desired.finished(orders, "fan", "late", 1.0) == (orders, [])


def test_failures_are_bounded_in_the_report() -> None:
    actions = {f"key {number}": FAN for number in range(100)}
    orders, effects = hear(fresh(actions=actions), {key: 1 for key in actions}, 0.0)
    for key in actions:
        orders, _ = desired.finished(orders, key, "雪" * 500, 0.0)
    told = desired.told(desired.failures(orders))
    assert 0 < len(json.dumps(told["failed"], ensure_ascii=False).encode()) <= desired.MAX_FAILURES_BYTES + 100
    assert len(told["failed"]) + told["left_out"] == len(desired.failures(orders)) == 100


def test_one_failure_among_many_orders_that_are_done_is_told() -> None:
    actions = {f"key {number:02}": FAN for number in range(60)}
    orders = done(fresh(actions=actions), {key: 1 for key in list(actions)[:-1]})
    orders, _ = hear(orders, {"key 59": 1}, 1.0)
    orders, _ = desired.finished(orders, "key 59", "no fan", 1.0)
    assert desired.told(desired.failures(orders)) == {
        "failed": [{"key": "key 59", "reason": "no fan"}], "left_out": None}


# The whole conversation: a service that keeps the document, a device that has orders and a line that is lost.

@dataclass
class World:
    """A shadow's document, a device that acts on it, and the messages between them; `cut_at` counts the messages."""

    cut_at: int
    cut_by: str
    orders: Orders = field(default_factory=fresh)
    wanted: dict[str, Json] = field(default_factory=dict)
    reported: dict[str, Json] = field(default_factory=dict)
    to_device: list[Json] = field(default_factory=list)
    to_service: list[Json] = field(default_factory=list)
    under_way: list[Act] = field(default_factory=list)
    ran: list[tuple[str, Json]] = field(default_factory=list)
    disk: Json = None
    steps: int = 0

    def order(self, **wanted: Json) -> None:
        """The cloud changes its mind, and the service tells whoever listens."""
        self.wanted.update(wanted)
        self.to_device.append(difference(self.wanted, self.reported))
        self.settle()

    def settle(self) -> None:
        """Pass on messages and end actions until there are none, losing the line at the chosen one."""
        while self.to_device or self.to_service or self.under_way:
            self.steps += 1
            if self.to_device:
                self.take(hear(self.orders, self.to_device.pop(0) or None, 0.0))
                self.take(desired.keep(self.orders, 0.0))
            elif self.to_service:
                self.reported.update(self.to_service.pop(0))
                delta = difference(self.wanted, self.reported)
                self.to_device += [delta] if delta else []
            else:
                act = self.under_way.pop(0)
                self.take(desired.finished(self.orders, act.key, "", 0.0))
            if self.steps == self.cut_at:
                self.cut()

    def take(self, decided: tuple[Orders, list[Any]]) -> None:
        self.orders, effects = decided
        for effect in effects:
            if effect is Duty.KEEP:
                self.disk = json.loads(json.dumps(desired.to_json(self.orders)))
            elif isinstance(effect, Act):
                self.ran.append((effect.key, effect.value))
                self.under_way.append(effect)
            elif effect is Duty.REPORT:
                self.to_service.append(desired.reported(self.orders))

    def cut(self) -> None:
        """The line is lost with all that was on it, or iotd with all that it had in memory; then a get and a report."""
        self.to_device, self.to_service = [], []
        self.orders = desired.away(self.orders)
        if self.cut_by == "restart":
            self.under_way = []
            self.orders = fresh(self.disk)
        self.to_device.append(difference(self.wanted, self.reported))
        self.to_service.append(desired.reported(self.orders))


def conversation(cut_at: int, cut_by: str) -> World:
    world = World(cut_at, cut_by)
    world.order(fan=1)
    world.order(fan=2, interval="5s")
    world.order(interval="6s", fan={"speed": [1, 2]})
    return world


STEPS = conversation(-1, "").steps


@pytest.mark.parametrize("cut_at", range(1, STEPS + 1))
def test_a_line_lost_after_any_message_changes_nothing_in_the_end(cut_at: int) -> None:
    whole, cut = conversation(-1, ""), conversation(cut_at, "line")
    assert cut.reported == cut.wanted == whole.reported
    assert cut.ran == whole.ran
    assert desired.overrides(cut.orders) == {"publish[0].every": "6s"}


@pytest.mark.parametrize("cut_at", range(1, STEPS + 1))
def test_iotd_ended_after_any_message_does_nothing_twice_that_may_have_been_done(cut_at: int) -> None:
    cut = conversation(cut_at, "restart")
    commands = [act for act in cut.ran if act[0] == "fan"]
    assert commands == [("fan", 1), ("fan", 2), ("fan", {"speed": [1, 2]})]
    lacking = difference(cut.wanted, cut.reported)
    assert set(lacking) == {failure["key"] for failure in desired.failures(cut.orders)} <= {"fan"}


def test_the_whole_conversation_does_each_thing_once() -> None:
    assert conversation(-1, "").ran == [("fan", 1), ("fan", 2), ("interval", "5s"),
                                        ("fan", {"speed": [1, 2]}), ("interval", "6s")]
