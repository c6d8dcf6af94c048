"""Does what is desired of a key by the command that the configuration names for it."""

from __future__ import annotations

from iotd import command, desired
from iotd.finding import Performed
from iotd.settings import Json, Run


def perform(shadow: int, key: str, action: Run, value: Json, stop: int | None = None) -> Performed:
    """Run the command for a desired value and say how it ended; `stop` readable means give up."""
    try:
        arguments = desired.arguments(action.command, value)
    except ValueError as error:
        return Performed(shadow, key, str(error))
    return Performed(shadow, key, command.run(arguments, action.timeout_s, stop).reason)
