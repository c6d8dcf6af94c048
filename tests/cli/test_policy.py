"""`iotd policy`, as a person types it, and the access list on a real mosquitto."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.certificates import make_certificates
from tests.mosquitto import Mosquitto
from tests.observer import Observer
from tests.running import ROOT, Iotd, configuration


def policy(file: Path, *options: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "iotd", "policy", "-c", str(file), *options], cwd=ROOT, text=True,
                          capture_output=True, timeout=20)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    file = tmp_path / "iotd.yaml"
    file.write_text('mqtt: {host: h}\npublish: [{topic: "a/{hostname}", every: 1s, payload: {}}]\n')
    return file


@pytest.mark.parametrize("options", [
    (), ("--aws", "--mosquitto"), ("--aws", "--account", "12"), ("--aws", "--region", "eu central 1")])
def test_what_is_not_said_well_is_a_matter_of_usage(file: Path, options: tuple[str, ...]) -> None:
    done = policy(file, *options)
    assert (done.returncode, done.stdout) == (2, "") and done.stderr.startswith("usage:")


def test_what_becomes_wider_is_told_beside_the_policy(file: Path) -> None:
    done = policy(file, "--aws")
    assert done.returncode == 0 and "arn:aws:iot:*:*:topic/a/*" in done.stdout
    assert "warning: a/{hostname}: {hostname} becomes a wildcard" in done.stderr


def test_without_provisioning_there_is_no_claim(file: Path) -> None:
    done = policy(file, "--claim")
    assert (done.returncode, done.stdout) == (78, "") and "no section provision" in done.stderr


def test_a_configuration_with_problems_has_no_policy(file: Path) -> None:
    file.write_text("mqtt: {host: h}\npublisch: []\n")
    done = policy(file, "--aws")
    assert (done.returncode, done.stdout) == (78, "") and ":2: publisch" in done.stderr


def test_mosquitto_lets_iotd_do_what_it_is_configured_to_and_nobody_else(tmp_path: Path) -> None:
    certificates = make_certificates(tmp_path / "certificates")
    acl = tmp_path / "acl"
    acl.touch()
    with Mosquitto(tmp_path, certificates, settings=[f"acl_file {acl}"]) as broker:
        device = Iotd(tmp_path / "device", configuration(
            broker, certificates, publish=[{"topic": "plant/{thing}/state", "every": "1s", "payload": {}}],
            subscribe=[{"topic": "plant/{thing}/horn"}]))
        done = policy(device.file, "--mosquitto")
        assert (done.returncode, done.stderr) == (0, "")
        acl.write_text(f"{done.stdout}user cloud\ntopic readwrite #\n")
        broker.restart()
        with Observer(broker, "cloud") as cloud, device:
            cloud.subscribe("#")
            cloud.wait_for("plant/test-thing/state")
            cloud.publish("plant/test-thing/horn", b"!")
            device.wait_for("message.received", topic="plant/test-thing/horn")
            with Observer(broker, "stranger") as stranger:
                stranger.subscribe("plant/#")
                stranger.publish("plant/test-thing/horn", b"from a stranger")
                cloud.publish("plant/test-thing/horn", b"last")
                cloud.wait_for("plant/test-thing/horn", lambda message: message.payload == b"last")
                assert not stranger.messages
        assert b"from a stranger" not in [message.payload for message in cloud.messages]
