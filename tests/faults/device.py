"""The real `iotd run` as a process with a real file of configuration, and what it logs."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any, Callable, Mapping, Sequence

import yaml

ROOT = Path(__file__).parent.parent.parent
STARTS_S = 30.0
STOPS_S = 20.0  # Stopped and its acknowledgement, the end of two threads; a busy test host


class Device:
    """One iotd: directories that outlive its process, so that it can be killed and started again.

    `lines` are the log lines of all of its runs, `noise` what it said on stdout that is no log line, and on stderr.
    """

    def __init__(self, directory: Path, settings: Mapping[str, Any], before: Sequence[str] = ()) -> None:
        self.state, self.runtime = directory / "state", directory / "run"
        self.file = directory / "iotd.yaml"
        self.lines: list[dict[str, Any]] = []
        self.noise: list[str] = []
        self._before = before
        self._arrived = threading.Condition()
        self._process: subprocess.Popen[str] | None = None
        self._readers: list[threading.Thread] = []
        for place in (self.state, self.runtime):
            place.mkdir(parents=True, exist_ok=True)
        self.configure(settings)

    def configure(self, settings: Mapping[str, Any]) -> None:
        """Write the file of configuration."""
        self.file.write_text(yaml.safe_dump(dict(settings), allow_unicode=True, sort_keys=False), "utf-8")

    @property
    def pid(self) -> int:
        """The process id; that of the first process where a command stands before iotd."""
        assert self._process is not None, "the device is not running"
        return self._process.pid

    def start(self) -> None:
        """Start the process; `wait_for("daemon.started")` says when it is there."""
        assert self._process is None, "the device is running already"
        environment = {**os.environ, "STATE_DIRECTORY": str(self.state), "RUNTIME_DIRECTORY": str(self.runtime)}
        self._process = subprocess.Popen(
            [*self._before, sys.executable, "-m", "iotd", "run", "-c", str(self.file)], cwd=ROOT, env=environment,
            text=True, encoding="utf-8", stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            process_group=0)
        self._readers = [
            threading.Thread(target=self._read, args=(self._process.stdout, self._log_line), daemon=True),
            threading.Thread(target=self._read, args=(self._process.stderr, self.noise.append), daemon=True)]
        for reader in self._readers:
            reader.start()

    def running(self) -> bool:
        """Tell whether the process lives."""
        return self._process is not None and self._process.poll() is None

    def stop(self) -> int:
        """Ask it to stop (SIGTERM) and return its exit status. Raises subprocess.TimeoutExpired."""
        assert self._process is not None
        self._process.terminate()
        try:
            return self._process.wait(STOPS_S)
        finally:
            self.kill()

    def kill(self) -> None:
        """End it as a crash would (SIGKILL)."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            for reader in self._readers:
                reader.join(STOPS_S)
            self._process = None

    def said(self, event: str) -> list[dict[str, Any]]:
        """Return the log lines of this event so far."""
        with self._arrived:
            return [line for line in self.lines if line.get("event") == event]

    def wait_for(
        self, event: str, within_s: float, such: Callable[[dict[str, Any]], bool] = lambda line: True
    ) -> dict[str, Any] | None:
        """Return the first log line of this event that is `such`, None where there is none in time."""
        deadline = time.monotonic() + within_s
        with self._arrived:
            while True:
                for line in self.lines:
                    if line.get("event") == event and such(line):
                        return line
                left_s = deadline - time.monotonic()
                if left_s <= 0 or not self._arrived.wait(left_s):
                    return None

    def _read(self, stream: Any, take: Callable[[str], None]) -> None:
        with stream:
            for line in stream:
                take(line.rstrip("\n"))

    def _log_line(self, text: str) -> None:
        try:
            line = json.loads(text)
        except ValueError:
            line = None
        with self._arrived:
            if isinstance(line, dict):
                self.lines.append(line)
            else:
                self.noise.append(text)
            self._arrived.notify_all()
