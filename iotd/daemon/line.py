"""The line to the broker as the main thread sees it: dialling, presence, subscriptions, denial, and the goodbye.

A line is opened in steps: Connected, what has to be subscribed, then each part whose filters are answered for. While an
action is suspected of ending the line (`denial`) the steps go one by one.
"""

from __future__ import annotations

import logging
import math
from collections import deque
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

from iotd.config.settings import Settings
from iotd.daemon import denial, presence, reconnect, subscriptions
from iotd.daemon.outage import Outages
from iotd.daemon.part import Part
from iotd.daemon.world import World
from iotd.host import log
from iotd.mqtt import credentials
from iotd.mqtt.connection import Dial
from iotd.mqtt.session import Session
from iotd.vocabulary import Acknowledged, Dialled, Down, Entry, Json, Message, Received, Subscribed

GOODBYE_S = 5.0  # for the acknowledgement of Stopped
REPEAT_LOG_S = 3600.0  # a failure that lasts is logged once an hour

GOODBYE, HELLO = 0, -1  # tokens beside the numbers of messages that are kept, which begin at 1


class Line:
    """The line, one after the other; each is known by its number, from 1.

    `parts` are opened and closed with it; `changed` is called when it has come up or gone down.
    """

    def __init__(
        self, world: World, session: Session, settings: Settings, parts: list[Part], outages: Outages, phase: float,
        changed: Callable[[float], None]
    ) -> None:
        now = world.monotonic()
        self.number = 0
        self.up_since: float | None = None
        self.down_reason = "not dialled yet"
        self.suspicion = denial.Suspicion()
        self._world = world
        self._session = session
        self._settings = settings
        self._parts = parts
        self._outages = outages
        self._changed = changed
        self._attempts = reconnect.first(now, settings.mqtt.spread_s, phase)
        self._failure: tuple[str, float, int] = ("", now, 0)
        self._standing = presence.Standing("", now)
        self._story: dict[str, Json] = {}  # what Connected tells beside the word
        self._steps: deque[tuple[list[str], Callable[[], None]]] = deque()
        self._unanswered: dict[str, None] = {}
        self._calm_at = 0.0  # when the next step may follow, where they go with care
        self._kept_at = now
        self._goodbye: tuple[Message, float] | None = None  # the word that is owed, and when it may be said
        self._goodbye_until: float | None = None
        self._afterwards: Callable[[float], None] | None = None  # once the goodbye is said
        self._passed = (0, 0)
        self._held_file = world.places.runtime / "subscriptions.json"
        self._held_written: dict[str, Json] | None = None
        self.subscriptions = subscriptions.Subscriptions({}, self._read_held())

    @property
    def up(self) -> bool:
        """Whether CONNACK has come, and no end yet."""
        return self.up_since is not None

    @property
    def leaving(self) -> bool:
        """Whether the last word is being said, after which this line ends."""
        return self._afterwards is not None

    @property
    def clear(self) -> bool:
        """Whether messages may go out."""
        return self.up and not self.leaving and not self._steps and not (self.suspicion.careful and self._pending())

    def next_due(self) -> float:
        """Return when `keep` has something to do, math.inf for never."""
        due_at = self._attempts.dial_at
        if self._goodbye_until is not None:
            due_at = min(due_at, self._goodbye_until)
        if self._goodbye is not None:
            due_at = min(due_at, self._goodbye[1])
        if self.up and not self.leaving:
            due_at = min(due_at, self._standing.again_at)
            if self._calm_at > self._kept_at:
                due_at = min(due_at, self._calm_at)
        return due_at

    def keep(self, now: float) -> None:
        """Do what is due: hang up, dial, open further, say Connected once more."""
        self._kept_at = now
        self._say_goodbye(now)
        if self._goodbye_until is not None and now >= self._goodbye_until:
            self._session.hang_up(self.number)
        if now >= self._attempts.dial_at:
            self._dial()
        if self.up and not self.leaving:
            self._open_further(now)
            if now >= self._standing.again_at:
                self._say(presence.CONNECTED, None, now, **self._story)

    def send(self, message: Message, token: int | None = None) -> None:
        """Publish now, past the spool."""
        self._session.publish(self.number, token, message)
        self._pass(len(message.payload))

    def passed(self) -> tuple[int, int]:
        """Return how many publishes, and bytes of them, were sent by `send` or came in since the last call."""
        passed, self._passed = self._passed, (0, 0)
        return passed

    def apply(self, settings: Settings, now: float) -> None:
        """Let the settings take effect; other ones of the line itself need a new line."""
        old, self._settings = self._settings, settings
        self.subscriptions, plan = subscriptions.changed(self.subscriptions, self._wanted())
        if (settings.thing, settings.mqtt, settings.presence) != (old.thing, old.mqtt, old.presence):
            # Stopped is said where the old configuration had its presence.
            self._settings = old
            self.leave(presence.STOPPED, self.dial_anew, now)
            self._settings = settings
            self.subscriptions = self.subscriptions._replace(held=self._read_held())
        elif self.up:
            self._write_held()
            self._session.unsubscribe(self.number, plan.unsubscribe)
            self._session.subscribe(self.number, plan.subscribe)
            self._open_parts(now)

    def leave(self, word: str, afterwards: Callable[[float], None], now: float) -> None:
        """Say the word on the presence topic and hang up; then call `afterwards` with the time."""
        self._afterwards = afterwards
        if self.up:
            say_at = max(now, self._standing.said_at + presence.PAUSE_S)
            self._goodbye, self._goodbye_until = (self._worded(word), say_at), say_at + GOODBYE_S
            self._say_goodbye(now)
        elif self._attempts.dial_at == math.inf:
            self._session.hang_up(self.number)
        else:
            self._finish_goodbye(now)

    def dial_anew(self, now: float, after_s: float = reconnect.FLOOR_S) -> None:
        """Dial again in so many seconds, whatever has failed before."""
        self._attempts = reconnect.first(now + after_s, 0.0, 0.0)

    def stay_down(self, now: float) -> None:
        """Dial no more."""
        self._attempts = reconnect.dialling(self._attempts)

    def on_dialled(self, event: Dialled, now: float) -> None:
        """CONNACK has come: say Connected and begin to open the line."""
        if event.line != self.number:
            return
        mqtt = self._settings.mqtt
        self.up_since = now
        self._attempts = reconnect.connected(self._attempts, now)
        self._failure = ("", now, 0)
        waiting = sum(part.waiting() for part in self._parts)
        log.info("session.connected", f"connected to {mqtt.host}", host=mqtt.host, port=mqtt.port,
                 session_present=event.session_present, waiting=waiting)
        self._tell_story(waiting, now)
        wanted = self.subscriptions._replace(wanted=self._wanted())
        self.subscriptions, plan = subscriptions.opened(wanted, event.session_present)
        self._write_held()
        # First, and never under suspicion: a broker that denies it has refused the will, and with it the connection.
        self._say(presence.CONNECTED, HELLO, now, **self._story)
        self._steps = deque(self._opening(plan))
        self._calm_at = now + denial.QUIET_S
        self._open_further(now)
        self._changed(now)

    def on_subscribed(self, event: Subscribed, now: float) -> None:
        """Take a SUBACK."""
        if event.line != self.number:
            return
        known = self.subscriptions.refused
        self.subscriptions = subscriptions.answered(self.subscriptions, event.codes)
        for name, code in event.codes:
            if name in self.subscriptions.refused and name not in known:
                log.warning("subscription.refused", "the broker refused a subscription; check the policy",
                            filter=name, code=code)
            self._unanswered.pop(f"subscription to {name}", None)
        self._write_held()
        self._open_further(now)

    def on_acknowledged(self, event: Acknowledged, now: float) -> None:
        """Take a PUBACK; for what is kept `Session.acknowledged` tells of it as well."""
        if event.line == self.number and event.token == GOODBYE:
            self._session.hang_up(self.number)
        elif event.line == self.number and event.token == HELLO:
            self._outages.told()

    def on_received(self, event: Received, now: float) -> None:
        """Take a message that came in."""
        if event.line != self.number:
            return
        self._pass(len(event.payload))
        if event.topic == self._settings.presence.topic:
            self._standing, entry = presence.heard(self._standing, self._world.identity.hostname, event, now)
            if entry is not None:
                log.write(entry)
        for part in self._parts:
            part.heard(event, now)

    def on_down(self, event: Down, now: float) -> None:
        """The line is down, or did not come up."""
        if event.line != self.number:
            return
        if event.was_up:
            self._fall(event.reason, event.cause in ("closed", "reset") and not self.leaving, now)
        self.up_since = None
        self.down_reason = event.reason
        cause = event.cause
        if cause == "clock" and self._world.wall_is_set():
            cause = "certificate"
        self._attempts = reconnect.lost(self._attempts, self._settings.mqtt.backoff, cause, now, self._world.chance())
        if self.leaving:
            self._finish_goodbye(now)
        self._log_down(event, cause, now)
        self._changed(now)

    def problems(self) -> list[str]:
        """Return what is not as it should be, a sentence each."""
        found = [] if self.up else [f"not connected: {self.down_reason}"]
        found += [f"subscription to {name} refused" for name in self.subscriptions.refused]
        return found + [f"{action} denied" for action in self.suspicion.resting]

    def _dial(self) -> None:
        settings, mqtt = self._settings, self._settings.mqtt
        self.number += 1
        self._attempts = reconnect.dialling(self._attempts)
        session = self._world.new_id()
        self._standing = presence.Standing(session, 0.0)
        will = presence.status(settings.presence, self._world.identity.hostname, session, presence.LOST)
        tls, port = mqtt.tls, mqtt.port
        self._session.dial(Dial(
            self.number, mqtt.host, port, settings.thing, mqtt.clean_session, mqtt.keepalive_s, will,
            lambda: None if tls is None else credentials.context(tls, port)))

    def _say(self, word: str, token: int | None, now: float, **more: Any) -> None:
        """Put a word on the presence topic."""
        self._put(self._worded(word, **more), token, now)

    def _worded(self, word: str, **more: Any) -> Message:
        return presence.status(self._settings.presence, self._world.identity.hostname, self._standing.session, word,
                               timestamp=int(self._world.wall()), **more)

    def _put(self, message: Message, token: int | None, now: float) -> None:
        self._standing = presence.Standing(self._standing.session, now)
        self.send(message, token)

    def _say_goodbye(self, now: float) -> None:
        """Say the last word, no sooner after the one before than the broker takes another."""
        if self._goodbye is not None and now >= self._goodbye[1]:
            message, self._goodbye = self._goodbye[0], None
            self._put(message, GOODBYE, now)

    def _tell_story(self, waiting: int, now: float) -> None:
        """Make up what Connected tells beside the word: where this boot came from, and of the outage that is over."""
        self._story = {"boot": {"id": self._world.boot_id, "cause": self._outages.boot_cause}}
        outage = self._outages.until(now, self.down_reason)
        if self.number > 1 or outage.tried:
            told = {**outage._asdict(), "waiting": waiting}
            self._story["outage"] = told
            log.info("outage.over", "the line was down and is up again", **told)

    def _opening(self, plan: subscriptions.Plan) -> Iterable[tuple[list[str], Callable[[], None]]]:
        """Return the steps that open a line, each with the actions that the broker has to answer."""
        for pairs in ([[pair] for pair in plan.subscribe] if self.suspicion.careful else [plan.subscribe]):
            yield [f"subscription to {name}" for name, _ in pairs], partial(self._session.subscribe, self.number, pairs)
        yield [], partial(self._session.unsubscribe, self.number, plan.unsubscribe)

    def _open_further(self, now: float) -> None:
        """Take the next steps of opening the line: all at once, or with care only once all is answered."""
        careful = self.suspicion.careful
        while self._steps and not (careful and (self._unanswered or now < self._calm_at)):
            actions, step = self._steps.popleft()
            self._unanswered.update(dict.fromkeys(actions))
            step()
        if not self._steps and not (careful and (self._unanswered or now < self._calm_at)):
            self._open_parts(now)

    def _open_parts(self, now: float) -> None:
        """Open each part as soon as the broker has answered for all of its filters."""
        for part in self._parts:
            if not part.is_open and self.subscriptions.settled(part.filters()):
                part.is_open = True
                part.opened(now, self.suspicion.careful, self.suspicion.resting)

    def _wanted(self) -> dict[str, int]:
        wanted = {self._settings.presence.topic: self._settings.presence.qos}
        for part in self._parts:
            wanted.update(part.filters())
        return {name: qos for name, qos in wanted.items()
                if f"subscription to {name}" not in self.suspicion.resting}

    def _pass(self, size: int) -> None:
        publishes, total = self._passed
        self._passed = publishes + 1, total + size

    def _pending(self) -> list[str]:
        """Return what the broker has yet to answer, the messages that are kept apart."""
        return [*self._unanswered, *(action for part in self._parts for action in part.pending())]

    def _fall(self, reason: str, by_broker: bool, now: float) -> None:
        """The line was up: whatever is unanswered is asked again on the next one, unless that is what ends it."""
        unanswered = self._pending()
        in_flight = [action for part in self._parts for action in part.in_flight()]
        if reconnect.stable(self._attempts, now):
            self.suspicion = denial.proven(self.suspicion, now)
        elif by_broker and (unanswered or not in_flight):  # over messages alone the outbox judges
            self.suspicion, entries = denial.fell(self.suspicion, [*unanswered, *in_flight], now)
            for entry in entries:
                log.write(entry)
        self._outages.began(reason, now)
        self._steps.clear()
        self._unanswered.clear()
        self.up_since = None
        for part in self._parts:
            part.is_open = False
            part.closed(by_broker and not unanswered, now)

    def _log_down(self, event: Down, cause: str, now: float) -> None:
        """Log the end of a line; a failure that lasts once, and again every hour with a count."""
        dial_at = self._attempts.dial_at
        retry_in_s = None if dial_at == math.inf else round(dial_at - now, 1)
        if event.was_up:
            level = logging.INFO if cause == "asked" else logging.WARNING
            log.write(Entry(level, "session.disconnected", f"the line is down: {event.reason}", {
                "reason": event.reason, "cause": cause, "retry_in_s": retry_in_s}))
            return
        said, said_at, count = self._failure
        if cause == "asked" or (said == f"{cause}: {event.reason}" and now < said_at + REPEAT_LOG_S):
            self._failure = (said, said_at, count + 1)
            return
        log.warning("session.connect_failed", f"no line to the broker: {event.reason}", reason=event.reason,
                    cause=cause, retry_in_s=retry_in_s, attempts=count + 1)
        self._failure = (f"{cause}: {event.reason}", now, 0)

    def _finish_goodbye(self, now: float) -> None:
        afterwards, self._afterwards, self._goodbye, self._goodbye_until = self._afterwards, None, None, None
        if afterwards is not None:
            afterwards(now)

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
            self._held_written = held
            try:
                self._world.files.write_json(self._held_file, held)
            except OSError:
                self._held_written = None

    def _session_key(self) -> str:
        return f"{self._settings.thing}@{self._settings.mqtt.host}:{self._settings.mqtt.port}"
