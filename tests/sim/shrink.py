"""A life that fails is made smaller as long as it fails in the same way, and written down as a test."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

from tests.sim.life import live
from tests.sim.swarm import DAY_S, Fault, Plan, Profile


Fails = Callable[[Plan], float | None]


def shrunk(plan: Plan, fails: Fails, limit_s: float = 300.0) -> Plan:
    """Return a smaller plan that `fails`, which tells when it does, None where it does not."""
    deadline = time.monotonic() + limit_s
    going_on = True
    while going_on:
        going_on = False
        for smaller in _smaller(plan):
            if time.monotonic() > deadline:
                return plan
            at = fails(smaller)
            if at is not None:
                shorter = smaller._replace(days=min(smaller.days, round((at + 60.0) / DAY_S + 0.0005, 3)))
                plan = shorter if fails(shorter) is not None else smaller
                going_on = True
                break
    return plan


def broken(invariant: str) -> Fails:
    """Return what tells when the invariant does not hold in the life of a plan."""
    return lambda plan: next((finding.at for finding in live(plan).news if finding.invariant == invariant), None)


def as_test(plan: Plan, invariant: str) -> str:
    """Return the plan as a test that can be pasted into tests/sim/test_found.py."""
    return (f"def test_{invariant.replace('-', '_')}_of_seed_{plan.seed}() -> None:\n"
            f"    plan = {_source(plan)}\n"
            f"    assert live(plan).news == ()\n")


def _smaller(plan: Plan) -> Iterator[Plan]:
    """Yield what is smaller in one way, the largest steps first."""
    faults = plan.faults
    size = max(1, len(faults) // 2)
    while faults:
        for start in range(0, len(faults), size):
            yield plan._replace(faults=faults[:start] + faults[start + size:])
        if size == 1:
            break
        size //= 2
    if len(plan.profiles) > 1:
        yield plan._replace(profiles=plan.profiles[:-1])
        yield plan._replace(profiles=plan.profiles[1:])
    for index, profile in enumerate(plan.profiles):
        for simpler in _simpler(profile):
            yield plan._replace(profiles=(*plan.profiles[:index], simpler, *plan.profiles[index + 1:]))
    if plan.overlay:
        yield plan._replace(overlay=False)
    for index, fault in enumerate(faults):
        for shorter in _shorter(fault):
            yield plan._replace(faults=(*faults[:index], shorter, *faults[index + 1:]))


def _simpler(profile: Profile) -> Iterator[Profile]:
    plain = Profile(topics=profile.topics)
    for index in range(len(profile.topics) if len(profile.topics) > 1 else 0):
        yield profile._replace(topics=profile.topics[:index] + profile.topics[index + 1:])
    for index in range(len(profile.shadows)):
        yield profile._replace(shadows=profile.shadows[:index] + profile.shadows[index + 1:])
    for name, value in profile._asdict().items():
        if name not in ("topics", "shadows") and value != getattr(plain, name):
            yield profile._replace(**{name: getattr(plain, name)})


def _shorter(fault: Fault) -> Iterator[Fault]:
    if fault.for_s > 4.0:
        yield fault._replace(for_s=round(fault.for_s / 4, 1))
    if fault.at_s != round(fault.at_s, -1):
        yield fault._replace(at_s=round(fault.at_s, -1))


def _source(value: Any, indent: int = 4) -> str:
    """Return the source of a value, of a named tuple what is not its default, of a long tuple a line each."""
    pad = " " * indent
    if hasattr(value, "_fields"):
        defaults = value._field_defaults
        parts = [f"{name}={_source(part, indent + 4)}" for name, part in zip(value._fields, value)
                 if name not in defaults or part != defaults[name]]
        text = f"{type(value).__name__}({', '.join(parts)})"
        if len(text) + indent > 100 and "\n" not in text:
            text = f"{type(value).__name__}(\n{pad}    " + f",\n{pad}    ".join(parts) + ")"
        return text
    if isinstance(value, tuple) and value and hasattr(value[0], "_fields"):
        return "(\n" + "".join(f"{pad}    {_source(part, indent + 4)},\n" for part in value) + f"{pad})"
    return repr(value)
