"""What holds of a device as one of a fleet: what becomes of jobs, and who the device is."""

from __future__ import annotations

import json
from collections import defaultdict
from typing import Any

from iotd.host.identity import IDENTITY
from tests.sim.disk import STATE
from tests.sim.judge import Invariant, Judge
from tests.sim.session import SimulatedSession
from tests.sim.swarm import THING

BY_SERVICE = ("CANCELED", "TIMED_OUT")
FOLDER = f"{STATE}/identity/"


class Jobs(Invariant):
    """What the cloud gives to do is done once, and told."""

    name = "jobs"
    says = ("Each job comes to one final state, the one that the device has told or one that the service has come to by"
            " itself; no step is begun twice, and what has succeeded has had all of its steps")

    def __init__(self, judge: Judge) -> None:
        super().__init__(judge)
        self._begun: dict[str, list[int]] = defaultdict(list)  # by job, the steps
        self._told: dict[str, set[str]] = defaultdict(set)

    def stepped(self, key: str) -> None:
        """Compare with the steps before."""
        job, _, step = key.split(":")
        if int(step) in self._begun[job]:
            self.broken(f"step {step} of {job} is begun once more")
        self._begun[job].append(int(step))

    def logged(self, entry: dict[str, Any]) -> None:
        """Note how the device says that a job has ended."""
        if entry["event"] in ("job.done", "job.failed", "job.rejected"):
            self._told[entry["job"]].add(str(entry["status"]))

    def owed(self) -> str:
        """Return a job that has not ended."""
        found = self.simulation.jobs.open()
        return f"{self.rests()}{found[0].job} is {found[0].status}, {len(found)} are open" if found else ""

    def finish(self) -> None:
        """Compare the final states with what was told and done."""
        for one in self.simulation.jobs.executions.all:
            if one.is_open:
                continue
            finals = [status for status in one.history if status != "IN_PROGRESS"]
            if len(finals) != 1:
                self.broken(f"{one.job} has had the final states {finals}")
            if one.status not in BY_SERVICE and one.status not in self._told[one.job]:
                self.broken(f"{one.job} is {one.status}, and the device has told {self._told[one.job]}")
            missing = [step for step in _to_be_done(one.document) if step not in self._begun[one.job]
                       ] if one.status == "SUCCEEDED" else []
            if missing:
                self.broken(f"{one.job} has succeeded, and its steps {missing} were never begun")


class Own(Invariant):
    """The device is one thing, by a certificate of its own."""

    name = "identity"
    says = ("A device that is provisioned is one thing, and dials as that with a certificate that is its key's and in"
            " force; once all is healed no other key and no other certificate is left on it")

    def __init__(self, judge: Judge) -> None:
        super().__init__(judge)
        self._applies = self.plan.profiles[0].renew_after_s is not None

    def dialled(self, session: SimulatedSession) -> None:
        """Look at the pair."""
        daemon, dial = self.simulation.daemon, session.dial_data
        if self._applies and daemon is not None and dial is not None and dial.client_id == THING:
            problem = self._problem(daemon.settings.mqtt.tls)
            if problem:
                self.broken(f"it dials as {THING} and {problem}")

    def owed(self) -> str:
        """Return what is there too many."""
        if not self._applies:
            return ""
        content = self.simulation.disk.content
        found = {path.removeprefix(FOLDER) for path in content if path.startswith(FOLDER)}
        try:
            place = json.loads(content[FOLDER + IDENTITY])["place"]
        except (KeyError, ValueError):
            return f"{self.rests()}it has no identity"
        unused = found - {IDENTITY, f"{place}.crt", f"{place}.key"}
        return f"{self.rests()}{sorted(unused)} are left" if unused else ""

    def finish(self) -> None:
        """Count the things."""
        things = list(self.simulation.account.rules.things)
        if self._applies and things != [THING]:
            self.broken(f"the device has become {things}")

    def _problem(self, tls: Any) -> str:
        content = self.simulation.disk.content
        certificate, key = (content.get(path, b"").decode() for path in (tls.cert, tls.key))
        known = {one.status: one.thing for one in self.simulation.account.rules.certificates.values()
                 if one.pem == certificate}  # an answer that was refused may have left another one of the same key
        if known.get("ACTIVE") != THING:
            return f"its certificate is {' and '.join(known) or 'nobody knows which'}"
        return "" if certificate.split(" ")[0] == key else "its key is another certificate's"


def _to_be_done(document: Any) -> list[int]:
    """Return the steps of a document but for reboots, which another one may take the place of."""
    steps = document.get("steps", [document]) if document else []
    return [number for number, step in enumerate(steps) if "reboot" not in json.dumps(step)]


FLEET = (Jobs, Own)
