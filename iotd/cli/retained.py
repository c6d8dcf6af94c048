"""`iotd retained`: on which topics the broker keeps a message of this device, and to have it keep them no more."""

from __future__ import annotations

import json
import os
import sys
from datetime import datetime
from functools import partial
from typing import Any

from iotd.cli import output
from iotd.cli.load import last_accepted, places, read
from iotd.cli.socket_line import EXIT_REFUSED, Line, carried_out, told
from iotd.cli.told import printable
from iotd.cli.user import as_daemon
from iotd.config.parse import retained_topics
from iotd.daemon import retained
from iotd.errors import EXIT_FAULT, ConfigError
from iotd.host.files import Files
from iotd.vocabulary import Json


def run(options: Any) -> int:
    """List or clear. Exit status 0 listed or acknowledged, 1 refused or the line is down, 2 usage, 3 not running."""
    if options.clear is None:
        return _list(options)
    if bool(options.clear) == options.orphaned:  # no topic is empty
        print("iotd retained: --clear takes a topic, or --orphaned", file=sys.stderr)
        return 2
    return carried_out(partial(_clear, True if options.orphaned else options.clear), for_root=True)


def _list(options: Any) -> int:
    rows = as_daemon(partial(_rows, options.file, os.getcwd()))
    if isinstance(rows, str):
        output.complain(rows)
        return EXIT_FAULT
    shown = [f"{state:8}  {_day(since)}  {printable(topic)}" for topic, since, state in rows
             if state == "orphaned" or not options.orphaned]
    return 0 if not shown or output.say("\n".join(shown)) else EXIT_FAULT


def _rows(file: str, directory: str) -> list[list[Json]] | str:
    """Return each topic, since when it is retained and what it is; or why that is not known."""
    path = places().state / retained.FILE
    try:
        entries = retained.read(json.loads(Files().read_text(path)))
    except FileNotFoundError:
        return []
    except PermissionError:
        return f"{path}: Permission denied; run it as root"
    except (OSError, ValueError) as error:
        return f"{path}: {error}"
    used = _used(file, directory)
    if used is None:  # the last run has judged
        used = {topic: True for topic, entry in entries.items() if not entry.named}
    return [[topic, entry.since, "program" if entry.program else "used" if topic in used else "orphaned"]
            for topic, entry in sorted(entries.items())]


def _used(file: str, directory: str) -> dict[str, bool] | None:
    """Return what the configuration retains, the last one that was accepted where the file cannot be used."""
    try:
        return retained_topics(read(file, directory).parsed.settings)
    except ConfigError:
        last = last_accepted(file, places().state)
        return None if last is None else retained_topics(last.settings)


def _day(since: Json) -> str:
    try:
        return f"{datetime.fromtimestamp(since):%Y-%m-%d %H:%M}"
    except (TypeError, OverflowError, ValueError, OSError):
        return "time unknown    "


def _clear(topic: str | bool, line: Line) -> int:
    said = line.ask(json.dumps({"clear_retained": topic}).encode() + b"\n")
    cleared = said.get("cleared")
    for name in cleared if isinstance(cleared, list) else ():
        output.say(f"cleared {printable(name)}")
    why = told(said)
    if why:
        print(f"iotd retained: {printable(why)}", file=sys.stderr)
    return EXIT_REFUSED if why else 0
