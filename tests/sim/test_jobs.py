"""Hours of jobs on a bad line, with kills and power cuts: each comes to its final state, and nothing is done twice."""

from __future__ import annotations

import random
from typing import Any

import pytest

from tests.aws.executions import Answer
from tests.sim.jobs import DOCUMENTS, REFUSED, SECTION, THING
from tests.sim.world import Simulation

SETTLED_S = 4 * 3600.0  # the longest that root may take, and the longest pause between two tries
CONFIGURATION = "mqtt: {host: broker, limits: aws}\n" + SECTION


class Hours:
    """One seed: jobs, and whatever comes between."""

    def __init__(self, seed: int) -> None:
        self.simulation = Simulation(CONFIGURATION, seed, THING)
        self.jobs = self.simulation.jobs
        self.dice = random.Random(seed)
        self.created: dict[str, Any] = {}
        self.cancelled: set[str] = set()
        self.troubled = True
        self.jobs.courier = self.courier

    def courier(self, answers: list[Answer]) -> list[Answer]:
        """Lose, refuse, double or delay nothing but what chance says."""
        dice = self.dice.random()
        if not self.troubled or dice < 0.7:
            return answers
        if dice < 0.8:
            return []
        if dice < 0.9:
            topic, body = answers[0]
            return [(f"{topic.rsplit('/', 1)[0]}/rejected", {**REFUSED, "clientToken": body.get("clientToken")})]
        return answers * 2

    def live(self, events: int) -> None:
        """Let so many things happen."""
        simulation = self.simulation
        simulation.start()
        for number in range(events):
            simulation.run(self.dice.uniform(1.0, 900.0))
            match self.dice.randrange(8):
                case 0 | 1 | 2:
                    name = f"job-{number}"
                    self.created[name] = self.dice.choice(DOCUMENTS)
                    self.jobs.create(name, self.created[name])
                case 3:
                    simulation.kill()
                    simulation.restart()
                case 4:
                    simulation.reboot(orderly=False)
                case 5:
                    simulation.cut_line()
                case 6:
                    simulation.network_is_up = True
                case 7 if self.jobs.open() and self.dice.random() < 0.4:
                    job = self.jobs.open()[0].job
                    self.jobs.cancel(job)
                    self.cancelled.add(job)
        self.troubled, simulation.network_is_up = False, True
        simulation.run(SETTLED_S)
        while self.jobs.open():
            before = len(self.jobs.open())
            simulation.run(SETTLED_S)
            assert len(self.jobs.open()) < before, f"stuck: {self.jobs.open()}"


@pytest.mark.parametrize("seed", range(40))
def test_every_job_comes_to_its_end_once_whatever_happens(seed: int) -> None:
    hours = Hours(seed)
    hours.live(60)
    simulation, jobs = hours.simulation, hours.jobs
    assert len(hours.created) > 5
    assert set(jobs.begun.values()) <= {1}, jobs.begun
    assert "fault" not in simulation.log.getvalue()
    for job, document in hours.created.items():
        execution = jobs.executions.find(THING, job)
        assert execution.history.count("IN_PROGRESS") >= 1 or execution.status == "CANCELED"
        if execution.status == "CANCELED":
            assert job in hours.cancelled
        elif document in (None, {"operation": "fly"}):
            assert execution.status == "REJECTED"
        elif document == {"operation": "badly"}:
            assert execution.status == "FAILED"
        elif document == DOCUMENTS[0] and execution.status == "SUCCEEDED":
            assert [count for key, count in jobs.begun.items() if key.startswith(f"{job}:")] == [1]
    assert simulation.daemon is not None and simulation.daemon.status()["job"] is None


def test_a_quiet_night_of_jobs_needs_nothing_twice() -> None:
    hours = Hours(1)
    hours.troubled = False
    simulation = hours.simulation
    simulation.start()
    for number, document in enumerate(DOCUMENTS):
        hours.jobs.create(f"job-{number}", document)
    simulation.run(SETTLED_S)
    found = [hours.jobs.executions.find(THING, f"job-{number}").status for number in range(len(DOCUMENTS))]
    assert found[:5] == ["SUCCEEDED", "FAILED", "REJECTED", "REJECTED", "SUCCEEDED"] and found[7] == "SUCCEEDED"
    asked = [one.message.topic for one in simulation.broker.seen if one.message.topic.endswith(("/get", "/update"))]
    assert simulation.boots == 2 and len(asked) < 45
