"""The simulation: the real kernel and its parts on a simulated clock, disk, network and cloud.

Whatever takes time is an event on one schedule. The main loop's own wait runs that schedule on, so that a day costs
what happens in it, and no thread, no sleep and no socket is used.
"""

from __future__ import annotations

import heapq
import io
import itertools
import json
import math
import os
import random
import traceback
from collections.abc import Callable, Hashable, Mapping
from functools import partial
from typing import Any, cast

from iotd.config.parse import parse
from iotd.config.settings import Checked
from iotd.daemon.daemon import Daemon
from iotd.daemon.inbox import Inbox
from iotd.daemon.world import Places, World
from iotd.host.identity import Identity
from iotd.host.periodic import Periodic
from iotd.host.systemd import Systemd
from iotd.host.tasks import Tasks
from iotd.mqtt.connection import Dial
from iotd.mqtt.session import Session
from iotd.outgoing.part import Adapters as OutgoingAdapters
from iotd.vocabulary import Acknowledged, Dialled, Down, Json, Message, Received, Signalled, Spent, Subscribed
from tests.sim.cloud import SimulatedBroker
from tests.sim.disk import (
    RUNTIME, STATE, SimulatedDisk, SimulatedFiles, SimulatedLineFile, SimulatedSpoolDisk,
)

EPOCH_S = 1_790_000_000.0
LATENCY_S = 0.02
SPENT_S = 70.0  # a packet, and six repeats
TURN_S = 1e-6
BOOT_S = 30.0
SIGTERM = 15


class Schedule:
    """What happens when: a clock that goes on to the next event, never by itself."""

    def __init__(self) -> None:
        self.now = 0.0
        self._order = itertools.count()
        self._events: list[tuple[float, int, Callable[[], None]]] = []

    def after(self, delay_s: float, do: Callable[[], None]) -> None:
        """Have something done in so many seconds."""
        heapq.heappush(self._events, (self.now + delay_s, next(self._order), do))

    def next_at(self) -> float:
        """Return when the next event happens, math.inf for never."""
        return self._events[0][0] if self._events else math.inf

    def step(self) -> None:
        """Go on to the next event and have it happen."""
        at, _, do = heapq.heappop(self._events)
        self.now = max(self.now, at)
        do()


class SimulatedInbox:
    """An inbox whose wait runs the schedule on."""

    def __init__(self, schedule: Schedule) -> None:
        self.events: list[Any] = []
        self.until = math.inf  # no wait goes on beyond it
        self._schedule = schedule

    def put(self, event: Any) -> None:
        """Take an event."""
        self.events.append(event)

    def size(self) -> int:
        """Return how many wait."""
        return len(self.events)

    def take(self, timeout_s: float) -> list[Any]:
        """Return what has arrived, going on up to `timeout_s` for the first."""
        deadline = min(self._schedule.now + timeout_s, self.until)
        while not self.events and self._schedule.next_at() <= deadline:
            self._schedule.step()
        if not self.events:
            # A turn takes time: what is due but for a rounding error would be due for ever.
            self._schedule.now = max(self._schedule.now + TURN_S, deadline)
        taken, self.events = self.events, []
        return taken


class SimulatedSession:
    """MQTT without a thread: every step of it is an event some milliseconds later.

    `gone` is set when its process has died: then nothing of it happens any more.
    """

    def __init__(self, simulation: Simulation, post: Callable[[Any], None]) -> None:
        self.eager = True
        self.gone = False
        self.line = self._dialling = 0
        self._up = False
        self._hung_up = 0
        self._simulation = simulation
        self._post = post
        self._taken: list[int] = []
        self.subscribed: list[tuple[str, ...]] = []  # the filters of each SUBSCRIBE that arrived
        self._client_id = ""

    def start(self) -> None:
        """Nothing is to be started."""

    def go(self) -> None:
        """Nothing waits for it."""

    def alive(self, now: float) -> bool:
        """Tell that it is."""
        return True

    def close(self, timeout_s: float) -> bool:
        """Hang up."""
        self.hang_up(self.line)
        return True

    def dial(self, dial: Dial) -> None:
        """Open a line."""
        self.line = self._dialling = dial.line

        def answer() -> None:
            if self._dialling != dial.line:
                return
            self._dialling = 0
            broker = self._simulation.broker
            if self._hung_up == dial.line:
                return self._post(Down(dial.line, "asked", "asked to disconnect", False))
            if not (self._simulation.network_is_up and broker.is_up):
                return self._post(Down(dial.line, "tcp", "no answer within 10 s", False))
            self._client_id, self._up = dial.client_id, True
            self._simulation.connected_at = self._simulation.schedule.now
            self._simulation.connected = self
            waiting: list[Message] = []
            present = broker.connect(dial, waiting.append)
            broker.clients[dial.client_id].deliver = self._deliver
            self._post(Dialled(dial.line, present))
            for message in waiting:
                self._deliver(message)

        self._later(answer, 10.0 if not self._simulation.network_is_up else LATENCY_S)

    def publish(self, line: int, token: int | None, message: Message) -> None:
        """Publish on this line."""
        def arrive() -> None:
            broker = self._simulation.broker
            if self._is_up(line) and message.topic in broker.denied:
                self.lose("closed")
            elif self._is_up(line):
                broker.publish(message)
                if message.topic in broker.mute:
                    self._never(line, Spent("PUBLISH", (message.topic,), token))
                else:
                    self._later(lambda: self._acknowledge(line, token))

        self._later(arrive)

    def subscribe(self, line: int, filters: list[tuple[str, int]]) -> None:
        """Subscribe the filters."""
        def arrive() -> None:
            broker, names = self._simulation.broker, tuple(name for name, _ in filters)
            if not self._is_up(line) or not filters:
                return
            self.subscribed.append(names)
            if broker.denied.intersection(names):
                self.lose("closed")
            elif broker.mute.intersection(names):
                self._never(line, Spent("SUBSCRIBE", names))
            else:
                codes = broker.subscribe(self._client_id, filters)
                self._later(lambda: self._post(Subscribed(line, codes)))
                if broker.strict and broker.refused.intersection(names):
                    self._later(lambda: self.lose("closed"))

        self._later(arrive)

    def unsubscribe(self, line: int, filters: list[str]) -> None:
        """Unsubscribe the filters."""
        def arrive() -> None:
            if self._is_up(line):
                for name in filters:
                    self._simulation.broker.clients[self._client_id].filters.pop(name, None)

        self._later(arrive)

    def acknowledged(self, line: int) -> list[int]:
        """Return the positive tokens acknowledged since the last call."""
        taken, self._taken = self._taken, []
        return taken

    def hang_up(self, line: int) -> None:
        """Send DISCONNECT and close; a dialling under way ends as well."""
        self._hung_up = line
        if self._up and line == self.line:
            self._up = False
            self._simulation.broker.leave(self._client_id)
            self._later(lambda: self._post(Down(line, "asked", "asked to disconnect", True)))
        elif line == self._dialling:
            self._dialling = 0
            self._later(lambda: self._post(Down(line, "asked", "asked to disconnect", False)))

    def lose(self, cause: str, spent: Spent | None = None) -> None:
        """The line is lost from without; the broker says the will."""
        if self._up:
            self._up = False
            self._simulation.broker.lose(self._client_id)
            self._post(Down(self.line, cause, "the line is lost", True, spent=spent))

    def _never(self, line: int, spent: Spent) -> None:
        """The packet is repeated to the last, and nothing comes."""
        self._later(lambda: self.lose("unacknowledged", spent) if self._is_up(line) else None, SPENT_S)

    def _acknowledge(self, line: int, token: int | None) -> None:
        if token is not None and self._is_up(line):
            if token > 0:
                self._taken.append(token)
            if token <= 0 or self.eager:
                self._post(Acknowledged(line, token))

    def _deliver(self, message: Message) -> None:
        line = self.line

        def arrive() -> None:
            if self._is_up(line):
                self._simulation.broker.acknowledged(self._client_id, message)
                self._post(Received(line, message.topic, message.payload, message.qos, message.retain))

        self._later(arrive)

    def _is_up(self, line: int) -> bool:
        return self._up and line == self.line

    def _later(self, do: Callable[[], None], delay_s: float = LATENCY_S) -> None:
        self._simulation.schedule.after(delay_s, lambda: None if self.gone else do())


class SimulatedTasks:
    """Work that is done at once, and whose end comes later; commands of orders are the simulation's."""

    def __init__(self, simulation: Simulation, post: Callable[[Any], None]) -> None:
        self._simulation = simulation
        self._post = post

    def start(self, key: Hashable, work: Callable[[int], Any], failed: Callable[[str], Any]) -> bool:
        """Do the work; what it is about (a value, a topic) may take as long as the test says."""
        match key, work:
            case ("order", shadow, str(name)), partial(args=(*_, value)):
                from iotd.shadows.findings import Performed  # a device without shadows does not even import them

                took_s, reason = self._simulation.command(name, value)
                self._simulation.schedule.after(took_s, lambda: self._post(Performed(shadow, name, reason)))
                return True

        def do() -> None:
            never = os.eventfd(0)  # type: ignore[attr-defined]
            try:
                event = work(never)
            except Exception:
                event = failed(traceback.format_exc())
            finally:
                os.close(never)
            self._post(event)

        about = key[1] if isinstance(key, tuple) else key
        self._simulation.schedule.after(self._simulation.takes_s.get(about, LATENCY_S), do)
        return True

    def close(self, limit_s: float) -> None:
        """Nothing runs."""


class SimulatedLooks:
    """Looks at their intervals, without a thread."""

    def __init__(self, simulation: Simulation, post: Callable[[Any], None]) -> None:
        self._simulation = simulation
        self._post = post
        self._round = 0

    def start(self) -> None:
        """Nothing is to be started."""

    def look(self, looks: Mapping[Any, tuple[float, Callable[[], Any]]]) -> None:
        """Make these looks from now on."""
        self._round += 1
        for every_s, look in looks.values():
            self._look(self._round, every_s, look)

    def close(self) -> None:
        """Look no more."""
        self._round += 1

    def alive(self, now: float) -> bool:
        """Tell that it is."""
        return True

    def _look(self, of_round: int, every_s: float, look: Callable[[], Any]) -> None:
        if of_round == self._round:
            self._post(look())
            self._simulation.schedule.after(every_s, lambda: self._look(of_round, every_s, look))


class SimulatedDoor:
    """No program comes but what the test posts; what is ordered is noted."""

    problem = ""

    def __init__(self) -> None:
        self.orders: list[Any] = []

    def order(self, order: Any) -> None:
        """Note the order."""
        self.orders.append(order)

    def alive(self, now: float) -> bool:
        """Tell that it is."""
        return True

    def close(self, limit_s: float) -> None:
        """Nothing is open."""


class SimulatedSystemd:
    """Remembers what it was told, and when it was fed last."""

    feed_every_s = 15.0

    def __init__(self, schedule: Schedule) -> None:
        self.is_ready = False
        self.fed_at = 0.0
        self._schedule = schedule

    def ready(self) -> None:
        """Take READY=1."""
        self.is_ready = True

    def stopping(self) -> None:
        """Take STOPPING=1."""

    def status(self, sentence: str) -> None:
        """Take STATUS=."""

    def feed(self) -> None:
        """Take WATCHDOG=1."""
        self.fed_at = self._schedule.now


class Simulation:
    """One device with its configuration, and everything around it.

    `command` runs what an order asks for: it is given the key and the value, and returns how long it takes and why it
    failed.
    """

    def __init__(self, configuration: str, seed: int = 0, hostname: str = "pi") -> None:
        self.schedule = Schedule()
        self.disk = SimulatedDisk()
        self.broker = SimulatedBroker(lambda: self.schedule.now)
        self.network_is_up = True
        self.ssid: bytes | None = b"fleet-ap"
        self.other_route_fault: type[Exception] | None = None
        self.connected: SimulatedSession | None = None
        self.connected_at = 0.0
        self.command: Callable[[str, Json], tuple[float, str]] = lambda key, value: (LATENCY_S, "")
        self.boots = 0
        self.log = io.StringIO()
        self.takes_s: dict[Hashable, float] = {}
        self.readings: list[tuple[str, float]] = []  # which value was read, and when that had ended
        self.measured: dict[str, bytes | str] = {}  # of a value: what its file or command says, or why it does not
        self._chance = random.Random(seed)
        self.identity = Identity(hostname, "0" * 32)
        self.configuration = configuration
        self._booted_at = 0.0
        self._inbox = SimulatedInbox(self.schedule)
        self.daemon: Daemon | None = None
        self._session: SimulatedSession | None = None

    def start(self) -> None:
        """Start the process, as systemd does."""
        world = self._world()
        checked = self._load()
        self.daemon = Daemon(checked, self._load, world)
        self.daemon.start()

    def run(self, for_s: float) -> None:
        """Let so many seconds pass."""
        end = self.schedule.now + for_s
        self._inbox.until = end
        while self.schedule.now < end:
            if self.daemon is None:
                if self.schedule.next_at() > end:
                    self.schedule.now = end
                else:
                    self.schedule.step()
            else:
                self.daemon.turn()

    def kill(self) -> None:
        """Kill the process (SIGKILL): nothing of it happens any more, and the broker loses its line."""
        if self._session is not None:
            self._session.lose("reset")
            self._session.gone = True
        self.daemon = None

    def stop(self) -> None:
        """Ask it to end (SIGTERM), and wait for that."""
        assert self.daemon is not None
        self._inbox.until = math.inf
        self.daemon.post(Signalled(SIGTERM))
        while self.daemon.exit_status is None:
            self.daemon.turn()
        self.daemon.close(self.daemon.exit_status)
        self.daemon = None

    def cut_line(self) -> None:
        """Take the network away: a line that is up is lost, and none comes up."""
        self.network_is_up = False
        if self.connected is not None:
            self.connected.lose("silent")

    def entries(self, event: str) -> list[dict[str, Any]]:
        """Return what was logged under this event."""
        return [entry for entry in map(json.loads, self.log.getvalue().split("\n")[:-1]) if entry["event"] == event]

    def _load(self) -> Checked:
        return Checked(parse(self.configuration, "iotd.yaml", self.identity).settings, ())

    def _world(self) -> World:
        self._inbox = SimulatedInbox(self.schedule)
        disk, schedule = self.disk, self.schedule

        def session(post: Callable[[Any], None], backlog: Callable[[], int]) -> Session:
            self._session = SimulatedSession(self, post)
            return cast(Session, self._session)

        return World(
            monotonic=lambda: schedule.now, wall=lambda: EPOCH_S + schedule.now, wall_is_set=lambda: True,
            uptime=lambda: schedule.now - self._booted_at, chance=self._chance.random,
            new_id=lambda: f"{self._chance.getrandbits(64):016x}", identity=self.identity,
            boot_id=f"boot-{self.boots}", pid=1, under_journald=False, places=Places(STATE, RUNTIME),
            files=SimulatedFiles(disk), systemd=cast(Systemd, SimulatedSystemd(schedule)),
            inbox=cast(Inbox, self._inbox), session=session,
            tasks=lambda post: cast(Tasks, SimulatedTasks(self, post)),
            periodic=lambda post: cast(Periodic, SimulatedLooks(self, post)), catch_signals=lambda take: None,
            log_to=self.log, adapters=self._adapters())

    def _adapters(self) -> dict[str, Any]:
        adapters: dict[str, Any] = {"outgoing": OutgoingAdapters(
            lambda path: SimulatedLineFile(self.disk, path), lambda path: SimulatedSpoolDisk(self.disk, path)),
            "local": lambda post, runtime: SimulatedDoor()}
        if "wifi" in self.configuration:  # a device without the section does not even import its wing
            from iotd.wifi.part import Adapters as WifiAdapters

            adapters["wifi"] = WifiAdapters(self._look, self._other_route, lambda directory: False)
        if "values:" in self.configuration:
            from iotd.values.part import Adapters as ValuesAdapters

            adapters["values"] = ValuesAdapters(self._measure)
        return adapters

    def _measure(self, value: Any, stop: int | None) -> Any:
        from iotd.values.reading import Reading, of_bytes

        found = self.measured.get(value.name, "there is no such file")
        self.readings.append((value.name, self.schedule.now))
        return of_bytes(value, found) if isinstance(found, bytes) else Reading(value, None, found)

    def _other_route(self, interface: str) -> bool:
        if self.other_route_fault is not None:
            raise self.other_route_fault("a bug")
        return False

    def _look(self, interface: str) -> Any:
        from iotd.wifi.reading import Reading

        if self.ssid is None:
            return Reading(interface, "disconnected", reason=f"{interface} is not associated")
        return Reading(interface, "associated", self.ssid)
