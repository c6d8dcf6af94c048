"""The bench as a command: script/bench [--quick] [NAME ...]"""

from __future__ import annotations

import argparse
import sys
import time
from dataclasses import dataclass
from typing import Callable, Sequence

from tests.bench import fleet, growth, measure, plot, programs, report, spool
from tests.bench.figures import Figure, Section, verdicts
from tests.bench.ground import ALL, BARE, ROOT, Ground, install_peers
from tests.bench.measure import FULL, QUICK, Extent

PAGE = ROOT / "docs/performance.md"
RATIOS, FLEET = "performance.svg", "performance-fleet.svg"


@dataclass(frozen=True, slots=True)
class Measure:
    """One part of the bench, and the words above its table."""

    name: str
    title: str
    text: str
    take: Callable[[Ground, Extent], list[Figure]]
    quick: bool = False


MEASURES = (
    Measure("start", "Start", "Each is started in turn. Its first publish counts when another client of the broker has "
            "it, which is when the broker\nacknowledges it. Only iotd tells systemd that it is READY.",
            measure.start, quick=True),
    Measure("memory", "Memory", "Each runs alone, read after about 700 messages at 100 a second. PSS divides what is "
            "shared among those who share it\n(the bench is a Python process too), private is what would be free "
            "without it, Rss counts every page whole.", measure.memory, quick=True),
    Measure("run", "The long run", "Each runs twice at the same time as all others: at 100 messages a second, and idle "
            "with a message and a report every\n30 s. Samples are minutes. iotd is watched by systemd here, and tells "
            "it four times a minute that it is well.", measure.run, quick=True),
    Measure("log", "The log", "Another client sends each in turn 5,000 messages as fast as the broker takes them, and "
            "each logs them.", measure.log),
    Measure("flat-out", "Flat out", "As fast as it goes, with 100 unacknowledged messages in flight. iotd makes more "
            "than it can send, and keeps the surplus\nin its spool.", measure.flat_out),
    Measure("spool", "The spool", "Relaxed, a message is written to memory that outlives the process; strict, each is "
            "on the disk before it is sent.", spool.speed),
    Measure("spool", "Draining a backlog", f"{spool.BACKLOG:,} messages wait: iotd's in its spool on the disk, the "
            f"script's in its memory. No limits; each keeps {spool.WINDOW}\nunacknowledged ones in flight.",
            spool.drain),
    Measure("spool", "Draining under the limits of AWS IoT Core", "AWS takes 100 publishes a second from a connection, "
            "and discards what is beyond. Measured for a minute, and what the\nwhole backlog would take told from it.",
            spool.limited),
    Measure("local", "Messages of a program", f"`iotd publish --lines` hands over {programs.MESSAGES:,} messages of "
            f"{programs.BYTES} bytes as fast as it can, and the script\nsends as many from its memory. No limits; each "
            f"keeps {spool.WINDOW} unacknowledged ones in flight.", programs.publish),
    Measure("local", "Values", f"{programs.VALUES:,} values are read from files, each once a second; half of them have "
            "changed. Samples are seconds.", programs.values),
    Measure("entries", "How the cost grows with `publish` entries", "Daemons with so many entries, each due every "
            "30 s; they run beside one another.", growth.entries),
    Measure("shadows", "How the cost grows with shadows", "Daemons with so many shadows, each reported every 30 s.",
            growth.shadows),
    Measure("fleet", "A fleet whose broker is restarted", f"{fleet.DEVICES} daemons are connected to one broker, which "
            "is stopped and started again at once.", fleet.restart),
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure what is asked for; return the exit status."""
    names = list(dict.fromkeys(entry.name for entry in MEASURES))
    parser = argparse.ArgumentParser(prog="script/bench", description=(
        "Measures iotd beside a bare paho script and AWS's SDKs. Without a NAME everything, which takes about 25 "
        f"minutes and is written to docs/performance.md. NAME is one of {', '.join(names)}."))
    parser.add_argument("--quick", action="store_true", help="beside the bare paho script only, in less than three "
                        "minutes; ends with 1 where a bound is missed for sure, by more than its tolerance")
    parser.add_argument("names", metavar="NAME", nargs="*")
    options = parser.parse_args(arguments)
    if unknown := set(options.names) - set(names):
        parser.error(f"unknown measure {', '.join(sorted(unknown))}; known are {', '.join(names)}")
    chosen = [entry for entry in MEASURES
              if (entry.name in options.names if options.names else entry.quick or not options.quick)]
    sections = _taken(chosen, QUICK if options.quick else FULL)
    if options.quick:
        return _judged(sections)
    if not options.names:
        _write(sections)
    return 0


def _taken(chosen: Sequence[Measure], extent: Extent) -> list[Section]:
    """Take the measures, and show each as soon as it is there."""
    if set(extent.names) - {BARE, "iotd"}:
        install_peers()
    sections = []
    with Ground() as ground:
        for entry in chosen:
            began_at = time.monotonic()
            sections.append(Section(entry.title, entry.text, entry.take(ground, extent)))
            print(report.table(sections[-1]), flush=True)
            print(f"{entry.name}: {time.monotonic() - began_at:.0f} s", file=sys.stderr)
    print(report.bounds(list(verdicts(sections))))
    return sections


def _judged(sections: Sequence[Section]) -> int:
    """Say which bounds are missed by more than the tolerance; return the exit status."""
    missed = [verdict for verdict in verdicts(sections) if verdict.is_missed_for_sure()]
    for verdict in missed:
        of = f" × {verdict.bound.against}" if verdict.bound.against else f" {verdict.figure.unit}"
        print(f"script/bench: {verdict.figure.name}: {report.number(verdict.measured)}{of}, over the bound of "
              f"{report.number(verdict.bound.limit)}{of} by more than {verdict.bound.tolerance:.0%} in all samples",
              file=sys.stderr)
    return 1 if missed else 0


def _write(sections: Sequence[Section]) -> None:
    """Write docs/performance.md and its pictures."""
    figures = [figure for section in sections for figure in section.figures]
    bounded = [figure for figure in figures
               if any(bound.against == BARE and not bound.floor for bound in figure.bounds)]
    times = next(figure.samples for figure in figures if figure.name == fleet.TIMES)
    (PAGE.parent / RATIOS).write_text(plot.ratios(bounded, ALL, BARE), "utf-8")
    (PAGE.parent / FLEET).write_text(plot.spread(times, fleet.WINDOW_S, fleet.MOST_IN_A_WINDOW), "utf-8")
    PAGE.write_text(report.page(sections, [RATIOS, FLEET]), "utf-8")


if __name__ == "__main__":
    sys.exit(main())
