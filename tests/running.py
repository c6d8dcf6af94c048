"""iotd as a process: its log lines and what it tells systemd, each waited for with a deadline."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Callable

import yaml

from tests.aws.gate import Gate
from tests.certificates import Certificates
from tests.mosquitto import Mosquitto

ROOT = Path(__file__).parent.parent
PATIENCE_S = 20.0


def configuration(broker: Mosquitto | Gate, certificates: Certificates | None, **sections: Any) -> dict[str, Any]:
    """Return a configuration for the thing of the certificates, on this broker; `sections` replace or add to it."""
    mqtt: dict[str, Any] = {"host": broker.host, "port": broker.port, "backoff": {"first": "1s", "max": "2s"}}
    if certificates is not None:
        mqtt["tls"] = {"ca": str(certificates.ca), "cert": str(certificates.client.cert),
                       "key": str(certificates.client.key)}
    return {"thing": "test-thing", "mqtt": mqtt, **sections}


class Iotd:
    """One run of the daemon in a directory of its own, which the next run may be given too."""

    def __init__(self, directory: Path, configuration: dict[str, Any], **environment: str) -> None:
        self.directory = directory
        self.file = directory / "iotd.yaml"
        self._environment = environment
        self._changed = threading.Condition()
        self._entries: list[dict[str, Any]] = []
        self._told: list[str] = []
        for name in ("state", "runtime"):
            (directory / name).mkdir(parents=True, exist_ok=True)
        self.configure(configuration)

    def configure(self, configuration: dict[str, Any]) -> None:
        """Write the configuration file; a daemon that runs reads it on SIGHUP."""
        self.file.write_text(yaml.safe_dump(configuration, allow_unicode=True), "utf-8")

    def environment(self) -> dict[str, str]:
        """Return what systemd would set, with a socket of our own to notify."""
        return {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT), "PYTHONWARNINGS": "error", "LANG": "C.UTF-8",
                "STATE_DIRECTORY": str(self.directory / "state"), "RUNTIME_DIRECTORY": str(self.directory / "runtime"),
                "NOTIFY_SOCKET": str(self.directory / "notify"), **self._environment}

    def __enter__(self) -> Iotd:
        (self.directory / "notify").unlink(missing_ok=True)
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(str(self.directory / "notify"))
        self.process = subprocess.Popen(
            [sys.executable, "-m", "iotd", "run", "-c", str(self.file)], env=self.environment(), cwd="/",
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        self._threads = [threading.Thread(target=read) for read in (self._read_log, self._read_notify)]
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.process.kill()
        self.process.wait()
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as end:
            end.connect(str(self.directory / "notify"))
            end.send(b"END")
        for thread in self._threads:
            thread.join()
        self._socket.close()
        for stream in (self.process.stdout, self.process.stderr):
            if stream is not None:
                stream.close()

    @property
    def entries(self) -> list[dict[str, Any]]:
        """Every log line so far, parsed."""
        with self._changed:
            return list(self._entries)

    @property
    def told(self) -> list[str]:
        """What systemd has been told so far."""
        with self._changed:
            return list(self._told)

    def wait_for(self, event: str, since: int = 0, **fields: Any) -> dict[str, Any]:
        """Return the first entry of this event with these fields, one that came before included."""
        found: list[dict[str, Any]] = []

        def look() -> bool:
            found[:] = [entry for entry in self._entries[since:] if entry["event"] == event and
                        all(entry.get(name) == value for name, value in fields.items())][:1]
            return bool(found)

        self._wait(look, f"{event} {fields}")
        return found[0]

    def wait_told(self, text: str) -> None:
        """Wait until systemd has been told this."""
        self._wait(lambda: any(text in told for told in self._told), text)

    def signal(self, number: int) -> None:
        """Send a signal."""
        self.process.send_signal(number)

    def end(self) -> int:
        """Return the exit status once the process has ended."""
        return self.process.wait(PATIENCE_S)

    def stderr(self) -> str:
        """Return what an ended process has written on stderr."""
        assert self.process.stderr is not None
        return self.process.stderr.read().decode()

    def _wait(self, condition: Callable[[], bool], what: str) -> None:
        with self._changed:
            came = self._changed.wait_for(condition, PATIENCE_S)
            seen = "\n".join(map(str, [*self._entries, *self._told]))
        assert came, f"{what} did not come within {PATIENCE_S:g} s; what came:\n{seen}"

    def _read_log(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            with self._changed:
                self._entries.append(json.loads(line))
                self._changed.notify_all()

    def _read_notify(self) -> None:
        with suppress(OSError):
            while (told := self._socket.recv(4096)) != b"END":
                with self._changed:
                    self._told.append(told.decode())
                    self._changed.notify_all()
