"""What a case of the fault lab is made of: a name, a rule, a script, a verdict; and the bench it runs on."""

from __future__ import annotations

import re
import ssl
import subprocess
import threading
import time
import traceback
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Callable, Sequence

from tests.certificates import LOOPBACK, Authority, Identity
from tests.faults.broker import Broker, Ended, Silence
from tests.faults.device import STARTS_S, Device
from tests.faults.packets import Malformed

THING = "fault-lab"
TOPIC = "lab/measured"
TRIGGER = "lab/trigger"
PRESENCE = f"MQTTServer/{THING}/will"

ADVISOR, LINE, BYTES, BROKER = "Device Advisor", "The line", "Hostile bytes", "The broker's will"


@dataclass(frozen=True, slots=True)
class Verdict:
    """pass, warn or fail, and what was seen."""

    word: str
    seen: str


def passed(seen: str) -> Verdict:
    """The rule holds."""
    return Verdict("pass", seen)


def warned(seen: str) -> Verdict:
    """The rule holds, and Device Advisor would still warn."""
    return Verdict("warn", seen)


def failed(seen: str) -> Verdict:
    """The rule does not hold."""
    return Verdict("fail", seen)


def judged(holds: bool, seen: str) -> Verdict:
    """Return pass where the rule holds, else fail."""
    return Verdict("pass" if holds else "fail", seen)


@dataclass(frozen=True, slots=True)
class Case:
    """One experiment. `slow` ones take longer than a developer waits, and belong to the long run."""

    name: str
    group: str
    rule: str
    slow: bool
    script: Callable[[Bench], Verdict]

    @property
    def done(self) -> str:
        """What is done to the device, in a sentence."""
        return " ".join((self.script.__doc__ or "").split())


CASES: dict[str, Case] = {}


def case(
    name: str, rule: str, group: str = ADVISOR, slow: bool = False
) -> Callable[[Callable[[Bench], Verdict]], Callable[[Bench], Verdict]]:
    """Enter a script in the catalogue; its docstring says what it does, `rule` when it has passed."""
    def enter(script: Callable[[Bench], Verdict]) -> Callable[[Bench], Verdict]:
        assert name not in CASES, f"two cases are called {name}"
        CASES[name] = Case(name, group, rule, slow, script)
        return script
    return enter


class Certificates:
    """The authority that the devices trust, another one, and what they issue; for any thread."""

    def __init__(self, directory: Path) -> None:
        self._lock = threading.Lock()
        self.trusted = Authority(directory / "trusted", "lab root")
        self.stranger = Authority(directory / "stranger", "somebody's root")
        self.server = self.issue("server", LOOPBACK)
        self.client = self.issue(THING)

    def issue(self, name: str, names: Sequence[str] = (), stranger: bool = False, **more: Any) -> Identity:
        """Return a new certificate; see Authority.issue."""
        with self._lock:
            return (self.stranger if stranger else self.trusted).issue(name, names, **more)

    def context(
        self, server: Identity | None = None, newest: ssl.TLSVersion = ssl.TLSVersion.TLSv1_3
    ) -> ssl.SSLContext:
        """Return the server's side of mutual TLS."""
        identity = server or self.server
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.maximum_version = newest
        context.load_cert_chain(identity.cert, identity.key)
        context.load_verify_locations(self.trusted.root)
        context.verify_mode = ssl.CERT_REQUIRED
        return context


class Bench:
    """Where one case runs: a directory, brokers and devices of its own, cleared away in the end."""

    def __init__(self, directory: Path, certificates: Certificates) -> None:
        self.directory = directory
        self.certificates = certificates
        self.brokers: list[Broker] = []
        self.devices: list[Device] = []
        self._over = threading.Event()
        directory.mkdir(parents=True)
        self._stack = ExitStack()

    def broker(self, context: ssl.SSLContext | None = None) -> Broker:
        """Return a broker of the case's own."""
        broker = self._stack.enter_context(Broker(context))
        self.brokers.append(broker)
        return broker

    def device(self, broker: Broker, before: Sequence[str] = (), **settings: Any) -> Device:
        """Return a device that has started and dials this broker; `settings` change those of the lab, key by key."""
        mqtt: dict[str, Any] = {"host": "localhost", "port": broker.port, "keepalive": "30s", "limits": "none",
                                "backoff": {"first": "1s", "max": "16s"}}
        if broker.context is not None:
            own = self.certificates.client
            mqtt["tls"] = {"ca": str(self.certificates.trusted.root), "cert": str(own.cert), "key": str(own.key)}
        mqtt.update(settings.pop("mqtt", {}))
        whole: dict[str, Any] = {
            "thing": THING, "mqtt": mqtt,
            "publish": [{"topic": TOPIC, "every": "1s", "payload": {"n": "{sequence}", "run": "{run}"}}],
            "subscribe": [{"topic": TRIGGER}], "log": {"level": "debug"}, **settings}
        device = Device(self.directory / f"device-{len(self.devices)}", whole, before)
        self.devices.append(device)
        self._stack.callback(device.kill)
        device.start()
        if device.wait_for("daemon.started", STARTS_S) is None:
            raise Silence(f"iotd did not start: {device.noise}")
        return device

    def keep(self, manager: Any) -> Any:
        """Enter a context manager that ends with the case."""
        return self._stack.enter_context(manager)

    def wait(self, seconds: float) -> None:
        """Let time pass in which nothing is to happen but what the device does by itself."""
        self._over.wait(seconds)

    def judge(self, verdict: Verdict) -> Verdict:
        """Stop every device, and return the verdict after what holds in every case.

        The device stops in order whatever the line is like, has met no bug of its own, says nothing but its log, and
        has sent nothing before CONNACK.
        """
        for device in self.devices:
            if not device.running():
                return failed(f"iotd ended by itself: {device.noise}")
            try:
                status = device.stop()
            except subprocess.TimeoutExpired:
                return failed("iotd did not stop when it was asked to")
            faults = device.said("daemon.fault")
            if status or device.noise or faults:
                return failed(f"iotd ended with status {status}, noise {device.noise}, faults {faults}")
        early = [packet for broker in self.brokers for connection in broker.connections
                 for packet in connection.early()]
        if early:
            return failed(f"{len(early)} packets were sent before CONNACK")
        return verdict

    def close(self) -> None:
        """Clear away."""
        self._stack.close()


@dataclass(frozen=True, slots=True)
class Result:
    """What came of a case, and how long it took."""

    verdict: Verdict
    took_s: float


class Lab:
    """All the cases at once, since they mostly wait: each begins when the lab does, or as soon as there is room."""

    def __init__(self, directory: Path, names: Sequence[str], at_once: int = 24) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self._directory = directory
        self._certificates = Certificates(directory / "certificates")
        self._pool = ThreadPoolExecutor(at_once)
        self._futures: dict[str, Future[Result]] = {name: self._pool.submit(self._run, CASES[name]) for name in names}

    def result(self, name: str) -> Result:
        """Wait for the case and return what came of it."""
        return self._futures[name].result()

    def close(self) -> None:
        """Wait for the cases that have begun, and begin no more."""
        self._pool.shutdown(cancel_futures=True)

    def _run(self, case: Case) -> Result:
        started_at = time.monotonic()
        bench = Bench(self._directory / re.sub(r"\W+", "-", case.name), self._certificates)
        try:
            verdict = bench.judge(case.script(bench))
        except (Silence, Ended, Malformed) as error:
            verdict = failed(f"{type(error).__name__.lower()}: {error}")
        except Exception:
            verdict = failed(f"the lab itself: {traceback.format_exc()}")
        finally:
            bench.close()
        return Result(verdict, time.monotonic() - started_at)
