"""A device without an identity gets one by its claim, on a real broker, and lives under it from then on."""

from __future__ import annotations

import signal
from pathlib import Path

from tests.certificates import Certificates
from tests.mosquitto import Mosquitto
from tests.observer import Observer
from tests.provision.fleet import PRESENCE, account, device, identity_of, service
from tests.running import Iotd

TELEMETRY = {"publish": [{"topic": "t/{thing}/0", "every": "1s", "payload": {"thing": "{thing}"}}]}


def is_connected(observer: Observer) -> None:
    observer.wait_for(PRESENCE, lambda message: message.json()["status"] == "Connected")


def test_a_claim_becomes_a_thing_that_says_connected_and_keeps_its_identity(
    tmp_path: Path, broker: Mosquitto, certificates: Certificates, observer: Observer
) -> None:
    observer.subscribe("t/#", "MQTTServer/#")
    rules = account(certificates)
    with service(broker, rules), device(tmp_path / "iotd", broker, certificates, TELEMETRY) as iotd:
        iotd.wait_told("READY=1")
        iotd.wait_told("STATUS=provisioning: ")
        iotd.wait_for("provision.registered", thing="pi-7")
        is_connected(observer)
        assert observer.wait_for("t/#").topic == "t/pi-7/0"
        assert {message.topic.split("/")[1] for message in observer.messages} == {"pi-7"}
        assert list(rules.things) == ["pi-7"] and len(rules.certificates) == 1
        assert sorted(identity_of(iotd)) == ["a.crt", "a.key", "identity.json"]
        folder = iotd.directory / "state" / "identity"
        assert {oct(path.stat().st_mode & 0o777) for path in (folder, *folder.iterdir())} == {"0o700", "0o600"}
        iotd.signal(signal.SIGTERM)
        assert iotd.end() == 0
    text = broker.log.read_text()
    assert "as claim-" in text and "as pi-7" in text
    with Iotd(tmp_path / "iotd", __import__("yaml").safe_load(iotd.file.read_text())) as again:
        again.wait_for("session.connected")
        again.wait_for("daemon.started", thing="pi-7")
        assert not [entry for entry in again.entries if entry["event"].startswith("provision.")]
