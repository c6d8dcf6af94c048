"""Faults at random moments, by a seed, and the proof that nothing is lost: python3 -m tests.faults.storm

A real mosquitto and a real iotd behind a proxy. iotd is killed and stopped, the broker is killed and restarted, the
line is cut, frozen, delayed and refused, the disk and the runtime directory are filled. Programs publish through it all
the time. Each message carries the id of its run and its number. In the end every message that was in the spool when
iotd was killed or that a program was told is kept, and every number below the highest of its run, has been acknowledged
by the broker, and the retained slots hold the newest.

Runs in a mount namespace of its own, so that the two small file systems vanish with it.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Callable, Sequence

from tests.faults.device import ROOT, STARTS_S, Device
from tests.faults.lab import THING
from tests.faults.programs import Program
from tests.faults.proxy import Key, Ledger, Proxy, key_of
from tests.mosquitto import Mosquitto
from tests.observer import Observer

TOPICS = "storm/"
EVERY_MS = {"storm/0": 20, "storm/1": 50, "storm/2": 100, "storm/3": 100}
RETAINED = ("storm/0", "storm/2")
PROGRAMS = ("storm/program/0", "storm/program/1", "storm/program/2")
DEAD_LINE_S = 1.5 * 5 + 10
STALE_S = 5.0  # what a busy test host may keep the loop from making a message
DRAIN_S = 120.0
SLACK_S = 2.0  # between the PUBACK on the wire and the row's end in the spool
BALLAST = "ballast"


@dataclass(slots=True)
class Outcome:
    """What a storm has shown."""

    seed: int
    faults: Counter[str] = field(default_factory=Counter)
    messages: int = 0
    of_programs: int = 0
    repeats: int = 0
    findings: list[str] = field(default_factory=list)
    took_s: float = 0.0

    def good(self) -> bool:
        """Tell whether nothing was found."""
        return not self.findings

    def sentence(self) -> str:
        """Return the outcome for a person."""
        kinds = ", ".join(f"{count} × {name}" for name, count in sorted(self.faults.items()))
        found = "".join(f"\n- {finding}" for finding in self.findings)
        return (f"{'PASS' if self.good() else 'FAIL'}: seed {self.seed}, {sum(self.faults.values())} faults in "
                f"{self.took_s:.0f} s ({kinds}); {self.messages} messages acknowledged, {self.of_programs} of them of "
                f"programs, {self.repeats} sent more than once{found}")


class Storm:
    """One storm in a directory that is its own; `run` does all of it."""

    def __init__(self, directory: Path, faults: int, seed: int) -> None:
        self._chance = random.Random(seed)
        self._faults = faults
        self._outcome = Outcome(seed)
        self._directory = directory
        (directory / "broker").mkdir(parents=True)
        self._mosquitto = Mosquitto(directory / "broker", None)
        self._mosquitto.start()
        self._ledger = Ledger(TOPICS)
        self._proxy = Proxy(self._mosquitto.port, self._ledger)
        self._device = Device(directory / "device", self._settings())
        for place in (self._device.state, self._device.runtime):
            subprocess.run(["mount", "-t", "tmpfs", "-o", "size=16m", "tmpfs", str(place)], check=True)
        self._kept: dict[Key, float] = {}
        self._programs: list[Program] = []
        self._full: Path | None = None
        self._troubles: list[float] = []  # when a device was killed, the line fell, or a directory was full

    def run(self) -> Outcome:
        """Let the faults happen, then calm, and prove."""
        started_at = time.monotonic()
        try:
            self._start()
            self._programs = [Program(self._device.runtime / "iotd.sock", topic,
                                      random.Random(f"{self._outcome.seed} {topic}")) for topic in PROGRAMS]
            for _ in range(self._faults):
                self._pause(0.05, 1.3)
                self._strike()
            time.sleep(1)  # for the newest of each topic to be made after whatever has come over the broker
            self._calm()
            self._prove()
        finally:
            self._device.kill()
            self._proxy.close()
            self._mosquitto.kill()
            for place in (self._device.state, self._device.runtime):
                subprocess.run(["umount", str(place)], check=False)
        self._outcome.took_s = time.monotonic() - started_at
        return self._outcome

    def _settings(self, silent: bool = False) -> dict[str, object]:
        return {
            "thing": THING, "log": {"level": "info"}, "local": {"publish": [f"{TOPICS}#"]},
            "mqtt": {"host": "127.0.0.1", "port": self._proxy.port, "keepalive": "5s", "limits": "none",
                     "backoff": {"first": "1s", "max": "2s"}},
            "publish": [] if silent else [
                {"topic": topic, "every": f"{every}ms", "retain": topic in RETAINED,
                 "payload": {"n": "{sequence}", "run": "{run}", "up": "{uptime}"}}
                for topic, every in EVERY_MS.items()]}

    def _strike(self) -> None:
        kinds: dict[str, tuple[int, Callable[[], None]]] = {
            "kill iotd": (22, self._kill), "stop iotd": (12, self._stop),
            "kill the broker": (12, lambda: self._down(self._mosquitto.kill)),
            "restart the broker": (6, lambda: self._down(self._mosquitto.stop)),
            "cut the line": (22, lambda: self._cut(reset=True)),
            "close the line": (6, lambda: self._cut(reset=False)),
            "refuse the line": (5, self._refuse), "delay the line": (5, self._delay),
            "flap the line": (2, self._flap), "freeze the line": (1, self._freeze), "suspend iotd": (3, self._suspend),
            "fill the disk": (6, lambda: self._fill(self._device.state)),
            "fill the runtime directory": (6, lambda: self._fill(self._device.runtime)),
        }
        name = self._chance.choices(list(kinds), [weight for weight, _ in kinds.values()])[0]
        self._troubles.append(time.monotonic())
        kinds[name][1]()
        self._troubles.append(time.monotonic())
        self._outcome.faults[name] += 1

    def _pause(self, least_s: float, most_s: float) -> None:
        time.sleep(self._chance.uniform(least_s, most_s))

    def _start(self) -> None:
        count = len(self._device.said("daemon.started"))
        self._device.start()
        if not self._device.wait_for("daemon.started", STARTS_S, lambda _: len(
                self._device.said("daemon.started")) > count):
            raise RuntimeError(f"iotd did not start: {self._device.noise}")

    def _kill(self) -> None:
        self._device.kill()
        self._take_stock()
        self._start()

    def _stop(self) -> None:
        status = self._device.stop()
        if status:
            self._outcome.findings.append(f"iotd stopped with status {status}")
        self._take_stock()
        left = len(_journalled(self._device.runtime))
        if left and self._full is None:
            self._outcome.findings.append(f"{left} messages were left in the runtime directory by a clean stop")
        self._start()

    def _down(self, end: Callable[[], None]) -> None:
        end()
        self._pause(0, 1)
        self._mosquitto.start()

    def _cut(self, reset: bool) -> None:
        self._troubles.append(time.monotonic())
        self._proxy.cut(reset)

    def _refuse(self) -> None:
        self._proxy.refuse()
        self._cut(reset=True)
        self._pause(0.2, 2)
        self._proxy.listen()

    def _delay(self) -> None:
        self._proxy.delay_s = self._chance.uniform(0.05, 0.5)
        self._pause(0.5, 2)
        if self._chance.random() < 0.5:
            self._cut(reset=True)
        self._proxy.delay_s = 0.0

    def _flap(self) -> None:
        """Cut four lines in a row as soon as something goes over them, slow ones at times, as a bad Wi-Fi does."""
        self._proxy.delay_s = self._chance.choice((0.0, 0.3))
        for _ in range(4):
            before = len(self._device.said("session.connected"))
            self._cut(reset=self._chance.random() < 0.7)
            self._device.wait_for("session.connected", 10, lambda _: len(
                self._device.said("session.connected")) > before)
            self._pause(0, 1.5)
        self._cut(reset=True)
        self._proxy.delay_s = 0.0

    def _freeze(self) -> None:
        before = len(self._device.said("session.connected"))
        self._proxy.freeze()
        frozen_at = time.monotonic()
        if not self._device.wait_for("session.connected", DEAD_LINE_S + 8, lambda _: len(
                self._device.said("session.connected")) > before):
            self._outcome.findings.append(f"a frozen line was not replaced within {time.monotonic() - frozen_at:.0f} s")
            self._cut(reset=True)

    def _suspend(self) -> None:
        os.kill(self._device.pid, signal.SIGSTOP)
        self._pause(0.1, 1.5)
        os.kill(self._device.pid, signal.SIGCONT)

    def _fill(self, place: Path) -> None:
        """Fill one of the two directories; it has room again when this is asked for the next time."""
        if self._full is not None:
            (self._full / BALLAST).unlink()
            self._full = None
            return
        self._full = place
        with suppress(OSError), (place / BALLAST).open("wb", buffering=0) as file:
            while True:
                file.write(bytes(4096))

    def _take_stock(self) -> None:
        """Note what the spool holds while iotd is down: all of it must arrive."""
        uptime_s = time.clock_gettime(time.CLOCK_BOOTTIME)
        rows = _stored(self._device.state) + _journalled(self._device.runtime)
        for topic, payload, aside in rows:
            if topic.startswith(TOPICS):
                self._kept[key_of(topic, payload)] = json.loads(payload)["up"]
                if aside:
                    self._outcome.findings.append(f"{key_of(topic, payload)} is set aside")
        silent_s = uptime_s - max([self._ledger.newest_s, *self._kept.values()])
        if silent_s > STALE_S:
            self._outcome.findings.append(f"what iotd made in its last {silent_s:.0f} s was nowhere when it ended")

    def _calm(self) -> None:
        """Mend everything, and let the backlog drain into the broker."""
        self._proxy.delay_s = 0.0
        if self._full is not None:
            self._fill(self._full)
        for program in self._programs:
            program.end()
            self._kept.update(program.kept)
            self._outcome.findings += program.strange
        self._device.stop()
        self._take_stock()
        self._device.configure(self._settings(silent=True))
        self._start()
        deadline = time.monotonic() + DRAIN_S
        while time.monotonic() < deadline and not self._kept.keys() <= self._ledger.acknowledged.keys():
            time.sleep(0.2)
        self._device.stop()

    def _prove(self) -> None:
        """Enter what is wrong into the findings."""
        ledger, found = self._ledger, self._outcome.findings
        self._outcome.messages = len(ledger.acknowledged)
        self._outcome.of_programs = sum(len(program.kept) for program in self._programs)
        self._outcome.repeats = sum(len(moments) > 1 for moments in ledger.sent.values())
        lost = sorted(self._kept.keys() - ledger.acknowledged.keys())
        if lost:
            found.append(f"{len(lost)} messages that were in the spool never arrived: {lost[:5]}")
        numbers: dict[tuple[str, str], set[int]] = {}
        for run, topic, number in ledger.acknowledged.keys() | self._kept.keys():
            numbers.setdefault((run, topic), set()).add(number)
        for run, topic, number in set().union(*(program.given_up for program in self._programs)):
            numbers.setdefault((run, topic), set()).add(number)
        for (run, topic), made in numbers.items():
            missing = sorted(set(range(1, max(made) + 1)) - made)
            if missing:
                found.append(f"run {run}, {topic}: {len(missing)} of {max(made)} were made and never kept: "
                             f"{missing[:5]} to {missing[-1]}")
        if ledger.out_of_order:
            found.append(f"{ledger.out_of_order} messages arrived before an earlier one of their topic")
        needless = [key for key, moments in ledger.sent.items() if self._needless(key, moments)]
        if needless:
            found.append(f"{len(needless)} messages were sent again although their PUBACK had come: {needless[:5]}")
        for event in ("spool.dropped", "publish.set_aside", "publish.denied", "session.denied", "daemon.fault",
                      "spool.damaged", "watchdog.withheld"):
            if lines := self._device.said(event):
                found.append(f"{len(lines)} × {event}: {lines[0]}")
        if self._device.noise:
            found.append(f"noise: {self._device.noise[:20]}")
        self._prove_retained()

    def _needless(self, key: Key, moments: Sequence[float]) -> bool:
        """Tell whether the message was sent after its PUBACK had come, with no fault near enough to excuse it."""
        told_at = self._ledger.told.get(key)
        return told_at is not None and moments[-1] > told_at + SLACK_S and not any(
            told_at - SLACK_S < trouble < told_at + SLACK_S for trouble in self._troubles)

    def _prove_retained(self) -> None:
        last_run = self._device.said("daemon.started")[-2]["run"]
        with Observer(self._mosquitto) as observer:
            for topic in RETAINED:
                newest = max(number for run, name, number in self._ledger.acknowledged
                             if (run, name) == (last_run, topic))
                observer.subscribe(topic)
                stands = key_of(topic, observer.wait_for(topic).payload)
                if stands != (last_run, topic, newest):
                    self._outcome.findings.append(f"{topic} stands at {stands}, the newest is {last_run} {newest}")


def _stored(place: Path) -> list[tuple[str, bytes, bool]]:
    """Return topic, payload and whether it is set aside, of each message in the disk's store; from a copy of it."""
    with tempfile.TemporaryDirectory() as directory:
        for ending in ("", "-wal"):
            with suppress(FileNotFoundError):
                shutil.copy(place / f"spool.db{ending}", directory)
        database = sqlite3.connect(f"{directory}/spool.db")
        try:
            return [(topic, payload, bool(aside)) for topic, payload, aside in database.execute(
                "SELECT topic, payload, aside FROM message")]
        except sqlite3.OperationalError:
            return []  # no file yet, or none that could be made where all is full
        finally:
            database.close()


def _journalled(place: Path) -> list[tuple[str, bytes, bool]]:
    """Return the same of the messages in the journal."""
    found: dict[int, tuple[str, bytes, bool]] = {}
    with suppress(FileNotFoundError):
        # What follows the last line end is a message whose writing a kill has cut off: nobody was told that it is kept.
        for line in (place / "spool.journal").read_text("ascii").split("\n")[:-1]:
            said = json.loads(line)
            if isinstance(said, dict):
                for number in said["gone"]:
                    found.pop(number, None)
            else:
                found[said[0]] = said[1], said[2].encode(), bool(said[10])
    return list(found.values())


def sheltered(faults: int, seed: int) -> subprocess.CompletedProcess[str]:
    """Run a storm in a process and a mount namespace of its own; its status and stdout say what came of it."""
    own = [] if os.geteuid() == 0 else ["--map-root-user"]
    return subprocess.run(["unshare", *own, "--mount", sys.executable, "-m", "tests.faults.storm", "--inside",
                           "--faults", str(faults), "--seed", str(seed)], cwd=ROOT, text=True, stdout=subprocess.PIPE)


def main() -> int:
    """Run a storm, or (--inside) be the process that runs it."""
    parser = argparse.ArgumentParser(prog="python3 -m tests.faults.storm")
    parser.add_argument("--faults", metavar="N", type=int, default=1000)
    parser.add_argument("--seed", metavar="S", type=int, default=random.randrange(10**6))
    parser.add_argument("--inside", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if not options.inside:
        print(f"seed {options.seed}", flush=True)
        finished = sheltered(options.faults, options.seed)
        print(finished.stdout, end="")
        return finished.returncode
    with tempfile.TemporaryDirectory(prefix="iotd-storm-") as directory:
        outcome = Storm(Path(directory) / "storm", options.faults, options.seed).run()
    print(outcome.sentence())
    return 0 if outcome.good() else 1


if __name__ == "__main__":
    sys.exit(main())
