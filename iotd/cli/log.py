"""`iotd log`: the journal of iotd's units, one line an event, for a person."""

from __future__ import annotations

import json
import os
import sys
from contextlib import closing
from datetime import datetime
from typing import Any

from iotd.host import command, log
from iotd.vocabulary import Json

UNITS = ("iotd.service", "iotd-*.service")  # the daemon, and what runs as root for it
JOURNAL = ("journalctl", "--output=json", "--all", "--no-pager", *(f"--unit={unit}" for unit in UNITS))
LAST = 500  # lines, where nobody says since when
LEVELS = {"0": "error", "1": "error", "2": "error", "3": "error", "4": "warning", "7": "debug"}


def run(options: Any) -> int:
    """Print it to the end, or as it comes. Exit status 1 where there is no journal."""
    in_colour = log.coloured(sys.stdout)
    try:
        with closing(command.lines(arguments(options))) as records:
            for record in records:
                if text := line(record, in_colour):
                    print(text, flush=options.follow)
    except BrokenPipeError:  # who reads has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except OSError as error:
        mend = "; run it as root, or let the user join its group: adduser USER systemd-journal" if os.geteuid() else ""
        print(f"the journal cannot be read: journalctl: {error.strerror}{mend}", file=sys.stderr)
        return 1
    return 0


def arguments(options: Any) -> list[str]:
    """Return the command that prints the journal, an object a line."""
    words = list(JOURNAL)
    if options.follow:
        words.append("--follow")
    if options.since:
        words.append(f"--since={options.since}")
    elif not options.follow:
        words.append(f"--lines={LAST}")
    if options.priority:
        words.append(f"--priority={'err' if options.priority == 'error' else options.priority}")
    return words


def line(record: bytes, in_colour: bool) -> str:
    """Return one record of the journal as a line, nothing for what is no record."""
    try:
        fields = json.loads(record)
        at = datetime.fromtimestamp(int(fields["__REALTIME_TIMESTAMP"]) / 1e6)
    except (ValueError, LookupError, TypeError, OverflowError, OSError, RecursionError):
        return ""
    entry = _entry(_text(fields.get("MESSAGE")))
    if entry is None:  # systemd's own words, or a traceback
        entry = {"level": LEVELS.get(str(fields.get("PRIORITY")), "info"),
                 "event": str(fields.get("SYSLOG_IDENTIFIER", "?")), "message": _text(fields.get("MESSAGE"))}
    return log.line(at, entry, in_colour, "%b %d %H:%M:%S")


def _entry(message: str) -> dict[str, Json] | None:
    """Return an entry of iotd's log, None for anything else."""
    try:
        entry = json.loads(message)
    except (ValueError, RecursionError):
        return None
    return entry if isinstance(entry, dict) and "event" in entry else None


def _text(message: Json) -> str:
    """Return the text of a message, which the journal has as a list of bytes where it is no text to it."""
    if isinstance(message, list) and all(type(byte) is int and 0 <= byte < 256 for byte in message):
        return bytes(message).decode("utf-8", "replace")
    return message if isinstance(message, str) else ""
