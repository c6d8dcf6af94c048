"""Which action the broker denies, when all it does is close the line. Pure.

AWS IoT Core ends an MQTT 3.1.1 connection over anything that the policy does not allow, without a word, and a client
that does the same again on the next line comes and goes for ever. So after two lines that the broker ended over
something unanswered, every other one is opened with care: it is left quiet for five seconds, then one action follows
another, each answered before the next. The action over which a careful line ends three times in a row is named, and it
alone rests for an hour. A bad line, which falls at any moment, accuses nobody that way.
"""

import logging
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from iotd.vocabulary import Entry

FALLS_BEFORE_CARE = 2
FALLS_OF_AN_ACTION = 3
QUIET_FALLS = 3  # over nothing at all: what a second client with the same id looks like
REST_S = 3600.0
QUIET_S = 5.0


class Suspicion(NamedTuple):
    """How often in a row the broker ended the line over something (`falls`) or over nothing at all (`quiet`), how
    often a careful one over one action `alone`, which actions rest until when, and whether the line, or the next one,
    is `careful`.
    """

    falls: int = 0
    quiet: int = 0
    alone: Mapping[str, int] = {}
    resting: Mapping[str, float] = {}
    careful: bool = False

    @property
    def contested(self) -> bool:
        """Whether the broker ends every new line over nothing, as where a second client has the same id."""
        return self.quiet >= QUIET_FALLS


def fell(suspicion: Suspicion, unanswered: Sequence[str], now: float) -> tuple[Suspicion, list[Entry]]:
    """The broker has ended the line while these actions were unanswered."""
    if not unanswered:
        quiet = suspicion.quiet + 1
        contested = Entry(logging.WARNING, "session.contested",
                          "the broker ends every new line without a cause; probably another device has the same client"
                          " id: look for a second one with this thing name, or a copied card", {"falls": quiet})
        return Suspicion(quiet=quiet, resting=suspicion.resting), [contested] if quiet == QUIET_FALLS else []
    falls = suspicion.falls + 1
    next_line = suspicion._replace(falls=falls, quiet=0, careful=falls >= FALLS_BEFORE_CARE and not suspicion.careful)
    if not suspicion.careful or len(unanswered) > 1:
        return next_line, []
    action = unanswered[0]
    count = suspicion.alone.get(action, 0) + 1
    if count < FALLS_OF_AN_ACTION:
        return next_line._replace(alone={action: count}), []
    entry = Entry(logging.WARNING, "session.denied",
                  f"the broker closes the line over every {action}, probably by policy; it rests for an hour",
                  {"action": action, "falls": count, "retry_in_s": REST_S})
    return next_line._replace(alone={}, resting={**suspicion.resting, action: now + REST_S}), [entry]


def proven(suspicion: Suspicion, now: float) -> Suspicion:
    """The line has proven stable: what does not rest is allowed, and what has rested may be tried again."""
    resting = {action: until for action, until in suspicion.resting.items() if until > now}
    return Suspicion(resting=resting)
