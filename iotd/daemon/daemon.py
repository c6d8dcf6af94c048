"""The main loop: wires the parts, owns the inbox, and the order in which everything ends.

One turn: wait for an event or for what is due, let whoever it is for act on it, feed the watchdog last. Start reading
at `Daemon.turn`. The line to the broker is `Line`'s; everything else is done by parts, of which the loop knows none by
name (`part`). `iotd.wings` lists them.
"""

from __future__ import annotations

import signal
import traceback
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from hashlib import sha256
from typing import Any

from iotd import __version__
from iotd.config import override
from iotd.config.parse import in_force, loaded_wings, retained_topics
from iotd.config.settings import Checked, Settings
from iotd.daemon import board, presence
from iotd.daemon.boot import Boot
from iotd.daemon.configuration import Configuration
from iotd.daemon.fence import Fence
from iotd.daemon.line import Line
from iotd.daemon.outage import Outages
from iotd.daemon.part import Part
from iotd.daemon.placeholders import Placeholders
from iotd.daemon.retained import Ledger
from iotd.daemon.status import Status
from iotd.daemon.world import World
from iotd.errors import EXIT_FAULT
from iotd.host import clock, log
from iotd.host.identity import Identity
from iotd.vocabulary import (
    Acknowledged, Dialled, Down, Json, Message, Offer, Overridden, PassedOver, Received, Reread,
    Signalled, Subscribed, Taken, ThreadFailed,
)
from iotd.wings import module

CLOSE_S = 5.0  # for the MQTT thread to end
REBOOT_S = 60.0  # for the host to go down; then the line is dialled again, since it did not


class Daemon:
    """One run of iotd. `load` reads the configuration anew, as `Configuration` has it.

    It is the `Kernel` that its parts know.
    """

    def __init__(self, checked: Checked, load: Callable[[], Checked], world: World) -> None:
        now = world.monotonic()
        self.world = world
        self.settings = self.written = in_force(checked.settings)
        self._start_log()
        self.run_id = world.new_id()
        self.post = world.inbox.put
        self._configuration = Configuration(checked, load, world.files, world.places.state)
        self._session = world.session(self.post, world.inbox.size)
        self.outages = Outages(world.places.state, world.files, world.boot_id, world.uptime, now)
        self._boot = Boot(world.places, world.files, world.boot_id, world.uptime(), clock.reset_by_watchdog)
        self._placeholders = Placeholders(world, self.run_id, self.outages.asked_for or self._boot.cause)
        self._parts: list[Part] = []
        self._by_wing: dict[str, Part] = {}
        self._fence = Fence(world.monotonic)
        self._ledger = Ledger(world)
        self._line = Line(world, self._session, self.settings, self._parts, self._fence, self.outages, self._ledger,
                          _phase(world.identity), self._changed)
        self._status = Status(world, self._session, self.settings, self._parts, self._line, self._fence, self.outages,
                              self._ledger, self._configuration)
        self._due_at: dict[Part, float] = {}
        self._stirred = False
        self._stopping = False
        self.exit_status: int | None = None
        self._handlers: dict[type, Callable[[Any, float], None]] = {}

    def run(self) -> int:
        """Run until asked to stop; return the exit status."""
        self.world.catch_signals(lambda caught: self.post(Signalled(caught)))
        try:
            self.start()
            while self.exit_status is None:
                self.turn()
        except Exception:
            log.error("daemon.fault", "a bug in iotd; systemd starts it again", traceback=traceback.format_exc())
            self.exit_status = EXIT_FAULT
        return self.close(self.exit_status)

    def start(self) -> None:
        """Start the threads, build the parts, let the configuration take effect, and say READY."""
        self._session.start()
        now = self.world.monotonic()
        self._take(self.written, now)
        log.info("daemon.started", f"iotd {__version__} runs as {self.settings.thing}", version=__version__,
                 thing=self.settings.thing, run=self.run_id,
                 waiting=sum(self._fence.ask(part, Part.waiting) for part in self._parts))
        self._configuration.started()
        self.world.systemd.ready()

    def turn(self) -> None:
        """Take what has happened, do what is due, feed the watchdog."""
        line_due_at = self._line.next_due()
        due_at = min(self._status.next_due(), line_due_at)
        if not self._line.leaving:
            due_at = min(due_at, *self._due_at.values())
        self._session.go()
        events = self.world.inbox.take(max(0.0, due_at - self.world.monotonic()))
        now = self.world.monotonic()
        for event in events:
            handler = self._handlers.get(type(event))
            if handler is not None:  # else its part has left with the configuration
                handler(event, now)
        # What the line does may open parts, and let messages go; what was measured may be what a part waits for.
        self._stirred = bool(events) or now >= line_due_at
        if self._stirred:
            self._line.keep(now)
        if not self._line.leaving:
            for part in self._parts:
                if now >= self._due_at[part] or self._stirred and not self._fence.rests(part, now):
                    self._due_at[part] = self._fence.keep(part, now)
        self._status.keep(now)
        self.world.files.write_again(now)

    # What parts ask for

    @property
    def connected(self) -> bool:
        """Whether the line is up."""
        return self._line.up

    @property
    def leaving(self) -> bool:
        """Whether the last word is being said: what is begun now would be cut off."""
        return self._line.leaving

    @property
    def clear(self) -> bool:
        """Whether messages may go out."""
        return self._line.clear

    def send(self, message: Message, then: Callable[[str], None] | None = None) -> None:
        """Publish now, past the spool; `then` is told of its acknowledgement, or why that did not come."""
        self._line.send(message, then)

    def hand_over(self, messages: Sequence[tuple[int, Message]]) -> None:
        """Publish messages, each kept under its number."""
        self._line.hand_over(messages)

    def acknowledged(self, eager: bool | None = None) -> list[int]:
        """Return the numbers acknowledged since the last call; `eager`: be woken by the next one."""
        if eager is not None:
            self._session.eager = eager
        numbers = self._session.acknowledged(self._line.number)
        if numbers:
            self._ledger.acknowledged(numbers)
        return numbers

    def passed(self) -> tuple[int, int]:
        """Return how many publishes, and bytes of them, went past `hand_over` or came in since the last call."""
        return self._line.passed()

    def values(self, names: Iterable[str]) -> dict[str, Json]:
        """Return what these placeholders stand for now."""
        return self._placeholders.values(names)

    def status(self) -> dict[str, Json]:
        """Return what `iotd status` shows."""
        return self._status.told(self.world.monotonic())

    def about(self) -> dict[str, Json]:
        """Return what a shadow tells of iotd itself, null where there is nothing to tell: the problems of a
        configuration that was refused, the last outage, and what parts have to tell.
        """
        refused, last = [problem[:200] for problem in self._configuration.refused[:3]], self.outages.last
        return {"problems": refused or None,
                "outage": last and {"reason": last.reason[:200], "for_s": last.for_s, "layer": last.layer},
                **{name: told for part in self._parts
                   for name, told in self._fence.ask(part, Part.about).items()}}

    def gather(self, names: Iterable[str], then: Callable[[dict[str, Json]], None]) -> None:
        """Call `then` with what these placeholders stand for now; later, where some have to be measured first."""
        found, asking = self._placeholders.values(names), self._fence.calling

        def measured(values: Mapping[str, Json]) -> None:
            self._stirred = True
            self._fence.call(asking, then, {**found, **values})

        for part in self._parts:
            if self._fence.call(part, part.fetch, names, measured):
                self._due_at[part] = self._fence.ask(part, Part.next_due)
                return
        then(found)

    def publish(self, offers: Sequence[Offer], now: float) -> list[Taken]:
        """Have the part whose task it is keep or send these messages of a program's; return what became of each."""
        self._ledger.note((offer.message for offer in offers), program=True)
        for part in self._parts:
            taken = self._fence.ask(part, Part.publish, offers, now)
            if taken is not None:
                return taken
        return [Taken(refused="nothing here publishes; where that is a bug, the journal of iotd has it")] * len(offers)

    def crowded_until(self, now: float) -> float:
        """Return until when programs that have handed over messages are to wait with more, 0 for not at all."""
        return max(self._fence.ask(part, Part.crowded_until, now) for part in self._parts)

    def tell(self, name: str, value: Json, now: float) -> str:
        """Give the part whose value it is what a program tells; return why it is refused, nothing where it is taken."""
        for part in self._parts:
            refused = self._fence.ask(part, Part.tell, name, value, now)
            if refused is not None:
                return refused
        return f"there is no such value; {name[:80]!r} is not in the configuration"

    def ask(self, word: str, now: float) -> str:
        """Ask for what a part does; return why it does not, nothing where it does."""
        for part in self._parts:
            refused = self._fence.ask(part, Part.asked, word, now)
            if refused is not None:
                return refused
        return f"nothing in the configuration does that: {word[:80]}"

    def shared(self) -> tuple[str, ...]:
        """Return the filters whose messages programs may listen to."""
        return tuple(name for part in self._parts for name in self._fence.ask(part, Part.shared))

    def is_retained(self, topic: str) -> bool:
        """Tell whether the broker keeps a message of this device's on the topic, as far as is known."""
        return self._ledger.has(topic)

    def clear_retained(self, topic: str | None, then: Callable[[list[str], str], None]) -> None:
        """Have the broker keep nothing on this topic any more, None for all that is an orphan, and tell of it."""
        self._line.clear_retained(self._ledger.orphans() if topic is None else [topic], then)

    def status_changed(self) -> None:
        """Renew status.json once what has changed just now has settled."""
        self._status.changed(self.world.monotonic())

    def reboot(self, reason: str, ask: Callable[[], None]) -> None:
        """Say Rebooting, bring everything to the disk, write down why, and then `ask` for the reboot."""
        asking = self._fence.calling

        def afterwards(now: float) -> None:
            for part in self._parts:
                self._fence.call(part, part.settle, now)
            self.outages.leave(reason, self.outages.until(now, self._line.down_reason))
            self._fence.call(asking, ask)
            self._line.dial_anew(now, REBOOT_S)

        if not self._line.leaving:
            self._line.leave(presence.REBOOTING, afterwards, self.world.monotonic())

    # The configuration

    def _take(self, written: Settings, now: float) -> None:
        """Let a configuration that was just read take effect, with what the cloud has set in it."""
        self.written = in_force(written)
        self._build_parts(now)
        for part in self._parts:
            self._fence.call(part, part.read, self.written, now)
        self._apply(now)

    def _build_parts(self, now: float) -> None:
        """Have a part for each wing that the settings call for, and for no other."""
        called_for = {wing.name: wing for wing in loaded_wings(self.written)}
        for name in self._by_wing.keys() - called_for.keys():
            part = self._by_wing.pop(name)
            self._fence.call(part, part.close, now)
        for name, wing in called_for.items():
            if name not in self._by_wing:
                self._by_wing[name] = module(wing, "part").build(self, self.world.adapters.get(name))
        self._parts[:] = [self._by_wing[name] for name in called_for]
        self._placeholders.of_parts = {
            name: look_up for part in self._parts
            for name, look_up in self._fence.ask(part, Part.placeholders).items()}
        self._handlers = {
            Dialled: self._line.on_dialled, Down: self._line.on_down, Subscribed: self._line.on_subscribed,
            Acknowledged: self._line.on_acknowledged, Received: self._line.on_received,
            PassedOver: self._line.on_passed_over, Overridden: lambda event, now: self._apply(now),
            Reread: lambda event, now: self._reload(now, event.why),
            Signalled: self._on_signalled, ThreadFailed: self._on_thread_failed,
            **{kind: partial(self._fence.call, part, handler)
               for part in self._parts for kind, handler in self._fence.ask(part, Part.handlers).items()}}

    def _apply(self, now: float) -> None:
        """Let the file's settings take effect, with those of the cloud in their place."""
        set_by_cloud = {name: value for part in self._parts
                        for name, value in self._fence.ask(part, Part.overrides).items()}
        self.settings = override.applied(self.written, set_by_cloud)
        self._start_log()
        self._placeholders.of_settings = {"thing": self.settings.thing, "hostname": self.settings.hostname}
        for part in self._parts:
            self._fence.call(part, part.apply, self.settings, now)
        if self.settings.is_named:  # else what is kept for the thing stays so
            self._ledger.apply(retained_topics(self.settings))
        self._line.apply(self.settings, now)
        self._status.settings = self.settings
        if self.settings.is_named:
            self._line.opening.known.update(board.recognised(self.world, self.settings.thing))
        self._due_at = {part: self._fence.ask(part, Part.next_due) for part in self._parts}

    def _reload(self, now: float, why: str = "") -> None:
        """Read and validate the configuration anew; only a good one takes the old one's place."""
        self._configuration.reload(lambda settings: self._take(settings, now), why)
        self._changed(now)

    def _start_log(self) -> None:
        form = "text" if self.world.on_terminal else self.settings.log.format
        log.start(self.settings.log.level, form, self.world.under_journald, self.world.log_to, self.world.wall)

    # What happens beside the line

    def _on_signalled(self, event: Signalled, now: float) -> None:
        name = signal.Signals(event.number).name
        if event.number == signal.SIGHUP:
            self._reload(now)
        elif self._stopping:
            self.exit_status = 0
        else:
            log.info("daemon.stopping", f"asked to stop by {name}", reason=name)
            self.world.systemd.stopping()
            self._stopping = True
            self._line.leave(presence.STOPPED, self._stop, now)

    def _stop(self, now: float) -> None:
        self._line.stay_down(now)
        self.exit_status = 0

    def _on_thread_failed(self, event: ThreadFailed, now: float) -> None:
        log.error("daemon.fault", f"a bug ended the {event.thread} thread; systemd starts iotd again",
                  thread=event.thread, traceback=event.traceback)
        self.exit_status = EXIT_FAULT

    # How it is, and the end

    def _changed(self, now: float) -> None:
        """The line has come up or gone down: tell it at once, and what comes of it a little later."""
        self._status.renew(now)
        self._status.changed(now)

    def close(self, exit_status: int) -> int:
        """End every part in order, each in its own try, so that none keeps the next from ending.

        After a fault nothing was said on the presence topic: the line ends without DISCONNECT, and the will says it.
        """
        now = self.world.monotonic()
        self.world.systemd.stopping()
        ends: list[Callable[[], Any]] = [
            partial(self._session.close, CLOSE_S, exit_status == 0),
            *(partial(part.close, now) for part in self._parts), self._status.remove]
        if exit_status == 0:
            ends.append(self._boot.ended)
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
