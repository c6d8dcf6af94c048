"""The judge: what has to hold whatever happens, watched from outside all the time, and what is owed when all is well.

Written against what the manual promises. Each invariant is a small watcher of its own; the judge lets each of them see
what it asks for, and collects what they find.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from tests.sim.watching import Watching

if TYPE_CHECKING:
    from tests.sim.swarm import Plan
    from tests.sim.world import Simulation

# What is known to be broken, by invariant and the beginning of the finding, with the item of the issue that mends it.
KNOWN: dict[tuple[str, str], str] = {}


class Finding(NamedTuple):
    """An invariant that did not hold, at the true time `at`, in the seconds of the simulation."""

    invariant: str
    at: float
    text: str

    @property
    def known(self) -> str:
        """The item by which it is known already, nothing where it is news."""
        for (invariant, beginning), item in KNOWN.items():
            if invariant == self.invariant and self.text.startswith(beginning):
                return item
        return ""


class Invariant(Watching):
    """One thing that has to hold; `says` is the sentence for it."""

    name = ""
    says = ""

    def __init__(self, judge: Judge) -> None:
        self.judge_of_all = judge
        self.plan = judge.plan

    def begin(self, simulation: Simulation) -> None:
        """This is what there is to watch."""
        self.simulation = simulation

    @property
    def now(self) -> float:
        """The true time."""
        return self.simulation.schedule.now

    def broken(self, text: str) -> None:
        """It does not hold."""
        self.judge_of_all.found(Finding(self.name, self.now, text))

    def rests(self) -> str:
        """Return how a finding begins that comes of something denied."""
        daemon = self.simulation.daemon
        return "denied: " if daemon is not None and daemon._line.opening.suspicion.resting else ""

    def owed(self) -> str:
        """Return what is still to come now that all is well, nothing where all has come."""
        return ""

    def finish(self) -> None:
        """The life is over, and all that was owed has come: say what is not as it should be."""


class Judge(Watching):
    """All invariants over one life. `findings` is what did not hold, `excuses` until when what is excused."""

    def __init__(self, plan: Plan, kinds: tuple[type[Invariant], ...]) -> None:
        self.plan = plan
        self.findings: list[Finding] = []
        self.invariants = [kind(self) for kind in kinds]
        for name in vars(Watching):
            if not name.startswith("_"):
                self._let_see(name)

    def found(self, finding: Finding) -> None:
        """Take a finding; one of each invariant is enough, and one of each that is known."""
        if (finding.invariant, finding.known) not in {(other.invariant, other.known) for other in self.findings}:
            self.findings.append(finding)

    def owed(self) -> list[str]:
        """Return what has not come yet, and is not known to be broken."""
        return [f"{invariant.name}: {what}" for invariant in self.invariants
                if (what := invariant.owed()) and not Finding(invariant.name, 0.0, what).known]

    def finish(self) -> None:
        """Have every invariant say what is not as it should be."""
        for invariant in self.invariants:
            invariant.finish()

    def _let_see(self, name: str) -> None:
        """Have what happens told to those who ask for it, and to nobody else."""
        asking = [getattr(invariant, name) for invariant in self.invariants
                  if getattr(type(invariant), name) is not getattr(Watching, name)]
        if len(asking) == 1:
            setattr(self, name, asking[0])
        elif asking:
            def tell(*arguments: Any, **named: Any) -> None:
                for listener in asking:
                    listener(*arguments, **named)

            setattr(self, name, tell)
