"""Every sequence of events up to a length: what is desired, and what goes out."""

from __future__ import annotations

import json
import math
from typing import NamedTuple

from iotd.outgoing import outbox
from iotd.outgoing.outbox import Limits, Outbox, Waiting
from iotd.shadows import desired
from iotd.shadows.desired import Act, Duty, Orders
from iotd.shadows.section import Run
from iotd.vocabulary import Json
from tests.sim.enumeration import count, every

# What is desired

ACTIONS = {"k": Run(("/bin/true", "{value}"))}
HOUR_S = 3601.0


class Wished(NamedTuple):
    """What the cloud desires, how often it has changed its mind, and what was run for which of its minds."""

    orders: Orders
    now: float = 0.0
    wish: Json = None
    minds: int = 0
    running: tuple[Json, int] | None = None
    done: frozenset[int] = frozenset()  # the minds that were done
    cut: frozenset[int] = frozenset()  # the minds whose command iotd did not see end
    reported: bool = False  # a report is out, to which the service answers with what still differs
    version: int = 0  # of the shadow


def obey(before: Wished, event: str) -> Wished | None:
    orders, now = before.orders, before.now
    if event in ("well", "fails"):
        if before.running is None:
            return None
        done = before.done | {before.running[1]} if event == "well" else before.done
        before = before._replace(running=None, done=done)
        return acted(before, *desired.finished(orders, "k", "" if event == "well" else "it failed", now))
    if event == "restart":
        kept = json.loads(json.dumps(desired.to_json(orders)))
        cut = before.cut | {before.running[1]} if before.running else before.cut
        return before._replace(orders=desired.start("s", ACTIONS, kept, now), running=None, cut=cut, reported=True)
    if event == "an hour":
        now += HOUR_S
        return acted(before._replace(now=now), *desired.keep(orders, now))
    if event != "told again":
        wish = {"desire 1": 1, "desire 2": 2, "take back": None}[event]
        if wish == before.wish:
            return None
        before = before._replace(wish=wish, minds=before.minds + 1, version=before.version + 1)
    reported, version = desired.reported(orders), before.version
    if before.reported:
        version += 1
        orders = desired.taken(orders, reported, version, now)
    delta = None if before.wish is None or before.wish == reported.get("k") else {"k": before.wish}
    return acted(before._replace(reported=False, version=version), *desired.heard(orders, delta, version, now))


def acted(before: Wished, orders: Orders, effects: list[desired.Effect]) -> Wished:
    kept = False
    for effect in effects:
        kept = kept or effect is Duty.KEEP
        if isinstance(effect, Act):
            assert kept, "it is begun before it is written down"
            assert before.running is None, "two commands of a key run at a time"
            assert effect.value == before.wish, "what nobody desires is done"
            assert before.minds not in before.done, "it is done twice"
            assert before.minds not in before.cut, "it is done again after it was cut off"
            before = before._replace(running=(effect.value, before.minds))
    after = before._replace(orders=orders, reported=before.reported or Duty.REPORT in effects)
    order = orders.orders.get("k")
    if after.running is None and after.wish is not None and order is not None:
        said = desired.reported(orders).get("k") == after.wish or bool(desired.failures(orders))
        assert said or order.at is not None or after.reported, "it is neither done, nor told, nor tried again"
    return after


def test_what_is_desired_is_done_once_in_every_order_of_wishes_ends_and_restarts() -> None:
    events = ["desire 1", "desire 2", "take back", "told again", "well", "fails", "restart", "an hour"]
    start = Wished(desired.start("s", ACTIONS, None, 0.0))
    assert count(every(start, events, 6, obey)) > 40_000


# What goes out

LIMITS = Limits(window=2, per_second=2.0, burst=1.0, bytes_per_second=1e9, bytes_burst=1e9, retained_pause_s=1.0)


class Box(NamedTuple):
    """The outbox, what waits, and what a bystander knows: what was handed over on this line, and when."""

    outbox: Outbox = Outbox(limits=LIMITS)
    rows: tuple[Waiting, ...] = ()
    aside: frozenset[int] = frozenset()
    made: int = 0
    now: float = 0.0
    handed: tuple[int, ...] = ()
    times: tuple[float, ...] = ()
    retained: tuple[tuple[str, float], ...] = ()


def send(before: Box, event: str) -> Box | None:
    box, now = before.outbox, before.now
    if event.startswith("make"):
        row = Waiting(before.made + 1, event[-1], b"x", 1, True)
        return pumped(before._replace(rows=(*before.rows, row), made=row.id))
    if event.startswith("ack"):
        flying = sorted(box.in_flight)
        if not flying:
            return None
        number = flying[0] if event == "ack the oldest" else flying[-1]
        if len(flying) == 1 and event == "ack the newest":
            return None
        rows = tuple(row for row in before.rows if row.id != number)
        return pumped(before._replace(outbox=outbox.acknowledged(box, [number]), rows=rows))
    if event.startswith("fall"):
        box, verdict = outbox.fell(box, event == "fall, blamed", now)
        aside = before.aside if verdict.aside is None else before.aside | {verdict.aside}
        back = {row.id for row in before.rows if row.topic == verdict.back}
        return pumped(before._replace(outbox=box, aside=aside - back, handed=(), now=now + 2.0))
    return pumped(before._replace(now=now + (0.5 if event == "a moment" else 6.0)))


def pumped(before: Box) -> Box:
    """Hand over what may go, as the part does."""
    box, resting = outbox.resting(before.outbox, before.now)
    newest = {row.topic: row.id for row in before.rows}
    waiting = [row for row in before.rows if row.topic not in resting and row.id not in before.aside]
    rows = [row for row in waiting if row.id > box.cursor][:outbox.room(box)]
    box, chosen, again_at = outbox.take(box, rows, newest, before.now)
    after = before._replace(outbox=box)
    for number, message in chosen:
        after = handed(after, number, message.topic, message.retain, newest)
    left = [row for row in waiting if row.id > box.cursor]
    assert not left or again_at != math.inf or box.in_flight, "something waits, and nobody will ask for it again"
    assert not left or again_at > before.now, "time would stand still"
    return after


def handed(box: Box, number: int, topic: str, retain: bool, newest: dict[str, int]) -> Box:
    row = next(row for row in box.rows if row.id == number)
    assert number not in box.handed, "handed over twice on one line"
    assert not any(other > number and other in box.handed and of_topic(box, other) == topic for other in range(
        number + 1, box.made + 1)), "an older message of the topic comes after a newer one"
    assert retain == (newest[topic] <= number), "the newest alone carries RETAIN"
    assert len(box.outbox.in_flight) <= (1 if box.outbox.careful else LIMITS.window), "more than the window"
    times = tuple(at for at in box.times if at > box.now - 1.0)
    assert len(times) + 1 <= 3, "more in a second than the limit, and what may go at once"
    if retain:
        assert all(box.now - at >= 1.0 for name, at in box.retained if name == topic), "retained twice in a second"
        box = box._replace(retained=(*(pair for pair in box.retained if pair[0] != topic), (topic, box.now)))
    assert row.id not in box.aside, "what was set aside goes out"
    return box._replace(handed=(*box.handed, number), times=(*times, box.now))


def of_topic(box: Box, number: int) -> str:
    return next((row.topic for row in box.rows if row.id == number), "")


def test_what_goes_out_keeps_its_order_and_the_limits_in_every_order_of_events() -> None:
    events = ["make a", "make b", "ack the oldest", "ack the newest", "fall", "fall, blamed", "a moment", "a while"]
    assert count(every(Box(), events, 6, send)) > 80_000


def test_nothing_is_out_of_step_after_many_blamed_falls_in_every_order() -> None:
    rows = tuple(Waiting(number, "ab"[number % 2], b"x", 1, True) for number in range(1, 4))
    suspected = Box(Outbox(limits=LIMITS, falls=2, careful=True), rows, made=3)
    events = ["ack the oldest", "fall, blamed", "a while", "make a"]
    assert count(every(suspected, events, 9, send)) > 10_000
