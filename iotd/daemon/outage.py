"""The time without a line, and the boots that iotd asked for: how long it was, and why, what was tried, what dropped;
and in which layer (of `iotd doctor`) its cause lies.

A reboot of ours takes the outage along in `last_reboot.json`, so that the boot that comes of it tells the whole.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from iotd.host import log
from iotd.host.files import Files


# Where a line ends, or does not come up, by the cause of that.
LAYERS = {"dns": "dns", "tcp": "tcp", "proxy": "tcp", "silent": "tcp", "network": "tcp", "tls": "tls",
          "certificate": "tls", "clock": "clock"}
AT_THE_BROKER = "mqtt"  # every other cause

# Who says in which layer the cause lies; the later ones know more.
BY_THE_STEP, BY_A_PART, BY_A_VERDICT = range(3)


class Outage(NamedTuple):
    """What can be told of a time without a line: why and how long it was, the steps taken, the messages dropped, and
    the layer in which its cause lies.
    """

    reason: str
    for_s: float
    tried: dict[str, int]
    dropped: int
    layer: str | None = None


class Legacy(NamedTuple):
    """What a boot (`asked_in`) leaves behind before its reboot: why, and the outage until then.

    `into` is the boot that came of it, empty until that has read it; `told` says that its outage was reported.
    """

    asked_in: str
    reason: str
    outage: Outage
    into: str = ""
    told: bool = False

    def to_json(self) -> str:
        """Return it as one JSON object, for `from_json`."""
        return json.dumps({**self._asdict(), "outage": self.outage._asdict()}, ensure_ascii=False)

    @classmethod
    def from_json(cls, body: Any) -> Legacy:
        """Return what `to_json` wrote, once parsed; raises ValueError for anything that it cannot have written."""
        try:
            fields: dict[str, Any] = {**body, "outage": Outage(**body["outage"])}
            legacy = cls(**fields)
        except (TypeError, KeyError) as error:
            raise ValueError(f"no legacy of a reboot: {error}") from None
        outage = legacy.outage
        numbers = (outage.for_s, outage.dropped, *(outage.tried.values() if isinstance(outage.tried, dict) else "?"))
        texts = (legacy.asked_in, legacy.reason, legacy.into, outage.reason)
        if not (all(isinstance(text, str) for text in texts) and isinstance(outage.layer, (str, type(None)))
                and all(isinstance(some, (int, float)) for some in numbers)
                and isinstance(legacy.told, bool)):
            raise ValueError("no legacy of a reboot: a value is of the wrong type")
        return legacy


class Outages:
    """The outage that lasts, from the start of the run or the fall of the line until Connected is acknowledged.

    `dropped` is how many messages this run has dropped so far, `last` the last outage that is over. `uptime` gives
    the host's, in seconds.
    """

    def __init__(self, state: Path, files: Files, boot_id: str, uptime: Callable[[], float], now: float) -> None:
        self.dropped = 0
        self.last: Outage | None = None
        self._file = state / "last_reboot.json"
        self._files = files
        self._boot_id = boot_id
        self._uptime = uptime
        self._tried: Counter[str] = Counter()
        self._fell: tuple[float, str, int] | None = (now, "", 0)  # since when, why, dropped until then
        self._blamed: tuple[int, str | None] = (BY_THE_STEP, None)
        self._legacy = self._inherited()
        self._has_left = False  # for a next boot, which may not come

    @property
    def boot_cause(self) -> str:
        """Why this boot came, as far as iotd knows."""
        return self.asked_for or "not asked for by iotd"

    @property
    def asked_for(self) -> str:
        """Why iotd has asked for the reboot that this boot came of, empty where it has not."""
        return f"iotd: {self._legacy.reason}" if self._legacy else ""

    @property
    def since(self) -> float | None:
        """Since when there is no line, None where the last outage is over and told."""
        return None if self._fell is None else self._fell[0]

    @property
    def layer(self) -> str | None:
        """The layer in which its cause lies, as far as is known."""
        return self._blamed[1]

    def failed(self, cause: str, layer: str = "") -> None:
        """The line has ended, or has not come up, for this cause; it lies in `layer`, where that is known better."""
        self._blame(BY_THE_STEP, layer or LAYERS.get(cause, AT_THE_BROKER))

    def explained(self, layer: str) -> None:
        """A part knows that its layer is in the way of any line."""
        self._blame(BY_A_PART, layer)

    def judged(self, layer: str) -> None:
        """All that is known was judged."""
        self._blame(BY_A_VERDICT, layer)

    def began(self, reason: str, now: float) -> None:
        """The line has fallen."""
        self._fell = self._fell or (now, reason, self.dropped)

    def tried(self, step: str) -> None:
        """A step was taken against it."""
        self._tried[step] += 1

    def mended(self) -> None:
        """All is well, and the line was never lost: what was tried belongs to no outage of it."""
        self._tried.clear()
        self._blamed = BY_THE_STEP, None

    def until(self, now: float, reason: str) -> Outage:
        """Return the outage until now; `reason` stands in where none was known at its beginning.

        It has an earlier boot's part in it, if this one came of a reboot that was asked for in the same outage.
        """
        fell_at, why, dropped = self._fell or (now, "", self.dropped)
        outage = Outage(why or reason, round(now - fell_at, 1), dict(self._tried), self.dropped - dropped,
                        self.layer)
        earlier = self._legacy.outage if self._legacy and not self._legacy.told else None
        if earlier is None:
            return outage
        return Outage(earlier.reason, round(earlier.for_s + self._uptime(), 1),
                      dict(self._tried + Counter(earlier.tried)), earlier.dropped + outage.dropped,
                      self.layer or earlier.layer)

    def told(self) -> None:
        """The outage is over and reported: nothing is tried, and what an earlier boot left is told."""
        self._fell = None
        self._tried.clear()
        self._blamed = BY_THE_STEP, None
        if self._has_left:  # and the line is up again: a power cut some day would be taken for that reboot
            self._has_left = False
            self._files.remove(self._file)
        if self._legacy and not self._legacy.told:
            self._legacy = self._legacy._replace(told=True)
            self._write(self._legacy)

    def leave(self, reason: str, outage: Outage) -> None:
        """Write down, before a reboot, why it comes and the outage so far, for the next boot to tell."""
        self._has_left = True
        self._write(Legacy(self._boot_id, reason, outage))

    def _blame(self, by: int, layer: str) -> None:
        if by >= self._blamed[0]:
            self._blamed = by, layer

    def _inherited(self) -> Legacy | None:
        """Return what the boot before this one left, None where this boot did not come of a reboot of ours.

        It is marked as this boot's at once: a later boot that comes of a power cut must not claim it.
        """
        try:
            legacy = Legacy.from_json(self._files.read_json(self._file))
        except ValueError:
            return None
        if legacy.asked_in == self._boot_id or legacy.into not in ("", self._boot_id):
            return None
        if not legacy.into:
            legacy = legacy._replace(into=self._boot_id)
            if not self._write(legacy):
                self._files.remove(self._file)
        return legacy

    def _write(self, legacy: Legacy) -> bool:
        """Write it down; tell whether that was done."""
        try:
            self._files.write_text(self._file, legacy.to_json(), durable=True)
        except OSError as error:
            log.error("recovery.failed", "why this boot ends cannot be written down; the next will not tell",
                      action="reboot", reason=str(error))
            return False
        return True
