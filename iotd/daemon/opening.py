"""What follows CONNACK: what has to be subscribed, then each part whose filters the broker has answered for.

While an action is suspected of ending the line (`denial`) that goes in steps, and messages wait while one is answered.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from functools import partial

from iotd.config.settings import Settings
from iotd.daemon import denial, subscriptions
from iotd.daemon.fence import Fence
from iotd.daemon.part import Part
from iotd.daemon.world import World
from iotd.host import log
from iotd.mqtt.session import Session
from iotd.vocabulary import Dialled, Down, Entry, Json, Spent, Subscribed

LOOK_S = 1.0  # on a careful line, until it is seen whether what a step waits for has gone through


class Opening:
    """The opening of each line in turn: what the broker holds and has refused, and what is suspected of it."""

    def __init__(self, world: World, session: Session, parts: list[Part], fence: Fence, settings: Settings) -> None:
        self.suspicion = denial.Suspicion()
        self.known: dict[str, Json] = {}  # of this device and of another under its name, for whoever looks for them
        self._world = world
        self._session = session
        self._parts = parts
        self._fence = fence
        self._settings = settings
        self._line = 0
        self._steps: deque[tuple[list[str], Callable[[], None]]] = deque()
        self.sent: dict[int, str] = {}  # the topics of messages whose acknowledgement is waited for, by their tokens
        self._unanswered: dict[str, str] = {}  # the action of each filter that the broker has yet to answer
        self._calm_at = self._tried_at = self._refused_at = self._kept_at = self._asked_at = -math.inf
        self._tried_anew = ""  # the action that has rested while the line stayed
        self._downgraded: set[str] = set()  # filters that the broker grants a lower QoS than is wanted
        self._held_file = world.places.runtime / "subscriptions.json"
        self._held_written: dict[str, Json] | None = None
        self.subscriptions = subscriptions.Subscriptions({}, self._read_held())

    @property
    def clear(self) -> bool:
        """Whether messages may go out on a line that is up: with care, while no step is due or answered."""
        if not self.suspicion.careful:
            return True
        now = self._world.monotonic()
        if now < self._calm_at or (self._unanswered and now >= self._tried_at + denial.AT_ONCE_S):
            return True
        return not self._steps and not self._pending()

    def next_due(self) -> float:
        """Return when `further` has something to do that no answer announces, math.inf for never."""
        waits = self._steps or self.suspicion.careful and (
            self._unanswered or not all(part.is_open for part in self._parts))
        due_at = max(self._calm_at, self._kept_at + LOOK_S) if waits else math.inf
        resting = self.suspicion.resting
        return min(due_at, max(min(resting.values()), self._kept_at + LOOK_S)) if resting else due_at

    def begin(self, event: Dialled, settings: Settings, now: float, is_other: bool) -> None:
        """A line is up; `is_other`: to another broker than before, whose session is not ours, if it keeps one."""
        self._line, self._settings = event.line, settings
        self.suspicion = denial.rested(self.suspicion, denial.over(self.suspicion, now))
        self._tried_anew = ""
        keeps = not settings.mqtt.clean_session  # else the broker keeps it for nobody
        is_kept = event.session_present and keeps and not is_other
        self.subscriptions, plan = subscriptions.opened(self.subscriptions._replace(wanted=self._wanted()), is_kept)
        self._write_held()
        self._steps = deque(self._plan(plan))
        self._calm_at, self._kept_at = now + denial.QUIET_S, now
        if not is_kept and (keeps or is_other):
            for part in self._parts:
                self._fence.call(part, part.session_lost, now)
        self.further(now)

    def change(self, settings: Settings, up: bool, now: float) -> None:
        """Other settings are in force; what they ask for follows at once where the line is `up`."""
        anew = (settings.client_id, settings.mqtt) != (self._settings.client_id, self._settings.mqtt)
        self._settings = settings
        self.subscriptions, plan = subscriptions.changed(self.subscriptions, self._wanted())
        if anew:
            self.subscriptions = self.subscriptions._replace(held=self._read_held())
        elif up:
            self._write_held()
            self._steps.extend(self._plan(plan))
            self.further(now)

    def further(self, now: float) -> None:
        """Take the next steps: all at once, or with care only once all is answered."""
        if self.suspicion.resting:
            self._try_anew(now)
        careful, together = self.suspicion.careful, self._together() if self._steps else {}
        self._kept_at = now
        if careful and now < self._calm_at:
            return
        if careful and not self._pending():
            self._open_parts(now)
        while self._steps and not (careful and (self._pending() or self._in_flight(now))):
            names, step = self._steps.popleft()
            self._unanswered.update((name, together.get(name, _subscription(name))) for name in names)
            self._tried_at = now
            step()
        if not careful or not self._pending():
            self._open_parts(now)

    def answered(self, event: Subscribed, now: float) -> None:
        """Take a SUBACK."""
        known = self.subscriptions.refused
        self.subscriptions = subscriptions.answered(self.subscriptions, event.codes)
        for name, code in event.codes:
            action = self._unanswered.pop(name, "")
            if name in self.subscriptions.refused:
                self._refused_at = now
                self.suspicion = denial.refused(self.suspicion, _subscription(name), now)
                if name not in known:
                    log.warning("subscription.refused", "the broker refused a subscription, which rests for an hour;"
                                " check the policy", filter=name, code=code)
                continue
            self._look_for_downgrade(name, code)
            if action == _subscription(name):  # one that is denied with others may be so by their requests
                self.suspicion = denial.answered(self.suspicion, action)
        self._write_held()
        self.further(now)

    def arrived(self, token: int) -> None:
        """The broker has acknowledged a message of `sent`."""
        self.suspicion = denial.answered(self.suspicion, _message(self.sent.pop(token)))

    def rests(self, topic: str) -> bool:
        """Tell whether such a message is denied on the topic, and rests."""
        return _message(topic) in self.suspicion.resting

    def rival(self, hostname: str) -> None:
        """Another client has said Connected in the name of this device; this is what its host is called."""
        self.suspicion = self.suspicion._replace(rival=True)
        self.known["rival_hostname"] = hostname

    def away(self) -> None:
        """The broker could not be reached."""
        self.suspicion = denial.away(self.suspicion)

    def fell(self, event: Down, asked: bool, stable: bool, now: float) -> bool:
        """The line was up; tell whether the broker ended it, and not over an action of those judged here.

        Whatever is unanswered is asked again on the next one, unless that is what ends it. `asked`: it was to end.
        """
        unanswered = self._pending()
        suspects = unanswered | self._in_flight(now)
        # A broker that has just refused a subscription may close the line as well; it is told, and not asked again.
        explained = now < self._refused_at + denial.AT_ONCE_S
        by_broker = event.cause in ("closed", "reset") and not asked and not explained
        entries: list[Entry] = []
        if event.spent is not None:
            self.suspicion, entries = denial.unacknowledged(self.suspicion, self._never(event.spent, now), now)
        elif by_broker and unanswered and (len(suspects) == 1 or not stable):
            self.suspicion, entries = denial.fell(self.suspicion, suspects, stable or self.suspicion.careful, now)
        elif stable:
            self.suspicion = denial.proven(self.suspicion)
        elif by_broker and not suspects:
            self.suspicion, entries = denial.fell_over_nothing(self.suspicion, self.known)
        else:  # over messages alone their part judges
            self.suspicion = denial.ended(self.suspicion)
        for entry in entries:
            log.write(entry)
        self._steps.clear()
        self._unanswered.clear()
        self.sent.clear()
        return by_broker and not unanswered

    def problems(self) -> list[str]:
        """Return what the broker does not allow, a sentence each."""
        refused = [_subscription(name) for name in self.subscriptions.refused]
        denied = (action for action in self.suspicion.resting if action not in refused)
        return [*(f"{action} refused" for action in refused), *(f"{action} denied" for action in denied)]

    def _look_for_downgrade(self, name: str, code: int) -> None:
        """Tell once of a filter that is granted a lower QoS than was asked for (MQTT 3.1.1, 3.8.4)."""
        wanted = self.subscriptions.wanted.get(name, 0)
        if code >= wanted:
            self._downgraded.discard(name)
        elif name not in self._downgraded:
            self._downgraded.add(name)
            log.warning("subscription.downgraded", "the broker grants a subscription less than it was asked for; what"
                        " it sends while the line is down or bad may be lost", filter=name, asked=wanted, granted=code)

    def _try_anew(self, now: float) -> None:
        """Have the next action asked for that has rested while the line stayed, once the line can end over nothing
        else. Its part begins anew.
        """
        over = denial.over(self.suspicion, now)[:1]
        if not over or self._steps or self._pending() or self._in_flight(now):
            return
        self._tried_anew = over[0]
        self.suspicion = denial.rested(self.suspicion, over)
        self.subscriptions, plan = subscriptions.changed(self.subscriptions, self._wanted())
        self._steps.extend(self._plan(plan))
        for part in self._parts:
            if part.is_open and self._tried_anew in self._fence.ask(part, Part.actions).values():
                self._fence.call(part, part.closed, False, now)
                part.is_open = False

    def _plan(self, plan: subscriptions.Plan) -> Iterable[tuple[list[str], Callable[[], None]]]:
        """Return the steps, each with its filters; those of a careful line are about one action each."""
        careful, together = self.suspicion.careful, self._together()
        by_action: dict[str, list[tuple[str, int]]] = {}
        for name, qos in plan.subscribe:
            by_action.setdefault(together.get(name, _subscription(name)) if careful else "", []).append((name, qos))
        for action in denial.in_order(self.suspicion, by_action):
            pairs = by_action[action]
            yield [name for name, _ in pairs], partial(self._session.subscribe, self._line, pairs)
        ends = [name for name in plan.unsubscribe if _end(name) not in self.suspicion.resting]
        for names in [[name] for name in ends] if careful else [ends]:
            yield [], partial(self._session.unsubscribe, self._line, names)

    def _open_parts(self, now: float) -> None:
        """Open each part as soon as the broker has answered for all of its filters.

        With care those that ask for something go one after the other: of two that ask at once none can be blamed.
        """
        for part in self._parts:
            if part.is_open or not self.subscriptions.settled(self._fence.ask(part, Part.filters)):
                continue
            actions = self._fence.ask(part, Part.actions)
            asks = bool(actions)
            if asks and self.suspicion.careful and (self._pending() or now < self._asked_at + LOOK_S):
                continue
            self._asked_at = now if asks else self._asked_at
            part.is_open = True
            careful = self.suspicion.careful or self._tried_anew in actions.values()
            self._fence.call(part, part.opened, now, careful, self.suspicion.resting)

    def _wanted(self) -> dict[str, int]:
        wanted = {self._settings.presence.topic: self._settings.presence.qos}
        for part in self._parts:
            wanted.update(self._fence.ask(part, Part.filters))
        together, resting = self._together(), self.suspicion.resting
        return {name: qos for name, qos in wanted.items()
                if name and _subscription(name) not in resting and together.get(name) not in resting}

    def _together(self) -> Mapping[str, str]:
        """Return the action of each topic and filter that is denied together with others."""
        return {name: action for part in self._parts for name, action in self._fence.ask(part, Part.actions).items()}

    def _pending(self) -> set[str]:
        """Return the actions that the broker has yet to answer, the messages that are kept apart."""
        return {*self._unanswered.values(), *map(_message, self.sent.values()),
                *(action for part in self._parts for action in self._fence.ask(part, Part.pending))}

    def _in_flight(self, now: float) -> set[str]:
        """Return the messages that the line may end over."""
        return {action for part in self._parts for action in self._fence.ask(part, Part.in_flight, now)}

    def _never(self, spent: Spent, now: float) -> set[str]:
        """Return the actions of a packet that the broker has never acknowledged; a message is its part's to judge."""
        together = self._together()
        if spent.kind == "UNSUBSCRIBE":
            return set(map(_end, spent.names))
        if spent.kind == "SUBSCRIBE":
            return {together.get(name, _subscription(name)) for name in spent.names}
        if spent.token is not None and spent.token > 0:
            for part in self._parts:
                self._fence.call(part, part.unacknowledged, spent.token, now)
        if spent.token in self.sent:
            return {_message(self.sent[spent.token])}
        return {together[name] for name in spent.names if name in together}

    def _read_held(self) -> dict[str, int]:
        """Return what the broker is known to hold for this client id, as an earlier run wrote it down."""
        held = self._world.files.read_json(self._held_file)
        if not isinstance(held, dict) or held.get("session") != self._session_key():
            return {}
        filters = held.get("filters")
        return filters if isinstance(filters, dict) else {}

    def _write_held(self) -> None:
        """Write down what the broker holds; in memory, since after a reboot to subscribe again is no harm."""
        held = {"session": self._session_key(), "filters": dict(self.subscriptions.held)}
        if held != self._held_written:
            unkept = self._world.files.keep(self._held_file, held, durable=False)
            self._held_written = None if unkept else held
            if unkept:  # what was held before would be taken for what is
                self._world.files.remove(self._held_file)

    def _session_key(self) -> str:
        mqtt = self._settings.mqtt
        return f"{self._settings.client_id}@{mqtt.host}:{mqtt.port}{' clean' if mqtt.clean_session else ''}"


def _subscription(name: str) -> str:
    return f"subscription to {name}"


def _message(topic: str) -> str:
    return f"publish to {topic}"


def _end(name: str) -> str:
    return f"end of the subscription to {name}"
