"""The execution at hand as JSON, so that it outlives the run. Pure."""

from __future__ import annotations

from typing import Any

from iotd.jobs.documents import Step
from iotd.jobs.execution import CLAIMING, ENDED, RUNNING, Job, Moment
from iotd.vocabulary import Json


def to_json(job: Job) -> dict[str, Json]:
    """Return it for `from_json`."""
    return {**job._asdict(), "steps": [step._asdict() for step in job.steps], "begun": job.begun._asdict()}


def from_json(body: Json, thing: str) -> Job | None:
    """Return the execution that `to_json` wrote, None where it is another thing's, or nothing of ours.

    Of one that cannot be read the service still says IN_PROGRESS, and learns that it was interrupted.
    """
    try:
        steps = tuple(Step(**step)._replace(arguments=tuple(step["arguments"])) for step in body["steps"])
        fields: dict[str, Any] = {**body, "steps": steps, "begun": Moment(**body["begun"])}
        job = Job(**fields)
    except (TypeError, KeyError):
        return None
    texts = (job.thing, job.id, job.claim, job.rejected, job.stage, job.status, job.reason, job.begun.boot_id,
             *(part for step in steps for part in (step.operation, step.name, *step.arguments)))
    numbers = (job.number, job.version, job.step)
    sound = (all(isinstance(text, str) for text in texts) and all(type(number) is int for number in numbers)
             and isinstance(job.begun.uptime_s, (int, float)) and isinstance(job.details, dict)
             and isinstance(job.asked, bool)
             and all(isinstance(value, str) for value in job.details.values()))
    if not sound or job.thing != thing or job.stage not in (CLAIMING, RUNNING, ENDED):
        return None
    return job if job.stage != RUNNING or 0 <= job.step < len(steps) else None
