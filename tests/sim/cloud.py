"""The other side: a broker that keeps sessions and retained messages, and the shadow service behind it."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any, NamedTuple

from iotd.mqtt.connection import Dial
from iotd.mqtt.topics import matches
from iotd.vocabulary import Json, Message
from tests.aws import document
from tests.aws.document import Document, Refusal

_SHADOW = re.compile(r"\$aws/things/(?P<thing>[^/]+)/shadow(?:/name/(?P<name>[^/]+))?/(?P<verb>get|update|delete)")


class Delivered(NamedTuple):
    """A message as it came to the broker, at the monotonic time `at`."""

    at: float
    message: Message

    def json(self) -> Any:
        """Return the payload, parsed."""
        return json.loads(self.message.payload)


class Client:
    """What the broker knows of one client id: its filters, its will while it is connected, and what waits for it."""

    def __init__(self) -> None:
        self.filters: dict[str, int] = {}
        self.will: Message | None = None
        self.deliver: Callable[[Message], None] | None = None
        self.waiting: list[Message] = []
        self.unacknowledged: list[Message] = []


class SimulatedBroker:
    """One broker; `is_up` tells whether it takes connections at all. `seen` is every publish that it took.

    It closes the line over the topics and filters in `denied`, answers those in `refused` by 128, and closes the line
    then where it is `strict`, and never acknowledges those in `mute`. It `says_present` of a session whatever is true.
    """

    def __init__(self, now: Callable[[], float]) -> None:
        self.is_up = True
        self.denied: set[str] = set()
        self.refused: set[str] = set()
        self.strict = False
        self.mute: set[str] = set()
        self.says_present = False
        self.retained: dict[str, Message] = {}
        self.seen: list[Delivered] = []
        self.clients: dict[str, Client] = {}
        self.shadows = SimulatedShadows(self, now)
        self._now = now

    def connect(self, dial: Dial, deliver: Callable[[Message], None]) -> bool:
        """Take a CONNECT; return whether a session was present."""
        known = self.clients.get(dial.client_id)
        if known is not None and known.will is not None:
            self.lose(dial.client_id)
        present = known is not None and not dial.clean_session
        client = known if known is not None and present else Client()
        self.clients[dial.client_id] = client
        client.will, client.deliver = dial.will, deliver
        waiting, client.waiting = client.waiting, []
        for message in waiting:
            self._pass(client, message)
        return present or self.says_present

    def lose(self, client_id: str) -> None:
        """The line of a client is gone without a DISCONNECT: its will is published."""
        client = self.clients.get(client_id)
        if client is not None and client.deliver is not None:
            self._gone(client)
            will, client.will = client.will, None
            if will is not None:
                self.publish(will)

    def leave(self, client_id: str) -> None:
        """A client has sent DISCONNECT."""
        self.clients[client_id].will = None
        self._gone(self.clients[client_id])

    def subscribe(self, client_id: str, filters: list[tuple[str, int]]) -> tuple[tuple[str, int], ...]:
        """Take a SUBSCRIBE; return the code of each filter. What is retained on it is delivered."""
        client = self.clients[client_id]
        granted = [(name, qos) for name, qos in filters if name not in self.refused]
        for name, qos in granted:
            client.filters[name] = qos
            for message in [kept for topic, kept in self.retained.items() if matches(name, topic)]:
                if client.deliver is not None:
                    client.deliver(message)
        return tuple((name, 128 if name in self.refused else qos) for name, qos in filters)

    def forget(self) -> None:
        """Lose every session and all that is retained, as at a start with an empty store."""
        self.retained.clear()
        self.clients.clear()

    def publish(self, message: Message) -> None:
        """Take a PUBLISH of anybody's, keep it where it is retained, and pass it on."""
        self.seen.append(Delivered(self._now(), message))
        if message.retain and message.payload:
            self.retained[message.topic] = message
        elif message.retain:
            self.retained.pop(message.topic, None)
        for client in self.clients.values():
            if any(matches(name, message.topic) for name in client.filters):
                self._pass(client, message._replace(retain=False))
        found = _SHADOW.fullmatch(message.topic)
        if found is not None:
            self.shadows.asked(found["thing"], found["name"], found["verb"], message)

    def acknowledged(self, client_id: str, message: Message) -> None:
        """A client has sent PUBACK."""
        client = self.clients[client_id]
        if message in client.unacknowledged:
            client.unacknowledged.remove(message)

    def _pass(self, client: Client, message: Message) -> None:
        if client.deliver is None:
            client.waiting.append(message)
        else:
            client.unacknowledged.append(message)
            client.deliver(message)

    def _gone(self, client: Client) -> None:
        """What it has not acknowledged is delivered again on its next line."""
        client.deliver = None
        client.waiting[:0], client.unacknowledged = client.unacknowledged, []

    def on(self, topic: str) -> list[Delivered]:
        """Return what came on a topic, in order."""
        return [delivered for delivered in self.seen if delivered.message.topic == topic]


class Change(NamedTuple):
    """What a shadow holds from the monotonic time `at` on; of its deletion nobody is told who did not ask."""

    at: float
    name: str | None
    state: Json
    deleted: bool = False


class SimulatedShadows:
    """The Device Shadow service, by the same document rules as the stand-in of `tests.aws`.

    `refuse` is asked about each request over MQTT, `courier` delivers the answers to each: it may reorder, double or
    lose them. `history` is every change.
    """

    def __init__(self, broker: SimulatedBroker, now: Callable[[], float]) -> None:
        self.documents: dict[tuple[str, str | None], Document] = {}
        self.history: list[Change] = []
        self.refuse: Callable[[str], Refusal | None] = lambda verb: None
        self.courier: Callable[[list[Message]], list[Message]] = lambda answers: answers
        self._broker = broker
        self._now = now

    def take(self, thing: str, name: str | None, verb: str, message: Message, refused: Refusal | None = None) -> None:
        """Answer a request."""
        request: Any = {}
        try:
            request = document.parse(message.payload)
            if refused is not None:
                raise refused
            answers = self._answers(thing, name, verb, request)
        except Refusal as refusal:
            answers = {f"{verb}/rejected": refusal.payload(int(self._now()), document.token_of(request))}
        prefix = message.topic.removesuffix(verb)
        for answer in self.courier([Message(f"{prefix}{kind}", document.dump(body)) for kind, body in answers.items()]):
            self._broker.publish(answer)

    def asked(self, thing: str, name: str | None, verb: str, message: Message) -> None:
        """Take a request of a device's."""
        self.take(thing, name, verb, message, self.refuse(verb))

    def write(self, thing: str, name: str | None, state: Json) -> None:
        """Write to a shadow as a user of the cloud would."""
        self.take(thing, name, "update", Message(f"{_prefix(thing, name)}/update", document.dump({"state": state})))

    def desire(self, thing: str, name: str | None, desired: dict[str, Json]) -> None:
        """Desire something as a user of the cloud would."""
        self.write(thing, name, {"desired": desired})

    def delete(self, thing: str, name: str | None) -> None:
        """Delete a shadow as a user of the cloud would."""
        self.take(thing, name, "delete", Message(f"{_prefix(thing, name)}/delete", b"{}"))

    def state(self, thing: str, name: str | None) -> Any:
        """Return the state of a shadow."""
        return self.documents[thing, name].state

    def _answers(self, thing: str, name: str | None, verb: str, request: Any) -> dict[str, Any]:
        key, label, now = (thing, name), name or thing, int(self._now())
        if verb == "get":
            return {"get/accepted": document.get(self.documents.get(key), label, request, now)}
        if verb == "delete":
            self.documents[key], deleted = document.delete(self.documents.get(key), label, request, now)
            self.history.append(Change(self._now(), name, {}, deleted=True))
            return {"delete/accepted": deleted}
        updated = document.update(self.documents.get(key), request, now)
        self.documents[key] = updated.document
        self.history.append(Change(self._now(), name, updated.document.state))
        answers = {"accepted": updated.accepted, "delta": updated.delta, "documents": updated.documents}
        return {f"update/{kind}": body for kind, body in answers.items() if body is not None}


def _prefix(thing: str, name: str | None) -> str:
    return f"$aws/things/{thing}/shadow" + ("" if name is None else f"/name/{name}")
