"""When to dial the broker again: full jitter over a floor, forgotten only by a line that has proven stable. Pure.

AWS IoT Core takes one CONNECT a second from a client id; a fleet that comes back at once takes the broker down
again. So no attempt follows another within a second, and none at a time that its neighbours share.
"""

import math
from typing import NamedTuple

from iotd.mqtt.settings import Backoff

STABLE_S = 30.0
FLOOR_S = 1.0

# A stable line is lost by a whole fleet at once when a broker restarts. Its first wait is drawn from first x 2^4, which
# keeps 200 devices below ten CONNECTs in any 100 ms; from first x 2 they come at twenty and more.
SPREAD = 4

# An unsynchronised clock is nobody's failure: it spends no backoff, and is tried again soon after it is set.
CLOCK_RETRY_S = 5.0


class Attempts(NamedTuple):
    """How often dialling has failed since the line was last stable, and when to dial next (math.inf: not now)."""

    failures: int = 0
    dial_at: float = math.inf
    up_since: float | None = None


def first(now: float, spread_s: float, phase: float) -> Attempts:
    """Return the attempts of a fresh start: this device's own part (`phase`, 0 to 1) of `spread_s` from now."""
    return Attempts(dial_at=now + spread_s * phase)


def wait_s(backoff: Backoff, failures: int, chance: float) -> float:
    """Return 1 s + random(0, min(max, first x 2^failures) - 1 s), where `chance` (0 to 1) is the random draw."""
    ceiling_s = min(backoff.max_s, backoff.first_s * 2.0 ** min(failures, 32))
    return FLOOR_S + chance * max(0.0, ceiling_s - FLOOR_S)


def dialling(attempts: Attempts) -> Attempts:
    """Return the attempts while one of them is under way."""
    return attempts._replace(dial_at=math.inf)


def connected(attempts: Attempts, now: float) -> Attempts:
    """Return the attempts now that CONNACK has come; the failures are kept until the line has proven stable."""
    return attempts._replace(dial_at=math.inf, up_since=now)


def stable(attempts: Attempts, now: float) -> bool:
    """Tell whether the line has been up for long enough to be trusted."""
    return attempts.up_since is not None and now - attempts.up_since >= STABLE_S


def lost(attempts: Attempts, backoff: Backoff, cause: str, now: float, chance: float) -> Attempts:
    """Return the attempts after a line that ended, or never came up, for `cause` (see vocabulary.Down)."""
    lasted = stable(attempts, now)
    failures = 0 if lasted else attempts.failures
    if cause == "clock":
        return Attempts(failures, now + FLOOR_S + chance * CLOCK_RETRY_S)
    return Attempts(failures + 1, now + wait_s(backoff, SPREAD if lasted else failures + 1, chance))
