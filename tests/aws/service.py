"""The Device Shadow service on the reserved topics of a broker, with hooks for what goes wrong in the cloud."""

from __future__ import annotations

import re
import threading
import time
from collections import defaultdict, deque
from dataclasses import dataclass
from typing import Any, Callable, Iterable, Mapping, Sequence

import paho.mqtt.client as mqtt

from tests.aws import document, limits
from tests.aws.answering import Answering
from tests.aws.document import Document, Object, Refusal, Rules
from tests.mosquitto import Mosquitto

NAME = "device-shadow-service"
MAX_IN_FLIGHT = 10
ORDER = ("accepted", "delta", "documents")

# One filter for each request and kind of shadow: `#` reaches no topic that starts with `$`,
# and `shadow/#` would bring the service its own answers.
FILTERS = [
    f"$aws/things/+/shadow/{named}{operation}"
    for named in ("", "name/+/")
    for operation in ("get", "update", "delete")
]
_TOPIC = re.compile(
    r"\$aws/things/(?P<thing>[a-zA-Z0-9:_-]{1,128})/shadow/(?:name/(?P<shadow>[$a-zA-Z0-9:_-]{1,64})/)?"
    r"(?P<operation>get|update|delete)"
)


@dataclass(frozen=True, slots=True)
class Request:
    """One request as it came; `shadow` is None for the classic one, `operation` is get, update or delete."""

    thing: str
    shadow: str | None
    operation: str
    payload: bytes

    @property
    def topic(self) -> str:
        """The topic that the request came on and that its answers hang below."""
        return f"{shadow_prefix(self.thing, self.shadow)}/{self.operation}"

    @property
    def label(self) -> str:
        """The name that a 404 mentions."""
        return self.thing if self.shadow is None else self.shadow


@dataclass(frozen=True, slots=True)
class Answer:
    """One message to publish; `kind` is accepted, rejected, delta or documents."""

    request: Request
    kind: str
    payload: Object

    @property
    def topic(self) -> str:
        """Where it goes."""
        return f"{self.request.topic}/{self.kind}"


Courier = Callable[[Sequence[Answer]], Iterable[Answer]]


def in_order(*kinds: str) -> Courier:
    """Return a courier that delivers in this order and loses each kind that is not named; rejections get through."""

    def courier(answers: Sequence[Answer]) -> Iterable[Answer]:
        return sorted(
            (answer for answer in answers if answer.kind in (*kinds, "rejected")),
            key=lambda answer: (*kinds, "rejected").index(answer.kind),
        )

    return courier


class ShadowService(Answering):
    """A client of the broker that keeps the shadows of all things, in memory.

    `courier` is asked to deliver the answers to each request: it may drop, double or reorder them, as AWS
    guarantees no order between accepted, delta and documents. It may be replaced at any time.
    """

    def __init__(
        self,
        broker: Mosquitto,
        *,
        rules: Rules = Rules(),
        clock: Callable[[], float] = time.time,
        courier: Courier = in_order(*ORDER),
    ) -> None:
        self.courier = courier
        self._rules = rules
        self._clock = clock
        self._lock = threading.RLock()
        self._shadows: dict[tuple[str, str | None], Document] = {}
        self._failures: list[tuple[str | None, Refusal]] = []
        self._held: list[Request] | None = None
        self._passed: defaultdict[str, deque[float]] = defaultdict(deque)
        super().__init__(broker, NAME, FILTERS)

    def update(self, thing: str, shadow: str | None, state: Object | None, **more: Any) -> Object:
        """Write to a shadow as a user of the cloud would and return what was accepted; raises Refusal.

        `more` may hold `version` and `clientToken`. The answers are published as for a request over MQTT, which is
        unconfirmed for `accepted`.
        """
        request = Request(thing, shadow, "update", document.dump({"state": state, **more}))
        with self._lock:
            answers = self._perform(request)
            self._deliver(answers)
        return answers[0].payload

    def get(self, thing: str, shadow: str | None) -> Object:
        """Return the document as `get/accepted` would have it, and publish nothing; raises Refusal 404."""
        with self._lock:
            return self._perform(Request(thing, shadow, "get", b""))[0].payload

    def delete(self, thing: str, shadow: str | None) -> Object:
        """Delete a shadow as a user of the cloud would; raises Refusal 404."""
        with self._lock:
            answers = self._perform(Request(thing, shadow, "delete", b""))
            self._deliver(answers)
        return answers[0].payload

    def fail_next(self, code: int, message: str | None = None, *, operation: str | None = None) -> None:
        """Refuse the next request over MQTT, or the next get, update or delete; several calls queue up."""
        with self._lock:
            self._failures.append((operation, Refusal(code, message)))

    def hold(self) -> None:
        """Let requests wait; a thing that has ten in flight already is answered 429."""
        with self._lock:
            self._held = self._held or []

    def release(self) -> None:
        """Answer what has waited, in order of arrival, and hold no more."""
        with self._lock:
            held, self._held = self._held or [], None
            for request in held:
                self._deliver(self._answer(request))

    def _on_message(self, client: mqtt.Client, userdata: Any, message: mqtt.MQTTMessage) -> None:
        parts = _TOPIC.fullmatch(message.topic)
        if parts is None or message.retain:  # AWS knows no such thing, and takes no RETAIN on a reserved topic
            return
        request = Request(parts["thing"], parts["shadow"], parts["operation"], bytes(message.payload))
        with self._lock:
            if self._held is None:
                self._deliver(self._answer(request))
            elif sum(waiting.thing == request.thing for waiting in self._held) < MAX_IN_FLIGHT:
                self._held.append(request)
            else:
                self._deliver([self._reject(request, Refusal(429))])

    def _answer(self, request: Request) -> Sequence[Answer]:
        try:
            if not limits.take_place(self._passed[request.thing], self._clock(), limits.MAX_SHADOW_REQUESTS_PER_S):
                raise Refusal(429)
            self._fail_if_asked_to(request)
            return self._perform(request)
        except Refusal as refusal:
            return [self._reject(request, refusal)]

    def _fail_if_asked_to(self, request: Request) -> None:
        for index, (operation, refusal) in enumerate(self._failures):
            if operation in (None, request.operation):
                del self._failures[index]
                raise refusal

    def _reject(self, request: Request, refusal: Refusal) -> Answer:
        return Answer(request, "rejected", refusal.payload(self._now(), document.token_of(_lenient(request.payload))))

    def _perform(self, request: Request) -> Sequence[Answer]:
        """Change the shadow and return the answers; raises Refusal."""
        key = (request.thing, request.shadow)
        shadow = self._shadows.get(key)
        if request.operation == "update":
            updated = document.update(shadow, document.parse(request.payload), self._now(), self._rules)
            self._shadows[key] = updated.document
            messages: Mapping[str, Object | None] = {
                "accepted": updated.accepted, "delta": updated.delta, "documents": updated.documents
            }
            return [Answer(request, kind, payload) for kind, payload in messages.items() if payload is not None]
        if request.operation == "get":
            body = document.parse(request.payload or b"{}")
            found = document.get(shadow, request.label, body, self._now(), self._rules)
            return [Answer(request, "accepted", found)]
        body = _lenient(request.payload)
        self._shadows[key], deleted = document.delete(shadow, request.label, body, self._now(), self._rules)
        return [Answer(request, "accepted", deleted)]

    def _deliver(self, answers: Sequence[Answer]) -> None:
        for answer in self.courier(answers):
            self._client.publish(answer.topic, document.dump(answer.payload), qos=1)

    def _now(self) -> int:
        return int(self._clock())


def shadow_prefix(thing: str, shadow: str | None) -> str:
    """Return what all topics of a shadow begin with."""
    return f"$aws/things/{thing}/shadow" + ("" if shadow is None else f"/name/{shadow}")


def _lenient(payload: bytes) -> Object:
    """Parse a payload whose content the service ignores where it is not the expected object."""
    try:
        return document.parse(payload)
    except Refusal:
        return {}
