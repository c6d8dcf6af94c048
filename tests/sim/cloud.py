"""The other side: a broker that keeps sessions and retained messages, and closes lines for reasons of its own."""

from __future__ import annotations

import gzip
import json
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

from iotd.mqtt.connection import Dial
from iotd.mqtt.topics import matches
from iotd.vocabulary import Message
from tests.sim.session import LATENCY_S, SimulatedSession
from tests.sim.shadow import SimulatedShadows

if TYPE_CHECKING:
    from tests.sim.world import Simulation

QUEUE = 1000  # messages that a kept session holds, the oldest go


def unpacked(payload: bytes) -> bytes:
    """Return what is in a payload that may be gzip."""
    return gzip.decompress(payload) if payload.startswith(b"\x1f\x8b") else payload


class Delivered(NamedTuple):
    """A message as it came to the broker, at the true time `at`."""

    at: float
    message: Message

    def json(self) -> Any:
        """Return the payload, parsed."""
        return json.loads(self.message.payload)


class Client:
    """What the broker knows of one client id: its filters, its line and will while there is one, and what waits."""

    def __init__(self) -> None:
        self.filters: dict[str, int] = {}
        self.will: Message | None = None
        self.link: SimulatedSession | None = None
        self.waiting: deque[Message] = deque(maxlen=QUEUE)
        self.unacknowledged: list[Message] = []


class SimulatedBroker:
    """One broker. `seen` is every publish that it took, where that is kept.

    `is_up`: it takes connections at all. `denied` are the topics and filters over which it closes the line, `refused`
    the filters that get 0x80, after which it closes the line too where it is `strict`, `poison` the payload parts over
    which it closes it, `mute` the topics and filters that it never acknowledges. It `says_present` of a session
    whatever is true, and `grants` no more than this QoS.
    """

    def __init__(self, simulation: Simulation, keep_seen: bool) -> None:
        self.retained: dict[str, Message] = {}
        self.seen: list[Delivered] = []
        self.clients: dict[str, Client] = {}
        self.shadows = SimulatedShadows(simulation, self)
        self.is_up = True
        self.says_present = False
        self.strict = False
        self.grants = 1
        self.refusal = ""
        self.connack_s = 0.0
        self.answer_s = LATENCY_S
        self.will_delay_s = 0.0
        self.denied: set[str] = set()
        self.refused: set[str] = set()
        self.poison: set[bytes] = set()
        self.mute: set[str] = set()
        self._simulation = simulation
        self._keep_seen = keep_seen

    def link_of(self, client_id: str) -> SimulatedSession | None:
        """Return the line that the broker believes this client to have."""
        client = self.clients.get(client_id)
        return client.link if client is not None else None

    def connect(self, session: SimulatedSession, dial: Dial) -> tuple[bool, list[Message]]:
        """Take a CONNECT; return whether a session was present, and what waited in it."""
        known = self.clients.get(dial.client_id)
        if known is not None and known.link is not None:
            self._drop(known)
        present = known is not None and not dial.clean_session
        client = known if known is not None and present else Client()
        self.clients[dial.client_id] = client
        client.will, client.link = dial.will, session
        waiting, client.waiting = list(client.waiting), deque(maxlen=QUEUE)
        client.unacknowledged = [message for message in waiting if message.qos]
        self._simulation.judge.line_changed()
        return present or self.says_present, waiting

    def lose(self, session: SimulatedSession) -> None:
        """The line is gone without a DISCONNECT: its will is published, soon or late."""
        for client in self.clients.values():
            if client.link is session:
                self._drop(client)

    def leave(self, session: SimulatedSession) -> None:
        """A client has sent DISCONNECT."""
        for client in self.clients.values():
            if client.link is session:
                client.will = None
                self._drop(client)

    def close(self, cause: str, reason: str) -> None:
        """Close every line."""
        for client in list(self.clients.values()):
            link = client.link
            if link is not None:
                self._drop(client)
                link.end(cause, reason)

    def forget(self, sessions: bool = True, retained: bool = True) -> None:
        """Lose what is kept: the sessions of clients that are away, what stands retained."""
        if sessions:
            self.clients = {name: client for name, client in self.clients.items() if client.link is not None}
        if retained:
            self.retained.clear()
            self._simulation.judge.store_lost()

    def subscribe(self, session: SimulatedSession, filters: list[tuple[str, int]]) -> list[tuple[str, int]]:
        """Take a SUBSCRIBE; return the code of each filter, nothing where that is not answered."""
        client = self._client_of(session)
        if client is None or self.mute.intersection(name for name, _ in filters):
            return []
        if self.denied.intersection(name for name, _ in filters):
            self._deny(session)
            return []
        codes = []
        for name, qos in filters:
            if name in self.refused:
                codes.append((name, 128))
                continue
            codes.append((name, min(qos, self.grants)))
            client.filters[name] = qos
            for message in [kept for topic, kept in self.retained.items() if matches(name, topic)]:
                session.deliver(message, retained=True)
        if self.strict and self.refused.intersection(name for name, _ in filters):
            self._simulation.schedule.after(3 * LATENCY_S, partial(self._deny, session))
        return codes

    def unsubscribe(self, session: SimulatedSession, filters: list[str]) -> None:
        """Take an UNSUBSCRIBE."""
        client = self._client_of(session)
        if client is not None:
            for name in filters:
                client.filters.pop(name, None)

    def publish_of(self, session: SimulatedSession, message: Message) -> bool:
        """Take a PUBLISH of the device; tell whether it is acknowledged."""
        if self._client_of(session) is None:
            return False
        if message.topic in self.denied or self.poison and any(part in unpacked(message.payload)
                                                               for part in self.poison):
            self._deny(session)
            return False
        self.publish(message, session)
        return message.topic not in self.mute

    def publish(self, message: Message, by: SimulatedSession | None = None) -> None:
        """Take a PUBLISH of anybody's, keep it where it is retained, and pass it on."""
        if self._keep_seen:
            self.seen.append(Delivered(self._simulation.schedule.now, message))
        if message.retain:
            if message.payload:
                self.retained[message.topic] = message
            else:
                self.retained.pop(message.topic, None)
        self._simulation.judge.arrived(message, by)
        for client in self.clients.values():
            if message.topic in client.filters or any(
                    matches(name, message.topic) for name in client.filters if "+" in name or "#" in name):
                self._pass(client, message._replace(retain=False))
        if message.topic.startswith("$aws/"):
            self.shadows.take(message)
            self._simulation.jobs.take(message, by)
            self._simulation.account.take(message)

    def acknowledged(self, session: SimulatedSession, message: Message) -> None:
        """The device has sent PUBACK."""
        client = self._client_of(session)
        if client is not None and message in client.unacknowledged:
            client.unacknowledged.remove(message)

    def on(self, topic: str) -> list[Delivered]:
        """Return what came on a topic, in order."""
        return [delivered for delivered in self.seen if delivered.message.topic == topic]

    def _deny(self, session: SimulatedSession) -> None:
        """Close the line without a word, as AWS IoT Core does over what a policy does not allow."""
        self.lose(session)
        session.end("closed", "the broker closed the line")

    def _pass(self, client: Client, message: Message) -> None:
        if client.link is not None:
            if message.qos:
                client.unacknowledged.append(message)
            client.link.deliver(message)
        elif message.qos:
            client.waiting.append(message)

    def _drop(self, client: Client) -> None:
        """The line is gone: what it has not acknowledged is delivered again on its next one."""
        will, client.will, client.link = client.will, None, None
        client.waiting.extendleft(reversed(client.unacknowledged))
        client.unacknowledged = []
        self._simulation.judge.line_changed()
        if will is not None:
            self._after(self.will_delay_s, partial(self.publish, will))

    def _after(self, delay_s: float, do: Callable[[], None]) -> None:
        if delay_s:
            self._simulation.schedule.after(delay_s, do)
        else:
            do()

    def _client_of(self, session: SimulatedSession) -> Client | None:
        for client in self.clients.values():
            if client.link is session:
                return client
        return None
