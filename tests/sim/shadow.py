"""The Device Shadow service behind the simulated broker, by the document rules of the stand-in for AWS IoT Core."""

from __future__ import annotations

import re
from functools import partial
from typing import TYPE_CHECKING, Any

from iotd.vocabulary import Json, Message
from tests.aws import document
from tests.aws.document import Document, Refusal
from tests.sim.clock import EPOCH_S

if TYPE_CHECKING:
    from tests.sim.cloud import SimulatedBroker
    from tests.sim.world import Simulation

_TOPIC = re.compile(r"\$aws/things/(?P<thing>[^/]+)/shadow(?:/name/(?P<name>[^/]+))?/(?P<verb>get|update)")
Key = tuple[str, str | None]


class SimulatedShadows:
    """The shadows of all things; `moods` are the faults that answers meet: late, lost, twice, mixed, refused."""

    def __init__(self, simulation: Simulation, broker: SimulatedBroker) -> None:
        self.documents: dict[Key, Document] = {}
        self.moods: list[str] = []
        self._simulation = simulation
        self._broker = broker

    def take(self, message: Message) -> None:
        """Answer what is a request."""
        if not message.topic.startswith("$aws/"):
            return
        found = _TOPIC.fullmatch(message.topic)
        if found is None:
            return
        request: Any = None
        try:
            request = document.parse(message.payload)
            if "refused" in self.moods and self._chance() < 0.5:
                raise Refusal((400, 409, 413, 429, 429, 500)[int(self._chance() * 6)])
            answers = self._answers((found["thing"], found["name"]), found["verb"], request)
        except Refusal as refusal:
            token = document.token_of(request) if isinstance(request, dict) else None
            answers = {f"{found['verb']}/rejected": refusal.payload(self._now(), token)}
        self._say(message.topic.removesuffix(found["verb"]), answers)

    def desire(self, thing: str, name: str | None, desired: dict[str, Json] | None) -> None:
        """Write to a shadow as a user of the cloud would; None takes back all that is desired."""
        request = {"state": {"desired": desired}}
        self._say(_prefix(thing, name), self._answers((thing, name), "update", request))

    def delete(self, thing: str, name: str | None) -> None:
        """Delete a shadow as a user of the cloud would."""
        known = self.documents.get((thing, name))
        if document.exists(known):
            self.documents[thing, name], _ = document.delete(known, str(name), {}, self._now())

    def state(self, thing: str, name: str | None) -> Any:
        """Return the state of a shadow, nothing of one that is not there."""
        known = self.documents.get((thing, name))
        return known.state if known is not None and document.exists(known) else {}

    def _answers(self, key: Key, verb: str, request: Any) -> dict[str, Any]:
        if verb == "get":
            return {"get/accepted": document.get(self.documents.get(key), key[1] or key[0], request, self._now())}
        updated = document.update(self.documents.get(key), request, self._now())
        self.documents[key] = updated.document
        answers = {"accepted": updated.accepted, "delta": updated.delta, "documents": updated.documents}
        return {f"update/{kind}": body for kind, body in answers.items() if body is not None}

    def _say(self, prefix: str, answers: dict[str, Any]) -> None:
        messages = [Message(prefix + kind, document.dump(body)) for kind, body in answers.items()]
        if not self.moods:
            for message in messages:
                self._broker.publish(message)
            return
        if "mixed" in self.moods:
            messages.sort(key=lambda _: self._chance())
        for message in messages:
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
