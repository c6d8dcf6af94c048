"""What a person reads of the demonstration: two sides that keep their columns, short lines, differences only."""

from __future__ import annotations

import io
import json
import os
import re
from contextlib import suppress
from typing import Any

import pytest

from tests.aws.screen import (
    RED, YELLOW, Line, Screen, Unwatched, changes, fit, headline, log_line, presence_line, row, wants_colour, width_of)

LEFT, RIGHT = Line("check.failed  pump: キオスクは動いていません", YELLOW), Line("shadow 5  state: ヨシッ👉 → ダメ🙅")


def entry(event: str, level: str = "info", **fields: Any) -> str:
    return json.dumps({"time": "", "level": level, "event": event, "message": "a sentence", **fields})


@pytest.mark.parametrize("text, columns", [
    ("", 0), ("plain", 5), ("ヨシッ", 6), ("👉", 2), ("Ａ", 2), ("ｱ", 1), ("e\u0301", 1), ("→…│", 3)])
def test_a_text_is_as_wide_as_a_terminal_draws_it(text: str, columns: int) -> None:
    assert width_of(text) == columns


@pytest.mark.parametrize("text, width, shown", [
    ("abc", 5, "abc  "), ("abc", 3, "abc"), ("abcd", 3, "ab…"), ("ヨシッ", 6, "ヨシッ"), ("ヨシッ", 5, "ヨシ…"),
    ("ヨシッ", 4, "ヨ… "), ("ヨシッ", 1, "…"), ("ヨシッ", 0, ""),
    ("e\u0301e\u0301e\u0301", 2, "e\u0301…")])
def test_a_text_fills_its_columns_and_is_cut_where_it_is_longer(text: str, width: int, shown: str) -> None:
    assert fit(text, width) == shown


def test_a_text_says_nothing_to_the_terminal() -> None:
    assert fit("\033[2J\r\nb\u202e\ud800", 40).rstrip() == r"\x1b[2J\r\nb\u202e\ud800"


@pytest.mark.parametrize("width", [40, 41, 80, 120])
def test_both_sides_keep_their_columns_at_every_width(width: int) -> None:
    pairs = [(left, right) for left in (LEFT, Line("")) for right in (RIGHT, Line(""))]
    lines = [row("  1.0", left, right, width, coloured=False) for left, right in pairs]
    assert {width_of(line.split("│")[0]) for line in lines} == {6 + (width - 9) // 2 + 1}
    assert all(width_of(line) <= width for line in lines)


def test_a_row_without_colour_is_the_coloured_one_without_its_colours() -> None:
    coloured = row("  1.0", LEFT, RIGHT, 80, coloured=True)
    assert f"\033[{YELLOW}mcheck.failed" in coloured
    assert re.sub(r"\033\[\d*m", "", coloured) == row("  1.0", LEFT, RIGHT, 80, coloured=False)


def test_a_heading_fills_the_width_and_never_more() -> None:
    texts = ("a check fails", "ヨシッ👉" * 20, *("x" * length for length in range(54, 60)))
    assert {width_of(headline(text, 60)) for text in texts} == {60}
    assert headline("a check fails", 60).startswith("── a check fails ──")


def test_nothing_is_told_of_a_document_that_is_known() -> None:
    document = {"reported": {"state": "ヨシッ👉", "list": [{"a": 1}], "none": None}}
    assert changes(document, json.loads(json.dumps(document))) == []


def test_each_difference_of_two_documents_is_one_short_text() -> None:
    old = {"reported": {"state": "ヨシッ👉", "fan": 3, "gone": 1, "deep": {"same": [], "other": 1}}}
    new = {"reported": {"state": "ダメ🙅", "fan": 3, "deep": {"same": [], "other": True}}, "desired": {"fan": {"at": 4}}}
    assert changes(old, new) == [
        "- reported.gone", "reported.state: ヨシッ👉 → ダメ🙅", "reported.deep.other: 1 → true",
        "+ desired: {fan: {at: 4}}"]


def test_a_long_old_value_leaves_room_for_the_new_one() -> None:
    assert changes({"failed": [{"check": "pump"}]}, {"failed": []}) == ["failed: [{check: pu… → []"]
    assert changes({"a": "x" * 12}, {"a": ["new"]}) == ["a: xxxxxxxxxxxx → [new]"]


def test_an_object_that_becomes_a_value_is_a_difference() -> None:
    assert changes({"a": {"b": 1}}, {"a": 2}) == ["a: {b: 1} → 2"]
    assert changes({"a": 2}, {"a": {"b": 1}}) == ["a: 2 → {b: 1}"]


@pytest.mark.parametrize("written, shown", [
    (entry("session.connected", host="broker", port=1, waiting=2), "session.connected    broker, waiting 2"),
    (entry("session.disconnected", reason="silence", cause="silent", retry_in_s=1.5),
     "session.disconnected silent: silence"),
    (entry("check.failed", shadow="device_0", check="pump", value=None, reason="it is gone"),
     "check.failed         pump: it is gone"),
    (entry("desired.done", shadow="device_0", key="msg", value="こんにちは"), "desired.done         msg: こんにちは"),
    (entry("shadow.delta", shadow="device_0", version=3, state={"fan": 3, "on": True}),
     "shadow.delta         {fan: 3, on: true}"),
    (entry("outage.over", reason="closed", for_s=4.4, waiting=0), "outage.over          for_s 4.4, waiting 0"),
    (entry("presence.overruled", session="1"), "presence.overruled   a sentence")])
def test_an_entry_of_the_log_is_its_event_and_what_matters_of_it(written: str, shown: str) -> None:
    assert log_line(written) == Line(shown)


@pytest.mark.parametrize("level, style", [("info", ""), ("warning", YELLOW), ("error", RED), ("new", "")])
def test_an_entry_is_coloured_by_its_level(level: str, style: str) -> None:
    assert log_line(entry("check.failed", level)).style == style


@pytest.mark.parametrize("written", ["Traceback (most recent call last):", "[1]", "{}", '"event"', '{"event": 1', ""])
def test_what_is_no_entry_is_shown_as_it_is(written: str) -> None:
    assert log_line(written) == Line(written, RED)


def test_presence_tells_the_status_the_session_and_the_outage_that_is_over() -> None:
    body = {"Hostname": "pi", "status": "Connected", "session": "3d5e1ed4cfe34d5c", "boot": {"id": "x"}}
    assert presence_line(body).text == "presence  Connected  session 3d5e1e"
    told = presence_line({**body, "outage": {"reason": "closed", "for_s": 4.4}})
    assert told.text == "presence  Connected  session 3d5e1e, was away for 4.4 s"


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_colour_is_for_terminals_whose_user_wants_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    assert wants_colour(Terminal()) and not wants_colour(io.StringIO())
    monkeypatch.setenv("NO_COLOR", "1")
    assert not wants_colour(Terminal())


def test_the_side_with_less_to_say_is_left_blank(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "50")
    out = io.StringIO()
    Screen(out).show([Line("one")], [Line("uno"), Line("due")])
    assert out.getvalue() == "  0.0 one                  │ uno\n  0.0                      │ due\n"


def test_a_reader_who_has_gone_is_noticed() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    out = io.TextIOWrapper(io.FileIO(writer, "w"), write_through=True)
    with pytest.raises(Unwatched):
        Screen(out).announce("nobody reads this")
    with suppress(BrokenPipeError):
        out.close()
