"""The jobs service: its rules as a table of requests, and over a real broker."""

from __future__ import annotations

import json
from typing import Any, Iterator

import pytest

from tests.aws.executions import Executions
from tests.aws.jobs import JobsService
from tests.mosquitto import Mosquitto
from tests.observer import Observer

J = "$aws/things/pi/jobs"
DOCUMENT = {"operation": "reboot"}


class Cloud:
    """A service whose clock the test sets."""

    def __init__(self) -> None:
        self.now = 1_700_000_000.0
        self.executions = Executions(lambda: self.now)
        self.told: list[tuple[str, Any]] = []

    def ask(self, topic: str, **request: Any) -> tuple[str, Any]:
        """Return the last word of the answer's topic and its payload; what else is told is noted."""
        answer, *self.told = self.executions.asked(f"{J}/{topic}", json.dumps(request).encode())
        return answer[0].rsplit("/", 1)[1], answer[1]

    def names(self) -> list[str]:
        return [topic.rsplit("/", 1)[1] for topic, _ in self.told]


@pytest.fixture
def cloud() -> Cloud:
    cloud = Cloud()
    cloud.told = cloud.executions.create("pi", "first", DOCUMENT)
    return cloud


def test_the_head_of_the_queue_is_told_and_asked_for(cloud: Cloud) -> None:
    assert cloud.names() == ["notify", "notify-next"]
    cloud.told = cloud.executions.create("pi", "second", {})
    assert cloud.names() == ["notify"]
    kind, answer = cloud.ask("$next/get", clientToken="t")
    assert (kind, answer["clientToken"]) == ("accepted", "t") and answer["execution"] == {
        "jobId": "first", "thingName": "pi", "status": "QUEUED", "versionNumber": 1, "executionNumber": 1,
        "queuedAt": 1700000000, "lastUpdatedAt": 1700000000, "jobDocument": DOCUMENT}
    kind, answer = cloud.ask("get")
    assert [one["jobId"] for one in answer["queuedJobs"]] == ["first", "second"] and answer["inProgressJobs"] == []


def test_an_execution_goes_its_way_and_its_end_brings_the_next(cloud: Cloud) -> None:
    cloud.executions.create("pi", "second", {})
    kind, answer = cloud.ask("first/update", status="IN_PROGRESS", expectedVersion=1, includeJobExecutionState=True)
    assert answer["executionState"] == {"status": "IN_PROGRESS", "statusDetails": {}, "versionNumber": 2}
    assert cloud.names() == []
    kind, answer = cloud.ask("first/update", status="SUCCEEDED", statusDetails={"a": "b"})
    assert kind == "accepted" and "executionState" not in answer and cloud.names() == ["notify", "notify-next"]
    assert cloud.told[1][1]["execution"]["jobId"] == "second"
    assert cloud.ask("first/get")[1]["code"] == "TerminalStateReached"
    cloud.ask("second/update", status="REJECTED")
    assert "execution" not in cloud.told[1][1] and cloud.told[0][1]["jobs"] == {}
    assert cloud.ask("$next/get")[1].keys() == {"timestamp"}


def test_start_next_begins_a_job_and_gives_one_that_runs_unchanged(cloud: Cloud) -> None:
    _, answer = cloud.ask("start-next", statusDetails={"a": "b"})
    assert (answer["execution"]["status"], answer["execution"]["versionNumber"]) == ("IN_PROGRESS", 2)
    assert cloud.ask("start-next")[1]["execution"]["versionNumber"] == 2


@pytest.mark.parametrize("topic, request_, code", [
    ("first/update", {"status": "IN_PROGRESS", "expectedVersion": 2}, "VersionMismatch"),
    ("first/update", {"status": "IN_PROGRESS", "executionNumber": 2}, "ResourceNotFound"),
    ("other/update", {"status": "IN_PROGRESS"}, "ResourceNotFound"),
    ("other/get", {}, "ResourceNotFound"),
    ("first/update", {"status": "QUEUED"}, "InvalidRequest"),
    ("first/update", {"status": "TIMED_OUT"}, "InvalidRequest"),
    ("first/update", {"status": "FAILED", "more": 1}, "InvalidRequest"),
    ("first/update", {"status": "FAILED", "statusDetails": {"a": "b\n"}}, "InvalidRequest"),
    ("first/update", {"status": "FAILED", "statusDetails": {"a": ""}}, "InvalidRequest"),
    ("first/update", {"status": "FAILED", "statusDetails": {"a": "x" * 1025}}, "InvalidRequest"),
    ("first/update", {"status": "FAILED", "statusDetails": {"a b": "x"}}, "InvalidRequest"),
    ("first/update", {"status": "FAILED", "statusDetails": {"a": 1}}, "InvalidRequest"),
    ("first/update", {"status": "FAILED", "statusDetails": {str(n): "x" for n in range(11)}}, "InvalidRequest"),
    ("first/update", {"status": "FAILED", "clientToken": "x" * 65}, "InvalidRequest"),
    ("first/update", {"status": "IN_PROGRESS", "stepTimeoutInMinutes": 0}, "InvalidRequest"),
])
def test_what_breaks_a_rule_is_rejected_and_changes_nothing(
    cloud: Cloud, topic: str, request_: dict[str, Any], code: str
) -> None:
    kind, answer = cloud.ask(topic, **request_)
    assert (kind, answer["code"]) == ("rejected", code)
    assert ("executionState" in answer) == (code == "VersionMismatch")
    assert cloud.executions.find("pi", "first").version == 1


def test_what_is_no_json_or_no_request_is_told_so(cloud: Cloud) -> None:
    assert cloud.executions.asked(f"{J}/first/update", b"{")[0][1]["code"] == "InvalidJson"
    assert cloud.executions.asked(f"{J}/start-next/update/more", b"") == []
    assert cloud.executions.asked("$aws/things/pi/jobs/update", b"") == []


def test_an_execution_that_has_ended_takes_no_update(cloud: Cloud) -> None:
    cloud.ask("first/update", status="IN_PROGRESS")
    assert cloud.executions.cancel("pi", "first") == []
    cloud.told = cloud.executions.cancel("pi", "first", force=True)
    assert cloud.names() == ["notify", "notify-next"]
    kind, answer = cloud.ask("first/update", status="SUCCEEDED")
    assert (answer["code"], answer["executionState"]["status"]) == ("InvalidStateTransition", "CANCELED")


def test_timers_end_what_takes_too_long(cloud: Cloud) -> None:
    cloud.executions.create("pi", "second", {}, in_progress_s=60)
    cloud.ask("first/update", status="IN_PROGRESS", stepTimeoutInMinutes=2)
    cloud.ask("second/update", status="IN_PROGRESS")
    cloud.now += 60
    cloud.told = cloud.executions.run_timers()
    assert cloud.names() == ["notify"] and cloud.executions.find("pi", "second").status == "TIMED_OUT"
    cloud.ask("first/update", status="IN_PROGRESS", stepTimeoutInMinutes=-1)
    cloud.now += 120
    assert cloud.executions.run_timers() == []


def test_another_attempt_has_the_next_number(cloud: Cloud) -> None:
    cloud.ask("first/update", status="FAILED")
    cloud.told = cloud.executions.create("pi", "first", DOCUMENT)
    assert cloud.told[1][1]["execution"]["executionNumber"] == 2


@pytest.fixture
def service(broker: Mosquitto) -> Iterator[JobsService]:
    with JobsService(broker) as service:
        yield service


def test_any_client_finds_its_jobs_on_the_broker(service: JobsService, observer: Observer) -> None:
    observer.subscribe(f"{J}/notify-next", f"{J}/+/get/+", f"{J}/+/update/+", f"{J}/start-next/+")
    service.create("pi", "first", DOCUMENT)
    assert observer.wait_for(f"{J}/notify-next").json()["execution"]["jobDocument"] == DOCUMENT
    service.fail_next("RequestThrottled")
    observer.publish(f"{J}/start-next", {"clientToken": "a"})
    assert observer.wait_for(f"{J}/start-next/rejected").json()["clientToken"] == "a"
    observer.publish(f"{J}/start-next", b"")
    observer.wait_for(f"{J}/start-next/accepted")
    observer.publish(f"{J}/first/update", {"status": "SUCCEEDED"})
    observer.wait_for(f"{J}/first/update/accepted")
    assert service.execution("pi", "first").history == ["IN_PROGRESS", "SUCCEEDED"]
