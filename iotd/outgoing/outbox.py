"""Which waiting message goes out next, and whether it carries RETAIN. Pure.

The rules, under AWS limits: at most 100 unacknowledged, fewer than 100 publishes and 512 KB a second, and one
retained publish a second for a topic. Of a topic's retained messages only the newest carries RETAIN: while a backlog
drains the retained slot must not move backwards, nor be written more often than the broker takes it.

A message that brings the line down is found by trial. After two lines that the broker ended over something in flight,
every other one is careful: it is left quiet for five seconds, then messages go out one at a time. The one over which
the broker ends that line has a strike, and with the second it is set aside. So a bad line alone, which falls at any
moment, accuses nobody, and the lines between the careful ones go on delivering. A topic with three strikes in a row is
one that the broker denies to this device; it rests for an hour, and what was set aside of it waits again. A message
that the broker never acknowledges, while it does others, has a strike without a trial.

No topic has more than a quarter of the places in flight where there are others: three that the broker leaves
unanswered keep no fourth from its places then, and a quarter still carries the 70 messages a second of AWS over a round
trip of 300 ms. Behind a topic that holds its share the others wait for their turn, in order, while it is being
answered; once it is left unanswered, or where it is known for that, it is passed over.
"""

import logging
import math
from collections import Counter
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
SHARE = 4  # of the window, one in so many places for a topic
MUTE_S = 10.0  # without an answer: by then the first of its messages is being repeated
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
    size: int = 0
    qos: int = 1


class Outbox(NamedTuple):
    """What is in flight, the budgets left as of `counted_at`, and what is suspected.

    `falls`: lines in a row that the broker ended over something in flight. `careful`: nothing goes out on this line for
    QUIET_S from `quiet_from`, then one at a time; `trial` is the message that is alone in flight. `strikes` count for
    each message, `drops` for each topic in a row. `denied`: topic to when it may be tried again. `topics` are those
    of the configuration, `welcome` those of them that the broker takes. `left_out` is behind the cursor and waits.
    `last_acknowledged` is the highest number acknowledged on this line, `largest` the bytes of the largest message that
    the broker has taken at QoS 1 in this run.
    """

    limits: Limits = UNLIMITED
    topics: frozenset[str] = frozenset()
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
    welcome: frozenset[str] = frozenset()
    left_out: frozenset[str] = frozenset()
    last_acknowledged: int = 0
    largest: int = 0


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
    shares = _shares(outbox, rows)
    for row in rows[:room(outbox)]:
        if row.id in in_flight:  # the rest of a topic is over, and the rows come from the first again
            cursor = row.id
            continue
        if shares is not None and shares[row.topic] >= limits.window // SHARE:
            again_at = now + ROUNDING_S if row.topic in outbox.drops else max(now + ROUNDING_S, MUTE_S + max(
                flight.sent_at for flight in in_flight.values() if flight.topic == row.topic))
            break
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
        in_flight[row.id] = Flight(row.topic, now, row.size(), row.qos)
        if shares is not None:
            shares[row.topic] += 1
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
    welcome, largest = outbox.welcome, outbox.largest
    for number in ids:
        flight = in_flight.pop(number, None)
        strikes.pop(number, None)
        if flight is not None:
            drops.pop(flight.topic, None)
            if flight.size > largest and flight.qos:
                largest = flight.size
            if flight.topic not in welcome and flight.topic in outbox.topics:
                welcome |= {flight.topic}
    return outbox._replace(in_flight=in_flight, strikes=strikes, drops=drops, welcome=welcome, largest=largest,
                           last_acknowledged=max((outbox.last_acknowledged, *ids)),
                           trial=None if outbox.trial in ids else outbox.trial)


def suspects(outbox: Outbox, now: float) -> set[str]:
    """Return the topics in flight that the line may end over now: one that was welcome only where it is on trial."""
    return {flight.topic for number, flight in outbox.in_flight.items()
            if now - flight.sent_at <= BLAME_S and (flight.topic not in outbox.welcome or number == outbox.trial)}


def fell(outbox: Outbox, blamed: bool, now: float) -> tuple[Outbox, Verdict]:
    """The line is down: everything in flight goes out again on the next one.

    `blamed` tells that the broker ended it, and over nothing else. Where it may have been over something else as well
    the falls in a row are neither more nor over: with a shadow unanswered on every other line they would never be two.
    """
    recent = [number for number, flight in outbox.in_flight.items() if now - flight.sent_at <= BLAME_S]
    guilty = blamed and bool(recent)
    falls = outbox.falls + 1 if guilty else outbox.falls if recent or outbox.careful else 0
    empty = outbox._replace(in_flight={}, cursor=0, publishes_left=0.0, bytes_left=0.0, falls=falls, quiet_from=None,
                            trial=None, left_out=frozenset(), last_acknowledged=0,
                            careful=guilty and falls >= FALLS_BEFORE_CARE and not outbox.careful)
    if not guilty or outbox.trial is None or outbox.trial not in recent:
        return empty, Verdict()
    flight = outbox.in_flight[outbox.trial]
    return _struck(empty, outbox.trial, flight, "the broker closes the line over", _cause(outbox, flight), now)


def unacknowledged(outbox: Outbox, number: int, now: float) -> tuple[Outbox, Verdict]:
    """The line is about to end over this message, which was repeated to the last and never acknowledged.

    Where the broker was as silent to other topics, and to whatever was sent after it, that is no fault of the message.
    """
    flight = outbox.in_flight.get(number)
    silent = any(other.topic != flight.topic and now - other.sent_at >= MUTE_S
                 for other in outbox.in_flight.values()) if flight else False
    if flight is None or (silent and outbox.last_acknowledged < number):
        return outbox, Verdict()
    return _struck(outbox, number, flight, "the broker never acknowledges", "", now)


def resting(outbox: Outbox, now: float) -> tuple[Outbox, tuple[str, ...]]:
    """Return the topics to leave out now, since they are denied or have their share in vain; and the outbox, which
    begins from the first where one of them is left out no longer.

    What has rested is denied again with one more strike.
    """
    left_out = _mute(outbox, now)
    if outbox.denied:
        over = [topic for topic, until in outbox.denied.items() if until <= now]
        if over:
            outbox = outbox._replace(
                denied={topic: until for topic, until in outbox.denied.items() if topic not in over},
                drops={**outbox.drops, **dict.fromkeys(over, STRIKES_OF_A_TOPIC - 1)})
        left_out |= outbox.denied.keys()
    if left_out != outbox.left_out:
        cursor = outbox.cursor if left_out >= outbox.left_out else 0
        outbox = outbox._replace(left_out=left_out, cursor=cursor)
    return outbox, tuple(left_out)


def _cause(outbox: Outbox, flight: Flight) -> str:
    """Return what of this broker may be the cause, which closes the line without a word (MQTT 3.1.1, 4.8)."""
    if flight.qos and not outbox.largest:
        return "; it has taken nothing at QoS 1 yet: does it allow that?"
    if flight.size > outbox.largest:
        return f"; it has {flight.size} bytes, and the largest that was taken {outbox.largest}: does it take packets " \
               "of that size?"
    return ""


def _struck(
    outbox: Outbox, number: int, flight: Flight, how: str, cause: str, now: float
) -> tuple[Outbox, Verdict]:
    """Count a strike against the message and its topic."""
    topic = flight.topic
    strikes = {**outbox.strikes, number: outbox.strikes.get(number, 0) + 1}
    drops = {**outbox.drops, topic: outbox.drops.get(topic, 0) + 1}
    verdict = Verdict()
    if drops[topic] >= STRIKES_OF_A_TOPIC:
        strikes.pop(number)
        outbox = outbox._replace(denied={**outbox.denied, topic: now + DENIED_S})
        verdict = Verdict(back=topic, entries=(Entry(
            logging.WARNING, "publish.denied",
            f"{how} every message of this topic, probably by policy; it rests for an hour{cause}",
            {"topic": topic, "drops": drops.pop(topic), "retry_in_s": DENIED_S, "bytes": flight.size,
             "qos": flight.qos}),))
    elif strikes[number] >= STRIKES_OF_A_MESSAGE:
        strikes.pop(number)
        verdict = Verdict(aside=number, entries=(Entry(
            logging.WARNING, "publish.set_aside", f"{how} this message; it is kept and not sent again{cause}",
            {"topic": topic, "id": number, "bytes": flight.size, "qos": flight.qos}),))
    return outbox._replace(strikes=strikes, drops=drops, welcome=outbox.welcome - {topic}), verdict


def _shares(outbox: Outbox, rows: Sequence[Waiting]) -> Counter[str] | None:
    """Return how many places each topic holds, None where none can have more than its share, or is alone."""
    alone = not rows or outbox.topics <= {rows[0].topic}
    if alone or len(outbox.in_flight) + len(rows) <= outbox.limits.window // SHARE:
        return None
    return Counter(flight.topic for flight in outbox.in_flight.values())


def _mute(outbox: Outbox, now: float) -> frozenset[str]:
    """Return the topics that hold their share and are given no answer, or have had a strike for it."""
    share = outbox.limits.window // SHARE
    if not outbox.topics or len(outbox.in_flight) < share:
        return frozenset()
    oldest = next(iter(outbox.in_flight.values()))
    if now - oldest.sent_at < MUTE_S and not outbox.drops:
        return frozenset()
    newest = {flight.topic: flight.sent_at for flight in outbox.in_flight.values()}
    held = Counter(flight.topic for flight in outbox.in_flight.values())
    return frozenset(topic for topic, count in held.items() if count >= share and not outbox.topics <= {topic}
                     and (topic in outbox.drops or now - newest[topic] >= MUTE_S))


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
