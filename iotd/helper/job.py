"""The root side of jobs: takes one request that the daemon left in /run/iotd/jobs, and writes down what came of it.

`iotd-job@VERB.service` runs it when a file named VERB appears there, or when it was cut off at one: what it is at
stands in /var/lib/iotd-job before it is begun, and the result there before anything is said. It trusts nothing of the
daemon's: what may be done, and to what, it reads in /etc/iotd.yaml itself.
"""

from __future__ import annotations

import json
import os
import pwd
import signal
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from iotd.helper import allowed, apt, recover
from iotd.helper.allowed import Refused
from iotd.helper.recover import Outcome
from iotd.host import log
from iotd.host.files import Files
from iotd.jobs.names import CLAIM, JOB, is_listed, is_package, is_unit
from iotd.jobs.section import SECTIONS, Jobs
from iotd.vocabulary import Json

DIRECTORY = "/run/iotd/jobs"
STATE = Path("/var/lib/iotd-job")
STATUS = Path("/run/iotd/status.json")
RESULTS = "results.json"
VERBS = ("upgrade", "install", "restart", "reboot")
MAX_NAMES, MAX_RESULTS, MAX_ATTEMPTS = 100, 20, 5
RESTART_S = 300.0
ENVIRONMENT = {"DEBIAN_FRONTEND": "noninteractive", "NEEDRESTART_MODE": "a", "APT_LISTCHANGES_FRONTEND": "none"}


class Request(NamedTuple):
    """What is asked for: which step of which job, as it was claimed, and the names that it is about."""

    job: str
    claim: str
    step: int
    names: tuple[str, ...]

    @property
    def key(self) -> str:
        """What its result is known by."""
        return f"{self.job}:{self.claim}:{self.step}"


class Server:
    """Serves one verb, on the files in `state`; `host` is what is asked of the host."""

    def __init__(self, verb: str, state: Path, host: apt.Host) -> None:
        self._verb = verb
        self._marker = state / f"{verb}.json"
        self._results = state / RESULTS
        self._host = host
        self._files = Files()

    def resume(self) -> bool:
        """Bring to its end what was cut off, where something was; return whether all went well."""
        match self._files.read_json(self._marker):
            case {"request": request_, "before": dict(before), "back": str(back), "attempts": int(attempts)}:
                request = request_of(request_)
            case _:  # nothing, or nothing that anything was begun after
                self._files.remove(self._marker)
                return True
        if request.key in self._found():
            self._files.remove(self._marker)
            return True
        if self._verb == "restart" or attempts >= MAX_ATTEMPTS:
            return self._end(request, "it was cut off", {})
        return self._work(request, apt.Change(request.names, self._verb == "upgrade", before, back), attempts + 1)

    def serve(self, path: str, owner: int, allow: Callable[[Request], None]) -> bool:
        """Take the request in the directory `path`, where there is one; return whether all went well."""
        try:
            directory = recover.open_directory(path, owner)
        except FileNotFoundError:
            return True
        except Refused as refused:
            return self._refuse(str(refused))
        request = None
        try:
            request = request_of(_parsed(recover.read(directory, self._verb, owner)))
            if request.key in self._found():
                return True
            allow(request)
            if self._verb != "reboot":
                self._keep(request, apt.Change(request.names, False), 0)
        except FileNotFoundError:
            return True
        except Refused as refused:
            if request is not None and self._verb != "reboot":
                self._end(request, f"refused: {refused}", {})
            return self._refuse(str(refused))
        finally:
            recover.remove(directory, self._verb)
            os.close(directory)
        log.warning("job.accepted", f"{self._verb} {' '.join(request.names)} for job {request.job}", verb=self._verb,
                    job=request.job, names=request.names)
        if self._verb == "reboot":
            return recover.escalate(lambda command: self._host.run(command, recover.COMMAND_LIMIT_S), self._host.wait)
        if self._verb == "restart":
            done = self._host.run(("systemctl", "restart", "--", *request.names), RESTART_S)
            failed = f"systemctl restart {done.failure}: {apt.last_line(done)}" if done.failure else ""
            return self._end(request, failed, {})
        return self._work(request, apt.Change(request.names, self._verb == "upgrade"), 1)

    def _work(self, request: Request, change: apt.Change, attempt: int) -> bool:
        self._keep(request, change, attempt)
        try:
            details = apt.carry_out(change, self._host, lambda known: self._keep(request, known, attempt))
        except apt.Failed as failed:
            return self._end(request, str(failed), {})
        return self._end(request, "", details)

    def _keep(self, request: Request, change: apt.Change, attempts: int) -> None:
        """Write down what is being done."""
        body = {"request": request._asdict(), "before": change.before, "back": change.back, "attempts": attempts}
        self._files.write_text(self._marker, json.dumps(body), durable=True)

    def _end(self, request: Request, reason: str, details: dict[str, str]) -> bool:
        """Write down the result, where the daemon reads it; then say it."""
        found = {**self._found(), request.key: {"succeeded": not reason, "reason": reason, "details": details}}
        newest = dict(list(found.items())[-MAX_RESULTS:])
        self._files.write_text(self._results, json.dumps(newest), durable=True, mode=0o644)
        self._files.remove(self._marker)
        log.warning("job.result", f"{self._verb} for job {request.job}: {reason or 'done'}", verb=self._verb,
                    job=request.job, reason=reason, **details)
        return not reason

    def _found(self) -> dict[str, Json]:
        found = self._files.read_json(self._results)
        return found if isinstance(found, dict) else {}

    def _refuse(self, reason: str) -> bool:
        log.warning("job.refused", f"request refused: {reason}", request=self._verb, reason=reason)
        return False


def request_of(body: Json) -> Request:
    """Return the request that a JSON object makes; raises Refused for anything else."""
    match body:
        case {"job": str(job), "claim": str(claim), "step": int(step), "names": list(names)}:
            named = len(names) <= MAX_NAMES and all(isinstance(name, str) for name in names)
            if JOB.fullmatch(job) and CLAIM.fullmatch(claim) and named:
                return Request(job, claim, step, tuple(names))
    raise Refused(f"it is none: {str(body)[:200]!a}")


def judge(verb: str, request: Request, jobs: Jobs, file: Path) -> None:
    """Raise Refused where the configuration does not allow the request."""
    if verb == "reboot":
        if not jobs.reboot:
            raise Refused(f"jobs.reboot of {file} does not allow it")
        return
    if not request.names:
        raise Refused("it names nothing")
    for name in request.names:
        if verb == "restart" and not (is_unit(name) and name in jobs.restart):
            raise Refused(f"{name[:100]!a} is not in jobs.restart of {file}")
        if verb != "restart" and not (is_package(name) and is_listed(name, jobs.upgrade)):
            raise Refused(f"{name[:100]!a} is not in jobs.upgrade of {file}")


def _parsed(body: bytes) -> Json:
    try:
        return json.loads(body)
    except (ValueError, RecursionError) as error:
        raise Refused(f"its content is not JSON: {error}") from error


def _run(command: Sequence[str], limit_s: float) -> Outcome:
    outcome = recover.run_command(tuple(command), limit_s, **ENVIRONMENT)
    say = log.info if outcome.failure is None else log.warning
    say("job.command", f"{' '.join(command)}: {outcome.failure or 'done'}", command=command,
        output=outcome.output[-recover.MAX_LOGGED:])
    return outcome


def _connected(version: str) -> bool:
    """Tell whether the iotd that runs has this version and its line up; what it says of itself can only spare it."""
    try:
        with open(os.open(STATUS, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:
            status: Any = json.loads(file.read(recover.MAX_REQUEST_BYTES * 16))
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(status, dict) and status.get("connected") is True and status.get("version") == version


def main(verb: str) -> int:
    """Serve the verb that systemd names; return the exit status."""
    log.start("info", "json", under_journald=log.is_journal())
    if verb not in VERBS:
        return 2
    asked: list[int] = []
    if verb != "reboot":  # which gets SIGTERM when all else is down
        # What apt is at is brought to its end before the host goes down; SIGTERM comes to this process alone.
        signal.signal(signal.SIGTERM, lambda number, _: asked.append(number))

    def wait(seconds: float) -> None:
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            if asked:
                raise apt.CutOff
            time.sleep(min(0.5, seconds))

    daemon = pwd.getpwnam(recover.USER)
    server = Server(verb, STATE, apt.Host(_run, wait, _connected, STATE / "kept"))

    def allow(request: Request) -> None:
        text = allowed.read(recover.CONFIGURATION, daemon)
        above = allowed.read_above(recover.CONFIGURATION, daemon)
        jobs = allowed.section(text, recover.CONFIGURATION, "jobs", SECTIONS["jobs"].read, above)
        judge(verb, request, jobs, recover.CONFIGURATION)

    try:
        return 0 if all([server.resume(), server.serve(DIRECTORY, daemon.pw_uid, allow)]) else 1
    except apt.CutOff:
        return 0  # and the next boot goes on
