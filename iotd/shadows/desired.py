"""What is desired is done once: which key of a delta to act on, when again after a failure, what to report. Pure.

A delta is the whole difference each time it comes, and it comes after every report while there is one. So a key is
acted on by its content: the same value again means that the report has not arrived, and is answered by a report.
What is reported is always said whole, so that a line that is lost anywhere leaves nothing undone: the get on the next
one brings the difference that is left, and the report there says what has been done.

An order is written down before it is begun (`Duty.KEEP`). One that iotd did not see end is not begun again, since it
may be the very thing that ended iotd; it is reported as failed, and begun when something else is desired.
"""

import json
import logging
import math
from collections.abc import Mapping
from enum import Enum
from typing import Any, NamedTuple

from iotd.config import template
from iotd.shadows.section import Action, Run, Set
from iotd.vocabulary import Entry, Json

RETRY_FIRST_S, RETRY_MAX_S = 30.0, 3600.0  # after a failure, doubling
LOOP_S, LOOP_ACTS, LOOP_REPORTS = 60.0, 5, 3  # more than so many in a minute is a loop
MAX_VALUE_BYTES = 8192  # of JSON: a whole shadow
MAX_DEPTH = 8
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
    back while it is acted on; `applied` is what was last done, and is reported. `acted` and `said` are when it was,
    within the last minute.
    """

    action: Action
    text: str
    stage: str
    reason: str = ""
    acting_on: str = ""
    applied: str | None = None
    failures: int = 0
    at: float | None = None
    acted: tuple[float, ...] = ()
    said: tuple[float, ...] = ()
    looped: bool = False


class Orders(NamedTuple):
    """All that is known of what one shadow desires: by key; `left` are the keys that have no action, as last seen."""

    shadow: str | None
    actions: Mapping[str, Action]
    orders: Mapping[str, Order] = {}
    left: Mapping[str, str] = {}
    dropped: tuple[str, ...] = ()


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
    return {key: {"action": _kind(order.action), "text": order.text, "stage": order.stage, "reason": order.reason,
                  "applied": order.applied, "failures": order.failures} for key, order in orders.orders.items()}


def heard(orders: Orders, delta: Json, now: float) -> tuple[Orders, list[Effect]]:
    """Take the whole difference between desired and reported as it is now, None where there is none."""
    wanted = delta if isinstance(delta, dict) else {}
    effects: list[Effect] = []
    for key, value in wanted.items():
        text, problem = _canonical(value)
        if key not in orders.actions:
            orders, more = _left(orders, key, text or problem)
        elif problem:
            orders, more = _refused(orders, key, problem)
        else:
            orders, more = _wanted(orders, key, text, now)
        effects += more
    for key in orders.orders.keys() - wanted.keys():
        orders, more = _not_wanted(orders, key)
        effects += more
    return orders._replace(left={key: text for key, text in orders.left.items() if key in wanted}), effects


def finished(orders: Orders, key: str, reason: str, now: float) -> tuple[Orders, list[Effect]]:
    """Take the end of an `Act`; `reason` says why it failed, and is empty where it did not."""
    order = orders.orders.get(key)
    if order is None or order.stage != "acting":  # the configuration has changed meanwhile
        return orders, []
    applied = order.applied if reason else order.acting_on
    fields = {"shadow": orders.shadow, "key": key, "value": json.loads(order.acting_on)}
    if not order.text and reason:  # taken back meanwhile: nobody wants it to be tried again
        return _not_wanted(_put(orders, key, order._replace(stage="over")), key)
    if order.text not in ("", order.acting_on):
        order = order._replace(stage="waiting", applied=applied, at=now, failures=0)
        return _act_or_wait(orders, key, order, now)
    if reason:
        failures = order.failures + 1
        pause_s = min(RETRY_MAX_S, RETRY_FIRST_S * 2 ** min(failures - 1, 30))
        order = order._replace(stage="failed", reason=reason[:REASON_CHARACTERS], failures=failures, at=now + pause_s)
        entry = Entry(logging.WARNING, "desired.failed", f"what is desired of {key} could not be done: {reason}",
                      {**fields, "reason": reason, "retry_in_s": pause_s})
    else:
        order = order._replace(text=order.acting_on, stage="done", reason="", applied=applied, failures=0, at=None)
        entry = Entry(logging.INFO, "desired.done", f"what is desired of {key} is done", fields)
    return _put(orders, key, order), [entry, Duty.KEEP, Duty.REPORT]


def keep(orders: Orders, now: float) -> tuple[Orders, list[Effect]]:
    """Act again where that is due."""
    effects: list[Effect] = []
    for key, order in orders.orders.items():
        if order.at is not None and order.at <= now:
            orders, more = _act_or_wait(orders, key, order, now)
            effects += more
    return orders, effects


def next_due(orders: Orders) -> float:
    """Return when `keep` has something to do, math.inf for never."""
    return min((order.at for order in orders.orders.values() if order.at is not None), default=math.inf)


def reported(orders: Orders) -> dict[str, Json]:
    """Return the keys to lay over every report: what was done, and null for what is not iotd's business any more."""
    done = {key: json.loads(order.applied) for key, order in orders.orders.items() if order.applied is not None}
    return {**{key: None for key in orders.dropped}, **done}


def failures(orders: Orders) -> list[Json]:
    """Return what could not be done and why, for the reported state.

    A list, since the shadow service replaces it whole: it needs no memory of what an earlier report said.
    """
    found: list[Json] = []
    room = MAX_FAILURES_BYTES
    for key, order in sorted(orders.orders.items()):
        entry = {"key": key[:REASON_CHARACTERS], "reason": order.reason}
        room -= len(json.dumps(entry))
        if order.reason and room >= 0:
            found.append(entry)
    return found


def overrides(orders: Orders) -> dict[str, Json]:
    """Return the settings that the cloud has set, by their name."""
    return {order.action.setting: json.loads(order.applied) for order in orders.orders.values()
            if isinstance(order.action, Set) and order.applied is not None}


def arguments(command: tuple[str, ...], value: Json) -> tuple[str, ...]:
    """Return the command with `value` in the place of `{value}`: text as it is, anything else as JSON writes it.

    Raises ValueError for a text that no program can be given (NUL), or that it may take for an option.
    """
    is_text = isinstance(value, str)
    text = value if is_text else json.dumps(value, ensure_ascii=False)
    return template.fill_command(command, {"value": text}, wary=is_text)


def _wanted(orders: Orders, key: str, text: str, now: float) -> tuple[Orders, list[Effect]]:
    order = orders.orders.get(key)
    action = orders.actions[key]
    if order is None:
        return _act_or_wait(orders, key, Order(action, text, "waiting", at=now), now)
    if order.text != text:
        looped = order.looped and bool(_within(order.acted, now))  # one that goes on is named once
        fresh = order._replace(text=text, failures=0, said=(), looped=looped)
        if order.stage == "acting":
            return _put(orders, key, fresh), []
        return _act_or_wait(orders, key, fresh._replace(stage="waiting", at=now), now)
    if order.stage != "done":
        return orders, []
    # Done, and yet it differs: our report has not come through, or somebody else's came after it.
    said = _within(order.said, now)
    if len(said) < LOOP_REPORTS:
        return _put(orders, key, order._replace(said=(*said, now))), [Duty.REPORT]
    entry = Entry(logging.WARNING, "desired.loop",
                  f"{key} is reported as desired and yet differs each time; does another program report it as well?",
                  {"shadow": orders.shadow, "key": key, "value": json.loads(text)})
    return _put(orders, key, order._replace(said=said, looped=True)), [] if order.looped else [entry]


def _act_or_wait(orders: Orders, key: str, order: Order, now: float) -> tuple[Orders, list[Effect]]:
    """Act on the newest value, or put it off where the cloud changes its mind without end."""
    acted = _within(order.acted, now)
    if len(acted) >= LOOP_ACTS:
        entry = Entry(logging.WARNING, "desired.loop",
                      f"{key} was desired differently {len(acted)} times in a minute; the next time waits",
                      {"shadow": orders.shadow, "key": key, "value": json.loads(order.text)})
        waiting = order._replace(stage="waiting", at=acted[0] + LOOP_S, acted=acted, looped=True)
        return _put(orders, key, waiting), [] if order.looped else [entry, Duty.KEEP]
    order = order._replace(stage="acting", acting_on=order.text, at=None, reason="", acted=(*acted, now))
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
    if orders.left.get(key) == text:
        return orders, []
    entry = Entry(logging.INFO, "desired.left", f"{key} is desired, and on_delta has no action for it",
                  {"shadow": orders.shadow, "key": key})
    return orders._replace(left={**orders.left, key: text}), [entry]


def _not_wanted(orders: Orders, key: str) -> tuple[Orders, list[Effect]]:
    """The key is in step again, by our report or since the cloud took its wish back."""
    order = orders.orders[key]
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
    if not (text == "" or _is_json(text)) or not (applied is None or _is_json(applied)) or type(failed) is not int:
        return None
    order = Order(action, str(text), "over", str(reason), applied=applied, failures=failed)
    if stage == "acting" and isinstance(action, Run):
        return order._replace(reason="iotd ended while this was done; it may or may not be")
    if stage == "failed":
        return order._replace(stage="failed", at=now + RETRY_FIRST_S)
    if stage in ("waiting", "acting") and text:
        return order._replace(stage="waiting", at=now)
    return order._replace(stage="done" if stage == "done" and text else "over")


def _kind(action: Action) -> str:
    return f"set {action.setting}" if isinstance(action, Set) else "run"


def _canonical(value: Json) -> tuple[str, str]:
    """Return the JSON text by which a value is compared, or what keeps it from being acted on."""
    if _depth(value) > MAX_DEPTH:
        return "", f"it is nested deeper than {MAX_DEPTH} levels"
    try:
        text = json.dumps(value, ensure_ascii=False, sort_keys=True, allow_nan=False)
        size = len(text.encode("utf-8"))
    except ValueError:
        return "", "it is no JSON: a number that is none, or half a character"
    return (text, "") if size <= MAX_VALUE_BYTES else ("", f"it has {size} bytes, at most {MAX_VALUE_BYTES} are taken")


def _depth(value: Json) -> int:
    """Return how deep a value is nested, without recursion, and no further than it matters."""
    level, layer = 0, [value]
    while level <= MAX_DEPTH:
        layer = [child for parent in layer if isinstance(parent, (dict, list))
                 for child in (parent.values() if isinstance(parent, dict) else parent)]
        if not layer:
            return level
        level += 1
    return level


def _is_json(text: Json) -> bool:
    try:
        json.loads(text)
    except (TypeError, ValueError, RecursionError):
        return False
    return isinstance(text, str)


def _within(times: tuple[float, ...], now: float) -> tuple[float, ...]:
    return tuple(at for at in times if at > now - LOOP_S)


def _put(orders: Orders, key: str, order: Order) -> Orders:
    return orders._replace(orders={**orders.orders, key: order})
