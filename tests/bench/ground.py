"""The ground on which all are measured: one broker with mutual TLS, and each contender as a process of its own.

iotd runs as the Debian package ships it: compiled to bytecode, through the same entry script, told by systemd's
variables where its directories are and how often to feed the watchdog. The runtime directory is a tmpfs.
"""

from __future__ import annotations

import compileall
import json
import os
import shutil
import socket
import subprocess
import tempfile
import threading
import time
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Callable, Mapping

import yaml

from tests.aws.service import ShadowService, shadow_prefix
from tests.certificates import Certificates, make_certificates
from tests.mosquitto import Mosquitto
from tests.observer import Client, tls_context

ROOT = Path(__file__).parent.parent.parent
SCRIPTS = Path(__file__).parent / "scripts"
PYTHON = "/usr/bin/python3"
TMPFS = Path("/dev/shm")
DISK = Path("/var/tmp")  # which outlives a reboot: no tmpfs
PATIENCE_S = 60.0
SHADOW = "device_0"
FLAT_OUT_ENTRIES = 50  # iotd at full speed has so many entries, all of them always due

IOTD, BARE, SDK_V2, SDK_V1 = "iotd", "bare paho", "SDK v2", "SDK v1"
LOCAL = (IOTD, BARE)
ALL = (IOTD, BARE, SDK_V2, SDK_V1)

_ENTRY = """\
import re
import sys
from iotd.cli import main
if __name__ == "__main__":
    sys.argv[0] = re.sub(r"(-script\\.pyw|\\.exe)?$", "", sys.argv[0])
    sys.exit(main())
"""
_PAYLOAD = {"hostname": "bench", "device_no": 0, "msg": "AWS IoT 接続ヨシッ👉"}


@dataclass(frozen=True, slots=True)
class Job:
    """What a contender has to do; the scripts take it as JSON.

    Publish `payload` to `topic` every `every_s` (0: as fast as `window` unacknowledged ones allow), report a shadow
    every `report_s`, hold a will, subscribe `filters`, log what comes in. `backlog`: publish only so many messages,
    which have waited since before the connection, to TOPIC/first, TOPIC/between and TOPIC/last.
    """

    thing: str
    host: str = ""
    port: int = 0
    ca: str = ""
    cert: str = ""
    key: str = ""
    every_s: float = 30.0
    report_s: float = 30.0
    window: int = 100
    backlog: int = 0
    retain: bool = True
    payload: Mapping[str, Any] = field(default_factory=lambda: _PAYLOAD)

    @property
    def topic(self) -> str:
        return f"MQTTServer/{self.thing}/0"

    @property
    def presence(self) -> str:
        return f"MQTTServer/{self.thing}/will"

    @property
    def filters(self) -> list[str]:
        """What everybody subscribes, its orders first."""
        shadow = f"{shadow_prefix(self.thing, SHADOW)}/update"
        return [f"MQTTServer/{self.thing}/orders", f"{shadow}/documents", f"{shadow}/delta"]

    def as_json(self) -> str:
        report = f"{shadow_prefix(self.thing, SHADOW)}/update"
        return json.dumps({**asdict(self), "topic": self.topic, "presence": self.presence, "filters": self.filters,
                           "report": report})


class Ground:
    """The broker, the shadow service, an observer, and where everything lies; use it in a `with`."""

    def __init__(self) -> None:
        self._stack = ExitStack()
        self._things = 0

    def __enter__(self) -> Ground:
        with ExitStack() as stack:
            self.disk = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="iotd-bench-", dir=DISK)))
            self.tmpfs = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="iotd-bench-", dir=TMPFS)))
            self.library = _installed(self.disk / "library")
            self.certificates: Certificates = make_certificates(self.tmpfs / "certificates", "bench")
            (self.tmpfs / "broker").mkdir()
            self.broker = stack.enter_context(Mosquitto(self.tmpfs / "broker", self.certificates, settings=[
                "log_type none", "max_inflight_messages 1000"]))
            stack.enter_context(ShadowService(self.broker))
            self.probe = stack.enter_context(Probe(self))
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    def job(self, **more: Any) -> Job:
        """Return a job for a thing of its own."""
        self._things += 1
        client = self.certificates.client
        return Job(f"bench-{self._things}", self.broker.host, self.broker.port, str(self.certificates.ca),
                   str(client.cert), str(client.key), **more)

    def start(self, name: str, job: Job, **more: Any) -> Contender:
        """Start a contender at this job; `more` is for iotd's configuration."""
        return Contender(self, name, job, more)


class Contender:
    """One run of one contender, in directories of its own; leaving the `with` kills it."""

    def __init__(self, ground: Ground, name: str, job: Job, more: Mapping[str, Any]) -> None:
        self.job = job
        self.name = name
        self.state = ground.disk / job.thing
        self.runtime = ground.tmpfs / job.thing
        for directory in (self.state, self.runtime):
            directory.mkdir(exist_ok=True)
        self.log = self.runtime.with_suffix(".log")
        self._told: list[tuple[float, str]] = []
        self._notified = threading.Condition()
        self._environment = {"PATH": "/usr/bin:/bin", "LANG": "C.UTF-8", "HOME": str(ground.tmpfs)}
        if name == IOTD:
            file = ground.tmpfs / f"{job.thing}.yaml"
            file.write_text(yaml.safe_dump(configuration(job, **more), allow_unicode=True), "utf-8")
            self._command = [PYTHON, str(ground.library / "iotd-entry"), "run", "-c", str(file)]
            self._environment.update(PYTHONPATH=str(ground.library), STATE_DIRECTORY=str(self.state),
                                     RUNTIME_DIRECTORY=str(self.runtime), NOTIFY_SOCKET=str(self._notify_path()),
                                     WATCHDOG_USEC="60000000")
        else:
            python, script = {BARE: (PYTHON, "bare.py"), SDK_V2: (str(peers_python()), "sdk_v2.py"),
                              SDK_V1: (str(peers_python()), "sdk_v1.py")}[name]
            self._command = [python, str(SCRIPTS / script), job.as_json()]

    def __enter__(self) -> Contender:
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._notify_path().unlink(missing_ok=True)
        self._socket.bind(str(self._notify_path()))
        self._thread = threading.Thread(target=self._listen)
        self._thread.start()
        with self.log.open("wb") as log:
            self.started_at = time.monotonic()
            self.process = subprocess.Popen(self._command, env=self._environment, cwd="/", stdin=subprocess.DEVNULL,
                                            stdout=log, stderr=log)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        ended = self.process.poll()
        self.process.kill()
        self.process.wait()
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as end:
            end.connect(str(self._notify_path()))
            end.send(b"END")
        self._thread.join()
        self._socket.close()
        self._notify_path().unlink()
        if ended is not None:
            raise RuntimeError(f"{self.name} ended by itself with status {ended}:\n{self.log.read_text()[-2000:]}")

    @property
    def pid(self) -> int:
        return self.process.pid

    def ready_at(self) -> float:
        """Return when READY=1 came, in monotonic seconds."""
        with self._notified:
            self._notified.wait_for(lambda: self._told, PATIENCE_S)
            return next(at for at, text in self._told if "READY=1" in text)

    def wait_for_log(self, size: int, lines: int) -> None:
        """Wait until it has logged so many lines beyond the first `size` bytes."""
        deadline = time.monotonic() + PATIENCE_S
        while self.log.read_bytes()[size:].count(b"\n") < lines:
            if time.monotonic() > deadline:
                raise RuntimeError(f"{self.name} did not log {lines} lines within {PATIENCE_S:g} s")
            time.sleep(0.05)

    def _notify_path(self) -> Path:
        return self.runtime.with_suffix(".notify")

    def _listen(self) -> None:
        while (told := self._socket.recv(4096)) != b"END":
            with self._notified:
                self._told.append((time.monotonic(), told.decode()))
                self._notified.notify_all()


class Probe:
    """A client that looks at the broker when asked, and is idle otherwise."""

    def __init__(self, ground: Ground) -> None:
        self._changed = threading.Condition()
        self._seen: dict[str, tuple[float, dict[str, Any]]] = {}
        self._broker = ground.broker
        self._client = Client("probe")
        identity = ground.certificates.authority.issue("probe")
        self._client.tls_set_context(tls_context(ground.certificates.ca, identity))
        self._client.on_message = self._on_message

    def __enter__(self) -> Probe:
        self._client.connect(self._broker.host, self._broker.port)
        self._client.loop_start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._client.close()

    def expect(self, topic: str) -> Callable[[], tuple[float, dict[str, Any]]]:
        """Listen for the next message on the topic; calling the result waits for it: its time and its payload."""
        with self._changed:
            self._seen.pop(topic, None)
        self._client.subscribe(topic)

        def wait() -> tuple[float, dict[str, Any]]:
            with self._changed:
                came = self._changed.wait_for(lambda: topic in self._seen, PATIENCE_S)
            self._client.unsubscribe(topic)
            if not came:
                raise RuntimeError(f"nothing came on {topic} within {PATIENCE_S:g} s")
            return self._seen[topic]

        return wait

    def sequence(self, topic: str) -> tuple[float, int]:
        """Return the sequence number of the next message on the topic, and when it came."""
        at, payload = self.expect(topic)()
        return at, int(payload["sequence"])

    def publish(self, topic: str, payload: Mapping[str, Any], count: int) -> None:
        """Publish the payload so often, as fast as the broker takes it."""
        for _ in range(count):
            sent = self._client.publish(topic, json.dumps(payload, ensure_ascii=False), qos=1)
        sent.wait_for_publish(PATIENCE_S)

    def _on_message(self, client: Any, userdata: Any, message: Any) -> None:
        at = time.monotonic()
        if not message.retain:
            with self._changed:
                if message.topic not in self._seen:
                    self._seen[message.topic] = (at, json.loads(message.payload))
                    self._changed.notify_all()


def configuration(job: Job, **more: Any) -> dict[str, Any]:
    """Return iotd's configuration for the job; `more` replaces whole sections."""
    placeholders = {"Timestamp": "{timestamp}", "sequence": "{sequence}"}
    payload = {**job.payload, **placeholders}
    publish = [] if job.backlog else [{"topic": job.topic, "every": f"{job.every_s * 1000:.0f}ms", "payload": payload}]
    if not job.every_s:
        publish = [{"topic": f"{job.topic}/{number}" if number else job.topic, "every": "1ms", "payload": payload}
                   for number in range(FLAT_OUT_ENTRIES)]
    return {
        "thing": job.thing,
        "mqtt": {"host": job.host, "port": job.port, "limits": "none",
                 "tls": {"ca": job.ca, "cert": job.cert, "key": job.key}},
        "publish": publish,
        "subscribe": [{"topic": name} for name in job.filters[:1]],
        "shadows": [{"name": SHADOW, "every": f"{job.report_s:g}s", "reported": {
            "device_no": 0, "state": "{health}"}}],
        **more,
    }


def cache_directory() -> Path:
    """Return where the bench keeps what outlives a run."""
    directory = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "iotd"
    directory.mkdir(parents=True, exist_ok=True)
    return directory


def peers_python() -> Path:
    """Return the Python of the throwaway environment in which AWS's SDKs live."""
    return cache_directory() / "bench-peers/bin/python"


def install_peers() -> None:
    """Make that environment, where it is not there yet."""
    if not peers_python().exists():
        subprocess.run([PYTHON, "-m", "venv", str(peers_python().parent.parent)], check=True)
    subprocess.run([str(peers_python()), "-m", "pip", "install", "--quiet", "awsiotsdk", "AWSIoTPythonSDK"], check=True)


def _installed(library: Path) -> Path:
    """Put iotd there as the package ships it: with its bytecode, and the entry script."""
    shutil.copytree(ROOT / "iotd", library / "iotd", ignore=shutil.ignore_patterns("__pycache__"))
    compileall.compile_dir(library, quiet=1)
    (library / "iotd-entry").write_text(_ENTRY)
    return library
