"""Show iotd at work: a broker and a shadow service on loopback, iotd itself, and a client that watches both.

What counts is what the watching client saw at the broker, never what iotd says of itself.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import Any, Callable

from tests.aws.service import ShadowService, shadow_prefix
from tests.certificates import make_certificates
from tests.mosquitto import Mosquitto
from tests.observer import Message, Observer

THING = "demo-pi"
SHADOW = "device_0"
TOPIC = f"MQTTServer/{THING}/0"
PRESENCE = f"MQTTServer/{THING}/will"
DOCUMENTS = f"{shadow_prefix(THING, SHADOW)}/update/documents"

CONNECTED = f'"status": "Connected" on {PRESENCE}'
RETAINED = f"the retained message on {TOPIC}"
REPORTED = f"the report in the shadow {SHADOW}"
OBEYED = "what the cloud desires, done and reported"
PUBLISHED = f"the desired msg in what is published on {TOPIC}"
BROKEN = "the shadow unhealthy within two seconds of a check that fails"
MENDED = "the shadow healthy within two seconds of its recovery"
WILL = f'the will, "status": "Communication lost" on {PRESENCE}'

CONFIG = """\
thing: {thing}

mqtt:
  host: {host}
  port: {port}
  keepalive: 60s
  clean_session: false
  tls:
    ca: {ca}
    cert: {cert}
    key: {key}

presence:
  topic: "MQTTServer/{{thing}}/will"
  retain: true
  qos: 1

publish:
  - topic: "MQTTServer/{{thing}}/0"
    every: 5s
    retain: true
    payload:
      Timestamp: "{{timestamp}}"
      hostname: "{{hostname}}"
      device_no: 0
      msg: "AWS IoT 接続ヨシッ👉"

subscribe:
  - topic: "MQTTServer/{{thing}}/0"

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
  format: text
"""
DESIRED = '{"msg": "こんにちは"}'
ACTIONS = {"msg", "interval"}
HEALTHY, UNHEALTHY = "ヨシッ👉", "ダメ🙅"
AT_ONCE_S = 2.0


class Demo:
    """One run: it tells each message as it comes and remembers which of the promised ones were really there."""

    def __init__(
        self, broker: Mosquitto, service: ShadowService, observer: Observer, pump: Path, desired: dict[str, Any]
    ) -> None:
        self.seen: set[str] = set()
        self.promised = [CONNECTED, RETAINED, REPORTED, BROKEN, MENDED, WILL]
        self.promised += [OBEYED] if ACTIONS & desired.keys() else []
        self.promised += [PUBLISHED] if "msg" in desired else []
        self._pump = pump
        self._desired = desired
        self._changed_at = 0.0
        self._broker = broker
        self._service = service
        self._observer = observer
        self._told = 0
        self._ordered = False

    def watch(self, iotd: subprocess.Popen[bytes], seconds: float) -> None:
        """Tell what arrives until the time is over, iotd ends, or a signal asks for the end."""
        end = time.monotonic() + seconds
        try:
            while time.monotonic() < end and iotd.poll() is None:
                try:
                    iotd.wait(0.2)
                except subprocess.TimeoutExpired:
                    self._tell_new()
        except KeyboardInterrupt:
            say("asked to end")

    def end_without_warning(self, iotd: subprocess.Popen[bytes]) -> None:
        """Kill iotd, as a power cut would, and wait for its will."""
        say("iotd is killed (SIGKILL); the broker publishes its will")
        iotd.kill()
        iotd.wait()
        with suppress(AssertionError):  # then it stays among what is missing
            self._observer.wait_for(PRESENCE, lambda message: status(message) == "Communication lost", timeout_s=5)
            self.seen.add(WILL)
        self._tell_new()

    def _tell_new(self) -> None:
        for message in self._observer.messages[self._told:]:
            self._told += 1
            if message.topic == DOCUMENTS:
                current = message.json()["current"]
                state = json.dumps(current["state"], ensure_ascii=False)
                say(f"{message.topic}  version {current['version']}: {state}")
            else:
                say(f"{message.topic}  {message.payload.decode('utf-8', 'backslashreplace')}")
            self._react(message)

    def _react(self, message: Message) -> None:
        if message.topic == PRESENCE and status(message) == "Connected":
            self.seen.add(CONNECTED)
        elif message.topic == TOPIC:
            if RETAINED not in self.seen:
                self._read_retained()
            if message.json()["msg"] == self._desired.get("msg"):
                self.seen.add(PUBLISHED)
        elif message.topic == DOCUMENTS:
            state = message.json()["current"]["state"]
            self._react_to_shadow(state.get("reported", {}))
            if "desired" in state and not self._ordered:
                self._order()

    def _react_to_shadow(self, reported: dict[str, Any]) -> None:
        if reported.get("device_no") == 0 and reported.get("state") == HEALTHY:
            self.seen.add(REPORTED)
        if all(reported.get(key) == value for key, value in self._desired.items() if key in ACTIONS):
            self.seen.add(OBEYED)
        at_once = time.monotonic() < self._changed_at + AT_ONCE_S
        if not self._pump.exists():
            if reported.get("state") == UNHEALTHY:
                self.seen.update([BROKEN] if at_once else [])
                self._change("the pump is mended: its file is there again", self._pump.touch)
        elif REPORTED in self.seen and self._ordered and not self._changed_at:
            self._change("the pump breaks: the file that a check watches is gone", self._pump.unlink)
        elif self._changed_at and reported.get("state") == HEALTHY:
            self.seen.update([MENDED] if at_once else [])

    def _change(self, text: str, step: Callable[[], None]) -> None:
        say(text)
        self._changed_at = time.monotonic()
        step()

    def _read_retained(self) -> None:
        with Observer(self._broker, "latecomer") as latecomer, suppress(AssertionError):
            latecomer.subscribe(TOPIC)
            message = latecomer.wait_for(TOPIC, lambda message: message.retain, timeout_s=2)
            self.seen.add(RETAINED)
            say(f"a client that comes later is given the retained message at once: {message.payload.decode()}")

    def _order(self) -> None:
        self._ordered = True
        say(f"the cloud now desires {json.dumps(self._desired, ensure_ascii=False)}; iotd is told the delta")
        self._service.update(THING, SHADOW, {"desired": self._desired})


def status(message: Message) -> Any:
    """Return the status of a presence message."""
    return message.json().get("status")


def say(text: str) -> None:
    """Print a line that cannot be taken for one of iotd's log."""
    print(f"demo ▶ {text}", flush=True)


def start_iotd(directory: Path, broker: Mosquitto, pump: Path) -> subprocess.Popen[bytes]:
    """Start `iotd run`, all of whose files stand below `directory`, with its log on this terminal."""
    assert broker.certificates is not None
    config = directory / "iotd.yaml"
    config.write_text(
        CONFIG.format(
            thing=THING, shadow=SHADOW, pump=pump, host=broker.host, port=broker.port, ca=broker.certificates.ca,
            cert=broker.certificates.client.cert, key=broker.certificates.client.key,
        ),
        encoding="utf-8",
    )
    environment = {name: value for name, value in os.environ.items() if name not in ("JOURNAL_STREAM", "NOTIFY_SOCKET")}
    for variable in ("STATE_DIRECTORY", "RUNTIME_DIRECTORY"):
        environment[variable] = str(directory / variable.lower())
        Path(environment[variable]).mkdir()
    command = [sys.executable, "-m", "iotd", "run", "-c", str(config)]
    return subprocess.Popen(command, env=environment, stdin=subprocess.DEVNULL, process_group=0)


def run(seconds: float, desired: dict[str, Any]) -> int:
    """Run the whole show; return 0, or 1 when iotd ended or something promised was not seen in the time given."""
    with tempfile.TemporaryDirectory(prefix="iotd-demo-") as name:
        directory = Path(name)
        certificates = make_certificates(directory / "certificates", THING)
        with (
            Mosquitto(directory, certificates) as broker,
            ShadowService(broker) as service,
            Observer(broker) as observer,
        ):
            observer.subscribe(TOPIC, PRESENCE, DOCUMENTS)
            say(f"broker and shadow service listen on {broker.host}:{broker.port}; iotd starts")
            pump = directory / "pump"
            pump.touch()
            demo = Demo(broker, service, observer, pump, desired)
            iotd = start_iotd(directory, broker, pump)
            try:
                demo.watch(iotd, seconds)
                for number in SIGNALS:
                    signal.signal(number, signal.SIG_IGN)  # what is left is short and leaves nothing behind
                if iotd.poll() is None:
                    demo.end_without_warning(iotd)
                else:
                    say(f"iotd ended by itself with status {iotd.returncode}")
                    return 1
            finally:
                iotd.kill()
                iotd.wait()
    if math.isinf(seconds):
        return 0
    missing = [promise for promise in demo.promised if promise not in demo.seen]
    for promise in missing:
        say(f"not seen: {promise}")
    return 1 if missing else 0


SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def json_object(text: str) -> dict[str, Any]:
    """Return the JSON object that an option holds. Raises ValueError, as argparse wants it."""
    value = json.loads(text)
    if not isinstance(value, dict):
        raise ValueError("expected a JSON object")
    return value


def main() -> int:
    """Parse the arguments and run until the time is over or a signal comes."""
    parser = argparse.ArgumentParser(prog="script/demo", description="See iotd at work on this machine.")
    parser.add_argument("--seconds", type=float, default=math.inf, help="how long to run (default: until Ctrl-C)")
    parser.add_argument("--desired", type=json_object, default=DESIRED, metavar="JSON",
                        help="what the cloud desires; msg and interval have an action (default: %(default)s)")
    arguments = parser.parse_args()
    for number in SIGNALS:
        signal.signal(number, signal.default_int_handler)
    try:
        return run(arguments.seconds, arguments.desired)
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(main())
