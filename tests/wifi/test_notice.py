"""What `iotd check` says of a host whose Wi-Fi is not as the configuration has it."""

from __future__ import annotations

import pytest

from iotd.config.parse import noticed, parse
from iotd.host.identity import Identity
from iotd.wifi.notice import unlike
from iotd.wifi.reading import Reading
from iotd.wifi.section import Wifi

HOME = Reading("wlan0", "associated", "工場".encode())


@pytest.mark.parametrize("wifi, reading, said", [
    (Wifi(), HOME, None),
    (Wifi(essid=("fleet-ap", "工場")), HOME, None),
    (Wifi(essid=("fleet-ap",)), HOME, ("wifi.essid", "'工場'", "reconnect, restart-network, reboot")),
    (Wifi(essid=("fleet-ap",), recover=()), HOME, ("wifi.essid", "'工場'", "call that wrong")),
    (Wifi(essid=("fleet-ap",)), Reading("wlan0", "disconnected", reason="link down"), None),
    (Wifi(essid=("fleet-ap",)), Reading("wlan0", "unknown", reason="no answer"), None),
    (Wifi("eth0"), Reading("eth0", "unknown", reason="eth0 is not a Wi-Fi interface; name one that is"),
     ("wifi.interface", "eth0 is not a Wi-Fi interface")),
    (Wifi(), Reading("wlan0", "absent", reason="there is no interface wlan0"), ("wifi.interface", "no wlan0", "wired")),
])
def test_a_network_that_would_be_left_and_an_interface_that_is_not_there_are_told(
    wifi: Wifi, reading: Reading, said: tuple[str, ...] | None
) -> None:
    found = unlike(wifi, reading)
    assert (found is None) == (said is None)
    if found is not None and said is not None:
        assert found[0] == said[0] and all(word in found[1] for word in said[1:])


def test_the_host_is_looked_at_where_the_section_is_there() -> None:
    for section, keys in (("wifi: {interface: wlan77}", ["wifi.interface"]), ("", [])):
        settings = parse(f"thing: pi\nmqtt: {{host: b}}\n{section}\n", "f", Identity("pi", "0" * 32)).settings
        assert [key for key, _ in noticed(settings)] == keys
