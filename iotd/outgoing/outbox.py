"""Which waiting message goes out next, and whether it carries RETAIN. Pure.

The rules, under AWS limits: at most 100 unacknowledged, fewer than 100 publishes and 512 KB a second, and one
retained publish a second for a topic. Of a topic's retained messages only the newest carries RETAIN: while a backlog
drains the retained slot must not move backwards, nor be written more often than the broker takes it.

A message that brings the line down is found by trial. After two lines that the broker ended over something in flight,
every other one is careful: it is left quiet for five seconds, then messages go out one at a time. The one over which
the broker ends that line has a strike, and with the second it is set aside. So a bad line alone, which falls at any
moment, accuses nobody, and the lines between the careful ones go on delivering. A topic with three strikes in a row is
one that the broker denies to this device; it rests for an hour, and what was set aside of it waits again.
"""

import logging
import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from iotd.vocabulary import Entry, Message

MAX_PAYLOAD_BYTES = 131_072  # AWS IoT Core; a broker of one's own has its own limit

BLAME_S = 5.0  # a broker that closes the line over a message does so at once
QUIET_S = 5.0  # before a message is tried alone, so that a line that falls by itself is not its fault
ROUNDING_S = 0.001  # lest a budget is a rounding short of one when it is asked again, and time stands still
CARE_S = 30.0  # for so long a careful line sends one at a time
FALLS_BEFORE_CARE = 2
STRIKES_OF_A_MESSAGE = 2
STRIKES_OF_A_TOPIC = 3
DENIED_S = 3600.0


class Waiting(NamedTuple):
    """One message of the spool; ids grow in the order in which messages were made."""

    id: int
    topic: str
    payload: bytes
    qos: int
    retain: bool

    def size(self) -> int:
        """Return its bytes in a PUBLISH packet, nearly."""
        return len(self.payload) + len(self.topic) + 8


class Limits(NamedTuple):
    """What the broker takes: publishes and bytes a second (None: as many as it likes), and unacknowledged ones.

    `burst` and `bytes_burst` of them may go at once; with what comes in a second, and one message of the largest size
    for the bytes, that stays below the broker's limit in every second.
    """

    window: int = 100
    per_second: float | None = None
    burst: float = 0.0
    bytes_per_second: float | None = None
    bytes_burst: float = 0.0
    retained_pause_s: float = 0.0


UNLIMITED = Limits()
# 100 publishes a second are shared with what is received and with shadow requests, and the surplus is discarded.
# Unacknowledged publishes are shared too: Connected and ten shadow requests come beside these.
AWS = Limits(window=85, per_second=70.0, burst=20.0, bytes_per_second=280_000.0, bytes_burst=90_000.0,
             retained_pause_s=1.0)


class Flight(NamedTuple):
    """One message handed to the session and not yet acknowledged."""

    topic: str
    sent_at: float


class Outbox(NamedTuple):
    """What is in flight, the budgets left as of `counted_at`, and what is suspected.

    `falls`: lines in a row that the broker ended over something in flight. `careful`: nothing goes out on this line for
    QUIET_S from `quiet_from`, then one at a time; `trial` is the message that is alone in flight. `strikes` count for
    each message, `drops` for each topic in a row. `denied`: topic to when it may be tried again.
    """

    limits: Limits = UNLIMITED
    in_flight: Mapping[int, Flight] = {}
    cursor: int = 0
    publishes_left: float = 0.0
    bytes_left: float = 0.0
    counted_at: float = 0.0
    retained_at: Mapping[str, float] = {}
    falls: int = 0
    careful: bool = False
    quiet_from: float | None = None
    trial: int | None = None
    strikes: Mapping[int, int] = {}
    drops: Mapping[str, int] = {}
    denied: Mapping[str, float] = {}


class Verdict(NamedTuple):
    """What a fallen line means: the id of a message to set aside, a topic to take back, what to log."""

    aside: int | None = None
    back: str | None = None
    entries: tuple[Entry, ...] = ()


def room(outbox: Outbox) -> int:
    """Return how many more messages may be in flight; a trial flies alone."""
    return max(0, (1 if outbox.careful else outbox.limits.window) - len(outbox.in_flight))


def take(
    outbox: Outbox, rows: Sequence[Waiting], newest: Mapping[str, int], now: float
) -> tuple[Outbox, list[tuple[int, Message]], float]:
    """Choose from `rows` (in order of id, beyond `cursor`) what goes out now.

    `newest` is the id of the newest retained message of each topic. Returns the outbox after it, the (id, message)
    pairs to publish, and when to ask again where a limit held something back (math.inf: when something changes).
    """
    if outbox.careful and rows:
        quiet_from = now if outbox.quiet_from is None else outbox.quiet_from
        outbox = outbox._replace(quiet_from=quiet_from, careful=now < quiet_from + CARE_S)
        if now < quiet_from + QUIET_S:
            return outbox, [], quiet_from + QUIET_S
    outbox = _earned(outbox, now)
    limits = outbox.limits
    in_flight, retained_at = dict(outbox.in_flight), dict(outbox.retained_at)
    publishes, volume, cursor = outbox.publishes_left, outbox.bytes_left, outbox.cursor
    chosen: list[tuple[int, Message]] = []
    again_at = math.inf
    for row in rows[:room(outbox)]:
        if row.id in in_flight:  # the rest of a topic is over, and the rows come from the first again
            cursor = row.id
            continue
        retain = row.retain and newest.get(row.topic, row.id) <= row.id
        if limits.per_second is not None and publishes < 1.0:
            again_at = now + (1.0 - publishes) / limits.per_second + ROUNDING_S
            break
        if limits.bytes_per_second is not None and volume <= 0.0:
            again_at = now - volume / limits.bytes_per_second + ROUNDING_S
            break
        last = retained_at.get(row.topic)
        if retain and last is not None and now < last + limits.retained_pause_s:
            again_at = last + limits.retained_pause_s
            break
        if retain and limits.retained_pause_s:
            retained_at[row.topic] = now
        publishes -= 1.0
        volume -= row.size()
        in_flight[row.id] = Flight(row.topic, now)
        cursor = row.id
        chosen.append((row.id, Message(row.topic, row.payload, row.qos, retain)))
    trial = chosen[0][0] if outbox.careful and chosen else outbox.trial
    return outbox._replace(in_flight=in_flight, retained_at=retained_at, publishes_left=publishes, bytes_left=volume,
                           cursor=cursor, trial=trial), chosen, again_at


def spent(outbox: Outbox, publishes: int, size: int, now: float) -> Outbox:
    """Count publishes that went past the outbox (shadow requests, presence) or came in: they share the limit."""
    if outbox.limits.per_second is None:
        return outbox
    outbox = _earned(outbox, now)
    return outbox._replace(publishes_left=outbox.publishes_left - publishes, bytes_left=outbox.bytes_left - size)


def acknowledged(outbox: Outbox, ids: Sequence[int]) -> Outbox:
    """Take PUBACKs: what is acknowledged is beyond suspicion, and so is its topic; a trial that passed is over."""
    in_flight, strikes, drops = dict(outbox.in_flight), dict(outbox.strikes), dict(outbox.drops)
    for number in ids:
        flight = in_flight.pop(number, None)
        strikes.pop(number, None)
        if flight is not None:
            drops.pop(flight.topic, None)
    return outbox._replace(in_flight=in_flight, strikes=strikes, drops=drops,
                           trial=None if outbox.trial in ids else outbox.trial)


def fell(outbox: Outbox, blamed: bool, now: float) -> tuple[Outbox, Verdict]:
    """The line is down: everything in flight goes out again on the next one.

    `blamed` tells that the broker ended it.
    """
    recent = [number for number, flight in outbox.in_flight.items() if now - flight.sent_at <= BLAME_S]
    guilty = blamed and bool(recent)
    falls = outbox.falls + 1 if guilty else 0 if not outbox.careful else outbox.falls
    empty = outbox._replace(in_flight={}, cursor=0, publishes_left=0.0, bytes_left=0.0, falls=falls, quiet_from=None,
                            trial=None, careful=guilty and falls >= FALLS_BEFORE_CARE and not outbox.careful)
    if not guilty or outbox.trial is None or outbox.trial not in recent:
        return empty, Verdict()
    number, topic = outbox.trial, outbox.in_flight[outbox.trial].topic
    strikes = {**outbox.strikes, number: outbox.strikes.get(number, 0) + 1}
    drops = {**outbox.drops, topic: outbox.drops.get(topic, 0) + 1}
    if drops[topic] >= STRIKES_OF_A_TOPIC:
        strikes.pop(number)
        drops.pop(topic)
        denied = {**outbox.denied, topic: now + DENIED_S}
        return empty._replace(strikes=strikes, drops=drops, denied=denied), Verdict(back=topic, entries=(Entry(
            logging.WARNING, "publish.denied",
            "the broker closes the line over every message of this topic, probably by policy; it rests for an hour",
            {"topic": topic, "drops": STRIKES_OF_A_TOPIC, "retry_in_s": DENIED_S}),))
    if strikes[number] >= STRIKES_OF_A_MESSAGE:
        strikes.pop(number)
        return empty._replace(strikes=strikes, drops=drops), Verdict(aside=number, entries=(Entry(
            logging.WARNING, "publish.set_aside",
            "the broker closed the line over this message twice; it is kept and not sent again",
            {"topic": topic, "id": number}),))
    return empty._replace(strikes=strikes, drops=drops), Verdict()


def resting(outbox: Outbox, now: float) -> tuple[Outbox, tuple[str, ...]]:
    """Return the topics that rest now, and the outbox without those whose rest is over."""
    if not outbox.denied:
        return outbox, ()
    denied = {topic: until for topic, until in outbox.denied.items() if until > now}
    if len(denied) != len(outbox.denied):
        outbox = outbox._replace(denied=denied, cursor=0)
    return outbox, tuple(denied)


def _earned(outbox: Outbox, now: float) -> Outbox:
    """Return the outbox with what its budgets have gained since they were counted."""
    limits = outbox.limits
    if limits.per_second is None or limits.bytes_per_second is None:
        return outbox
    passed_s = max(0.0, now - outbox.counted_at)
    return outbox._replace(
        counted_at=now,
        publishes_left=min(limits.burst, outbox.publishes_left + passed_s * limits.per_second),
        bytes_left=min(limits.bytes_burst, outbox.bytes_left + passed_s * limits.bytes_per_second))
