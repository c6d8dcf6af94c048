"""MQTT without a thread: what `iotd.mqtt` does on the wire, as events on the schedule."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

from iotd.mqtt.client import ACK_S, MAX_REPEATS
from iotd.mqtt.connection import CONNACK_S, PINGRESP_S, Dial
from iotd.vocabulary import Acknowledged, Dialled, Down, Message, Received, Spent, Subscribed

if TYPE_CHECKING:
    from tests.sim.world import Simulation

LATENCY_S = 0.02
STEPS_S = {"dns": 10.0, "tcp": 10.0, "tls": 20.0, "proxy": 10.0}  # how long each may take


class SimulatedSession:
    """One run's session. Every step is an event some milliseconds later, or never, where the line is dead.

    `gone` is set when its process has died: then nothing of it happens any more. `hung`: its thread does nothing.
    """

    def __init__(self, simulation: Simulation, post: Callable[[Any], None]) -> None:
        self.eager = True
        self.gone = False
        self.hung = False
        self.line = 0
        self.up = False
        self.dialled_at = self.ended_at = 0.0
        self.held: list[Callable[[], None]] = []  # what waits in the buffers of a line on which nothing passes
        self.dial_data: Dial | None = None
        self.subscribed: list[tuple[str, ...]] = []  # the filters of each SUBSCRIBE that arrived, where that is kept
        self._simulation = simulation
        self._schedule = simulation.schedule
        self._post = post
        self._taken: list[int] = []
        self._unacknowledged: dict[int, Callable[[], None]] = {}
        self._packets = 0
        self._last_arrival = 0.0

    def start(self) -> None:
        """Nothing is to be started."""

    def go(self) -> None:
        """Nothing waits for it."""

    def alive(self, now: float) -> bool:
        """Tell whether it keeps its deadlines."""
        return not self.hung

    def close(self, timeout_s: float, in_order: bool = True) -> bool:
        """Hang up and end."""
        if in_order:
            self.hang_up(self.line)
        elif self._simulation.network.passes:
            self.lose("asked")
        return True

    def dial(self, dial: Dial) -> None:
        """Open a line; ends in Dialled or Down."""
        simulation = self._simulation
        self.line, self.dial_data, self.dialled_at = dial.line, dial, self._schedule.now
        self.held, self._unacknowledged = [], {}
        simulation.judge.dialled(self)
        cause, reason, after_s = simulation.network.obstacle()
        if cause:
            self._later(lambda: self._end(dial.line, cause, reason, False), after_s)
            return
        self._later(lambda: self._connack(dial), LATENCY_S + simulation.broker.connack_s)

    def publish(self, line: int, token: int | None, message: Message) -> None:
        """Publish on this line, again every 10 s until it is acknowledged."""
        if not self._is_up(line):
            return
        self._simulation.judge.published(self, message)

        def arrive() -> bool:
            return self._simulation.broker.publish_of(self, message)

        if message.qos == 0:
            self._pass(arrive)
            self._acknowledge(line, token)
        else:
            self._until_acknowledged(line, Spent("PUBLISH", (message.topic,), token), arrive,
                                     lambda: self._acknowledge(line, token))

    def subscribe(self, line: int, filters: list[tuple[str, int]]) -> None:
        """Subscribe the filters."""
        for start in range(0, len(filters), 8):
            self._subscribe(line, filters[start:start + 8])

    def unsubscribe(self, line: int, filters: list[str]) -> None:
        """Unsubscribe the filters."""
        if filters and self._is_up(line):
            self._pass(lambda: self._simulation.broker.unsubscribe(self, filters))

    def acknowledged(self, line: int) -> list[int]:
        """Return the positive tokens acknowledged since the last call."""
        if not self._taken:
            return []
        taken, self._taken = self._taken, []
        return taken

    def hang_up(self, line: int) -> None:
        """Send DISCONNECT and close, or stop dialling."""
        if line != self.line:
            return
        if self.up:
            if self._simulation.network.passes:  # what is on its way arrives, though the process ends
                self._schedule.after(LATENCY_S, lambda: self._simulation.broker.leave(self))
            self._end(line, "asked", "asked to disconnect", True)
        elif self.dial_data is not None:
            self._end(line, "asked", "asked to stop dialling", False)

    def lose(self, cause: str, reason: str = "the line is lost") -> None:
        """The line is lost from without, both sides know it; the broker says the will."""
        if self.up:
            self._simulation.broker.lose(self)
            self._end(self.line, cause, reason, True)

    def silence(self) -> None:
        """From now on nothing passes: the device finds out when nothing answers its ping, the broker later."""
        line = self.line
        if not self.up or self.dial_data is None:
            return
        client_id, keepalive_s = self.dial_data.client_id, self.dial_data.keepalive_s

        def unanswered() -> None:
            if self._is_up(line) and not self._simulation.network.passes:
                self._end(line, "silent", f"no PINGRESP within {PINGRESP_S:.0f} s: the line is dead", True)

        def given_up() -> None:
            if not self._simulation.network.passes and self._simulation.broker.link_of(client_id) is self:
                self._simulation.broker.lose(self)

        self._later(unanswered, self._simulation.chance() * keepalive_s + PINGRESP_S)
        self._schedule.after(1.5 * keepalive_s, given_up)  # the broker's own clock, whatever becomes of the device

    def resume(self) -> None:
        """The line passes again: what was held back arrives, or a reset where the broker has given up."""
        held, self.held = self.held, []
        if not self.up or self.dial_data is None:
            return
        if self._simulation.broker.link_of(self.dial_data.client_id) is not self:
            self._end(self.line, "reset", "the line was reset", True)
            return
        for step in held:  # before whatever else arrives
            step()

    def deliver(self, message: Message, retained: bool = False) -> None:
        """The broker sends a message."""
        received = Received(self.line, message.topic, message.payload, message.qos, retained)

        def arrive() -> None:
            if self._is_up(received.line):
                self._put(received)
                if message.qos:
                    self._simulation.broker.acknowledged(self, message)

        self._pass(arrive)

    def end(self, cause: str, reason: str) -> None:
        """The broker has closed the line, and has dealt with the will itself."""
        self._later(partial(self._end, self.line, cause, reason, True))

    def _connack(self, dial: Dial) -> None:
        if self.line != dial.line or self.dial_data is not dial:
            return
        broker = self._simulation.broker
        if not self._simulation.network.passes or self._schedule.now - self.dialled_at > CONNACK_S:
            left_s = max(0.0, self.dialled_at + CONNACK_S - self._schedule.now)
            return self._later(lambda: self._end(dial.line, "connack", f"no CONNACK within {CONNACK_S:.0f} s", False),
                               left_s)
        if broker.refusal:
            return self._end(dial.line, "refused", f"the broker refused the connection: {broker.refusal}", False)
        self.up = True
        self._simulation.connected, self._simulation.connected_at = self, self._schedule.now
        present, waiting = broker.connect(self, dial)
        self._put(Dialled(dial.line, present))
        for message in waiting:
            self.deliver(message)

    def _subscribe(self, line: int, pairs: list[tuple[str, int]]) -> None:
        codes: list[tuple[str, int]] = []
        names = tuple(name for name, _ in pairs)

        def arrive() -> bool:
            if not self._simulation.judged:
                self.subscribed.append(names)
            codes[:] = self._simulation.broker.subscribe(self, pairs)
            return bool(codes)

        self._until_acknowledged(line, Spent("SUBSCRIBE", names), arrive,
                                 lambda: self._put(Subscribed(line, tuple(codes))))

    def _until_acknowledged(
        self, line: int, spent: Spent, arrive: Callable[[], bool], answer: Callable[[], None]
    ) -> None:
        """Have a packet arrive; where that is not acknowledged in time, once more, and in the end lose the line.

        `spent` is what is told then.
        """
        if not self._is_up(line):
            return
        self._packets += 1
        number = self._packets
        self._unacknowledged[number] = answer
        self._simulation.judge.unacknowledged(self, len(self._unacknowledged))

        def acknowledge() -> None:
            if self._unacknowledged.pop(number, None) is not None and self._is_up(line):
                answer()

        def pass_on() -> None:
            if arrive():
                self._pass(acknowledge, self._simulation.broker.answer_s)

        def send(repeats: int) -> None:
            if number not in self._unacknowledged or not self._is_up(line):
                return
            if repeats > MAX_REPEATS:
                self._simulation.broker.lose(self)
                return self._end(line, "unacknowledged", f"the broker never acknowledged the {spent.kind}", True, spent)
            self._pass(pass_on)
            self._later(lambda: send(repeats + 1), ACK_S)

        send(0)

    def _acknowledge(self, line: int, token: int | None) -> None:
        if token is not None and self._is_up(line):
            if token > 0:
                self._taken.append(token)
            if token <= 0 or self.eager:
                self._put(Acknowledged(line, token))

    def _pass(self, step: Callable[[], Any], delay_s: float = LATENCY_S) -> None:
        """Have something done on the other side, unless nothing passes; what was sent first comes first."""
        line = self.line

        def arrive() -> None:
            if line != self.line:
                return
            if self._simulation.network.passes:
                step()
            else:
                self.held.append(arrive)

        at = max(self._schedule.now + delay_s, self._last_arrival if delay_s == LATENCY_S else 0.0)
        if delay_s == LATENCY_S:
            self._last_arrival = at
        self._later(arrive, at - self._schedule.now)

    def _end(self, line: int, cause: str, reason: str, was_up: bool, spent: Spent | None = None) -> None:
        if line == self.line and self.dial_data is not None and was_up == self.up:
            self.up, self.dial_data, self.held, self.ended_at = False, None, [], self._schedule.now
            self._unacknowledged = {}
            self._put(Down(line, cause, reason, was_up, spent=spent))

    def _put(self, event: Any) -> None:
        if not self.gone:
            self._post(event)

    def _is_up(self, line: int) -> bool:
        return self.up and line == self.line

    def _later(self, do: Callable[[], Any], delay_s: float = LATENCY_S) -> None:
        self._schedule.after(delay_s, lambda: None if self.gone else do())


class Network:
    """What lies between the device and the broker. `failing` counts the faults of each step of dialling.

    `passes`: whether anything gets through on a line that is open.
    """

    def __init__(self, simulation: Simulation) -> None:
        self.passes = True
        self.failing: deque[str] = deque()
        self._simulation = simulation

    def obstacle(self) -> tuple[str, str, float]:
        """Return the cause and the reason of a dialling that fails, and after how long; nothing where it does not."""
        for step, limit_s in STEPS_S.items():
            if step in self.failing:
                slow = self._simulation.chance() < 0.5
                return step, f"{step}: " + ("no answer in time" if slow else "refused"), limit_s if slow else LATENCY_S
        if not self.passes:
            return "tcp", "tcp: no answer in time", STEPS_S["tcp"]
        if not self._simulation.broker.is_up:
            return "tcp", "tcp: refused", LATENCY_S
        if "clock" in self.failing and not self._simulation.clock.is_set:
            return "clock", "the certificate of the broker is not yet valid", LATENCY_S
        return "", "", 0.0

    def changes(self, passes: bool) -> None:
        """Let a line that is open be silent from now on, or pass again."""
        if passes != self.passes:
            self.passes = passes
            session = self._simulation.session
            if session is not None:
                session.resume() if passes else session.silence()
