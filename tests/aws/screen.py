"""What the demonstration shows: on the left what the device says and does, on the right what the cloud holds.

All but `Screen` are functions of what is to be shown. Every text comes from elsewhere, so nothing in it that is not
printable reaches the terminal.
"""

from __future__ import annotations

import json
import os
import shutil
import time
import unicodedata
from itertools import zip_longest
from typing import Any, NamedTuple, Sequence, TextIO

PLAIN, BOLD, DIM, RED, GREEN, YELLOW, BLUE, MAGENTA = "", "1", "2", "31", "32", "33", "34", "35"

DEFAULT_WIDTH = 120
CLOCK_WIDTH = 6
SEPARATOR = " │ "
EVENT_WIDTH = 20
LABEL_WIDTH = 9
OLD_VALUE_WIDTH = 12  # an old value is only a reminder: the new one has to fit beside it

# The fields of a log entry that say most, those first; a line has room for two.
MATTERS = ("thing", "host", "check", "key", "cause", "state", "topic", "payload", "for_s", "waiting", "reason", "value")
STYLES = {"debug": DIM, "warning": YELLOW, "error": RED}


class Line(NamedTuple):
    """One line of one side, and how it is coloured where there is colour."""

    text: str
    style: str = PLAIN


NOTHING = Line("")


def width_of(text: str) -> int:
    """Return how many columns of a terminal a printable text takes."""
    return sum(_columns(character) for character in text)


def fit(text: str, width: int) -> str:
    """Return the text made printable, in exactly `width` columns: cut with … where it is longer, else filled up."""
    text = printable(text)
    if (columns := width_of(text)) <= width:
        return text + " " * (width - columns)
    if width < 1:
        return ""
    kept, columns = "", 0
    for character in text:
        if columns + _columns(character) > width - 1:
            break
        kept += character
        columns += _columns(character)
    return kept + "…" + " " * (width - 1 - columns)


def printable(text: str) -> str:
    """Return the text with an escape for all that would move the cursor, change colours or show nothing."""
    return "".join(
        character if character.isprintable() else character.encode("unicode_escape").decode() for character in text)


def brief(value: Any) -> str:
    """Return a JSON value as text for a person: JSON without its quotes."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key}: {brief(inner)}" for key, inner in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(brief, value)) + "]"
    return value if isinstance(value, str) else json.dumps(value)


def changes(old: dict[str, Any], new: dict[str, Any], path: str = "") -> list[str]:
    """Return what has to be told of a document to one who knows the old one, a short text for each difference."""
    found = [f"- {path}{key}" for key in old if key not in new]
    for key, value in new.items():
        if key not in old:
            found.append(f"+ {path}{key}: {brief(value)}")
        elif isinstance(value, dict) and isinstance(old[key], dict):
            found += changes(old[key], value, f"{path}{key}.")
        elif json.dumps(value) != json.dumps(old[key]):  # to Python 1, 1.0 and true are equal
            before = brief(old[key])
            before = before if width_of(before) <= OLD_VALUE_WIDTH else fit(before, OLD_VALUE_WIDTH).rstrip()
            found.append(f"{path}{key}: {before} → {brief(value)}")
    return found


def labelled(label: str, texts: Sequence[str], style: str = PLAIN) -> list[Line]:
    """Return the texts below each other, the first behind its label."""
    return [Line(f"{'' if index else label:{LABEL_WIDTH}} {text}", style) for index, text in enumerate(texts)]


def log_line(text: str) -> Line:
    """Return a line of iotd's JSON log as its event and the one or two fields that say most; any other as it is."""
    try:
        entry = json.loads(text)
        event, style = entry["event"], STYLES.get(entry["level"], PLAIN)
    except (ValueError, TypeError, KeyError):
        return Line(text, RED)
    said = ""
    for name in [name for name in MATTERS if entry.get(name) is not None][:2]:
        is_number = isinstance(entry[name], (int, float))  # which says nothing without its name
        said += (", " if is_number else ": ") if said else ""
        said += f"{name} {entry[name]}" if is_number else brief(entry[name])
    return Line(f"{event:{EVENT_WIDTH}} {said or entry.get('message', '')}", style)


def presence_line(body: dict[str, Any]) -> Line:
    """Return a presence message as its status, the connection that it speaks of, and the outage that is over."""
    outage = body.get("outage") or {}
    text = f"{body.get('status')}  session {str(body.get('session'))[:6]}"
    text += f", was away for {outage['for_s']} s" if "for_s" in outage else ""
    style = {"Connected": GREEN, "Communication lost": RED}.get(str(body.get("status")), YELLOW)
    return labelled("presence", [text], style)[0]


def row(clock: str, left: Line, right: Line, width: int, coloured: bool) -> str:
    """Return one line of two columns, no wider than the terminal."""
    inner = max(2, width - CLOCK_WIDTH - len(SEPARATOR))
    left_width = inner // 2
    cells = [(f"{clock:{CLOCK_WIDTH}}", DIM), (fit(left.text, left_width), left.style), (SEPARATOR, DIM),
             (fit(right.text, inner - left_width).rstrip(), right.style)]
    if coloured:
        return "".join(paint(text, style) for text, style in cells)
    return "".join(text for text, style in cells).rstrip()


def headline(text: str, width: int) -> str:
    """Return the line that announces a scene."""
    text = printable(text)
    rest = width - len("── ") - width_of(text)
    return f"── {text} {'─' * (rest - 1)}" if rest > 0 else f"── {fit(text, width - len('── '))}"


def paint(text: str, style: str) -> str:
    """Return the text in a style (the numbers of ECMA-48's SGR)."""
    return f"\033[{style}m{text}\033[0m" if style and text.strip() else text


def wants_colour(out: TextIO) -> bool:
    """Tell whether to colour: on a terminal, unless the user wants none (no-color.org)."""
    return out.isatty() and not os.environ.get("NO_COLOR")


class Unwatched(Exception):
    """Whoever read what is printed has gone, as `| head` and a closed terminal do."""


class Screen:
    """Prints rows and headings, as wide as the terminal is at that moment, with the seconds since it was made."""

    def __init__(self, out: TextIO) -> None:
        self._out = out
        self._coloured = wants_colour(out)
        self._began_at = time.monotonic()

    def announce(self, text: str) -> None:
        """Begin a scene."""
        line = headline(text, _width())
        self._print("\n" + (paint(line, BOLD) if self._coloured else line))

    def show(self, left: Sequence[Line], right: Sequence[Line]) -> None:
        """Print what has come on both sides at about the same time."""
        clock = f"{time.monotonic() - self._began_at:5.1f}"
        for lines in zip_longest(left, right, fillvalue=NOTHING):
            self._print(row(clock, *lines, _width(), self._coloured))

    def conclude(self, text: str, style: str) -> None:
        """Print a sentence in full."""
        self._print(paint(text, style) if self._coloured else text)

    def _print(self, text: str) -> None:
        try:
            print(text, file=self._out, flush=True)
        except OSError as error:
            raise Unwatched from error


def _width() -> int:
    return shutil.get_terminal_size((DEFAULT_WIDTH, 24)).columns


def _columns(character: str) -> int:
    if unicodedata.category(character) in ("Mn", "Me"):  # stands upon the one before it
        return 0
    return 2 if unicodedata.east_asian_width(character) in "WF" else 1
