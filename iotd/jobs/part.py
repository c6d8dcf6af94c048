"""The jobs as the main thread sees them: the conversation with the service, and who performs each step."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from iotd.config.settings import Settings
from iotd.daemon.part import Kernel, Part
from iotd.host import log
from iotd.jobs import exchange, execution, record, work
from iotd.jobs.documents import BUNDLE, OF_ROOT, REBOOT, Rejected, Step, command
from iotd.jobs.exchange import ACTION
from iotd.jobs.execution import RUNNING, Effect, Job, Moment, Outcome
from iotd.jobs.section import Jobs
from iotd.jobs.work import Counted, Finished, Order, Progressed
from iotd.vocabulary import Entry, Json, Received, Send

END_S = 2.0  # for a command that runs to be killed
UPDATES_S = 6 * 3600.0  # between two counts of what could be upgraded
POLL_S = 2.0  # for the result of what root does
BUNDLE_TIMEOUT_S = 300.0


class Adapters(NamedTuple):
    """How a command is performed."""

    perform: Callable[[Order, Callable[[Any], None], int | None], Finished] = work.perform


def build(kernel: Kernel, adapters: Adapters | None) -> JobsPart:
    """Return the part."""
    return JobsPart(kernel, adapters or Adapters())


class JobsPart(Part):
    """One execution at a time, from its claim to the service's word that its final state is taken."""

    def __init__(self, kernel: Kernel, adapters: Adapters) -> None:
        places = kernel.world.places
        self._kernel = kernel
        self._adapters = adapters
        self._tasks = kernel.world.tasks(kernel.post)
        self._file = places.state / "job.json"
        self._requests = places.runtime / "jobs"
        self._results = places.state.parent / "iotd-job" / "results.json"  # the helper's; see iotd.helper.job
        self._jobs = Jobs()
        self._exchange = exchange.Exchange("", kernel.run_id)
        self._to_begin: Job | None = None
        self._look_at = math.inf
        self._progress = ""
        self._unkept = ""
        self._updates: int | None = None
        self._count_at = math.inf  # until {updates_pending} is asked for

    def apply(self, settings: Settings, now: float) -> None:
        """Let the settings take effect; of another thing nothing is known but what the disk says."""
        self._jobs = settings.sections["jobs"]
        if settings.thing != self._exchange.thing:
            self._exchange = exchange.Exchange(settings.thing, self._kernel.run_id, self._exchange.made)
            job = record.from_json(self._kernel.world.files.read_json(self._file), settings.thing)
            if job is not None:
                self._look_at = now
                self._take(exchange.resumed(self._exchange._replace(job=job), job, self._moment()), now)

    def filters(self) -> dict[str, int]:
        """Return what has to be subscribed."""
        return exchange.filters(self._exchange.thing)

    def actions(self) -> dict[str, str]:
        """Return what is denied as one."""
        return dict.fromkeys(self.filters(), ACTION)

    def pending(self) -> list[str]:
        """Return whether the service has yet to answer."""
        return [ACTION] if self._exchange.asked is not None else []

    def opened(self, now: float, careful: bool, resting: Iterable[str]) -> None:
        """Ask what there is."""
        if ACTION not in resting:
            self._exchange = exchange.opened(self._exchange)

    def closed(self, blamed: bool, now: float) -> None:
        """No answer will come."""
        self._exchange = exchange.closed(self._exchange)

    def heard(self, received: Received, now: float) -> None:
        """Take a message; one on another topic is none of ours."""
        self._take(exchange.heard(self._exchange, received.topic, received.payload, self._jobs, self._moment(), now,
                                  self._kernel.world.chance()), now)

    def placeholders(self) -> dict[str, Callable[[], Json]]:
        """Return how the number of pending updates is looked up; it is counted once somebody has asked."""
        return {"updates_pending": self._updates_pending}

    def handlers(self) -> dict[type, Callable[[Any, float], None]]:
        """Return who takes the ends of commands, and how far they are."""
        return {Finished: self._finished, Progressed: self._progressed, Counted: self._counted}

    def next_due(self) -> float:
        """Return when `keep` has something to do."""
        if self._to_begin is not None:
            return -math.inf
        return min(exchange.next_due(self._exchange), self._look_at, self._count_at)

    def keep(self, now: float) -> None:
        """Begin what waited, look after what goes on elsewhere, and say what is to be said."""
        if self._to_begin is not None and not self._kernel.leaving:
            job, self._to_begin = self._to_begin, None
            self._begin(job, now)
        if now >= self._look_at:
            self._look(now)
        if now >= self._count_at:
            self._count_at = now + UPDATES_S
            self._tasks.start("updates", work.count_updates, lambda text: Counted(None))
        self._take(exchange.keep(self._exchange, now, self._kernel.world.chance()), now)

    def status(self) -> dict[str, Json]:
        """Return the execution at hand, None where there is none."""
        job = self._exchange.job
        return {"job": None if job is None else {
            "job": job.id, "execution": job.number, "operation": job.operation, "stage": job.stage,
            "status": job.status or "IN_PROGRESS", "reason": job.reason, "progress": self._progress or None,
            "step": job.step + 1, "steps": len(job.steps)}}

    def problems(self) -> list[str]:
        """Return whether the service is silent."""
        silent = self._exchange.unanswered >= exchange.TELL_AFTER
        return ["the Jobs service does not answer"] if silent else []

    def sentences(self) -> list[str]:
        """Return the execution at hand in words."""
        job = self._exchange.job
        if job is None:
            return []
        how = {"claiming": "is claimed", "running": f"runs: {job.operation}",
               "ended": f"is {job.status}, which the service does not know yet"}[job.stage]
        return [f"job {job.id} {how}"]

    def close(self, now: float) -> None:
        """Kill the command that runs: the next run says that it was interrupted."""
        self._tasks.close(END_S)

    def _take(self, outcome: exchange.Outcomes, now: float) -> None:
        """Do what a rule asks for."""
        before = self._exchange.job
        self._exchange, effects = outcome
        for effect in effects:
            self._do(effect, now)
        if self._exchange.job is not before:
            self._kernel.status_changed()

    def _do(self, effect: Effect, now: float) -> None:
        if isinstance(effect, Entry):
            log.write(effect)
        elif isinstance(effect, Send):
            self._kernel.send(effect.message)
        elif isinstance(effect, execution.Keep):
            self._unkept = self._keep(effect.job)
        elif isinstance(effect, execution.GiveUp):
            self._give_up(effect.job)
        elif self._unkept:
            self._end(effect.job.key, Outcome(False, f"it cannot be written down first: {self._unkept}"), now)
        else:
            self._to_begin = effect.job  # once no last word is being said

    def _begin(self, job: Job, now: float) -> None:
        """Begin the step under way."""
        step = job.now
        self._look_at = now
        if step.operation == REBOOT:
            self._kernel.reboot(f"job {job.id}", partial(self._ask_for_reboot, job, now))
        elif step.operation in OF_ROOT:
            if self._result(job) is None:
                self._request(job, now)
        else:
            self._perform(job, step, now)

    def _perform(self, job: Job, step: Step, now: float) -> None:
        """Run the command of a step on a thread of its own."""
        try:
            if step.operation == BUNDLE:
                order = Order(job.key, (*self._kernel.world.command_of("bundle"), "--upload"), BUNDLE_TIMEOUT_S,
                              f"{step.arguments[0]}\n".encode())
            else:
                order = Order(job.key, *command(step, self._jobs))
        except Rejected as error:  # closed by a reload, or while another step was at work
            return self._end(job.key, Outcome(False, str(error)), now)
        started = self._tasks.start(("job", job.key), partial(self._adapters.perform, order, self._kernel.post),
                                    partial(work.faulty, order))
        if not started:
            self._end(job.key, Outcome(False, "iotd cannot start a thread for it"), now)

    def _ask_for_reboot(self, job: Job, now: float) -> None:
        """Write down that it is asked for, so that no other run asks again: a container reboots in the same boot."""
        job = job._replace(asked=True)
        self._exchange = self._exchange._replace(job=job)
        if not self._keep(job):
            self._request(job, now)

    def _request(self, job: Job, now: float) -> None:
        """Leave a request for the helper, the only one with the privilege to follow it."""
        try:
            self._kernel.world.files.write_request(self._requests / job.now.operation, {
                "job": job.id, "claim": job.claim, "step": job.step, "names": list(job.now.arguments)})
        except OSError as error:
            self._end(job.key, Outcome(False, f"the request for the helper cannot be written: {error.strerror}"), now)

    def _look(self, now: float) -> None:
        """Look for the end of a step that others perform."""
        job, moment = self._exchange.job, self._moment()
        if job is not None and job.stage == RUNNING:
            outcome = self._result(job) if job.now.operation in OF_ROOT else None
            outcome = outcome or execution.overdue(job, moment, not self._waits(job))
            if outcome is not None:
                self._withdraw(job)
                self._count_at = min(self._count_at, now) if self._count_at < math.inf else math.inf
                return self._end(job.key, outcome, now)
        wait_s = execution.next_due(job, moment, POLL_S)
        self._look_at = math.inf if wait_s is None else now + wait_s

    def _result(self, job: Job) -> Outcome | None:
        """Return what the helper has written down of the step under way, None for nothing yet."""
        found = self._kernel.world.files.read_json(self._results)
        match found.get(job.key) if isinstance(found, dict) else None:
            case {"succeeded": bool(succeeded), "reason": str(reason), "details": dict(details)}:
                return Outcome(succeeded, reason, details)
        return None

    def _waits(self, job: Job) -> bool:
        """Tell whether the request for the step still lies there."""
        return self._kernel.world.files.read_json(self._request_of(job)) is not None

    def _withdraw(self, job: Job) -> None:
        """Nobody is to take up the request any more."""
        if job.now.operation in (REBOOT, *OF_ROOT):
            self._kernel.world.files.remove(self._request_of(job))

    def _request_of(self, job: Job) -> Path:
        return self._requests / job.now.operation

    def _give_up(self, job: Job) -> None:
        """End what runs for a job that is over."""
        self._to_begin = None
        self._look_at = math.inf
        if job.stage == RUNNING:
            self._withdraw(job)
            self._tasks.cancel(END_S)

    def _finished(self, event: Finished, now: float) -> None:
        if event.traceback:
            log.error("job.fault", "a bug in iotd: a step of a job could not be taken", step=event.key,
                      traceback=event.traceback)
        self._end(event.key, event.outcome, now)

    def _end(self, key: str, outcome: Outcome, now: float) -> None:
        """Take the end of a step."""
        if self._is_at(key):
            self._look_at, self._progress = math.inf, ""
        self._take(exchange.finished(self._exchange, key, outcome, self._moment()), now)

    def _progressed(self, event: Progressed, now: float) -> None:
        if self._is_at(event.key):
            self._progress = event.percent
            self._exchange = self._exchange._replace(progress=event.percent)

    def _updates_pending(self) -> Json:
        if self._count_at == math.inf:
            self._count_at = -math.inf
        return self._updates

    def _counted(self, event: Counted, now: float) -> None:
        self._updates = event.number

    def _is_at(self, key: str) -> bool:
        """Tell whether this step is under way."""
        job = self._exchange.job
        return job is not None and job.stage == RUNNING and job.key == key

    def _keep(self, job: Job | None) -> str:
        """Write the execution down; return why that failed, empty where it did not."""
        files = self._kernel.world.files
        if job is None:
            files.remove(self._file)
            return ""
        return files.keep(self._file, record.to_json(job), True, "job.unwritable", "the job cannot be written down",
                          job=job.id)

    def _moment(self) -> Moment:
        return Moment(self._kernel.world.boot_id, self._kernel.world.uptime())
