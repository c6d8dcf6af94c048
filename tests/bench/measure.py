"""What one contender costs, alone on the machine, in the long run beside the others, and for each line it logs."""

from __future__ import annotations

import time
from collections import defaultdict
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Callable, Sequence

from tests.bench import cost
from tests.bench.figures import Bound, Figure
from tests.bench.ground import ALL, BARE, FLAT_OUT_ENTRIES, IOTD, LOCAL, SDK_V2, Contender, Ground

PACE_S = 0.01
GROWTH_KB = 64  # about one byte a message: a leak of anything is more
Samples = dict[str, list[float]]


@dataclass(frozen=True, slots=True)
class Extent:
    """How much is measured: by `FULL` all of it, by `QUICK` what the bounds against bare paho need."""

    names: Sequence[str]
    starts: int
    memory_rounds: int
    run_minutes: float


FULL = Extent(ALL, starts=15, memory_rounds=3, run_minutes=10)
QUICK = Extent(LOCAL, starts=9, memory_rounds=2, run_minutes=1)


def start(ground: Ground, extent: Extent) -> list[Figure]:
    """Start each contender in turn, again and again."""
    ready: Samples = defaultdict(list)
    first: Samples = defaultdict(list)
    spent: Samples = defaultdict(list)
    for _ in range(extent.starts):
        for name in extent.names:
            job = ground.job()
            published = ground.probe.expect(job.topic)
            with ground.start(name, job) as contender:
                first[name].append(1000 * (published()[0] - contender.started_at))
                spent[name].append(1000 * cost.cpu_s(contender.pid))
                if name == IOTD:
                    ready[name].append(1000 * (contender.ready_at() - contender.started_at))
    return [Figure("exec to READY", "ms", ready),
            Figure("exec to the first acknowledged publish", "ms", first, [Bound(1.6, BARE, why=(
                "the interpreter, paho and TLS are the same in both; on top come iotd's own sixty modules and their "
                "types (half of the difference), YAML, the JSON log, and the validation of the configuration; it was "
                "1.3 with imports that stood in for others, which no reader could follow"))]),
            Figure("CPU until then", "ms", spent)]


def memory(ground: Ground, extent: Extent, warm_s: float = 7.0) -> list[Figure]:
    """Let each contender in turn publish 100 messages a second, and read its memory."""
    found: dict[str, Samples] = {"pss": defaultdict(list), "private": defaultdict(list), "rss": defaultdict(list)}
    for _ in range(extent.memory_rounds):
        for name in extent.names:
            job = ground.job(every_s=PACE_S)
            published = ground.probe.expect(job.topic)
            with ground.start(name, job) as contender:
                published()
                time.sleep(warm_s)
                read = cost.memory(contender.pid)
            for kind, value in (("pss", read.pss), ("private", read.private), ("rss", read.rss)):
                found[kind][name].append(value / 1024)
    return [Figure("PSS", "MB", found["pss"], [
                Bound(1.25, BARE, why="the YAML reader and the modules of iotd are memory that a script without a "
                                      "configuration, a spool and shadows does not have"),
                Bound(1.0, SDK_V2)]),
            Figure("private", "MB", found["private"]), Figure("Rss", "MB", found["rss"])]


def run(ground: Ground, extent: Extent, warm_s: float = 20.0) -> list[Figure]:
    """Run every contender twice at the same time, at 100 messages a second and idle, and look in from time to time."""
    every_s = 60.0 if extent.run_minutes > 1 else 30.0
    with ExitStack() as stack:
        busy = {name: stack.enter_context(ground.start(name, ground.job(every_s=PACE_S))) for name in extent.names}
        idle = {name: stack.enter_context(ground.start(name, ground.job())) for name in extent.names}
        time.sleep(warm_s)
        busy_looks = {name: [_look(ground, contender)] for name, contender in busy.items()}
        idle_looks = {name: [cost.spent(contender.pid)] for name, contender in idle.items()}
        end_at = time.monotonic()
        for _ in range(round(extent.run_minutes * 60 / every_s)):
            end_at += every_s
            time.sleep(max(0.0, end_at - time.monotonic()))
            for name in extent.names:
                busy_looks[name].append(_look(ground, busy[name]))
                idle_looks[name].append(cost.spent(idle[name].pid))
    return [*_of_the_busy(busy_looks, extent), *_of_the_idle(idle_looks)]


@dataclass(frozen=True, slots=True)
class _Look:
    spent: cost.Spent
    messages: int
    anonymous: float


def _look(ground: Ground, contender: Contender) -> _Look:
    sequence = ground.probe.sequence(contender.job.topic)[1]
    return _Look(cost.spent(contender.pid), sequence, cost.memory(contender.pid).anonymous)


def _of_the_busy(looks: dict[str, list[_Look]], extent: Extent) -> list[Figure]:
    found = [Figure("CPU per message at 100 a second", "µs", _per_message(looks, lambda look: look.spent.cpu_s * 1e6), [
                 # Within an hour it was 1.3, 1.7 and 2.2 of the same code on the same machine, for 1.97 times as many
                 # instructions: a core that sleeps between two messages wakes with cold caches, or does not.
                 Bound(1.5, BARE, tolerance=0.6, why=(
                     "each message is written into the spool before it is sent, and deleted when it is acknowledged: "
                     "what the script does not do, and loses messages for"))]),
             Figure("wake-ups per message", "", _per_message(looks, lambda look: look.spent.wakeups)),
             Figure("written to disk, at 100 a second", "bytes/min", per_minute(
                 {name: [look.spent for look in seen] for name, seen in looks.items()},
                 lambda spent: spent.disk_bytes), [Bound(0)])]
    if extent.run_minutes > 1:
        growth = {name: [seen[-1].anonymous - seen[0].anonymous] for name, seen in looks.items()}
        found.append(Figure(f"memory gained in {extent.run_minutes:g} min at 100 a second", "KB", growth, [
            Bound(GROWTH_KB)]))
    return found


def _of_the_idle(looks: dict[str, list[cost.Spent]]) -> list[Figure]:
    return [Figure("wake-ups, idle", "1/min", per_minute(looks, lambda spent: spent.wakeups), [Bound(0.3, BARE)]),
            Figure("CPU, idle", "s/hour", per_minute(looks, lambda spent: spent.cpu_s * 60), [
                Bound(1.0, SDK_V2, why=(
                    "the SDK's four packets a minute are C; beside its own, in Python, iotd renews status.json and "
                    "feeds the watchdog four times a minute, journals what is in flight, and takes the answers to its "
                    "reports"))]),
            Figure("written to disk, idle", "bytes/min", per_minute(looks, lambda spent: spent.disk_bytes),
                   [Bound(0)])]


def _per_message(looks: dict[str, list[_Look]], what: Callable[[_Look], float]) -> Samples:
    return {name: [(what(after) - what(before)) / (after.messages - before.messages)
                   for before, after in zip(seen, seen[1:])] for name, seen in looks.items()}


def per_minute(looks: dict[str, list[cost.Spent]], what: Callable[[cost.Spent], float]) -> Samples:
    """Return what was spent a minute between each two looks."""
    return {name: [60 * (what(after) - what(before)) / (after.at - before.at)
                   for before, after in zip(seen, seen[1:])] for name, seen in looks.items()}


def flat_out(ground: Ground, extent: Extent) -> list[Figure]:
    """Let each contender in turn publish as fast as it can, with a window of 100 unacknowledged messages."""
    rate: Samples = defaultdict(list)
    spent: Samples = defaultdict(list)
    for _ in range(extent.memory_rounds):
        for name in extent.names:
            job = ground.job(every_s=0.0)
            published = ground.probe.expect(job.topic)
            with ground.start(name, job) as contender:
                published()
                time.sleep(1.0)
                began_at, began = ground.probe.sequence(job.topic)
                before_s = cost.cpu_s(contender.pid)
                time.sleep(3.0)
                ended_at, ended = ground.probe.sequence(job.topic)
                messages = (ended - began) * (FLAT_OUT_ENTRIES if name == IOTD else 1)
                rate[name].append(messages / (ended_at - began_at))
                spent[name].append(1e6 * (cost.cpu_s(contender.pid) - before_s) / messages)
    return [Figure("messages", "1/s", rate), Figure("CPU per message", "µs", spent)]


def log(ground: Ground, extent: Extent, count: int = 5000) -> list[Figure]:
    """Send each contender in turn a burst of messages, which it logs."""
    spent: Samples = defaultdict(list)
    length: Samples = defaultdict(list)
    for _ in range(extent.memory_rounds):
        for name in extent.names:
            job = ground.job()
            published = ground.probe.expect(job.topic)
            with ground.start(name, job) as contender:
                published()
                time.sleep(2.0)
                size, before_s = contender.log.stat().st_size, cost.cpu_s(contender.pid)
                ground.probe.publish(job.filters[0], job.payload, count)
                contender.wait_for_log(size, count)
                spent[name].append(1e6 * (cost.cpu_s(contender.pid) - before_s) / count)
                length[name].append((contender.log.stat().st_size - size) / count)
    return [Figure("CPU to take in and log one message", "µs", spent),
            Figure("length of its log line", "bytes", length)]
