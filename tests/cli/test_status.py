"""`iotd status` for a person: what the status says, and what it cannot be made to do."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from iotd.cli import main, told
from iotd.host.clock import uptime_s

WELL: dict[str, Any] = {
    "version": "1", "pid": os.getpid(), "thing": "pi-7", "host": "broker", "port": 8883, "connected": True,
    "for_s": 3700, "down": None, "contested": False, "healthy": True, "problems": [], "verdict": None,
    "sentences": ["waiting for the broker: 0 messages"]}
DOWN: dict[str, Any] = {
    **WELL, "connected": False, "for_s": None, "healthy": False, "problems": ["not connected: no route"],
    "down": {"for_s": 400.2, "since": 1_790_000_000, "cause": "tcp", "reason": "no route", "layer": "gateway",
             "retry_in_s": 30.0}}


@pytest.fixture
def runtime(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("RUNTIME_DIRECTORY", str(tmp_path))
    return tmp_path


def said(runtime: Path, status: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> tuple[int, list[str]]:
    (runtime / "status.json").write_text(json.dumps({"written_s": uptime_s(), **status}))
    code = main(["status"])
    return code, capsys.readouterr().out.splitlines()


def test_a_device_that_is_well(runtime: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, lines = said(runtime, WELL, capsys)
    assert code == 0 and lines[1:] == ["connected to broker:8883 for 1 h 1 min", "waiting for the broker: 0 messages"]


def test_a_line_that_is_down_tells_since_when_and_the_next_try(
    runtime: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, lines = said(runtime, DOWN, capsys)
    assert code == 1 and lines[1].startswith("not connected to broker:8883 for 6 min 40 s, since 20")
    assert lines[1].endswith("next try in 30 s") and lines[2] == "problem: not connected: no route"
    assert lines[3] == "why: iotd doctor looks at every layer"
    _, lines = said(runtime, {**DOWN, "down": {**DOWN["down"], "retry_in_s": None, "since": None}}, capsys)
    assert lines[1] == "not connected to broker:8883 for 6 min 40 s, dialling"


def test_the_verdict_is_told_with_what_to_do(runtime: Path, capsys: pytest.CaptureFixture[str]) -> None:
    verdict = {"layer": "gateway", "finding": "there is no default route", "fix": "ip route"}
    _, lines = said(runtime, {**DOWN, "verdict": verdict}, capsys)
    assert lines[3:5] == ["verdict: gateway: there is no default route", "what to do: ip route"]


@pytest.mark.parametrize("status", [
    {"problems": 7, "sentences": {}, "verdict": [], "down": 3, "connected": None},
    {"down": {"for_s": "x", "since": 1e300, "retry_in_s": {}}, "connected": False},
    {"problems": ["\x1b[2Jgone\nnew"], "thing": "\x1b]0;title\x07", "sentences": ["a" * 100_000]},
])
def test_whatever_the_file_says_is_text_on_lines_of_its_own(
    runtime: Path, status: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    _, lines = said(runtime, {**WELL, **status}, capsys)
    assert lines and all(line.isprintable() and len(line) < 1000 for line in lines)


@pytest.mark.parametrize("status", [{"written_s": "x"}, {"written_s": None}, {"pid": "1/../self"}, {"pid": -1}])
def test_a_file_of_another_shape_is_no_daemon_that_runs(
    runtime: Path, status: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    assert said(runtime, {**WELL, **status}, capsys)[0] == 3


def test_a_process_that_has_gone_is_stale(runtime: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert said(runtime, {**WELL, "pid": 2 ** 30}, capsys)[0] == 3


@pytest.mark.parametrize("seconds, words", [
    (0, "0 s"), (59.6, "1 min"), (61, "1 min 1 s"), (3600, "1 h"), (90_000, "1 d 1 h"), (-1, "an unknown time"),
    (None, "an unknown time"), (float("inf"), "an unknown time"),
])
def test_times_are_told_in_two_units(seconds: object, words: str) -> None:
    assert told.lasting(seconds) == words
