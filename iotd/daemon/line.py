"""The line to the broker as the main thread sees it: dialling, presence, the opening of its parts, and the goodbye.

Connected is said first of all; `Opening` does the rest.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from iotd.config.settings import Settings
from iotd.daemon import presence, reconnect
from iotd.daemon.fence import Fence
from iotd.daemon.line_log import LineLog
from iotd.daemon.opening import Opening
from iotd.daemon.outage import Outages
from iotd.daemon.part import Part
from iotd.daemon.retained import Ledger
from iotd.daemon.world import World
from iotd.host import log
from iotd.mqtt import credentials
from iotd.mqtt.connection import Dial
from iotd.mqtt.session import Session
from iotd.vocabulary import Acknowledged, Dialled, Down, Json, Message, PassedOver, Received, Subscribed

GOODBYE_S = 5.0  # for the acknowledgement of Stopped

GOODBYE, HELLO = 0, -1  # tokens beside the numbers of messages that are kept, which begin at 1


class Line:
    """The line, one after the other; each is known by its number, from 1.

    `parts` are opened and closed with it; `changed` is called when it has come up or gone down.
    """

    def __init__(
        self, world: World, session: Session, settings: Settings, parts: list[Part], fence: Fence, outages: Outages,
        ledger: Ledger, phase: float, changed: Callable[[float], None]
    ) -> None:
        now = world.monotonic()
        self.number = 0
        self.up_since: float | None = None
        self.down_reason, self.down_cause = "not dialled yet", ""
        self.opening = Opening(world, session, parts, fence, settings)
        self._world = world
        self._session = session
        self._settings = settings
        self._parts = parts
        self._fence = fence
        self._outages = outages
        self._ledger = ledger
        # By its token, who waits for an acknowledgement: the part, None for the kernel, and what it is told by.
        self._awaited: dict[int, tuple[Part | None, Callable[[str], None]]] = {}
        self._last_token = HELLO
        self._changed = changed
        self._attempts = reconnect.first(now, settings.mqtt.spread_s, phase)
        self._log = LineLog(now)
        self._standing = presence.Standing("", now)
        self._story: dict[str, Json] = {}  # what Connected tells beside the word
        self._goodbye: tuple[Message, float] | None = None  # the word that is owed, and when it may be said
        self._goodbye_until: float | None = None
        self._afterwards: Callable[[float], None] | None = None  # once the goodbye is said
        self._passed = (0, 0)

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
        return self.up_since is not None and self._afterwards is None and self.opening.clear

    def next_due(self) -> float:
        """Return when `keep` has something to do, math.inf for never."""
        due_at = self._attempts.dial_at
        if self._goodbye_until is not None:
            due_at = min(due_at, self._goodbye_until)
        if self._goodbye is not None:
            due_at = min(due_at, self._goodbye[1])
        if self.up and not self.leaving:
            due_at = min(due_at, self._standing.again_at, self.opening.next_due())
        return due_at

    def retry_in_s(self, now: float) -> float | None:
        """Return when it is dialled next, None while it is up, being dialled, or given up."""
        dial_at = self._attempts.dial_at
        return None if dial_at == math.inf else round(max(0.0, dial_at - now), 1)

    def keep(self, now: float) -> None:
        """Do what is due: hang up, dial, open further, say Connected once more."""
        if self._goodbye is not None:
            self._say_goodbye(now)
        if self._goodbye_until is not None and now >= self._goodbye_until:
            self._session.hang_up(self.number)
        if now >= self._attempts.dial_at:
            self._dial()
        if self.up and not self.leaving:
            self.opening.further(now)
            if now >= self._standing.again_at:
                self._say(presence.CONNECTED, None, now, **self._story)
            if self._ledger.left and not self._awaited and self.clear:
                self._clear_left()

    def send(self, message: Message, then: Callable[[str], None] | None = None) -> None:
        """Publish now, past the spool; `then` is told of its acknowledgement, or why that did not come."""
        if then is None:
            self._publish(message, None)
        elif not self.up:
            then("the line is down")
        elif self.opening.rests(message.topic):
            then("the broker denies it; it rests for an hour")
        else:
            self._last_token -= 1
            self._awaited[self._last_token] = self._fence.calling, then
            self.opening.sent[self._last_token] = message.topic
            self._publish(message, self._last_token)

    def hand_over(self, messages: Sequence[tuple[int, Message]]) -> None:
        """Publish messages, each kept under its number."""
        retained = [message for _, message in messages if message.retain]
        if retained:
            self._ledger.note(retained)
        for number, message in messages:
            if message.retain:
                self._ledger.handed_over(number, message)
            self._session.publish(self.number, number, message)

    def clear_retained(self, topics: Sequence[str], then: Callable[[list[str], str], None]) -> None:
        """Have the broker keep nothing on these topics any more, one after the other; call `then` with those for which
        it has acknowledged that, and why there are no more of them.
        """
        cleared: list[str] = []

        def further() -> None:
            if len(cleared) == len(topics):
                then(cleared, "")
            elif not self.up or self.leaving:
                then(cleared, "the line is down")
            elif not self.clear:
                then(cleared, "the line is being opened with care; try again in a minute")
            else:
                topic = topics[len(cleared)]
                self.send(Message(topic, b"", 1, True), partial(answered, topic))

        def answered(topic: str, why: str) -> None:
            if why:
                then(cleared, why)
            else:
                self._ledger.cleared(topic)
                cleared.append(topic)
                further()

        further()

    def passed(self) -> tuple[int, int]:
        """Return how many publishes, and bytes of them, were sent by `send` or came in since the last call."""
        passed, self._passed = self._passed, (0, 0)
        return passed

    def apply(self, settings: Settings, now: float) -> None:
        """Let the settings take effect; other ones of the line itself need a new line."""
        old, self._settings = self._settings, settings
        anew = _of_the_line(settings) != _of_the_line(old)
        if anew and not self.leaving:  # else this line ends anyway, and what was asked for follows: a stop, a reboot
            # Stopped is said where the old configuration had its presence.
            self._settings = old
            self.leave(presence.STOPPED, self.dial_anew, now)
            self._settings = settings
        self.opening.change(settings, self.up and not anew, now)

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
        waiting = sum(self._fence.ask(part, Part.waiting) for part in self._parts)
        self._log.connected(mqtt.host, mqtt.port, event.session_present, waiting, now)
        is_other = self._ledger.reached(mqtt.host.lower())
        self._tell_story(waiting, now)
        # First, and never under suspicion: a broker that denies it has refused the will, and with it the connection.
        self._say(presence.CONNECTED, HELLO, now, **self._story)
        self.opening.begin(event, self._settings, now, is_other)
        self._changed(now)

    def on_subscribed(self, event: Subscribed, now: float) -> None:
        """Take a SUBACK."""
        if event.line == self.number:
            self.opening.answered(event, now)

    def on_acknowledged(self, event: Acknowledged, now: float) -> None:
        """Take a PUBACK; for what is kept `Session.acknowledged` tells of it as well."""
        if event.line == self.number and event.token == GOODBYE:
            self._session.hang_up(self.number)
        elif event.line == self.number and event.token == HELLO:
            self._outages.told()
            for part in self._parts:
                self._fence.call(part, part.welcomed, now)
        elif event.line == self.number and event.token in self._awaited:
            self.opening.arrived(event.token)
            self._fence.call(*self._awaited.pop(event.token), "")

    def on_received(self, event: Received, now: float) -> None:
        """Take a message that came in."""
        if event.line != self.number:
            return
        self._pass(len(event.payload))
        if event.topic == self._settings.presence.topic:
            own = presence.is_own(event.topic, self._settings.thing)
            self._standing, entry = presence.heard(self._standing, own, self._settings.hostname, event, now)
            if self._standing.rival is not None:
                self.opening.rival(self._standing.rival)
            if entry is not None:
                log.write(entry)
        for part in self._parts:
            self._fence.call(part, part.heard, event, now)

    def on_passed_over(self, event: PassedOver, now: float) -> None:
        """A message was too large to take."""
        if event.line == self.number:
            self._log.passed_over(event, now)

    def on_down(self, event: Down, now: float) -> None:
        """The line is down, or did not come up."""
        if event.line != self.number:
            return
        if event.was_up:
            self._fall(event, now)
        elif event.cause != "asked":
            self.opening.away()
        self.down_reason = event.reason
        cause = event.cause
        if cause == "clock" and self._world.wall_is_set():
            cause = "certificate"
        self.down_cause = cause
        if cause != "asked":
            self._outages.failed(cause, event.layer)
        self._attempts = reconnect.lost(self._attempts, self._settings.mqtt.backoff, cause, now, self._world.chance())
        if self.leaving:
            self._finish_goodbye(now)
        self._log.down(event, cause, self.retry_in_s(now), now)
        self._changed(now)

    def contested(self) -> bool:
        """Tell whether the broker ends each new line over nothing; one that has proven stable is not contested."""
        return self.opening.suspicion.contested and not reconnect.stable(self._attempts, self._world.monotonic())

    def problems(self) -> list[str]:
        """Return what is not as it should be, a sentence each."""
        found = [] if self.up else [f"not connected: {self.down_reason}"]
        if self.contested():
            found.append("another client has the same client id: each ends the line of the other")
        return found + self.opening.problems()

    def _dial(self) -> None:
        settings, mqtt = self._settings, self._settings.mqtt
        self.number += 1
        self._attempts = reconnect.dialling(self._attempts)
        session = self._world.new_id()
        self._standing = presence.next_line(self._standing, session)
        will = presence.status(settings.presence, settings.hostname, session, presence.LOST)
        tls, alpn = mqtt.tls, mqtt.alpn
        self._session.dial(Dial(
            self.number, mqtt.host, mqtt.port, settings.client_id, mqtt.clean_session, mqtt.keepalive_s,
            will if will.topic else None, lambda: None if tls is None else credentials.context(tls, alpn),
            mqtt.username, mqtt.password_file, mqtt.proxy, mqtt.websocket_path))

    def _say(self, word: str, token: int | None, now: float, **more: Any) -> None:
        """Put a word on the presence topic, where there is one."""
        self._put(self._worded(word, **more), token, now)

    def _worded(self, word: str, **more: Any) -> Message:
        return presence.status(self._settings.presence, self._settings.hostname, self._standing.session, word,
                               timestamp=int(self._world.wall()), **more)

    def _put(self, message: Message, token: int | None, now: float) -> None:
        if not message.topic:  # go on as if it had been acknowledged
            return None if token is None else self.on_acknowledged(Acknowledged(self.number, token), now)
        self._standing = self._standing._replace(said_at=now, again_at=math.inf)
        self._publish(message, token)

    def _publish(self, message: Message, token: int | None) -> None:
        self._ledger.note([message])
        self._session.publish(self.number, token, message)
        self._pass(len(message.payload))

    def _clear_left(self) -> None:
        """Clear the next topic whose section has gone, and which the broker does not deny."""
        for topic in self._ledger.left:
            if not self.opening.rests(topic):
                return self.clear_retained([topic], lambda cleared, why: None)

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
            self._outages.last = outage
            log.info("outage.over", "the line was down and is up again", **told)

    def _pass(self, size: int) -> None:
        publishes, total = self._passed
        self._passed = publishes + 1, total + size

    def _fall(self, event: Down, now: float) -> None:
        """The line was up: no answer will come any more."""
        blamed = self.opening.fell(event, self.leaving, reconnect.stable(self._attempts, now), now)
        self._outages.began(event.reason, now)
        self.up_since = None
        for part in self._parts:
            part.is_open = False
            self._fence.call(part, part.closed, blamed, now)
        awaited, self._awaited = self._awaited, {}
        for part_or_kernel, then in awaited.values():
            self._fence.call(part_or_kernel, then, f"the line went down over it, or beside it: {event.reason}")

    def _finish_goodbye(self, now: float) -> None:
        afterwards, self._afterwards, self._goodbye, self._goodbye_until = self._afterwards, None, None, None
        if afterwards is not None:
            afterwards(now)


def _of_the_line(settings: Settings) -> tuple[Any, ...]:
    """Return the settings that need a new line where they have changed."""
    return settings.thing, settings.hostname, settings.mqtt, settings.presence
