"""A fleet on one broker that is restarted: how the CONNECTs of its devices spread over time."""

from __future__ import annotations

import threading
import time
from contextlib import ExitStack
from dataclasses import replace
from types import TracebackType
from typing import Any

from tests.bench.figures import Bound, Figure, most_within
from tests.bench.ground import IOTD, LOCAL, Ground
from tests.bench.measure import Extent, Samples
from tests.mosquitto import Mosquitto

DEVICES = 200
AT_ONCE = 8  # started side by side
WINDOW_S = 0.1
MOST_IN_A_WINDOW = 10
STABLE_S = 35.0  # a line that iotd trusts has been up for 30 s
WITHOUT_SHADOWS: dict[str, Any] = {"shadows": []}  # their service is at the other broker
PATIENCE_S = 120.0
TIMES = "from the broker's return to a CONNECT"  # the figure whose samples are all of them


def restart(ground: Ground, extent: Extent) -> list[Figure]:
    """Restart the broker of a fleet of each kind; the samples of one figure are the times of all CONNECTs."""
    times: Samples = {name: _reconnects(ground, name) for name in LOCAL}
    return [Figure("most CONNECTs in any 100 ms", "", {
                name: [most_within(seen, WINDOW_S)] for name, seen in times.items()}, [Bound(MOST_IN_A_WINDOW)]),
            Figure(TIMES, "s", times)]


def _reconnects(ground: Ground, name: str) -> list[float]:
    directory = ground.tmpfs / f"fleet-{name.replace(' ', '-')}"
    directory.mkdir()
    broker = Mosquitto(directory, ground.certificates, settings=[
        "log_type none", "log_type notice", "max_inflight_messages 1000"])
    with ExitStack() as stack:
        stack.enter_context(broker)
        gate = stack.enter_context(_Gate(broker))
        for number in range(DEVICES):
            gate.wait_for(number - AT_ONCE)
            job = replace(ground.job(), host=broker.host, port=broker.port)
            stack.enter_context(ground.start(name, job, **WITHOUT_SHADOWS if name == IOTD else {}))
        gate.wait_for(DEVICES)
        if name == IOTD:
            time.sleep(STABLE_S)
        broker.stop()
        broker.start()
        back_at = time.monotonic()
        gate.wait_for(2 * DEVICES)
    return [at - back_at for at in gate.connects[DEVICES:]]


class _Gate:
    """Notes when the broker says, in its log, that it has let a client in."""

    def __init__(self, broker: Mosquitto) -> None:
        self.connects: list[float] = []
        self._log = broker.log.open("rb")
        self._changed = threading.Condition()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch)

    def __enter__(self) -> _Gate:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended.set()
        self._thread.join()
        self._log.close()

    def wait_for(self, count: int) -> None:
        """Wait until so many have been let in."""
        with self._changed:
            if not self._changed.wait_for(lambda: len(self.connects) >= count, PATIENCE_S):
                raise RuntimeError(f"{len(self.connects)} instead of {count} clients came within {PATIENCE_S:g} s")

    def _watch(self) -> None:
        rest = b""
        while not self._ended.wait(0.005):
            *lines, rest = (rest + self._log.read()).split(b"\n")
            came = sum(b"New client connected" in line for line in lines)
            if came:
                with self._changed:
                    self.connects += [time.monotonic()] * came
                    self._changed.notify_all()
