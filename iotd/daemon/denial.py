"""Which action the broker denies, when all it does is close the line. Pure.

AWS IoT Core ends an MQTT 3.1.1 connection over anything that the policy does not allow, without a word, and a client
that does the same again on the next line comes and goes for ever. So after two lines that the broker ended over
something unanswered the next one is opened with care: it is left alone for five seconds, but for the scheduled
messages, then one action follows another, each answered before the next; what was accepted before comes first, what is
suspected last. The action over which the broker ends two such lines is named, and it alone rests for an hour. A bad
line, which falls at any moment, accuses nobody that way, and the line after a careful one that has found nothing is
opened as usual. What has rested is tried again on the next line, or on the one that stays, one action at a time.

What one capability needs together, as the six filters of a shadow and its requests, is one action.
"""

import logging
from collections.abc import Collection, Iterable, Mapping
from operator import itemgetter
from typing import NamedTuple

from iotd.vocabulary import Entry, Json

FALLS_BEFORE_CARE = 2
STRIKES_OF_AN_ACTION = 2
QUIET_FALLS = 5
QUIET_FALLS_WITH_A_RIVAL = 2
REST_S = 3600.0
QUIET_S = 5.0
AT_ONCE_S = 5.0  # a broker that closes the line over something does so at once


class Suspicion(NamedTuple):
    """What is suspected. `falls` counts the lines in a row that the broker ended over something, `quiet` those over
    nothing at all since one was stable, `strikes` how often it was one action alone. `resting`: action to when it may
    be tried again. `welcome` was accepted in this run. `careful`: so is this line, or the next one. `rival`: another
    client has said Connected in the name of this device. `contested`: that was told.
    """

    falls: int = 0
    quiet: int = 0
    strikes: Mapping[str, int] = {}
    resting: Mapping[str, float] = {}
    welcome: frozenset[str] = frozenset()
    careful: bool = False
    rival: bool = False
    contested: bool = False


def fell(suspicion: Suspicion, unanswered: Collection[str], calm: bool, now: float) -> tuple[Suspicion, list[Entry]]:
    """The broker has ended the line over what was unanswered.

    `calm`: nothing else went on, since the line was a careful one, or had long been up.
    """
    if calm and len(unanswered) == 1:
        [action] = unanswered
        return _struck(suspicion, action, "the broker closes the line over it, probably by policy", now)
    falls = suspicion.falls + 1
    return suspicion._replace(falls=falls, careful=falls >= FALLS_BEFORE_CARE and not suspicion.careful), []


def unacknowledged(suspicion: Suspicion, actions: Collection[str], now: float) -> tuple[Suspicion, list[Entry]]:
    """The broker has never answered one packet, which is about these actions, while the line was good."""
    if len(actions) == 1:
        [action] = actions
        return _struck(suspicion, action, "the broker never acknowledges it", now)
    return suspicion._replace(careful=True) if actions else suspicion, []


def fell_over_nothing(suspicion: Suspicion, known: Mapping[str, Json] = {}) -> tuple[Suspicion, list[Entry]]:
    """The broker has ended a line that was up for seconds only, and nothing was unanswered.

    A second client with the same id looks like that: each takes the line of the other as soon as it comes back, for
    ever, and the broker takes every dial at once. A broker that is started again ends lines too, but not so often
    between two that last, and it is away for a while: a dial that failed begins the count anew. Two falls are enough
    where the other one is known to be there, because it has said Connected on this device's own presence topic. `known`
    is told with it, of this device and of the other.
    """
    quiet = suspicion.quiet + 1
    grounds = quiet >= (QUIET_FALLS_WITH_A_RIVAL if suspicion.rival else QUIET_FALLS)
    entries = [] if suspicion.contested or not grounds else [Entry(
        logging.WARNING, "session.contested",
        "the broker ends every new line without a cause; probably another device has the same client id: look for a"
        " second one with this thing name, or a copied card", {"falls": quiet, **known})]
    return suspicion._replace(falls=0, strikes={}, careful=False, quiet=quiet,
                              contested=suspicion.contested or grounds), entries


def ended(suspicion: Suspicion) -> Suspicion:
    """The line has ended in another way: a careful one is followed by one as usual."""
    return suspicion._replace(careful=False)


def away(suspicion: Suspicion) -> Suspicion:
    """The broker could not be reached: it, or the network, has ended the lines before, and no other client."""
    return suspicion._replace(quiet=0)


def proven(suspicion: Suspicion) -> Suspicion:
    """The line has proven stable: what does not rest is allowed."""
    return Suspicion(resting=suspicion.resting, welcome=suspicion.welcome)


def answered(suspicion: Suspicion, action: str) -> Suspicion:
    """The broker has accepted the action."""
    strikes = {name: count for name, count in suspicion.strikes.items() if name != action}
    return suspicion._replace(welcome=suspicion.welcome | {action}, strikes=strikes)


def refused(suspicion: Suspicion, action: str, now: float) -> Suspicion:
    """The broker has said no to the action: it rests."""
    return suspicion._replace(welcome=suspicion.welcome - {action},
                              resting={**suspicion.resting, action: now + REST_S})


def over(suspicion: Suspicion, now: float) -> list[str]:
    """Return the actions that have rested long enough, the longest first."""
    return [action for action, until in sorted(suspicion.resting.items(), key=itemgetter(1)) if until <= now]


def rested(suspicion: Suspicion, over: Collection[str]) -> Suspicion:
    """Return the suspicion without the rests that are over; what has rested needs one more strike to rest again."""
    return suspicion._replace(
        resting={action: until for action, until in suspicion.resting.items() if action not in over},
        strikes={**suspicion.strikes, **dict.fromkeys(over, STRIKES_OF_AN_ACTION - 1)})


def in_order(suspicion: Suspicion, actions: Iterable[str]) -> list[str]:
    """Return the actions in the order in which a careful line tries them."""
    return sorted(actions, key=lambda action: (suspicion.strikes.get(action, 0), action not in suspicion.welcome))


def _struck(suspicion: Suspicion, action: str, why: str, now: float) -> tuple[Suspicion, list[Entry]]:
    """The line has ended over this action alone: so has the next one to be, to find out more."""
    strikes = {**suspicion.strikes, action: suspicion.strikes.get(action, 0) + 1}
    suspicion = suspicion._replace(falls=max(suspicion.falls + 1, FALLS_BEFORE_CARE), careful=True)
    if strikes[action] < STRIKES_OF_AN_ACTION:
        return suspicion._replace(strikes=strikes), []
    entry = Entry(logging.WARNING, "session.denied", f"{action}: {why}; it rests for an hour",
                  {"action": action, "falls": strikes.pop(action), "retry_in_s": REST_S})
    return refused(suspicion, action, now)._replace(strikes=strikes), [entry]
