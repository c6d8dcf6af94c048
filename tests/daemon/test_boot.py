"""Why a boot came that iotd did not ask for, on real files."""

from __future__ import annotations

from pathlib import Path

from iotd.daemon.boot import POWER, UNKNOWN, WATCHDOG, Boot
from iotd.daemon.world import Places
from iotd.host.files import Files


class Host:
    """A host that boots; what is in /run goes with each boot."""

    def __init__(self, path: Path) -> None:
        self.places = Places(path / "state", path / "runtime")
        for place in self.places:
            place.mkdir()
        self.boots = 0

    def boot(self, uptime_s: float = 20.0, watchdog: bool = False) -> Boot:
        """Start iotd in another boot."""
        self.boots += 1
        (self.places.runtime / "boot.json").unlink(missing_ok=True)
        return self.start(uptime_s, watchdog)

    def start(self, uptime_s: float = 20.0, watchdog: bool = False) -> Boot:
        """Start iotd."""
        boot = Boot(self.places, Files(), f"boot-{self.boots}", uptime_s, lambda: watchdog)
        (self.places.state / "accepted.yaml").touch()  # as the configuration's part does
        return boot


def test_the_first_start_knows_of_no_boot_before(tmp_path: Path) -> None:
    assert Host(tmp_path).boot().cause == UNKNOWN


def test_a_boot_after_one_that_did_not_end_is_told_so(tmp_path: Path) -> None:
    host = Host(tmp_path)
    host.boot()
    assert host.boot().cause == POWER
    host.start().ended()
    assert host.boot().cause == UNKNOWN, "somebody has shut it down"
    assert host.boot().cause == POWER, "one orderly end counts for one boot"


def test_a_restart_in_the_same_boot_says_the_same(tmp_path: Path) -> None:
    host = Host(tmp_path)
    host.boot().ended()
    assert [host.start().cause for _ in range(2)] == [UNKNOWN] * 2
    host.boot()
    assert host.start(uptime_s=5000.0).cause == host.start().cause == POWER


def test_an_iotd_that_starts_late_in_a_boot_was_not_there(tmp_path: Path) -> None:
    host = Host(tmp_path)
    host.boot()
    assert host.boot(uptime_s=3600.0).cause == UNKNOWN


def test_the_hardware_watchdog_is_believed(tmp_path: Path) -> None:
    host = Host(tmp_path)
    host.boot().ended()
    assert host.boot(watchdog=True).cause == WATCHDOG
