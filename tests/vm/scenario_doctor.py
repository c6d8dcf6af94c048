"""`iotd doctor` on a device with a radio: one thing wrong with the Wi-Fi at a time, named until it is mended."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.vm import air
from tests.vm.device import ESSID, TOPIC, Device
from tests.vm.machine import Machine

BLOCK = "for switch in /sys/class/net/wlan0/phy80211/rfkill*/soft; do echo {} > $switch; done"


@pytest.fixture
def device(machine: Machine) -> Iterator[Device]:
    """A device that is well, and only reports what is not."""
    air.start_access_point(machine, "fleet", ESSID.encode())
    air.start_broker(machine, "fleet")
    air.join(machine, "fleet", ESSID.encode(), priority=10)
    machine.wait_until(air.CONNECTED)
    device = Device(machine)
    device.start([])
    device.wait_heard(TOPIC, lambda body: body["essid"] == ESSID)
    yield device
    device.forget()
    air.clear_air(machine)


def doctor(device: Device) -> dict[str, Any]:
    """Return what the command says, with the findings by their layer, and how long it took."""
    said = device.machine.run("start=$(date +%s%N)\niotd doctor --json > /tmp/said || true\n"
                              "end=$(date +%s%N)\ncat /tmp/said\necho $(( (end - start) / 1000000 ))")
    body, _, took_ms = said.rstrip().rpartition("\n")
    found: dict[str, Any] = json.loads(body)
    return {"cause": found["cause"], "took_s": int(took_ms) / 1000,
            **{finding["layer"]: finding for finding in found["findings"]}}


def blocked(device: Device) -> Callable[[], object]:
    device.machine.run(BLOCK.format(1))
    return lambda: device.machine.run(BLOCK.format(0))


def out_of_reach(device: Device) -> Callable[[], object]:
    air.cut_access_point(device.machine, "fleet")
    return lambda: air.start_access_point(device.machine, "fleet", ESSID.encode())


def without_address(device: Device) -> Callable[[], object]:
    device.machine.run("nmcli device set wlan0 managed no\nip address flush dev wlan0")
    return lambda: device.machine.run("nmcli device set wlan0 managed yes")


@pytest.mark.parametrize("harm, layers, words", [
    (blocked, {"interface"}, "rfkill"),
    (out_of_reach, {"interface", "association"}, ESSID),
    (without_address, {"interface", "association", "address"}, ""),
])
def test_what_is_wrong_with_the_wifi_is_named_until_it_is_mended(
    device: Device, harm: Callable[[Device], Callable[[], object]], layers: set[str], words: str
) -> None:
    assert doctor(device)["cause"] is None
    mend = harm(device)
    device.wait_for("session.disconnected")
    found = doctor(device)
    assert found["cause"] in layers and found[found["cause"]]["fix"], found
    assert words in "".join(found[layer]["finding"] + found[layer]["fix"] for layer in layers), found
    mend()
    device.machine.wait_until(air.CONNECTED)
    device.machine.wait_until("iotd status > /dev/null")
    assert doctor(device)["cause"] is None
