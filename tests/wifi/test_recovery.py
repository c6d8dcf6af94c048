"""The ladder, judged by tables: what is read and when, what stands in the way, and what iotd then does."""

from __future__ import annotations

from collections.abc import Iterable

import pytest

from iotd.wifi.reading import Reading
from iotd.wifi.recovery import (
    Budget, Circumstances, Effect, Keep, Lost, Reboot, Restored, State, Step, Unreadable, Withheld, initial, judge,
)
from iotd.wifi.section import RebootBudget, Wifi

FLEET = Wifi(essid=("fleet-ap", "工場"), every_s=10, grace_s=120, reboot=RebootBudget(3, 600))
RIGHT = Reading("wlan0", "associated", b"fleet-ap")
GUEST = Reading("wlan0", "associated", b"guest")
OFF = Reading("wlan0", "disconnected", reason="wlan0 is not associated (link down)")
GONE = Reading("wlan0", "absent", reason="there is no interface wlan0")
BLIND = Reading("wlan0", "unknown", reason="the kernel did not answer about wlan0 in 2 s")
HERE = Circumstances(mqtt_connected=False, other_default_route=False, boot_id="now", uptime_s=90000.0,
                     wall_s=1e9, budget=Budget())


def follow(readings: Iterable[Reading], settings: Wifi = FLEET, here: Circumstances = HERE,
           state: State = initial()) -> list[tuple[float, Effect]]:
    """Judge one reading every `every_s` and return all effects with their times; the budget is kept as asked."""
    done = []
    for look, reading in enumerate(readings):
        now = look * settings.every_s
        state, effects = judge(settings, state, reading, here._replace(uptime_s=here.uptime_s + now), now)
        for effect in effects:
            here = here._replace(budget=effect.budget) if isinstance(effect, Keep) else here
        done += [(now, effect) for effect in effects]
    return done


def steps(done: list[tuple[float, Effect]]) -> list[tuple[float, str]]:
    return [(at, effect.action) for at, effect in done if isinstance(effect, Step)]


def withheld(done: list[tuple[float, Effect]]) -> list[tuple[str, str]]:
    return [(effect.action, effect.reason) for _, effect in done if isinstance(effect, Withheld)]


@pytest.mark.parametrize("reading, essid, right", [
    (RIGHT, ("fleet-ap",), True),
    (RIGHT._replace(ssid="工場".encode()), ("fleet-ap", "工場"), True),
    (RIGHT._replace(ssid=b"caf\xe9"), ("caf\\xe9",), True),
    (RIGHT._replace(ssid=b" \"two\" words "), (" \"two\" words ",), True),
    (GUEST, (), True),
    (GUEST, ("fleet-ap",), False),
    (RIGHT._replace(ssid=b"fleet-ap "), ("fleet-ap",), False),
    (RIGHT._replace(ssid=b"Fleet-AP"), ("fleet-ap",), False),
    (OFF, (), False),
    (GONE, (), False),
])
def test_right_is_an_expected_essid_or_any_where_none_is_expected(reading: Reading, essid: tuple[str, ...],
                                                                  right: bool) -> None:
    done = follow([reading], FLEET._replace(essid=essid, recover=()))
    assert [type(effect) for _, effect in done] == ([] if right else [Lost])


def test_a_loss_is_told_once_and_its_end_with_what_was_tried() -> None:
    done = follow([RIGHT, *[OFF] * 26, RIGHT, RIGHT])
    assert done[0] == (10, Lost("wlan0", None, ("fleet-ap", "工場"), "wlan0 is not associated (link down)"))
    assert done[-1] == (270, Restored("wlan0", "fleet-ap", ("fleet-ap", "工場"), 260.0,
                                      {"reconnect": 1, "restart-network": 1}))
    assert len(done) == 4


def test_each_rung_has_the_grace_before_the_next() -> None:
    done = follow([*[RIGHT], *[OFF] * 37])
    assert steps(done) == [(130, "reconnect"), (250, "restart-network"), (370, "reboot")]
    assert done[1][1] == Step("reconnect", "wlan0 is not associated (link down); wrong for 120 s")


def test_after_the_last_rung_the_ladder_is_climbed_again_with_a_growing_pause() -> None:
    settings = FLEET._replace(recover=("reconnect", "radio-cycle"))
    at = [when for when, action in steps(follow([OFF] * 3000, settings)) if action == "reconnect"]
    gaps = [later - earlier for earlier, later in zip(at, at[1:])]
    assert gaps[:7] == [360, 600, 1080, 2040, 3720, 3720, 3720]


def test_a_grace_above_an_hour_is_not_cut_down_to_it() -> None:
    settings = FLEET._replace(recover=("reconnect",), every_s=100, grace_s=7200)
    assert [at for at, _ in steps(follow([OFF] * 200, settings))] == [7200, 14400]


def test_a_right_reading_ends_the_count_and_brings_the_ladder_down() -> None:
    done = follow([OFF] * 12 + [RIGHT] + [OFF] * 13 + [RIGHT] + [OFF] * 13)
    assert steps(done) == [(250, "reconnect"), (390, "reconnect")]


def test_without_a_ladder_a_loss_is_only_told() -> None:
    assert [type(effect) for _, effect in follow([OFF] * 500, FLEET._replace(recover=()))] == [Lost]


def test_the_wrong_network_is_named_in_the_reason() -> None:
    done = follow([GUEST] * 13)
    assert done == [
        (0, Lost("wlan0", "guest", FLEET.essid, "wlan0 is associated with 'guest', expected 'fleet-ap' or '工場'")),
        (120, Step("reconnect", "wlan0 is associated with 'guest', expected 'fleet-ap' or '工場'; wrong for 120 s"))]


def test_an_unknown_reading_is_told_once_for_each_reason_and_does_nothing_else() -> None:
    other = BLIND._replace(reason="wlan0 cannot be read: Operation not permitted")
    done = follow([BLIND] * 500 + [other] * 500 + [RIGHT, other])
    assert done == [(0, Unreadable("wlan0", BLIND.reason)), (5000, Unreadable("wlan0", other.reason)),
                    (10010, Unreadable("wlan0", other.reason))]


def test_an_unknown_reading_is_told_again_after_one_that_was_known() -> None:
    done = follow([BLIND, OFF, BLIND, RIGHT, BLIND], FLEET._replace(recover=()))
    assert [at for at, effect in done if isinstance(effect, Unreadable)] == [0, 20, 40]


def test_the_time_around_an_unknown_reading_does_not_count_and_does_not_end_the_count() -> None:
    assert steps(follow([OFF, *[BLIND] * 100, *[OFF] * 13])) == [(1130, "reconnect")]
    assert steps(follow([OFF, OFF, BLIND] * 13)) == [(340, "reconnect")]
    assert steps(follow([OFF, BLIND] * 500)) == []


def test_a_hole_between_two_looks_counts_as_two_looks_at_most() -> None:
    state, _ = judge(FLEET, initial(), OFF, HERE, 0.0)
    state, effects = judge(FLEET, state, OFF, HERE, 50000.0)
    assert (effects, state.waited_s) == ((), 20.0)


def test_an_interface_that_never_was_is_told_and_never_recovered() -> None:
    done = follow([GONE] * 5000)
    assert done == [(0, Lost("wlan0", None, FLEET.essid, "there is no interface wlan0")),
                    (120, Withheld("reconnect", "there has been no wlan0 since iotd started"))]


@pytest.mark.parametrize("looks", [1, 12])
def test_nothing_is_withheld_before_it_is_due(looks: int) -> None:
    """An interface that a slow driver brings a few seconds after iotd is no reason for a word."""
    here = HERE._replace(mqtt_connected=True, other_default_route=True, budget=None, uptime_s=1.0)
    for reading in (GONE, OFF, GUEST):
        assert withheld(follow([reading] * looks, FLEET._replace(recover=("reboot",)), here)) == []
    assert withheld(follow([*[GONE] * looks, *[OFF] * 12])) == []


def test_an_interface_that_comes_late_gets_its_whole_grace() -> None:
    assert steps(follow([*[GONE] * 50, *[OFF] * 13])) == [(620, "reconnect")]


def test_an_interface_that_went_away_is_recovered_up_to_the_reboot() -> None:
    for before in (OFF, RIGHT):
        done = follow([before, *[GONE] * 37])
        assert [action for _, action in steps(done)] == ["reconnect", "restart-network", "reboot"]


def guarded(action: str, reading: Reading, here: Circumstances) -> list[Effect]:
    """Return what happens when this rung, the only one, is due."""
    settings = FLEET._replace(recover=(action,))
    return [effect for at, effect in follow([RIGHT, *[reading] * 13], settings, here) if at == 130]


@pytest.mark.parametrize("action, reading, mqtt_connected, other_default_route, reason", [
    ("reconnect", OFF, False, False, ""),
    ("reconnect", OFF, True, False, ""),
    ("reconnect", OFF, True, True, ""),
    ("reconnect", GUEST, False, False, ""),
    ("reconnect", GUEST, True, False, "MQTT is connected over wlan0 itself"),
    ("reconnect", GUEST, True, True, ""),
    ("radio-cycle", GUEST, True, False, "MQTT is connected over wlan0 itself"),
    ("radio-cycle", OFF, True, True, ""),
    ("restart-network", OFF, False, True, ""),
    ("restart-network", OFF, True, False, "MQTT is connected"),
    ("restart-network", OFF, True, True, "MQTT is connected"),
    ("reboot", OFF, False, False, ""),
    ("reboot", OFF, True, False, "MQTT is connected"),
    ("reboot", OFF, False, True, "another interface has a default route"),
    ("reboot", OFF, True, True, "MQTT is connected"),
])
def test_no_rung_harms_a_line_that_works(action: str, reading: Reading, mqtt_connected: bool,
                                         other_default_route: bool, reason: str) -> None:
    here = HERE._replace(mqtt_connected=mqtt_connected, other_default_route=other_default_route)
    effect = guarded(action, reading, here)[-1]
    assert (effect.reason if isinstance(effect, Withheld) else "") == reason
    assert isinstance(effect, (Step, Withheld)) and effect.action == action


@pytest.mark.parametrize("uptime_s, streak, reason", [
    (469, 0, "the host has been up for less than 600 s"),
    (470, 0, ""),
    (1069, 1, "the host has been up for less than 1200 s"),
    (1070, 1, ""),
    (2269, 2, "the host has been up for less than 2400 s"),
    (86269, 9, "the host has been up for less than 86400 s"),
    (86270, 9, ""),
    (86270, 10**9, ""),
])
def test_each_reboot_that_did_not_help_doubles_the_uptime_before_the_next(
        uptime_s: float, streak: int, reason: str) -> None:
    state, _ = judge(FLEET, initial(), RIGHT, HERE, 0.0)
    here = HERE._replace(uptime_s=uptime_s + 130, budget=Budget((), streak))
    due = state._replace(lost_at=10.0, wrong_at=120.0, waited_s=110.0)
    _, effects = judge(FLEET._replace(recover=("reboot",)), due, OFF, here, 130.0)
    assert [effect.reason for effect in effects if isinstance(effect, Withheld)] == ([reason] if reason else [])


def test_a_grace_above_the_minimum_uptime_is_the_wait_between_reboots() -> None:
    settings = FLEET._replace(recover=("reboot",), grace_s=1000)
    due = State(existed=True, lost_at=0.0, wrong_at=1000.0, waited_s=1000.0)
    _, effects = judge(settings, due, OFF, HERE._replace(uptime_s=1500.0, budget=Budget((), 1)), 1010.0)
    assert effects == (Withheld("reboot", "the host has been up for less than 2000 s"),)


def test_a_reboot_is_in_the_budget_before_it_is_asked_for() -> None:
    assert guarded("reboot", OFF, HERE) == [
        Keep(Budget((Reboot("now", 90130.0, 1e9),), 1)),
        Step("reboot", "wlan0 is not associated (link down); wrong for 120 s")]


@pytest.mark.parametrize("budget, reason", [
    (None, "the reboot budget cannot be read"),
    (Budget((Reboot("a", 700.0, 1e9), Reboot("b", 700.0, 1e9), Reboot("c", 700.0, 1e9 + 99))),
     "the budget of 3 reboots a day is used up"),
])
def test_no_reboot_without_a_budget(budget: Budget | None, reason: str) -> None:
    here = HERE._replace(uptime_s=700.0, budget=budget)
    state, _ = judge(FLEET, initial(), RIGHT, HERE, 0.0)
    due = state._replace(lost_at=0.0, wrong_at=120.0, waited_s=120.0)
    _, effects = judge(FLEET._replace(recover=("reboot",)), due, OFF, here, 130.0)
    assert effects == (Withheld("reboot", reason),)


def test_a_withheld_rung_is_told_once_and_taken_when_its_guard_lets_go() -> None:
    done = follow([RIGHT, *[OFF] * 80], here=HERE._replace(uptime_s=20.0))
    assert withheld(done) == [("reboot", "the host has been up for less than 600 s")]
    assert steps(done)[:3] == [(130, "reconnect"), (250, "restart-network"), (490, "reconnect")]
    assert [at for at, action in steps(done) if action == "reboot"] == [730]


def test_a_change_of_the_guard_is_told() -> None:
    settings = FLEET._replace(recover=("reboot",))
    state = State(existed=True, lost_at=0.0, wrong_at=120.0, waited_s=120.0)
    told = []
    for here in (HERE, HERE._replace(mqtt_connected=True)) * 2:
        here = here._replace(other_default_route=True)
        state, effects = judge(settings, state, OFF, here, 130.0)
        told += [effect.reason for effect in effects if isinstance(effect, Withheld)]
        state, effects = judge(settings, state, OFF, here, 140.0)
        assert effects == ()
    assert told == ["another interface has a default route", "MQTT is connected"] * 2


def test_while_the_reboot_is_withheld_the_lower_rungs_are_tried_again() -> None:
    done = follow([OFF] * 1500, here=HERE._replace(other_default_route=True))
    assert [at for at, action in steps(done) if action == "reconnect"] == [120, 480, 1080, 2160, 4200, 7920, 11640]
    assert "reboot" not in [action for _, action in steps(done)]
    assert withheld(done) == [("reboot", "another interface has a default route")]


def test_a_network_gone_for_good_gets_no_reboot_beyond_the_budget_and_ever_fewer() -> None:
    """Sixty days without a clock and without a network: each boot starts anew, only the budget comes through."""
    settings = FLEET._replace(every_s=120)
    budget, begun, asked = Budget(), 0.0, [0.0]
    while begun < 60 * 86400:
        state, uptime_s = initial(), 0.0
        kept: list[Budget] = []
        while not kept:
            uptime_s += settings.every_s
            here = Circumstances(False, False, str(begun), uptime_s, None, budget)
            reading = OFF if uptime_s > settings.every_s else GONE
            state, effects = judge(settings, state, reading, here, uptime_s)
            kept = [effect.budget for effect in effects if isinstance(effect, Keep)]
        budget, begun = kept[0], begun + uptime_s
        asked.append(begun)
    gaps = [later - earlier for earlier, later in zip(asked, asked[1:])]
    assert all(later - earlier >= 86400 for earlier, later in zip(asked[1:], asked[4:]))
    assert all(600 * 2 ** boot <= gap for boot, gap in enumerate(gaps[:7]))
    assert gaps[0] <= 1200 and gaps[1] <= 1800 and 86400 <= min(gaps[8:]) <= max(gaps[8:]) < 100000


def boots_that_forget(readings: Iterable[Iterable[Reading]]) -> list[int]:
    """Live boots that each find no budget, with these readings each; return how often each asked for a reboot."""
    asked = []
    for boot, read in enumerate(readings):
        here = HERE._replace(boot_id=str(boot), uptime_s=900.0, budget=None, forgets=True)
        asked.append([action for _, action in steps(follow(read, here=here))].count("reboot"))
    return asked


def test_where_a_reboot_forgets_the_budget_a_chain_of_boots_has_one() -> None:
    """A password that is changed while the device runs on an overlay once rebooted it every ten minutes, for ever."""
    lost = [OFF] * 60
    assert boots_that_forget([[RIGHT, *lost], lost, [GONE, *lost], [GUEST] * 60]) == [1, 0, 0, 0]
    assert boots_that_forget([lost, [*lost, RIGHT, *lost], lost]) == [0, 1, 0]


def test_a_reboot_that_is_withheld_since_it_would_be_forgotten_says_so() -> None:
    done = follow([OFF] * 60, here=HERE._replace(budget=None, forgets=True))
    assert withheld(done) == [
        ("reboot", "a reboot would be forgotten, and the Wi-Fi has not been right since the last")]


REBOOTS = (Reboot("a", 700.0, 1000.0), Reboot("b", 50000.0, 51000.0), Reboot("c", 800.0, 52000.0))


@pytest.mark.parametrize("moment, recent", [
    (Reboot("d", 30.0, 52100.0), "abc"),
    (Reboot("d", 30.0, None), "abc"),
    (Reboot("d", 86400.0, None), ""),
    (Reboot("d", 35599.0, None), "abc"),
    (Reboot("d", 35600.0, None), "bc"),
    (Reboot("d", 35600.0, 0.0), "bc"),
    (Reboot("d", 85599.0, None), "bc"),
    (Reboot("d", 85600.0, None), "c"),
    (Reboot("d", 30.0, 87399.0), "abc"),
    (Reboot("d", 30.0, 87400.0), "bc"),
    (Reboot("d", 30.0, 137400.0), "c"),
    (Reboot("d", 30.0, 0.0), "abc"),
    (Reboot("c", 86400.0, None), "c"),
    (Reboot("c", 87200.0, None), ""),
])
def test_a_reboot_is_a_day_old_when_uptimes_or_a_sure_clock_prove_it(moment: Reboot, recent: str) -> None:
    assert "".join(reboot.boot_id for reboot in Budget(REBOOTS).recent(moment)) == recent


def test_no_jump_of_the_clock_makes_an_undated_reboot_old() -> None:
    undated = Budget((Reboot("a", 700.0, None),), 1)
    moment = Reboot("b", 60.0, 1e9)
    assert undated.recent(moment) == undated.reboots
    dated = undated.settled(moment)
    assert dated == Budget((Reboot("a", 700.0, 1e9),), 0)
    assert dated.recent(moment._replace(wall_s=1e9 + 86399)) == dated.reboots
    assert dated.recent(moment._replace(wall_s=1e9 + 86400)) == ()


def test_what_is_old_leaves_the_budget_with_the_next_reboot() -> None:
    budget = Budget(REBOOTS, 3).spent(Reboot("d", 30.0, 87400.0))
    assert (budget.reboots, budget.streak) == ((*REBOOTS[1:], Reboot("d", 30.0, 87400.0)), 4)


def test_a_right_reading_ends_the_streak_and_writes_only_what_changes() -> None:
    here = HERE._replace(budget=Budget((Reboot("a", 700.0, 5.0),), 2))
    assert follow([RIGHT] * 5, here=here) == [(0, Keep(Budget((Reboot("a", 700.0, 5.0),), 0)))]
    assert follow([RIGHT] * 5) == []


def test_an_unreadable_budget_is_replaced_by_a_used_up_one_once_the_wifi_is_right() -> None:
    done = follow([OFF, RIGHT, RIGHT], here=HERE._replace(budget=None))
    assert done[-1] == (10, Keep(Budget((Reboot("now", 90010.0, 1e9),) * 3, 0)))


def test_a_budget_comes_back_from_its_json() -> None:
    budget = Budget((*REBOOTS, Reboot("d", 1.5, None)), 7)
    assert Budget.from_json(budget.to_json()) == budget


@pytest.mark.parametrize("text", [
    "", "\0" * 200, "null", "[]", "{}", "3", '"x"', '{"reboots": []}', '{"streak": 0}',
    Budget(REBOOTS).to_json()[:-1], Budget(REBOOTS).to_json()[:40], Budget(REBOOTS).to_json() + "}",
    '{"reboots": [], "streak": -1}', '{"reboots": [], "streak": true}', '{"reboots": [], "streak": 0.5}',
    '{"reboots": {}, "streak": "0"}', '{"reboots": [], "streak": 0, "more": 1}', '{"reboots": [7], "streak": 0}',
    '{"reboots": [{"boot_id": "a"}], "streak": 0}',
    '{"reboots": [{"boot_id": 7, "uptime_s": 1, "wall_s": 1}], "streak": 0}',
    '{"reboots": [{"boot_id": "a", "uptime_s": NaN, "wall_s": 1}], "streak": 0}',
    '{"reboots": [{"boot_id": "a", "uptime_s": Infinity, "wall_s": 1}], "streak": 0}',
    '{"reboots": [{"boot_id": "a", "uptime_s": -1, "wall_s": 1}], "streak": 0}',
    '{"reboots": [{"boot_id": "a", "uptime_s": 1, "wall_s": "1"}], "streak": 0}',
    '{"reboots": [{"boot_id": "a", "uptime_s": 1, "wall_s": 1, "x": 1}], "streak": 0}',
    "[" * 100000,
])
def test_what_is_no_budget_is_refused(text: str) -> None:
    with pytest.raises(ValueError):
        Budget.from_json(text)
