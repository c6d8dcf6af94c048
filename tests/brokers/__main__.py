"""The main job on the brokers that are named, or on all; a table of what was found.

    python3 -m tests.brokers [--outage SECONDS] [--write] [BROKER…]

Exit status 1 where a broker is other than its adapter says. `--write` puts the table into docs/brokers.md.
"""

from __future__ import annotations

import argparse
import re
import sys
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

from tests.brokers.brokers import BROKERS, SEEN, Broker
from tests.brokers.job import STEPS, Job
from tests.certificates import make_certificates

PAGE = Path(__file__).parents[2] / "docs/brokers.md"
AT_ONCE = 3
BEGIN, END = "<!-- script/test-brokers --write: begin -->\n", "<!-- end -->\n"


def main() -> int:
    """Run it."""
    parser = argparse.ArgumentParser(prog="script/test-brokers", description=__doc__.splitlines()[0])
    parser.add_argument("brokers", nargs="*", metavar="BROKER", help=", ".join(kind.key for kind in BROKERS))
    parser.add_argument("--outage", type=float, default=120.0, metavar="SECONDS", help="default: %(default)s")
    parser.add_argument("--write", action="store_true", help="put the table into docs/brokers.md")
    options = parser.parse_args()
    known = {kind.key: kind for kind in BROKERS}
    unknown = [name for name in options.brokers if name.lower() not in known]
    if unknown:
        parser.error(f"unknown: {', '.join(unknown)}; known are {', '.join(known)}")
    kinds = [known[name.lower()] for name in options.brokers] or BROKERS
    rows: list[tuple[type[Broker], str, dict[str, str]]] = []
    failed = False
    with ThreadPoolExecutor(AT_ONCE) as pool:  # side by side, since most of their time is the outage
        for kind, (version, found, took_s) in zip(kinds, pool.map(partial(_timed, options.outage), kinds)):
            wrong = {step: said for step, said in found.items() if said != expected(kind)[step]}
            failed = failed or bool(wrong)
            rows.append((kind, version, found))
            print(f"{kind.key} {version}: {'as expected' if not wrong else wrong}, {took_s:.0f} s", flush=True)
    print(table(rows))
    if options.write:
        put(BEGIN, table(rows), END)
    return 1 if failed else 0


def _timed(outage_s: float, kind: type[Broker]) -> tuple[str, dict[str, str], float]:
    began = time.monotonic()
    return *examine(kind, outage_s), time.monotonic() - began


def examine(kind: type[Broker], outage_s: float) -> tuple[str, dict[str, str]]:
    """Return the version of the broker, and what the job finds on it."""
    with TemporaryDirectory() as directory:
        path = Path(directory)
        for name in ("broker", "certificates", "iotd"):
            (path / name).mkdir()
        certificates = make_certificates(path / "certificates")
        broker = kind(path / "broker", certificates)
        return broker.version(), Job(broker, certificates, path / "iotd", outage_s).run()


def expected(kind: type[Broker]) -> dict[str, str]:
    """Return what is to be found on it."""
    return {**dict.fromkeys(STEPS, SEEN), "session": kind.session}


def put(begin: str, text: str, end: str) -> None:
    """Write the text into docs/brokers.md between these two lines."""
    page = PAGE.read_text("utf-8")
    PAGE.write_text(re.sub(f"(?s){begin}.*?{end}", lambda _: f"{begin}{text}{end}", page), "utf-8")


def table(rows: Sequence[tuple[type[Broker], str, Mapping[str, str]]]) -> str:
    """Return the table in Markdown."""
    head = ["broker", "version", "from", *(step if step != "session" else "session over a restart" for step in STEPS)]
    lines = [head, ["---"] * len(head)]
    lines += [[kind.name, version, kind.origin, *(found.get(step, "") for step in STEPS)]
              for kind, version, found in rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


if __name__ == "__main__":
    sys.exit(main())
