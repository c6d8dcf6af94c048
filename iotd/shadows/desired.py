"""What is desired is done once: which key of a delta to act on, when again after a failure, what to report. Pure.

A delta is the whole difference each time it comes, and it comes after every report while there is one. So a key is
acted on by its content: the same value again means that the report has not arrived, and is answered by a report.
What is reported is always said whole, so that a line that is lost anywhere leaves nothing undone: the get on the next
one brings the difference that is left, and the report there says what has been done. Only a fight over a key holds its
report back (`loops`).

While the line is away what is desired may be withdrawn: nothing is begun then, nor after a restart, and nothing tried
again, until it is heard once more.

An order is written down before it is begun (`Duty.KEEP`). One that iotd did not see end is not begun again, since it
may be the very thing that ended iotd; it is reported as failed, and begun when something else is desired. What was done
before it may hold no longer, and is taken out of the report, so that it is done again where it is desired again.
"""

import json
import logging
import math
from collections.abc import Mapping
from enum import Enum
from typing import Any, NamedTuple

from iotd.shadows import loops
from iotd.shadows.documents import alike, canonical, is_json, same, size_of
from iotd.shadows.loops import Loop
from iotd.shadows.section import Action, Run, Set
from iotd.vocabulary import Entry, Json

RETRY_FIRST_S, RETRY_MAX_S = 30.0, 3600.0  # after a failure, doubling
AGAIN_S, AGAIN_REPORTS = 60.0, 3  # so many reports in a minute for what was done and is desired still
MAX_FAILURES_BYTES = 1024  # of the reported state
REASON_CHARACTERS = 120

Effect = Any  # Entry, Duty or Act


class Duty(Enum):
    """What an order asks for beside its act."""

    KEEP = "write `to_json` down, durably; where that fails, answer the Act after it by `finished` with the reason"
    REPORT = "report now"


class Act(NamedTuple):
    """Do what is desired of this key, and say by `finished` how it went."""

    key: str
    action: Action
    value: Json


class Order(NamedTuple):
    """What is known of one key; values are their canonical JSON, for they are compared by content.

    `stage`: waiting (to be acted on at `at`), acting (on `acting_on`), done, failed (to be tried again at `at`), over
    (not before something else is desired). `text` is what is desired now, empty for a value that was refused, or taken
    back while it is acted on; `applied` is what was last done, and is reported; `unsaid` is why that is not possible.
    `said` are the times, within the last minute, of reports that were asked for since it is desired still.
    """

    action: Action
    text: str
    stage: str
    reason: str = ""
    acting_on: str = ""
    applied: str | None = None
    failures: int = 0
    at: float | None = None
    unsaid: str = ""
    said: tuple[float, ...] = ()
    loop: Loop = Loop()


class Orders(NamedTuple):
    """All that is known of what one shadow desires: by key; `left` are the keys that have no action, as last seen.

    `current`: it was heard on this line.
    """

    shadow: str | None
    actions: Mapping[str, Action]
    orders: Mapping[str, Order] = {}
    left: Mapping[str, str] = {}
    dropped: tuple[str, ...] = ()
    current: bool = False


def start(shadow: str | None, actions: Mapping[str, Action], kept: Json, now: float) -> Orders:
    """Return what is known at the start; `kept` is what `to_json` gave in an earlier run.

    A key without an action, or with another one than before, is dropped, and so is its value; what makes no sense in
    `kept` is dropped as well.
    """
    orders, dropped = {}, []
    for key, entry in kept.items() if isinstance(kept, dict) else ():
        action = actions.get(key)
        order = _restored(action, entry, now) if action is not None else None
        if order is not None:
            orders[key] = order
        else:
            dropped.append(key)
    return Orders(shadow, actions, orders, {}, tuple(dropped))


def changed(orders: Orders, actions: Mapping[str, Action]) -> Orders:
    """Return what is known after the configuration was read anew; what is under way comes to its end.

    A key that has lost its action, or has one of another kind, is dropped as at the start.
    """
    remaining = {key: order._replace(action=actions[key]) for key, order in orders.orders.items()
                 if key in actions and _kind(actions[key]) == _kind(order.action)}
    gone = {*orders.dropped, *orders.orders} - remaining.keys()
    return orders._replace(actions=actions, orders=remaining, left={}, dropped=tuple(sorted(gone)))


def without(orders: Orders, setting: str) -> Orders:
    """Return what is known once the cloud's value of a setting is of no use any more; it is dropped as at the start."""
    gone = {key for key, order in orders.orders.items()
            if isinstance(order.action, Set) and order.action.setting == setting}
    remaining = {key: order for key, order in orders.orders.items() if key not in gone}
    return orders._replace(orders=remaining, dropped=tuple(sorted({*orders.dropped, *gone})))


def to_json(orders: Orders) -> dict[str, Json]:
    """Return what must be known after a restart."""
    return {key: {"action": _kind(order.action), "text": order.acting_on if order.stage == "acting" else order.text,
                  "stage": order.stage, "reason": order.reason, "applied": order.applied, "failures": order.failures}
            for key, order in orders.orders.items()}


def away(orders: Orders) -> Orders:
    """The line is down: what is desired may change unheard."""
    return orders._replace(current=False)


def heard(orders: Orders, delta: Json, version: int, now: float) -> tuple[Orders, list[Effect]]:
    """Take all that is desired and not reported as of a version of the shadow, whole by key, None for nothing."""
    wanted = delta if isinstance(delta, dict) else {}
    orders, effects = orders._replace(current=True), list[Effect]()
    for key, value in wanted.items():
        text, problem = canonical(value)
        if key not in orders.actions:
            orders, more = _left(orders, key, text or problem)
        elif problem:
            orders, more = _refused(orders, key, problem)
        else:
            orders, more = _wanted(orders, key, text, version, now)
        effects += more
    for key in sorted(orders.orders.keys() - wanted.keys()):
        orders, more = _not_wanted(orders, key)
        effects += more
    return orders._replace(left={key: text for key, text in orders.left.items() if key in wanted}), effects


def taken(orders: Orders, reported_state: Mapping[str, Json], version: int, now: float) -> Orders:
    """The service has taken this report, and the shadow has that version."""
    for key, order in orders.orders.items():
        if order.applied is not None and key in reported_state and same(reported_state[key], json.loads(order.applied)):
            orders = _put(orders, key, order._replace(loop=loops.told(order.loop, version, now)))
    return orders


def unreported(orders: Orders, reasons: Mapping[str, str]) -> tuple[Orders, list[Effect]]:
    """Take which keys cannot be reported, and why; that itself is told where they are other ones than before."""
    effects: list[Effect] = []
    for key, order in orders.orders.items():
        why = "" if order.applied is None else reasons.get(key, "")
        if bool(why) != bool(order.unsaid):
            orders, effects = _put(orders, key, order._replace(unsaid=why)), [Duty.REPORT]
    return orders, effects


def finished(orders: Orders, key: str, reason: str, now: float) -> tuple[Orders, list[Effect]]:
    """Take the end of an `Act`; `reason` says why it failed, and is empty where it did not."""
    order = orders.orders.get(key)
    if order is None or order.stage != "acting":  # the configuration has changed meanwhile
        return orders, []
    applied = order.applied if reason else order.acting_on
    fields = {"shadow": orders.shadow, "key": key, "value": json.loads(order.acting_on)}
    if reason and not order.text:  # nobody wants it to be tried again
        return _not_wanted(_put(orders, key, order._replace(stage="over")), key)
    if order.text and order.text != order.acting_on:
        return _act(orders, key, order._replace(stage="waiting", applied=applied, at=now, failures=0), now)
    if reason:
        failures = order.failures + 1
        pause_s = min(RETRY_MAX_S, RETRY_FIRST_S * 2 ** min(failures - 1, 30))
        order = order._replace(stage="failed", reason=reason[:REASON_CHARACTERS], failures=failures, at=now + pause_s)
        entry = Entry(logging.WARNING, "desired.failed", f"what is desired of {key} could not be done: {reason}",
                      {**fields, "reason": reason, "retry_in_s": pause_s})
        return _put(orders, key, order), [entry, Duty.KEEP, Duty.REPORT]
    order = order._replace(text=order.acting_on, stage="done", reason="", applied=applied, failures=0, at=None,
                           unsaid="", loop=loops.done(order.loop, now))
    entry = Entry(logging.INFO, "desired.done", f"what is desired of {key} is done", fields)
    return _put(orders, key, order), [entry, Duty.KEEP, *([] if order.loop.is_held else [Duty.REPORT])]


def keep(orders: Orders, now: float) -> tuple[Orders, list[Effect]]:
    """Act again where that is due, and report what was held back."""
    effects: list[Effect] = []
    for key, order in orders.orders.items():
        if order.loop.held_until <= now:
            order = order._replace(loop=loops.released(order.loop))
            orders, effects = _put(orders, key, order), [*effects, Duty.REPORT]
        if order.at is not None and order.at <= now:
            orders, more = _act(orders, key, order, now)
            effects += more
    return orders, effects


def next_due(orders: Orders) -> float:
    """Return when `keep` has something to do, math.inf for never."""
    acts = [order.at for order in orders.orders.values() if orders.current and order.at is not None]
    return min([math.inf, *acts, *(order.loop.held_until for order in orders.orders.values())])


def reported(orders: Orders) -> dict[str, Json]:
    """Return the keys to lay over every report: what was done, and null for what is not iotd's business any more."""
    done = {key: json.loads(order.applied) for key, order in orders.orders.items()
            if order.applied is not None and not order.loop.is_held}
    gone = [*orders.dropped, *(key for key, order in orders.orders.items()
                               if order.stage == "over" and order.applied is None)]
    return {**{key: None for key in gone}, **done}


def failures(orders: Orders) -> list[Json]:
    """Return what could not be done, or not be reported, and why."""
    reasons = {key: order.reason or (order.unsaid and f"it was done and cannot be reported: {order.unsaid}")
               for key, order in sorted(orders.orders.items())}
    return [{"key": key[:REASON_CHARACTERS], "reason": reason[:REASON_CHARACTERS]}
            for key, reason in reasons.items() if reason]


def told(failures: list[Json]) -> dict[str, Json]:
    """Return what of the failures is told in the reported state, at most 1 KB of it, and how many are left out.

    A list, since the shadow service replaces it whole: it needs no memory of what an earlier report said. Null takes
    the number out of the shadow.
    """
    found: list[Json] = []
    room = MAX_FAILURES_BYTES
    for entry in failures:
        room -= size_of(entry) + 1
        if room < 0:
            break
        found.append(entry)
    return {"failed": found, "left_out": len(failures) - len(found) or None}


def overrides(orders: Orders) -> dict[str, Json]:
    """Return the settings that the cloud has set, by their name."""
    return {order.action.setting: json.loads(order.applied) for order in orders.orders.values()
            if isinstance(order.action, Set) and order.applied is not None}


def _wanted(orders: Orders, key: str, text: str, version: int, now: float) -> tuple[Orders, list[Effect]]:
    order = orders.orders.get(key)
    if order is None:
        return _act(orders, key, Order(orders.actions[key], text, "waiting", at=now), now)
    if not order.text or not alike(order.text, text):
        loop, is_fight = loops.changed(order.loop, order.stage == "done", version, now)
        order = order._replace(text=text, failures=0, said=(), loop=loop)
        named = [_loop(orders, key, text, "each report of it is answered by something else that is desired")]
        if order.stage == "acting":
            return _put(orders, key, order), []
        orders, effects = _act(orders, key, order._replace(stage="waiting", at=now), now)
        return orders, [*(named if is_fight else []), *effects]
    if order.stage == "done" and not order.loop.is_held and not order.unsaid:
        return _still_wanted(orders, key, order, version, now)
    return orders, []


def _still_wanted(
    orders: Orders, key: str, order: Order, version: int, now: float
) -> tuple[Orders, list[Effect]]:
    """Done, and yet it differs: our report has not come through, or somebody else's came after it."""
    if order.loop.told is None:
        said = tuple(at for at in order.said if at > now - AGAIN_S)
        if len(said) == AGAIN_REPORTS:
            return orders, []
        return _put(orders, key, order._replace(said=(*said, now))), [Duty.REPORT]
    if version <= order.loop.told:
        return orders, []
    loop, is_fight = loops.overruled(order.loop, now)
    entry = _loop(orders, key, order.text, "it is reported as desired, and something else after that; does another "
                                           "program report it as well?")
    return _put(orders, key, order._replace(loop=loop)), [
        *([entry] if is_fight else []), *([] if loop.is_held else [Duty.REPORT])]


def _loop(orders: Orders, key: str, text: str, why: str) -> Entry:
    return Entry(logging.WARNING, "desired.loop", f"a fight over {key}: {why}; it is reported less and less often",
                 {"shadow": orders.shadow, "key": key, "value": json.loads(text)})


def _act(orders: Orders, key: str, order: Order, now: float) -> tuple[Orders, list[Effect]]:
    """Act on the newest value, once it is certain that it is desired."""
    if not orders.current:
        return _put(orders, key, order), []
    order = order._replace(stage="acting", acting_on=order.text, at=None, reason="", unsaid="")
    return _put(orders, key, order), [Duty.KEEP, Act(key, order.action, json.loads(order.text))]


def _refused(orders: Orders, key: str, problem: str) -> tuple[Orders, list[Effect]]:
    """A value that nothing can be done with is named once; an earlier one that is being acted on comes to its end."""
    old = orders.orders.get(key, Order(orders.actions[key], "", "over"))
    if old.stage == "over" and old.reason == problem:
        return orders, []
    order = old._replace(text="", stage="over", reason=problem, at=None)
    entry = Entry(logging.WARNING, "desired.refused", f"what is desired of {key} cannot be done: {problem}",
                  {"shadow": orders.shadow, "key": key, "reason": problem})
    return _put(orders, key, order), [entry, Duty.KEEP, Duty.REPORT]


def _left(orders: Orders, key: str, text: str) -> tuple[Orders, list[Effect]]:
    known = orders.left.get(key)
    if known is not None and (known == text or is_json(known) and is_json(text) and alike(known, text)):
        return orders, []
    entry = Entry(logging.INFO, "desired.left", f"{key} is desired, and on_delta has no action for it",
                  {"shadow": orders.shadow, "key": key})
    return orders._replace(left={**orders.left, key: text}), [entry]


def _not_wanted(orders: Orders, key: str) -> tuple[Orders, list[Effect]]:
    """The key is in step again, by our report or since the cloud took its wish back."""
    order = orders.orders[key]
    if order.stage == "done" and order.loop.is_held:  # what stands there is desired again
        return _put(orders, key, order._replace(loop=Loop())), [Duty.REPORT]
    if order.stage == "done":
        return orders, []
    if order.stage == "acting":
        return _put(orders, key, order._replace(text="")), []
    if order.applied is None:
        remaining = {name: other for name, other in orders.orders.items() if name != key}
        return orders._replace(orders=remaining), [Duty.KEEP, Duty.REPORT]
    order = order._replace(text=order.applied, stage="done", reason="", failures=0, at=None)
    return _put(orders, key, order), [Duty.KEEP, Duty.REPORT]


def _restored(action: Action, entry: Json, now: float) -> Order | None:
    if not isinstance(entry, dict) or entry.get("action") != _kind(action):
        return None
    text, stage, reason, applied, failed = (entry.get(name) for name in
                                            ("text", "stage", "reason", "applied", "failures"))
    if not (text == "" or is_json(text)) or not (applied is None or is_json(applied)) or type(failed) is not int:
        return None
    order = Order(action, str(text), "over", str(reason), applied=applied, failures=failed)
    if stage == "acting" and isinstance(action, Run):
        return order._replace(reason="iotd ended while this was done; it may or may not be", applied=None)
    if stage == "failed":
        return order._replace(stage="failed", at=now + RETRY_FIRST_S)
    if stage in ("waiting", "acting") and text:
        return order._replace(stage="waiting", at=now)
    return order._replace(stage="done" if stage == "done" and text else "over")


def _kind(action: Action) -> str:
    return f"set {action.setting}" if isinstance(action, Set) else "run"


def _put(orders: Orders, key: str, order: Order) -> Orders:
    return orders._replace(orders={**orders.orders, key: order})
