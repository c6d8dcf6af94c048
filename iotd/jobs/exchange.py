"""The conversation with the Jobs service: what is asked next, and what each answer means. Pure.

One request at a time. What is not answered, or is refused for a while, is asked again, with the wait doubled up to
ten minutes; so a final state is told until it is taken.
Source: "Jobs device MQTT API" of the AWS IoT Core developer guide.
"""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Mapping
from typing import NamedTuple

from iotd.jobs import execution
from iotd.jobs.documents import Rejected, steps
from iotd.jobs.execution import CLAIMING, ENDED, FAILED, RUNNING, Effect, GiveUp, Job, Keep, Moment, Outcome
from iotd.jobs.names import JOB
from iotd.jobs.section import HEARD, Jobs, prefix
from iotd.vocabulary import Entry, Json, Message, Send

ACTION = "jobs"  # what the broker denies as one
ANSWER_S = 10.0
FIRST_WAIT_S, LONGEST_WAIT_S = 10.0, 600.0
TELL_AFTER = 3  # requests without an answer
PROGRESS_S = 30.0  # between two words of progress: an account has 200 writes a second for all of its things
MAX_BYTES = 128 * 1024

NEXT, LOOK, CLAIM, PROGRESS, FINAL = "next", "look", "claim", "progress", "final"
# The execution is not, or no more, what we took it for.
OVER = ("InvalidStateTransition", "ResourceNotFound", "TerminalStateReached")
BUSY = ("RequestThrottled", "InternalError")

Outcomes = tuple["Exchange", list[Effect]]


class Asked(NamedTuple):
    """The request that waits for its answer."""

    what: str
    token: str
    at: float


class Exchange(NamedTuple):
    """Where the conversation stands; `run` and `made` make each token its own.

    `unsure`: the service is to be asked what is next, or of the job that runs whether it is still wanted. `bare`: the
    details of the final state were refused, so it goes without.
    """

    thing: str
    run: str
    made: int = 0
    is_open: bool = False
    job: Job | None = None
    unsure: bool = False
    progress: str = ""
    progress_at: float = -math.inf
    bare: bool = False
    asked: Asked | None = None
    unanswered: int = 0
    tries: int = 0
    hold_until: float = -math.inf


def filters(thing: str) -> dict[str, int]:
    """Return what has to be subscribed, with the QoS."""
    return {f"{prefix(thing)}/{end}": 1 for end in HEARD}


def opened(exchange: Exchange) -> Exchange:
    """The line is up: ask what there is, or say what is to be said."""
    return exchange._replace(is_open=True, unsure=True, asked=None, tries=0, unanswered=0, hold_until=-math.inf)


def closed(exchange: Exchange) -> Exchange:
    """The line is down: no answer will come."""
    return exchange._replace(is_open=False, asked=None)


def next_due(exchange: Exchange) -> float:
    """Return when `keep` has something to do, math.inf for never."""
    if not exchange.is_open:
        return math.inf
    if exchange.asked is not None:
        return exchange.asked.at + ANSWER_S
    what = _wanted(exchange)
    later = exchange.progress_at if what == PROGRESS else -math.inf
    return max(exchange.hold_until, later) if what else math.inf


def keep(exchange: Exchange, now: float, chance: float) -> Outcomes:
    """Send what is to be sent, and forget what is not answered in time."""
    effects: list[Effect] = []
    if not exchange.is_open:
        return exchange, effects
    if exchange.asked is not None:
        if now < exchange.asked.at + ANSWER_S:
            return exchange, effects
        exchange = _held(exchange._replace(unanswered=exchange.unanswered + 1), now, chance)
        if exchange.unanswered == TELL_AFTER:
            effects.append(Entry(logging.WARNING, "jobs.unanswered", "the Jobs service does not answer; it is asked "
                                 "again and again", {"thing": exchange.thing}))
    what = _wanted(exchange)
    if not what or now < next_due(exchange):
        return exchange, effects
    exchange = _sent(exchange, what, now)
    effects.append(Send(_message(exchange)))
    return exchange._replace(progress="") if what == PROGRESS else exchange, effects


def heard(
    exchange: Exchange, topic: str, payload: bytes, jobs: Jobs, moment: Moment, now: float, chance: float
) -> Outcomes:
    """Take a message on one of the topics; one that is no answer to what was asked changes nothing."""
    if not topic.startswith(f"{prefix(exchange.thing)}/"):
        return exchange, []
    end = topic.removeprefix(f"{prefix(exchange.thing)}/")
    body = _parsed(payload)
    if end == "notify-next":
        return _notified(exchange, body)
    asked = exchange.asked
    if asked is None or body is None or body.get("clientToken") != asked.token:
        return exchange, []
    exchange = exchange._replace(asked=None, unanswered=0)
    if end.endswith("/rejected"):
        return _rejected(exchange, asked.what, body, now, chance)
    exchange = exchange._replace(tries=0, hold_until=-math.inf)
    job = exchange.job
    if asked.what in (NEXT, LOOK):
        found = body.get("execution")
        if found is not None and not _is_sound(found):
            entry = Entry(logging.ERROR, "jobs.unreadable", "the service tells of an execution what cannot be read", {})
            return _held(exchange, now, chance), [entry]
        return (_next if asked.what == NEXT else _looked)(exchange._replace(unsure=False), found, jobs)
    if asked.what == CLAIM and job is not None and job.stage == CLAIMING:
        return _with(exchange, execution.claimed(job, moment))
    if asked.what == FINAL:
        return exchange._replace(job=None, unsure=True, bare=False), [Keep(None)]
    return exchange, []


def finished(exchange: Exchange, key: str, outcome: Outcome, moment: Moment) -> Outcomes:
    """A step has ended; one of a job that is not at hand any more changes nothing."""
    job = exchange.job
    if job is None or job.stage != RUNNING or job.key != key:
        return exchange, []
    return _with(exchange._replace(progress=""), execution.finished(job, outcome, moment))


def resumed(exchange: Exchange, job: Job, moment: Moment) -> Outcomes:
    """A run has begun with this on the disk."""
    return _with(exchange, execution.resumed(job, moment))


def _wanted(exchange: Exchange) -> str:
    """Return what is to be asked next, empty for nothing."""
    job = exchange.job
    if job is not None and job.stage == ENDED:
        return FINAL
    if exchange.unsure:
        return LOOK if job is not None and job.stage == RUNNING else NEXT
    if job is not None and job.stage == CLAIMING:
        return CLAIM
    return PROGRESS if job is not None and exchange.progress else ""


def _sent(exchange: Exchange, what: str, now: float) -> Exchange:
    made = exchange.made + 1
    exchange = exchange._replace(made=made, asked=Asked(what, f"{exchange.run}-j{made}", now))
    return exchange._replace(progress_at=now + PROGRESS_S) if what == PROGRESS else exchange


def _message(exchange: Exchange) -> Message:
    """Return the request that was just noted as asked."""
    asked, job = exchange.asked, exchange.job
    assert asked is not None
    if asked.what == NEXT or job is None:
        topic, body = "$next/get", dict[str, Json]()
    elif asked.what == LOOK:
        topic, body = f"{job.id}/get", {"executionNumber": job.number, "includeJobDocument": False}
    else:
        topic, body = f"{job.id}/update", {"executionNumber": job.number, **_update(exchange, asked.what, job)}
    text = json.dumps({**body, "clientToken": asked.token}, ensure_ascii=False, separators=(",", ":"))
    return Message(f"{prefix(exchange.thing)}/{topic}", text.encode())


def _update(exchange: Exchange, what: str, job: Job) -> dict[str, Json]:
    if what == CLAIM:
        return {"status": "IN_PROGRESS", "expectedVersion": job.version, "statusDetails": {"claim": job.claim}}
    if what == PROGRESS:
        return {"status": "IN_PROGRESS", "statusDetails": {"progress": exchange.progress}}
    details = {} if exchange.bare or not job.details else {"statusDetails": dict(job.details)}
    return {"status": job.status, **details}


def _notified(exchange: Exchange, body: Mapping[str, Json] | None) -> Outcomes:
    """What is next has changed, or so a message says that may have waited in a kept session: ask."""
    found = body.get("execution") if body is not None else None
    job = exchange.job
    name = str(found.get("jobId"))[:64] if isinstance(found, dict) else None
    entry = Entry(logging.DEBUG, "jobs.notify", "what is next has changed", {
        "job": name, "operation": None, "status": found.get("status") if isinstance(found, dict) else None,
        "reason": ""})
    ours = job is not None and found is not None and _is_sound(found) and job.is_execution(found)
    return exchange if ours and job is not None and job.stage == RUNNING else exchange._replace(unsure=True), [entry]


def _next(exchange: Exchange, found: Json, jobs: Jobs) -> Outcomes:
    """Take what the service says is next: claim it, where it is there to be claimed."""
    known = exchange.job
    if found is None:
        return exchange._replace(job=None), [] if known is None else [Keep(None)]
    same = known is not None and known.is_execution(found)
    details = found.get("statusDetails")
    claim = known.claim if known is not None and same else f"{exchange.run}-{exchange.made}"
    ours = same and isinstance(details, dict) and details.get("claim") == claim
    job = Job(exchange.thing, found["jobId"], found["executionNumber"], found["versionNumber"], claim)
    if found["status"] == "IN_PROGRESS" and not ours:
        return _with(exchange, execution.ended(
            job, FAILED, "interrupted: it was begun before, and nothing is known of it here", {}))
    try:
        job = job._replace(steps=steps(found.get("jobDocument"), jobs))
    except Rejected as error:
        job = job._replace(rejected=str(error))
    return _with(exchange, (job, [Keep(job)]))


def _looked(exchange: Exchange, found: Json, jobs: Jobs) -> Outcomes:
    """Take what the service says of the job that runs."""
    job = exchange.job
    if job is None or found is not None and job.is_execution(found) and found["status"] in ("QUEUED", "IN_PROGRESS"):
        return exchange, []
    return _overtaken(exchange, job, found and found["status"])


def _rejected(exchange: Exchange, what: str, body: Mapping[str, Json], now: float, chance: float) -> Outcomes:
    """Take a refusal: of what is over nothing more is said, what is contested is asked for, the rest is tried again."""
    code, job, state = body.get("code"), exchange.job, body.get("executionState")
    status = state.get("status") if isinstance(state, dict) else None
    if what == CLAIM and code in ("VersionMismatch", *OVER):
        return exchange._replace(unsure=True), []
    if job is not None and what != NEXT and code in OVER:
        if what == FINAL and status == job.status:
            return exchange._replace(job=None, unsure=True, bare=False), [Keep(None)]  # an answer was lost
        return _overtaken(exchange, job, status)
    if what == FINAL and code == "InvalidRequest" and not exchange.bare:
        return exchange._replace(bare=True), []
    if what == PROGRESS:
        return exchange._replace(progress=""), []
    entries: list[Effect] = []
    if exchange.tries == 0 and code not in BUSY:
        entries = [Entry(logging.WARNING, "jobs.refused", "the Jobs service refuses a request, which is made again and "
                         "again", {"code": code, "reason": str(body.get("message"))[:200]})]
    return _held(exchange, now, chance), entries


def _overtaken(exchange: Exchange, job: Job, status: Json) -> Outcomes:
    """The service has ended the job by itself: what runs for it is ended, and not fought over."""
    effects: list[Effect] = [] if job.stage == ENDED else [GiveUp(job)]
    exchange = exchange._replace(job=None, unsure=True, bare=False, progress="")
    return exchange, [*effects, Keep(None), execution.overtaken(job, status if isinstance(status, str) else None)]


def _with(exchange: Exchange, outcome: tuple[Job, list[Effect]]) -> Outcomes:
    return exchange._replace(job=outcome[0]), outcome[1]


def _held(exchange: Exchange, now: float, chance: float) -> Exchange:
    """Return what waits before it asks again: a fleet that was given a job does not ask all at once."""
    wait_s = min(LONGEST_WAIT_S, FIRST_WAIT_S * 2.0 ** min(exchange.tries, 10)) * (0.5 + chance)
    return exchange._replace(asked=None, tries=exchange.tries + 1, hold_until=now + wait_s)


def _parsed(payload: bytes) -> dict[str, Json] | None:
    if len(payload) > MAX_BYTES:
        return None
    try:
        body = json.loads(payload)
    except (ValueError, RecursionError):
        return None
    return body if isinstance(body, dict) else None


def _is_sound(found: Json) -> bool:
    """Tell whether an execution has what is needed of it, in its right form."""
    if not isinstance(found, dict) or not all(isinstance(found.get(key), str) for key in ("jobId", "status")):
        return False
    numbers = all(type(found.get(key)) is int for key in ("executionNumber", "versionNumber"))
    return numbers and JOB.fullmatch(found["jobId"]) is not None
