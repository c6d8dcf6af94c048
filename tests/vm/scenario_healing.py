"""The package on a device whose Wi-Fi is lost in every way: what it does about it, when, and what it leaves alone."""

from __future__ import annotations

from itertools import groupby
from typing import Iterator

import pytest

from tests.vm import air
from tests.vm.device import ESSID, GRACE_S, PRESENCE, TOPIC, Device, at
from tests.vm.machine import Machine
from tests.vm.timetable import Timetable


@pytest.fixture
def device(machine: Machine) -> Iterator[Device]:
    """A device that NetworkManager has connected to its access point; iotd is yet to be started."""
    air.start_access_point(machine, "fleet", ESSID.encode())
    air.start_broker(machine, "fleet")
    air.join(machine, "fleet", ESSID.encode(), priority=10)
    machine.wait_until(air.CONNECTED)
    yield Device(machine)
    Device(machine).forget()
    air.clear_air(machine)


@pytest.fixture
def supplicant(device: Device) -> Iterator[Device]:
    """The device without NetworkManager: wpa_supplicant alone holds the network."""
    machine = device.machine
    machine.run(f"""
systemctl stop NetworkManager wpa_supplicant
cat > /etc/wpa_supplicant/wpa_supplicant-wlan0.conf <<'END'
ctrl_interface=DIR=/run/wpa_supplicant
network={{
    ssid="{ESSID}"
    psk="{air.PASSPHRASE}"
}}
END
systemctl start wpa_supplicant@wlan0
ip address replace 10.0.1.2/24 dev wlan0
""")
    machine.wait_until("wpa_cli -i wlan0 status | grep -qx wpa_state=COMPLETED")
    yield device
    machine.run("systemctl stop iotd wpa_supplicant@wlan0\nip address flush dev wlan0\n"
                "systemctl start NetworkManager")


def delivered(device: Device, run: str) -> list[int]:
    """Return the numbers of the messages of one run as they arrived, each once: QoS 1 may repeat one."""
    return list(dict.fromkeys(body["n"] for _, body in device.heard(TOPIC) if body["run"] == run))


def arrived(device: Device, run: str, number: int) -> float:
    """Return when this message was at the broker."""
    return device.wait_heard(TOPIC, lambda body: (body["run"], body["n"]) == (run, number))[0]


def words(device: Device) -> list[str]:
    """Return what stood on the presence topic, one after the other; Connected may be said twice, after a late will."""
    return [word for word, _ in groupby(body["status"] for _, body in device.heard(PRESENCE))]


def run_of(device: Device, boot: int = 0) -> str:
    return str(device.log(boot)[0]["run"])


def assert_mended(device: Device, timetable: Timetable, what: str, harm: str, step: str) -> None:
    """Do this harm to a healthy device, and see this step alone mend it."""
    device.start([step])
    device.wait_heard(TOPIC, lambda body: body["essid"] == ESSID)
    since = float(device.machine.run(f"date +%s.%N\n{harm} >&2"))
    lost = device.wait_for("wifi.lost", since)
    restored = device.wait_for("wifi.restored", since)
    assert set(restored["steps"]) == {step}
    helper = device.machine.run(f"journalctl -q -o cat _SYSTEMD_UNIT=iotd-recover@{step}.service --since=@{since:.6f}")
    assert "recovery.accepted" in helper and "recovery.failed" not in helper, helper
    timetable.add(what, since, device.steps(since), wifi_lost=at(lost), wifi_restored=at(restored))


def test_a_healthy_device_tells_its_network_and_does_nothing(device: Device) -> None:
    device.start(["reconnect", "reboot"])
    _, body = device.wait_heard(TOPIC, lambda body: body["essid"] is not None)
    bssid = device.machine.run("ip netns exec fleet cat /sys/class/net/wlan1/address").strip()
    assert (body["essid"], body["bssid"], body["frequency"]) == (ESSID, bssid, air.FREQUENCY_MHZ)
    assert -100 < body["rssi"] < 0
    device.machine.run("iotd check >&2")
    device.machine.wait_until(f"iotd status | grep -q 'wlan0: associated, ESSID {ESSID}'")
    assert device.steps() == {}


def test_an_access_point_that_goes_and_comes_back(device: Device, timetable: Timetable) -> None:
    """The ladder is climbed meanwhile, the will tells of it, and nothing measured is lost."""
    ladder = ["reconnect", "radio-cycle", "restart-network"]
    device.start(ladder)
    run = run_of(device)
    device.wait_heard(TOPIC, lambda body: body["n"] == 3)
    cut_at = air.cut_access_point(device.machine, "fleet")
    lost = device.wait_for("wifi.lost", cut_at)
    device.wait_for("recovery.step", cut_at, action=ladder[-1])
    steps = device.steps(cut_at)
    will_at, _ = device.wait_heard(PRESENCE, lambda body: body["status"] == "Communication lost")
    before = delivered(device, run)
    assert list(steps) == ladder
    for earlier, later in zip([at(lost), *steps.values()], steps.values()):
        assert later - earlier >= GRACE_S - 0.1
    back_at = float(device.machine.run("date +%s.%N"))
    air.start_access_point(device.machine, "fleet", ESSID.encode())
    restored = device.wait_for("wifi.restored", back_at)
    connected = device.wait_for("session.connected", back_at)
    last_waiting = len(before) + connected["waiting"]
    delivered_at = arrived(device, run, last_waiting)
    timetable.add("the access point is cut off, and comes back once every step was tried", cut_at, steps, will=will_at,
                  wifi_lost=at(lost), mended=back_at, wifi_restored=at(restored), session_connected=at(connected),
                  delivered=delivered_at)
    _, hello = device.wait_heard(PRESENCE, lambda body: "outage" in body)
    assert set(hello["outage"]["tried"]) == set(ladder)
    assert hello["outage"]["waiting"] == connected["waiting"] > GRACE_S and hello["outage"]["dropped"] == 0
    assert hello["boot"]["cause"] == "not asked for by iotd"
    device.stop()
    numbers = delivered(device, run)
    assert numbers == list(range(1, len(numbers) + 1)) and len(numbers) >= last_waiting
    assert device.retained(TOPIC)["n"] == numbers[-1]
    assert words(device) == ["Connected", "Communication lost", "Connected", "Stopped"]


@pytest.mark.parametrize("what, harm, step", [
    ("NetworkManager has given the network up", "nmcli device disconnect wlan0", "reconnect"),
    ("NetworkManager has let go of the interface", "nmcli device set wlan0 managed no", "radio-cycle"),
    ("NetworkManager hangs and the link is down",
     "systemctl kill --signal=STOP NetworkManager; ip link set wlan0 down", "restart-network"),
])
def test_each_step_mends_by_itself_what_it_is_for(device: Device, timetable: Timetable, what: str, harm: str, step: str
                                                  ) -> None:
    assert_mended(device, timetable, what, harm, step)


def test_a_wrong_network_is_left_for_the_right_one(device: Device, timetable: Timetable) -> None:
    machine = device.machine
    device.start(["reconnect", "radio-cycle"])
    device.wait_heard(TOPIC, lambda body: True)
    air.start_access_point(machine, "guest", b"guest-ap")
    cut_at = air.cut_access_point(machine, "fleet")
    air.join(machine, "guest", b"guest-ap")
    machine.wait_until(f"{air.CONNECTED} && iw dev wlan0 link | grep -q guest-ap")
    lost = device.wait_for("wifi.lost", cut_at)
    device.wait_for("recovery.step", cut_at, reason=f"associated with 'guest-ap', expected '{ESSID}'")
    back_at = float(machine.run("date +%s.%N"))
    air.start_access_point(machine, "fleet", ESSID.encode())
    restored = device.wait_for("wifi.restored", back_at)
    connected = device.wait_for("session.connected", back_at)
    timetable.add("the access point is cut off, wlan0 joins a wrong one, and the right one comes back", cut_at,
                  device.steps(cut_at), wifi_lost=at(lost), mended=back_at, wifi_restored=at(restored),
                  session_connected=at(connected))
    assert lost["expected"] == [ESSID]


def test_reconnect_leaves_a_wrong_network_for_the_right_one_in_reach(device: Device, timetable: Timetable) -> None:
    machine = device.machine
    air.start_access_point(machine, "guest", b"guest-ap")
    device.start(["reconnect"])
    device.wait_heard(TOPIC, lambda body: True)
    since = float(machine.run("date +%s.%N"))
    air.join(machine, "guest", b"guest-ap")
    lost = device.wait_for("wifi.lost", since)
    step = device.wait_for("recovery.step", since)
    assert f"associated with 'guest-ap', expected '{ESSID}'" in step["reason"]
    restored = device.wait_for("wifi.restored", at(step))
    connected = device.wait_for("session.connected", at(step))
    timetable.add("somebody joins a wrong network, with the right one in reach", since, device.steps(since),
                  wifi_lost=at(lost), wifi_restored=at(restored), session_connected=at(connected))


def test_a_restart_in_an_outage_loses_nothing_and_counts_anew(device: Device) -> None:
    device.start(["reconnect"])
    first_run = run_of(device)
    device.wait_heard(TOPIC, lambda body: body["n"] == 3)
    cut_at = air.cut_access_point(device.machine, "fleet")
    device.wait_for("wifi.lost", cut_at)
    device.wait_heard(PRESENCE, lambda body: body["status"] == "Communication lost")
    restarted_at = float(device.machine.run("date +%s.%N"))
    device.restart()
    lost = device.wait_for("wifi.lost", restarted_at)
    step = device.wait_for("recovery.step", restarted_at)
    assert at(step) - at(lost) >= GRACE_S - 0.1
    air.start_access_point(device.machine, "fleet", ESSID.encode())
    device.wait_for("session.connected", at(step))
    second_run = run_of(device)
    device.wait_heard(TOPIC, lambda body: body["run"] == second_run and body["n"] > GRACE_S / 2)
    device.stop()
    for run in (first_run, second_run):
        numbers = delivered(device, run)
        assert numbers == list(range(1, len(numbers) + 1)) and len(numbers) > 3
    assert list(dict.fromkeys(body["run"] for _, body in device.heard(TOPIC))) == [first_run, second_run]


def test_an_interface_that_comes_late_is_waited_for_and_one_that_goes_is_not(device: Device) -> None:
    machine = device.machine
    machine.run("iw dev wlan0 del")
    device.start(["reconnect"], grace_s=12)  # NetworkManager has to join within it, by itself
    lost = device.wait_for("wifi.lost")
    held = device.wait_for("recovery.withheld")
    assert lost["reason"] == "there is no interface wlan0"
    assert held["reason"] == "there has been no wlan0 since iotd started"
    machine.wait_until(f"[ $(date +%s) -gt {at(held) + 15:.0f} ]")
    came_at = float(machine.run("date +%s.%N\niw phy phy0 interface add wlan0 type managed"))
    device.wait_for("wifi.restored", came_at)
    assert device.steps() == {}
    device.wait_for("session.connected", came_at)
    gone_at = float(machine.run("date +%s.%N\niw dev wlan0 del"))
    step = device.wait_for("recovery.step", gone_at)
    assert step["action"] == "reconnect" and "there is no interface wlan0" in step["reason"]
    machine.run("iw phy phy0 interface add wlan0 type managed")
    device.wait_for("wifi.restored", at(step))


def test_an_access_point_gone_for_good_is_worth_one_reboot_and_a_wired_way_out_none(
    device: Device, timetable: Timetable
) -> None:
    machine = device.machine
    machine.run("""
ip link add eth0 type veth peer name eth0 netns guest
ip link set eth0 up
ip -n guest link set eth0 up
ip address add 10.0.9.2/24 dev eth0
ip route add default via 10.0.9.1 dev eth0
""")
    device.start(["reconnect", "reboot"], max_per_day=1, min_uptime="1s")
    first_run = run_of(device)
    device.wait_heard(TOPIC, lambda body: body["n"] == 3)
    cut_at = air.cut_access_point(machine, "fleet")
    device.wait_for("recovery.withheld", cut_at, action="reboot", reason="another interface has a default route")
    lost = device.wait_for("wifi.lost", cut_at)
    will_at, _ = device.wait_heard(PRESENCE, lambda body: body["status"] == "Communication lost")
    retried = GRACE_S + at(device.wait_for("recovery.step", cut_at, action="reconnect"))
    device.wait_for("recovery.step", retried, action="reconnect")  # the ladder from below, since the reboot must wait
    before = delivered(device, first_run)
    assert "reboot" not in device.steps()

    unplugged_at = float(machine.run("date +%s.%N\nip link del eth0"))
    boot_id = machine.wait_for_boot()
    steps = device.steps(cut_at, boot=-1)
    assert list(steps) == ["reconnect", "reboot"] and steps["reboot"] > unplugged_at
    assert [entry["reason"] for entry in device.log(-1) if entry["event"] == "daemon.stopped"] == ["asked"]
    fell_at = next(at(entry) for entry in device.log(-1) if entry["event"] == "session.disconnected")
    device.wait_for("recovery.withheld", reason="there has been no wlan0 since iotd started")
    air.open_air(machine)
    device.wait_for("recovery.withheld", action="reboot", reason="the budget of 1 reboots a day is used up")

    air.start_broker(machine, "fleet")
    back_at, uptime_s = map(float, machine.run("date +%s.%N; cut -d ' ' -f 1 /proc/uptime").split())
    air.start_access_point(machine, "fleet", ESSID.encode())
    restored = device.wait_for("wifi.restored", back_at)
    connected = device.wait_for("session.connected", back_at)
    _, hello = device.wait_heard(PRESENCE, lambda body: body["status"] == "Connected")
    assert hello["boot"]["id"] == boot_id and hello["boot"]["cause"].startswith("iotd: wlan0 is not associated")
    assert hello["outage"]["tried"]["reboot"] == 1 and hello["outage"]["dropped"] == 0
    assert hello["outage"]["waiting"] == connected["waiting"]
    # How long the firmware took between the two boots is in neither's clock.
    assert steps["reboot"] - fell_at + uptime_s - 1 < hello["outage"]["for_s"] < at(connected) - cut_at
    second_run = run_of(device)
    device.wait_heard(TOPIC, lambda body: body["run"] == second_run)
    rest = delivered(device, first_run)
    assert before + rest == list(range(1, len(before + rest) + 1)) and rest
    later = delivered(device, second_run)
    assert later == list(range(1, len(later) + 1))
    assert "reboot" not in device.steps()
    delivered_at = arrived(device, first_run, max(rest))
    timetable.add(f"the access point is cut off; a wired way out holds the reboot back for {unplugged_at - cut_at:.0f} "
                  "s; the access point comes back after it", cut_at, steps, wifi_lost=at(lost), will=will_at,
                  mended=back_at, wifi_restored=at(restored), session_connected=at(connected), delivered=delivered_at)
    arrival: list[str] = list(dict.fromkeys(body["run"] for _, body in device.heard(TOPIC)))
    assert arrival == [first_run, second_run]


@pytest.mark.parametrize("what, harm, step", [
    ("wpa_supplicant, without NetworkManager, has given the network up", "wpa_cli -i wlan0 disconnect", "reconnect"),
    ("the link is down, without NetworkManager", "ip link set wlan0 down", "radio-cycle"),
    ("wpa_supplicant, without NetworkManager, hangs and the link is down",
     "systemctl kill --signal=STOP wpa_supplicant@wlan0; ip link set wlan0 down", "restart-network"),
])
def test_each_step_mends_the_same_without_networkmanager(supplicant: Device, timetable: Timetable, what: str,
                                                         harm: str, step: str) -> None:
    assert_mended(supplicant, timetable, what, harm, step)
