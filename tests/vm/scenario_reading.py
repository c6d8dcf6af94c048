"""What `iotd.wifi` reads from a real wlan0, as a user without any privilege."""

from __future__ import annotations

import json
from typing import Any, Iterator

import pytest

from tests.vm import air
from tests.vm.machine import Machine

AS_NOBODY = "PYTHONPATH=/checkout setpriv --reuid=nobody --regid=nogroup --clear-groups python3 -B -c"
LOOK = """
import json, sys
from iotd.wifi.nl80211 import look
reading = look(sys.argv[1])
found = {name: getattr(reading, name) for name in ("outcome", "reason", "bssid", "frequency_mhz", "rssi_dbm")}
print(json.dumps(found | {"ssid": reading.ssid.hex() if reading.ssid else None}))
"""
WATCH = """
import sys, time
from iotd.wifi.nl80211 import look
began, seen = time.monotonic(), set()
while time.monotonic() < began + (float(sys.argv[2]) if any(sys.argv[1] in line for line in seen) else 80):
    found = look("wlan0")
    seen.add(f"{found.outcome} {found.reason}")
    time.sleep(0.01)
print(*seen, sep="\\n")
"""
COST = """
import os, resource, time
from iotd.wifi.nl80211 import look
look("wlan0")
files, memory, began = len(os.listdir("/proc/self/fd")), resource.getrusage(0).ru_maxrss, time.process_time()
for _ in range(200):
    assert look("wlan0").outcome == "associated"
spent = (time.process_time() - began) / 200
assert len(os.listdir("/proc/self/fd")) == files
print(spent, resource.getrusage(0).ru_maxrss - memory)
"""


@pytest.fixture(autouse=True)
def nothing_on_the_air_afterwards(machine: Machine) -> Iterator[None]:
    yield
    air.clear_air(machine)


def look(machine: Machine, interface: str = "wlan0", namespace: str = "") -> dict[str, Any]:
    within = f"ip netns exec {namespace} " if namespace else ""
    found = machine.run(f"{within}env {AS_NOBODY} '{LOOK}' {interface}")
    return dict(json.loads(found))


def watch(machine: Machine, word: str, at_least_s: int) -> set[str]:
    """Look again and again, this long and until a reason has this word; return the outcomes with their reasons."""
    return set(machine.run(f"{AS_NOBODY} '{WATCH}' {word} {at_least_s}").splitlines())


def connected(machine: Machine, ssid: bytes, hidden: bool = False) -> str:
    """Have wlan0 associated with this network and return its BSSID."""
    bssid = air.start_access_point(machine, "fleet", ssid, hidden)
    air.join(machine, "fleet", ssid, hidden=hidden)
    machine.wait_until(air.CONNECTED)
    return bssid


@pytest.mark.parametrize("ssid, hidden", [
    (b"  \"it's\" $(quoted) \\ `twice` ", False),
    ("工場 2F ☕".encode(), False),
    (b"caf\xe9\x00\xff\n" + b"x" * 25, False),
    (b"hidden one", True),
])
def test_the_association_is_read_with_any_ssid(machine: Machine, ssid: bytes, hidden: bool) -> None:
    bssid = connected(machine, ssid, hidden)
    found = look(machine)
    assert (found["outcome"], found["reason"]) == ("associated", "")
    assert (bytes.fromhex(found["ssid"]), found["bssid"]) == (ssid, bssid)
    assert found["frequency_mhz"] == air.FREQUENCY_MHZ and -100 < found["rssi_dbm"] < 0
    air.stop_access_point(machine, "fleet")
    machine.wait_until("grep -q down /sys/class/net/wlan0/operstate")
    assert look(machine)["outcome"] == "disconnected"


def test_the_ssid_of_a_driver_that_connects_by_itself_counts_once_it_has_connected(machine: Machine) -> None:
    """cfg80211's own SME, told by `iw`, stands for brcmfmac: it holds the SSID that it only tries to join."""
    machine.run("nmcli device set wlan0 managed no\nip link set wlan0 up\n"
                "systemd-run --quiet --collect --unit=try sh -c 'while :; do iw dev wlan0 connect nowhere; done'")
    seen = watch(machine, "nowhere", 0)
    assert "disconnected wlan0 is not yet associated with 'nowhere' (link down)" in seen
    assert {line.split()[0] for line in seen} == {"disconnected"}
    machine.run("systemctl stop try\niw dev wlan0 disconnect || true")


def test_a_wrong_passphrase_is_never_an_association(machine: Machine) -> None:
    """The radio does associate again and again; it is the keys that never come."""
    air.start_access_point(machine, "fleet", b"fleet-ap")
    air.join(machine, "fleet", b"fleet-ap", passphrase="battery staple")
    seen = watch(machine, "dormant", 8)
    assert {line.split()[0] for line in seen} == {"disconnected"}
    assert any(line.endswith("is the passphrase right (link dormant)") for line in seen), seen


def test_a_look_is_cheap_and_an_access_point_that_loses_its_power_is_noticed(machine: Machine) -> None:
    connected(machine, b"fleet-ap")
    spent_s, grown_kb = machine.run(f"{AS_NOBODY} '{COST}'").split()
    print(f"\none look: {float(spent_s) * 1e6:.0f} us of CPU under emulation")
    assert float(spent_s) < 0.05 and int(grown_kb) < 512
    air.start_broker(machine, "fleet")
    machine.run("mosquitto_pub -h 10.0.1.1 -t 'over/the air' -m ヨシッ")
    assert [(message.topic, message.payload.decode()) for message in air.heard(machine, "fleet")] == [
        ("over/the air", "ヨシッ")]
    air.cut_access_point(machine, "fleet")
    machine.wait_until("grep -q down /sys/class/net/wlan0/operstate")
    found = look(machine)
    assert (found["outcome"], found["ssid"], found["rssi_dbm"]) == ("disconnected", None, None)


def test_an_access_point_of_our_own_is_no_association(machine: Machine) -> None:
    air.start_access_point(machine, "fleet", b"fleet-ap")
    found = look(machine, "wlan1", namespace="fleet")
    assert (found["outcome"], found["reason"]) == ("disconnected", "wlan1 is no client of a network (mode 3)")


def test_a_renamed_interface_is_absent_under_its_old_name(machine: Machine) -> None:
    machine.run("ip link set wlan0 down\nip link set wlan0 name wifi9")
    assert look(machine)["outcome"] == "absent"
    assert look(machine, "wifi9")["outcome"] == "disconnected"
    machine.run("ip link set wifi9 name wlan0")


def test_an_interface_that_goes_is_absent_and_comes_back(machine: Machine) -> None:
    machine.run("iw dev wlan0 del")
    found = look(machine)
    assert (found["outcome"], found["reason"]) == ("absent", "there is no interface wlan0")
    machine.run("iw phy phy0 interface add wlan0 type managed")
    assert look(machine)["outcome"] == "disconnected"


def test_a_wired_interface_is_unknown(machine: Machine) -> None:
    machine.run("ip link add eth0 type veth peer name eth0 netns guest\nip link set eth0 up")
    assert look(machine, "eth0")["reason"] == "eth0 is not a Wi-Fi interface; name one that is"


def test_a_unit_without_netlink_is_told_what_to_allow(machine: Machine) -> None:
    found = machine.run("systemd-run --quiet --pipe --wait -p RestrictAddressFamilies=AF_UNIX "
                        f"env {AS_NOBODY} '{LOOK}' wlan0")
    assert json.loads(found)["reason"] == (
        "wlan0 cannot be read: netlink sockets are refused; the unit must allow RestrictAddressFamilies=AF_NETLINK")
