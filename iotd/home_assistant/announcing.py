"""When the announcement is to be said. Pure.

Home Assistant may lose a part of an announcement that follows another one within seconds, so a connect, a birth message
and a reload together are one of them.
"""

from __future__ import annotations

import math
from typing import NamedTuple

GAP_S = 10.0
BIRTH_S = 5.0  # over which the answers of many devices to one birth message are spread
RETRY_S = 60.0


class Announcing(NamedTuple):
    """`due_at` is when it is to be said, math.inf while the broker has it; `said_at` when it was."""

    due_at: float = math.inf
    said_at: float = -math.inf


def owed(announcing: Announcing, at: float) -> Announcing:
    """It is to be said, from `at` on."""
    return announcing._replace(due_at=min(announcing.due_at, max(at, announcing.said_at + GAP_S)))


def born(announcing: Announcing, chance: float, now: float) -> Announcing:
    """Home Assistant says that it is there; `chance` is this device's place among those that answer, 0 to 1."""
    return owed(announcing, now + chance * BIRTH_S)


def said(announcing: Announcing, now: float) -> Announcing:
    """It is on its way."""
    return Announcing(math.inf, now)


def failed(announcing: Announcing, is_up: bool, now: float) -> Announcing:
    """It has not got there; where the line is up, it is denied."""
    return owed(announcing, now + RETRY_S if is_up else now)
