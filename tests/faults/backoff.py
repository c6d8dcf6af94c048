"""How a device spaces its attempts to connect, judged as Device Advisor does: from the moments of its CONNECTs."""

from __future__ import annotations

from itertools import pairwise
from typing import Sequence

from tests.faults.lab import Verdict, failed, passed, warned

FLOOR_S = 1.0  # AWS IoT Core takes one CONNECT a second from a client id
LATE_S = 2.0  # what a busy test host may add to a pause
ALIKE = 0.1  # Device Advisor states no tolerance; what differs by less than a tenth counts as the same


def judge(pauses: Sequence[float], first_s: float, max_s: float) -> Verdict:
    """Judge the pauses between the end of each attempt and the next one, in seconds.

    Fail: constant or linear, shorter than a second, longer than the configured ceiling, or never growing. Warn:
    strictly exponential, which a fleet would do in step. Pass: spread by chance under a ceiling that doubles.
    """
    seen = f"pauses of {', '.join(f'{pause:.1f}' for pause in pauses)} s"
    steps = [after - before for before, after in pairwise(pauses)]
    ratios = [after / before for before, after in pairwise(pauses)]
    ceilings = [min(max_s, first_s * 2.0 ** (number + 1)) for number in range(len(pauses))]
    if min(pauses) < FLOOR_S - 0.02:
        return failed(f"{seen}: sooner than {FLOOR_S:g} s")
    if any(pause > ceiling + LATE_S for pause, ceiling in zip(pauses, ceilings)):
        return failed(f"{seen}: beyond the ceiling that is configured")
    if _alike(pauses):
        return failed(f"{seen}: constant")
    if _alike(steps):
        return failed(f"{seen}: linear")
    if _alike(ratios):
        return warned(f"{seen}: strictly exponential, without jitter")
    # What is drawn from 1..4 s for ever would pass for jitter; of a growing ceiling, not one of 7 draws in a row
    # stays below 3 s but once in 10,000 runs.
    if max(pauses) < 3 * FLOOR_S:
        return failed(f"{seen}: they do not grow")
    return passed(seen)


def _alike(values: Sequence[float]) -> bool:
    mean = sum(values) / len(values)
    return all(abs(value - mean) <= ALIKE * abs(mean) for value in values)
