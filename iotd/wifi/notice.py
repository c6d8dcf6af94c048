"""How the host's Wi-Fi is not as the settings have it, which may be so later; for `iotd check`."""

from __future__ import annotations

from iotd.config.document import quoted
from iotd.config.section import Note
from iotd.wifi.nl80211 import look
from iotd.wifi.reading import Reading, ssid_text
from iotd.wifi.recovery import is_right
from iotd.wifi.section import Wifi


def notice(wifi: Wifi, note: Note) -> None:
    """Look, and note what is found."""
    found = unlike(wifi, look(wifi.interface))
    if found is not None:
        note(*found)


def unlike(wifi: Wifi, reading: Reading) -> tuple[str, str] | None:
    """Return, with its key, how the host is not as the settings have it; None where it is, or is not told."""
    name = wifi.interface
    if reading.outcome == "absent":
        return "wifi.interface", f"there is no {name} here; on a wired device leave the section wifi out"
    if reading.outcome == "unknown" and "not a Wi-Fi" in reading.reason:
        return "wifi.interface", reading.reason
    if reading.ssid is None or is_right(wifi, reading):
        return None
    then = f"take {name} off it, by {', '.join(wifi.recover)}" if wifi.recover else "call that wrong"
    return "wifi.essid", (f"{name} is associated with {quoted(ssid_text(reading.ssid))}, which is not among these; "
                          f"iotd will {then}: write its name, or leave essid out where any network is right")
