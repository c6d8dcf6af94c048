"""The Device Shadow service behind the simulated broker, by the document rules of the stand-in for AWS IoT Core."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

from iotd.vocabulary import Json, Message
from tests.aws import document
from tests.aws.document import Document, Refusal
from tests.sim.clock import EPOCH_S

if TYPE_CHECKING:
    from tests.sim.cloud import SimulatedBroker
    from tests.sim.world import Simulation

_TOPIC = re.compile(r"\$aws/things/(?P<thing>[^/]+)/shadow(?:/name/(?P<name>[^/]+))?/(?P<verb>get|update|delete)")
RULES = document.Rules(max_depth=10)  # more than AWS documents, so that what the device does not take arrives
Key = tuple[str, str | None]


class Change(NamedTuple):
    """What a shadow holds from the time `at` on; of its deletion nobody is told who did not ask."""

    at: float
    name: str | None
    state: Json
    deleted: bool = False


class SimulatedShadows:
    """The shadows of all things; `moods` are the faults that answers meet: late, lost, twice, mixed, refused,
    garbled.

    A test may have its own say: `refuse` is asked about each request of a device's, `courier` delivers the answers to
    each: it may reorder, double or lose them. `history` is every change, where no judge looks on.
    """

    def __init__(self, simulation: Simulation, broker: SimulatedBroker) -> None:
        self.documents: dict[Key, Document] = {}
        self.history: list[Change] = []
        self.moods: list[str] = []
        self.refuse: Callable[[str], Refusal | None] = lambda verb: None
        self.courier: Callable[[list[Message]], list[Message]] = lambda answers: answers
        self._simulation = simulation
        self._broker = broker

    def take(self, message: Message) -> None:
        """Answer what is a request."""
        found = _TOPIC.fullmatch(message.topic)
        if found is None:
            return
        refusal = self.refuse(found["verb"])
        if "refused" in self.moods and self._chance() < 0.5:
            refusal = Refusal((400, 409, 413, 429, 429, 500)[int(self._chance() * 6)])
        self._take((found["thing"], found["name"]), found["verb"], message.payload, refusal)

    def write(self, thing: str, name: str | None, state: Json) -> bool:
        """Write to a shadow as a user of the cloud would; tell whether the service has taken it."""
        return self._take((thing, name), "update", document.dump({"state": state}))

    def desire(self, thing: str, name: str | None, desired: dict[str, Json] | None) -> bool:
        """Desire something as a user of the cloud would, None takes back all; tell whether the service has taken it."""
        return self.write(thing, name, {"desired": desired})

    def delete(self, thing: str, name: str | None) -> bool:
        """Delete a shadow as a user of the cloud would; tell whether there was one."""
        return self._take((thing, name), "delete", b"{}")

    def state(self, thing: str, name: str | None) -> Any:
        """Return the state of a shadow, nothing of one that is not there."""
        known = self.documents.get((thing, name))
        return known.state if known is not None and document.exists(known) else {}

    def _take(self, key: Key, verb: str, payload: bytes, refusal: Refusal | None = None) -> bool:
        """Answer a request, which is refused for this reason or for what is wrong with it; tell whether it was not."""
        request: Any = None
        try:
            request = document.parse(payload)
            if refusal is not None:
                raise refusal
            answers = self._answers(key, verb, request)
        except Refusal as refused:
            refusal = refused
            token = document.token_of(request) if isinstance(request, dict) else None
            answers = {f"{verb}/rejected": refused.payload(self._now(), token)}
        self._say(_prefix(*key), answers)
        return refusal is None

    def _answers(self, key: Key, verb: str, request: Any) -> dict[str, Any]:
        known, label = self.documents.get(key), key[1] or key[0]
        if verb == "get":
            return {"get/accepted": document.get(known, label, request, self._now())}
        if verb == "delete":
            self.documents[key], deleted = document.delete(known, label, request, self._now())
            self._note(key[1], {}, deleted=True)
            return {"delete/accepted": deleted}
        updated = document.update(known, request, self._now(), RULES)
        self.documents[key] = updated.document
        self._note(key[1], updated.document.state)
        answers = {"accepted": updated.accepted, "delta": updated.delta, "documents": updated.documents}
        return {f"update/{kind}": body for kind, body in answers.items() if body is not None}

    def _note(self, name: str | None, state: Json, deleted: bool = False) -> None:
        if not self._simulation.judged:
            self.history.append(Change(self._simulation.schedule.now, name, state, deleted))

    def _say(self, prefix: str, answers: dict[str, Any]) -> None:
        messages = self.courier([Message(prefix + kind, document.dump(body)) for kind, body in answers.items()])
        if not self.moods:
            for message in messages:
                self._broker.publish(message)
            return
        if "mixed" in self.moods:
            messages.sort(key=lambda _: self._chance())
        for message in messages:
            if "garbled" in self.moods and self._chance() < 0.3:
                message = message._replace(payload=(b"{", b"[]", b"\xff", b'{"state": 7}')[int(self._chance() * 4)])
            if "lost" in self.moods and self._chance() < 0.3:
                continue
            for _ in range(2 if "twice" in self.moods and self._chance() < 0.5 else 1):
                delay_s = self._chance() * 30.0 if "late" in self.moods else self._chance() * 0.5
                self._simulation.schedule.after(delay_s, partial(self._broker.publish, message))

    def _chance(self) -> float:
        return self._simulation.chance()

    def _now(self) -> int:
        return int(EPOCH_S + self._simulation.schedule.now)


def _prefix(thing: str, name: str | None) -> str:
    return f"$aws/things/{thing}/shadow/" + ("" if name is None else f"name/{name}/")
