"""The errors that iotd raises on purpose; their text is written for the person who can mend the cause."""

from collections.abc import Iterable
from typing import NamedTuple

EXIT_FAULT = 1
EXIT_USAGE = 2
EXIT_CONFIG = 78  # sysexits.h EX_CONFIG; iotd.service does not restart on it


class Problem(NamedTuple):
    """One thing wrong with the configuration: where it stands, what is wrong and what would be right.

    `line` counts from 1; 0 where there is no line (a file that cannot be read). `file` is empty where it is the
    configuration file itself, and not one that lies on top of it.
    """

    line: int
    key: str
    text: str
    file: str = ""

    def render(self, file: str, kind: str = "") -> str:
        """Return the one line that `iotd check` prints: `FILE:LINE: KEY.PATH: text`, the `kind` before the key."""
        place = f"{self.file or file}:{self.line}" if self.line else self.file or file
        return f"{place}: {kind}{self.key}: {self.text}" if self.key else f"{place}: {kind}{self.text}"


def nearest(word: str, known: Iterable[str]) -> str | None:
    """Return the one of `known` that was probably meant, None where none is near."""
    from difflib import get_close_matches  # only a mistake needs it

    names = list(known)
    return next(iter(get_close_matches(word, names, n=1) or get_close_matches(word.lower(), names, n=1)), None)


class ConfigError(Exception):
    """The configuration cannot be used; `problems` names everything wrong with it, sorted by file and line."""

    def __init__(self, file: str, problems: list[Problem]) -> None:
        super().__init__(f"{file}: {len(problems)} problem(s)")
        self.file = file
        self.problems = sorted(problems, key=lambda problem: (problem.file, problem))

    def lines(self) -> list[str]:
        """Return the problems as `iotd check` prints them."""
        return [problem.render(self.file) for problem in self.problems]
