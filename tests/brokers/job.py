"""The main job on one broker, as a device and whoever looks at it see it; each step says what it has found."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

from tests.brokers.brokers import ANEW, KEPT, SEEN, Broker
from tests.brokers.relay import Relay
from tests.certificates import Certificates
from tests.mosquitto import Mosquitto
from tests.observer import Observer
from tests.running import Iotd

STATE, RARE, IN, PRESENCE = "t/state", "t/rare", "t/in", "MQTTServer/test-thing/will"
STEPS = ("TLS", "Connected", "retained", "subscribe", "outage drained in order", "will", "Stopped", "session")


class Job:
    """The job, step by step; `found` has what each has found, SEEN where it is as it should be."""

    def __init__(self, broker: Broker, certificates: Certificates, directory: Path, outage_s: float) -> None:
        self.found: dict[str, str] = {}
        self._broker = broker
        self._certificates = certificates
        self._directory = directory
        self._outage_s = outage_s

    def run(self) -> dict[str, str]:
        """Return what was found, by step."""
        with self._broker, Relay(self._broker.tls_port) as relay:
            with self._observer("watch") as watch:
                watch.subscribe(STATE, PRESENCE)
                with self._iotd(relay) as iotd:
                    self._step("TLS", lambda: iotd.wait_for("session.connected"))
                    self._step("Connected", lambda: self._word(watch, "Connected"))
                    self._step("retained", self._retained)
                    self._step("subscribe", lambda: self._subscribe(watch, iotd))
                    self._step("outage drained in order", lambda: self._outage(relay, watch, iotd))
                    iotd.signal(signal.SIGKILL)
                    self._step("will", lambda: self._word(watch, "Communication lost"))
            with self._iotd(relay) as iotd:
                iotd.wait_for("session.connected")
                self._step("session", lambda: self._session(relay, iotd))
                iotd.signal(signal.SIGTERM)
                assert iotd.end() == 0, iotd.stderr()
            self._step("Stopped", lambda: self._stands(PRESENCE, lambda body: body["status"] == "Stopped"))
        return self.found

    def _step(self, name: str, do: Callable[[], Any]) -> None:
        try:
            said = do()
            self.found[name] = said if isinstance(said, str) else SEEN
        except AssertionError as error:
            self.found[name] = f"no: {str(error).splitlines()[0]}"[:200]

    def _observer(self, name: str) -> Observer:
        return Observer(cast(Mosquitto, self._broker), name, self._broker.login)

    def _iotd(self, relay: Relay) -> Iotd:
        login = {}
        if self._broker.login is not None:
            password = self._directory / "password"
            password.write_text(self._broker.login[1])
            password.chmod(0o600)
            login = {"username": self._broker.login[0], "password_file": str(password)}
        return Iotd(self._directory, {
            "thing": "test-thing",
            "mqtt": {"host": relay.host, "port": relay.port, "backoff": {"first": "1s", "max": "2s"},
                     "tls": {"ca": str(self._certificates.ca), "cert": "none"}, **login},
            "subscribe": [{"topic": IN}],
            "publish": [{"topic": STATE, "every": "1s", "payload": {"n": "{sequence}", "run": "{run}"}},
                        {"topic": RARE, "every": "1h", "payload": {"run": "{run}"}}]})

    def _word(self, watch: Observer, word: str) -> None:
        watch.wait_for(PRESENCE, lambda message: message.json()["status"] == word, timeout_s=20.0)
        self._stands(PRESENCE, lambda body: body["status"] == word)

    def _retained(self) -> None:
        self._stands(STATE, lambda body: body["n"] > 0)
        self._stands(RARE, lambda body: body["run"])

    def _stands(self, topic: str, is_right: Callable[[Any], object]) -> None:
        """Wait until whoever comes late is given what is right as retained."""
        deadline = time.monotonic() + 10.0
        while True:
            with self._observer("late") as late:
                try:
                    late.subscribe(topic)
                    late.wait_for(topic, lambda message: message.retain and is_right(message.json()), timeout_s=2.0)
                    return
                except AssertionError:
                    if time.monotonic() > deadline:
                        raise

    def _subscribe(self, watch: Observer, iotd: Iotd) -> None:
        watch.publish(IN, {"a": 1})
        iotd.wait_for("message.received", topic=IN, payload={"a": 1})

    def _outage(self, relay: Relay, watch: Observer, iotd: Iotd) -> None:
        """Every message arrives, the first time in order."""
        since = len(iotd.entries)
        relay.cut()
        iotd.wait_for("session.disconnected", since)
        time.sleep(self._outage_s)
        relay.mend()
        iotd.wait_for("session.connected", since)
        last = int(self._outage_s) + 2
        watch.wait_for(STATE, lambda message: message.json()["n"] >= last, timeout_s=30.0)
        numbers = [message.json()["n"] for message in watch.messages if message.topic == STATE]
        first = list(dict.fromkeys(numbers))
        assert first == list(range(first[0], first[-1] + 1)), f"arrived as {first}"

    def _heard(self, watch: Observer, iotd: Iotd) -> None:
        """Wait until the device is subscribed, which a broker that holds no session takes a moment for."""
        deadline = time.monotonic() + 10.0
        since = len(iotd.entries)
        while not any(entry["event"] == "message.received" for entry in iotd.entries[since:]):
            assert time.monotonic() < deadline, f"nothing comes in on {IN} any more"
            watch.publish(IN, {"c": 3})
            time.sleep(0.2)

    def _session(self, relay: Relay, iotd: Iotd) -> str:
        """What was sent to the device while it was away arrives over a restart of the broker, or the device begins
        anew; what it has retained stands either way.
        """
        since = len(iotd.entries)
        relay.cut()
        iotd.wait_for("session.disconnected", since)
        self._broker.restart()
        with self._observer("watch") as watch:
            watch.publish(IN, {"b": 2})
            relay.mend()
            is_kept = iotd.wait_for("session.connected", since)["session_present"]
            if is_kept:
                iotd.wait_for("message.received", topic=IN, payload={"b": 2})
            self._heard(watch, iotd)
        self._stands(RARE, lambda body: body["run"])
        self._stands(PRESENCE, lambda body: body["status"] == "Connected")
        return KEPT if is_kept else ANEW
