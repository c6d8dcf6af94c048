"""Structured logs on stdout: one JSON object a line, or text for a person at a terminal.

Everything is written by the calling thread, at once. Under journald each line is led by its `<N>` priority
(sd-daemon(3)), which journald takes off again.
"""

from __future__ import annotations

import base64
import io
import json
import logging
import os
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from datetime import datetime, timezone
from functools import partial
from typing import Any, NoReturn, TextIO

from iotd.vocabulary import Entry

try:
    from pythonjsonlogger.json import JsonFormatter  # 3.1 and newer: Debian 13
except ImportError:
    from pythonjsonlogger.jsonlogger import JsonFormatter  # 2.x: Debian 12

LEVELS = {"debug": logging.DEBUG, "info": logging.INFO, "warning": logging.WARNING, "error": logging.ERROR}
_PRIORITIES = {logging.DEBUG: 7, logging.INFO: 6, logging.WARNING: 4, logging.ERROR: 3}

_COLOURS = {"debug": "\x1b[2m", "warning": "\x1b[33m", "error": "\x1b[31m"}
_PLAIN = "\x1b[0m"

# journald cuts a line at LineMax=48K (journald.conf(5)), and half a JSON object parses nowhere.
MAX_LINE_BYTES = 40_000

_logger = logging.getLogger("iotd")
_wall: Callable[[], float] = time.time


def start(level: str, form: str, under_journald: bool, stream: TextIO | None = None,
          wall: Callable[[], float] = time.time) -> None:
    """Send every entry at or above `level` to `stream` (stdout), as `json` or `text`. May be called again.

    `wall` tells the epoch seconds of an entry.
    """
    global _wall
    _wall = wall
    stream = stream or sys.stdout
    if isinstance(stream, io.TextIOWrapper):
        # UTF-8 in every locale; and what half a surrogate pair becomes here is just how JSON escapes it.
        stream.reconfigure(encoding="utf-8", errors="backslashreplace")
    handler = _Handler(stream)
    handler.setFormatter(_Text(coloured(stream)) if form == "text" else _Json(under_journald))
    _logger.handlers = [handler]
    _logger.setLevel(LEVELS[level])
    _logger.propagate = False


def coloured(stream: TextIO) -> bool:
    """Tell whether text on this stream is for a terminal that shows colours (no-color.org)."""
    return stream.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def line(at: datetime, entry: Mapping[str, Any], in_colour: bool = False, form: str = "%H:%M:%S.%f") -> str:
    """Return an entry as a line for a person: `12:00:00.123 WARNING session.disconnected: message [key=value …]`.

    What the message says already is not said again in a field. Nothing in an entry starts a line of its own.
    """
    fields = {name: value for name, value in entry.items() if name not in ("time", "level", "event", "message")}
    level, message = _worded(entry.get("level", "info")), _worded(entry.get("message", ""))
    rest = " ".join(f"{_worded(name)}={_worded(value)}" for name, value in fields.items()
                    if not (isinstance(value, str) and len(value) > 2 and _worded(value) in message))
    clock = at.strftime(form)[:-3] if form.endswith("%f") else at.strftime(form)
    text = f"{level.upper():7} {_worded(entry.get('event', ''))}: {message}" + (f" [{rest}]" if rest else "")
    before, after = (_COLOURS.get(level, ""), _PLAIN) if in_colour and level in _COLOURS else ("", "")
    return f"{clock} {before}{text}{after}"


def is_journal() -> bool:
    """Tell whether stdout is the stream to the journal that systemd has opened (systemd.exec(5) JOURNAL_STREAM)."""
    try:
        stdout = os.fstat(1)
    except OSError:  # closed
        return False
    return os.environ.get("JOURNAL_STREAM") == f"{stdout.st_dev}:{stdout.st_ino}"


def enabled(level: int) -> bool:
    """Tell whether an entry of this level would be written, for those that are dear to make."""
    return _logger.isEnabledFor(level)


def write(entry: Entry) -> None:
    """Write one entry."""
    if _logger.isEnabledFor(entry.level):
        record = logging.LogRecord("iotd", entry.level, "", 0, "", None, None)
        record.created = _wall()
        vars(record)["fields"] = {"event": entry.event, "message": entry.message, **entry.fields}
        _logger.handle(record)


def info(event: str, message: str, **fields: Any) -> None:
    """Write an entry of level info."""
    write(Entry(logging.INFO, event, message, fields))


def warning(event: str, message: str, **fields: Any) -> None:
    """Write an entry of level warning."""
    write(Entry(logging.WARNING, event, message, fields))


def error(event: str, message: str, **fields: Any) -> None:
    """Write an entry of level error."""
    write(Entry(logging.ERROR, event, message, fields))


def readable(payload: bytes) -> dict[str, Any]:
    """Return the payload of a message as a field: parsed JSON, else text, else base64 in `payload_base64`."""
    try:
        text = payload.decode("utf-8")
    except UnicodeDecodeError:
        return {"payload_base64": base64.b64encode(payload).decode("ascii")}
    try:
        return {"payload": json.loads(text, parse_constant=_no_json)}
    except (ValueError, RecursionError):
        return {"payload": text}


def _no_json(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is no JSON")


def _stamp(record: logging.LogRecord) -> str:
    at = datetime.fromtimestamp(record.created, timezone.utc)
    return at.strftime("%Y-%m-%dT%H:%M:%S.") + f"{at.microsecond // 1000:03d}Z"


class _Handler(logging.StreamHandler[TextIO]):
    """A stream that may fail: a full disk or a reader that has gone ends nothing, and is told once on stderr."""

    _told = False

    def handleError(self, record: logging.LogRecord) -> None:
        """Take an exception that came of writing the record."""
        error = sys.exc_info()[1]
        if not isinstance(error, OSError):
            super().handleError(record)
        elif not self._told and sys.stderr is not None:
            self._told = True
            with suppress(OSError):
                print(f"iotd: the log cannot be written: {error.strerror}; iotd goes on without it", file=sys.stderr)


class _Json(JsonFormatter):  # type: ignore[misc]
    """time, level, event and message first, then the event's own fields."""

    def __init__(self, under_journald: bool) -> None:
        super().__init__(json_ensure_ascii=False, json_default=str, validate=False,  # there is no format of ours
                         json_serializer=partial(json.dumps, allow_nan=False))
        self._under_journald = under_journald

    def add_fields(self, log_record: dict[str, Any], record: logging.LogRecord, message_dict: dict[str, Any]) -> None:
        """Fill the object that becomes the line."""
        log_record["time"] = _stamp(record)
        log_record["level"] = record.levelname.lower()
        log_record.update(vars(record)["fields"])

    def format(self, record: logging.LogRecord) -> str:
        """Return the line, led by its priority under journald."""
        try:
            written: str = super().format(record)
        except (ValueError, RecursionError):  # a number beyond JSON's, or nested deeper than can be followed from here
            vars(record)["fields"] = {name: _flat(value) for name, value in vars(record)["fields"].items()}
            written = super().format(record)
        if len(written) > MAX_LINE_BYTES // 4 and len(written.encode("utf-8", "backslashreplace")) > MAX_LINE_BYTES:
            vars(record)["fields"] = _shortened(vars(record)["fields"])
            written = super().format(record)
        return f"<{_PRIORITIES[record.levelno]}>{written}" if self._under_journald else written


def _flat(value: Any) -> Any:
    """Return a value that can be written whatever it is, most of them as text."""
    if value is None or isinstance(value, (str, int)):
        return value
    try:
        return repr(value)
    except RecursionError:
        return "(nested too deep to be shown)"


def _shortened(fields: dict[str, Any]) -> dict[str, Any]:
    """Return the fields with each value cut so that all of them fit a line; a cut one is text and says so."""
    most = MAX_LINE_BYTES // (8 * len(fields))
    short = {}
    for name, value in fields.items():
        text = str(_flat(value))
        short[name] = value if len(text) <= most else text[:most] + f"… ({len(text)} characters)"
    return short


class _Text(logging.Formatter):
    """A line for a person, in local time."""

    def __init__(self, in_colour: bool) -> None:
        super().__init__()
        self._in_colour = in_colour

    def format(self, record: logging.LogRecord) -> str:
        entry = {"level": record.levelname.lower(), **vars(record)["fields"]}
        return line(datetime.fromtimestamp(record.created), entry, self._in_colour)


def _worded(value: Any) -> str:
    """Return the value as text that starts no line of its own and says nothing to the terminal."""
    try:
        text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
    except RecursionError:
        text = _flat(value)
    return text if text.isprintable() else ascii(text)
