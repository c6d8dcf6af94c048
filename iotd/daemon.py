"""The daemon: wires the parts, owns the inbox and the loop, and the order in which everything ends.

One turn of the loop: wait for an event or for what is due, let the rules decide, perform what they return, and feed
the watchdog last. Start reading at `Daemon._turn`. The ways through it:

    out   Outgoing.make_due → spool → Outgoing.pump → session.publish → PUBACK → Outgoing.acknowledged
    in    session → inbox → _on_received → Voice.heard, presence, log
    tick  worker looks → _on_reading → Rescue.take → a request to the recovery helper, or why not
    job   check or command → Voice.checked, Voice.performed → a report
"""

from __future__ import annotations

import logging
import math
import os
import random
import signal
import time
import traceback
import uuid
from collections import deque
from collections.abc import Callable, Iterable
from functools import partial
from hashlib import sha256
from queue import Empty, SimpleQueue

from iotd import (__version__, credentials, denial, host, log, presence, reconnect, recovery, subscription, topics,
                  wifi)
from iotd.errors import EXIT_FAULT, ConfigError
from iotd.finding import CheckResult, Overridden, Performed
from iotd.model import Acknowledged, Dialled, Down, Entry, Message, Received, Signalled, Subscribed, ThreadFailed
from iotd.outgoing import Outgoing
from iotd.places import Places
from iotd.reading import Reading
from iotd.rescue import Outage, Rescue
from iotd.session import Dial, Session
from iotd.settings import Checked, Identity, Json, Settings
from iotd.spool import Spool
from iotd.typed import Any
from iotd.values import Values
from iotd.voice import Voice
from iotd.worker import Worker

BEAT_S = 15.0  # how often status.json is renewed where systemd's watchdog asks for nothing
GOODBYE_S = 5.0  # for the acknowledgement of Stopped
CLOSE_S = 5.0  # for the MQTT thread to end
REBOOT_S = 60.0  # for the host to go down; then the line is dialled again, since it did not
SETTLED_S = 1.0  # after a change, until status.json is renewed: what came of it is told too
EVENTS_PER_TURN = 256
REPEAT_LOG_S = 3600.0  # a failure that lasts is logged once an hour

GOODBYE, HELLO = 0, -1  # tokens beside the ids of the spool, which begin at 1


class Inbox:
    """Where everything that happens arrives, from any thread or signal handler."""

    def __init__(self) -> None:
        self._queue: SimpleQueue[Any] = SimpleQueue()
        self.put = self._queue.put
        self.size = self._queue.qsize

    def take(self, timeout_s: float) -> list[Any]:
        """Return what has arrived, waiting up to `timeout_s` for the first."""
        try:
            first = self._queue.get(timeout=timeout_s)
        except Empty:
            return []
        return [first, *(self._queue.get_nowait() for _ in range(min(self.size(), EVENTS_PER_TURN)))]


class Daemon:
    """One run of iotd. `load` reads and validates the configuration anew, or raises ConfigError."""

    def __init__(self, checked: Checked, load: Callable[[], Checked], places: Places, identity: Identity) -> None:
        now = time.monotonic()
        self.settings = settings = checked.settings
        self._start_log()
        self._warnings: tuple[str, ...] = checked.warnings
        self._load = load
        self._places = places
        self._identity = identity
        self._run_id = uuid.uuid4().hex[:16]
        self._boot_id = host.boot_id()
        self._systemd = host.Systemd()
        self._inbox = Inbox()
        self._session = Session(self._inbox.put, self._inbox.size)
        self._worker = Worker(self._inbox.put)
        self._spool = Spool(places.runtime, places.state, settings.spool, self._boot_id, now)
        self._outgoing = Outgoing(self._spool, self._hand_over)
        self._rescue = Rescue(places, self._boot_id, self._wall)
        self._values = Values(identity, self._boot_id, self._run_id, self._rescue)
        self._voice = Voice(self._send, self._inbox.put, places, self._run_id, self._values.now)

        self._attempts = reconnect.first(now, settings.mqtt.spread_s, _phase(identity))
        self._line = 0
        self._up = False
        self._up_at: float | None = None
        self._down_reason = "not dialled yet"
        self._failure: tuple[str, float, int] = ("", now, 0)
        self._standing = presence.Standing("", now)
        self._fell: tuple[float, str, int] | None = (now, "", 0)  # since when, why, dropped until then
        self._story: dict[str, Json] = {}  # what Connected tells beside the word
        self._suspicion = denial.Suspicion()
        self._steps: deque[tuple[list[str], Callable[[], None]]] = deque()
        self._unanswered: dict[str, None] = {}
        self._calm_at = 0.0  # when the next step may follow, where they go with care
        self._goodbye: tuple[str, float] | None = None  # the word that is being said, and until when it may take
        self._after_goodbye = ""

        self._subscriptions = subscription.Subscriptions({}, self._read_held())
        self._held_written: dict[str, Json] | None = None

        self._voice_stirred, self._voice_due_at = True, math.inf
        self._reboot: recovery.Step | None = None
        self._beat_from = self._beat_at = now  # a beat is due at the one, and no trouble at a turn from the other on
        self._stuck = ""
        self._status_file = places.runtime / "status.json"
        self._status_failed = False
        self._exit_status: int | None = None
        self._handlers: dict[type, Callable[[Any, float], None]] = {
            Dialled: self._on_dialled, Down: self._on_down, Acknowledged: self._on_acknowledged,
            Subscribed: self._on_subscribed, Received: self._on_received, Reading: self._on_reading,
            CheckResult: self._voice.checked, Performed: self._voice.performed, Overridden: self._on_overridden,
            Signalled: self._on_signalled, ThreadFailed: self._on_thread_failed,
        }

    def run(self) -> int:
        """Run until asked to stop; return the exit status."""
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, lambda caught, _: self._inbox.put(Signalled(caught)))
        try:
            self._start()
            while self._exit_status is None:
                self._turn()
        except Exception:
            log.error("daemon.fault", "a bug in iotd; systemd starts it again", traceback=traceback.format_exc())
            self._exit_status = EXIT_FAULT
        return self._close(self._exit_status)

    def _start(self) -> None:
        self._session.start()
        self._worker.start()
        now = time.monotonic()
        self._start_log()
        self.settings = self._voice.follow(self.settings, now)
        self._apply(self.settings, now)
        log.info("daemon.started", f"iotd {__version__} runs as {self.settings.thing}", version=__version__,
                 thing=self.settings.thing, run=self._run_id, waiting=self._spool.count)
        self._warn()
        self._systemd.ready()

    def _turn(self) -> None:
        """Take what has happened, do what is due, feed the watchdog."""
        due_at = self._next_due()
        self._session.go()
        events = self._inbox.take(max(0.0, due_at - time.monotonic()))
        now = time.monotonic()
        self._take_acknowledged()
        # Nothing else changes when the voice has something to do than an event, its own keep, and its opening.
        self._voice_stirred |= bool(events) or now >= self._voice_due_at or not self._voice.is_open
        for event in events:
            self._handlers[type(event)](event, now)
        self._keep(now)
        if now >= self._beat_from:
            self._beat(now)

    def _next_due(self) -> float:
        """Return when the loop has something to do that no event announces."""
        due_at = min(self._beat_at, self._attempts.dial_at)
        if self._goodbye:
            due_at = min(due_at, self._goodbye[1])
        if not self._leaving():
            if self._voice_stirred:
                self._voice_stirred, self._voice_due_at = False, self._voice.next_due()
            due_at = min(due_at, self._outgoing.next_due(), self._voice_due_at)
            if self._up:
                due_at = min(due_at, self._standing.again_at)
                if not self._unanswered and not self._voice.is_open:
                    due_at = min(due_at, self._calm_at)
        return due_at

    def _keep(self, now: float) -> None:
        """Do everything that is due."""
        if self._goodbye and now >= self._goodbye[1]:
            self._session.hang_up(self._line)
        if now >= self._attempts.dial_at:
            self._dial()
        if not self._leaving():
            self._outgoing.make_due(self._values.now, now)
            if now >= self._voice_due_at:
                self._voice.keep(now)
            if self._up:
                self._open_further(now)
            if self._up and now >= self._standing.again_at:
                self._say(presence.CONNECTED, None, now, **self._story)
            if not self._steps and not (self._suspicion.careful and self._pending()):
                self._pump(now)
        self._outgoing.settle(now, self._wall)

    def _pump(self, now: float) -> None:
        """Hand over what waits; while some of it waits for acknowledgements, be woken by them."""
        self._outgoing.pump(now)
        self._session.eager = self._outgoing.crowded
        if self._session.eager and self._take_acknowledged():  # those that came before it was said
            self._outgoing.pump(now)

    def _take_acknowledged(self) -> bool:
        tokens = self._session.acknowledged(self._line)
        for token in tokens:
            self._outgoing.acknowledged(token)
        return bool(tokens)

    def _hand_over(self, number: int, message: Message) -> None:
        self._session.publish(self._line, number, message)

    def _say(self, word: str, token: int | None, now: float, **more: Any) -> None:
        """Put a word on the presence topic."""
        message = presence.status(self.settings.presence, self._identity.hostname, self._standing.session, word,
                                  timestamp=int(time.time()), **more)
        self._standing = presence.Standing(self._standing.session, now)
        self._send(message, token)

    def _send(self, message: Message, token: int | None = None) -> None:
        """Publish now, past the spool: it speaks of this very moment and is made anew on the next line."""
        self._session.publish(self._line, token, message)
        self._outgoing.spent(1, len(message.payload), time.monotonic())

    def _dial(self) -> None:
        settings, mqtt = self.settings, self.settings.mqtt
        self._line += 1
        self._attempts = reconnect.dialling(self._attempts)
        session = uuid.uuid4().hex[:16]
        self._standing = presence.Standing(session, 0.0)
        will = presence.status(settings.presence, self._identity.hostname, session, presence.LOST)
        tls, port = mqtt.tls, mqtt.port
        self._session.dial(Dial(self._line, mqtt.host, port, settings.thing, mqtt.clean_session, mqtt.keepalive_s, will,
                                lambda: None if tls is None else credentials.context(tls, port)))

    def _on_dialled(self, event: Dialled, now: float) -> None:
        if event.line != self._line:
            return
        mqtt = self.settings.mqtt
        self._up, self._up_at = True, now
        self._outgoing.rise()
        self._attempts = reconnect.connected(self._attempts, now)
        self._failure = ("", now, 0)
        log.info("session.connected", f"connected to {mqtt.host}", host=mqtt.host, port=mqtt.port,
                 session_present=event.session_present, waiting=self._spool.count)
        self._tell_story(now)
        wanted = self._subscriptions._replace(wanted=self._wanted())
        self._subscriptions, plan = subscription.opened(wanted, event.session_present)
        self._write_held()
        # First, and never under suspicion: a broker that denies it has refused the will, and with it the connection.
        self._say(presence.CONNECTED, HELLO, now, **self._story)
        self._steps = deque(self._opening(plan))
        self._calm_at = now + denial.QUIET_S
        self._open_further(now)
        self._beat(now)
        self._beat_soon(now)

    def _tell_story(self, now: float) -> None:
        """Make up what Connected tells beside the word: where this boot came from, and of the outage that is over."""
        self._story = {"boot": {"id": self._boot_id, "cause": self._rescue.boot_cause}}
        outage = self._outage(now)
        if self._line > 1 or outage.tried:
            told = {**outage._asdict(), "waiting": self._spool.count}
            self._story["outage"] = told
            log.info("outage.over", "the line was down and is up again", **told)

    def _outage(self, now: float) -> Outage:
        """Return the outage until now: since the last line whose Connected was acknowledged."""
        fell_at, reason, dropped = self._fell or (now, "", self._spool.dropped.total())
        return self._rescue.whole(Outage(reason or self._down_reason, round(now - fell_at, 1), {},
                                         self._spool.dropped.total() - dropped))

    def _end_outage(self) -> None:
        self._fell = None
        self._rescue.told()

    def _opening(self, plan: subscription.Plan) -> Iterable[tuple[list[str], Callable[[], None]]]:
        """Return the steps that open a line, each with the actions that the broker has to answer.

        While an action is suspected of ending the line they go one by one.
        """
        for pairs in ([[pair] for pair in plan.subscribe] if self._suspicion.careful else [plan.subscribe]):
            yield [f"subscription to {name}" for name, _ in pairs], partial(self._session.subscribe, self._line, pairs)
        yield [], partial(self._session.unsubscribe, self._line, plan.unsubscribe)

    def _open_further(self, now: float) -> None:
        """Take the next steps of opening the line: all at once, or with care only once all is answered."""
        careful = self._suspicion.careful
        while self._steps and not (careful and (self._unanswered or now < self._calm_at)):
            actions, step = self._steps.popleft()
            self._unanswered.update(dict.fromkeys(actions))
            step()
        if not self._steps and not (careful and (self._unanswered or now < self._calm_at)):
            self._open_shadows(now)

    def _on_subscribed(self, event: Subscribed, now: float) -> None:
        if event.line != self._line:
            return
        known = self._subscriptions.refused
        self._subscriptions = subscription.answered(self._subscriptions, event.codes)
        for name, code in event.codes:
            if name in self._subscriptions.refused and name not in known:
                log.warning("subscription.refused", "the broker refused a subscription; check the policy",
                            filter=name, code=code)
            self._unanswered.pop(f"subscription to {name}", None)
        self._write_held()
        self._open_further(now)

    def _open_shadows(self, now: float) -> None:
        """Begin the conversation with the shadows as soon as the broker has answered for all of their filters."""
        if not self._voice.is_open and self._subscriptions.settled(self._voice.filters):
            self._voice.opened(now, self._suspicion.careful, self._suspicion.resting)

    def _on_acknowledged(self, event: Acknowledged, now: float) -> None:
        if event.line != self._line:
            return
        if event.token == GOODBYE:
            self._session.hang_up(self._line)
        elif event.token == HELLO:
            self._end_outage()
        else:
            self._outgoing.acknowledged(event.token)

    def _on_received(self, event: Received, now: float) -> None:
        if event.line != self._line:
            return
        self._outgoing.spent(1, len(event.payload), now)
        if event.topic == self.settings.presence.topic:
            self._standing, entry = presence.heard(self._standing, self._identity.hostname, event, now)
            if entry is not None:
                log.write(entry)
        if not self._leaving():  # an order that is begun now would be cut off
            self._voice.heard(event, now)
        if any(topics.matches(wanted.filter, event.topic) for wanted in self.settings.subscribe):
            log.info("message.received", "a message came in", topic=event.topic, qos=event.qos, retain=event.retain,
                     **log.readable(event.payload))

    def _on_down(self, event: Down, now: float) -> None:
        if event.line != self._line:
            return
        if event.was_up:
            self._fall(event.reason, event.cause in ("closed", "reset") and not self._leaving(), now)
        self._up = False
        self._down_reason = event.reason
        cause = event.cause
        if cause == "clock" and host.clock_is_set():
            cause = "certificate"
        self._attempts = reconnect.lost(self._attempts, self.settings.mqtt.backoff, cause, now, random.random())
        if self._after_goodbye:
            self._finish_goodbye(now)
        self._log_down(event, cause, now)
        self._beat(now)

    def _fall(self, reason: str, by_broker: bool, now: float) -> None:
        """The line was up: whatever is unanswered is asked again on the next one, unless that is what ends it."""
        unanswered, in_flight = self._pending(), self._outgoing.in_flight()
        if reconnect.stable(self._attempts, now):
            self._suspicion = denial.proven(self._suspicion, now)
        elif by_broker and (unanswered or not in_flight):  # over messages alone the outbox judges
            self._suspicion, entries = denial.fell(self._suspicion, [*unanswered, *in_flight], now)
            for entry in entries:
                log.write(entry)
        self._fell = self._fell or (now, reason, self._spool.dropped.total())
        self._steps.clear()
        self._unanswered.clear()
        self._voice.closed()
        self._outgoing.fall(by_broker and not unanswered, now, self._wall())

    def _pending(self) -> list[str]:
        """Return what the broker has yet to answer, the messages of the spool apart."""
        return [*self._unanswered, *self._voice.unanswered]

    def _log_down(self, event: Down, cause: str, now: float) -> None:
        """Log the end of a line; a failure that lasts once, and again every hour with a count."""
        dial_at = self._attempts.dial_at
        retry_in_s = None if dial_at == math.inf or self._exit_status is not None else round(dial_at - now, 1)
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

    def _leaving(self) -> bool:
        return self._after_goodbye != ""

    def _leave(self, word: str, then: str, now: float) -> None:
        """Say the word on the presence topic and hang up; `then` is stop, dial or reboot."""
        self._after_goodbye = then
        if self._up:
            self._goodbye = (word, now + GOODBYE_S)
            self._say(word, GOODBYE, now)
        elif self._attempts.dial_at == math.inf:
            self._session.hang_up(self._line)
        else:
            self._finish_goodbye(now)

    def _finish_goodbye(self, now: float) -> None:
        then, self._after_goodbye, self._goodbye = self._after_goodbye, "", None
        if then == "stop":
            self._exit_status = 0
        elif then == "reboot" and self._reboot is not None:
            self._spool.settle(now, self._wall(), everything=True)
            self._rescue.reboot(self._reboot, self._outage(now))
            self._attempts = reconnect.first(now + REBOOT_S, 0.0, 0.0)
        else:
            self._attempts = reconnect.first(now + reconnect.FLOOR_S, 0.0, 0.0)

    def _on_overridden(self, event: Overridden, now: float) -> None:
        old, self.settings = self.settings, self._voice.overridden()
        self._apply(old, now)

    def _on_signalled(self, event: Signalled, now: float) -> None:
        name = signal.Signals(event.number).name
        if event.number == signal.SIGHUP:
            self._reload(now)
        elif self._after_goodbye == "stop":
            self._exit_status = 0
        else:
            log.info("daemon.stopping", f"asked to stop by {name}", reason=name)
            self._systemd.stopping()
            self._leave(presence.STOPPED, "stop", now)

    def _on_thread_failed(self, event: ThreadFailed, now: float) -> None:
        log.error("daemon.fault", f"a bug ended the {event.thread} thread; systemd starts iotd again",
                  thread=event.thread, traceback=event.traceback)
        self._exit_status = EXIT_FAULT

    def _reload(self, now: float) -> None:
        """Read and validate the configuration anew; only a good one takes the old one's place."""
        try:
            checked = self._load()
        except ConfigError as error:
            log.error("daemon.reload_failed", "the configuration has problems; the old one stays in force",
                      problems=error.lines())
            return
        old, self.settings, self._warnings = self.settings, self._voice.follow(checked.settings, now), checked.warnings
        self._apply(old, now)
        log.info("daemon.reloaded", "the configuration was read anew")
        self._warn()

    def _warn(self) -> None:
        """Say what is not right about the configuration, and is used all the same."""
        for warning in self._warnings:
            log.warning("config.warning", warning)

    def _apply(self, old: Settings, now: float) -> None:
        """Let `self.settings` take effect in place of `old`."""
        settings = self.settings
        self._start_log()
        self._values.follow(settings)
        self._outgoing.apply(settings, now)
        self._rescue.apply(settings.wifi)
        self._voice.apply(settings, now)
        watched = settings.wifi
        self._worker.look({} if watched is None else {
            watched.interface: (watched.every_s, partial(wifi.look, watched.interface))})
        self._subscriptions, plan = subscription.changed(self._subscriptions, self._wanted())
        if (settings.thing, settings.mqtt, settings.presence) != (old.thing, old.mqtt, old.presence):
            self._leave_for_new_line(old, now)
        elif self._up:
            self._write_held()
            self._session.unsubscribe(self._line, plan.unsubscribe)
            self._session.subscribe(self._line, plan.subscribe)
            self._open_shadows(now)

    def _start_log(self) -> None:
        log.start(self.settings.log.level, self.settings.log.format, "JOURNAL_STREAM" in os.environ)

    def _leave_for_new_line(self, old: Settings, now: float) -> None:
        """Say Stopped where the old configuration had its presence, then dial as the new one says."""
        new, self.settings = self.settings, old
        self._leave(presence.STOPPED, "dial", now)
        self.settings = new

    def _wanted(self) -> dict[str, int]:
        settings = self.settings
        wanted = {entry.filter: entry.qos for entry in settings.subscribe}
        wanted.setdefault(settings.presence.topic, settings.presence.qos)
        wanted.update({name: 1 for name in self._voice.filters})
        return {name: qos for name, qos in wanted.items()
                if f"subscription to {name}" not in self._suspicion.resting}

    def _on_reading(self, reading: Reading, now: float) -> None:
        before = (self._rescue.wrong, self._rescue.essid)
        reboot = self._rescue.take(reading, self._up, now)
        if (self._rescue.wrong, self._rescue.essid) != before:
            self._beat_soon(now)
        if reboot is not None and not self._leaving():
            self._reboot = reboot
            self._leave(presence.REBOOTING, "reboot", now)

    def _read_held(self) -> dict[str, int]:
        """Return what the broker is known to hold for this client id, as an earlier run wrote it down."""
        held = host.read_json(self._places.runtime / "subscriptions.json")
        if not isinstance(held, dict) or held.get("session") != self._session_key():
            return {}
        filters = held.get("filters")
        return filters if isinstance(filters, dict) else {}

    def _write_held(self) -> None:
        """Write down what the broker holds; in memory, since after a reboot to subscribe again is no harm."""
        held = {"session": self._session_key(), "filters": dict(self._subscriptions.held)}
        if held != self._held_written:
            self._held_written = held
            try:
                host.write_json(self._places.runtime / "subscriptions.json", held)
            except OSError:
                self._held_written = None

    def _session_key(self) -> str:
        return f"{self.settings.thing}@{self.settings.mqtt.host}:{self.settings.mqtt.port}"

    def _wall(self) -> float | None:
        """Return the wall clock, None while nobody has set it."""
        return time.time() if host.clock_is_set() else None

    def _beat_soon(self, now: float) -> None:
        """Renew status.json once what has changed just now has settled."""
        self._beat_from = self._beat_at = min(self._beat_at, now + SETTLED_S)

    def _beat(self, now: float) -> None:
        """Tell systemd and status.json how it stands; the watchdog is fed only where every thread lives."""
        every_s = self._systemd.feed_every_s or BEAT_S
        self._beat_from, self._beat_at = now + every_s / 2, now + every_s
        stuck = ", ".join(name for name, alive in (("mqtt", self._session.alive(now)),
                                                   ("worker", self._worker.alive(now))) if not alive)
        if stuck and stuck != self._stuck:
            log.error("watchdog.withheld", f"the {stuck} thread is stuck; systemd will start iotd again",
                      reason=f"thread {stuck} is stuck")
        self._stuck = stuck
        if not stuck:
            self._systemd.feed()
        mqtt = self.settings.mqtt
        self._systemd.status(f"connected to {mqtt.host}:{mqtt.port}" if self._up else
                             f"not connected to {mqtt.host}:{mqtt.port}: {self._down_reason}")
        try:
            host.write_json(self._status_file, self._status(now), mode=0o644)
            self._status_failed = False
        except OSError as error:
            if not self._status_failed:
                log.warning("status.unwritable", "status.json cannot be written; iotd status will call it stale",
                            path=str(self._status_file), reason=str(error))
            self._status_failed = True

    def _status(self, now: float) -> dict[str, Json]:
        """Return what `iotd status` shows."""
        mqtt = self.settings.mqtt
        problems = list(self._spool.failures)
        problems += [f"subscription to {name} refused" for name in self._subscriptions.refused]
        problems += [f"publish to {topic} denied" for topic in self._outgoing.denied]
        problems += [f"{action} denied" for action in self._suspicion.resting]
        if not self._up:
            problems.insert(0, f"not connected: {self._down_reason}")
        if self._rescue.wrong:
            problems.append("the Wi-Fi is not as it should be")
        problems += self._voice.problems()
        return {
            "version": __version__, "pid": os.getpid(), "written_s": host.uptime_s(), "boot_id": self._boot_id,
            "thing": self.settings.thing, "host": mqtt.host, "port": mqtt.port, "connected": self._up,
            "for_s": None if self._up_at is None or not self._up else round(now - self._up_at),
            "healthy": not problems, "problems": problems,
            "waiting": self._spool.count, "waiting_bytes": self._spool.size, "dropped": dict(self._spool.dropped),
            "wifi": self._rescue.status(), **self._voice.status(),
        }

    def _close(self, exit_status: int) -> int:
        """End every part in order, each in its own try, so that none keeps the next from ending."""
        now = time.monotonic()
        self._systemd.stopping()
        ends: list[Callable[[], Any]] = [
            self._voice.close, partial(self._session.close, CLOSE_S), self._worker.close,
            lambda: self._spool.close(now, self._wall()),
            partial(self._status_file.unlink, missing_ok=True)]
        for end in ends:
            try:
                end()
            except Exception:
                log.error("daemon.fault", "a part did not end well", traceback=traceback.format_exc())
        log.info("daemon.stopped", "stopped", reason="asked" if exit_status == 0 else "fault")
        return exit_status


def _phase(identity: Identity) -> float:
    """Return this device's own part of any span, 0 to 1, the same in every run."""
    seed = identity.machine_id or identity.hostname
    return int.from_bytes(sha256(f"iotd {seed}".encode()).digest()[:4], "big") / 2**32
