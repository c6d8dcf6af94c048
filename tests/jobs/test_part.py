"""The life of executions against the rules of the service, with real commands and files: each comes to its final state
once, whatever is cut off when.
"""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import pytest

from iotd.daemon.world import Places, commands
from iotd.host import log
from iotd.host.command import run
from iotd.jobs.execution import Outcome
from iotd.jobs.part import Adapters, JobsPart, build
from iotd.jobs.section import Handler, Jobs
from iotd.jobs.work import Finished, Order
from iotd.vocabulary import Received
from tests.aws.executions import Answer, Executions
from tests.kernel import FakeKernel, settings

J = "$aws/things/test-thing/jobs"
SH = "/bin/sh"


class Kernel(FakeKernel):
    """A kernel whose events a test can wait for."""

    def __init__(self, path: Path, **more: Any) -> None:
        super().__init__(path, **more)
        self.events: SimpleQueue[Any] = SimpleQueue()

    def post(self, event: Any) -> None:
        """Take an event, on any thread."""
        self.events.put(event)


class Cloud:
    """The Jobs service. `courier` loses or changes what it is given of the answers to a request."""

    def __init__(self) -> None:
        self.executions = Executions(lambda: 1_700_000_000.0)
        self.courier: Callable[[str, list[Answer]], list[Answer]] = lambda topic, answers: answers
        self.unheard: list[Answer] = []  # by a device that is not there

    def create(self, job: str, document: Any, **more: Any) -> None:
        """Queue a job."""
        self.unheard += self.executions.create("test-thing", job, document, **more)

    def delete(self, job: str) -> None:
        """Forget a job, as if there had never been one of this id."""
        self.executions.all = [one for one in self.executions.all if one.job != job]

    def status(self, job: str) -> str:
        """Return where a job stands."""
        return self.executions.find("test-thing", job).status

    def details(self, job: str) -> dict[str, str]:
        """Return what is told of a job."""
        return dict(self.executions.find("test-thing", job).details)


class Device:
    """A run of the part, on the files of those before it."""

    def __init__(self, path: Path, cloud: Cloud, jobs: Jobs, adapters: Adapters | None = None, boot: str = "boot",
                 uptime: float = 1000.0) -> None:
        self.stream = io.StringIO()
        log.start("debug", "json", under_journald=False, stream=self.stream)
        self.cloud = cloud
        self.kernel = Kernel(path, boot=boot, uptime=uptime)
        self.part: JobsPart = build(self.kernel, adapters)
        self.jobs = jobs
        self.part.apply(settings({"jobs": jobs}), 0.0)
        self.requests = path / "runtime/jobs"
        self.sent: list[tuple[str, Any]] = []

    def connect(self) -> Device:
        """Open a line, and let the two talk."""
        self.kernel.rise()
        self.part.opened(self.kernel.now, False, ())
        return self.talk()

    def cut(self) -> None:
        """Lose the line."""
        self.kernel.fall()
        self.part.closed(False, self.kernel.now)

    def talk(self, most: int = 50) -> Device:
        """Do what is due, and let the service answer, until both are silent."""
        for _ in range(most):
            if self.part.next_due() <= self.kernel.now:
                self.part.keep(self.kernel.now)
            sent, self.kernel.sent[:] = list(self.kernel.sent), []
            answers, self.cloud.unheard = self.cloud.unheard, []
            for message in sent:
                self.sent.append((message.topic.removeprefix(J), json.loads(message.payload)))
                answers += self.cloud.courier(
                    message.topic, self.cloud.executions.asked(message.topic, message.payload))
            for topic, payload in answers:
                self.part.heard(Received(1, topic, json.dumps(payload).encode(), 1, False), self.kernel.now)
            if not sent and not answers and self.part.next_due() > self.kernel.now:
                return self
        return self

    def settle(self, count: int = 1) -> Device:
        """Wait for the ends of commands, and talk about them."""
        for _ in range(count):
            event = self.kernel.events.get(timeout=20)
            self.part.handlers()[type(event)](event, self.kernel.now)
            self.talk()
        return self

    def later(self, seconds: float) -> Device:
        """Let time pass."""
        self.kernel.now += seconds
        self.kernel.uptime += seconds
        return self.talk()

    @property
    def claim(self) -> str:
        """What marks the job as this device's."""
        return str(json.loads((self.kernel.world.places.state / "job.json").read_text())["claim"])

    def result(self, step: int, succeeded: bool, reason: str = "", **details: str) -> None:
        """Have the helper write down how a step of the job "one" ended."""
        folder = self.kernel.world.places.state.parent / "iotd-job"
        folder.mkdir(exist_ok=True)
        (folder / "results.json").write_text(json.dumps(
            {f"one:{self.claim}:{step}": {"succeeded": succeeded, "reason": reason, "details": details}}))

    def updates(self) -> list[str]:
        """Return the statuses that were told, in order."""
        return [body["status"] for topic, body in self.sent if topic.endswith("/update")]

    def entries(self) -> list[tuple[str, str]]:
        """Return events and jobs of what was logged above debug."""
        lines = map(json.loads, self.stream.getvalue().splitlines())
        return [(line["event"], line.get("job")) for line in lines if line["level"] != "debug"]


@pytest.fixture
def cloud() -> Cloud:
    return Cloud()


def handlers(script: str, timeout_s: float = 20.0, **more: Any) -> Jobs:
    """Return a configuration with a handler that runs a script."""
    return Jobs({"do": Handler((SH, "-c", script, "do", "{args}"), timeout_s)}, **more)


def test_a_job_is_claimed_done_and_told(tmp_path: Path, cloud: Cloud) -> None:
    device = Device(tmp_path, cloud, handlers('echo "$1" >> ' + f"{tmp_path}/done; echo well; echo but >&2"))
    cloud.create("one", {"operation": "do", "args": ["a"]})
    device.connect()
    assert cloud.status("one") == "IN_PROGRESS" and device.part.status()["job"]["operation"] == "do"
    device.settle()
    assert cloud.status("one") == "SUCCEEDED" and (tmp_path / "done").read_text() == "a\n"
    details = cloud.details("one")
    assert (details["exit_status"], details["stderr"], details["stdout"]) == ("0", "but", "well")
    assert device.updates() == ["IN_PROGRESS", "SUCCEEDED"] and device.part.status()["job"] is None
    assert device.entries() == [("job.started", "one"), ("job.done", "one")]
    assert not (tmp_path / "state/job.json").exists()


def test_jobs_are_done_one_after_the_other_in_the_order_of_the_service(tmp_path: Path, cloud: Cloud) -> None:
    device = Device(tmp_path, cloud, handlers(f'echo "$1" >> {tmp_path}/done')).connect()
    for name in ("a", "b", "c"):
        cloud.create(name, {"operation": "do", "args": [name]})
    device.talk().settle(3)
    assert (tmp_path / "done").read_text() == "a\nb\nc\n"
    assert [cloud.status(name) for name in "abc"] == ["SUCCEEDED"] * 3


def test_a_handler_that_fails_is_told_with_its_end(tmp_path: Path, cloud: Cloud) -> None:
    cloud.create("one", {"operation": "do"})
    Device(tmp_path, cloud, handlers("echo first >&2; echo 'no space' >&2; exit 3")).connect().settle()
    assert cloud.status("one") == "FAILED"
    assert cloud.details("one")["reason"] == "exit status 3: no space"
    assert cloud.details("one")["stderr"] == "first / no space"


def test_a_handler_that_hangs_is_ended(tmp_path: Path, cloud: Cloud) -> None:
    cloud.create("one", {"operation": "do"})
    Device(tmp_path, cloud, handlers("sleep 60", timeout_s=0.2)).connect().settle()
    assert cloud.details("one")["reason"] == "did not end within 0.2 s"


def test_what_is_not_open_is_rejected_with_its_reason(tmp_path: Path, cloud: Cloud) -> None:
    cloud.create("one", {"operation": "reboot"})
    device = Device(tmp_path, cloud, Jobs()).connect()
    assert (cloud.status("one"), cloud.details("one")) == (
        "REJECTED", {"reason": "reboot is not open here (jobs.reboot)"})
    assert device.entries() == [("job.rejected", "one")]


def test_progress_is_told_and_spread(tmp_path: Path, cloud: Cloud) -> None:
    cloud.create("one", {"operation": "do"})
    script = f"echo progress: 40; until test -e {tmp_path}/go; do sleep 0.01; done; echo 'progress: 400'"
    device = Device(tmp_path, cloud, handlers(script)).connect().settle()
    assert cloud.details("one") == {"progress": "40"} and device.part.status()["job"]["progress"] == "40"
    (tmp_path / "go").touch()
    device.settle()
    assert cloud.status("one") == "SUCCEEDED" and "progress" not in cloud.details("one")


@pytest.mark.parametrize("lost", range(5))
def test_whichever_answer_is_lost_the_job_is_done_once(tmp_path: Path, cloud: Cloud, lost: int) -> None:
    count = iter(range(1000))
    cloud.courier = lambda topic, answers: [] if next(count) == lost else answers
    device = Device(tmp_path, cloud, handlers(f"echo x >> {tmp_path}/done"))
    cloud.create("one", {"operation": "do"})
    device.connect()
    for _ in range(20):
        while not device.kernel.events.empty():
            device.settle()
        if cloud.status("one") == "IN_PROGRESS" and device.part.status()["job"]["stage"] == "running":
            device.settle()
        device.later(10.0)
    assert cloud.status("one") == "SUCCEEDED" and (tmp_path / "done").read_text() == "x\n"
    assert device.part.status()["job"] is None


@pytest.mark.parametrize("code", ["RequestThrottled", "InternalError"])
def test_what_is_refused_for_a_while_is_told_again(tmp_path: Path, cloud: Cloud, code: str) -> None:
    refusals = iter(range(6))

    def courier(topic: str, answers: list[Answer]) -> list[Answer]:
        token = answers[0][1]["clientToken"]
        refused = next(refusals, None) is not None
        return [(f"{topic}/rejected", {"code": code, "clientToken": token})] if refused else answers

    # Refused is only the answer: the service may have done it all the same.
    cloud.courier = courier
    cloud.create("one", {"operation": "do"})
    device = Device(tmp_path, cloud, handlers(f"echo x >> {tmp_path}/done")).connect()
    for _ in range(100):
        device.later(60.0)
        if device.part.status()["job"] and device.part.status()["job"]["stage"] == "running":
            device.settle()
    assert cloud.status("one") == "SUCCEEDED" and (tmp_path / "done").read_text() == "x\n"


def test_a_claim_that_another_has_made_is_not_ours(tmp_path: Path, cloud: Cloud) -> None:
    """A version that is not what it was: nothing is begun, and the service is asked again."""
    cloud.create("one", {"operation": "do"})
    device = Device(tmp_path, cloud, handlers(f"touch {tmp_path}/done"))

    def first(topic: str, answers: list[Answer]) -> list[Answer]:
        if topic.endswith("$next/get"):
            cloud.courier = lambda topic, answers: answers
            cloud.executions.asked(f"{J}/one/update", b'{"status": "IN_PROGRESS"}')
        return answers

    cloud.courier = first
    device.connect()
    assert not (tmp_path / "done").exists() and cloud.status("one") == "FAILED"
    assert cloud.details("one")["reason"].startswith("interrupted")


def test_a_job_that_was_left_in_progress_by_another_client_is_failed(tmp_path: Path, cloud: Cloud) -> None:
    cloud.create("one", {"operation": "do"})
    cloud.executions.asked(f"{J}/start-next", b"")
    Device(tmp_path, cloud, handlers("true")).connect()
    assert cloud.status("one") == "FAILED" and "nothing is known of it" in cloud.details("one")["reason"]


@pytest.mark.parametrize("end", ["force", "timer"])
def test_a_job_that_is_cancelled_or_timed_out_is_ended_and_not_fought_over(
    tmp_path: Path, cloud: Cloud, end: str
) -> None:
    cloud.create("one", {"operation": "do"})
    cloud.create("two", {"operation": "do", "args": ["quick"]})
    device = Device(tmp_path, cloud, handlers('test "$1" || sleep 60')).connect()
    assert cloud.status("one") == "IN_PROGRESS"
    cloud.executions.find("test-thing", "one").ends_at = 0.0 if end == "timer" else None
    cloud.unheard += (cloud.executions.run_timers() if end == "timer"
                      else cloud.executions.cancel("test-thing", "one", force=True))
    device.talk()
    assert cloud.status("two") == "IN_PROGRESS" and device.updates() == ["IN_PROGRESS", "IN_PROGRESS"]
    device.settle(2)  # the killed one, and the second
    assert [cloud.status(name) for name in ("one", "two")] == [
        "TIMED_OUT" if end == "timer" else "CANCELED", "SUCCEEDED"]


def test_a_final_state_that_comes_too_late_is_let_go(tmp_path: Path, cloud: Cloud) -> None:
    cloud.create("one", {"operation": "do"})
    device = Device(tmp_path, cloud, handlers("true")).connect()
    device.cut()
    cloud.executions.cancel("test-thing", "one", force=True)
    device.settle().connect()
    assert cloud.status("one") == "CANCELED" and device.part.status()["job"] is None
    assert device.entries()[-1] == ("job.failed", "one")


def test_a_message_that_waited_in_the_session_ends_nothing(tmp_path: Path, cloud: Cloud) -> None:
    cloud.create("one", {"operation": "do"})
    device = Device(tmp_path, cloud, handlers(f"until test -e {tmp_path}/go; do sleep 0.01; done")).connect()
    device.part.heard(Received(1, f"{J}/notify-next", b'{"timestamp": 1}', 1, False), 0.0)
    device.talk()
    (tmp_path / "go").touch()
    device.settle()
    assert cloud.status("one") == "SUCCEEDED"


def test_another_attempt_of_the_same_job_runs_anew(tmp_path: Path, cloud: Cloud) -> None:
    device = Device(tmp_path, cloud, handlers(f"echo x >> {tmp_path}/done; exit 1")).connect()
    for _ in range(2):
        cloud.create("one", {"operation": "do"})
        device.talk().settle()
    assert (tmp_path / "done").read_text() == "x\nx\n"


@pytest.mark.parametrize("payload", [
    b"", b"{", b"[]", b'{"execution": 1}', b'{"execution": {"jobId": "../x", "status": "QUEUED"}}', b"\xff" * 200_000,
    b'{"execution": {"jobId": 1}}', b"[" * 100_000])
def test_what_makes_no_sense_ends_nothing(tmp_path: Path, cloud: Cloud, payload: bytes) -> None:
    device = Device(tmp_path, cloud, Jobs())
    device.kernel.rise()
    device.part.opened(0.0, False, ())
    device.part.keep(0.0)
    token = json.loads(device.kernel.sent[0].payload)["clientToken"]
    answers = [payload]
    if payload[:2] == b'{"':
        answers.append(json.dumps({**json.loads(payload), "clientToken": token}).encode())
    for body in answers:
        for end in ("notify-next", "$next/get/accepted", "$next/get/rejected", "x/update/rejected", "x/y/z"):
            device.part.heard(Received(1, f"{J}/{end}", body, 1, False), 0.0)
    cloud.create("one", {"operation": "reboot"})
    device.later(60.0).later(60.0)
    assert cloud.status("one") == "REJECTED"


def test_details_that_the_service_refuses_are_left_out(tmp_path: Path, cloud: Cloud) -> None:
    cloud.create("one", {"operation": "do"})
    device = Device(tmp_path, cloud, handlers("true")).connect()
    device.cut()
    device.settle()
    device.kernel.rise()
    device.part.opened(0.0, False, ())
    device.part.keep(0.0)
    [told] = device.kernel.sent
    assert "statusDetails" in json.loads(told.payload)
    token = json.loads(told.payload)["clientToken"]
    device.kernel.sent.clear()
    device.part.heard(Received(1, f"{J}/one/update/rejected", json.dumps(
        {"code": "InvalidRequest", "clientToken": token}).encode(), 1, False), 0.0)
    device.talk()
    assert cloud.status("one") == "SUCCEEDED" and cloud.details("one").keys() == {"claim"}


# Over restarts and boots


def test_a_handler_that_was_cut_off_is_interrupted_and_not_run_again(tmp_path: Path, cloud: Cloud) -> None:
    cloud.create("one", {"operation": "do"})
    jobs = handlers(f"echo x >> {tmp_path}/done; sleep 60")
    device = Device(tmp_path, cloud, jobs).connect()
    device.part.close(0.0)
    Device(tmp_path, cloud, jobs).connect()
    assert cloud.status("one") == "FAILED" and cloud.details("one")["reason"].startswith("interrupted: do was cut off")


def test_what_had_ended_is_told_by_the_next_run(tmp_path: Path, cloud: Cloud) -> None:
    cloud.create("one", {"operation": "do"})
    device = Device(tmp_path, cloud, handlers("exit 4")).connect()
    device.cut()
    device.settle()
    Device(tmp_path, cloud, Jobs(), boot="another").connect()
    assert cloud.status("one") == "FAILED" and cloud.details("one")["exit_status"] == "4"


def test_a_job_that_was_claimed_and_not_begun_is_begun_by_the_next_run(tmp_path: Path, cloud: Cloud) -> None:
    cloud.create("one", {"operation": "do"})
    cloud.courier = lambda topic, answers: [] if topic.endswith("/update") else answers
    Device(tmp_path, cloud, Jobs({"do": Handler((SH, "-c", "false"))})).connect()
    assert cloud.status("one") == "IN_PROGRESS"
    cloud.courier = lambda topic, answers: answers
    device = Device(tmp_path, cloud, handlers(f"echo x >> {tmp_path}/done")).connect().settle()
    assert cloud.status("one") == "SUCCEEDED" and (tmp_path / "done").read_text() == "x\n", device.sent


def test_a_reboot_has_succeeded_in_another_boot(tmp_path: Path, cloud: Cloud) -> None:
    cloud.create("one", {"operation": "reboot"})
    jobs = Jobs(reboot=True)
    device = Device(tmp_path, cloud, jobs).connect()
    [(reason, ask)] = device.kernel.reboots
    assert reason == "job one"
    ask()
    assert (device.requests / "reboot").exists() and cloud.status("one") == "IN_PROGRESS"
    (device.requests / "reboot").unlink()
    Device(tmp_path, cloud, jobs, boot="another", uptime=20.0).connect()
    assert cloud.status("one") == "SUCCEEDED"
    assert Device(tmp_path, cloud, jobs, boot="third").connect().kernel.reboots == []


def test_a_reboot_that_does_not_come_fails_over_restarts_too(tmp_path: Path, cloud: Cloud) -> None:
    cloud.create("one", {"operation": "reboot"})
    jobs = Jobs(reboot=True)
    Device(tmp_path, cloud, jobs).connect().later(300.0)
    device = Device(tmp_path, cloud, jobs, uptime=1301.0).connect()
    [(_, ask)] = device.kernel.reboots  # the run before has ended before it asked
    ask()
    device = Device(tmp_path, cloud, jobs, uptime=1301.0).connect()
    assert device.kernel.reboots == []
    device.later(290.0)
    assert cloud.status("one") == "IN_PROGRESS"
    device.later(10.0)
    assert cloud.status("one") == "FAILED" and "within 10 minutes" in cloud.details("one")["reason"]
    assert not (device.requests / "reboot").exists()


def test_the_steps_after_a_reboot_are_taken_after_it(tmp_path: Path, cloud: Cloud) -> None:
    def step(name: str) -> dict[str, Any]:
        return {"action": {"type": "runHandler", "input": {"handler": name, "args": []}}}

    cloud.create("one", {"version": "1.0", "steps": [step("do"), step("reboot.sh"), step("do")]})
    jobs = handlers(f"echo x >> {tmp_path}/done", reboot=True)
    device = Device(tmp_path, cloud, jobs).connect().settle()
    assert len(device.kernel.reboots) == 1
    Device(tmp_path, cloud, jobs, boot="another").connect().settle()
    assert cloud.status("one") == "SUCCEEDED" and (tmp_path / "done").read_text() == "x\nx\n"


def test_what_needs_root_is_asked_of_the_helper_and_its_result_told(tmp_path: Path, cloud: Cloud) -> None:
    cloud.create("one", {"operation": "upgrade", "args": ["iotd"]})
    jobs = Jobs(upgrade=("iotd",))
    device = Device(tmp_path, cloud, jobs).connect()
    assert json.loads((device.requests / "upgrade").read_text()) == {
        "job": "one", "claim": device.claim, "step": 0, "names": ["iotd"]}
    (device.requests / "upgrade").unlink()
    device.later(60.0)
    assert cloud.status("one") == "IN_PROGRESS"
    device = Device(tmp_path, cloud, jobs, boot="another").connect()  # asks again, which the helper takes as such
    assert (device.requests / "upgrade").exists()
    device.result(0, True, before="1", after="2")
    device.later(2.0)
    assert cloud.status("one") == "SUCCEEDED" and cloud.details("one")["after"] == "2"
    assert not (device.requests / "upgrade").exists()


def test_a_job_that_comes_again_under_its_id_and_number_is_not_taken_for_the_one_that_was_done(
        tmp_path: Path, cloud: Cloud) -> None:
    jobs = Jobs(upgrade=("iotd",))
    cloud.create("one", {"operation": "upgrade", "args": ["iotd"]})
    device = Device(tmp_path, cloud, jobs).connect()
    device.result(0, True)
    device.later(2.0)
    assert cloud.status("one") == "SUCCEEDED"
    cloud.delete("one")
    cloud.create("one", {"operation": "upgrade", "args": ["iotd"]})
    device.later(2.0)
    assert cloud.status("one") == "IN_PROGRESS" and (device.requests / "upgrade").exists()


def test_a_step_of_root_is_followed_by_the_next(tmp_path: Path, cloud: Cloud) -> None:
    names = ("kiosk.service", "iotd.service")
    cloud.create("one", {"version": "1.0", "steps": [
        {"action": {"type": "runHandler", "input": {"handler": "restart-services.sh", "args": [name]}}}
        for name in names]})
    device = Device(tmp_path, cloud, Jobs(restart=names)).connect()
    (device.requests / "restart").unlink()
    device.result(0, True)
    device.later(2.0)
    assert json.loads((device.requests / "restart").read_text())["names"] == ["iotd.service"]
    device.result(1, False, "it does not start")
    device.later(2.0)
    assert cloud.status("one") == "FAILED" and cloud.details("one")["step"] == "2 of 2, restart"


def test_a_result_that_is_there_is_found_by_the_next_run(tmp_path: Path, cloud: Cloud) -> None:
    cloud.create("one", {"operation": "restart", "args": ["iotd.service"]})
    jobs = Jobs(restart=("iotd.service",))
    device = Device(tmp_path, cloud, jobs).connect()
    (device.requests / "restart").unlink()
    device.result(0, False, "it does not start")
    device = Device(tmp_path, cloud, jobs).connect()
    assert cloud.status("one") == "FAILED" and not (device.requests / "restart").exists()


def test_a_request_that_nobody_takes_up_fails(tmp_path: Path, cloud: Cloud) -> None:
    cloud.create("one", {"operation": "install", "args": ["kiosk"]})
    device = Device(tmp_path, cloud, Jobs(upgrade=("kiosk",))).connect().later(899.0)
    assert cloud.status("one") == "IN_PROGRESS"
    device.later(2.0)
    assert "iotd-job@install.path" in cloud.details("one")["reason"]
    assert cloud.status("one") == "FAILED" and not (device.requests / "install").exists()


def test_a_job_that_cannot_be_written_down_is_not_begun(tmp_path: Path, cloud: Cloud) -> None:
    device = Device(tmp_path, cloud, handlers(f"touch {tmp_path}/done"))
    (tmp_path / "state/.job.json.new").mkdir()
    cloud.create("one", {"operation": "do"})
    device.connect()
    assert cloud.status("one") == "FAILED" and not (tmp_path / "done").exists()
    assert "cannot be written down first" in cloud.details("one")["reason"]
    cloud.create("two", {"operation": "do"})
    device.connect()
    assert cloud.status("two") == "FAILED" and [event for event, _ in device.entries()].count("job.unwritable") == 1


@pytest.mark.parametrize("text", ["", "{", "[]", '{"steps": 1}', '{"id": "one"}', "null"])
def test_a_record_that_is_damaged_ends_nothing(tmp_path: Path, cloud: Cloud, text: str) -> None:
    cloud.create("one", {"operation": "do"})
    Device(tmp_path, cloud, handlers("sleep 60")).connect().part.close(0.0)
    (tmp_path / "state/job.json").write_text(text)
    Device(tmp_path, cloud, handlers("true")).connect()
    assert cloud.status("one") == "FAILED" and cloud.details("one")["reason"].startswith("interrupted")


def test_a_service_that_is_silent_is_named_once(tmp_path: Path, cloud: Cloud) -> None:
    cloud.courier = lambda topic, answers: []
    device = Device(tmp_path, cloud, Jobs()).connect()
    for _ in range(30):
        device.later(100.0)
    assert [event for event, _ in device.entries()] == ["jobs.unanswered"]
    assert device.part.problems() == ["the Jobs service does not answer"] and len(device.sent) < 15


def test_while_the_last_word_is_said_nothing_is_begun(tmp_path: Path, cloud: Cloud) -> None:
    device = Device(tmp_path, cloud, handlers(f"touch {tmp_path}/done")).connect()
    cloud.create("one", {"operation": "do"})
    device.kernel.leaving = True
    device.talk()
    assert device.kernel.events.empty() and cloud.status("one") == "IN_PROGRESS"
    device.kernel.leaving = False
    device.talk().settle()
    assert cloud.status("one") == "SUCCEEDED"


def test_pending_updates_are_counted_once_somebody_asks(
    tmp_path: Path, cloud: Cloud, monkeypatch: pytest.MonkeyPatch
) -> None:
    said = "printf 'Inst a [1] (2)\\nInst b [1] (2)\\nConf a\\nRe-Inst c\\n'"
    monkeypatch.setattr("iotd.jobs.work.UPDATES", (SH, "-c", said))
    device = Device(tmp_path, cloud, Jobs()).connect()
    asked = device.part.placeholders()["updates_pending"]
    assert device.kernel.events.empty() and device.part.next_due() == float("inf")
    assert asked() is None
    device.talk().settle()
    assert asked() == 2 and device.part.next_due() == 6 * 3600.0


def test_a_bundle_is_uploaded_by_a_command_that_reads_its_url(tmp_path: Path, cloud: Cloud) -> None:
    orders: list[Order] = []

    def perform(order: Order, post: Any, stop: int | None) -> Finished:
        orders.append(order)
        return Finished(order.key, Outcome(True))

    cloud.create("one", {"operation": "bundle", "args": ["https://s3.example/a?X-Sig=b"]})
    device = Device(tmp_path, cloud, Jobs(bundle=True), Adapters(perform)).connect().settle()
    assert cloud.status("one") == "SUCCEEDED" and "X-Sig" not in device.stream.getvalue()
    assert [(order.arguments, order.given) for order in orders] == [
        (("iotd", "bundle", "--upload"), b"https://s3.example/a?X-Sig=b\n")]


def test_the_command_of_a_bundle_runs_from_wherever_iotd_does(tmp_path: Path) -> None:
    (tmp_path / "iotd.yaml").write_text("mqtt: {host: 127.0.0.1, port: 1}\n")
    words = commands(Places(tmp_path, tmp_path), str(tmp_path / "iotd.yaml"))("bundle")
    ended = run((*words, "--upload"), 60.0, given=b"http://s3.example/\n", apart=True)
    assert ended.reason == "exit status 1: the bundle cannot be uploaded: expected an https:// URL on standard input"
