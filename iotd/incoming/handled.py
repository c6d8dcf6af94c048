"""How the command for a message has ended, as an event."""

from typing import NamedTuple


class Handled(NamedTuple):
    """The command for a message on this topic, of the subscription with this filter, has ended.

    `reason` is empty where it did well; `errors` is the end of what it wrote to its standard error.
    `traceback` is that of a bug in iotd.
    """

    filter: str
    topic: str
    reason: str
    errors: str = ""
    traceback: str = ""
