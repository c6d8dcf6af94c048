"""The daemon: wires the parts, owns the inbox and the loop, and the order in which everything ends.

One turn of the loop: wait for an event or for what is due, let the rules decide, perform what they return, and feed
the watchdog last. Start reading at `Daemon._turn`. The ways through it:

    out   _publish_due → template → spool → outbox.take → session.publish → PUBACK → spool.forget
    in    session → inbox → _on_received → shadow, presence, log → effects → _perform
    tick  worker looks → _on_reading → recovery.judge → a request to the recovery helper, or why not
"""

from __future__ import annotations

import base64
import json
import logging
import os
import random
import signal
import time
import traceback
import uuid
from collections import Counter
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from functools import partial
from hashlib import sha256
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any, Callable, Iterable, Mapping

from iotd import (__version__, credentials, host, log, outbox, presence, reconnect, recovery, schedule, shadow,
                  subscription, template, topics, wifi)
from iotd.errors import EXIT_FAULT, ConfigError
from iotd.model import (Acknowledged, Dialled, Down, Entry, Message, Received, Send, Signalled, Subscribed,
                        ThreadFailed)
from iotd.outbox import Waiting
from iotd.reading import Reading, ssid_text
from iotd.session import Dial, Session
from iotd.settings import Identity, Json, Publish, Settings
from iotd.spool import Spool
from iotd.worker import Worker

BEAT_S = 15.0  # how often status.json is renewed where systemd's watchdog asks for nothing
GOODBYE_S = 5.0  # for the acknowledgement of Stopped
CLOSE_S = 5.0  # for the MQTT thread to end
REBOOT_S = 60.0  # for the host to go down; then the line is dialled again, since it did not
EVENTS_PER_TURN = 256
REPEAT_LOG_S = 3600.0  # a failure that lasts is logged once an hour

GOODBYE, UNTRACKED = 0, -1  # tokens beside the ids of the spool, which begin at 1


@dataclass(frozen=True, slots=True)
class Places:
    """The two directories: what must outlive a reboot, and what need not."""

    state: Path
    runtime: Path


class Inbox:
    """Where everything that happens arrives, from any thread or signal handler."""

    def __init__(self) -> None:
        self._queue: SimpleQueue[Any] = SimpleQueue()
        self.put = self._queue.put
        self.size = self._queue.qsize

    def take(self, timeout_s: float | None) -> list[Any]:
        """Return what has arrived, waiting up to `timeout_s` (None: for ever) for the first."""
        events: list[Any] = []
        try:
            events.append(self._queue.get(timeout=timeout_s))
            while len(events) < EVENTS_PER_TURN:
                events.append(self._queue.get_nowait())
        except Empty:
            pass
        return events


class Daemon:
    """One run of iotd. `load` reads and validates the configuration anew, or raises ConfigError."""

    def __init__(self, settings: Settings, load: Callable[[], Settings], places: Places, identity: Identity) -> None:
        now = time.monotonic()
        self.settings = settings
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
        self._outbox = outbox.Outbox()
        self._pump_at: float | None = None
        self._transient: dict[int, Waiting] = {}
        self._acknowledged: list[int] = []

        self._attempts = reconnect.first(now, settings.mqtt.spread_s, _phase(identity))
        self._line = 0
        self._up = False
        self._up_at: float | None = None
        self._down_reason = "not dialled yet"
        self._failure: tuple[str, float, int] = ("", now, 0)
        self._standing = presence.Standing("", now)
        self._goodbye: tuple[str, float] | None = None  # the word that is being said, and until when it may take
        self._after_goodbye = ""

        self._sequence: Counter[str] = Counter()
        self._publishes = schedule.EMPTY
        self._reports = schedule.EMPTY
        self._fills: dict[tuple[str, int], template.Fill] = {}
        self._conversation = shadow.start(settings.thing, settings.shadows, self._run_id)
        self._asked_shadows = False
        self._subscriptions = subscription.Subscriptions({}, self._read_held())
        self._held_written: dict[str, Json] | None = None

        self._reading: Reading | None = None
        self._recovery = recovery.initial()
        self._budget = self._read_budget()
        self._budget_kept = True
        self._last_step: recovery.Step | None = None
        self._beat_at = now
        self._stuck = ""
        self._status_failed = False
        self._exit_status: int | None = None
        self._handlers: dict[type, Callable[[Any, float], None]] = {
            Dialled: self._on_dialled, Down: self._on_down, Acknowledged: self._on_acknowledged,
            Subscribed: self._on_subscribed, Received: self._on_received, Reading: self._on_reading,
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
        self._apply(self.settings, time.monotonic())
        log.info("daemon.started", f"iotd {__version__} runs as {self.settings.thing}", version=__version__,
                 thing=self.settings.thing, run=self._run_id, waiting=self._spool.count)
        self._systemd.ready()

    def _turn(self) -> None:
        """Take what has happened, do what is due, feed the watchdog."""
        due_at = self._next_due()
        events = self._inbox.take(None if due_at is None else max(0.0, due_at - time.monotonic()))
        now = time.monotonic()
        for event in events:
            self._handlers[type(event)](event, now)
        self._keep(now)
        if now >= self._beat_at - self._beat_s() / 2:
            self._beat(now)

    def _next_due(self) -> float | None:
        """Return when the loop has something to do that no event announces."""
        times = [self._beat_at, self._attempts.dial_at, self._publishes.next_due(), self._spool.settle_at(),
                 self._goodbye[1] if self._goodbye else None]
        if self._up:
            times += [self._reports.next_due(), shadow.next_due(self._conversation), self._standing.again_at,
                      self._pump_at]
        return min((at for at in times if at is not None), default=None)

    def _keep(self, now: float) -> None:
        """Do everything that is due."""
        if self._acknowledged:
            self._forget_acknowledged()
        if self._goodbye and now >= self._goodbye[1]:
            self._session.hang_up(self._line)
        if self._attempts.dial_at is not None and now >= self._attempts.dial_at:
            self._dial()
        if self._exit_status is None and not self._leaving():
            self._publish_due(now)
        if self._up and not self._leaving():
            self._report_due(now)
            self._conversation, effects = shadow.keep(self._conversation, now)
            self._perform(effects, now)
            if self._standing.again_at is not None and now >= self._standing.again_at:
                self._say(presence.CONNECTED, UNTRACKED, now)
            self._pump(now)
        settle_at = self._spool.settle_at()
        if settle_at is not None and now >= settle_at:
            self._spool.settle(now, self._wall())

    def _publish_due(self, now: float) -> None:
        due, self._publishes = schedule.take(self._publishes, now)
        for index in due:
            self._make(index, self.settings.publish[index], now)

    def _make(self, index: Any, entry: Publish, now: float) -> None:
        """Make the message of an entry and put it where its `offline` says."""
        self._sequence[entry.topic] += 1
        values = {**self._values(), "sequence": self._sequence[entry.topic]}
        payload = _json(self._fills["publish", index](values))
        if self.settings.mqtt.aws_limits and len(payload) > outbox.MAX_PAYLOAD_BYTES:
            log.warning("publish.too_large", "the message is larger than AWS IoT Core takes; it is not sent",
                        topic=entry.topic, bytes=len(payload), max_bytes=outbox.MAX_PAYLOAD_BYTES)
            return
        number = self._spool.next_id()
        message = Message(entry.topic, payload, entry.qos, entry.retain)
        if entry.offline == "drop":
            self._send_or_drop(Waiting(number, entry.topic, payload, entry.qos, entry.retain), now)
        else:
            self._spool.put(number, message, entry.offline == "latest", now)

    def _send_or_drop(self, waiting: Waiting, now: float) -> None:
        chosen: list[tuple[int, Message]] = []
        if self._up:
            cursor = self._outbox.cursor
            self._outbox, chosen, _ = outbox.take(self._outbox, [waiting], {}, now)
            self._outbox = replace(self._outbox, cursor=cursor)
        if waiting.retain:
            self._spool.newest[waiting.topic] = waiting.id
        if chosen:
            self._transient[waiting.id] = waiting
            self._hand_over(chosen)
        else:
            self._spool.dropped[waiting.topic] += 1

    def _pump(self, now: float) -> None:
        """Hand over what waits, as far as the limits allow."""
        self._pump_at = None
        self._outbox, resting = outbox.resting(self._outbox, now)
        while self._outbox.cursor < self._spool.last_id:
            room = outbox.room(self._outbox)
            rows = self._spool.fetch(self._outbox.cursor, room, resting) if room else []
            if room and not rows:
                self._outbox = replace(self._outbox, cursor=self._spool.last_id)
            self._outbox, chosen, self._pump_at = outbox.take(self._outbox, rows, self._spool.newest, now)
            if not chosen:
                return
            self._hand_over(chosen)

    def _hand_over(self, chosen: Iterable[tuple[int, Message]]) -> None:
        for number, message in chosen:
            self._session.publish(self._line, number, message)
            if log.enabled(logging.DEBUG):
                log.write(Entry(logging.DEBUG, "message.published", "handed to the broker", {
                    "topic": message.topic, "qos": message.qos, "retain": message.retain,
                    **_readable(message.payload)}))

    def _forget_acknowledged(self) -> None:
        ids, self._acknowledged = self._acknowledged, []
        self._outbox = outbox.acknowledged(self._outbox, ids)
        kept = [number for number in ids if self._transient.pop(number, None) is None]
        if kept:
            self._spool.forget(kept)

    def _report_due(self, now: float) -> None:
        due, self._reports = schedule.take(self._reports, now)
        for index in due:
            self._report(shadow.Report(index), now)

    def _report(self, report: shadow.Report, now: float) -> None:
        """Fill the templates of a shadow and report them."""
        settings = self.settings.shadows[report.shadow]
        name = f"shadow {report.shadow}"
        self._sequence[name] += 1
        values = {**self._values(), "sequence": self._sequence[name], "health": settings.healthy}
        reported = self._fills["reported", report.shadow](values)
        desired = template.compile_tree(report.desired)(values) if report.desired else {}
        self._conversation, effects = shadow.report(self._conversation, report.shadow, reported, desired, now)
        self._perform(effects, now)

    def _say(self, word: str, token: int, now: float, **more: Any) -> None:
        """Put a word on the presence topic."""
        message = presence.status(self.settings.presence, self._identity.hostname, self._standing.session, word,
                                  timestamp=int(time.time()), **more)
        self._standing = presence.Standing(self._standing.session, now)
        self._session.publish(self._line, token, message)
        self._outbox = outbox.spent(self._outbox, 1, len(message.payload), now)

    def _perform(self, effects: Iterable[Any], now: float) -> None:
        """Do what a rule asks for."""
        for effect in effects:
            if isinstance(effect, Entry):
                log.write(effect)
            elif isinstance(effect, Send):
                self._session.publish(self._line, UNTRACKED, effect.message)
                self._outbox = outbox.spent(self._outbox, 1, len(effect.message.payload), now)
            elif isinstance(effect, shadow.Report):
                self._report(effect, now)
            else:
                raise TypeError(f"no way to perform {effect!r}")

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
        self._attempts = reconnect.connected(self._attempts, now)
        self._failure = ("", now, 0)
        log.info("session.connected", f"connected to {mqtt.host}", host=mqtt.host, port=mqtt.port,
                 session_present=event.session_present, waiting=self._spool.count)
        self._say(presence.CONNECTED, UNTRACKED, now)
        self._subscriptions, plan = subscription.opened(self._subscriptions, event.session_present)
        self._subscribe(plan)
        self._open_shadows(now)
        self._beat(now)

    def _subscribe(self, plan: subscription.Plan) -> None:
        self._write_held()
        self._session.unsubscribe(self._line, plan.unsubscribe)
        self._session.subscribe(self._line, plan.subscribe)

    def _on_subscribed(self, event: Subscribed, now: float) -> None:
        if event.line != self._line:
            return
        known = self._subscriptions.refused
        self._subscriptions = subscription.answered(self._subscriptions, event.codes)
        for name, code in self._subscriptions.refused.items():
            if name not in known:
                log.warning("subscription.refused", "the broker refused a subscription; check the policy",
                            filter=name, code=code)
        self._write_held()
        self._open_shadows(now)

    def _open_shadows(self, now: float) -> None:
        """Begin the conversation with the shadows as soon as the broker has answered for all of their filters."""
        if not self._asked_shadows and self._subscriptions.settled(shadow.filters(self._conversation)):
            self._asked_shadows = True
            self._conversation, effects = shadow.opened(self._conversation, now)
            self._perform(effects, now)

    def _on_acknowledged(self, event: Acknowledged, now: float) -> None:
        if event.line != self._line:
            return
        if event.token == GOODBYE:
            self._session.hang_up(self._line)
        elif event.token != UNTRACKED:
            self._acknowledged.append(event.token)

    def _on_received(self, event: Received, now: float) -> None:
        if event.line != self._line:
            return
        self._outbox = outbox.spent(self._outbox, 1, len(event.payload), now)
        if event.topic == self.settings.presence.topic:
            self._standing, entry = presence.heard(self._standing, self._identity.hostname, event, now)
            if entry is not None:
                log.write(entry)
        self._conversation, effects = shadow.heard(self._conversation, event, now)
        self._perform(effects, now)
        if any(topics.matches(wanted.filter, event.topic) for wanted in self.settings.subscribe):
            log.info("message.received", "a message came in", topic=event.topic, qos=event.qos, retain=event.retain,
                     **_readable(event.payload))

    def _on_down(self, event: Down, now: float) -> None:
        if event.line != self._line:
            return
        if event.was_up:
            self._fall(event, now)
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

    def _fall(self, event: Down, now: float) -> None:
        """The line was up: what was in flight waits on disk for the next one."""
        self._forget_acknowledged()
        self._asked_shadows = False
        self._conversation = shadow.closed(self._conversation)
        self._outbox, aside, entries = outbox.fell(self._outbox, event.cause in ("closed", "reset"), now)
        for waiting in self._transient.values():
            self._spool.dropped[waiting.topic] += 1
        self._transient.clear()
        if aside is not None:
            self._spool.set_aside(aside)
        self._perform(entries, now)
        self._spool.settle(now, self._wall(), everything=True)

    def _log_down(self, event: Down, cause: str, now: float) -> None:
        """Log the end of a line; a failure that lasts once, and again every hour with a count."""
        dial_at = self._attempts.dial_at
        retry_in_s = None if dial_at is None or self._exit_status is not None else round(dial_at - now, 1)
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
        elif self._attempts.dial_at is None:
            self._session.hang_up(self._line)
        else:
            self._finish_goodbye(now)

    def _finish_goodbye(self, now: float) -> None:
        then, self._after_goodbye, self._goodbye = self._after_goodbye, "", None
        if then == "stop":
            self._exit_status = 0
        elif then == "reboot" and self._last_step is not None:
            self._spool.settle(now, self._wall(), everything=True)
            self._request(self._last_step)
            self._attempts = reconnect.first(now + REBOOT_S, 0.0, 0.0)
        else:
            self._attempts = reconnect.first(now + reconnect.FLOOR_S, 0.0, 0.0)

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
            settings = self._load()
        except ConfigError as error:
            log.error("daemon.reload_failed", "the configuration has problems; the old one stays in force",
                      problems=error.lines())
            return
        old, self.settings = self.settings, settings
        self._apply(old, now)
        log.info("daemon.reloaded", "the configuration was read anew")

    def _apply(self, old: Settings, now: float) -> None:
        """Let `self.settings` take effect in place of `old`."""
        settings = self.settings
        log.start(settings.log.level, settings.log.format, "JOURNAL_STREAM" in os.environ)
        self._fills = {("publish", index): template.compile_tree(entry.payload)
                       for index, entry in enumerate(settings.publish)}
        self._fills.update({("reported", index): template.compile_tree(entry.reported)
                            for index, entry in enumerate(settings.shadows)})
        self._publishes = schedule.changed(
            self._publishes, {index: entry.every_s for index, entry in enumerate(settings.publish)}, now)
        self._reports = schedule.changed(
            self._reports, {index: entry.every_s for index, entry in enumerate(settings.shadows)}, now)
        self._outbox = replace(self._outbox, limits=outbox.AWS if settings.mqtt.aws_limits else outbox.UNLIMITED)
        self._spool.bounds = settings.spool
        watched = settings.wifi
        self._worker.look({} if watched is None else {
            watched.interface: (watched.every_s, partial(wifi.look, watched.interface))})
        if settings.wifi != old.wifi:
            self._recovery, self._reading = recovery.initial(), None
        if (settings.thing, settings.shadows) != (old.thing, old.shadows):
            self._conversation = shadow.start(settings.thing, settings.shadows, self._run_id)
            self._asked_shadows = False
        self._subscriptions, plan = subscription.changed(self._subscriptions, self._wanted())
        if (settings.thing, settings.mqtt, settings.presence) != (old.thing, old.mqtt, old.presence):
            self._leave_for_new_line(old, now)
        elif self._up:
            self._subscribe(plan)
            self._open_shadows(now)

    def _leave_for_new_line(self, old: Settings, now: float) -> None:
        """Say Stopped where the old configuration had its presence, then dial as the new one says."""
        new, self.settings = self.settings, old
        self._leave(presence.STOPPED, "dial", now)
        self.settings = new

    def _wanted(self) -> dict[str, int]:
        settings = self.settings
        wanted = {entry.filter: entry.qos for entry in settings.subscribe}
        wanted.setdefault(settings.presence.topic, settings.presence.qos)
        wanted.update({name: 1 for name in shadow.filters(self._conversation)})
        return wanted

    def _on_reading(self, reading: Reading, now: float) -> None:
        """Take a look at the Wi-Fi to the rules of recovery."""
        if self.settings.wifi is None:
            return
        self._reading = reading
        self._recovery, effects = recovery.judge(self.settings.wifi, self._recovery, reading,
                                                 self._circumstances(reading), now)
        for effect in effects:
            self._recover(effect, now)

    def _values(self) -> dict[str, Json]:
        """Return what every placeholder stands for at this moment."""
        at = time.time()
        associated = self._reading is not None and self._reading.ssid is not None
        return {
            "hostname": self._identity.hostname, "thing": self.settings.thing, "machine_id": self._identity.machine_id,
            "boot_id": self._boot_id, "run": self._run_id, "timestamp": int(at), "uptime": int(host.uptime_s()),
            "isotime": datetime.fromtimestamp(at, timezone.utc).isoformat(timespec="milliseconds"),
            "essid": ssid_text(self._reading.ssid) if associated else None,  # type: ignore[union-attr, arg-type]
        }

    def _circumstances(self, reading: Reading) -> recovery.Circumstances:
        calm = reading.outcome == "associated" and self._budget == recovery.Budget()
        return recovery.Circumstances(
            mqtt_connected=self._up, boot_id=self._boot_id, uptime_s=host.uptime_s(),
            other_default_route=not calm and wifi.other_default_route(reading.interface),
            wall_s=None if calm else self._wall(), budget=self._budget)

    def _recover(self, effect: recovery.Effect, now: float) -> None:
        """Say what the rules of recovery have found, and do what they ask."""
        if isinstance(effect, recovery.Lost):
            log.warning("wifi.lost", f"the Wi-Fi is not as it should be: {effect.reason}", interface=effect.interface,
                        essid=effect.essid, expected=effect.expected, reason=effect.reason)
        elif isinstance(effect, recovery.Restored):
            log.info("wifi.restored", "the Wi-Fi is as it should be", interface=effect.interface, essid=effect.essid,
                     expected=effect.expected, lost_for_s=round(effect.lost_for_s), steps=effect.steps)
        elif isinstance(effect, recovery.Unreadable):
            log.warning("wifi.unreadable", f"the Wi-Fi cannot be judged: {effect.reason}", interface=effect.interface,
                        reason=effect.reason)
        elif isinstance(effect, recovery.Keep):
            self._keep_budget(effect.budget)
        elif isinstance(effect, recovery.Withheld):
            log.warning("recovery.withheld", f"{effect.action} is due but must wait: {effect.reason}",
                        action=effect.action, reason=effect.reason)
        else:
            self._step(effect, now)

    def _step(self, step: recovery.Step, now: float) -> None:
        """Take a rung of the ladder: logged before it is asked for."""
        if step.action == "reboot" and not self._budget_kept:
            log.warning("recovery.withheld", "reboot is due but must wait: the reboot budget cannot be written",
                        action=step.action, reason="the reboot budget cannot be written")
            return
        log.warning("recovery.step", f"{step.action} is asked for: {step.reason}", action=step.action,
                    reason=step.reason)
        if step.action == "reboot":
            self._last_step = step
            self._leave(presence.REBOOTING, "reboot", now)
        else:
            self._request(step)

    def _request(self, step: recovery.Step) -> None:
        """Leave a request for the recovery helper, the only one with the privilege to follow it."""
        interface = self.settings.wifi.interface if self.settings.wifi else ""
        try:
            host.write_request(self._places.runtime / "recover" / step.action, interface, step.reason)
        except OSError as error:
            log.error("recovery.failed", "the request for the recovery helper cannot be written", action=step.action,
                      reason=str(error))

    def _keep_budget(self, budget: recovery.Budget) -> None:
        try:
            host.write_text(self._places.state / "reboots.json", budget.to_json(), durable=True)
            self._budget, self._budget_kept = budget, True
        except OSError as error:
            self._budget_kept = False
            log.error("recovery.failed", "the reboot budget cannot be written; no reboot without it",
                      action="reboot", reason=str(error))

    def _read_budget(self) -> recovery.Budget | None:
        """Return the budget, empty where there is no file, None where it makes no sense."""
        path = self._places.state / "reboots.json"
        try:
            return recovery.Budget.from_json(path.read_text("utf-8"))
        except FileNotFoundError:
            return recovery.Budget()
        except (OSError, ValueError):
            return None

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

    def _beat_s(self) -> float:
        return self._systemd.feed_every_s or BEAT_S

    def _beat(self, now: float) -> None:
        """Tell systemd and status.json how it stands; the watchdog is fed only where every thread lives."""
        self._beat_at = now + self._beat_s()
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
            host.write_json(self._places.runtime / "status.json", self._status(now))
            self._status_failed = False
        except OSError as error:
            if not self._status_failed:
                log.warning("status.unwritable", "status.json cannot be written; iotd status will call it stale",
                            path=str(self._places.runtime / "status.json"), reason=str(error))
            self._status_failed = True

    def _status(self, now: float) -> dict[str, Json]:
        """Return what `iotd status` shows."""
        mqtt, reading = self.settings.mqtt, self._reading
        problems = list(self._spool.failures)
        problems += [f"subscription to {name} refused" for name in self._subscriptions.refused]
        problems += [f"publish to {topic} denied" for topic in self._outbox.denied]
        if not self._up:
            problems.insert(0, f"not connected: {self._down_reason}")
        if self._recovery.lost_at is not None:
            problems.append("the Wi-Fi is not as it should be")
        return {
            "version": __version__, "pid": os.getpid(), "written_s": host.uptime_s(), "boot_id": self._boot_id,
            "thing": self.settings.thing, "host": mqtt.host, "port": mqtt.port, "connected": self._up,
            "for_s": None if self._up_at is None or not self._up else round(now - self._up_at),
            "healthy": not problems, "problems": problems,
            "waiting": self._spool.count, "waiting_bytes": self._spool.size, "dropped": dict(self._spool.dropped),
            "shadows": [entry.name for entry in self.settings.shadows],
            "wifi": None if reading is None else {
                "interface": reading.interface, "outcome": reading.outcome, "bssid": reading.bssid,
                "essid": None if reading.ssid is None else ssid_text(reading.ssid), "rssi_dbm": reading.rssi_dbm,
                "frequency_mhz": reading.frequency_mhz},
        }

    def _close(self, exit_status: int) -> int:
        """End every part in order, each in its own try, so that none keeps the next from ending."""
        now = time.monotonic()
        self._systemd.stopping()
        ends: list[Callable[[], Any]] = [
            partial(self._session.close, CLOSE_S), self._worker.close, lambda: self._spool.close(now, self._wall()),
            partial((self._places.runtime / "status.json").unlink, missing_ok=True)]
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


def _json(body: Json) -> bytes:
    return json.dumps(body, ensure_ascii=False).encode("utf-8", "backslashreplace")


def _readable(payload: bytes) -> Mapping[str, Any]:
    """Return the payload as a log field: parsed JSON, else text, else base64."""
    try:
        text = payload.decode("utf-8")
    except UnicodeDecodeError:
        return {"payload_base64": base64.b64encode(payload).decode("ascii")}
    try:
        return {"payload": json.loads(text)}
    except (ValueError, RecursionError):
        return {"payload": text}
