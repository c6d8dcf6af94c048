"""What the spool has to say: which messages had to go, and which of its files fail. Each is told where it turns."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable

from iotd.host import log

REPORT_S = 600.0  # what is dropped is reported at once, then counted for so long


class Drops:
    """The messages that had to go, counted by topic in `counts` over the whole run."""

    def __init__(self, now: float) -> None:
        self.counts: Counter[str] = Counter()
        self._unreported: Counter[tuple[str, str]] = Counter()
        self._report_at = now

    def add(self, reason: str, rows: Iterable[tuple[int, str]]) -> None:
        """Count these, given by id and topic."""
        for _, topic in rows:
            self.counts[topic] += 1
            self._unreported[topic, reason] += 1

    def report_at(self) -> float:
        """Return when there is something to report, math.inf where there is nothing."""
        return self._report_at if self._unreported else math.inf

    def report(self, now: float, at_once: bool = False) -> None:
        """Report what is due."""
        if self._unreported and (at_once or now >= self._report_at):
            self._report_at = now + REPORT_S
            for (topic, reason), count in self._unreported.items():
                log.warning("spool.dropped", "the oldest messages had to go", topic=topic, count=count, reason=reason)
            self._unreported.clear()


class Failures:
    """The files that fail, by their paths, with why."""

    def __init__(self) -> None:
        self._whys: dict[str, str] = {}

    def __contains__(self, path: str) -> bool:
        return path in self._whys

    def __bool__(self) -> bool:
        return bool(self._whys)

    def sentences(self) -> list[str]:
        """Return what is wrong, a sentence each."""
        return list(self._whys.values())

    def begin(self, path: str, why: str) -> None:
        """The file fails."""
        if self._whys.get(path) != why:
            self._whys[path] = why
            log.error("spool.failed", "the spool cannot write; messages are kept where they can be, and it tries again",
                      path=path, reason=why)

    def end(self, path: str) -> None:
        """It is well again."""
        del self._whys[path]
        log.info("spool.restored", "the spool can write again", path=path)
