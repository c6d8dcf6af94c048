"""The reboot budget's file, whole, missing and after a power cut."""

from __future__ import annotations

from pathlib import Path

from iotd.host.files import Files
from iotd.wifi import budget
from iotd.wifi.recovery import Budget, Reboot

FILES = Files()
SPENT = Budget((Reboot("c36d", 1200.5, 1.7e9), Reboot("07f2", 700.0, None)), 2)


def test_the_budget_comes_back_from_its_file(tmp_path: Path) -> None:
    FILES.write_text(tmp_path / "reboots.json", SPENT.to_json(), durable=True)
    assert budget.read(FILES, tmp_path / "reboots.json") == SPENT


def test_without_a_file_the_budget_is_whole(tmp_path: Path) -> None:
    assert budget.read(FILES, tmp_path / "reboots.json") == Budget()


def test_without_a_file_that_a_reboot_would_have_forgotten_there_is_none(tmp_path: Path) -> None:
    assert budget.read(FILES, tmp_path / "reboots.json", forgets=True) is None


def test_a_file_that_lost_its_end_or_its_bytes_grants_nothing(tmp_path: Path) -> None:
    file, text = tmp_path / "reboots.json", SPENT.to_json().encode()
    for damaged in (*(text[:length] for length in range(len(text))), bytes(len(text)), b"\xff" + text):
        file.write_bytes(damaged)
        assert budget.read(FILES, file) is None


def test_what_is_no_file_grants_nothing(tmp_path: Path) -> None:
    assert budget.read(FILES, tmp_path) is None
