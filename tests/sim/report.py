"""What was lived through: a table for a terminal, and docs/simulation.md with its picture."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from tests.bench import plot
from tests.sim import marks
from tests.sim.mutants import MUTANTS

if TYPE_CHECKING:
    from tests.sim.__main__ import Told

YEAR_S = 365 * 86400.0
FOUND = Path(__file__).with_name("found.md")  # what lives have shown, by hand
_HEAD = """\
# Years on a roof

Written by `script/simulate --years N --write docs`; do not edit. The real kernel and every wing live on a simulated
world: a clock, a broker with a shadow service, a network, an access point, a disk, power. A seed draws a configuration,
the kinds of fault and how often they come; `script/simulate --seed S` lives it again, to the last line of the log.
"""


def table(told: Sequence[Told], took_s: float) -> str:
    """Return what was lived through, for a terminal."""
    lived_s, cpu_s = sum(life.lived_s for life in told), sum(life.cpu_s for life in told)
    failed = [life.seed for life in told if any(not known for _, _, _, known in life.findings)]
    rows = [("device-years", f"{lived_s / YEAR_S:.1f} in {len(told)} lives, {took_s:.0f} s"),
            ("a device-year", f"{cpu_s / lived_s * YEAR_S:.1f} s of one core"),
            ("messages", f"{sum(life.messages for life in told)}"),
            ("reboots and power cuts", f"{sum(life.reboots for life in told)}"),
            ("faults", f"{sum(len(life.faults) for life in told)} of {len(_faults(told))} kinds"),
            ("converged within", _converged(told)),
            ("known to be broken", ", ".join(f"{item} ({count} lives)" for item, count in sorted(_known(told).items()))
             or "nothing"),
            ("failing seeds", ", ".join(map(str, failed)) or "none")]
    return "\n".join(f"{name:24}{value}" for name, value in rows)


def write(folder: str, told: Sequence[Told]) -> None:
    """Write simulation.md and simulation.svg there."""
    from tests.sim.life import INVARIANTS

    lived_s, cpu_s = sum(life.lived_s for life in told), sum(life.cpu_s for life in told)
    text = _HEAD + (
        f"\n{lived_s / YEAR_S:.0f} device-years in {len(told)} lives by the seeds {min(life.seed for life in told)} to"
        f" {max(life.seed for life in told)}: {sum(life.messages for life in told):,} messages,"
        f" {sum(life.reboots for life in told):,} reboots and power cuts. {_verdict(told)} A device-year took"
        f" {cpu_s / lived_s * YEAR_S:.1f} s of one core on average, and one at a message every ten minutes, with"
        f" nothing going wrong, {_plain_cost_s():.1f} s.\n"
        "\n## What has to hold\n" + "".join(f"- **{kind.name}**: {kind.says}.\n" for kind in INVARIANTS) +
        "- **liveness**: from the moment when all is healed, in another order than it broke, everything converges.\n"
        f"\n## Convergence\nFrom the last fault healed until nothing was owed any more: {_converged(told)}.\n"
        "\n![How many lives had converged after how long](simulation.svg)\n"
        "\n## Faults\n| kind | how often |\n|---|---|\n" +
        "".join(f"| {kind} | {count:,} |\n" for kind, count in sorted(_faults(told).items())) +
        FOUND.read_text("utf-8") + _mutants() + _unreached(told))
    Path(folder, "simulation.md").write_text(text, "utf-8")
    times = sorted(life.converged_s for life in told if life.converged_s is not None)
    Path(folder, "simulation.svg").write_text(plot.cumulative(times, "device-lives that had converged"), "utf-8")


def _mutants() -> str:
    """Return the slips that lives catch and no other test does."""
    return ("\n## Mutants that only it catches\nEach of these slips in the code passes all other tests of the quick"
            " suite; a short life, in `tests/sim/mutants.py`, does not go well with it.\n\n"
            "| the slip | in | what it means to a fleet | what does not hold |\n|---|---|---|---|\n" +
            "".join(f"| {mutant.name} | `{mutant.module}` | {mutant.means} | {mutant.invariant} |\n"
                    for mutant in MUTANTS))


def _plain_cost_s() -> float:
    """Return what a device-year at a message every ten minutes costs, in seconds of one core."""
    from tests.sim.life import live
    from tests.sim.swarm import Plan, Profile, Wifi

    began_at = time.process_time()
    outcome = live(Plan(1, 60.0, (Profile(wifi=Wifi()),)))
    return (time.process_time() - began_at) * YEAR_S / outcome.lived_s


def _verdict(told: Sequence[Told]) -> str:
    failed = [life.seed for life in told if any(not known for _, _, _, known in life.findings)]
    known = ", ".join(f"{item} in {count}" for item, count in sorted(_known(told).items()))
    verdict = f"Seeds that failed: {', '.join(map(str, failed))}." if failed else "No invariant was broken."
    return verdict + (f" Known to be broken, by the item that mends it, and passed over: {known} lives."
                      if known else "")


def _converged(told: Sequence[Told]) -> str:
    times = sorted(life.converged_s for life in told if life.converged_s is not None)
    if not times:
        return "-"
    return (f"{times[len(times) // 2]:.0f} s (median), {times[int(len(times) * 0.95)]:.0f} s (95 %),"
            f" {times[-1]:.0f} s (worst)")


def _faults(told: Sequence[Told]) -> Counter[str]:
    return Counter(kind for life in told for kind in life.faults)


def _known(told: Sequence[Told]) -> Counter[str]:
    return Counter(item for life in told for item in {known for _, _, _, known in life.findings if known})


def _unreached(told: Sequence[Told]) -> str:
    """Return what none of these lives has reached."""
    reached = set().union(*(life.reached for life in told))
    events = marks.events() - {event for life in told for event in life.events}
    every = marks.known()[0]
    ways = [mark for number, mark in enumerate(every) if number not in reached]
    by_module: dict[str, list[marks.Mark]] = {}
    for mark in ways:
        by_module.setdefault(mark.module, []).append(mark)
    return ("\n## Never reached\n"
            f"Events of the log: {', '.join(f'`{event}`' for event in sorted(events)) or 'none'}.\n\n"
            f"Of the {len(every)} ways that the rules can take, {len(ways)}:\n\n" +
            "".join(f"- `{module}`: " + "; ".join(
                f"line {mark.line}, `{mark.asked}` {'true' if mark.answer else 'false'}" for mark in found) + "\n"
                for module, found in sorted(by_module.items())))
