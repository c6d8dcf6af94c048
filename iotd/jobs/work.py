"""Runs what a job has iotd's own user do: a command, on a thread of its own, with an end to every wait."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from typing import Any, NamedTuple

from iotd.host.command import KEEP_BYTES, last_line, run
from iotd.jobs.execution import Outcome

PROGRESS = re.compile(r"progress:\s*([0-9]{1,3})\s*%?\s*")
PROGRESS_EVERY_S = 1.0
MAX_LINE = 200
UPDATES = ("apt-get", "--simulate", "--quiet=2", "-o", "Debug::NoLocking=true", "dist-upgrade")
UPDATES_TIMEOUT_S = 300.0


class Order(NamedTuple):
    """A command; `given` is its standard input. `secret`: what it writes is not told."""

    key: str
    arguments: tuple[str, ...]
    timeout_s: float
    given: bytes = b""


class Progressed(NamedTuple):
    """The handler of this step has said how far it is, in percent."""

    key: str
    percent: str


class Finished(NamedTuple):
    """The step with this key has ended; `traceback` is that of a bug in iotd."""

    key: str
    outcome: Outcome
    traceback: str = ""


def perform(order: Order, post: Callable[[Any], None], stop: int | None) -> Finished:
    """Run the command and say how it ended; `stop` readable means give up."""
    output = _Output(order.key, post)
    ended = run(order.arguments, order.timeout_s, stop, given=order.given, apart=True, heard=output.heard)
    details = {"exit_status": ended.status, "stderr": ended.output, "stdout": output.end()}
    return Finished(order.key, Outcome(not ended.reason, ended.reason, details))


class Counted(NamedTuple):
    """How many packages apt would upgrade now, None where it does not say."""

    number: int | None


def count_updates(stop: int | None) -> Counted:
    """Ask apt, of the lists that it has: nothing is fetched, and no lock taken."""
    output = _Lines(b"Inst ")
    ended = run(UPDATES, UPDATES_TIMEOUT_S, stop, apart=True, heard=output.heard)
    return Counted(None if ended.reason else output.number)


def faulty(order: Order, text: str) -> Finished:
    """Return how a command has ended that ended in a bug; `text` is its traceback."""
    return Finished(order.key, Outcome(False, f"a bug in iotd: {last_line(text)}"), text)


class _Lines:
    """The number of lines that begin in one way."""

    def __init__(self, beginning: bytes) -> None:
        self.number = 0
        self._beginning = b"\n" + beginning
        self._end = b"\n"

    def heard(self, data: bytes) -> None:
        """Take what was written, as it comes."""
        text = self._end + data
        self.number += text.count(self._beginning)
        self._end = text[1 - len(self._beginning):]


class _Output:
    """What a handler writes: its end is kept, and the lines that tell of progress are passed on."""

    def __init__(self, key: str, post: Callable[[Any], None]) -> None:
        self._key = key
        self._post = post
        self._kept = b""
        self._line = b""
        self._told = ""
        self._told_at = 0.0

    def heard(self, data: bytes) -> None:
        """Take what was written, as it comes."""
        self._kept = (self._kept + data)[-KEEP_BYTES:]
        *lines, self._line = (self._line + data).split(b"\n")
        self._line = self._line[:MAX_LINE]
        for line in lines:
            found = PROGRESS.fullmatch(line[:MAX_LINE].decode("utf-8", "replace"))
            if found and int(found[1]) <= 100:
                self._tell(str(int(found[1])))

    def end(self) -> str:
        """Return the end of it, without the lines that tell of progress."""
        lines = self._kept.decode("utf-8", "replace").splitlines()
        return "\n".join(line for line in lines if not PROGRESS.fullmatch(line))

    def _tell(self, percent: str) -> None:
        now = time.monotonic()
        if percent != self._told and now >= self._told_at + PROGRESS_EVERY_S:
            self._told, self._told_at = percent, now
            self._post(Progressed(self._key, percent))
