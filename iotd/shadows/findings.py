"""What a check found and how an order ended, as values that rules can judge and adapters can fill."""

from typing import Literal, NamedTuple

from iotd.shadows.section import Check
from iotd.vocabulary import Json

Outcome = Literal["good", "bad", "unknown"]
Finding = tuple[Outcome, Json, str]  # with what was measured, and why it is not good


class CheckResult(NamedTuple):
    """One run of `check`, ended at the monotonic time `at`.

    "unknown" is a check that could not be made and says nothing about what it watches. All but "good" say why in
    `reason`. `value` is what was measured, where there is such a thing. `traceback` is that of a bug in iotd.
    """

    check: Check
    outcome: Outcome
    value: Json
    reason: str
    at: float
    traceback: str = ""


class Performed(NamedTuple):
    """The command for a key of a shadow's desired state has ended; `reason` is empty where it did well.

    `traceback` is that of a bug in iotd.
    """

    shadow: str | None
    key: str
    reason: str
    traceback: str = ""
