"""The privileged helper: each verb really runs, everything else is refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.system.conftest import INSTALL
from tests.system.machine import Disk, Machine, wait_for

# NetworkManager needs hardware; what matters here is how it is called, and that the helper's sandbox lets it be.
NETWORK_MANAGER = """\
[Service]
ExecStart=/bin/sleep infinity
"""
NMCLI = """\
#!/bin/sh
systemctl is-active --quiet NetworkManager.service || exit 8
echo "nmcli $*" | systemd-cat --identifier=nmcli
"""
ALLOWED = """\
wifi:
  interface: wlan0
  recover: [reconnect, radio-cycle, restart-network, reboot]
  reboot: {min_uptime: 500ms}
"""
REQUEST = """\
from pathlib import Path
from iotd.host.files import Files
Files().write_request(Path("/run/iotd/recover/{verb}"), {{"interface": "eth0", "reason": "電波 is gone"}})
"""


def ask(machine: Machine, verb: str) -> None:
    """Leave a request, as the daemon does."""
    machine.check("runuser", "-u", "iotd", "--", "python3", "-c", REQUEST.format(verb=verb))


def done(machine: Machine, verb: str) -> list[str]:
    """Return what the helper says to have done, once it is through."""
    unit = f"iotd-recover@{verb}"
    wait_for(f"the end of {verb}", lambda: machine.logged(unit, "recovery.accepted") and machine.show(
        unit, "ActiveState") != {"ActiveState": "activating"})
    accepted = machine.logged(unit, "recovery.accepted")
    assert [(entry["interface"], entry["reason"]) for entry in accepted] == [("wlan0", "電波 is gone")]
    assert machine.logged(unit, "recovery.failed") == []
    return [" ".join(entry["command"]) for entry in machine.logged(unit, "recovery.command")]


def allow(machine: Machine, wifi: str = ALLOWED) -> None:
    """Have the configuration end with this section; the daemon that runs does not read it."""
    machine.check("sh", "-c", "cat >>/etc/iotd.yaml", stdin=wifi)


@pytest.fixture
def wireless(machine: Machine) -> Machine:
    """A machine whose interface wlan0 is in the charge of a stand-in for NetworkManager."""
    machine.check("ip", "link", "add", "wlan0", "type", "veth", "peer", "name", "air0")
    machine.check("ip", "link", "set", "wlan0", "up")
    machine.write("/etc/systemd/system/NetworkManager.service", NETWORK_MANAGER)
    machine.write("/usr/bin/nmcli", NMCLI, mode=0o755)
    machine.check("systemctl", "daemon-reload")
    machine.check("systemctl", "start", "NetworkManager")
    allow(machine)
    return machine


def test_the_helper_waits_as_long_as_iotd_runs(machine: Machine) -> None:
    names = [f"iotd-recover@{verb}" for verb in ("reconnect", "radio-cycle", "restart-network", "reboot")]
    paths = [f"{name}.path" for name in (*names, "iotd-recover")]
    assert machine.run("systemctl", "is-active", *paths).out.split() == ["active"] * 5
    machine.check("systemctl", "stop", "iotd")
    assert machine.run("systemctl", "is-active", *paths).out.split() == ["inactive"] * 5
    assert machine.journal(*(f"--unit={name}.service" for name in (*names, "iotd-recover@unknown"))) == []


def test_reconnect_asks_networkmanager(wireless: Machine) -> None:
    ask(wireless, "reconnect")
    assert done(wireless, "reconnect") == ["nmcli --wait 45 device connect wlan0"]
    assert [entry["MESSAGE"] for entry in wireless.journal("-t", "nmcli")] == [
        "nmcli --get-values GENERAL.STATE device show wlan0", "nmcli --wait 45 device connect wlan0"]
    assert wireless.run("ls", "-A", "/run/iotd/recover").out == ""


def test_radio_cycle_takes_the_interface_down_and_up(wireless: Machine) -> None:
    changes = "/sys/class/net/wlan0/carrier_down_count"
    wireless.check("ip", "link", "set", "air0", "up")
    before = int(wireless.check("cat", changes))
    ask(wireless, "radio-cycle")
    assert len(done(wireless, "radio-cycle")) == 5
    assert int(wireless.check("cat", changes)) > before
    assert "UP" in wireless.check("ip", "link", "show", "dev", "wlan0").split("<")[1].split(">")[0].split(",")
    assert len(wireless.journal("-t", "nmcli")) == 3


def test_restart_network_restarts_networkmanager(wireless: Machine) -> None:
    before = wireless.show("NetworkManager", "InvocationID")
    ask(wireless, "restart-network")
    assert done(wireless, "restart-network") == ["systemctl restart NetworkManager.service"]
    assert wireless.show("NetworkManager", "InvocationID") != before
    ask(wireless, "restart-network")
    wait_for("the second request", lambda: len(
        wireless.logged("iotd-recover@restart-network", "recovery.accepted")) == 2)


def test_reboot_reboots_and_is_counted_where_the_daemon_cannot_reach_it(machine: Machine) -> None:
    allow(machine)
    ask(machine, "reboot")
    assert machine.wait_for_the_end() == 133
    count = machine.disk.root / "var/lib/iotd-recover/reboots.json"
    assert len(json.loads(count.read_text())["reboots"]) == 1
    assert [(path.stat().st_uid, path.stat().st_mode & 0o777) for path in (count.parent, count)] == [
        (0, 0o700), (0, 0o600)]


@pytest.mark.parametrize("wifi, verb, told", [
    (ALLOWED.replace("min_uptime: 500ms", "min_uptime: 500ms, max_per_day: 0"), "reboot", "0 reboots a day"),
    (ALLOWED.replace(", reboot]", "]"), "reboot", "reboot is not in wifi.recover of /etc/iotd.yaml"),
    ("", "radio-cycle", "has no section wifi"),
])
def test_what_the_configuration_does_not_allow_is_not_done_whatever_the_daemon_asks(
    machine: Machine, wifi: str, verb: str, told: str
) -> None:
    allow(machine, wifi)
    ask(machine, verb)
    [refused] = wait_for("its refusal", lambda: machine.logged(f"iotd-recover@{verb}", "recovery.refused"))
    assert told in refused["reason"]
    assert machine.logged(f"iotd-recover@{verb}", "recovery.accepted") == []


def test_a_configuration_that_the_daemon_can_write_allows_nothing(machine: Machine) -> None:
    allow(machine)
    machine.check("chown", "iotd", "/etc/iotd.yaml")
    ask(machine, "radio-cycle")
    [refused] = wait_for("its refusal", lambda: machine.logged("iotd-recover@radio-cycle", "recovery.refused"))
    assert "can be written by iotd" in refused["reason"]


def test_reconnect_reaches_a_real_wpa_supplicant(installed: tuple[Path, ...], tmp_path: Path) -> None:
    """On a wired link, which wpa_supplicant serves as well; its answer has to find its way into the sandbox."""
    with Machine(Disk(tmp_path / "supplicant", installed), "pi") as machine:
        machine.check(*INSTALL, "wpasupplicant")
        machine.check("ip", "link", "add", "wlan0", "type", "veth", "peer", "name", "air0")
        machine.write("/etc/wpa.conf", "ctrl_interface=/run/wpa_supplicant\nap_scan=0\nnetwork={\nkey_mgmt=IEEE8021X\n"
                                       "eap=MD5\nidentity=\"pi\"\npassword=\"pi\"\n}\n")
        machine.check("systemd-run", "--unit=supplicant", "wpa_supplicant", "-Dwired", "-iwlan0", "-c/etc/wpa.conf")
        wait_for("its socket", lambda: machine.run("test", "-S", "/run/wpa_supplicant/wlan0").status == 0)
        machine.check("systemctl", "restart", "iotd")
        allow(machine)
        ask(machine, "reconnect")
        assert done(machine, "reconnect") == ["wpa_cli -s /run/wpa_supplicant -i wlan0 reassociate"]
        [entry] = machine.logged("iotd-recover@reconnect", "recovery.command")
        assert entry["output"] == "OK"


@pytest.mark.parametrize(
    ("place", "unit", "told"),
    [
        ("runuser -u iotd -- touch /run/iotd/recover/format-disk", "unknown", "'format-disk' is none of"),
        ("runuser -u iotd -- mkdir /run/iotd/recover/folder", "unknown", "'folder' is none of"),
        ("runuser -u iotd -- ln -s /etc/machine-id /run/iotd/recover/reboot", "reboot", "symbolic link"),
        ("runuser -u iotd -- touch /run/iotd/recover/reboot", "reboot", "not JSON"),
        ("runuser -u iotd -- mkfifo /run/iotd/recover/reboot", "reboot", "not a regular file"),
        ("runuser -u iotd -- truncate -s 1M /run/iotd/recover/reboot", "reboot", "larger than"),
        ("echo '{\"reason\": \"\"}' >/run/iotd/recover/reboot", "reboot",
         "does not belong to iotd"),
    ],
)
def test_what_is_no_request_of_iotd_is_refused_and_removed(
    machine: Machine, place: str, unit: str, told: str
) -> None:
    machine.check("runuser", "-u", "iotd", "--", "mkdir", "/run/iotd/recover")
    machine.check("sh", "-c", place)
    refused = wait_for("its refusal", lambda: machine.logged(f"iotd-recover@{unit}", "recovery.refused"))
    assert told in refused[0]["reason"] and len(refused) == 1
    wait_for("its removal", lambda: machine.check("ls", "-A", "/run/iotd/recover") == "")
    machine.check("test", "-s", "/etc/machine-id")
    assert machine.check("systemctl", "is-active", "iotd-recover.path", "iotd-recover@reboot.path").split() == [
        "active"] * 2


def test_a_request_that_nobody_took_does_not_outlive_a_stop(machine: Machine) -> None:
    machine.check("systemctl", "stop", "iotd-recover@reboot.path")
    ask(machine, "reboot")
    machine.check("systemctl", "stop", "iotd")
    assert machine.run("ls", "/run/iotd/recover").out == ""
    machine.check("systemctl", "start", "iotd")
    assert machine.journal("-u", "iotd-recover@reboot.service") == []
