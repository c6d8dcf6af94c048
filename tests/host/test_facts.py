"""What facts read from trees laid out as real kernels lay them out."""

from __future__ import annotations

from pathlib import Path

import pytest

from iotd import __version__
from iotd.config import template
from iotd.host import facts
from iotd.host.facts import NAMES, Roots
from iotd.vocabulary import Json

PI = {
    "sys/class/thermal/thermal_zone0/type": "cpu-thermal\n",
    "sys/class/thermal/thermal_zone0/temp": "48312\n",
    "sys/bus/platform/drivers/raspberrypi-firmware/soc:firmware/get_throttled": "50005\n",
    "sys/class/hwmon/hwmon0/name": "cpu_thermal\n",
    "sys/class/hwmon/hwmon1/name": "rpi_volt\n",
    "sys/class/hwmon/hwmon1/in0_lcrit_alarm": "1\n",
    "proc/loadavg": "0.52 0.58 0.59 1/389 12345\n",
    "proc/meminfo": "MemTotal:         948304 kB\nMemFree:          100000 kB\nMemAvailable:     612345 kB\n",
    "proc/device-tree/serial-number": "10000000abcdef01\0",
    "proc/device-tree/model": "Raspberry Pi 3 Model B Plus Rev 1.3\0",
    "proc/cpuinfo": "processor\t: 0\n\nSerial\t\t: 00000000abcdef01\nModel\t\t: Raspberry Pi 3\n",
    "sys/class/dmi/id/product_name": "not this one\n",
    "etc/os-release": 'ID=debian\nPRETTY_NAME="Debian GNU/Linux 12 (bookworm)"\n',
}


def tree(root: Path, files: dict[str, str]) -> Roots:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return Roots(root / "proc", root / "sys", root / "etc", root, root / "run")


def test_a_pi_tells_all(tmp_path: Path) -> None:
    found = facts.read(NAMES, tree(tmp_path, PI))
    disk_free = found.pop("disk_free")
    assert disk_free > 0
    assert found == {
        "temperature": 48.3, "load": 0.52, "memory_available": 612345 * 1024, "throttled": 0x50005,
        "cpu_serial": "10000000abcdef01", "model": "Raspberry Pi 3 Model B Plus Rev 1.3",
        "os_release": "Debian GNU/Linux 12 (bookworm)", "iotd_version": __version__,
        "reboot_required": False,
    }


def test_where_there_is_nothing_to_read_each_fact_is_none_but_what_needs_no_file(tmp_path: Path) -> None:
    found = facts.read(NAMES, tree(tmp_path / "empty", {}))
    assert {name for name, value in found.items() if value is not None} == {"iotd_version", "reboot_required"}


@pytest.mark.parametrize("file, text, lost", [
    ("sys/class/thermal/thermal_zone0/temp", "", {"temperature"}),
    ("sys/class/thermal/thermal_zone0/temp", "VCHI initialization failed\n", {"temperature"}),
    ("sys/bus/platform/drivers/raspberrypi-firmware/soc:firmware/get_throttled", "no\n", {"throttled"}),
    ("proc/loadavg", "\n", {"load"}),
    ("proc/meminfo", "MemTotal: 948304 kB\n", {"memory_available"}),
    ("proc/meminfo", "MemAvailable: 12 pages\n", {"memory_available"}),
    ("proc/meminfo", "MemAvailable: 12\n", {"memory_available"}),
    ("proc/device-tree/model", "\udcff", {"nothing: the next file has it"}),
    ("etc/os-release", "ID=debian\n", {"os_release"}),
])
def test_one_that_fails_takes_no_other_along(tmp_path: Path, file: str, text: str, lost: set[str]) -> None:
    roots = tree(tmp_path, PI)
    (tmp_path / file).write_bytes(text.encode("utf-8", "surrogateescape"))
    found = facts.read(NAMES, roots)
    assert {name for name, value in found.items() if value is None} == lost & NAMES


@pytest.mark.parametrize("gone, name, value", [
    ("proc/device-tree/model", "model", "not this one"),
    ("proc/device-tree/serial-number", "cpu_serial", "00000000abcdef01"),
    ("sys/bus/platform/drivers/raspberrypi-firmware/soc:firmware/get_throttled", "throttled", 1),
])
def test_a_second_source_stands_in(tmp_path: Path, gone: str, name: str, value: Json) -> None:
    roots = tree(tmp_path, PI)
    (tmp_path / gone).unlink()
    assert facts.read([name], roots) == {name: value}


def test_the_zone_of_the_processor_comes_before_others_and_one_switched_off_is_passed_over(tmp_path: Path) -> None:
    zones = {
        "sys/class/thermal/thermal_zone0/type": "gpu-thermal", "sys/class/thermal/thermal_zone0/temp": "20000",
        "sys/class/thermal/thermal_zone2/type": "cpu-off", "sys/class/thermal/thermal_zone2/temp": "",
        "sys/class/thermal/thermal_zone10/type": "cpu-thermal", "sys/class/thermal/thermal_zone10/temp": "-1250",
    }
    assert facts.read(["temperature"], tree(tmp_path, zones)) == {"temperature": -1.2}


def test_without_a_zone_of_the_processor_the_first_by_its_number_is_read(tmp_path: Path) -> None:
    zones = {f"sys/class/thermal/thermal_zone{number}/{file}": text for number, celsius in ((10, "10000"), (2, "2000"))
             for file, text in (("type", "acpitz"), ("temp", celsius))}
    assert facts.read(["temperature"], tree(tmp_path, zones)) == {"temperature": 2.0}


def test_only_what_is_named_is_looked_up(tmp_path: Path) -> None:
    assert facts.read([], tree(tmp_path, PI)) == {}
    assert facts.read(["load"], tree(tmp_path, PI)) == {"load": 0.52}
    with pytest.raises(KeyError):
        facts.read(["humidity"], tree(tmp_path, PI))


def test_this_host_tells_its_load_its_memory_its_disk_and_its_release() -> None:
    found = facts.read(NAMES)
    assert all(found[name] is not None for name in ("load", "memory_available", "disk_free", "os_release"))


def test_every_fact_is_a_placeholder() -> None:
    assert template.FACTS == NAMES


def test_a_reboot_is_required_where_a_package_says_so(tmp_path: Path) -> None:
    roots = Roots(run=tmp_path)
    assert facts.read(["reboot_required"], roots) == {"reboot_required": False}
    (tmp_path / "reboot-required").touch()
    assert facts.read(["reboot_required"], roots) == {"reboot_required": True}
