"""How the cost of iotd grows with what it is asked to do."""

from __future__ import annotations

import time
from contextlib import ExitStack
from typing import Any, Sequence

from tests.bench import cost
from tests.bench.figures import Figure
from tests.bench.ground import IOTD, SHADOW, Ground, Job, configuration
from tests.bench.measure import Extent, Samples, per_minute

ENTRIES = (1, 10, 100, 1000)
SHADOWS = (1, 10, 50)
WARM_S = 10.0
WINDOWS, WINDOW_S = 2, 30.0


def entries(ground: Ground, extent: Extent) -> list[Figure]:
    """Run daemons with ever more publish entries of 30 s, beside one another."""
    jobs = [ground.job() for _ in ENTRIES]
    return _measured(ground, [f"{count:,}" for count in ENTRIES], jobs, [
        {"publish": [{**entry, "topic": f"{job.topic}/{number}" if number else job.topic} for number in range(count)]}
        for job, count in zip(jobs, ENTRIES) for entry in configuration(job)["publish"]])


def shadows(ground: Ground, extent: Extent) -> list[Figure]:
    """Run daemons with ever more shadows reported every 30 s, beside one another."""
    jobs = [ground.job() for _ in SHADOWS]
    return _measured(ground, [f"{count:,}" for count in SHADOWS], jobs, [
        {"shadows": [{**shadow, "name": f"{SHADOW}_{number}"} for number in range(count)]}
        for job, count in zip(jobs, SHADOWS) for shadow in configuration(job)["shadows"]])


def _measured(ground: Ground, names: list[str], jobs: list[Job], more: Sequence[dict[str, Any]]) -> list[Figure]:
    ready: Samples = {}
    first: Samples = {}
    with ExitStack() as stack:
        running = {}
        for name, job, sections in zip(names, jobs, more):
            published = ground.probe.expect(job.topic)
            running[name] = contender = stack.enter_context(ground.start(IOTD, job, **sections))
            first[name] = [1000 * (published()[0] - contender.started_at)]
            ready[name] = [1000 * (contender.ready_at() - contender.started_at)]
        time.sleep(WARM_S)
        looks = {name: [cost.spent(contender.pid)] for name, contender in running.items()}
        for _ in range(WINDOWS):
            time.sleep(WINDOW_S)
            for name, contender in running.items():
                looks[name].append(cost.spent(contender.pid))
        private = {name: [cost.memory(contender.pid).private / 1024] for name, contender in running.items()}
    return [Figure("from exec to READY", "ms", ready), Figure("from exec to the first publish", "ms", first),
            Figure("private memory", "MB", private),
            Figure("CPU", "s/hour", per_minute(looks, lambda spent: spent.cpu_s * 60)),
            Figure("wake-ups", "1/min", per_minute(looks, lambda spent: spent.wakeups)),
            Figure("written to disk", "bytes/min", per_minute(looks, lambda spent: spent.disk_bytes))]
