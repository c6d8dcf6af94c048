"""Programs that publish through iotd whatever becomes of it, and know what was answered by kept."""

from __future__ import annotations

import json
import random
import socket
import threading
import time
from pathlib import Path

from tests.faults.proxy import Key

RETRY_S = 0.05
PATIENCE_S = 60.0


class Program:
    """One program on a thread of its own: it sends some lines, reads their answers, and goes on.

    Lines whose answer a restart took along are sent again; one that is refused is given up. `kept` is when each message
    was made that was answered by kept, by the host's uptime.
    """

    def __init__(self, path: Path, topic: str, chance: random.Random) -> None:
        self.kept: dict[Key, float] = {}
        self.given_up: set[Key] = set()
        self.strange: list[str] = []  # answers that should not be
        self._path = path
        self._topic = topic
        self._run = f"program {topic}"
        self._chance = chance
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._live, daemon=True)
        self._thread.start()

    def end(self) -> None:
        """Make no more, and wait for the answers to what was sent; iotd has to run."""
        self._ended.set()
        self._thread.join(PATIENCE_S)
        if self._thread.is_alive():
            self.strange.append(f"{self._run} waits for an answer for {PATIENCE_S:.0f} s")

    def _live(self) -> None:
        unanswered: list[tuple[int, float]] = []
        last = 0
        while not self._ended.is_set() or unanswered:
            try:
                with socket.socket(socket.AF_UNIX) as line:
                    line.connect(str(self._path))
                    answers = line.makefile("rb")
                    while not self._ended.is_set() or unanswered:
                        if not unanswered:
                            count = self._chance.randint(1, 20)
                            up_s = time.clock_gettime(time.CLOCK_BOOTTIME)
                            unanswered = [(number, up_s) for number in range(last + 1, last + count + 1)]
                            last += count
                        line.sendall(b"".join(self._request(number, up_s) for number, up_s in unanswered))
                        while unanswered:
                            said = answers.readline()
                            if not said.endswith(b"\n"):
                                raise ConnectionResetError
                            self._answered(json.loads(said), *unanswered.pop(0))
                        self._ended.wait(self._chance.uniform(0.0, 0.3))
            except OSError:
                time.sleep(RETRY_S)

    def _request(self, number: int, up_s: float) -> bytes:
        payload = {"run": self._run, "n": number, "up": up_s}
        return json.dumps({"publish": self._topic, "payload": payload}).encode() + b"\n"

    def _answered(self, said: dict[str, object], number: int, up_s: float) -> None:
        key = self._run, self._topic, number
        if "kept" in said:
            self.kept[key] = up_s
        else:
            self.given_up.add(key)
            if "spool cannot be written" not in str(said):
                self.strange.append(f"{key} was answered by {said}")
