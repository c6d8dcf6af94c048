"""Checks and orders inside the sandbox of the unit."""

from __future__ import annotations

import json
import time
from typing import Any

from tests.mosquitto import Mosquitto
from tests.observer import Observer
from tests.system.machine import OUTSIDE, Machine, wait_for

SHADOW = "$aws/things/pi/shadow/name/device_0"
GOOD = ["{unit: dbus.service}", "{process: iotd}", f'{{tcp: "{OUTSIDE}:8883"}}', "{file: /etc/hostname, max_age: 30d}",
        "{command: [test, -w, /var/lib/iotd]}", "{disk: /, min_free: 1KB}"]
BAD = ["{unit: none.service}", f'{{tcp: "{OUTSIDE}:1"}}', "{file: /etc/none, max_age: 1m}",
       "{name: etc, command: [test, -w, /etc]}", "{name: room, disk: /, min_free: 900000GB}", "{gateway: true}"]
UNKNOWN = ["{process: none}", "{throttled: false}"]


def found(machine: Machine) -> Any:
    """Return what the checks of the shadow have found, once each was made."""
    def look() -> Any:
        done = machine.run("iotd", "status", "--json")
        [checks] = json.loads(done.out or "{}").get("checks") or [None]
        text = json.dumps(checks)
        return None if checks is None or "no result yet" in text else checks
    return wait_for("a result of each check", look)


def test_each_kind_of_check_works_in_the_sandbox(machine: Machine, broker: Mosquitto) -> None:
    checks = "".join(f"      - {check}\n" for check in (*GOOD, *BAD, *UNKNOWN))
    text = machine.check("cat", "/etc/iotd.yaml")
    machine.write("/etc/iotd.yaml", f"{text}    checks:\n{checks}")
    machine.check("systemctl", "reload", "iotd")
    checked = found(machine)
    assert len(checked["failed"]) == len(BAD), checked
    assert [entry["check"] for entry in checked["unknown"]] == ["process none", "throttled"], checked
    assert "ProtectProc=default" in checked["unknown"][0]["reason"]


def test_an_order_runs_as_the_daemons_user_without_a_shell(
    machine: Machine, broker: Mosquitto, observer: Observer
) -> None:
    text = machine.check("cat", "/etc/iotd.yaml")
    fan, root = "[cp, /proc/self/status, '/var/lib/iotd/{value}']", "[touch, '/etc/{value}']"
    machine.write("/etc/iotd.yaml", f"{text}    on_delta:\n      fan: {{run: {fan}}}\n      root: {{run: {root}}}\n")
    observer.subscribe(f"{SHADOW}/get")
    since = len(observer.messages)
    machine.check("systemctl", "restart", "iotd")
    get = observer.wait_for(f"{SHADOW}/get", since=since, timeout_s=30).json()
    desired = {"fan": "$(reboot)", "root": "x"}
    observer.publish(f"{SHADOW}/get/accepted", {
        "state": {"desired": desired, "delta": desired}, "version": 1, "timestamp": int(time.time()),
        "clientToken": get["clientToken"]})
    wait_for("the end of the order", lambda: machine.logged("iotd", "desired.done"))
    user = machine.check("id", "-u", "iotd").strip()
    status = machine.check("cat", "/var/lib/iotd/$(reboot)")
    assert f"Uid:\t{user}\t{user}\t{user}\t{user}\n" in status and "CapEff:\t0000000000000000\n" in status
    [failed] = wait_for("the failure", lambda: machine.logged("iotd", "desired.failed"))
    assert failed["key"] == "root" and "Read-only file system" in failed["reason"]
