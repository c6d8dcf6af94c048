"""Judges the readings of the Wi-Fi and climbs the ladder of recoveries, one rung at a time. Pure.

A reading is right (associated with an expected ESSID), wrong (associated elsewhere, disconnected, absent) or unknown.
Only a wrong reading counts, and only a right one ends the count. An unknown one between two wrong ones does neither:
a driver that answers every other time would otherwise never be recovered. But the time around it was not seen to be
wrong, so it is not counted, and neither is a long hole between two looks.
"""

import json
import math
from collections.abc import Mapping
from typing import Any, NamedTuple

from iotd.wifi.reading import Reading, ssid_text
from iotd.wifi.section import Wifi

HOUR_S = 3600.0
DAY_S = 86400.0
DOUBLINGS = 16  # more would only overflow: every doubled wait has its cap long before


class Reboot(NamedTuple):
    """When a reboot was asked for: the boot it ended, that boot's uptime, and the time of day where it was certain."""

    boot_id: str
    uptime_s: float
    wall_s: float | None = None


class Budget(NamedTuple):
    """The reboots that may still count, oldest first, and how many there were since the Wi-Fi was last right.

    A Pi without a network has no clock to go by: it starts with the time of its last shutdown, or of its image.
    So a reboot's age is what the uptimes prove: at least the uptime of this boot and of every later boot that ended
    in a reboot of ours. A device that is switched off every night never proves a day that way, therefore a
    synchronised clock may prove it too. A reboot in the future of that clock counts as recent, and one asked for
    without a synchronised clock is dated as soon as there is one, which makes it younger than it is: no jump of
    the clock makes the budget larger than the days that passed under a synchronised clock or within the uptimes.
    """

    reboots: tuple[Reboot, ...] = ()
    streak: int = 0

    def recent(self, moment: Reboot) -> tuple[Reboot, ...]:
        """Return the reboots that are not proven to be a day old at this moment."""
        kept: list[Reboot] = []
        age_s, later = 0.0, moment
        for reboot in reversed(self.reboots):
            age_s += later.uptime_s - (reboot.uptime_s if reboot.boot_id == later.boot_id else 0.0)
            later = reboot
            dated_s = (moment.wall_s - reboot.wall_s
                       if moment.wall_s is not None and reboot.wall_s is not None else 0.0)
            if max(age_s, dated_s) < DAY_S:
                kept.insert(0, reboot)
        return tuple(kept)

    def spent(self, moment: Reboot) -> "Budget":
        """Return the budget after one more reboot, asked for at this moment."""
        return Budget((*self.recent(moment), moment), self.streak + 1)

    def settled(self, moment: Reboot) -> "Budget":
        """Return the budget after a right reading: no reboots in a row any more, and undated ones dated."""
        dated = (reboot._replace(wall_s=moment.wall_s) if reboot.wall_s is None else reboot for reboot in self.reboots)
        return Budget(tuple(dated), 0)

    def to_json(self) -> str:
        """Return the budget as one JSON object, for `from_json`."""
        return json.dumps({"reboots": [reboot._asdict() for reboot in self.reboots], "streak": self.streak})

    @classmethod
    def from_json(cls, text: str) -> "Budget":
        """Return the budget that `to_json` wrote; raises ValueError for anything that it cannot have written."""
        try:
            body = json.loads(text)
            reboots = tuple(Reboot(**reboot) for reboot in body["reboots"])
            budget = cls(reboots, body["streak"])
        except (TypeError, KeyError, RecursionError) as error:
            raise ValueError(f"no reboot budget: {error}") from None
        if set(body) != {"reboots", "streak"} or not all(map(_is_reboot, reboots)) or not _is_count(budget.streak):
            raise ValueError("no reboot budget: a value is missing, of the wrong type or out of range")
        return budget


class Circumstances(NamedTuple):
    """What a step must respect. `wall_s` (epoch) is None while the clock is not synchronised.

    `budget` is None where it could not be read; `Budget()` where there is none yet. Where a reboot `forgets` it, none
    yet is None: nobody knows then how many reboots came before this one.
    """

    mqtt_connected: bool
    other_default_route: bool
    boot_id: str
    uptime_s: float
    wall_s: float | None
    budget: Budget | None
    forgets: bool = False

    def moment(self) -> Reboot:
        """Return what a reboot asked for now would leave in the budget."""
        return Reboot(self.boot_id, self.uptime_s, self.wall_s)


class Lost(NamedTuple):
    """The first wrong reading of an outage; `essid` is None unless the interface is associated elsewhere."""

    interface: str
    essid: str | None
    expected: tuple[str, ...]
    reason: str


class Restored(NamedTuple):
    """The first right reading after an outage, how long it was, and how often each step was taken in it."""

    interface: str
    essid: str | None
    expected: tuple[str, ...]
    lost_for_s: float
    steps: Mapping[str, int]


class Unreadable(NamedTuple):
    """The Wi-Fi cannot be read, told once for each reason: iotd neither reports nor recovers it meanwhile."""

    interface: str
    reason: str


class Step(NamedTuple):
    """Take this rung now."""

    action: str
    reason: str


class Withheld(NamedTuple):
    """This rung is due but must not be taken; told once for each change of action or reason."""

    action: str
    reason: str


class Keep(NamedTuple):
    """This is the budget now. Write it before the effects that follow; if that fails they are void."""

    budget: Budget


Effect = Lost | Restored | Unreadable | Step | Withheld | Keep


class State(NamedTuple):
    """How the outage stands: `waited_s` of wrong readings since it began or since the last step.

    `rung` is the next rung and `climbs` how often the ladder was climbed. `wrong_at` is the time of the last reading
    if that was wrong, `existed` whether the interface has been there since iotd started.
    """

    existed: bool = False
    lost_at: float | None = None
    wrong_at: float | None = None
    waited_s: float = 0.0
    rung: int = 0
    climbs: int = 0
    steps: Mapping[str, int] = {}
    withheld: Withheld | None = None
    unreadable: str = ""


def initial() -> State:
    """Return the state before the first reading."""
    return State()


def judge(settings: Wifi, state: State, reading: Reading, here: Circumstances, now: float
          ) -> tuple[State, tuple[Effect, ...]]:
    """Return the state after a reading taken at `now` (monotonic) and the effects to perform, in order."""
    if reading.outcome == "unknown":
        unread = Unreadable(reading.interface, reading.reason)
        return state._replace(wrong_at=None, unreadable=reading.reason), (
            () if reading.reason == state.unreadable else (unread,))
    if not state.existed and reading.outcome != "absent":  # it has come, and gets its whole grace
        state = state._replace(existed=True, wrong_at=None, waited_s=0.0)
    state = state._replace(unreadable="")
    if is_right(settings, reading):
        return State(existed=True), (*_restored(settings, state, reading, now), *_settled(settings, here))
    lost = Lost(reading.interface, _essid(reading), settings.essid, _what(settings, reading))
    told: tuple[Effect, ...] = (lost,) if state.lost_at is None else ()
    state, effects = _climb(settings, _count(settings, state, now), reading, here, now)
    return state, (*told, *effects)


def is_right(settings: Wifi, reading: Reading) -> bool:
    """Tell whether the interface is associated with a network that is expected; any is where none is named."""
    return reading.outcome == "associated" and (not settings.essid or _essid(reading) in settings.essid)


def _essid(reading: Reading) -> str | None:
    return None if reading.ssid is None else ssid_text(reading.ssid)


def _what(settings: Wifi, reading: Reading) -> str:
    if reading.outcome != "associated":
        return reading.reason
    expected = " or ".join(map(repr, settings.essid))
    return f"{reading.interface} is associated with {_essid(reading)!r}, expected {expected}"


def _restored(settings: Wifi, state: State, reading: Reading, now: float) -> tuple[Effect, ...]:
    if state.lost_at is None:
        return ()
    return (Restored(reading.interface, _essid(reading), settings.essid, now - state.lost_at, state.steps),)


def _settled(settings: Wifi, here: Circumstances) -> tuple[Effect, ...]:
    """Return the budget to keep after a right reading, if it changes.

    One that cannot be read is replaced by one that is used up: a file zeroed by a power cut must neither grant a
    reboot nor forbid them for the years until somebody visits. Where a reboot forgets the budget it begins here: a
    chain of boots in which the Wi-Fi is never right then has one reboot of ours, the first.
    """
    used_up = Budget(() if here.forgets else (here.moment(),) * settings.reboot.max_per_day)
    settled = (used_up if here.budget is None else here.budget).settled(here.moment())
    return () if settled == here.budget else (Keep(settled),)


def _count(settings: Wifi, state: State, now: float) -> State:
    """Count the time since the last reading if that was wrong too, and not more of it than two looks are apart."""
    lost_at = now if state.lost_at is None else state.lost_at
    seen_s = 0.0 if state.wrong_at is None else min(now - state.wrong_at, 2 * settings.every_s)
    return state._replace(lost_at=lost_at, wrong_at=now, waited_s=state.waited_s + seen_s)


def _climb(settings: Wifi, state: State, reading: Reading, here: Circumstances, now: float
           ) -> tuple[State, tuple[Effect, ...]]:
    """Take the next rung once the last one had its time, or withhold it.

    A rung that is withheld stays due, to be taken as soon as its guard lets go; but after a growing pause the
    ladder is climbed from below again, since the lower rungs may help where this one must not.
    """
    if not settings.recover:
        return state, ()
    if state.waited_s < (settings.grace_s if state.rung else _pause_s(settings, state.climbs)):
        return state, ()
    if not state.existed:
        return _withhold(state, settings.recover[0], f"there has been no {settings.interface} since iotd started")
    guard = _guard(settings, settings.recover[state.rung], reading, here)
    if guard and state.rung and state.waited_s >= _pause_s(settings, state.climbs + 1):
        state = state._replace(rung=0, climbs=state.climbs + 1)
        guard = _guard(settings, settings.recover[0], reading, here)
    action = settings.recover[state.rung]
    if guard:
        return _withhold(state, action, guard)
    lost_for_s = now - (now if state.lost_at is None else state.lost_at)
    step = Step(action, f"{_what(settings, reading)}; wrong for {lost_for_s:.0f} s")
    keep = (Keep(here.budget.spent(here.moment())),) if action == "reboot" and here.budget is not None else ()
    last = state.rung + 1 == len(settings.recover)
    state = state._replace(waited_s=0.0, rung=0 if last else state.rung + 1, climbs=state.climbs + last,
                           steps={**state.steps, action: state.steps.get(action, 0) + 1})
    return state, (*keep, step)


def _pause_s(settings: Wifi, climbs: int) -> float:
    return min(settings.grace_s * 2.0 ** min(climbs, DOUBLINGS), max(settings.grace_s, HOUR_S))


def _withhold(state: State, action: str, reason: str) -> tuple[State, tuple[Effect, ...]]:
    withheld = Withheld(action, reason)
    return state._replace(withheld=withheld), () if withheld == state.withheld else (withheld,)


def _guard(settings: Wifi, action: str, reading: Reading, here: Circumstances) -> str:
    """Return why `action` must not be taken now, or nothing; no number in it changes from look to look.

    While MQTT is connected the device is reachable, and no rescue is worth cutting that: restart-network and reboot
    would. The other rungs touch this interface alone, and harm the line only if it runs over that: when the
    interface is associated, if elsewhere, and nothing else leads out.
    """
    if here.mqtt_connected and action in ("restart-network", "reboot"):
        return "MQTT is connected"
    if here.mqtt_connected and reading.outcome == "associated" and not here.other_default_route:
        return f"MQTT is connected over {reading.interface} itself"
    if action != "reboot":
        return ""
    if here.other_default_route:
        return "another interface has a default route"
    if here.budget is None and here.forgets:
        return "a reboot would be forgotten, and the Wi-Fi has not been right since the last"
    if here.budget is None:
        return "the reboot budget cannot be read"
    if len(here.budget.recent(here.moment())) >= settings.reboot.max_per_day:
        return f"the budget of {settings.reboot.max_per_day} reboots a day is used up"
    needed_s = _uptime_needed_s(settings, here.budget)
    return f"the host has been up for less than {needed_s:.0f} s" if here.uptime_s < needed_s else ""


def _uptime_needed_s(settings: Wifi, budget: Budget) -> float:
    """Return the uptime before which no reboot is asked for; each reboot that did not help doubles it, to a day.

    It is the wait between two reboots, since each begins with an uptime of zero.
    """
    first_s = max(settings.reboot.min_uptime_s, settings.grace_s)
    return min(first_s * 2.0 ** min(budget.streak, DOUBLINGS), max(first_s, DAY_S))


def _is_reboot(reboot: Reboot) -> bool:
    return isinstance(reboot.boot_id, str) and _is_time(reboot.uptime_s) and (
        reboot.wall_s is None or _is_time(reboot.wall_s))


def _is_time(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value) and value >= 0


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0
