"""What lives on the device: how fast the messages of programs go through iotd, and what many values cost."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import time
from typing import Any

from tests.bench import cost
from tests.bench.figures import Bound, Figure
from tests.bench.ground import BARE, IOTD, LOCAL, PATIENCE_S, PYTHON, Contender, Ground
from tests.bench.measure import Extent, Samples
from tests.bench.spool import ROUNDS, WINDOW, swelling

MESSAGES = 20_000
BYTES = 150
FILL = BYTES - len('{"sequence": 12345, "Timestamp": 1790000000, "fill": ""}')
PROGRAM = "its program"
VALUES, VALUES_S = 1_000, 10


def publish(ground: Ground, extent: Extent) -> list[Figure]:
    """Let a program hand over its messages flat out, and the script publish as many."""
    rate: Samples = {name: [] for name in LOCAL}
    spent: Samples = {name: [] for name in (*LOCAL, PROGRAM)}
    swell: Samples = {name: [] for name in LOCAL}
    for _ in range(ROUNDS):
        for name in LOCAL:
            job = ground.job(backlog=MESSAGES, window=WINDOW, retain=False, payload={"fill": "x" * FILL})
            first, last = (ground.probe.expect(f"{job.topic}/{place}") for place in ("first", "last"))
            up = ground.probe.expect(job.presence)
            with ground.start(name, job, local={"publish": [f"{job.topic}/#"]}) as contender:
                program = None
                if name == IOTD:
                    up()
                    program = _Program(ground, contender)
                    program.say("first")
                began_at = first()[0]
                before_s = cost.cpu_s(contender.pid)
                with swelling(contender) as memory:
                    if program is not None:
                        spent[PROGRAM].append(1e6 * program.hand_over() / MESSAGES)
                        program.say("last")
                    ended_at = last()[0]
                spent[name].append(1e6 * (cost.cpu_s(contender.pid) - before_s) / MESSAGES)
                if program is not None:
                    program.close()
            rate[name].append((MESSAGES - 1) / (ended_at - began_at))
            swell[name].append((max(memory) - memory[0]) / 1024)
    return [Figure(f"{MESSAGES:,} messages of a program", "messages/s", rate, [Bound(1.0, BARE, floor=True)]),
            Figure("CPU per message of a program", "µs", spent, [Bound(1.5, BARE)]),
            Figure("memory gained meanwhile", "MB", swell, [Bound(5.0)])]


def values(ground: Ground, extent: Extent) -> list[Figure]:
    """Have a daemon read many values from files every second, half of which change each time."""
    files = [ground.tmpfs / f"value-{number}" for number in range(VALUES)]
    for file in files:
        file.write_text("0.5\n")
    sections = {"values": {f"v{number}": {"file": str(file), "every": "1s"} for number, file in enumerate(files)}}
    spent: Samples = {IOTD: []}
    with ground.start(IOTD, ground.job(), **sections) as contender:
        contender.ready_at()
        before = cost.spent(contender.pid)
        for second in range(VALUES_S):
            for file in files[::2]:
                file.write_text(f"{second}.25\n")
            time.sleep(1.0)
            after = cost.spent(contender.pid)
            spent[IOTD].append(100 * (after.cpu_s - before.cpu_s) / (after.at - before.at))
            before = after
    return [Figure(f"CPU of {VALUES:,} values by file every second", "% of a core", spent, [Bound(10)])]


class _Program:
    """`iotd publish --lines`, started and connected, and a connection of our own beside it."""

    def __init__(self, ground: Ground, contender: Contender) -> None:
        self._topic = contender.job.topic
        environment = {"PYTHONPATH": str(ground.library), "RUNTIME_DIRECTORY": str(contender.runtime)}
        self._process = subprocess.Popen(
            [PYTHON, str(ground.library / "iotd-entry"), "publish", f"{self._topic}/between", "--lines"],
            env={"PATH": "/usr/bin:/bin", "LANG": "C.UTF-8", **environment}, stdin=subprocess.PIPE)
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.connect(str(contender.runtime / "iotd.sock"))
        self._answers = self._socket.makefile()

    def say(self, place: str) -> None:
        """Publish one message, and wait until it is kept."""
        self._ask({"publish": f"{self._topic}/{place}", "payload": {"sequence": 0}})

    def hand_over(self) -> float:
        """Publish all messages but the first and the last; return the CPU seconds that it took the program."""
        payload = json.dumps({"sequence": 0, "Timestamp": 1_790_000_000, "fill": "x" * FILL}).encode()
        assert self._process.stdin is not None
        self._process.stdin.write((payload + b"\n") * (MESSAGES - 2))
        self._process.stdin.close()
        _, status, usage = os.wait4(self._process.pid, 0)
        self._process.returncode = os.waitstatus_to_exitcode(status)
        if self._process.returncode:
            raise RuntimeError(f"iotd publish ended with {self._process.returncode}")
        return float(usage.ru_utime + usage.ru_stime)

    def close(self) -> None:
        """Close the connection."""
        self._answers.close()
        self._socket.close()
        self._process.kill()

    def _ask(self, request: dict[str, Any]) -> None:
        self._socket.settimeout(PATIENCE_S)
        self._socket.sendall(json.dumps(request).encode() + b"\n")
        said = self._answers.readline()
        if "kept" not in json.loads(said):
            raise RuntimeError(f"iotd answered {said}")
