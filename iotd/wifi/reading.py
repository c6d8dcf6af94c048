"""What one look at the Wi-Fi found, as a value that rules can judge and adapters can fill."""

from typing import Literal, NamedTuple

Outcome = Literal["associated", "disconnected", "absent", "unknown"]


class Reading(NamedTuple):
    """One look at `interface`; all but "associated" say why in `reason`.

    "disconnected" is an interface without a usable association, "absent" is no interface of that name,
    "unknown" is a look that failed and says nothing about the Wi-Fi. An SSID is up to 32 bytes of any value.
    `bssid`, `rssi_dbm` and `frequency_mhz` are None where the driver does not tell them.
    """

    interface: str
    outcome: Outcome
    ssid: bytes | None = None
    bssid: str | None = None
    rssi_dbm: int | None = None
    frequency_mhz: int | None = None
    reason: str = ""


def ssid_text(ssid: bytes) -> str:
    r"""Return an SSID as text: UTF-8 where it is, and each byte that is not as `\xNN`."""
    return ssid.decode("utf-8", "backslashreplace")
