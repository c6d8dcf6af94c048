"""`iotd check` judges as the daemon would: as its user, from its directory, on this host."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from iotd.cli.load import load
from iotd.cli.user import as_daemon
from iotd.errors import ConfigError
from iotd.host.command import program_problem
from iotd.host.unit import hides
from tests.running import ROOT


def check(file: Path | str, cwd: Path, **how: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run([os.path.realpath(sys.executable), "-m", "iotd", "check", "-c", str(file)], cwd=cwd,
                          capture_output=True, text=True, timeout=20, stdin=subprocess.DEVNULL,
                          env={"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT), "LANG": "C.UTF-8"}, **how)


def problems(tmp_path: Path, text: str) -> list[str]:
    """Return what check says of a file, without the name of that."""
    (tmp_path / "iotd.yaml").write_text(f"thing: t\nmqtt: {{host: localhost}}\nshadows:\n  - name: a\n{text}")
    result = check("iotd.yaml", tmp_path)
    assert result.returncode == (78 if result.stderr else 0)
    return [line.removeprefix("iotd.yaml:") for line in result.stderr.splitlines()]


def test_a_file_is_found_from_where_one_stands_and_what_it_names_from_where_the_daemon_does(tmp_path: Path) -> None:
    assert problems(tmp_path, "    checks: [{command: [bin/sh]}]\n") == []
    assert problems(tmp_path, "    checks: [{command: [./iotd.yaml]}]\n")[0].startswith("5: ")


@pytest.mark.parametrize("text, found", [
    ("    checks: [{command: [/nowhere/at/all]}]\n", "5: shadows[0].checks[0].command: /nowhere/at/all does not exist"),
    ("    checks: [{command: [no-such-program]}]\n",
     "5: shadows[0].checks[0].command: no-such-program does not exist in /usr/local/sbin"),
    ("    checks:\n      - {command: [/etc/passwd]}\n",
     "6: shadows[0].checks[0].command: /etc/passwd may not be executed by user "),
    ("    on_delta: {fan: {run: [/nowhere/fan, '{value}']}}\n",
     "5: shadows[0].on_delta.fan.run: /nowhere/fan does not"),
    ("    checks: [{disk: /nowhere, min_free: 1MB}]\n", "5: shadows[0].checks[0].disk: /nowhere is not there"),
    ("    checks: [{tcp: 'http://localhost:8080/x'}]\n",
     "5: shadows[0].checks[0].tcp: expected HOST:PORT, found the URL 'http://localhost:8080/x'; write "
     "'localhost:8080'"),
    ("    checks: [{tcp: 'https://user@example.com'}]\n",
     "5: shadows[0].checks[0].tcp: expected HOST:PORT, found the URL 'https://user@example.com'; write "
     "'example.com:443'"),
])
def test_what_can_never_work_is_an_error_of_check(tmp_path: Path, text: str, found: str) -> None:
    [line] = problems(tmp_path, text)
    assert line.startswith(found)


def test_what_is_there_is_no_problem(tmp_path: Path) -> None:
    assert problems(tmp_path, "    checks: [{command: [sh, -c, 'true']}, {disk: /, min_free: 1MB}]\n"
                              "    on_delta: {fan: {run: [/bin/true, '{value}']}}\n") == []


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_root_looks_as_the_daemon_and_for_good(tmp_path: Path) -> None:
    def look() -> list[Any]:
        with pytest.raises(PermissionError):
            os.setuid(0)
        return [os.getuid(), os.getgid(), os.getcwd(), os.access("/etc/shadow", os.R_OK)]

    uid, gid, directory, may_read = as_daemon(look, "nobody")
    assert uid != 0 and gid != 0 and (directory, may_read) == ("/", False) and os.geteuid() == 0


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_a_bug_in_a_look_as_the_daemon_is_told(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(RuntimeError, match="as user nobody"):
        as_daemon(lambda: 1 // 0, "nobody")
    assert "ZeroDivisionError" in capfd.readouterr().err


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_a_mistake_of_the_user_that_is_met_as_the_daemon_shows_no_traceback(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "iotd.yaml"
    file.write_text("mqtt: {host: b, prot: 1}\n")
    for folder in (file, tmp_path, *tmp_path.parents[:-2]):
        folder.chmod(folder.stat().st_mode | 0o055)
    with pytest.raises(ConfigError) as met:
        as_daemon(lambda: str(load(str(file), True)), "nobody")
    assert met.value.lines() == [f"{file}:1: mqtt.prot: unknown key; did you mean port?"]

    def interrupted() -> None:
        signal.signal(signal.SIGINT, signal.default_int_handler)  # which a shell's background job has ignored
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(5.0)

    with pytest.raises(KeyboardInterrupt):
        as_daemon(interrupted, "nobody")
    assert capfd.readouterr().err == ""


@pytest.mark.skipif(os.geteuid() != 0, reason="root may give files to others")
def test_a_file_that_may_not_be_read_is_an_error_with_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "iotd.yaml").write_text("thing: t\nmqtt: {host: b}\n")
    (tmp_path / "iotd.yaml").chmod(0o600)
    result = check(tmp_path / "iotd.yaml", Path("/"), user="nobody")
    assert result.returncode == 78 and "user nobody may not read it" in result.stderr
    assert "Traceback" not in result.stderr


def test_a_program_of_the_path_is_found_where_the_daemon_finds_it() -> None:
    assert program_problem("sh") is None and program_problem("/bin/sh") is None


@pytest.mark.parametrize("text, found", [
    ("values:\n  level: {command: [/nowhere/level]}\n", "3: values.level.command: /nowhere/level does not exist"),
    ("subscribe:\n  - topic: a\n    run: [/nowhere/horn]\n", "4: subscribe[0].run: /nowhere/horn does not exist"),
])
def test_the_program_of_a_value_and_of_a_message_is_looked_for_too(tmp_path: Path, text: str, found: str) -> None:
    (tmp_path / "iotd.yaml").write_text(f"mqtt: {{host: localhost}}\n{text}")
    result = check("iotd.yaml", tmp_path)
    assert result.returncode == 78 and result.stderr.startswith(f"iotd.yaml:{found}"), result.stderr


@pytest.mark.parametrize("text, line", [
    ("values:\n  level: {command: [sh, /home/pi/level.sh]}\n",
     "3: warning: values.level.command: /home/pi/level.sh is not there for the daemon: the unit hides home "),
    ("values:\n  level: {file: /root/level}\n", "3: warning: values.level.file: /root/level is not there for the"),
    ("values:\n  level: {file: /tmp/level}\n", "3: warning: values.level.file: /tmp/level is not there for the daemon: "
                                               "the unit has a /tmp of its own (PrivateTmp=yes)"),
    ("shadows:\n  - checks: [{file: /home/pi/alive, max_age: 1m}]\n",
     "3: warning: shadows[0].checks[0].file: /home/pi/alive is not"),
    ("shadows:\n  - checks: [{command: [sh, /home/pi/x]}]\n",
     "3: warning: shadows[0].checks[0].command: /home/pi/x is"),
    ("shadows:\n  - on_delta: {fan: {run: [sh, /home/pi/fan, '{value}']}}\n",
     "3: warning: shadows[0].on_delta.fan.run: /home/pi/fan is not"),
    ("subscribe:\n  - topic: a\n    run: [sh, /home/pi/horn]\n", "4: warning: subscribe[0].run: /home/pi/horn is not"),
    ("jobs:\n  handlers: {clean: {run: [sh, /home/pi/clean]}}\n",
     "3: warning: jobs.handlers.clean.run: /home/pi/clean"),
])
def test_what_the_unit_hides_from_the_daemon_is_a_warning(tmp_path: Path, text: str, line: str) -> None:
    (tmp_path / "iotd.yaml").write_text(f"mqtt: {{host: localhost}}\n{text}")
    result = check("iotd.yaml", tmp_path)
    assert result.returncode == 0 and result.stderr.startswith(f"iotd.yaml:{line}"), result.stderr
    assert result.stderr.count("\n") == 1


def test_the_unit_hides_what_check_says_that_it_hides() -> None:
    unit = (ROOT / "systemd" / "iotd.service").read_text().splitlines()
    paths = ("/home/pi/x", "/root", "/tmp/x", "/homes")
    lines = [hides(path).partition("(")[2].partition(")")[0] for path in paths]
    assert lines == ["ProtectHome=yes", "ProtectHome=yes", "PrivateTmp=yes", ""]
    assert {"ProtectHome=yes", "PrivateTmp=yes"} < set(unit)
