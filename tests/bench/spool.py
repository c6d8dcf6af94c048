"""The spool: how fast it takes and gives messages, and how fast a backlog drains."""

from __future__ import annotations

import json
import tempfile
import threading
import time
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Iterator

from iotd.outgoing.section import Bounds
from iotd.outgoing.spool import Spool
from iotd.vocabulary import Message
from tests.bench import cost
from tests.bench.figures import Bound, Figure
from tests.bench.ground import BARE, IOTD, LOCAL, Contender, Ground, Job, configuration
from tests.bench.measure import Extent, Samples
from tests.outgoing.opening import open_spool

BACKLOG = 50_000
ROUNDS = 3
RELAXED, STRICT = 10_000, 500  # messages of a round; a strict one is an fsync
WINDOW = 100
LIMITED_S = 60.0
RELAXED_NAME, STRICT_NAME = "relaxed", "strict"


def speed(ground: Ground, extent: Extent) -> list[Figure]:
    """Put messages into a spool and take them out again, a window at a time, as the daemon does."""
    into: Samples = {RELAXED_NAME: [], STRICT_NAME: []}
    out: Samples = {RELAXED_NAME: [], STRICT_NAME: []}
    for _ in range(ROUNDS):
        for name, count in ((RELAXED_NAME, RELAXED), (STRICT_NAME, STRICT)):
            with tempfile.TemporaryDirectory(dir=ground.tmpfs) as runtime, \
                    tempfile.TemporaryDirectory(dir=ground.disk) as state:
                bounds = Bounds(strict=name == STRICT_NAME)
                spool = open_spool(Path(runtime), Path(state), bounds, "bench", time.monotonic())
                began_at = time.monotonic()
                _put(spool, ground.job(backlog=count))
                full_at = time.monotonic()
                while rows := spool.fetch(0, WINDOW):
                    spool.forget([row.id for row in rows])
                out[name].append(count / (time.monotonic() - full_at))
                into[name].append(count / (full_at - began_at))
                spool.close(time.monotonic(), None)
    return [Figure("into the spool", "messages/s", into), Figure("out of it", "messages/s", out)]


def drain(ground: Ground, extent: Extent) -> list[Figure]:
    """Let each drain a backlog without limits: iotd from its disk, the script from its memory."""
    rate: Samples = {name: [] for name in LOCAL}
    swell: Samples = {name: [] for name in LOCAL}
    spent: Samples = {name: [] for name in LOCAL}
    for _ in range(ROUNDS):
        for name in LOCAL:
            job = ground.job(backlog=BACKLOG, window=WINDOW)
            first, last = (ground.probe.expect(f"{job.topic}/{place}") for place in ("first", "last"))
            contender = _loaded(ground, name, job)
            with contender:
                began_at = first()[0]
                before_s = cost.cpu_s(contender.pid)
                with swelling(contender) as memory:
                    ended_at = last()[0]
                spent[name].append(1e6 * (cost.cpu_s(contender.pid) - before_s) / BACKLOG)
            rate[name].append((BACKLOG - 1) / (ended_at - began_at))
            swell[name].append((max(memory) - memory[0]) / 1024)
    return [Figure(f"draining {BACKLOG:,}", "messages/s", rate, [Bound(0.5, BARE, floor=True)]),
            Figure("CPU per message while draining", "µs", spent),
            Figure("memory gained while draining", "MB", swell, [Bound(5.0)])]


def limited(ground: Ground, extent: Extent) -> list[Figure]:
    """Let iotd drain the same backlog under the limits of AWS IoT Core, for a minute of it."""
    job = ground.job(backlog=BACKLOG)
    between = f"{job.topic}/between"
    first = ground.probe.expect(between)
    mqtt = {**configuration(job)["mqtt"], "limits": "aws"}
    with _loaded(ground, IOTD, job, mqtt=mqtt) as contender:
        first()
        began_at, began = ground.probe.sequence(between)
        with swelling(contender) as memory:
            time.sleep(LIMITED_S)
        ended_at, ended = ground.probe.sequence(between)
    pace = (ended - began) / (ended_at - began_at)
    return [Figure("pace under the limits", "messages/s", {IOTD: [pace]}, [Bound(100.0), Bound(60.0, floor=True)]),
            Figure(f"all {BACKLOG:,} at that pace", "min", {IOTD: [BACKLOG / pace / 60]}),
            Figure("memory gained under the limits", "MB", {IOTD: [(max(memory) - memory[0]) / 1024]}, [
                Bound(5.0)])]


def _loaded(ground: Ground, name: str, job: Job, **more: Any) -> Contender:
    """Return the contender, with the backlog on its disk where it is iotd."""
    contender = ground.start(name, job, **more)
    if name == IOTD:
        spool = open_spool(contender.runtime, contender.state, Bounds(), "before", time.monotonic(), job.thing)
        _put(spool, job)
        spool.close(time.monotonic(), None)
    return contender


def _put(spool: Spool, job: Job) -> None:
    for number in range(job.backlog):
        place = "first" if number == 0 else "last" if number == job.backlog - 1 else "between"
        payload = {**job.payload, "Timestamp": int(time.time()), "sequence": number + 1}
        message = Message(f"{job.topic}/{place}", json.dumps(payload, ensure_ascii=False).encode(), 1, True)
        spool.put(spool.next_id(), message, False, time.monotonic())


@contextmanager
def swelling(contender: Contender) -> Iterator[list[float]]:
    """Note the memory of the contender, now and ten times a second until the end of the `with`."""
    seen = [cost.memory(contender.pid).anonymous]
    ended = threading.Event()

    def watch() -> None:
        while not ended.wait(0.1):
            seen.append(cost.memory(contender.pid).anonymous)

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield seen
    finally:
        ended.set()
        thread.join()
