"""Every sequence of events up to a length: recovery, presence, subscriptions, dialling and denial."""

from __future__ import annotations

import json
import math
from typing import Any, NamedTuple

from iotd.daemon import denial, presence, reconnect, subscriptions
from iotd.daemon.presence import Standing
from iotd.mqtt.settings import Backoff
from iotd.vocabulary import Entry, Received
from iotd.wifi import recovery
from iotd.wifi.reading import Reading
from iotd.wifi.recovery import Budget, Circumstances
from iotd.wifi.section import RebootBudget, Wifi
from tests.sim.enumeration import count, every

# Recovery of the Wi-Fi

WIFI = Wifi(essid=("right",), every_s=60.0, grace_s=120.0, reboot=RebootBudget(1, 60.0))
LOOKS = {  # what is seen, a minute after the last look, and whether there is a line and another route
    "right": (Reading("wlan0", "associated", b"right"), True, False),
    "other": (Reading("wlan0", "associated", b"other"), False, False),
    "other, with a line": (Reading("wlan0", "associated", b"other"), True, False),
    "disconnected": (Reading("wlan0", "disconnected", reason="no"), False, False),
    "disconnected, another route": (Reading("wlan0", "disconnected", reason="no"), False, True),
    "absent": (Reading("wlan0", "absent", reason="no"), False, False),
    "unknown": (Reading("wlan0", "unknown", reason="no"), False, False),
}


class Watched(NamedTuple):
    """The judgement so far, and what a bystander knows: how long it was seen to be wrong, and of the reboots."""

    state: recovery.State = recovery.initial()
    budget: Budget = Budget()
    now: float = 0.0
    booted_at: float = -600.0
    boots: int = 0
    wrong_s: float = 0.0
    was_wrong: bool = False
    lost: bool = False


def look(before: Watched, name: str) -> Watched:
    reading, connected, route = LOOKS[name]
    now = before.now + 60.0
    right, unknown = name == "right", name == "unknown"
    wrong_s = 0.0 if right else before.wrong_s + (60.0 if before.was_wrong and not unknown else 0.0)
    here = Circumstances(connected, route, f"boot-{before.boots}", now - before.booted_at, None, before.budget)
    state, effects = recovery.judge(WIFI, before.state, reading, here, now)
    after = before._replace(state=state, now=now, wrong_s=wrong_s, was_wrong=not right and not unknown)
    for effect in effects:
        if isinstance(effect, recovery.Keep):
            after = after._replace(budget=effect.budget)
        elif isinstance(effect, recovery.Lost):
            assert not after.lost and not right and not unknown, "lost twice, or without a wrong reading"
            after = after._replace(lost=True)
        elif isinstance(effect, recovery.Restored):
            assert after.lost and right, "restored without a loss, or without a right reading"
            after = after._replace(lost=False)
        elif isinstance(effect, recovery.Step):
            after = stepped(after, effect.action, reading, connected, route)
    assert after.lost == (not right) or unknown or after.boots > before.boots, "a loss is told at once, and its end"
    return after


def stepped(after: Watched, action: str, reading: Reading, connected: bool, route: bool) -> Watched:
    assert reading.outcome != "unknown" and after.wrong_s >= WIFI.grace_s, f"{action} too early"
    assert not connected or action == "reconnect" and reading.outcome != "associated", f"{action} cuts the line"
    if action != "reboot":
        return after._replace(wrong_s=0.0)
    assert not route and after.now - after.booted_at >= 60.0, "a reboot that must not be"
    assert after.boots == 0, "two reboots within a day"
    return after._replace(state=recovery.initial(), boots=1, booted_at=after.now, wrong_s=0.0, was_wrong=False,
                          lost=False)


def test_recovery_acts_on_what_it_saw_alone_in_every_order_of_looks() -> None:
    steps = [after for _, after in every(Watched(), list(LOOKS), 6, look) if after.boots]
    assert not steps, "six minutes are too short for three rungs"
    assert count(every(Watched(wrong_s=120.0, was_wrong=True, lost=True, state=recovery.State(
        True, 0.0, 0.0, 120.0, rung=2)), list(LOOKS), 5, look)) == sum(7 ** length for length in range(1, 6))


# Presence

HOST = "pi"
WORDS: dict[str, Any] = {
    "a late will": {"Hostname": HOST, "status": presence.LOST, "session": "old"},
    "our own Connected": {"Hostname": HOST, "status": presence.CONNECTED, "session": "new"},
    "another device": {"Hostname": "other", "status": presence.LOST, "session": "x"},
    "a list": [1],
}


class Said(NamedTuple):
    """What stands, when Connected was last said, and since when a lie stands."""

    standing: Standing
    now: float = 0.0
    lie_since: float | None = None


def hear(before: Said, event: str) -> Said:
    if event in ("a moment", "a second"):
        now = before.now + (0.25 if event == "a moment" else 1.0)
        if now < before.standing.again_at:
            assert before.lie_since is None or now - before.lie_since <= presence.PAUSE_S, "a lie stands too long"
            return before._replace(now=now)
        assert now - before.standing.said_at >= presence.PAUSE_S, "said twice within a second"
        return Said(before.standing._replace(said_at=now, again_at=math.inf), now)
    payload = json.dumps(WORDS[event]).encode()
    standing, _ = presence.heard(before.standing, True, HOST, Received(1, "t", payload, 1, False), before.now)
    lie = before.lie_since
    if event != "our own Connected":  # on the device's own topic all else is untrue
        assert standing.again_at <= max(before.now, before.standing.said_at + presence.PAUSE_S), "no answer is owed"
        lie = before.now if lie is None else lie
    else:
        assert standing.again_at == before.standing.again_at, "we answer ourselves"
    return Said(standing, before.now, lie)


def test_a_lie_on_the_presence_topic_is_answered_in_every_order_of_words_and_once_a_second_at_most() -> None:
    assert count(every(Said(Standing("new", 0.0)), ["a moment", "a second", *WORDS], 7, hear)) > 300_000


# Subscriptions

CHANGES: dict[str, dict[str, int]] = {
    "one": {"a": 1}, "both": {"a": 1, "b": 1}, "other QoS": {"a": 0, "b": 1}, "none": {}}


class Broker(NamedTuple):
    """What is known here, and what the broker really holds and has yet to answer; None: there is no line."""

    known: subscriptions.Subscriptions = subscriptions.Subscriptions(CHANGES["both"], {})
    holds: tuple[tuple[str, int], ...] = ()
    unanswered: tuple[tuple[str, int], ...] | None = None


def subscribe(before: Broker, event: str) -> Broker | None:
    known, holds, unanswered = before
    if event in ("session kept", "session lost"):
        if unanswered is not None:
            return None
        held = dict(holds) if event == "session kept" else {}
        known, plan = subscriptions.opened(known, event == "session kept")
        return asked(Broker(known, tuple(held.items()), ()), plan)
    if event == "line falls":
        return None if unanswered is None else before._replace(unanswered=None)
    if event in CHANGES:
        if unanswered:
            return None  # an answer to an earlier SUBSCRIBE would be taken for that to the newest
        known, plan = subscriptions.changed(known, CHANGES[event])
        return asked(Broker(known, holds, unanswered), plan)
    if not unanswered:
        return None
    code = 128 if event == "refused" else unanswered[0][1]
    known = subscriptions.answered(known, ((unanswered[0][0], code),))
    held = {name: qos for name, qos in holds if name != unanswered[0][0]}
    if event != "refused":
        held[unanswered[0][0]] = unanswered[0][1]
    return settled(Broker(known, tuple(held.items()), unanswered[1:]))


def asked(broker: Broker, plan: subscriptions.Plan) -> Broker:
    """Send the plan, which is lost without a line, and whose UNSUBSCRIBE needs no answer."""
    if broker.unanswered is None:
        return broker
    held = {name: qos for name, qos in broker.holds if name not in plan.unsubscribe}
    return settled(broker._replace(holds=tuple(held.items()), unanswered=(*broker.unanswered, *plan.subscribe)))


def settled(broker: Broker) -> Broker:
    if broker.unanswered == ():
        wanted, refused = broker.known.wanted, broker.known.refused
        lacking = {name for name, qos in wanted.items() if dict(broker.holds).get(name) != qos} - set(refused)
        assert not lacking, f"{lacking} is wanted, not held and not asked for"
        extra = {name for name, _ in broker.holds} - set(wanted)
        known = {name for name, qos in broker.known.held.items() if qos == subscriptions.UNWANTED}
        assert extra <= known, f"{extra} is held, and nobody will unsubscribe it on the next line"
    return broker


def test_what_is_wanted_is_held_or_refused_once_all_is_answered_in_every_order() -> None:
    events = ["session kept", "session lost", "line falls", "granted", "refused", *CHANGES]
    assert count(every(Broker(), events, 7, subscribe)) > 100_000


# Dialling

BACKOFF = Backoff(1.0, 16.0)
ROUNDING_S = 1e-6


class Dialling(NamedTuple):
    """The attempts so far, at which time, and how many have failed since a line was stable."""

    attempts: reconnect.Attempts
    now: float = 0.0
    failed: int = 0


def dial(before: Dialling, event: tuple[str, float]) -> Dialling:
    cause, chance = event
    assert before.attempts.dial_at != math.inf, "nobody dials any more"
    now = max(before.now, before.attempts.dial_at)
    attempts = reconnect.dialling(before.attempts)
    lasted_s = {"short line": 10.0, "stable line": 31.0}.get(cause)
    if lasted_s is not None:
        attempts = reconnect.connected(attempts, now)
        now += lasted_s
    attempts = reconnect.lost(attempts, BACKOFF, cause, now, chance)
    failed = 0 if cause == "stable line" else before.failed + (cause != "clock")
    wait_s = attempts.dial_at - now
    assert 1.0 - ROUNDING_S <= wait_s <= BACKOFF.max_s, f"{wait_s} s"
    if cause not in ("clock", "stable line"):
        ceiling_s = max(1.0, min(BACKOFF.max_s, 2.0 ** (failed + 1)))
        assert wait_s <= ceiling_s + ROUNDING_S, "the ceiling is that of the failures"
    return Dialling(attempts, now, failed)


def test_dialling_goes_on_and_is_decent_in_every_order_of_ends() -> None:
    events = [(cause, chance) for cause in ("tcp", "short line", "stable line", "clock") for chance in (0.0, 0.999)]
    assert count(every(Dialling(reconnect.first(0.0, 0.0, 0.0)), events, 6, dial)) == sum(
        8 ** length for length in range(1, 7))


# Denial

ENDS: dict[str, tuple[str, ...]] = {"over a": ("a",), "over b": ("b",), "over both": ("a", "b"), "over nothing": ()}


class Suspected(NamedTuple):
    """The suspicion, the time, and what a bystander counts: strikes by action, falls over nothing, whether told."""

    suspicion: denial.Suspicion = denial.Suspicion()
    now: float = 0.0
    strikes: tuple[tuple[str, int], ...] = ()
    quiet: int = 0
    told: bool = False


def end(before: Suspected, event: str) -> Suspected | None:
    if event in ("after a while", "after an hour"):
        return lasted(before, before.now + (60.0 if event == "after a while" else denial.REST_S))
    if event == "unreachable":
        return before._replace(suspicion=denial.away(before.suspicion), now=before.now + 60.0, quiet=0)
    now = before.now + 60.0
    if event == "never a":
        if "a" in before.suspicion.resting:
            return None
        return struck(before, ("a",), True, *denial.unacknowledged(before.suspicion, {"a"}, now), now)
    suspects = tuple(action for action in ENDS[event] if action not in before.suspicion.resting)
    if suspects:
        careful = before.suspicion.careful
        return struck(before, suspects, careful, *denial.fell(before.suspicion, suspects, careful, now), now)
    suspicion, entries = denial.fell_over_nothing(before.suspicion)
    quiet = before.quiet + 1
    assert bool(entries) == (quiet >= denial.QUIET_FALLS and not before.told), "contested is said once, after five"
    assert not suspicion.careful
    return Suspected(suspicion, now, (), quiet, before.told or bool(entries))


def lasted(before: Suspected, now: float) -> Suspected:
    over = set(before.suspicion.resting)
    suspicion = denial.rested(denial.proven(before.suspicion), denial.over(before.suspicion, now))
    over -= set(suspicion.resting)
    assert not suspicion.careful and suspicion.falls == 0, "a line that lasts clears everybody"
    assert all(until > now for until in suspicion.resting.values()), "who has rested may try again"
    return Suspected(suspicion, now, tuple((action, denial.STRIKES_OF_AN_ACTION - 1) for action in sorted(over)))


def struck(
    before: Suspected, suspects: tuple[str, ...], calm: bool, suspicion: denial.Suspicion, entries: list[Entry],
    now: float
) -> Suspected:
    strikes, alone = dict(before.strikes), calm and len(suspects) == 1
    if alone:
        strikes[suspects[0]] = strikes.get(suspects[0], 0) + 1
    rests = suspicion.resting.keys() - before.suspicion.resting.keys()
    guilty = {action for action, count in strikes.items() if count >= denial.STRIKES_OF_AN_ACTION}
    assert rests == guilty, f"{rests} rest, and {guilty} alone ended two good lines"
    assert [entry.fields["action"] for entry in entries] == list(rests), "each is named, once"
    assert alone or not (suspicion.careful and before.suspicion.careful), "two careful lines in a row for nothing"
    left = tuple(sorted((action, count) for action, count in strikes.items() if action not in rests))
    return before._replace(suspicion=suspicion, now=now, strikes=left)


def test_only_what_ended_two_good_lines_alone_rests_in_every_order_of_ends() -> None:
    events = [*ENDS, "never a", "unreachable", "after a while", "after an hour"]
    assert count(every(Suspected(), events, 6, end)) > 150_000
