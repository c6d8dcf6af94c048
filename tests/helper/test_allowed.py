"""What root's own configuration lets the helper do, and its count of reboots, on real files."""

from __future__ import annotations

import json
import os
import pwd
from pathlib import Path
from typing import Any

import pytest

from iotd.helper.allowed import COUNT, Refused, count_reboot, interface_for, read, section
from iotd.wifi.recovery import Reboot
from iotd.wifi.section import SECTIONS, RebootBudget, Wifi

NOBODY = pwd.getpwnam("nobody")
FILE = Path("iotd.yaml")
DAY_S = 86400.0
LADDER = "wifi: {interface: wlan7, recover: [reconnect, reboot], reboot: {max_per_day: 2, min_uptime: 500ms}}\n"
LIMITED = Wifi(recover=("reboot",), reboot=RebootBudget(2, 600.0))


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A configuration that the daemon cannot write, with mistakes outside the section."""
    path = tmp_path / "iotd.yaml"
    path.write_text(f"nonsense: 1\nmqtt: {{host: [wrong]}}\n{LADDER}publish: 3\n")
    path.chmod(0o644)
    return path


def asked(verb: str, file: Path, daemon: pwd.struct_passwd = NOBODY) -> str:
    return interface_for(verb, file, file.parent, daemon)


def test_the_interface_and_the_steps_are_those_of_the_configuration(file: Path) -> None:
    assert asked("reconnect", file) == "wlan7"
    for verb in ("radio-cycle", "restart-network"):
        with pytest.raises(Refused, match=f"{verb} is not in wifi.recover of {file}"):
            asked(verb, file)


@pytest.fixture
def above(file: Path) -> Path:
    """A file that lies on top of the configuration."""
    path = file.parent / "iotd.d/site.yaml"
    path.parent.mkdir()
    path.parent.chmod(0o755)
    path.write_text("wifi: {interface: wlan8}\npublish: [[\n]]\n")
    path.chmod(0o644)
    return path


def test_what_lies_on_top_is_seen_as_the_daemon_sees_it(file: Path, above: Path) -> None:
    assert asked("reconnect", file) == "wlan8"
    above.write_text("wifi: {recover: []}\n")
    with pytest.raises(Refused, match="reconnect is not in wifi.recover"):
        asked("reconnect", file)


@pytest.mark.parametrize("change, why", [
    (lambda above: os.chown(above, NOBODY.pw_uid, -1), "site.yaml can be written by nobody"),
    (lambda above: above.chmod(0o646), "site.yaml can be written by nobody"),
    (lambda above: os.chown(above.parent, NOBODY.pw_uid, -1), "iotd.d can be written by nobody"),
    (lambda above: above.parent.chmod(0o777), "iotd.d can be written by nobody"),
    (lambda above: above.write_text("wifi: ["), "site.yaml: is no YAML"),
    (lambda above: above.write_text("\nwifi: {interface: [1]}"), "site.yaml:2: wifi.interface"),
    (lambda above: [above.unlink(), above.mkdir()], "site.yaml is not a regular file"),
])
def test_what_the_daemon_could_have_put_on_top_allows_nothing(file: Path, above: Path, change: Any, why: str) -> None:
    change(above)
    with pytest.raises(Refused, match=why):
        asked("reconnect", file)


def test_the_reboots_of_a_day_are_counted_and_come_to_an_end(file: Path) -> None:
    assert [asked("reboot", file) for _ in range(2)] == ["wlan7"] * 2
    for _ in range(3):
        with pytest.raises(Refused, match="2 reboots a day of wifi.reboot.max_per_day are used up"):
            asked("reboot", file)
    assert len(json.loads((file.parent / COUNT).read_text())["reboots"]) == 2
    assert asked("reconnect", file) == "wlan7"


@pytest.mark.parametrize("text, why", [
    ("mqtt: {host: a}\n", "has no section wifi"),
    ("", "has no section wifi"),
    ("wifi: {interface: wlan0, recovr: []}\n", "iotd.yaml:1: wifi.recovr: unknown key"),
    ("wifi: {reboot: {max_per_day: 99}}\n", "iotd.yaml:1: wifi.reboot.max_per_day: "),
    ("wifi: {}\nwifi: {}\n", "iotd.yaml:2: wifi: duplicate key"),
    ("wifi: [\n", "is no YAML"),
    ("- wifi\n", "expected a mapping"),
    ("wifi: 3\n", "iotd.yaml:1: wifi: "),
    ("wifi: " + "[" * 100 + "]" * 100, "nested deeper"),
])
def test_a_section_that_is_missing_or_wrong_allows_nothing(text: str, why: str) -> None:
    with pytest.raises(Refused) as refused:
        section(text, FILE, "wifi", SECTIONS["wifi"].read)
    assert why in str(refused.value)


def test_an_empty_section_is_that_of_the_defaults() -> None:
    assert section("wifi:\n", FILE, "wifi", SECTIONS["wifi"].read) == Wifi()


@pytest.mark.parametrize("interface", ["-wlan0", ".wlan0", "wlan0;reboot", "ẅlan0"])
def test_a_name_that_a_command_could_take_for_something_else_is_refused(file: Path, interface: str) -> None:
    file.write_text(LADDER.replace("wlan7", f'"{interface}"'))
    with pytest.raises(Refused, match="expected the name of a network interface"):
        asked("reconnect", file)


@pytest.mark.parametrize("uid, gid, mode, written", [
    (0, 0, 0o644, False), (0, NOBODY.pw_gid, 0o640, False), (1, 1, 0o664, False),
    (0, NOBODY.pw_gid, 0o660, True), (0, 0, 0o646, True), (NOBODY.pw_uid, 0, 0o400, True)])
@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")
def test_a_file_that_the_daemon_could_have_written_allows_nothing(
    file: Path, uid: int, gid: int, mode: int, written: bool
) -> None:
    os.chown(file, uid, gid)
    file.chmod(mode)
    if not written:
        assert asked("reconnect", file) == "wlan7"
        return
    with pytest.raises(Refused, match=f"can be written by nobody; run: chown root {file}; chmod go-w {file}"):
        asked("reconnect", file)


def test_what_is_no_text_file_allows_nothing(file: Path) -> None:
    file.write_bytes(b"\xff" + LADDER.encode())
    with pytest.raises(Refused, match="no UTF-8"):
        read(file, NOBODY)
    file.unlink()
    with pytest.raises(Refused, match="No such file"):
        read(file, NOBODY)
    os.mkfifo(file)
    with pytest.raises(Refused, match="not a regular file"):
        read(file, NOBODY)
    with pytest.raises(Refused, match="not a regular file"):
        read(file.parent, NOBODY)


def test_a_host_that_has_just_booted_is_not_rebooted(tmp_path: Path) -> None:
    """So that not even a count that the reboot itself forgets lets a device that was taken over reboot in a flash."""
    with pytest.raises(Refused, match="up for less than 600 s"):
        count_reboot(LIMITED, tmp_path, Reboot("a", 599.0))
    count_reboot(LIMITED, tmp_path, Reboot("a", 600.0))


def test_a_reboot_counts_until_uptimes_or_a_sure_clock_prove_it_a_day_old(tmp_path: Path) -> None:
    count_reboot(LIMITED, tmp_path, Reboot("a", 700.0, 1e9))
    count_reboot(LIMITED, tmp_path, Reboot("b", 700.0))
    with pytest.raises(Refused):
        count_reboot(LIMITED, tmp_path, Reboot("c", 700.0, 1e9 + DAY_S - 1))
    count_reboot(LIMITED, tmp_path, Reboot("c", 700.0, 1e9 + DAY_S))
    with pytest.raises(Refused):
        count_reboot(LIMITED, tmp_path, Reboot("d", 700.0))
    count_reboot(LIMITED, tmp_path, Reboot("d", DAY_S))


def test_a_count_that_a_power_cut_has_spoilt_is_one_that_is_used_up_for_a_day(tmp_path: Path) -> None:
    (tmp_path / COUNT).write_bytes(bytes(100))
    with pytest.raises(Refused, match="used up"):
        count_reboot(LIMITED, tmp_path, Reboot("a", 700.0))
    count_reboot(LIMITED, tmp_path, Reboot("b", DAY_S))


def test_a_reboot_that_cannot_be_counted_is_refused(tmp_path: Path) -> None:
    with pytest.raises(Refused, match="cannot be counted"):
        count_reboot(LIMITED, tmp_path / "missing", Reboot("a", 700.0))
