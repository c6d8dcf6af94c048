"""What the main thread has the thread of the programs do."""

from typing import NamedTuple


class Answer(NamedTuple):
    """The lines that answer what was asked. `hold`: read no more of this connection until `Release`."""

    connection: int
    lines: bytes
    hold: bool = False
    listens: bool = False


class Heard(NamedTuple):
    """A message for those who listen, as a line; one who does not read loses it."""

    connections: tuple[int, ...]
    line: bytes


class Release(NamedTuple):
    """Read on where reading was held."""
