"""What holds of a device as one of a fleet: what becomes of jobs, who it is, and what Home Assistant knows of it."""

from __future__ import annotations

import json
from collections import defaultdict
from typing import Any

from iotd.host.identity import IDENTITY
from iotd.vocabulary import Message
from tests.sim.disk import STATE
from tests.sim.faults import AT_HOME, HOME_ASSISTANT, PRESENCE
from tests.sim.judge import Invariant, Judge
from tests.sim.kinds import KINDS
from tests.sim.session import SimulatedSession
from tests.sim.swarm import THING

BY_SERVICE = ("CANCELED", "TIMED_OUT")
FOLDER = f"{STATE}/identity/"
ANSWERED_S = 90.0
STATE_S = 63.0  # and what an answer takes


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


class AtHome(Invariant):
    """Home Assistant finds the device."""

    name = "home"
    says = ("Once all is healed what stands on the broker for Home Assistant is the device as it is configured, with a"
            " state of the last minute, or nothing; its birth message is answered within 90 s on a line that lasts")

    def __init__(self, judge: Judge) -> None:
        super().__init__(judge)
        self._state_at = 0.0  # when the last one came
        self._announced_at = -1.0
        self._lines = 0
        self._is_lost = False  # the broker has lost the announcement, of which only a lost session tells

    def line_changed(self) -> None:
        """The broker has got, or lost, a line."""
        self._lines += 1

    def store_lost(self) -> None:
        """Nothing stands any more."""
        self._is_lost = True

    def arrived(self, message: Message, by: SimulatedSession | None) -> None:
        """Note what the device says, and that Home Assistant asks."""
        if message.topic == f"{AT_HOME}/state":
            self._state_at = self.now
        elif message.topic == f"{AT_HOME}/config":
            self._announced_at, self._is_lost = self.now, False
        elif message.topic == HOME_ASSISTANT and message.payload == b"online" and self._hears():
            begun_at, lines = self.now, self._lines
            self.simulation.schedule.after(ANSWERED_S, lambda: self._judge(begun_at, lines))

    def owed(self) -> str:
        """Return what is not as it is configured."""
        daemon, standing = self.simulation.daemon, self.simulation.broker.retained.get(f"{AT_HOME}/config")
        if daemon is None or self._is_lost or not any(profile.home for profile in self.plan.profiles):
            return ""
        if "home_assistant" not in daemon.settings.sections:
            return f"{self.rests()}the announcement still stands" if standing is not None and self._is_sure() else ""
        told = set() if standing is None else {
            component["state_topic"] for component in json.loads(standing.payload)["components"].values()
            if "unique_id" in component}
        expected = {entry.topic for entry in daemon.settings.sections["publish"] if entry.entities}
        expected |= {PRESENCE, f"{AT_HOME}/state"}
        if told != expected:
            return f"{self.rests()}it is announced with {sorted(told)}, and not with {sorted(expected)}"
        old_s = self.now - self._state_at
        return f"{self.rests()}the state is {old_s:.0f} s old" if old_s > STATE_S else ""

    def _hears(self) -> bool:
        """Tell whether the device gets what Home Assistant says."""
        client = self.simulation.broker.clients.get(THING)
        if client is None or client.link is None or HOME_ASSISTANT not in client.filters:
            return False
        return client.link.up and not client.link.gone

    def _judge(self, begun_at: float, lines: int) -> None:
        simulation = self.simulation
        daemon, session = simulation.daemon, simulation.session
        lasts = lines == self._lines and simulation.network.passes and session is not None and not session.hung
        if lasts and daemon is not None and "home_assistant" in daemon.settings.sections:
            if self._announced_at < begun_at and not self.rests():
                self.broken(f"Home Assistant asked {ANSWERED_S:.0f} s ago, and was told nothing")

    def _is_sure(self) -> bool:
        """Tell whether the device can know what it has once said: no disk has failed it."""
        return not self.plan.overlay and not any(
            KINDS[fault.kind].group in ("disk", "power", "process") for fault in self.plan.faults)


def _to_be_done(document: Any) -> list[int]:
    """Return the steps of a document but for reboots, which another one may take the place of."""
    steps = document.get("steps", [document]) if document else []
    return [number for number, step in enumerate(steps) if "reboot" not in json.dumps(step)]


FLEET = (Jobs, Own, AtHome)
