"""A device without an identity gets one by its claim, on a real broker, and lives under it from then on."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.certificates import Certificates
from tests.mosquitto import Mosquitto
from tests.observer import Observer
from tests.provision.fleet import PRESENCE, account, becomes_the_thing, device, identity_of, service
from tests.running import ROOT, Iotd

TELEMETRY = {"publish": [{"topic": "t/{thing}/0", "every": "1s", "payload": {"thing": "{thing}"}}]}


def command(iotd: Iotd, *words: str) -> tuple[int, str]:
    """Return the exit status of a command on the device, and all that it said."""
    environment = iotd.environment()
    del environment["NOTIFY_SOCKET"], environment["PYTHONWARNINGS"]  # which no person's shell has
    done = subprocess.run([sys.executable, "-m", "iotd", *words], env=environment, cwd=ROOT, timeout=60,
                          capture_output=True, text=True, stdin=subprocess.DEVNULL)
    assert "Traceback" not in done.stderr, done.stderr
    return done.returncode, done.stdout + done.stderr


def test_a_claim_becomes_a_thing_that_says_connected_and_keeps_its_identity(
    tmp_path: Path, broker: Mosquitto, certificates: Certificates, observer: Observer
) -> None:
    observer.subscribe("t/#", "MQTTServer/#")
    rules = account(certificates)
    with service(broker, rules), device(tmp_path / "iotd", broker, certificates, TELEMETRY) as iotd:
        iotd.wait_told("READY=1")
        iotd.wait_told("STATUS=provisioning: ")
        iotd.wait_for("provision.registered", thing="pi-7")
        observer.wait_for(PRESENCE, lambda message: message.json()["status"] == "Connected")
        assert observer.wait_for("t/#").topic == "t/pi-7/0"
        assert {message.topic.split("/")[1] for message in observer.messages} == {"pi-7"}
        assert list(rules.things) == ["pi-7"] and len(rules.certificates) == 1
        assert sorted(identity_of(iotd)) == ["a.crt", "a.key", "identity.json"]
        folder = iotd.directory / "state" / "identity"
        assert oct(folder.stat().st_mode & 0o777) == "0o700"
        assert {oct(path.stat().st_mode & 0o777) for path in folder.iterdir()} == {"0o600"}
        key = (folder / "a.key").read_text().splitlines()[1]
        assert key not in str(iotd.entries), "no key in a log"
        iotd.signal(signal.SIGTERM)
        assert iotd.end() == 0
    log = broker.log.read_text()
    assert "as claim-" in log and "as pi-7" in log
    assert "Will message specified" not in log.partition("as pi-7")[0], "the claim leaves no will"
    with device(tmp_path / "iotd", broker, certificates, TELEMETRY) as again:
        again.wait_for("daemon.started", thing="pi-7")
        again.wait_for("session.connected")
        assert not [entry for entry in again.entries if entry["event"].startswith("provision.")]
        assert command(again, "check", "-c", str(again.file))[0] == 0
        assert command(again, "provision", "-c", str(again.file)) == (0, "provisioned as pi-7\n")


def test_a_certificate_is_renewed_on_demand_and_the_line_comes_up_with_it(
    tmp_path: Path, broker: Mosquitto, certificates: Certificates
) -> None:
    rules = account(certificates)
    with service(broker, rules), device(tmp_path / "iotd", broker, certificates) as iotd:
        becomes_the_thing(iotd)
        before = identity_of(iotd)["a.key"]
        assert command(iotd, "renew") == (0, "provisioned as pi-7\n")
        iotd.wait_for("provision.renewed", thing="pi-7")
        found = identity_of(iotd)
        assert sorted(found) == ["b.crt", "b.key", "identity.json"] and found["b.key"] != before
        assert rules.things["pi-7"] == sorted(rules.certificates) and len(rules.certificates) == 2
        status, said = command(iotd, "renew")
        assert status == 1 and "less than an hour ago" in said


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_nobody_else_may_ask_for_a_renewal(tmp_path: Path, broker: Mosquitto, certificates: Certificates) -> None:
    with service(broker, account(certificates)), device(tmp_path / "iotd", broker, certificates) as iotd:
        becomes_the_thing(iotd)
        (iotd.directory / "runtime" / "iotd.sock").chmod(0o666)
        for folder in (iotd.directory / "runtime", *(iotd.directory / "runtime").parents):
            if os.stat(folder).st_uid == os.geteuid() and folder != Path("/"):
                folder.chmod(folder.stat().st_mode | 0o011)
        ask = "import socket,sys\ns=socket.socket(socket.AF_UNIX)\ns.connect(sys.argv[1])\n" \
              "s.sendall(b'{\"ask\": \"renew\"}\\n')\nprint(s.recv(999).decode())"
        done = subprocess.run([os.path.realpath(sys.executable), "-c", ask,
                               str(iotd.directory / "runtime" / "iotd.sock")], user="nobody",
                              capture_output=True, text=True, timeout=20)
        assert "only root" in done.stdout, done.stderr


def test_what_the_service_refuses_is_the_answer_of_the_command(
    tmp_path: Path, broker: Mosquitto, certificates: Certificates
) -> None:
    may = [False]
    rules = account(certificates, hook=lambda parameters: may[0])
    with service(broker, rules), device(tmp_path / "iotd", broker, certificates) as iotd:
        iotd.wait_for("provision.failed", step="register", reason="refused: 403 AccessDenied ACCESS_DENIED")
        status, said = command(iotd, "provision", "-c", str(iotd.file))
        assert (status, said) == (1, "register: refused: 403 AccessDenied ACCESS_DENIED\n")
        iotd.wait_told("STATUS=provisioning: register, after refused: 403")
        status, said = command(iotd, "status")
        assert status == 1 and "problem: provisioning: register: refused: 403 AccessDenied" in said
        may[0] = True
        assert command(iotd, "provision", "-c", str(iotd.file)) == (0, "provisioned as pi-7\n")
        may[0] = False
        status, said = command(iotd, "provision", "--again", "-c", str(iotd.file))
        assert (status, said) == (1, "register: refused: 403 AccessDenied ACCESS_DENIED\n")
        iotd.wait_told("STATUS=connected")
        may[0] = True
        assert command(iotd, "provision", "--again", "-c", str(iotd.file)) == (0, "provisioned as pi-7\n")
        assert sorted(identity_of(iotd)) == ["b.crt", "b.key", "identity.json"]


def test_the_command_does_it_itself_where_the_daemon_is_stopped(
    tmp_path: Path, broker: Mosquitto, certificates: Certificates
) -> None:
    may = [False]
    rules = account(certificates, hook=lambda parameters: may[0])
    iotd = device(tmp_path / "iotd", broker, certificates)
    with service(broker, rules):
        status, said = command(iotd, "provision", "-c", str(iotd.file))
        assert status == 1 and said.endswith("register: refused: 403 AccessDenied ACCESS_DENIED\n")
        may[0] = True
        status, said = command(iotd, "provision", "-c", str(iotd.file))
        assert status == 0 and said.startswith("provisioned as pi-7\n")
        assert command(iotd, "provision", "-c", str(iotd.file))[0] == 0 and len(rules.certificates) == 1
        status, said = command(iotd, "renew")
        assert status == 3


def test_a_claim_that_is_missing_or_wrong_is_named(
    tmp_path: Path, broker: Mosquitto, certificates: Certificates
) -> None:
    iotd = device(tmp_path / "iotd", broker, certificates, claim={"cert": "/no/such", "key": str(certificates.ca)})
    status, said = command(iotd, "check", "-c", str(iotd.file))
    assert status == 78 and "provision.claim.cert: /no/such does not exist" in said
    assert "provision.claim.key: " in said and "holds no private key" in said
    other = certificates.authority.issue("another")
    iotd = device(tmp_path / "two", broker, certificates,
                  claim={"cert": str(other.cert), "key": str(certificates.client.key)})
    status, said = command(iotd, "check", "-c", str(iotd.file))
    assert status == 78 and "provision.claim.key: " in said and "does not fit the certificate" in said
