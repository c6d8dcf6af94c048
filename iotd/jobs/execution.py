"""One execution of a job: where it stands, and what each thing that happens to it makes of it. Pure.

It is claimed (the service is told IN_PROGRESS, and has taken that), then its steps run, then it is ended, and kept
until the service has taken its final state. Each of these stands on the disk before what follows from it is begun.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any, NamedTuple

from iotd.jobs import details
from iotd.jobs.documents import OF_ROOT, REBOOT, Step
from iotd.vocabulary import Entry, Json

CLAIMING, RUNNING, ENDED = "claiming", "running", "ended"
SUCCEEDED, FAILED, REJECTED = "SUCCEEDED", "FAILED", "REJECTED"
REBOOT_S = 600.0  # a reboot that has not come by then does not come
TAKEN_S = 900.0  # for the helper to take up a request
ROOT_S = 3 * 3600.0  # for what it does: a Pi Zero upgrades for a long time

Effect = Any  # Entry, Send, or one of those below


class Moment(NamedTuple):
    """A boot, and for how many seconds the host has been up in it."""

    boot_id: str
    uptime_s: float

    def since(self, earlier: Moment) -> float | None:
        """Return the seconds since an earlier moment of this boot, None where that was in another."""
        return self.uptime_s - earlier.uptime_s if self.boot_id == earlier.boot_id else None


class Job(NamedTuple):
    """An execution that this device has taken on.

    `claim` marks the claim as ours where its answer is lost. `rejected` says why its document cannot be followed.
    `step` is under way since `begun`; `asked`: it is a reboot, and was asked for. Of one that is ended, `status`,
    `reason` and `details` are told.
    """

    thing: str
    id: str
    number: int
    version: int
    claim: str
    steps: tuple[Step, ...] = ()
    rejected: str = ""
    stage: str = CLAIMING
    step: int = 0
    begun: Moment = Moment("", 0.0)
    asked: bool = False
    status: str = ""
    reason: str = ""
    details: Mapping[str, str] = {}

    @property
    def key(self) -> str:
        """What the step under way is known by, to whoever performs it: never the same for two.

        By the claim, since a job that is deleted may come again under its id and number.
        """
        return f"{self.id}:{self.claim}:{self.step}"

    @property
    def now(self) -> Step:
        """The step under way."""
        return self.steps[self.step]

    @property
    def operation(self) -> str:
        """What it is called in the log."""
        return self.steps[min(self.step, len(self.steps) - 1)].called if self.steps else ""

    def is_execution(self, execution: Mapping[str, Json]) -> bool:
        """Tell whether this is the execution that the service speaks of."""
        return bool((self.id, self.number) == (execution["jobId"], execution["executionNumber"]))


class Keep(NamedTuple):
    """Write this down; None: nothing is at hand any more."""

    job: Job | None


class Begin(NamedTuple):
    """Begin the step under way, unless it could not be written down."""

    job: Job


class GiveUp(NamedTuple):
    """End what runs for a job: nobody waits for it any more."""

    job: Job


class Outcome(NamedTuple):
    """How a step has ended; `details` are told, whatever is in them."""

    succeeded: bool
    reason: str = ""
    details: Mapping[str, object] = {}


def claimed(job: Job, moment: Moment) -> tuple[Job, list[Effect]]:
    """The service has taken the claim: begin, or say why not."""
    if job.rejected:
        return ended(job, REJECTED, job.rejected, {})
    job, effects = begun(job, moment)
    operation = " and ".join(step.called for step in job.steps)
    return job, [Entry(logging.INFO, "job.started", f"job {job.id} is begun: {operation}",
                       _fields(job, operation, "IN_PROGRESS")), *effects]


def begun(job: Job, moment: Moment) -> tuple[Job, list[Effect]]:
    """Begin the step that is next."""
    job = job._replace(stage=RUNNING, begun=moment, asked=False)
    return job, [Keep(job), Begin(job)]


def finished(job: Job, outcome: Outcome, moment: Moment) -> tuple[Job, list[Effect]]:
    """The step under way has ended: the next one begins, or the job is ended."""
    took_s = moment.since(job.begun)
    told = {**outcome.details, **({} if took_s is None else {"duration_s": round(took_s, 1)})}
    if not outcome.succeeded and not job.now.goes_on:
        if len(job.steps) > 1:
            told = {"step": f"{job.step + 1} of {len(job.steps)}, {job.now.called}", **told}
        return ended(job, FAILED, outcome.reason, told)
    if job.step + 1 < len(job.steps):
        return begun(job._replace(step=job.step + 1), moment)
    return ended(job, SUCCEEDED, outcome.reason, told)


def ended(job: Job, status: str, reason: str, told: Mapping[str, object]) -> tuple[Job, list[Effect]]:
    """The job has come to its final state, of which the service does not know yet."""
    job = job._replace(stage=ENDED, status=status, reason=reason, details=details.fit({"reason": reason, **told}))
    return job, [Keep(job), said(job)]


def resumed(job: Job, moment: Moment) -> tuple[Job, list[Effect]]:
    """A run has begun, and finds this on the disk."""
    if job.stage != RUNNING:
        return job, []
    if job.now.operation == REBOOT:
        if job.begun.boot_id != moment.boot_id:
            return finished(job, Outcome(True, "", {"boot_id": moment.boot_id}), moment)
        return job, [] if job.asked else [Begin(job)]
    if job.now.operation in OF_ROOT:
        # The helper does nothing twice for one key, so to ask again is to make sure.
        return begun(job, job.begun if moment.since(job.begun) is not None else moment)
    return ended(job, FAILED, f"interrupted: {job.now.called} was cut off when iotd ended", {})


def overdue(job: Job, moment: Moment, taken: bool) -> Outcome | None:
    """Return how the step under way has failed because it has gone on for too long, None where it has not.

    `taken`: the helper has taken up the request for it.
    """
    if job.stage != RUNNING:
        return None
    for_s = moment.since(job.begun)
    if for_s is None:
        return None
    if job.now.operation == REBOOT and for_s >= REBOOT_S:
        return Outcome(False, f"the host has not gone down within {REBOOT_S / 60:.0f} minutes")
    if job.now.operation in OF_ROOT and not taken and for_s >= TAKEN_S:
        unit = f"iotd-job@{job.now.operation}.path"
        return Outcome(False, f"nobody has taken up the request within {TAKEN_S / 60:.0f} minutes; see {unit}")
    if job.now.operation in OF_ROOT and for_s >= ROOT_S:
        return Outcome(False, f"there is no result after {ROOT_S / 3600:.0f} hours; "
                              f"see journalctl -u iotd-job@{job.now.operation}")
    return None


def next_due(job: Job | None, moment: Moment, poll_s: float) -> float | None:
    """Return in how many seconds to look at the step under way, None where it will be told."""
    if job is None or job.stage != RUNNING:
        return None
    if job.now.operation in OF_ROOT:
        return poll_s
    for_s = moment.since(job.begun)
    return None if job.now.operation != REBOOT or for_s is None else max(0.0, REBOOT_S - for_s)


def said(job: Job) -> Entry:
    """Return the log line of how a job has ended."""
    fields = _fields(job, job.operation, job.status)
    if job.status == SUCCEEDED:
        return Entry(logging.INFO, "job.done", f"job {job.id} is done", fields)
    if job.status == REJECTED:
        return Entry(logging.WARNING, "job.rejected", f"job {job.id} is rejected: {job.reason}", fields)
    return Entry(logging.WARNING, "job.failed", f"job {job.id} has failed: {job.reason}", fields)


def overtaken(job: Job, status: str | None) -> Entry:
    """Return the log line of a job that the service has ended by itself."""
    how = {"TIMED_OUT": "it has timed out", "CANCELED": "it was cancelled", "REMOVED": "it was removed"}
    reason = f"the service has ended it: {how.get(status or '', 'cancelled, or timed out')}"
    return Entry(logging.WARNING, "job.failed", f"job {job.id} is over: {reason}",
                 {"job": job.id, "operation": job.operation, "status": status, "reason": reason})


def _fields(job: Job, operation: str, status: str) -> dict[str, Json]:
    return {"job": job.id, "execution": job.number, "operation": operation, "status": status, "reason": job.reason}
