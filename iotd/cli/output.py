"""What a command prints: also to a full disk, to a reader that has gone, or where nobody knows UTF-8."""

from __future__ import annotations

import io
import os
import sys
from typing import TextIO


def prepare() -> None:
    """Have every text printed somehow: a name that the locale cannot show is escaped."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def say(text: str) -> bool:
    """Print a line; return whether it could be written, which stderr is told where it could not."""
    try:
        print(text, flush=True)
    except OSError as error:
        give_up(error)
        return False
    return True


def say_json(text: str) -> bool:
    """Print a line of JSON, which is UTF-8 in every locale; return whether it could be written."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(encoding="utf-8")
    return say(text)


def complain(text: str) -> None:
    """Print a line on stderr, where that can be done."""
    if sys.stderr is not None:  # print() would take stdout instead
        try:
            print(text, file=sys.stderr, flush=True)
        except OSError:
            _to_nowhere(sys.stderr)


def flushed() -> bool:
    """Have what others have printed written; return whether stdout could be, as `say` does."""
    try:
        if sys.stdout is not None:
            sys.stdout.flush()
    except OSError as error:
        give_up(error)
        return False
    return True


def give_up(error: OSError) -> None:
    """Say on stderr why stdout cannot be written, and write nothing more to it."""
    complain(f"iotd: cannot write to stdout: {error.strerror}")
    _to_nowhere(sys.stdout)


def _to_nowhere(stream: TextIO) -> None:
    """Drop what is left: else Python tries once more at its end, and fails with an exit status of its own."""
    nowhere = os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC)
    os.dup2(nowhere, stream.fileno())
    os.close(nowhere)
