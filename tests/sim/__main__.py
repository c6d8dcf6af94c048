"""Lives lives by seed and says what did not hold: script/simulate [--years N] [--seed S] [--shrink] [--write docs/…]

Exit 0 where every invariant held, 1 where one did not, but for those that are known to be broken.
"""

from __future__ import annotations

import argparse
import math
import multiprocessing
import os
import sys
import time
from collections.abc import Callable, Iterator
from typing import NamedTuple, TextIO

from tests.sim import marks

YEAR_S = 365 * 86400.0
SEEDS = 1 << 30


class Told(NamedTuple):
    """What a worker tells of one life."""

    seed: int
    lived_s: float
    cpu_s: float
    converged_s: float | None
    messages: int
    reboots: int
    lines: int
    digest: str
    faults: tuple[str, ...]
    findings: tuple[tuple[str, float, str, str], ...]  # invariant, when, what, by which item it is known
    events: tuple[str, ...]
    reached: frozenset[int]


def main() -> int:
    """Live so many years, side by side; print what was lived through and the seeds that failed."""
    parser = argparse.ArgumentParser(prog="script/simulate", description="Live device-years by seed.")
    parser.add_argument("--years", type=float, default=1.0, help="device-years in all (default: 1)")
    parser.add_argument("--minutes", type=float, default=math.inf, help="end after so many, whatever the years")
    parser.add_argument("--seed", type=int, help="the first seed, without --years the only one (default: by chance)")
    parser.add_argument("--shrink", action="store_true", help="make each life that fails smaller, print it as a test")
    parser.add_argument("--log", action="store_true", help="print the end of the log of each life that failed")
    parser.add_argument("--write", metavar="FOLDER", help="write simulation.md and its picture there")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="processes side by side")
    options = parser.parse_args()
    only = options.seed is not None and "--years" not in " ".join(sys.argv)
    first = options.seed if options.seed is not None else int.from_bytes(os.urandom(3), "big")
    print(f"seeds from {first}", flush=True)
    started_at = time.monotonic()
    told = list(_lived(first, 1 if only else SEEDS, options.years * YEAR_S, options.minutes * 60.0,
                       options.jobs, marks.instrument if options.write else None, sys.stderr))
    from tests.sim import report

    print(report.table(told, time.monotonic() - started_at))
    failed = [life for life in told if any(not known for _, _, _, known in life.findings)]
    for life in failed:
        _say(life, options.shrink, options.log)
    if options.write:
        report.write(options.write, told)
    return 1 if failed else 0


def _lived(
    first: int, count: int, enough_s: float, limit_s: float, jobs: int, initializer: Callable[[], None] | None,
    progress: TextIO
) -> Iterator[Told]:
    """Live one seed after the other until that is enough or takes too long, with a bar of how far it is; so many years
    from a seed on are the same lives, however many processes live them.
    """
    lived_s, broken, shown = 0.0, 0, -1
    started_at = time.monotonic()
    with multiprocessing.Pool(min(jobs, count), initializer) as pool:
        for told in pool.imap(_live, range(first, first + count)):
            yield told
            lived_s += told.lived_s
            for invariant, _, text, known in told.findings:
                if not known:
                    broken += 1
                    print(f"seed {told.seed}: {invariant}: {text.splitlines()[-1][:200]}", file=progress, flush=True)
            part = min(1.0, lived_s / enough_s if count > 1 else 1.0)
            if progress.isatty() or int(part * 10) != shown:
                shown = int(part * 10)
                left_s = (time.monotonic() - started_at) * (1 - part) / part
                bar = "#" * int(part * 30)
                text = f"[{bar:30}] {lived_s / YEAR_S:.1f} device-years, {broken} broken, {left_s / 60:.0f} min left"
                print(text, end="\r" if progress.isatty() else "\n", file=progress, flush=True)
            if lived_s >= enough_s or time.monotonic() - started_at >= limit_s:
                break
        pool.terminate()
    if progress.isatty():
        print(file=progress)


def _live(seed: int) -> Told:
    """Live one life, in a worker."""
    from tests.sim.life import live
    from tests.sim.swarm import draw

    marks.REACHED.clear()
    began_at = time.process_time()
    outcome = live(draw(seed))
    return Told(seed, outcome.lived_s, time.process_time() - began_at, outcome.converged_s, outcome.messages,
                outcome.reboots, outcome.lines, outcome.digest, tuple(
                    fault.kind for fault in outcome.plan.faults if fault.at_s <= outcome.lived_s),
                tuple((finding.invariant, finding.at, finding.text, finding.known) for finding in outcome.findings),
                tuple(outcome.events), frozenset(marks.REACHED))


def _say(life: Told, shrink: bool, log: bool) -> None:
    """Print what did not hold in a life, and the smallest one that fails so."""
    from tests.sim.life import live
    from tests.sim.shrink import as_test, broken, shrunk
    from tests.sim.swarm import draw

    for invariant, at, text, known in life.findings:
        if known:
            continue
        print(f"\nseed {life.seed}: {invariant} did not hold at {at:.0f} s:\n{text}")
        plan = draw(life.seed)
        if shrink:
            plan = shrunk(plan, broken(invariant))
            print(as_test(plan, invariant))
        if log:
            print("".join(live(plan).tail[-40:]))


if __name__ == "__main__":
    sys.exit(main())
