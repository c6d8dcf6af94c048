"""When the certificate is renewed, by its end or by its age, and how often that is tried. Pure.

AWS's own certificates end in 2049, so that those are renewed by age or on demand alone.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

PAUSE_S = 3600.0
PART_OF_LIFE = 0.1


class Moment(NamedTuple):
    """A time that can be told from another one in the same boot, or where a clock was set at both.

    `wall` is None while nobody had set the clock.
    """

    boot: str
    uptime: float
    wall: float | None

    def since(self, earlier: Moment) -> float | None:
        """Return the seconds since an earlier moment, None where nobody can tell."""
        if self.boot == earlier.boot:
            return max(0.0, self.uptime - earlier.uptime)
        if self.wall is None or earlier.wall is None:
            return None
        return max(0.0, self.wall - earlier.wall)

    @classmethod
    def of(cls, body: Any) -> Moment | None:
        """Return what `_asdict` wrote, None for anything else."""
        try:
            wall = body["wall"]
            return cls(str(body["boot"]), float(body["uptime"]), None if wall is None else float(wall))
        except (KeyError, TypeError, ValueError):
            return None


class Life(NamedTuple):
    """When a certificate begins and ends, epoch seconds."""

    begins_at: float
    ends_at: float


def due_at(life: Life, renew_s: float, renew_after_s: float) -> float:
    """Return when the certificate is to be renewed, epoch seconds, math.inf for never."""
    by_end = life.ends_at - renew_s if renew_s else math.inf
    return min(by_end, life.begins_at + renew_after_s if renew_after_s else math.inf)


def pause_s(life: Life, renew_after_s: float) -> float:
    """Return how long after an attempt by itself none follows: an hour, or a tenth of the time that the certificate is
    used for.
    """
    lasts_s = life.ends_at - life.begins_at
    return max(PAUSE_S, PART_OF_LIFE * min(lasts_s, renew_after_s or math.inf))


def rests_s(attempted: Moment | None, here: Moment, pause: float) -> float:
    """Return for how long none is begun after the last attempt; of which nobody can tell the time, for none."""
    passed = None if attempted is None else here.since(attempted)
    return 0.0 if passed is None else max(0.0, pause - passed)


def tried_in_vain(attempted: Moment | None, at: float | None) -> bool:
    """Tell whether the certificate in force was due (`at`, epoch seconds, None for never) when it was tried last."""
    return attempted is not None and attempted.wall is not None and at is not None and attempted.wall >= at


def described(life: Mapping[str, Any]) -> Life:
    """Return the life as it is on the disk. Raises KeyError, TypeError, ValueError."""
    return Life(float(life["begins_at"]), float(life["ends_at"]))
