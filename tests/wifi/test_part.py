"""The Wi-Fi as the main thread sees it: requests, and the reboot that is handed out, all on real files."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest

from iotd.daemon.outage import Outage
from iotd.wifi.part import Adapters, build
from iotd.wifi.reading import Reading
from iotd.wifi.section import RebootBudget, Wifi
from tests.kernel import FakeKernel, settings

INTERFACE = "wifi-test0"
RIGHT = Reading(INTERFACE, "associated", b"fleet-ap", "02:00:00:00:01:00", -50, 2437)
GUEST = Reading(INTERFACE, "associated", b"guest")
OFF = Reading(INTERFACE, "disconnected", reason="off")
LADDER = Wifi(INTERFACE, ("fleet-ap",), 10, 10, ("reconnect", "radio-cycle"), RebootBudget(3, 1))
OUTAGE = Outage("silence", 100.0, {}, 2)
REBOOT_ONLY = LADDER._replace(recover=("reboot",))
REBOOT_LAST = LADDER._replace(recover=("reconnect", "reboot"))


class Boot:
    """The part in one boot; another boot on the same path comes after it."""

    def __init__(self, path: Path, name: str = "first", wifi: Wifi = LADDER, way_out: bool = False,
                 forgets: bool = False) -> None:
        self.path = path
        self.kernel = FakeKernel(path, boot=name)
        self.seen = RIGHT
        self.part = build(self.kernel, Adapters(
            lambda interface: self.seen, lambda interface: way_out, lambda directory: forgets))
        self.apply(wifi)

    def apply(self, wifi: Wifi) -> None:
        self.part.apply(settings({"wifi": wifi}), 0.0)

    def take(self, reading: Reading, now: float) -> None:
        self.part.handlers()[Reading](reading, now)

    def off_for_long(self, looks: int = 10) -> None:
        for look in range(looks):
            self.take(OFF, look * 10.0)

    def silence(self) -> Outage:
        """Return the outage after 100 s, with two messages dropped in it."""
        self.kernel.outages.began("silence", 0.0)
        self.kernel.outages.dropped += 2
        return self.kernel.outages.until(100.0, "silence")

    def go_down(self) -> None:
        """Do what the kernel does once Rebooting is said."""
        [(reason, ask)] = self.kernel.reboots
        self.kernel.outages.leave(reason, self.silence())
        ask()

    def requests(self) -> dict[str, Any]:
        """Return what the recovery helper is asked for, by the verb."""
        return {path.name: json.loads(path.read_text()) for path in (self.path / "runtime").glob("recover/*")}


def events(said: io.StringIO) -> list[tuple[str, Any]]:
    entries = map(json.loads, said.getvalue().splitlines())
    return [(entry["event"], entry.get("action")) for entry in entries]


def test_the_interface_is_looked_at_in_its_interval_by_the_thread(tmp_path: Path) -> None:
    boot = Boot(tmp_path)
    [thread] = boot.kernel.looks
    assert thread.started and {name: every_s for name, (every_s, _) in thread.looks.items()} == {INTERFACE: 10}
    thread.make()
    assert boot.kernel.posted == [RIGHT] and boot.part.stuck(0.0) == ""
    boot.apply(LADDER._replace(interface="wifi-test1", every_s=30))
    assert {name: every_s for name, (every_s, _) in thread.looks.items()} == {"wifi-test1": 30}
    thread.is_stuck = True
    assert boot.part.stuck(0.0) == "wifi"
    boot.part.close(0.0)
    assert thread.closed


def test_a_step_becomes_a_request_with_its_reason(tmp_path: Path, said: io.StringIO) -> None:
    boot = Boot(tmp_path)
    boot.off_for_long(2)
    assert boot.part.wrong and events(said) == [("wifi.lost", None), ("recovery.step", "reconnect")]
    assert boot.requests() == {"reconnect": {"reason": "off; wrong for 10 s"}}


def test_a_request_that_cannot_be_left_is_told_and_ends_nothing(tmp_path: Path, said: io.StringIO) -> None:
    boot = Boot(tmp_path)
    (tmp_path / "runtime" / "recover").write_text("in the way")
    boot.off_for_long(2)
    assert events(said)[-1] == ("recovery.failed", "reconnect")


def test_a_look_at_an_interface_that_is_no_longer_watched_is_passed_over(tmp_path: Path) -> None:
    boot = Boot(tmp_path)
    boot.take(Reading("wlan9", "absent", reason="gone"), 0.0)
    assert (boot.part.wrong, boot.part.status(), boot.part.sentences()) == (False, {"wifi": None}, [])


def test_an_outage_tells_the_steps_taken_in_it_once(tmp_path: Path, said: io.StringIO) -> None:
    boot = Boot(tmp_path)
    boot.off_for_long(3)
    boot.take(RIGHT, 30.0)
    assert boot.silence() == Outage("silence", 100.0, {"reconnect": 1, "radio-cycle": 1}, 2, "association")
    boot.kernel.outages.told()
    assert boot.silence() == OUTAGE
    assert not list((tmp_path / "state").glob("last_reboot*")), "nothing is written without a reboot"


def test_what_was_mended_before_the_line_was_lost_belongs_to_no_outage(tmp_path: Path) -> None:
    boot = Boot(tmp_path)
    boot.kernel.rise()
    boot.off_for_long(2)
    assert boot.requests(), "nothing was tried, nothing is tested"
    boot.take(RIGHT, 20.0)
    assert boot.silence() == OUTAGE


def test_a_reboot_is_in_the_budget_on_disk_before_it_is_handed_out(tmp_path: Path) -> None:
    boot = Boot(tmp_path, wifi=REBOOT_ONLY)
    boot.take(OFF, 0.0)
    assert boot.kernel.reboots == []
    boot.take(OFF, 10.0)
    assert [reason for reason, _ in boot.kernel.reboots] == ["off; wrong for 10 s"]
    [reboot] = json.loads((tmp_path / "state" / "reboots.json").read_text())["reboots"]
    assert reboot["boot_id"] == "first"
    assert boot.requests() == {}, "the goodbye comes first"
    boot.go_down()
    assert boot.requests() == {"reboot": {"reason": "off; wrong for 10 s"}}


def test_without_room_for_the_budget_there_is_no_reboot(tmp_path: Path, said: io.StringIO) -> None:
    boot = Boot(tmp_path, wifi=REBOOT_ONLY)
    (tmp_path / "state" / ".reboots.json.new").mkdir()
    boot.off_for_long(3)
    assert boot.kernel.reboots == []
    assert events(said) == [("wifi.lost", None), ("recovery.failed", "reboot")]


@pytest.mark.parametrize("reading", [OFF, GUEST])
def test_another_way_out_withholds_the_reboot_whatever_the_look_finds(tmp_path: Path, said: io.StringIO,
                                                                      reading: Reading) -> None:
    """A whole budget and an association elsewhere once passed for calm, and nobody looked for another way out."""
    boot = Boot(tmp_path, wifi=REBOOT_ONLY, way_out=True)
    for look in range(3):
        boot.take(reading, look * 10.0)
    assert boot.kernel.reboots == []
    assert events(said) == [("wifi.lost", None), ("recovery.withheld", "reboot")]


def test_where_a_reboot_forgets_the_count_that_is_said_and_there_is_one_until_the_wifi_is_right(
    tmp_path: Path, said: io.StringIO
) -> None:
    boot = Boot(tmp_path, wifi=REBOOT_ONLY, forgets=True)
    [limited] = [json.loads(line) for line in said.getvalue().splitlines()]
    assert (limited["event"], limited["path"]) == ("recovery.limited", str(tmp_path / "state"))
    assert [sentence for sentence in boot.part.sentences() if "one reboot at most" in sentence]
    boot.take(RIGHT, 0.0)
    again = Boot(tmp_path, wifi=REBOOT_ONLY, forgets=True)  # iotd was restarted in the same boot
    again.off_for_long(3)
    assert len(again.kernel.reboots) == 1
    (tmp_path / "state" / "reboots.json").unlink()
    after = Boot(tmp_path, "second", wifi=REBOOT_ONLY, forgets=True)
    after.off_for_long(100)
    assert after.kernel.reboots == [] and events(said)[-1] == ("recovery.withheld", "reboot")
    after.apply(LADDER)
    assert not [sentence for sentence in after.part.sentences() if "one reboot" in sentence]


def test_a_boot_tells_the_reboot_that_it_came_of_and_the_steps_before_it(tmp_path: Path) -> None:
    before = Boot(tmp_path, wifi=REBOOT_LAST)
    before.off_for_long(3)
    before.go_down()
    assert "reboot" in before.requests()
    after = Boot(tmp_path, "second")
    after.off_for_long(2)
    assert after.kernel.outages.boot_cause == "iotd: off; wrong for 20 s"
    after.kernel.outages.dropped = 1
    told = after.kernel.outages.until(5.0, "no route")
    assert told == Outage("silence", 100.0 + after.kernel.uptime, {"reconnect": 2, "reboot": 1}, 3, "association")


def test_a_disk_that_takes_no_story_still_gets_its_reboot(tmp_path: Path, said: io.StringIO) -> None:
    boot = Boot(tmp_path, wifi=REBOOT_ONLY)
    (tmp_path / "state" / ".last_reboot.json.new").mkdir()
    boot.off_for_long(2)
    boot.go_down()
    assert "reboot" in boot.requests()
    assert events(said) == [("wifi.lost", None), ("recovery.step", "reboot"), ("recovery.failed", "reboot")]


def test_a_budget_that_cannot_be_written_is_told_once_and_lets_no_reboot_happen(tmp_path: Path, said: io.StringIO
                                                                                ) -> None:
    (tmp_path / "state").mkdir()
    (tmp_path / "state" / "reboots.json").write_text("spoiled")
    (tmp_path / "state" / ".reboots.json.new").mkdir()
    boot = Boot(tmp_path)
    boot.kernel.rise()
    for look in range(5):
        boot.take(RIGHT, look * 10.0)
    assert boot.kernel.reboots == []
    assert events(said) == [("recovery.failed", "reboot")]


def test_status_tells_the_last_look_and_is_renewed_when_that_means_something_else(tmp_path: Path) -> None:
    boot = Boot(tmp_path)
    boot.take(RIGHT._replace(rssi_dbm=-60), 0.0)
    boot.take(RIGHT, 10.0)
    assert boot.kernel.status_changes == 1
    assert boot.part.status() == {"wifi": {
        "interface": INTERFACE, "outcome": "associated", "essid": "fleet-ap", "bssid": "02:00:00:00:01:00",
        "rssi_dbm": -50, "frequency_mhz": 2437, "reason": ""}}
    assert (boot.part.problems(), boot.part.sentences()) == ([], [f"{INTERFACE}: associated, ESSID fleet-ap, -50 dBm"])
    boot.take(GUEST, 20.0)
    assert (boot.part.problems(), boot.kernel.status_changes) == (["the Wi-Fi is not as it should be"], 2)


def test_placeholders_tell_the_last_look(tmp_path: Path) -> None:
    boot = Boot(tmp_path)
    assert {name: look_up() for name, look_up in boot.part.placeholders().items()} == dict.fromkeys(
        ("essid", "bssid", "rssi", "frequency"))
    boot.take(RIGHT, 0.0)
    assert {name: look_up() for name, look_up in boot.part.placeholders().items()} == {
        "essid": "fleet-ap", "bssid": "02:00:00:00:01:00", "rssi": -50, "frequency": 2437}
