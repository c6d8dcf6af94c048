"""What the running daemon tells of itself, in status.json: input like any other, whatever wrote it."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from iotd.host.clock import uptime_s
from iotd.host.files import Files
from iotd.vocabulary import Json

STALE_S = 60.0
LONGEST = 400  # characters of a sentence


class Told(NamedTuple):
    """The status, its age, and whether its process is still there."""

    status: dict[str, Json]
    age_s: float
    lives: bool

    @property
    def stale(self) -> bool:
        """Whether it says nothing of how things are now."""
        return not self.lives or not 0 <= self.age_s <= STALE_S


def read(runtime: Path) -> Told | None:
    """Return what status.json says, None where there is none, or one that makes no sense."""
    status = Files().read_json(runtime / "status.json")
    if not isinstance(status, dict):
        return None
    written_s, pid = status.get("written_s"), status.get("pid")
    if not isinstance(written_s, (int, float)) or type(pid) is not int or not pid > 0:
        return None
    return Told(status, round(uptime_s() - written_s, 1), Path(f"/proc/{pid}").exists())


def printable(text: object) -> str:
    """Return what a broker, a resolver or a file has said as text that starts no line and commands no terminal."""
    return "".join(character if character.isprintable() else "\N{REPLACEMENT CHARACTER}"
                   for character in str(text)[:LONGEST])


def sentences(told: object) -> list[str]:
    """Return a list of the status' as such texts, nothing for what is no list."""
    return [printable(text) for text in told[:200]] if isinstance(told, list) else []


def object_of(told: object) -> dict[str, Json]:
    """Return an object of the status', an empty one for what is none."""
    return told if isinstance(told, dict) else {}


def lasting(seconds: object) -> str:
    """Return a time in words, as two units at most."""
    if not isinstance(seconds, (int, float)) or not 0 <= seconds < 1e10:
        return "an unknown time"
    minutes, left_s = divmod(round(seconds), 60)
    hours, left_min = divmod(minutes, 60)
    days, left_h = divmod(hours, 24)
    words = [(days, "d"), (left_h, "h"), (left_min, "min"), (left_s, "s")]
    while len(words) > 1 and not words[0][0]:
        words.pop(0)
    return " ".join(f"{count} {unit}" for count, unit in words[:2] if count) or "0 s"
