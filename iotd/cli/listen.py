"""`iotd listen`: print the messages that come in."""

from __future__ import annotations

import json
import re
import sys
from argparse import ArgumentParser, ArgumentTypeError
from functools import partial
from typing import Any

from iotd.cli.socket_line import EXIT_NOT_RUNNING, Line, NoLine, answer, carried_out, told


def arguments(parser: ArgumentParser) -> None:
    """Say what the command takes."""
    parser.add_argument("filter", metavar="FILTER", nargs="?",
                        help="of what the configuration subscribes; default: all of it")
    parser.add_argument("--count", type=_count, metavar="N", help="end after so many messages")


def run(options: Any) -> int:
    """Print each message as a line of JSON; exit status 0 after `--count` of them, else 3."""
    return carried_out(partial(_listen, options))


def _count(text: str) -> int:
    if not re.fullmatch("[1-9][0-9]{0,17}", text):
        raise ArgumentTypeError(f"expected a number from 1 on, found {text!r}")
    return int(text)


def _listen(options: Any, line: Line) -> int:
    left = options.count
    while True:
        _begin(line, options.filter)
        while (lines := line.read()) is not None:
            for said in lines:
                message = answer(said)
                if "topic" in message:
                    print(said.decode("utf-8"), flush=True)
                    left = left and left - 1
                    if left == 0:
                        return 0
                elif "lost" in message:
                    print(f"iotd listen: {message['lost']} messages were lost; they came faster than they were read",
                          file=sys.stderr)
                elif why := told(message):
                    raise NoLine(f"iotd listen: {why}", EXIT_NOT_RUNNING)
        line.again()


def _begin(line: Line, filter: str | None) -> None:
    """Ask for the messages."""
    filters = [filter] if filter is not None else line.ask(b'{"status": true}\n').get("listen", [])
    if not filters:
        raise NoLine("iotd listen: the configuration subscribes nothing")
    try:
        line.socket.sendall(b"".join(json.dumps({"listen": name}).encode() + b"\n" for name in filters))
    except ConnectionError:
        pass  # it has just gone, which reading will tell
