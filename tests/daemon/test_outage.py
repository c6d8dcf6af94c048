"""The time without a line, and what a reboot takes along of it, on real files."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest

from iotd.daemon.outage import Legacy, Outage, Outages
from iotd.host.files import Files

OUTAGE = Outage("silence", 100.0, {}, 2)


def booted(state: Path, boot: str = "first", uptime: float = 7.0) -> Outages:
    """Return the outages of a run that starts at 0 s, in this boot."""
    return Outages(state, Files(), boot, lambda: uptime, 0.0)


def silence(outages: Outages, fell_at: float = 0.0) -> Outage:
    """Return the outage 100 s after its beginning, with two messages dropped in it."""
    outages.began("silence", fell_at)
    outages.dropped += 2
    return outages.until(fell_at + 100.0, "silence")


def test_an_outage_lasts_from_the_first_fall_until_it_is_told(tmp_path: Path) -> None:
    outages = booted(tmp_path)
    assert outages.until(3.0, "not dialled yet") == Outage("not dialled yet", 3.0, {}, 0)
    outages.told()
    outages.began("closed", 10.0)
    outages.began("reset", 20.0)
    assert outages.until(30.04, "no route") == Outage("closed", 20.0, {}, 0)
    outages.told()
    assert outages.until(40.0, "no route") == Outage("no route", 0.0, {}, 0)


def test_an_outage_tells_the_steps_taken_in_it_once(tmp_path: Path) -> None:
    outages = booted(tmp_path)
    for step in ("reconnect", "radio-cycle"):
        outages.tried(step)
    assert silence(outages) == Outage("silence", 100.0, {"reconnect": 1, "radio-cycle": 1}, 2)
    assert outages.until(100.0, "silence").tried, "not told yet"
    outages.told()
    assert silence(outages, 200.0) == OUTAGE
    assert not list(tmp_path.iterdir()), "nothing is written without a reboot"


def test_what_was_mended_before_the_line_was_lost_belongs_to_no_outage(tmp_path: Path) -> None:
    outages = booted(tmp_path)
    outages.tried("reconnect")
    outages.mended()
    assert silence(outages) == OUTAGE


def test_a_boot_tells_the_reboot_that_it_came_of_and_the_outage_before_it(tmp_path: Path) -> None:
    before = booted(tmp_path)
    before.tried("reconnect")
    before.leave("off for long", silence(before))
    after = booted(tmp_path, "second")
    after.tried("reconnect")
    assert after.boot_cause == "iotd: off for long"
    after.dropped = 1
    assert after.until(5.0, "no route") == Outage("silence", 107.0, {"reconnect": 2}, 3)
    after.told()
    assert silence(after, 200.0) == OUTAGE
    again = booted(tmp_path, "second")
    assert (again.boot_cause, silence(again)) == ("iotd: off for long", OUTAGE)


def test_two_reboots_in_a_row_leave_one_outage(tmp_path: Path) -> None:
    booted(tmp_path).leave("off for long", OUTAGE)
    between = booted(tmp_path, "second", uptime=30.0)
    between.tried("reconnect")
    between.leave("still off", silence(between))
    last = booted(tmp_path, "third", uptime=8.0)
    assert last.boot_cause == "iotd: still off"
    assert silence(last) == Outage("silence", 138.0, {"reconnect": 1}, 6)


def test_a_boot_that_nobody_heard_of_is_not_claimed_by_the_one_after_a_power_cut(tmp_path: Path) -> None:
    booted(tmp_path).leave("off for long", OUTAGE)
    booted(tmp_path, "second")
    assert booted(tmp_path, "third").boot_cause == "not asked for by iotd"


def test_a_reboot_that_has_not_come_is_no_cause_of_the_boot_that_asked_for_it(tmp_path: Path) -> None:
    booted(tmp_path).leave("off for long", OUTAGE)
    assert booted(tmp_path, "first").boot_cause == "not asked for by iotd"


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
def test_a_story_that_a_power_cut_has_spoiled_is_no_story(tmp_path: Path, text: str) -> None:
    (tmp_path / "last_reboot.json").write_text(text)
    assert booted(tmp_path, "second").boot_cause == "not asked for by iotd"


def test_a_story_comes_back_from_its_json() -> None:
    legacy = Legacy("first", "工場 off", Outage("silence", 1.5, {"reboot": 1}, 0), "second", True)
    assert Legacy.from_json(json.loads(legacy.to_json())) == legacy


def test_a_disk_that_takes_no_story_is_told_and_ends_nothing(tmp_path: Path, said: io.StringIO) -> None:
    (tmp_path / ".last_reboot.json.new").mkdir()
    booted(tmp_path).leave("off for long", OUTAGE)
    [entry] = map(json.loads, said.getvalue().splitlines())
    assert (entry["event"], entry["action"]) == ("recovery.failed", "reboot")


def test_a_reboot_that_did_not_come_is_not_claimed_by_the_power_cut_that_does(tmp_path: Path) -> None:
    outages = booted(tmp_path)
    outages.leave("wlan0 is wrong", silence(outages))
    outages.told()
    assert booted(tmp_path, "second").asked_for == ""


def test_where_a_boot_cannot_mark_its_reboot_as_its_own_no_later_one_claims_it(tmp_path: Path) -> None:
    outages = booted(tmp_path)
    outages.leave("wlan0 is wrong", silence(outages))
    (tmp_path / ".last_reboot.json.new").mkdir()
    assert booted(tmp_path, "second").asked_for == "iotd: wlan0 is wrong"
    assert booted(tmp_path, "third").asked_for == ""
