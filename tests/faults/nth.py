"""The Nth call fails, for every N: the real daemon under strace, which has one system call return an error instead.

    python3 -m tests.faults.nth [--minutes M] [--seed S]

fsync, write, rename and openat of the files in the state and the runtime directory, and every connect, fail once or
from the Nth on, for N = 1, 2, … until a run meets none. Afterwards the same device runs without faults. It ends when it
is asked to, says what it met, has no bug, loses nothing that it had kept, and asks for no reboot. Within `--minutes`
as many of these runs as there is time for, by the seed; without it all of them, which takes some ten minutes.
"""

from __future__ import annotations

import argparse
import itertools
import json
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from tests.faults.device import STARTS_S, Device
from tests.faults.storm import _journalled, _stored
from tests.mosquitto import Mosquitto
from tests.observer import Observer

CALLS = {  # what fails, and how
    "fsync,fdatasync": ("EIO", "ENOSPC"), "write,pwrite64": ("EIO", "ENOSPC"), "rename": ("EIO", "ENOSPC"),
    "openat": ("EMFILE", "EIO"), "connect": ("EMFILE", "ECONNREFUSED")}
FILES = {  # in the two directories; strace follows a descriptor by the path that it was opened by
    "state": ("", "spool.db", "spool.db-wal", "spool.db-shm", "spool.db-journal", ".desired.json.new",
              ".last_reboot.json.new", ".reboots.json.new", ".accepted.yaml.new", ".ended.json.new",
              ".retained.json.new"),
    "run": ("", "spool.journal", "spool.journal.new", ".status.json.new", ".subscriptions.json.new",
            ".boot.json.new")}
MOST = 60  # a run makes fewer calls
LIVES_S, DRAINS_S = 1.5, 15.0
SIDE_BY_SIDE = 4


class Trial(NamedTuple):
    """One run: the Nth of these calls fails so, or all from it on; with the spool on the disk first, or not."""

    calls: str
    error: str
    number: int
    for_good: bool
    strict: bool

    def words(self) -> str:
        """Return what fails, in words."""
        return (f"{self.calls} number {self.number}{' and all after it' if self.for_good else ''}: {self.error}"
                f"{', strict' if self.strict else ''}")

    def strace(self, directory: Path) -> list[str]:
        """Return the command that has it fail."""
        paths = [] if self.calls == "connect" else [
            argument for folder, names in FILES.items() for name in names for argument in ("-P", str(
                directory / folder / name))]
        return ["strace", "-D", "-f", "-qq", "-y", "-o", str(directory / "trace"), "-e", f"trace={self.calls}", "-e",
                f"inject={self.calls}:error={self.error}:when={self.number}{'+' if self.for_good else ''}", *paths]


class Found(NamedTuple):
    """What a trial has shown, and whether it met a fault at all."""

    trial: Trial
    met: bool
    findings: tuple[str, ...]


def trials(chance: random.Random | None) -> Iterator[tuple[Trial, ...]]:
    """Yield the series of trials, in each of which N counts up; by chance in another order, and from another N."""
    series = list(itertools.product(CALLS, (0, 1), (False, True), (False, True)))
    if chance is not None:
        chance.shuffle(series)
    for calls, which, for_good, strict in series:
        first = 1 if chance is None else chance.randrange(1, 4)
        yield tuple(Trial(calls, CALLS[calls][which], number, for_good, strict) for number in range(first, MOST))


def settings(port: int, thing: str, trial: Trial, silent: bool) -> dict[str, object]:
    """Return a configuration: two topics often enough to need every file, or none for what is left to drain."""
    return {"thing": thing, "mqtt": {"host": "127.0.0.1", "port": port, "limits": "none",
                                     "backoff": {"first": "1s", "max": "1s"}},
            "spool": {"durability": "strict" if trial.strict else "relaxed"},
            "publish": [] if silent else [
                {"topic": f"nth/{thing}/{number}", "every": "200ms", "retain": False,
                 "payload": {"n": "{sequence}", "run": "{run}"}} for number in range(2)]}


def live(trial: Trial, broker: Mosquitto, observer: Observer, directory: Path) -> Found:
    """Live through a trial."""
    thing = directory.name
    findings: list[str] = []
    directory.mkdir()
    device = Device(directory, settings(broker.port, thing, trial, silent=False), trial.strace(directory))
    try:
        device.start()
        if device.wait_for("daemon.started", STARTS_S) is None:
            findings.append(f"it did not start: {device.noise[-5:]}")
        time.sleep(LIVES_S)
        kept = _end(device, findings)
        again = Device(directory, settings(broker.port, thing, trial, silent=True))
        try:
            again.start()
            again.wait_for("daemon.started", STARTS_S)
            deadline = time.monotonic() + DRAINS_S
            while time.monotonic() < deadline and not kept <= _arrived(observer, thing):
                time.sleep(0.1)
            _end(again, findings)
        finally:
            again.kill()
    finally:
        device.kill()
    lines = device.lines + again.lines
    lost = sorted(kept - _arrived(observer, thing))
    if lost:
        findings.append(f"{len(lost)} messages that were kept never arrived, such as {lost[0]}")
    if not any(line["event"] == "spool.dropped" for line in lines):
        findings += _holes(kept | _arrived(observer, thing))
    findings += [str(line) for line in lines if line["event"] == "daemon.fault"]
    findings += [f"on stderr: {line}" for line in (*device.noise, *again.noise)]
    if (directory / "run" / "recover" / "reboot").exists():
        findings.append("it asked for a reboot")
    trace = directory / "trace"
    traced = trace.read_text("utf-8", "replace").splitlines() if trace.exists() else []
    told = any(line["level"] in ("warning", "error") for line in device.lines)
    if trial.for_good and trial.calls not in ("connect", "fsync,fdatasync") and not told and _is_owed_a_word(traced):
        findings.append("nothing is said of files that cannot be written")
    return Found(trial, any(line.endswith("(INJECTED)") for line in traced), tuple(findings))


def _is_owed_a_word(traced: list[str]) -> bool:
    """Tell whether anything failed that iotd learns of.

    When it closes a file SQLite passes over that it cannot be checkpointed, and that its directory cannot be opened to
    be synced, which only SQLite does without O_DIRECTORY: all of it is still in the write-ahead log.
    """
    ends = next((index for index, line in enumerate(traced) if "--- SIGTERM" in line), len(traced))
    return any(line.endswith("(INJECTED)") and not (index > ends and _is_of_sqlite(line))
               for index, line in enumerate(traced))


def _is_of_sqlite(line: str) -> bool:
    return "/state/spool.db" in line or '/state", O_RDONLY|O_CLOEXEC)' in line


def _end(device: Device, findings: list[str]) -> set[tuple[str, str, int]]:
    """Stop the device; return what it has kept."""
    try:
        status = device.stop()
        if status:
            findings.append(f"it stopped with status {status}")
    except subprocess.TimeoutExpired:
        findings.append("it did not stop")
    return {_key(topic, payload) for topic, payload, _ in (*_stored(device.state), *_journalled(device.runtime))
            if topic.startswith("nth/")}


def _key(topic: str, payload: bytes) -> tuple[str, str, int]:
    body = json.loads(payload)
    return topic, body["run"], body["n"]


def _arrived(observer: Observer, thing: str) -> set[tuple[str, str, int]]:
    return {_key(message.topic, message.payload) for message in observer.messages
            if message.topic.startswith(f"nth/{thing}/")}


def _holes(keys: set[tuple[str, str, int]]) -> list[str]:
    """Return the numbers that are nowhere, though nothing was said of it."""
    numbers: dict[tuple[str, str], set[int]] = {}
    for topic, run, number in keys:
        numbers.setdefault((topic, run), set()).add(number)
    return [f"{topic}: {sorted(set(range(1, max(found))) - found)} are nowhere, and nothing was said"
            for (topic, _), found in numbers.items() if set(range(1, max(found))) - found]


def run(minutes: float | None, seed: int) -> list[Found]:
    """Live through all trials, or as many as there is time for."""
    chance = None if minutes is None else random.Random(seed)
    deadline = time.monotonic() + (1e9 if minutes is None else minutes * 60)
    with tempfile.TemporaryDirectory(prefix="iotd-nth-") as place:
        (Path(place) / "broker").mkdir()
        with Mosquitto(Path(place) / "broker", None) as broker, Observer(broker) as observer:
            observer.subscribe("nth/#")
            numbers = itertools.count()

            def count_up(series: tuple[Trial, ...]) -> list[Found]:
                found: list[Found] = []
                for trial in series:
                    if time.monotonic() > deadline:
                        break
                    found.append(live(trial, broker, observer, Path(place) / f"t{next(numbers)}"))
                    if not found[-1].met:
                        break
                return found

            with ThreadPoolExecutor(SIDE_BY_SIDE) as pool, suppress(KeyboardInterrupt):
                return [found for several in pool.map(count_up, trials(chance)) for found in several]
    return []


def main() -> int:
    """Print what was found; exit 0 where that is nothing."""
    parser = argparse.ArgumentParser(prog="python3 -m tests.faults.nth")
    parser.add_argument("--minutes", type=float)
    parser.add_argument("--seed", type=int, default=random.randrange(10**6))
    options = parser.parse_args()
    print(f"seed {options.seed}", flush=True)
    found = run(options.minutes, options.seed)
    for one in found:
        if one.findings:
            print(f"{one.trial.words()}:", *one.findings, sep="\n  - ")
    bad = sum(bool(one.findings) for one in found)
    print(f"{'FAIL' if bad else 'PASS'}: {len(found)} runs, a fault met in {sum(one.met for one in found)} of them;"
          f" {bad} did not go as they should")
    return 1 if bad or not found else 0


if __name__ == "__main__":
    sys.exit(main())
