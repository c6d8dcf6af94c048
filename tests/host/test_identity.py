"""Who this host is, and its clocks."""

from __future__ import annotations

import socket
import time
from pathlib import Path

import pytest

from iotd.host import facts
from iotd.host.clock import boot_id, uptime_s
from iotd.host.identity import Identity, identity, read_identity


def test_who_this_host_is() -> None:
    here = identity()
    assert here.hostname == socket.gethostname().split(".")[0] and "." not in here.hostname
    assert len(boot_id()) == 36
    assert uptime_s() >= time.monotonic() - 1.0


SERIAL = "10000000abcdef01"


@pytest.mark.parametrize("name, machine_id, serial, expected, lacking", [
    ("pi-7.example.com", "abc\n", SERIAL + "\0", Identity("pi-7", "abc", SERIAL), []),
    ("pi", "", SERIAL, Identity("pi", "", SERIAL), ["machine_id"]),
    ("pi", "uninitialized\n", SERIAL, Identity("pi", "", SERIAL), ["machine_id"]),
    ("localhost", "abc", SERIAL, Identity("localhost", "abc", SERIAL), ["hostname"]),
    ("localhost.localdomain", "abc", SERIAL, Identity("localhost", "abc", SERIAL), ["hostname"]),
    ("(none)", "abc", SERIAL, Identity("(none)", "abc", SERIAL), ["hostname"]),
    ("", "", "", Identity("", ""), ["hostname", "machine_id", "cpu_serial"]),
    ("p\udcff", "abc", SERIAL, Identity("p?", "abc", SERIAL), []),
    ("pi", "abc", "0000000000000000", Identity("pi", "abc"), ["cpu_serial"]),
])
def test_what_tells_this_host_from_no_other(
    tmp_path: Path, name: str, machine_id: str, serial: str, expected: Identity, lacking: list[str]
) -> None:
    (tmp_path / "machine-id").write_text(machine_id)
    (tmp_path / "device-tree").mkdir()
    (tmp_path / "device-tree/serial-number").write_text(serial)
    found = read_identity(name, tmp_path / "machine-id", facts.Roots(proc=tmp_path))
    assert found == expected and list(found.lacking()) == lacking


def test_a_host_without_a_machine_id_has_none(tmp_path: Path) -> None:
    assert read_identity("pi", tmp_path / "machine-id", facts.HOST).machine_id == ""
