"""How the cost of iotd grows with what it is asked to do."""

from __future__ import annotations

import time
from collections import defaultdict
from contextlib import ExitStack
from typing import Any, Callable, Sequence

from tests.bench import cost
from tests.bench.figures import Figure
from tests.bench.ground import IOTD, SHADOW, Ground, Job, configuration
from tests.bench.measure import Extent, Samples, per_minute

ENTRIES = (1, 10, 100, 1000)
SHADOWS = (1, 10, 50)
STARTS = 5
WARM_S = 10.0
WINDOWS, WINDOW_S = 2, 30.0

Sections = Callable[[Job, int], dict[str, Any]]  # the configuration of a daemon with so many


def entries(ground: Ground, extent: Extent) -> list[Figure]:
    """Run daemons with ever more publish entries of 30 s, beside one another."""
    return [*_starts(ground, ENTRIES, _with_entries), *_running(ground, ENTRIES, _with_entries)]


def shadows(ground: Ground, extent: Extent) -> list[Figure]:
    """Run daemons with ever more shadows reported every 30 s, beside one another."""
    return [*_starts(ground, SHADOWS, _with_shadows), *_running(ground, SHADOWS, _with_shadows)]


def _with_entries(job: Job, count: int) -> dict[str, Any]:
    entry = configuration(job)["publish"][0]
    return {"publish": [{**entry, "topic": f"{job.topic}/{number}" if number else job.topic}
                        for number in range(count)]}


def _with_shadows(job: Job, count: int) -> dict[str, Any]:
    shadow = configuration(job)["shadows"][0]
    return {"shadows": [{**shadow, "name": f"{SHADOW}_{number}"} for number in range(count)]}


def _starts(ground: Ground, counts: Sequence[int], sections: Sections) -> list[Figure]:
    ready: Samples = defaultdict(list)
    first: Samples = defaultdict(list)
    for _ in range(STARTS):
        for count in counts:
            job = ground.job()
            published = ground.probe.expect(job.topic)
            with ground.start(IOTD, job, **sections(job, count)) as contender:
                first[f"{count:,}"].append(1000 * (published()[0] - contender.started_at))
                ready[f"{count:,}"].append(1000 * (contender.ready_at() - contender.started_at))
    return [Figure("exec to READY", "ms", ready), Figure("exec to the first publish", "ms", first)]


def _running(ground: Ground, counts: Sequence[int], sections: Sections) -> list[Figure]:
    with ExitStack() as stack:
        running = {}
        for count in counts:
            job = ground.job()
            running[f"{count:,}"] = stack.enter_context(ground.start(IOTD, job, **sections(job, count)))
        time.sleep(WARM_S)
        looks = {name: [cost.spent(contender.pid)] for name, contender in running.items()}
        for _ in range(WINDOWS):
            time.sleep(WINDOW_S)
            for name, contender in running.items():
                looks[name].append(cost.spent(contender.pid))
        private = {name: [cost.memory(contender.pid).private / 1024] for name, contender in running.items()}
    return [Figure("private memory", "MB", private),
            Figure("CPU", "s/hour", per_minute(looks, lambda spent: spent.cpu_s * 60)),
            Figure("wake-ups", "1/min", per_minute(looks, lambda spent: spent.wakeups)),
            Figure("written to disk", "bytes/min", per_minute(looks, lambda spent: spent.disk_bytes))]
