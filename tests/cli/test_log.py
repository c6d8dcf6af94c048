"""`iotd log`: a record of the journal is a line for a person."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from iotd.cli import log
from tests.running import ROOT

ENTRY = {"time": "2027-01-02T03:04:05.678Z", "level": "warning", "event": "session.disconnected",
         "message": "the line is down: closed by the broker", "reason": "closed by the broker", "retry_in_s": 2.5}


def record(message: Any, **fields: str) -> bytes:
    return json.dumps({"__REALTIME_TIMESTAMP": "1790000000123456", "PRIORITY": "6", "MESSAGE": message,
                       **fields}).encode()


def test_an_event_is_one_line_and_its_reason_is_said_once() -> None:
    line = log.line(record(json.dumps(ENTRY)), False)
    assert line.endswith(" WARNING session.disconnected: the line is down: closed by the broker [retry_in_s=2.5]")


def test_colours_are_for_a_terminal() -> None:
    assert "\x1b[33m" in log.line(record(json.dumps(ENTRY)), True)
    assert "\x1b" not in log.line(record(json.dumps({**ENTRY, "level": "info"})), True)


@pytest.mark.parametrize("message, fields, said", [
    ("Started iotd.service.", {"SYSLOG_IDENTIFIER": "systemd"}, "INFO    systemd: Started iotd.service."),
    ("Traceback", {"PRIORITY": "3", "SYSLOG_IDENTIFIER": "iotd"}, "ERROR   iotd: Traceback"),
    (list("Zeit \u00fc".encode()), {"SYSLOG_IDENTIFIER": "x"}, "INFO    x: Zeit \u00fc"),
    ('{"no": "event"}', {"SYSLOG_IDENTIFIER": "x"}, 'INFO    x: {"no": "event"}'),
    (None, {"SYSLOG_IDENTIFIER": "x"}, "INFO    x: "),
])
def test_what_is_no_event_is_told_as_it_is(message: Any, fields: dict[str, str], said: str) -> None:
    assert log.line(record(message, **fields), False).endswith(said)


@pytest.mark.parametrize("message", [
    "\x1b[2Jgone", json.dumps({**ENTRY, "message": "a\nb\x1b[31m", "event": "\x07", "level": "\x1b", "\x1b": 1}),
    "[" * 100_000,
])
def test_nothing_in_a_record_commands_the_terminal(message: str) -> None:
    assert log.line(record(message), False).isprintable()


@pytest.mark.parametrize("no_record", [b"", b"-- No entries --", b"[]", b"{}", b'{"__REALTIME_TIMESTAMP": "x"}',
                                       b'{"__REALTIME_TIMESTAMP": "9' + b"9" * 40 + b'"}'])
def test_what_is_no_record_is_passed_over(no_record: bytes) -> None:
    assert log.line(no_record, False) == ""


@pytest.mark.parametrize("options, words", [
    ({}, ["--lines=500"]), ({"follow": True}, ["--follow"]), ({"since": "-2h"}, ["--since=-2h"]),
    ({"priority": "error"}, ["--lines=500", "--priority=err"]),
])
def test_the_options_are_those_of_the_journal(options: dict[str, Any], words: list[str]) -> None:
    found = log.arguments(SimpleNamespace(**{"follow": False, "since": None, "priority": None, **options}))
    assert found[6:] == words


def iotd_log(tmp_path: Path, journalctl: str, *options: str) -> subprocess.CompletedProcess[str]:
    """Run `iotd log` where this shell script is the journalctl."""
    if journalctl:
        (tmp_path / "journalctl").write_text(f"#!/bin/sh\n{journalctl}\n")
        (tmp_path / "journalctl").chmod(0o755)
    words = [sys.executable, "-m", "iotd", "log", *options]
    return subprocess.run(words, capture_output=True, text=True, timeout=20, env={
        "PATH": f"{tmp_path}:/usr/bin:/bin" if journalctl else str(tmp_path), "PYTHONPATH": str(ROOT),
        "PYTHONWARNINGS": "error", "LANG": "C.UTF-8"}, cwd="/", stdin=subprocess.DEVNULL)


@pytest.mark.parametrize("options", [("--since", "-2h"), ("--since=-2h",), ("-p", "info", "--since", "-2h")])
def test_a_time_ago_is_given_as_the_help_shows_it(tmp_path: Path, options: tuple[str, ...]) -> None:
    result = iotd_log(tmp_path, f'echo "$@" >{tmp_path}/asked', *options)
    assert (result.returncode, result.stderr) == (0, "")
    assert "--since=-2h" in (tmp_path / "asked").read_text().split()


def test_the_journal_is_printed_to_its_end(tmp_path: Path) -> None:
    (tmp_path / "records").write_bytes((record(json.dumps(ENTRY)) + b"\n") * 3)
    result = iotd_log(tmp_path, f"cat {tmp_path}/records")
    assert (result.returncode, result.stderr, len(result.stdout.splitlines())) == (0, "", 3)


def test_where_there_is_no_journal_it_says_so(tmp_path: Path) -> None:
    result = iotd_log(tmp_path, "")
    assert result.returncode == 1 and result.stderr.startswith("the journal cannot be read: ")


def test_a_journal_that_takes_no_such_time_is_an_error(tmp_path: Path) -> None:
    result = iotd_log(tmp_path, "echo 'Failed to parse timestamp' >&2; exit 1")
    assert result.returncode == 1 and "Failed to parse timestamp" in result.stderr


def test_a_daemon_on_a_terminal_speaks_to_a_person(tmp_path: Path) -> None:
    ours, theirs = os.openpty()
    for name in ("state", "runtime"):
        (tmp_path / name).mkdir()
    (tmp_path / "iotd.yaml").write_text("thing: t\nmqtt: {host: 127.0.0.1, port: 1}\nlog: {format: json}\n")
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT), "STATE_DIRECTORY": str(tmp_path / "state"),
                   "RUNTIME_DIRECTORY": str(tmp_path / "runtime")}
    with subprocess.Popen([sys.executable, "-m", "iotd", "run", "-c", str(tmp_path / "iotd.yaml")], stdout=theirs,
                          stderr=theirs, stdin=subprocess.DEVNULL, env=environment, cwd="/") as process:
        first = os.read(ours, 4096).decode()
        process.terminate()
    os.close(theirs)
    os.close(ours)
    assert " INFO    daemon.started: iotd " in first
