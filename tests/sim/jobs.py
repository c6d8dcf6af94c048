"""The Jobs service and the root side of jobs in the simulation: its jobs meet kills, cuts and lost answers."""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Callable, Hashable
from typing import Any

from iotd.vocabulary import Json, Message
from tests.aws.executions import Answer, Execution, Executions
from tests.sim.clock import EPOCH_S
from tests.sim.disk import RUNTIME, STATE
from tests.sim.session import LATENCY_S, SimulatedSession
from tests.sim.world import Simulation

THING = "pi"
CONFIGURATION = """\
mqtt: {host: broker, limits: aws}
jobs:
  handlers:
    well: {run: [well, "{args}"], timeout: 10m}
    badly: {run: [badly], timeout: 10m}
  reboot: true
  restart: [kiosk.service]
  upgrade: [iotd]
"""
RESULTS = str(STATE.parent / "iotd-job" / "results.json")


class _Takes(dict[Hashable, float]):
    """How long a step takes: chance's. `begun` counts how often it was asked of a step, as one begins."""

    def __init__(self, chance: random.Random) -> None:
        super().__init__()
        self.begun: Counter[str] = Counter()
        self._chance = chance

    def get(self, key: Hashable, default: Any = None) -> Any:
        """Return it for the step with this key."""
        self.begun[str(key)] += 1
        return self._chance.uniform(1.0, 500.0)


class JobsSimulation(Simulation):
    """One device with jobs. `begun` counts how often each step was, whether by iotd's user or by root.

    `courier` is given the answers to a request and returns what arrives of them.
    """

    def __init__(self, seed: int) -> None:
        super().__init__(CONFIGURATION, seed, THING)
        self.dice = random.Random(seed)
        takes_s = _Takes(self.dice)
        self.takes_s, self.begun = takes_s, takes_s.begun
        self.executions = Executions(lambda: EPOCH_S + self.schedule.now)
        self.courier: Callable[[list[Answer]], list[Answer]] = lambda answers: answers
        self._results: dict[str, Json] = {}
        self._at_work: set[str] = set()
        self._publish = self.broker.publish
        setattr(self.broker, "publish", self._passed)

    # The cloud

    def create(self, job: str, document: Json) -> None:
        """Queue a job."""
        self._tell(self.executions.create(THING, job, document))

    def cancel(self, job: str) -> None:
        """Cancel a job by force."""
        self._tell(self.executions.cancel(THING, job, force=True))

    def open(self) -> list[Execution]:
        """Return what has not come to a final state."""
        return self.executions.pending(THING)

    def _passed(self, message: Message, by: SimulatedSession | None = None) -> None:
        self._publish(message, by)
        if message.topic.startswith(f"$aws/things/{THING}/jobs/") and by is not None:
            answers = self.executions.asked(message.topic, message.payload)
            self.schedule.after(LATENCY_S, lambda: self._tell(self.courier(answers)))

    def _tell(self, answers: list[Answer]) -> None:
        for topic, payload in answers:
            self._publish(Message(topic, json.dumps(payload).encode()))

    # The host

    def requested(self, verb: str, body: dict[str, Any]) -> None:
        """The helper takes a request up; what it is at it brings to its end, over power cuts too."""
        if "job" not in body:
            return super().requested(verb, body)
        self.disk.content.pop(str(RUNTIME / "jobs" / verb), None)
        key = f"{body['job']}:{body['execution']}:{body['step']}"
        if verb == "reboot":
            self.reboot(orderly=True)
        elif key not in self._results and key not in self._at_work:
            self._at_work.add(key)
            self._work(key, self.boots, self.takes_s.get(key, LATENCY_S))

    def _work(self, key: str, boot: int, takes_s: float) -> None:
        def end() -> None:
            if self.boots != boot:
                return self._work(key, self.boots, takes_s)
            self._at_work.discard(key)
            self._results[key] = {"succeeded": self.dice.random() < 0.8, "reason": "as the seed has it", "details": {}}
            self.disk.write(RESULTS, json.dumps(self._results).encode(), True)

        self.schedule.after(takes_s, end)

    def _adapters(self) -> dict[str, Any]:
        from iotd.jobs.execution import Outcome
        from iotd.jobs.part import Adapters
        from iotd.jobs.work import Finished, Order, Progressed

        def perform(order: Order, post: Callable[[Any], None], stop: int | None) -> Finished:
            post(Progressed(order.key, "50"))
            fails = order.arguments[0] == "badly"
            return Finished(order.key, Outcome(not fails, "exit status 1" if fails else ""))

        return {**super()._adapters(), "jobs": Adapters(perform)}
