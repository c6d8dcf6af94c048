"""What becomes of an entry: one line of JSON whatever it holds, or text for a person."""

from __future__ import annotations

import base64
import io
import json
import logging
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from iotd.host import log
from iotd.vocabulary import Entry

ROOT = Path(__file__).parent.parent.parent


def written(entry: Entry, form: str = "json", under_journald: bool = False, level: str = "debug",
            encoding: str = "utf-8") -> str:
    """Return what an entry becomes on a stream like stdout."""
    raw = io.BytesIO()
    stream = io.TextIOWrapper(raw, encoding=encoding, errors="strict", write_through=True)
    log.start(level, form, under_journald, stream)
    log.write(entry)
    return raw.getvalue().decode("utf-8")


def strictly(line: str) -> Any:
    """Parse as RFC 8259 does, without Python's NaN and Infinity."""
    def refuse(constant: str) -> None:
        raise ValueError(f"{constant} is no JSON")
    return json.loads(line, parse_constant=refuse)


def test_the_time_of_an_entry_is_that_of_the_clock_that_is_handed_in() -> None:
    stream = io.StringIO()
    log.start("info", "json", False, stream, lambda: 1_790_000_000.25)
    log.write(Entry(logging.INFO, "a.b", "said"))
    log.start("info", "json", False, io.StringIO())
    assert json.loads(stream.getvalue())["time"].startswith("2026-09-21T14:13:20.25")


def test_a_line_is_one_object_with_time_level_event_and_message_first() -> None:
    fields = {"interface": "wlan0", "essid": None, "expected": ["工場"]}
    line = written(Entry(logging.WARNING, "wifi.lost", "gone", fields))
    body = strictly(line)
    assert line.endswith("}\n") and line.count("\n") == 1 and "工場" in line
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", body.pop("time"))
    assert list(body.items()) == [("level", "warning"), ("event", "wifi.lost"), ("message", "gone"),
                                  ("interface", "wlan0"), ("essid", None), ("expected", ["工場"])]


@pytest.mark.parametrize("level, priority", [(logging.DEBUG, 7), (logging.INFO, 6), (logging.WARNING, 4),
                                             (logging.ERROR, 3)])
def test_under_journald_each_line_is_led_by_its_priority(level: int, priority: int) -> None:
    line = written(Entry(level, "a.b", "c"), under_journald=True)
    assert line.startswith(f"<{priority}>{{") and strictly(line[3:])["event"] == "a.b"


@pytest.mark.parametrize("threshold, seen", [("debug", 4), ("info", 3), ("warning", 2), ("error", 1)])
def test_what_is_below_the_level_is_not_written(threshold: str, seen: int) -> None:
    levels = [logging.DEBUG, logging.INFO, logging.WARNING, logging.ERROR]
    lines = [written(Entry(level, "a.b", "c"), level=threshold) for level in levels]
    assert [line != "" for line in lines] == [False] * (4 - seen) + [True] * seen
    assert [log.enabled(level) for level in levels] == [False] * (4 - seen) + [True] * seen


def test_starting_again_replaces_the_stream() -> None:
    old, new = io.StringIO(), io.StringIO()
    for stream in (old, new):
        log.start("info", "json", False, stream)
        log.info("a.b", "c")
    assert old.getvalue().count("\n") == new.getvalue().count("\n") == 1


@pytest.mark.parametrize("payload, field", [
    (b'{"a": [1, null, true]}', {"payload": {"a": [1, None, True]}}),
    (b"7", {"payload": 7}),
    (b"", {"payload": ""}),
    ("工場 {".encode(), {"payload": "工場 {"}),
    (b"NaN", {"payload": "NaN"}),
    (b'{"a": -Infinity}', {"payload": '{"a": -Infinity}'}),
    (b"\xff\x00", {"payload_base64": base64.b64encode(b"\xff\x00").decode()}),
    (b"[" * 100_000, {"payload": "[" * 100_000}),
    (b"9" * 5000, {"payload": "9" * 5000}),
])
def test_a_payload_is_parsed_json_else_text_else_base64(payload: bytes, field: dict[str, Any]) -> None:
    assert log.readable(payload) == field


@pytest.mark.parametrize("encoding", ["utf-8", "ascii", "latin-1"])
@pytest.mark.parametrize("payload", [
    b'"\\ud800"', b'{"\\udfff": 1}', b"1e999", b'{"a": [-1e999]}', b'"\\u0000\\u001b[2J\\n"', "👉".encode(), b"NaN",
    b"line\nline\r\n\xe2\x80\xa8\x1b[2J", b'{"message": "x", "level": "y"}', b"[1e5, 123456789012345678901234567890]",
])
def test_whatever_comes_in_is_one_line_of_json_in_utf8(payload: bytes, encoding: str) -> None:
    line = written(Entry(logging.INFO, "message.received", "m", log.readable(payload)), encoding=encoding)
    assert line.count("\n") == 1
    body = strictly(line)
    assert body["event"] == "message.received"
    assert body["payload"] == log.readable(payload)["payload"] or b"e999" in payload


@pytest.mark.parametrize("opening, closing", [(b'{"a":', b"}"), (b"[", b"]")])
def test_no_depth_of_nesting_ends_the_daemon(opening: bytes, closing: bytes) -> None:
    """A message as deep as the parser allows must still be written from a deeper stack."""
    for depth in [*range(880, 1000, 3), 3000, 9000]:
        payload = opening * depth + b"1" + closing * depth
        entry = Entry(logging.INFO, "message.received", "m", log.readable(payload))
        assert written(entry, "text").count("\n") == 1
        line = written(entry)
        assert re.fullmatch(r'\{"time": "[^"]*", "level": "info", "event": "message.received".*\}\n', line)


@pytest.mark.parametrize("value", [
    "x" * 200_000, "👉" * 50_000, "\x01" * 130_000, "\ud800" * 39_000, "\n" * 130_000, '"' * 130_000,
    ["\x01" * 1000] * 130, {"a": "é" * 100_000}, list(range(60_000))])
@pytest.mark.parametrize("others", [0, 20])
def test_a_line_never_exceeds_what_journald_keeps_in_one_piece(value: Any, others: int) -> None:
    fields = {"payload": value, **{f"field{number}": value for number in range(others)}}
    line = written(Entry(logging.INFO, "message.received", "m", fields), under_journald=True)
    body = strictly(line[3:])
    assert len(line.encode()) <= 48 * 1024
    assert body["event"] == "message.received" and "characters)" in body["payload"]


def test_a_long_line_that_fits_is_left_whole() -> None:
    assert strictly(written(Entry(logging.INFO, "a.b", "m", {"payload": "x" * 39_000})))["payload"] == "x" * 39_000


def test_text_is_for_a_person() -> None:
    entry = Entry(logging.WARNING, "wifi.lost", "gone", {"interface": "wlan0", "expected": ["工場"]})
    line = written(entry, "text")
    assert re.fullmatch(r"\d\d:\d\d:\d\d\.\d{3} WARNING wifi.*", line[:-1])
    assert line.endswith('WARNING wifi.lost: gone [interface=wlan0 expected=["工場"]]\n')
    assert written(Entry(logging.INFO, "a.b", "c"), "text").endswith("INFO    a.b: c\n")


def test_what_others_sent_cannot_forge_a_line_or_reach_the_terminal() -> None:
    line = written(Entry(logging.INFO, "message.received", "m", {"payload": "x\n12:00:00 ERROR\x1b[2J\x9b"}), "text")
    assert line.count("\n") == 1 and "\x1b" not in line and "\x9b" not in line


def test_stdout_has_the_lines_and_stderr_nothing_whatever_the_locale() -> None:
    script = ("from iotd.host import log\nlog.start('info', 'json', False)\n"
              "log.info('a.b', '工場', payload='\\ud800\\udc80', number=float('nan'))\n")
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, check=True,
                          env={"LC_ALL": "en_US.ISO-8859-1", "PYTHONCOERCECLOCALE": "0", "PYTHONIOENCODING": "ascii"})
    assert done.stderr == b"" and strictly(done.stdout.decode("utf-8"))["message"] == "工場"


JOURNAL = """
import os, sys
from iotd.host import log
if sys.argv[1] == "ours":
    os.environ["JOURNAL_STREAM"] = "{0.st_dev}:{0.st_ino}".format(os.fstat(1))
elif sys.argv[1] == "closed":
    os.environ["JOURNAL_STREAM"] = "{0.st_dev}:{0.st_ino}".format(os.fstat(1))
    os.close(1)
elif sys.argv[1] == "another's":
    os.environ["JOURNAL_STREAM"] = "{0.st_dev}:{0.st_ino}".format(os.fstat(0))
print(log.is_journal(), file=sys.stderr)
"""


@pytest.mark.parametrize("stream, is_journal", [("ours", True), ("another's", False), ("none", False),
                                                ("closed", False)])
def test_stdout_is_the_journal_where_systemd_says_that_it_is_this_very_stream(stream: str, is_journal: bool) -> None:
    """A shell that was started by a service hands the variable on to what it runs into a file or a terminal."""
    done = subprocess.run([sys.executable, "-c", JOURNAL, stream], cwd=ROOT, text=True, stdin=subprocess.DEVNULL,
                          stdout=subprocess.PIPE, stderr=subprocess.PIPE, env={"PATH": "/usr/bin"})
    assert done.stderr == f"{is_journal}\n"
