"""What the demonstration is played with: iotd, which can lose its power, and its line, which can be cut."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import threading
from contextlib import suppress
from pathlib import Path
from queue import SimpleQueue
from types import TracebackType
from typing import IO, Any, Callable, NamedTuple

from iotd.config import parse, policy
from tests.certificates import Certificates
from tests.mosquitto import HOST, free_port

THING = "demo-pi"
SHADOW = "device_0"
TOPIC = f"MQTTServer/{THING}/0"
PRESENCE = f"MQTTServer/{THING}/will"
HEALTHY, UNHEALTHY = "ヨシッ👉", "ダメ🙅"
ACTIONS = {"msg", "interval"}
PUBLISH_EVERY_S = 2
STOPS_WITHIN_S = 10.0

CONFIG = """\
thing: {thing}

mqtt:
  host: {host}
  port: {port}
  keepalive: 60s
  clean_session: false
  limits: aws
  backoff: {{first: 1s, max: 1s}}
  tls:
    ca: {certificates.ca}
    cert: {certificates.client.cert}
    key: {certificates.client.key}

presence:
  topic: "MQTTServer/{{thing}}/will"
  retain: true
  qos: 1

publish:
  - topic: "MQTTServer/{{thing}}/0"
    every: {every}s
    retain: true
    payload:
      Timestamp: "{{timestamp}}"
      hostname: "{{hostname}}"
      device_no: 0
      msg: "AWS IoT 接続ヨシッ👉"

subscribe:
  - topic: "MQTTServer/{{thing}}/in"

shadows:
  - name: {shadow}
    every: 5s
    desired: {{device_no: 0, state: "ヨシッ👉"}}
    reported: {{device_no: 0, state: "{{health}}"}}
    checks:
      - {{name: pump, file: {pump}, max_age: 1h, every: 500ms}}
    on_delta:
      msg: {{set: "publish[0].payload.msg"}}
      interval: {{set: "publish[0].every"}}

log:
  level: info
  format: json
"""


class Cable:
    """A relay on loopback to another port of it; once cut, all that was connected has ended and nobody listens."""

    def __init__(self, to_port: int) -> None:
        self.host = HOST
        self.port = free_port()
        self._to = (HOST, to_port)
        self._lock = threading.Lock()
        self._listener: socket.socket | None = None
        self._ends: list[socket.socket] = []
        self._threads: list[threading.Thread] = []

    def __enter__(self) -> Cable:
        self.mend()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.cut()
        for thread in self._threads:
            thread.join()
        for end in self._ends:
            end.close()

    def cut(self) -> None:
        """End every connection, without a word of MQTT to either side."""
        with self._lock:
            listener, self._listener = self._listener, None
            for end in self._ends:
                _hang_up(end)
            if listener is not None:
                _hang_up(listener)  # which wakes its accept(2), as close(2) does not
                listener.close()

    def mend(self) -> None:
        """Take connections, on the same port as before."""
        with self._lock:
            self._listener = socket.create_server((self.host, self.port))
            self._run(self._accept, self._listener)

    def _accept(self, listener: socket.socket) -> None:
        with suppress(OSError):
            while True:
                near = listener.accept()[0]
                with self._lock:
                    if self._listener is listener:
                        self._connect(near)
                    else:  # the cut came between
                        near.close()

    def _connect(self, near: socket.socket) -> None:
        try:
            far = socket.create_connection(self._to)
        except OSError:
            near.close()
            return
        self._ends += [near, far]
        self._run(_relay, near, far)
        self._run(_relay, far, near)

    def _run(self, work: Callable[..., None], *arguments: socket.socket) -> None:
        thread = threading.Thread(target=work, args=arguments, daemon=True)
        self._threads.append(thread)
        thread.start()


def _relay(source: socket.socket, target: socket.socket) -> None:
    with suppress(OSError):
        while data := source.recv(1 << 16):
            target.sendall(data)
    _hang_up(source)
    _hang_up(target)


def _hang_up(end: socket.socket) -> None:
    with suppress(OSError):
        end.shutdown(socket.SHUT_RDWR)


class Said(NamedTuple):
    """One line that iotd wrote: to its log, or (`is_stray`) on stderr."""

    text: str
    is_stray: bool


class Device:
    """A machine that runs `iotd run`, all of whose files stand below `directory`; what it writes comes in `said`."""

    def __init__(self, directory: Path, line: Cable, certificates: Certificates) -> None:
        self.said: SimpleQueue[Said] = SimpleQueue()
        self.pump = directory / "pump"
        self.pump.touch()
        self._config = directory / "iotd.yaml"
        self._config.write_text(
            CONFIG.format(thing=THING, shadow=SHADOW, host=line.host, port=line.port, certificates=certificates,
                          every=PUBLISH_EVERY_S, pump=self.pump), encoding="utf-8")
        self._state = directory / "state"
        self._runtime = directory / "runtime"
        self._process: subprocess.Popen[str] | None = None
        self._readers: list[threading.Thread] = []

    def policies(self) -> list[Any]:
        """Return what the certificate has to be allowed, as `iotd policy --aws` has it."""
        settings = parse.parse(self._config.read_text("utf-8"), "", policy.ANY_HOST, policy.THING).settings
        return policy.for_device(settings, parse.uses(settings), policy.Where())

    @property
    def is_on(self) -> bool:
        """Whether iotd runs, or has ended by itself."""
        return self._process is not None

    @property
    def fault(self) -> int | None:
        """The status with which iotd ended although nobody asked it to, else None."""
        return None if self._process is None else self._process.poll()

    def switch_on(self) -> None:
        """Start iotd with what a machine has after it has booted: what was on the disk, and an empty /run."""
        shutil.rmtree(self._runtime, ignore_errors=True)
        for directory in (self._state, self._runtime):
            directory.mkdir(exist_ok=True)
        environment = {
            name: value for name, value in os.environ.items() if name not in ("JOURNAL_STREAM", "NOTIFY_SOCKET")}
        environment |= {"STATE_DIRECTORY": str(self._state), "RUNTIME_DIRECTORY": str(self._runtime)}
        process = subprocess.Popen(
            [sys.executable, "-m", "iotd", "run", "-c", str(self._config)], env=environment, process_group=0,
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            encoding="utf-8", errors="backslashreplace")  # a group of its own: Ctrl-C is for the demonstration
        self._process = process
        self._readers = [threading.Thread(target=self._read, args=arguments, daemon=True)
                         for arguments in ((process.stdout, False), (process.stderr, True))]
        for reader in self._readers:
            reader.start()

    def cut_power(self) -> None:
        """End iotd without a chance to say anything."""
        if self._process is not None:
            self._process.kill()
            self._end(self._process)

    def stop(self) -> None:
        """End iotd as systemd would, and by force where it does not end."""
        if self._process is not None:
            self._process.terminate()
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(STOPS_WITHIN_S)
            self.cut_power()

    def _end(self, process: subprocess.Popen[str]) -> None:
        process.wait()
        for reader in self._readers:
            reader.join()
        for stream in (process.stdout, process.stderr):
            assert stream is not None
            stream.close()
        self._process = None

    def _read(self, stream: IO[str], is_stray: bool) -> None:
        for text in stream:
            self.said.put(Said(text.rstrip("\n"), is_stray))
