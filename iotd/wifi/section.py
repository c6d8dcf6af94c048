"""The section `wifi`: which interface is watched, what is right, and what may be done where it is not."""

import re
from typing import NamedTuple

from iotd.config.document import Cursor, Wrong, quoted
from iotd.config.readers import choice, duration, text, whole
from iotd.config.section import Note, Section
from iotd.wifi.reading import Reading, ssid_text

ESSID_MAX_BYTES = 32
# No leading dash, which a command of the helper's would read as an option. 15: IFNAMSIZ less its NUL.
INTERFACE = r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,14}"
STEPS = ("reconnect", "radio-cycle", "restart-network", "reboot")


class RebootBudget(NamedTuple):
    """How often a reboot may be asked for, and never before the host has been up for `min_uptime_s`."""

    max_per_day: int = 3
    min_uptime_s: float = 600.0


class Wifi(NamedTuple):
    """The watched interface. `essid` empty: any association is right. `recover` empty: only report."""

    interface: str = "wlan0"
    essid: tuple[str, ...] = ()
    every_s: float = 10.0
    grace_s: float = 120.0
    recover: tuple[str, ...] = ("reconnect", "restart-network", "reboot")
    reboot: RebootBudget = RebootBudget()


def _wifi(at: Cursor) -> Wifi:
    return Wifi(**at.fields({
        "interface": ("interface", _interface),
        "essid": ("essid", lambda at: at.items(_essid, "[fleet-ap]")),
        "every": ("every_s", duration),
        "grace": ("grace_s", duration),
        "recover": ("recover", _recover),
        "reboot": ("reboot", _reboot),
    }))


def _reboot(at: Cursor) -> RebootBudget:
    return RebootBudget(**at.fields({
        "max_per_day": ("max_per_day", whole(0, 24)),
        "min_uptime": ("min_uptime_s", duration),
    }))


def _interface(at: Cursor) -> str:
    name = text(at)
    if not re.fullmatch(INTERFACE, name):
        raise Wrong(f"expected the name of a network interface such as wlan0, found {quoted(name)}")
    return name


def _essid(at: Cursor) -> str:
    name = text(at)
    if len(name.encode()) > ESSID_MAX_BYTES:
        raise Wrong(f"{quoted(name)} is {len(name.encode())} bytes long; an ESSID has at most {ESSID_MAX_BYTES}")
    return name


def _recover(at: Cursor) -> tuple[str, ...]:
    steps = at.items(choice(*STEPS), "[] to report only")
    for position, step in enumerate(steps):
        if step in steps[:position]:
            raise Wrong(f"{step} comes twice; each step is taken once, in the order of the list")
    return steps


def unlike(wifi: Wifi, reading: Reading) -> tuple[str, str] | None:
    """Return, with its key, how the host is not as the settings have it; None where it is, or is not told."""
    name = wifi.interface
    if reading.outcome == "absent":
        return "wifi.interface", f"there is no {name} here; on a wired device leave the section wifi out"
    ssid = None if reading.ssid is None else ssid_text(reading.ssid)
    if ssid is None or not wifi.essid or ssid in wifi.essid:
        return None
    then = f"take {name} off it, by {', '.join(wifi.recover)}" if wifi.recover else "call that wrong"
    return "wifi.essid", (f"{name} is associated with {quoted(ssid)}, which is not among these: iotd will {then}; "
                          "write its name, or leave essid out where any network is right")


def _notice(wifi: Wifi, note: Note) -> None:
    from iotd.wifi.nl80211 import look  # the daemon looks on a thread of its own

    found = unlike(wifi, look(wifi.interface))
    if found is not None:
        note(*found)


SECTIONS = {"wifi": Section(_wifi, Wifi(), of_host=True, notice=_notice)}
