"""The Wi-Fi as the main thread sees it: requests, the story that a reboot takes along, all on real files."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any, Iterator

import pytest

from iotd import log
from iotd.places import Places
from iotd.reading import Reading
from iotd.recovery import Step
from iotd.rescue import Legacy, Outage, Rescue
from iotd.settings import RebootBudget, Wifi

INTERFACE = "wifi-test0"
RIGHT = Reading(INTERFACE, "associated", b"fleet-ap", "02:00:00:00:01:00", -50, 2437)
GUEST = Reading(INTERFACE, "associated", b"guest")
OFF = Reading(INTERFACE, "disconnected", reason="off")
LADDER = Wifi(INTERFACE, ("fleet-ap",), 10, 10, ("reconnect", "radio-cycle"), RebootBudget(3, 1))
OUTAGE = Outage("silence", 100.0, {}, 2)
REBOOT = Step("reboot", "off for long")
REBOOT_ONLY = LADDER._replace(recover=("reboot",))


@pytest.fixture
def places(tmp_path: Path) -> Places:
    for name in ("state", "runtime"):
        (tmp_path / name).mkdir()
    return Places(tmp_path / "state", tmp_path / "runtime")


@pytest.fixture
def said() -> Iterator[io.StringIO]:
    stream = io.StringIO()
    log.start("info", "json", False, stream)
    yield stream
    log.start("info", "json", False)


def events(said: io.StringIO) -> list[tuple[str, Any]]:
    entries = map(json.loads, said.getvalue().splitlines())
    return [(entry["event"], entry.get("action")) for entry in entries]


def started(places: Places, boot: str = "first", settings: Wifi = LADDER, way_out: bool = False) -> Rescue:
    rescue = Rescue(places, boot, lambda: None, lambda interface: way_out)
    rescue.apply(settings)
    return rescue


def off_for_long(rescue: Rescue, looks: int = 10, mqtt_connected: bool = False) -> None:
    for look in range(looks):
        rescue.take(OFF, mqtt_connected, look * 10.0)


def test_a_step_becomes_a_request_with_its_reason(places: Places, said: io.StringIO) -> None:
    rescue = started(places)
    off_for_long(rescue, 2)
    assert rescue.wrong and events(said) == [("wifi.lost", None), ("recovery.step", "reconnect")]
    [request] = (places.runtime / "recover").iterdir()
    assert request.name == "reconnect"
    assert json.loads(request.read_text()) == {"interface": INTERFACE, "reason": "off; wrong for 10 s"}


def test_a_request_that_cannot_be_left_is_told_and_ends_nothing(places: Places, said: io.StringIO) -> None:
    (places.runtime / "recover").write_text("in the way")
    off_for_long(started(places), 2)
    assert events(said)[-1] == ("recovery.failed", "reconnect")


def test_a_look_at_an_interface_that_is_no_longer_watched_is_passed_over(places: Places) -> None:
    rescue = started(places)
    rescue.take(Reading("wlan9", "absent", reason="gone"), False, 0.0)
    assert (rescue.wrong, rescue.reading, rescue.status()) == (False, None, None)


def test_an_outage_tells_the_steps_taken_in_it_once(places: Places, said: io.StringIO) -> None:
    rescue = started(places)
    off_for_long(rescue, 3)
    rescue.take(RIGHT, False, 30.0)
    assert rescue.whole(OUTAGE) == Outage("silence", 100.0, {"reconnect": 1, "radio-cycle": 1}, 2)
    assert rescue.whole(OUTAGE).tried, "not told yet"
    rescue.told()
    assert rescue.whole(OUTAGE) == OUTAGE
    assert not list(places.state.glob("last_reboot*")), "nothing is written without a reboot"


def test_what_was_mended_before_the_line_was_lost_belongs_to_no_outage(places: Places) -> None:
    rescue = started(places)
    off_for_long(rescue, 2, mqtt_connected=True)
    rescue.take(RIGHT, True, 20.0)
    assert rescue.whole(OUTAGE) == OUTAGE


def test_a_reboot_is_in_the_budget_on_disk_before_it_is_handed_out(places: Places) -> None:
    rescue = started(places, settings=REBOOT_ONLY)
    assert rescue.take(OFF, False, 0.0) is None
    assert rescue.take(OFF, False, 10.0) == Step("reboot", "off; wrong for 10 s")
    [reboot] = json.loads((places.state / "reboots.json").read_text())["reboots"]
    assert reboot["boot_id"] == "first"
    assert not (places.runtime / "recover").exists(), "the goodbye comes first"


def test_without_room_for_the_budget_there_is_no_reboot(places: Places, said: io.StringIO) -> None:
    (places.state / ".reboots.json.new").mkdir()
    rescue = started(places, settings=REBOOT_ONLY)
    assert [rescue.take(OFF, False, look * 10.0) for look in range(3)] == [None] * 3
    assert events(said) == [("wifi.lost", None), ("recovery.failed", "reboot")]


@pytest.mark.parametrize("reading", [OFF, GUEST])
def test_another_way_out_withholds_the_reboot_whatever_the_look_finds(places: Places, said: io.StringIO,
                                                                      reading: Reading) -> None:
    """A whole budget and an association elsewhere once passed for calm, and nobody looked for another way out."""
    rescue = started(places, settings=REBOOT_ONLY, way_out=True)
    assert [rescue.take(reading, False, look * 10.0) for look in range(3)] == [None] * 3
    assert events(said) == [("wifi.lost", None), ("recovery.withheld", "reboot")]


def test_a_boot_tells_the_reboot_that_it_came_of_and_the_outage_before_it(places: Places) -> None:
    before = started(places)
    off_for_long(before, 2)
    before.reboot(REBOOT, Outage("silence", 100.0, {}, 2))
    assert (places.runtime / "recover" / "reboot").exists()
    after = started(places, "second")
    off_for_long(after, 2)
    assert after.boot_cause == "iotd: off for long"
    told = after.whole(Outage("no route", 5.0, {}, 1))
    assert (told.reason, told.tried, told.dropped) == ("silence", {"reconnect": 2}, 3)
    assert told.for_s > 105
    after.told()
    assert after.whole(OUTAGE) == OUTAGE
    again = started(places, "second")
    assert (again.boot_cause, again.whole(OUTAGE)) == ("iotd: off for long", OUTAGE)


def test_two_reboots_in_a_row_leave_one_outage(places: Places) -> None:
    started(places).reboot(REBOOT, OUTAGE)
    between = started(places, "second")
    off_for_long(between, 2)
    between.reboot(Step("reboot", "still off"), OUTAGE)
    last = started(places, "third")
    assert last.boot_cause == "iotd: still off"
    assert (last.whole(OUTAGE).tried, last.whole(OUTAGE).dropped) == ({"reconnect": 1}, 6)
    assert last.whole(OUTAGE).for_s > between.whole(OUTAGE).for_s


def test_a_boot_that_nobody_heard_of_is_not_claimed_by_the_one_after_a_power_cut(places: Places) -> None:
    started(places).reboot(REBOOT, OUTAGE)
    started(places, "second")
    assert started(places, "third").boot_cause == "not asked for by iotd"


def test_a_reboot_that_has_not_come_is_no_cause_of_the_boot_that_asked_for_it(places: Places) -> None:
    started(places).reboot(REBOOT, OUTAGE)
    assert started(places, "first").boot_cause == "not asked for by iotd"


@pytest.mark.parametrize("text", [
    "", "\0" * 100, "[]", "null", "7", "{}", '{"outage": 7}', '{"outage": {}}',
    json.dumps({"asked_in": "first", "reason": 7, "outage": {"reason": "", "for_s": 1, "tried": {}, "dropped": 0}}),
    json.dumps({"asked_in": "a", "reason": "", "outage": {"reason": "", "for_s": 1, "tried": [], "dropped": 0}}),
    json.dumps({"asked_in": "a", "reason": "", "outage": {"reason": "", "for_s": "1", "tried": {}, "dropped": 0}}),
    json.dumps({"asked_in": "a", "reason": "", "outage": {"reason": "", "for_s": 1, "tried": {"reboot": "1"},
                                                          "dropped": 0}}),
    json.dumps({"asked_in": "a", "reason": "", "outage": {"reason": "", "for_s": 1, "tried": {}, "dropped": 0},
                "more": 1}),
    json.dumps({"asked_in": "a", "reason": "", "outage": {"reason": "", "for_s": 1, "tried": {}, "dropped": 0},
                "told": 7}),
])
def test_a_story_that_a_power_cut_has_spoiled_is_no_story(places: Places, text: str) -> None:
    (places.state / "last_reboot.json").write_text(text)
    assert started(places, "second").boot_cause == "not asked for by iotd"


def test_a_story_comes_back_from_its_json() -> None:
    legacy = Legacy("first", "工場 off", Outage("silence", 1.5, {"reboot": 1}, 0), "second", True)
    assert Legacy.from_json(json.loads(legacy.to_json())) == legacy


def test_a_disk_that_takes_no_story_still_gets_its_reboot(places: Places, said: io.StringIO) -> None:
    (places.state / ".last_reboot.json.new").mkdir()
    started(places).reboot(REBOOT, OUTAGE)
    assert (places.runtime / "recover" / "reboot").exists()
    assert events(said) == [("recovery.failed", "reboot")]


def test_a_budget_that_cannot_be_written_is_told_once_and_lets_no_reboot_happen(places: Places, said: io.StringIO
                                                                                ) -> None:
    (places.state / "reboots.json").write_text("spoiled")
    (places.state / ".reboots.json.new").mkdir()
    rescue = started(places)
    for look in range(5):
        assert rescue.take(RIGHT, True, look * 10.0) is None
    assert events(said) == [("recovery.failed", "reboot")]


def test_status_tells_the_last_look(places: Places) -> None:
    rescue = started(places)
    rescue.take(RIGHT, True, 0.0)
    assert rescue.status() == {
        "interface": INTERFACE, "outcome": "associated", "essid": "fleet-ap", "bssid": "02:00:00:00:01:00",
        "rssi_dbm": -50, "frequency_mhz": 2437, "reason": ""}
