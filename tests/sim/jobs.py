"""The Jobs service and the root side of jobs in the simulation: its jobs meet kills, cuts and lost answers."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

from iotd.vocabulary import Json, Message
from tests.aws.executions import Answer, Execution, Executions
from tests.sim.clock import EPOCH_S
from tests.sim.disk import RUNTIME, STATE
from tests.sim.session import LATENCY_S, SimulatedSession

if TYPE_CHECKING:
    from tests.sim.world import Simulation

THING = "pi"
SECTION = """\
jobs:
  handlers:
    well: {run: [well, "{args}"], timeout: 10m}
    badly: {run: [badly], timeout: 10m}
  reboot: true
  restart: [kiosk.service]
  upgrade: [iotd]
"""
RESULTS = str(STATE.parent / "iotd-job" / "results.json")
REFUSED = {"code": "RequestThrottled", "message": "as the seed has it"}
MOST_S = 500.0  # that a step takes


def _step(handler: str, **more: Json) -> Json:
    return {"action": {"type": "runHandler", "input": {"handler": handler}, **more}}


DOCUMENTS: tuple[Json, ...] = (
    {"operation": "well", "args": ["a"]}, {"operation": "badly"}, {"operation": "fly"}, None, {"operation": "reboot"},
    {"operation": "restart", "args": ["kiosk.service"]}, {"operation": "upgrade", "args": ["iotd"]},
    {"steps": [_step("well"), _step("reboot.sh"), _step("badly", ignoreStepFailure="true"), _step("well")]})
WRONG: tuple[Json, ...] = (
    {}, [], 7, {"operation": 7}, {"operation": "x" * 100}, {"operation": "well", "colour": 1}, {"steps": []},
    {"steps": {}}, {"version": "2.0", "steps": [_step("well")]}, {"conditions": [{}], "steps": [_step("well")]},
    {"steps": [_step("well")], "finalStep": _step("well")}, {"steps": [_step("well")] * 21}, {"steps": [7]},
    {"steps": [{"action": 7}]}, {"steps": [{"action": {"type": "fly", "input": {}}}]},
    {"steps": [{"action": {"type": "runHandler"}}]}, {"steps": [{"action": {"type": "runHandler", "input": {}}}]},
    {"steps": [{"action": {"type": "runCommand", "input": {"command": "true"}}}]},
    {"steps": [{"action": {"type": "runCommand", "input": {"command": ",a"}}}]},
    {"operation": "well", "args": ["-x"]}, {"operation": "badly", "args": ["a"]}, {"operation": "well", "args": 7},
    {"operation": "well", "args": [{}]}, {"operation": "well", "args": ["a"] * 101},
    {"operation": "well", "args": ["a\0"]}, {"operation": "well", "args": [1, 2.5, "\ud800"]},
    {"operation": "reboot", "args": ["now"]}, {"operation": "restart"}, {"operation": "restart", "args": ["../kiosk"]},
    {"operation": "restart", "args": ["other.service"]}, {"operation": "upgrade", "args": ["A!"]},
    {"operation": "upgrade", "args": ["bash"]}, {"operation": "bundle", "args": ["https://host/x"]})


class SimulatedJobs:
    """The service, with a user of the cloud, and the helper. `begun` counts how often each step was, whether by iotd's
    user or by root.

    `courier` is given the answers to a request and returns what arrives of them; `moods` are the faults that they meet:
    lost, twice, late, refused.
    """

    def __init__(self, simulation: Simulation) -> None:
        self.executions = Executions(lambda: EPOCH_S + simulation.schedule.now)
        self.begun: Counter[str] = Counter()
        self.moods: list[str] = []
        self.courier: Callable[[list[Answer]], list[Answer]] = lambda answers: answers
        self._simulation = simulation
        self._results: dict[str, Json] = {}
        self._at_work: set[str] = set()

    # The cloud

    def create(self, job: str, document: Json, in_progress_s: float | None = None) -> None:
        """Queue a job; one that is in progress for so long times out."""
        self._tell(self.executions.create(THING, job, document, in_progress_s))

    def cancel(self, job: str) -> None:
        """Cancel a job by force."""
        self._tell(self.executions.cancel(THING, job, force=True))

    def run_timers(self) -> None:
        """End what has taken too long."""
        self._tell(self.executions.run_timers())

    def open(self) -> list[Execution]:
        """Return what has not come to a final state."""
        return self.executions.pending(THING)

    def take(self, message: Message, by: SimulatedSession | None) -> None:
        """Answer what is a request of the device's."""
        if by is None or not message.topic.startswith(f"$aws/things/{THING}/jobs/"):
            return
        answers = self.executions.asked(message.topic, message.payload)
        for after_s, said in self._by_moods(answers) if self.moods else [(LATENCY_S, answers)]:
            self._simulation.schedule.after(after_s, partial(self._arrive, said))

    def _by_moods(self, answers: list[Answer]) -> list[tuple[float, list[Answer]]]:
        chance, moods = self._simulation.chance, self.moods
        if "lost" in moods and chance() < 0.4:
            return []
        if "refused" in moods and chance() < 0.5 and answers:
            topic, body = answers[0]
            answers = [(f"{topic.rpartition('/')[0]}/rejected", {**REFUSED, "clientToken": body.get("clientToken")})]
        after_s = 30.0 * chance() if "late" in moods else LATENCY_S
        return [(after_s * number, answers) for number in range(1, 3 if "twice" in moods and chance() < 0.5 else 2)]

    def _arrive(self, answers: list[Answer]) -> None:
        self._tell(self.courier(answers))

    def _tell(self, answers: list[Answer]) -> None:
        for topic, payload in answers:
            self._simulation.broker.publish(Message(topic, json.dumps(payload).encode()))

    # The host

    def begin(self, key: str) -> float:
        """Note that a step begins; return how long it takes."""
        self.begun[key] += 1
        self._simulation.judge.stepped(key)
        return 1.0 + (MOST_S - 1.0) * self._simulation.chance()

    def requested(self, verb: str, body: dict[str, Any]) -> None:
        """The helper takes a request up; what it is at it brings to its end, over power cuts too."""
        simulation = self._simulation
        if simulation.air.moods["helper does nothing"]:
            return
        simulation.disk.content.pop(str(RUNTIME / "jobs" / verb), None)
        key = f"{body['job']}:{body['claim']}:{body['step']}"
        if verb == "reboot":
            self.begin(key)
            simulation.reboot(orderly=True)
        elif key not in self._results and key not in self._at_work:
            self._at_work.add(key)
            self._work(key, simulation.boots, self.begin(key))

    def _work(self, key: str, boot: int, takes_s: float) -> None:
        simulation = self._simulation

        def end() -> None:
            if simulation.boots != boot:
                return self._work(key, simulation.boots, takes_s)
            self._at_work.discard(key)
            self._results[key] = {"succeeded": simulation.chance() < 0.8, "reason": "as the seed has it", "details": {}}
            simulation.disk.write_by_root(RESULTS, json.dumps(self._results).encode())

        simulation.schedule.after(takes_s, end)

    def adapters(self) -> Any:
        """Return what performs a command of iotd's user."""
        from iotd.jobs.execution import Outcome
        from iotd.jobs.part import Adapters
        from iotd.jobs.work import Finished, Order, Progressed

        def perform(order: Order, post: Callable[[Any], None], stop: int | None) -> Finished:
            post(Progressed(order.key, "50"))
            fails = order.arguments[0] == "badly"
            return Finished(order.key, Outcome(not fails, "exit status 1" if fails else ""))

        return Adapters(perform)
