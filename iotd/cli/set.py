"""`iotd set`: tell the running daemon a value."""

from __future__ import annotations

import json
import sys
from argparse import ArgumentParser
from functools import partial
from typing import Any

from iotd.cli.socket_line import EXIT_REFUSED, Line, carried_out, told


def arguments(parser: ArgumentParser) -> None:
    """Say what the command takes."""
    parser.add_argument("name", metavar="NAME")
    parser.add_argument("value", metavar="VALUE", help="JSON, or else text")


def run(options: Any) -> int:
    """Tell the value; exit status 0 taken, 1 refused, 3 not running."""
    return carried_out(partial(_set, options))


def _set(options: Any, line: Line) -> int:
    try:
        value = json.loads(options.value)
        json.dumps(value, allow_nan=False)
    except (ValueError, RecursionError):
        value = options.value
    why = told(line.ask(json.dumps({"set": options.name, "value": value}).encode() + b"\n"))
    if why:
        print(f"iotd set: {why}", file=sys.stderr)
    return EXIT_REFUSED if why else 0
