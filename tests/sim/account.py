"""Fleet provisioning in the simulation, by the rules of the stand-in for AWS IoT Core; keys are texts."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from functools import partial
from typing import TYPE_CHECKING, Any

from iotd.vocabulary import Message
from tests.aws.provisioning import Answer, Provisioning, Template
from tests.sim.session import LATENCY_S

if TYPE_CHECKING:
    from tests.sim.world import Simulation

LIFE_S = 40 * 86400.0
REFUSED = {"statusCode": 429, "errorCode": "TooManyRequests", "errorMessage": "as the seed has it"}
Deliver = Callable[[Answer], Iterable[tuple[float, Answer]]]


class Account:
    """The account that a device becomes a thing of. A certificate is the key that it is of, and its life.

    `deliver` has its say on each answer: when it comes, and how often. `moods` are the faults that answers meet: lost,
    twice, late, refused.
    """

    def __init__(self, simulation: Simulation) -> None:
        self.keys = 0
        self.moods: list[str] = []
        self.deliver: Deliver = self._by_moods
        self.rules = Provisioning({"fleet": Template({"SerialNumber": None}, "pi")}, self._sign, simulation.clock.true)
        self._simulation = simulation

    def take(self, message: Message) -> None:
        """Answer what is a request."""
        answer = self.rules.answer(message.topic, message.payload)
        for after_s, said in self.deliver(answer) if answer is not None else ():
            self._simulation.schedule.after(after_s, partial(self._simulation.broker.publish, Message(
                said.topic, json.dumps(said.payload).encode())))

    def adapters(self) -> Any:
        """Return what stands in for openssl."""
        from iotd.host.openssl import Certificate  # a device without the section does not even import the wing
        from iotd.provision.keys import Adapters

        def says(pem: str) -> Certificate:
            key, begins_at, ends_at = pem.split(" ")
            return Certificate("", "", "", float(begins_at), float(ends_at), False, key)

        return Adapters(self._new_key, lambda key, name: f"csr of {key}", says, lambda key: key)

    def _by_moods(self, answer: Answer) -> list[tuple[float, Answer]]:
        chance, moods = self._simulation.chance, self.moods
        if "lost" in moods and chance() < 0.4:
            return []
        if "refused" in moods and chance() < 0.5:
            answer = Answer(f"{answer.topic.rpartition('/')[0]}/rejected", REFUSED)
        after_s = 30.0 * chance() if "late" in moods else LATENCY_S
        return [(after_s * number, answer) for number in range(1, 3 if "twice" in moods and chance() < 0.5 else 2)]

    def _new_key(self, kind: str) -> str:
        self.keys += 1
        return f"key-{self.keys}"

    def _sign(self, request: str) -> str:
        begins_at = int(self.rules.clock())
        return f"{request.removeprefix('csr of ')} {begins_at} {begins_at + LIFE_S}"
