"""Facts about the host for placeholders, each from a file of the kernel's, none by a command or a privilege.

    temperature       °C, of the processor, with one decimal
    load              processes running or waiting to, mean of one minute
    memory_available  bytes that programs can get without swapping
    disk_free         bytes left for those who are not root, on the file system of /
    throttled         the firmware's bits, 0 when all is well (see `_throttled`)
    cpu_serial        the processor's serial number
    model             the board, or the machine's name where there is no device tree
    os_release        what the distribution calls itself (os-release(5) PRETTY_NAME)
    iotd_version      of this program
    reboot_required   whether a package that was upgraded waits for a reboot (Debian's and Raspberry Pi OS's mark)
"""

import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from iotd import __version__
from iotd.vocabulary import Json

MAX_BYTES = 65536


class Roots(NamedTuple):
    """Where the kernel's and the distribution's files are found."""

    proc: Path = Path("/proc")
    sys: Path = Path("/sys")
    etc: Path = Path("/etc")
    disk: Path = Path("/")
    run: Path = Path("/run")


HOST = Roots()


def read(names: Iterable[str], roots: Roots = HOST) -> dict[str, Json]:
    """Return the named facts, and only those are looked up; None for one that this host does not tell.

    Raises KeyError for a name that is not in `NAMES`.
    """
    return {name: _read(_READERS[name], roots) for name in names}


def _read(reader: Callable[[Roots], Json], roots: Roots) -> Json:
    try:
        return reader(roots)
    except (OSError, ValueError, LookupError):
        return None


def _temperature(roots: Roots) -> float:
    """The processor's thermal zone, or the first one that can be read where none names the processor."""
    zones = sorted((roots.sys / "class/thermal").glob("thermal_zone*"), key=lambda zone: int(zone.name[12:]))
    for zone in sorted(zones, key=lambda zone: "cpu" not in _text(zone / "type")):
        try:
            return round(int(_text(zone / "temp")) / 1000, 1)
        except (OSError, ValueError):  # a zone may be switched off
            continue
    raise LookupError("no thermal zone")


def _throttled(roots: Roots) -> int:
    """Bits 0 to 3: under-voltage, frequency capped, throttled, soft temperature limit; 16 to 19: that it has been so.

    Raspberry Pi's kernel shows what it last heard of the firmware in `get_throttled`, readable by all; to read it
    costs one warning in the kernel's log for each boot, since upstream keeps only the alarm of the hwmon driver
    `rpi_volt`. That one knows under-voltage alone, and is the fallback. Both are renewed every 2 s, by the driver.
    """
    for path in (roots.sys / "bus/platform/drivers/raspberrypi-firmware").glob("*/get_throttled"):
        return int(_text(path), 16)
    for sensor in (roots.sys / "class/hwmon").glob("hwmon*"):
        if _text(sensor / "name") == "rpi_volt":
            return int(_text(sensor / "in0_lcrit_alarm"))
    raise LookupError("no Raspberry Pi firmware")


def _cpu_serial(roots: Roots) -> str:
    return _first(lambda: _text(roots.proc / "device-tree/serial-number"),
                  lambda: dict(_pairs(_text(roots.proc / "cpuinfo"), ":"))["Serial"])


def _model(roots: Roots) -> str:
    return _first(lambda: _text(roots.proc / "device-tree/model"),
                  lambda: _text(roots.sys / "class/dmi/id/product_name"))


def _os_release(roots: Roots) -> str:
    return dict(_pairs(_text(roots.etc / "os-release"), "="))["PRETTY_NAME"].strip("\"'")


def _memory_available(roots: Roots) -> int:
    amount, unit = dict(_pairs(_text(roots.proc / "meminfo"), ":"))["MemAvailable"].split()
    if unit != "kB":
        raise ValueError(f"memory in {unit}")
    return int(amount) * 1024


def _disk_free(roots: Roots) -> int:
    room = os.statvfs(roots.disk)
    return room.f_bavail * room.f_frsize


def _text(path: Path) -> str:
    """Return a small file's text without blanks and NULs around it; the device tree ends its texts with NUL."""
    with path.open("rb") as file:
        return file.read(MAX_BYTES).decode("utf-8").strip("\0 \t\r\n")


def _pairs(text: str, separator: str) -> Iterator[tuple[str, str]]:
    for line in text.splitlines():
        key, found, value = line.partition(separator)
        if found:
            yield key.strip(), value.strip()


def _first(*readers: Callable[[], str]) -> str:
    """Return the first text that can be read and is not empty."""
    for reader in readers:
        try:
            text = reader()
        except (OSError, ValueError, LookupError):
            continue
        if text:
            return text
    raise LookupError("nowhere to be read")


_READERS: dict[str, Callable[[Roots], Json]] = {
    "temperature": _temperature,
    "load": lambda roots: float(_text(roots.proc / "loadavg").split()[0]),
    "memory_available": _memory_available,
    "disk_free": _disk_free,
    "throttled": _throttled,
    "cpu_serial": _cpu_serial,
    "model": _model,
    "os_release": _os_release,
    "iotd_version": lambda roots: __version__,
    "reboot_required": lambda roots: (roots.run / "reboot-required").exists(),
}
NAMES = frozenset(_READERS)
