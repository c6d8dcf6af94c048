"""Who this host is, and its clocks."""

from __future__ import annotations

import socket
import time
from pathlib import Path

import pytest

from iotd.host.clock import boot_id, uptime_s
from iotd.host.identity import Identity, identity, read_identity


def test_who_this_host_is() -> None:
    here = identity()
    assert here.hostname == socket.gethostname().split(".")[0] and "." not in here.hostname
    assert len(boot_id()) == 36
    assert uptime_s() >= time.monotonic() - 1.0


@pytest.mark.parametrize("name, machine_id, expected, lacking", [
    ("pi-7.example.com", "abc\n", Identity("pi-7", "abc"), []),
    ("pi", "", Identity("pi", ""), ["machine_id"]),
    ("pi", "uninitialized\n", Identity("pi", ""), ["machine_id"]),
    ("localhost", "abc", Identity("localhost", "abc"), ["hostname"]),
    ("localhost.localdomain", "abc", Identity("localhost", "abc"), ["hostname"]),
    ("(none)", "abc", Identity("(none)", "abc"), ["hostname"]),
    ("", "", Identity("", ""), ["hostname", "machine_id"]),
    ("p\udcff", "abc", Identity("p?", "abc"), []),
])
def test_what_tells_this_host_from_no_other(
    tmp_path: Path, name: str, machine_id: str, expected: Identity, lacking: list[str]
) -> None:
    (tmp_path / "machine-id").write_text(machine_id)
    found = read_identity(name, tmp_path / "machine-id")
    assert found == expected and list(found.lacking()) == lacking


def test_a_host_without_a_machine_id_has_none(tmp_path: Path) -> None:
    assert read_identity("pi", tmp_path / "machine-id").machine_id == ""
