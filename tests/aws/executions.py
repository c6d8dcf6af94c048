"""The job executions of things: what a request makes of them and what the service answers, without a broker.

Sources: "Jobs device MQTT API", "JobExecution data types" and the API reference of the jobs data plane; where those
are silent the choice stands beside the code.
"""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

Json = Any
Answer = tuple[str, Json]  # the topic, and the payload

OPEN = ("QUEUED", "IN_PROGRESS")
BY_DEVICES = ("IN_PROGRESS", "SUCCEEDED", "FAILED", "REJECTED")
MAX_LISTED = 10
MAX_DETAILS, MAX_KEY, MAX_VALUE = 10, 128, 1024
MAX_DOCUMENT_BYTES = 32768
MAX_TOKEN_BYTES = 64
MAX_MINUTES = 10080

_TOPIC = re.compile(r"\$aws/things/(?P<thing>[a-zA-Z0-9:_-]{1,128})/jobs/"
                    r"(?:(?P<job>\$next|[a-zA-Z0-9_-]{1,64})/)?(?P<verb>get|start-next|update)")
_KEYS = {
    "list": {"clientToken"},
    "start-next": {"statusDetails", "stepTimeoutInMinutes", "clientToken"},
    "get": {"executionNumber", "includeJobDocument", "clientToken"},
    "update": {"status", "statusDetails", "expectedVersion", "executionNumber", "includeJobExecutionState",
               "includeJobDocument", "stepTimeoutInMinutes", "clientToken"},
}


class Rejection(Exception):
    """A request that the service does not follow; `code` is a word of its list, `execution` what is told along."""

    def __init__(self, code: str, message: str, execution: Execution | None = None) -> None:
        super().__init__(message)
        self.code = code
        self.execution = execution


@dataclass(slots=True)
class Execution:
    """One execution: a job for a thing. Times are epoch seconds; a timer that does not run is None."""

    thing: str
    job: str
    document: Json
    queued_at: float
    number: int = 1
    version: int = 1
    status: str = "QUEUED"
    details: Mapping[str, str] = field(default_factory=dict)
    started_at: float | None = None
    updated_at: float = 0.0
    in_progress_s: float | None = None
    ends_at: float | None = None
    step_ends_at: float | None = None
    history: list[str] = field(default_factory=list)

    @property
    def is_open(self) -> bool:
        """Whether it has not ended."""
        return self.status in OPEN

    def summary(self) -> Json:
        """Return what a list says of it."""
        told = {"jobId": self.job, "queuedAt": int(self.queued_at), "lastUpdatedAt": int(self.updated_at),
                "versionNumber": self.version, "executionNumber": self.number}
        return told if self.started_at is None else {**told, "startedAt": int(self.started_at)}

    def whole(self, with_document: bool = True) -> Json:
        """Return all of it."""
        told: Json = {**self.summary(), "thingName": self.thing, "status": self.status}
        if self.details:
            told["statusDetails"] = dict(self.details)
        return {**told, "jobDocument": self.document} if with_document else told

    def state(self) -> Json:
        """Return what an update tells of it."""
        return {"status": self.status, "statusDetails": dict(self.details), "versionNumber": self.version}

    def turn(self, status: str, now: float) -> None:
        """Give it another status."""
        self.status, self.updated_at, self.version = status, now, self.version + 1
        self.history.append(status)
        if status == "IN_PROGRESS" and self.started_at is None:
            self.started_at = now
            self.ends_at = None if self.in_progress_s is None else now + self.in_progress_s


class Executions:
    """The executions of all things; `now` are epoch seconds. What is to be published is returned, in order."""

    def __init__(self, now: Callable[[], float]) -> None:
        self.all: list[Execution] = []
        self._now = now
        self._told: dict[str, tuple[Json, Json]] = {}

    # The cloud's side

    def create(self, thing: str, job: str, document: Json, in_progress_s: float | None = None) -> list[Answer]:
        """Queue a job for a thing. A job that it has had already is a new attempt, with the next number."""
        assert re.fullmatch(r"[a-zA-Z0-9_-]{1,64}", job), job
        assert len(json.dumps(document).encode()) <= MAX_DOCUMENT_BYTES
        number = 1 + sum(one.job == job for one in self._of(thing))
        now = self._now()
        self.all.append(Execution(thing, job, document, now, number, updated_at=now, in_progress_s=in_progress_s))
        return self._news(thing)

    def cancel(self, thing: str, job: str, force: bool = False) -> list[Answer]:
        """Cancel it; one that is in progress only by force."""
        found = self.find(thing, job)
        if found.status == "QUEUED" or force and found.is_open:
            found.turn("CANCELED", self._now())
        return self._news(thing)

    def run_timers(self) -> list[Answer]:
        """End what has taken too long."""
        now, answers = self._now(), list[Answer]()
        for one in self.all:
            ends = [at for at in (one.ends_at, one.step_ends_at) if at is not None]
            if one.status == "IN_PROGRESS" and ends and now >= min(ends):
                one.turn("TIMED_OUT", now)
                answers += self._news(one.thing)
        return answers

    def find(self, thing: str, job: str, number: int | None = None) -> Execution:
        """Return an execution, the newest where no number is given. Raises Rejection."""
        for one in reversed(self._of(thing)):
            if one.job == job and number in (None, one.number):
                return one
        raise Rejection("ResourceNotFound", f"no execution of {job} for {thing}")

    def pending(self, thing: str) -> list[Execution]:
        """Return what has not ended: first what is in progress, then what is queued."""
        found = [one for one in self._of(thing) if one.is_open]
        return sorted(found, key=lambda one: (one.status == "QUEUED", one.started_at or one.queued_at))

    # The device's side

    def asked(self, topic: str, payload: bytes) -> list[Answer]:
        """Follow a request that came on a topic; return the answer to it, and what else is to be told."""
        found = _TOPIC.fullmatch(topic)
        if found is None or (found["job"] is None) == (found["verb"] == "update") and found["verb"] != "get" or (
                found["verb"] == "start-next" and found["job"] is not None):
            return []
        verb = "list" if found["job"] is None and found["verb"] == "get" else found["verb"]
        self.run_timers()
        request: Json = {}
        try:
            request = _parsed(payload, verb)
            answer = self._follow(verb, found["thing"], found["job"], request)
        except Rejection as error:
            told = {"code": error.code, "message": str(error), **self._stamp(request)}
            state = {} if error.execution is None else {"executionState": error.execution.state()}
            return [(f"{topic}/rejected", {**told, **state})]
        return [(f"{topic}/accepted", {**answer, **self._stamp(request)}), *self._news(found["thing"])]

    def _follow(self, verb: str, thing: str, job: str, request: Json) -> Json:
        pending = self.pending(thing)
        if verb == "list":
            return {"inProgressJobs": [one.summary() for one in pending if one.status == "IN_PROGRESS"][:MAX_LISTED],
                    "queuedJobs": [one.summary() for one in pending if one.status == "QUEUED"][:MAX_LISTED]}
        if verb == "start-next":
            if pending and pending[0].status == "QUEUED":
                self._change(pending[0], {**request, "status": "IN_PROGRESS"})
            return {"execution": pending[0].whole()} if pending else {}
        if verb == "get":
            if job == "$next":
                found = pending[0] if pending else None
            else:
                found = self.find(thing, job, request.get("executionNumber"))
                if not found.is_open:
                    raise Rejection("TerminalStateReached", f"{job} is {found.status}")
            return {} if found is None else {"execution": found.whole(request.get("includeJobDocument", True))}
        found = self.find(thing, job, request.get("executionNumber"))
        if not found.is_open:
            raise Rejection("InvalidStateTransition", f"{job} is {found.status} already", found)
        if request.get("expectedVersion") not in (None, found.version):
            raise Rejection("VersionMismatch", f"the version is {found.version}", found)
        self._change(found, request)
        told = {"executionState": found.state()} if request.get("includeJobExecutionState") else {}
        return {**told, "jobDocument": found.document} if request.get("includeJobDocument") else told

    def _change(self, one: Execution, request: Json) -> None:
        now = self._now()
        one.turn(request["status"], now)
        if "statusDetails" in request:
            one.details = request["statusDetails"]
        minutes = request.get("stepTimeoutInMinutes")
        if minutes is not None:
            one.step_ends_at = None if minutes == -1 else now + 60 * minutes

    def _news(self, thing: str) -> list[Answer]:
        """Return notify where the list of what is pending has changed, notify-next where its head has.

        That the head goes from queued to in progress is told to nobody.
        """
        pending = self.pending(thing)
        names = [(one.job, one.number) for one in pending]
        told, self._told[thing] = self._told.get(thing, ([], None)), (names, names[:1] or None)
        lists: dict[str, Json] = {}
        for one in pending[:MAX_LISTED]:
            lists.setdefault(one.status, []).append(one.summary())
        prefix, stamp, answers = f"$aws/things/{thing}/jobs", {"timestamp": int(self._now())}, list[Answer]()
        if sorted(names) != sorted(told[0]):
            answers.append((f"{prefix}/notify", {**stamp, "jobs": lists}))
        if self._told[thing][1] != told[1]:
            answers.append((f"{prefix}/notify-next",
                            {**stamp, "execution": pending[0].whole()} if pending else stamp))
        return answers

    def _of(self, thing: str) -> list[Execution]:
        return [one for one in self.all if one.thing == thing]

    def _stamp(self, request: Json) -> Json:
        token = request.get("clientToken") if isinstance(request, dict) else None
        return {"timestamp": int(self._now()), **({} if token is None else {"clientToken": token})}


def _parsed(payload: bytes, verb: str) -> Json:
    """Return the request, as far as it is one. Raises Rejection; what is unknown in it is refused."""
    try:
        request = json.loads(payload or b"{}")
    except ValueError as error:
        raise Rejection("InvalidJson", str(error)) from error
    if not isinstance(request, dict):
        raise Rejection("InvalidJson", "the request is no object")
    for problem in _problems(request, verb):
        raise Rejection("InvalidRequest", problem)
    return request


def _problems(request: Mapping[str, Json], verb: str) -> Iterator[str]:
    if unknown := request.keys() - _KEYS[verb]:
        yield f"unknown: {sorted(unknown)}"
    token = request.get("clientToken", "")
    if not isinstance(token, str) or len(token.encode()) > MAX_TOKEN_BYTES:
        yield f"clientToken has at most {MAX_TOKEN_BYTES} bytes"
    if verb == "update" and request.get("status") not in BY_DEVICES:
        yield f"status is one of {', '.join(BY_DEVICES)}"
    for key in ("expectedVersion", "executionNumber"):
        if type(request.get(key, 1)) is not int:
            yield f"{key} is a number"
    minutes = request.get("stepTimeoutInMinutes", 1)
    if type(minutes) is not int or minutes != -1 and not 1 <= minutes <= MAX_MINUTES:
        yield f"stepTimeoutInMinutes is -1, or from 1 to {MAX_MINUTES}"
    details = request.get("statusDetails", {})
    if not isinstance(details, dict) or len(details) > MAX_DETAILS:
        yield f"statusDetails is an object of at most {MAX_DETAILS} pairs"
        return
    for key, value in details.items():
        if not re.fullmatch(rf"[a-zA-Z0-9:_-]{{1,{MAX_KEY}}}", key):
            yield f"a key of statusDetails: {key!r}"
        # [^\p{C}]{1,1024}: no control character, no other of Unicode's category "other".
        if not isinstance(value, str) or not 1 <= len(value) <= MAX_VALUE or any(
                unicodedata.category(character)[0] == "C" for character in value):
            yield f"a value of statusDetails: {value!r}"
