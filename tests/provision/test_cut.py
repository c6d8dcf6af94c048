"""A device that is killed while it is provisioned, on a real broker: it comes back as one thing, with one key."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterable
from pathlib import Path

import pytest

from iotd.host import openssl
from tests.aws.provisioning import CREATE, REGISTER, Answer
from tests.certificates import Certificates
from tests.mosquitto import Mosquitto
from tests.provision.fleet import account, device, identity_of, service
from tests.running import Iotd

REGISTER_OF_FLEET = REGISTER.format("fleet")


def is_one_thing(iotd: Iotd, things: dict[str, list[str]]) -> None:
    """Assert that the device is its thing, with one pair that fits and nothing else kept."""
    found = identity_of(iotd)
    place = json.loads(found["identity.json"])["place"]
    assert sorted(found) == [f"{place}.crt", f"{place}.key", "identity.json"] and list(things) == ["pi-7"]
    public = openssl.public_key(found[f"{place}.key"].decode())
    assert openssl.certificate(found[f"{place}.crt"].decode()).public_key == public


@pytest.mark.parametrize("event", ["daemon.started", "provision.started", "session.connected",
                                   "provision.certificate", "provision.registered", "daemon.reloaded"])
def test_killed_at_each_step_that_the_log_tells(
    tmp_path: Path, broker: Mosquitto, certificates: Certificates, event: str
) -> None:
    rules = account(certificates)
    with service(broker, rules):
        with device(tmp_path / "iotd", broker, certificates) as iotd:
            iotd.wait_for(event)
            iotd.signal(signal.SIGKILL)
            iotd.end()
        with device(tmp_path / "iotd", broker, certificates) as iotd:
            iotd.wait_told("STATUS=connected")
            iotd.wait_for("session.connected")
        is_one_thing(iotd, rules.things)


@pytest.mark.parametrize("once", [False, True])
@pytest.mark.parametrize("topic", [CREATE, REGISTER_OF_FLEET])
@pytest.mark.parametrize("delivered", [False, True])
def test_killed_while_the_service_answers(
    tmp_path: Path, broker: Mosquitto, certificates: Certificates, topic: str, delivered: bool, once: bool
) -> None:
    rules, running = account(certificates, once=once), list[Iotd]()

    def kill(answer: Answer) -> Iterable[Answer]:
        if running and answer.topic.startswith(topic):
            running.pop().process.kill()
            return [answer] if delivered else []
        return [answer]

    with service(broker, rules) as provisioning:
        provisioning.courier = kill
        with device(tmp_path / "iotd", broker, certificates) as iotd:
            running.append(iotd)
            assert iotd.end() == -signal.SIGKILL
        with device(tmp_path / "iotd", broker, certificates) as iotd:
            iotd.wait_told("STATUS=connected")
        is_one_thing(iotd, rules.things)
        assert len(rules.certificates) <= 2
