"""One life by a plan: its faults happen, all is healed, all has to converge, and the judge says what did not hold."""

from __future__ import annotations

import hashlib
import io
import json
import random
from collections import Counter, deque
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple, cast

from tests.sim.device_truths import DEVICE
from tests.sim.kinds import KINDS
from tests.sim.fleet_truths import FLEET
from tests.sim.judge import Finding, Judge
from tests.sim.line_truths import LINE
from tests.sim.messages import Kept, Order, Slot
from tests.sim.swarm import DAY_S, Fault, Plan, topics_of, yaml_text
from tests.sim.work_truths import WORK
from tests.sim.world import Simulation

INVARIANTS = (Kept, Order, Slot, *LINE, *DEVICE, *WORK, *FLEET)
QUIET_S = 300.0  # after the last change things have calmed down
CONVERGES_S = 4 * 3600.0  # and the longest interval: a denial and a failed order each wait for an hour at most
TAIL = 400


class Outcome(NamedTuple):
    """What became of a life. `converged_s`: from the last end of a fault until all was well; None where it never was.

    `digest` is that of every line of the log, `tail` the last lines.
    """

    plan: Plan
    lived_s: float
    findings: tuple[Finding, ...]
    converged_s: float | None
    messages: int
    lines: int
    digest: str
    events: Counter[str]
    reboots: int
    tail: tuple[str, ...]

    @property
    def news(self) -> tuple[Finding, ...]:
        """The findings that are not known yet."""
        return tuple(finding for finding in self.findings if not finding.known)


class Log(io.TextIOBase):
    """Where the daemon's log goes: counted, digested, told to the judge, and forgotten but for its end."""

    def __init__(self, judge: Judge) -> None:
        self.events: Counter[str] = Counter()
        self.lines = 0
        self.tail: deque[str] = deque(maxlen=TAIL)
        self.digest = hashlib.sha256()
        self._judge = judge

    def write(self, text: str) -> int:
        """Take a line, which comes with its end."""
        self.digest.update(text.encode("utf-8", "backslashreplace"))
        self.lines += 1
        self.tail.append(text)
        entry: dict[str, Any] = json.loads(text)
        self.events[entry["event"]] += 1
        self._judge.logged(entry)
        return len(text)


class Life:
    """A plan while it is lived."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.judge = Judge(plan, INVARIANTS)
        self.log = Log(self.judge)
        texts = [yaml_text(profile) for profile in plan.profiles]
        self.simulation = Simulation(texts[0], plan.seed, judge=self.judge, log=cast(io.StringIO, self.log),
                                     overlay=plan.overlay)
        self.simulation.identity = self.simulation.identity._replace(cpu_serial=f"{1:016x}")
        self.simulation.configurations = texts
        self.simulation.programs.follow(plan.profiles)
        self._changed_at = 0.0
        self._begun = 0
        self._lasting: dict[int, Callable[[], None]] = {}  # what ends each fault that lasts

    def live(self) -> Outcome:
        """Live it to its end, or to the first thing that does not hold."""
        simulation, plan = self.simulation, self.plan
        for fault in plan.faults:
            simulation.schedule.after(fault.at_s, partial(self._begin, fault))
        simulation.start()
        self._watch_over()
        self._run_until(plan.days * DAY_S)
        converged_s = None
        if not self._is_over():
            self._heal()
            healed_at = simulation.schedule.now
            converged_s = self._converge(healed_at)
        lived_s = simulation.schedule.now
        return Outcome(plan, lived_s, tuple(self.judge.findings), converged_s, sum(
            len(invariant.arrived_tokens) for invariant in self.judge.invariants if isinstance(invariant, Kept)),
            self.log.lines, self.log.digest.hexdigest()[:16], self.log.events, simulation.boots, tuple(self.log.tail))

    def _begin(self, fault: Fault) -> None:
        self._changed_at = self.simulation.schedule.now
        self.simulation.calm = False
        end = KINDS[fault.kind].begin(self.simulation, fault)
        if callable(end):
            self._begun += 1
            number = self._begun
            self._lasting[number] = end
            self.simulation.schedule.after(fault.for_s, partial(self._end, number))

    def _end(self, number: int) -> None:
        end = self._lasting.pop(number, None)
        if end is not None:
            self._changed_at = self.simulation.schedule.now
            self.simulation.calm = False
            end()

    def _watch_over(self) -> None:
        """From time to time: what repeats itself is left out once things have calmed down."""
        simulation = self.simulation
        simulation.calm = simulation.schedule.now - self._changed_at >= QUIET_S
        simulation.schedule.after(QUIET_S / 2, self._watch_over)

    def _heal(self) -> None:
        """All that still lasts is mended, in an order of chance, and what no time mends; the process is to run."""
        simulation = self.simulation
        lasting = list(self._lasting)
        random.Random(self.plan.seed).shuffle(lasting)
        for number in lasting:
            simulation.run(10.0 * simulation.chance())
            self._end(number)
        simulation.calm = False
        self._changed_at = simulation.schedule.now
        simulation.disk.dies_in = 0
        if simulation.daemon is None:
            simulation.restart(0.1)
        if not simulation.clock.is_set:
            simulation.clock.set()

    def _converge(self, healed_at: float) -> float | None:
        """Run until nothing is owed; return how long that took, None where it did not come."""
        simulation = self.simulation
        step_s = 1.0
        within_s = CONVERGES_S + self._period_s()
        while simulation.schedule.now < healed_at + within_s and not self._is_over():
            simulation.run(step_s)
            step_s = min(31.7, step_s * 1.2)  # of no interval a multiple: each look is at another moment of it
            owed = self.judge.owed()
            if not owed:
                took_s = simulation.schedule.now - healed_at
                self._run_until(simulation.schedule.now + self._period_s())
                self.judge.finish()
                owed = self.judge.owed()
                if owed and not self._is_over():  # a message may be just on its way
                    simulation.run(61.3)  # at another moment of its interval
                    owed = self.judge.owed()
                if owed:
                    self.judge.found(Finding("liveness", simulation.schedule.now,
                                             f"all was well, and then was not: {'; '.join(owed)}"))
                return took_s
        if not self._is_over():
            self.judge.found(Finding("liveness", simulation.schedule.now,
                                     f"not well {within_s:.0f} s after all was healed: {'; '.join(owed)}"))
        return None

    def _period_s(self) -> float:
        """Return for how long it is watched that all stays well: all is read, and every message made, once more."""
        values = [value.every_s or 0 for profile in self.plan.profiles for value in profile.values]
        topics = [topic.every_s for topic in topics_of(self.plan.profiles).values()]
        return 60.0 + max(values, default=0) + max(topics, default=0)

    def _run_until(self, end_s: float) -> None:
        """Let time pass, in pieces, unless something did not hold."""
        simulation = self.simulation
        while simulation.schedule.now < end_s and not self._is_over():
            simulation.run(min(6 * 3600.0, end_s - simulation.schedule.now))

    def _is_over(self) -> bool:
        return any(not finding.known for finding in self.judge.findings)


def live(plan: Plan) -> Outcome:
    """Live a plan."""
    return Life(plan).live()
