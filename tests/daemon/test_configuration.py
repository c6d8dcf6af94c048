"""A bad configuration on a roof: the last good one is used, and nobody is left in the dark about it."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from iotd.config.difference import changed
from tests.mosquitto import Mosquitto
from tests.running import Iotd, configuration


def status(iotd: Iotd) -> dict[str, Any]:
    body: dict[str, Any] = json.loads((iotd.directory / "runtime" / "status.json").read_text())
    return body


def accepted(tmp_path: Path, broker: Mosquitto, **sections: Any) -> Iotd:
    """Return a device that has run once on a good file."""
    iotd = Iotd(tmp_path / "iotd", configuration(broker, None, **sections))
    with iotd:
        iotd.wait_told("STATUS=connected")
        iotd.signal(signal.SIGTERM)
        assert iotd.end() == 0
    return iotd


def again(iotd: Iotd, text: str | None) -> Iotd:
    """Return the next run of the device, with this file."""
    next_run = Iotd(iotd.directory, {})
    if text is None:
        next_run.file.unlink()
    else:
        next_run.file.write_text(text)
    return next_run


@pytest.mark.parametrize("text, problem", [
    ("mqtt: {host: b, prt: 1}\n", "mqtt.prt"), ("", "mqtt.host"), ("\0", "iotd.yaml"), (None, "No such file"),
    ("thing: t\nmqtt: {host: b, tls: {ca: /nowhere, cert: /nowhere, key: /nowhere}}\n", "/nowhere"),
])
def test_a_start_on_a_bad_file_runs_on_the_last_good_one_and_says_so(
    tmp_path: Path, plain_broker: Mosquitto, text: str | None, problem: str
) -> None:
    with again(accepted(tmp_path, plain_broker), text) as iotd:
        iotd.wait_for("session.connected")
        refused = iotd.wait_for("config.refused", level="error")
        assert any(problem in line for line in refused["problems"])
        iotd.wait_told("; the configuration has problems and is not in force: ")
        assert not status(iotd)["healthy"] and status(iotd)["configuration"]["problems"] == refused["problems"]
        assert any("not in force" in line for line in status(iotd)["problems"])
        iotd.configure(configuration(plain_broker, None))
        iotd.signal(signal.SIGHUP)
        iotd.wait_for("daemon.reloaded")
        iotd.signal(signal.SIGTERM)
        assert iotd.end() == 0


def test_without_an_accepted_one_a_bad_file_ends_with_78_and_check_never_takes_another(
    tmp_path: Path, plain_broker: Mosquitto
) -> None:
    fresh = Iotd(tmp_path / "fresh", {"mqtt": {"prt": 1}})
    with fresh:
        assert fresh.end() == 78
    bad = again(accepted(tmp_path, plain_broker), "mqtt: {prt: 1}\n")
    check = subprocess.run([sys.executable, "-m", "iotd", "check", "-c", str(bad.file)], env=bad.environment(), cwd="/",
                           capture_output=True, timeout=20)
    assert check.returncode == 78


@pytest.mark.parametrize("kept", [b"", b"\xff", b"mqtt: {prt: 1}", b"[" * 100])
def test_a_kept_file_of_no_use_is_none(tmp_path: Path, plain_broker: Mosquitto, kept: bytes) -> None:
    iotd = accepted(tmp_path, plain_broker)
    (iotd.directory / "state" / "accepted.yaml").write_bytes(kept)
    with again(iotd, "mqtt: {prt: 1}") as bad:
        assert bad.end() == 78


def test_a_refused_reload_stays_visible_until_it_is_mended(tmp_path: Path, plain_broker: Mosquitto) -> None:
    with Iotd(tmp_path / "iotd", configuration(plain_broker, None, log={"level": "info"})) as iotd:
        iotd.wait_told("STATUS=connected")
        good = iotd.file.read_text()
        iotd.file.write_text("mqtt: {host: b, prt: 1}\n")
        iotd.signal(signal.SIGHUP)
        problems = iotd.wait_for("daemon.reload_failed")["problems"]
        iotd.wait_told("not in force")
        assert status(iotd)["configuration"]["problems"] == problems and not status(iotd)["healthy"]
        assert (iotd.directory / "state" / "accepted.yaml").read_text() == good
        iotd.configure(configuration(plain_broker, None, log={"level": "debug"}))
        iotd.signal(signal.SIGHUP)
        assert iotd.wait_for("daemon.reloaded")["changed"] == ["log.level"]
        assert (iotd.directory / "state" / "accepted.yaml").read_text() == iotd.file.read_text()


def test_a_disk_that_keeps_no_configuration_is_told_and_ends_nothing(tmp_path: Path, plain_broker: Mosquitto) -> None:
    iotd = Iotd(tmp_path / "iotd", configuration(plain_broker, None))
    (iotd.directory / "state" / "accepted.yaml").mkdir()
    with iotd:
        iotd.wait_for("config.unkept")
        iotd.wait_for("session.connected")


def test_a_start_on_the_same_file_writes_nothing(tmp_path: Path, plain_broker: Mosquitto) -> None:
    iotd = accepted(tmp_path, plain_broker)
    kept = iotd.directory / "state" / "accepted.yaml"
    before = kept.stat()
    with Iotd(iotd.directory, configuration(plain_broker, None)) as same:
        same.wait_told("STATUS=connected")
        assert (kept.stat().st_ino, kept.stat().st_mode & 0o777) == (before.st_ino, 0o600)


@pytest.mark.parametrize("old, new, keys", [
    ("a: 1\n", "a: 1 # a comment\n", []), ("a: 1\n", "a: 2\n", ["a"]), ("a: 1\n", "a: '1'\n", ["a"]),
    ("a: {b: 1, c: 2}\n", "a: {b: 1, d: 2}\n", ["a.d", "a.c"]), ("a: [1, 2]\n", "a: [1, 3, 4]\n", ["a[1]", "a[2]"]),
    ("a: []\n", "a: [1]\n", ["a[0]", "a"]), ("a: {}\n", "a:\n", ["a"]), ("a: {}\n", "{}\n", ["", "a"]),
    ("", "a: 1\n", ["a"]),
])
def test_the_keys_that_have_changed_are_named(old: str, new: str, keys: list[str]) -> None:
    assert changed(old, new) == keys
