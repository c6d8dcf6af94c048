"""What a check found, how an order ended and what it changed, as values that rules can judge and adapters can fill."""

from __future__ import annotations

from iotd.settings import Check, Json
from iotd.typed import Literal, NamedTuple

Outcome = Literal["good", "bad", "unknown"]


class CheckResult(NamedTuple):
    """One run of `check`, ended at the monotonic time `at`.

    "unknown" is a check that could not be made and says nothing about what it watches. All but "good" say why in
    `reason`. `value` is what was measured, where there is such a thing.
    """

    check: Check
    outcome: Outcome
    value: Json
    reason: str
    at: float


class Performed(NamedTuple):
    """The command for a key of a shadow's desired state has ended; `reason` is empty where it did well."""

    shadow: str | None
    key: str
    reason: str


class Overridden(NamedTuple):
    """The cloud has given a setting another value."""
