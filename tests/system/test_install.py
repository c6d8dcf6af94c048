"""From apt install to purge."""

from __future__ import annotations

import pytest

from tests.mosquitto import Mosquitto
from tests.observer import Observer
from tests.system.conftest import ADD_REPOSITORY, INSTALL, NEWER, UPDATE, VERSION
from tests.system.machine import Machine

LISTING = r"""
find / -xdev \( -path /proc -o -path /sys -o -path /run -o -path /dev -o -path /tmp -o -path /var/log \
    -o -path /var/cache -o -path /var/lib/apt -o -path /var/lib/dpkg -o -path /var/lib/systemd/timers \) -prune \
    -o -printf '%p %M %u:%g %l\n' | sort
"""
# The system user stays after a purge, as Debian's policy has it: its files may still be somewhere.
OF_THE_USER = ("/etc/passwd", "/etc/shadow", "/etc/group", "/etc/gshadow")


def test_the_first_install_leads_to_the_first_start(fresh: Machine) -> None:
    fresh.check("sh", "-c", ADD_REPOSITORY)
    fresh.check(*UPDATE)
    said = fresh.check(*INSTALL, f"iotd={VERSION}")
    assert "sudo iotd adopt PATH" in said and "sudo iotd check && sudo systemctl start iotd" in said
    assert fresh.check("iotd", "--version").split() == ["iotd", VERSION]
    assert fresh.check("stat", "-c", "%U:%G %a", "/etc/iotd/certs").strip() == "root:iotd 750"
    assert fresh.check("stat", "-c", "%U:%G %a", "/etc/iotd.yaml").strip() == "root:root 644"
    assert fresh.check("stat", "-c", "%U:%G %a", "/etc/iotd.d").strip() == "root:root 755"
    assert fresh.check("systemctl", "is-enabled", "iotd").strip() == "enabled"
    assert fresh.run("systemctl", "is-active", "iotd").out.strip() == "inactive"
    assert fresh.check("systemctl", "--failed", "--no-legend") == ""

    # Unconfigured, a start fails once and says what to fill in.
    assert fresh.run("systemctl", "start", "iotd").status != 0
    state = fresh.show("iotd", "ActiveState", "ExecMainStatus", "NRestarts")
    assert state == {"ActiveState": "failed", "ExecMainStatus": "78", "NRestarts": "0"}
    status = fresh.run("systemctl", "status", "--no-pager", "--full", "iotd").out
    assert "mqtt.host: 'xxxxxxxxxxxxx-ats.iot" in status and "is the sample's placeholder" in status, status


@pytest.mark.usefixtures("newer")
def test_an_upgrade_keeps_a_changed_configuration_and_restarts_what_runs(
    machine: Machine, broker: Mosquitto, observer: Observer
) -> None:
    mine = machine.check("cat", "/etc/iotd.yaml")
    machine.check("systemctl", "restart", "iotd")
    observer.wait_for("MQTTServer/pi/will", lambda message: message.json()["status"] == "Connected")
    before = machine.show("iotd", "MainPID")
    machine.check(*UPDATE)
    said = machine.check(*INSTALL, "-o", "DPkg::Options::=--force-confold", f"iotd={NEWER}")
    assert "Next:" not in said
    assert machine.check("cat", "/etc/iotd.yaml") == mine
    assert machine.check("cat", "/etc/iotd.yaml.dpkg-dist").endswith("that the new version brings\n")
    after = machine.show("iotd", "MainPID", "ActiveState")
    assert after["ActiveState"] == "active" and after["MainPID"] != before["MainPID"]
    started = machine.logged("iotd", "daemon.started")
    assert started[-1]["version"] == NEWER
    assert machine.check("stat", "-c", "%U:%G %a", "/etc/iotd/certs/private.pem.key").strip() == "root:iotd 640"


@pytest.mark.usefixtures("newer")
def test_an_upgrade_starts_nothing_that_was_stopped(machine: Machine) -> None:
    machine.check("systemctl", "stop", "iotd")
    machine.check(*UPDATE)
    machine.check(*INSTALL, "-o", "DPkg::Options::=--force-confold", f"iotd={NEWER}")
    assert machine.run("systemctl", "is-active", "iotd").out.strip() == "inactive"


def test_a_directory_of_certificates_that_the_administrator_set_stays_so(bare: Machine) -> None:
    bare.check(*INSTALL, f"iotd={VERSION}")
    bare.check("dpkg-statoverride", "--add", "--update", "root", "root", "0700", "/etc/iotd/certs")
    bare.check(*INSTALL, "--reinstall", f"iotd={VERSION}")
    assert bare.check("stat", "-c", "%U:%G %a", "/etc/iotd/certs").strip() == "root:root 700"


def test_a_removal_stops_it_and_keeps_what_was_configured(
    machine: Machine, broker: Mosquitto, observer: Observer
) -> None:
    observer.wait_for("MQTTServer/pi/will", lambda message: message.json()["status"] == "Connected", timeout_s=30)
    machine.check("apt-get", "remove", "--yes", "iotd")
    observer.wait_for("MQTTServer/pi/will", lambda message: message.json()["status"] == "Stopped")
    assert machine.run("pgrep", "-f", "iotd").out == "" and machine.run("iotd", "--version").status == 127
    machine.check("test", "-e", "/etc/iotd.yaml")
    machine.check("test", "-e", "/etc/iotd/certs/private.pem.key")
    machine.check("test", "-e", "/var/lib/iotd")
    machine.check("test", "!", "-e", "/run/iotd")


@pytest.mark.usefixtures("newer")
def test_a_purge_leaves_nothing(bare: Machine) -> None:
    """After an install, an upgrade, a run that left its state and certificates, a removal and another install."""
    bare.check(*UPDATE)
    before = bare.check("sh", "-c", LISTING)
    bare.check(*INSTALL, f"iotd={VERSION}")
    bare.check(*INSTALL, f"iotd={NEWER}")
    bare.check("sh", "-c", "printf 'mqtt:\\n  host: 198.51.100.1\\n' >/etc/iotd.yaml")
    bare.check("touch", "/etc/iotd/certs/a.key", "/etc/iotd.d/a.yaml")
    bare.check("systemctl", "start", "iotd")
    bare.check("apt-get", "remove", "--yes", "iotd")
    bare.check(*INSTALL, "-o", "DPkg::Options::=--force-confold", f"iotd={NEWER}")
    bare.check("systemctl", "start", "iotd")
    bare.check("sh", "-c", "mkdir /var/lib/iotd-recover; touch /var/lib/iotd-recover/reboots.json")  # the helper's
    bare.check("apt-get", "purge", "--yes", "iotd")
    after = bare.check("sh", "-c", LISTING)
    left = set(after.splitlines()) ^ set(before.splitlines())
    assert {line for line in left if not line.startswith(OF_THE_USER)} == set()
    assert bare.run("sh", "-c", "ls -d /run/iotd /var/lib/iotd").out == ""
    assert bare.run("systemctl", "--failed", "--no-legend").out == ""
    assert bare.run("sh", "-c", "systemctl list-units --all --no-legend 'iotd*'").out == ""
