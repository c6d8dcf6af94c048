"""The first day of a device, on a Debian that never heard of iotd: by hand in three commands, and by a claim."""

from __future__ import annotations

import io
import time
import zipfile
from collections.abc import Iterator

import pytest

from tests.aws.provisioning import Provisioning, ProvisioningService, Template, signed_by
from tests.aws.service import ShadowService
from tests.certificates import Certificates
from tests.mosquitto import Mosquitto
from tests.observer import Observer
from tests.system.conftest import ADD_REPOSITORY, INSTALL, UPDATE, VERSION
from tests.system.machine import OUTSIDE, Done, Machine, wait_for

FLEET = """\
mqtt: {host: 198.51.100.1, keepalive: 5s, backoff: {first: 1s, max: 2s}, tls: {ca: /etc/iotd/claim/ca.pem}}
provision: {template: fleet, parameters: {SerialNumber: '{machine_id}'}}
subscribe: [{topic: fleet/renew, run: [/usr/bin/iotd, renew], timeout: 60s}]
"""


def hand_out(machine: Machine, certificates: Certificates) -> None:
    """Put the package that the console hands out where a person has downloaded it to."""
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.write(certificates.client.cert, "pi.cert.pem")
        archive.write(certificates.client.key, "pi.private.key")
        archive.write(certificates.ca, "root-CA.crt")
        archive.writestr("pi-Policy", "{}")
    (machine.disk.root / "root/connect_device_package.zip").write_bytes(packed.getvalue())


def is_connected(observer: Observer, thing: str) -> None:
    observer.wait_for(f"MQTTServer/{thing}/will", lambda message: message.json()["status"] == "Connected",
                      timeout_s=60.0)


def test_three_commands_lead_from_apt_install_to_connected(
    fresh: Machine, broker: Mosquitto, observer: Observer, certificates: Certificates
) -> None:
    fresh.check("sh", "-c", ADD_REPOSITORY)
    fresh.check(*UPDATE)
    hand_out(fresh, certificates)
    with ShadowService(broker):
        began = time.monotonic()
        fresh.check(*INSTALL, f"iotd={VERSION}")
        installed = time.monotonic()
        said = fresh.check("iotd", "adopt", "/root/connect_device_package.zip", "--host", OUTSIDE)
        fresh.check("systemctl", "start", "iotd")
        is_connected(observer, "pi")
        print(f"apt install {installed - began:.1f} s, adopt to Connected {time.monotonic() - installed:.1f} s")
    assert "no problem found" in said
    assert fresh.check("stat", "-c", "%U:%G %a", *(f"/etc/iotd/certs/{name}" for name in (
        "AmazonRootCA1.pem", "certificate.pem.crt", "private.pem.key"))).split("\n")[:3] == ["root:iotd 640"] * 3


@pytest.fixture
def account(broker: Mosquitto, certificates: Certificates) -> Iterator[Provisioning]:
    """The account that the fleet belongs to, with its service."""
    rules = Provisioning({"fleet": Template({"SerialNumber": None}, "pi-{SerialNumber}")},
                         signed_by(certificates.authority))
    with ProvisioningService(broker, rules):
        yield rules


def test_an_image_with_a_claim_becomes_a_thing_and_renews_its_certificate_in_the_sandbox(
    bare: Machine, broker: Mosquitto, observer: Observer, account: Provisioning, certificates: Certificates
) -> None:
    claim = certificates.authority.issue("claim")
    bare.check(*INSTALL, f"iotd={VERSION}")
    for name, path in (("ca.pem", certificates.ca), ("certificate.pem.crt", claim.cert),
                       ("private.pem.key", claim.key)):
        bare.write(f"/etc/iotd/claim/{name}", path.read_text(), mode=0o640)
    bare.check("sh", "-c", "chown root:iotd /etc/iotd/claim/*")
    assert bare.check("stat", "-c", "%U:%G %a", "/etc/iotd/claim").strip() == "root:iotd 750"
    bare.write("/etc/iotd.yaml", FLEET)
    bare.check("iotd", "check")
    thing = f"pi-{bare.check('cat', '/etc/machine-id').strip()}"
    observer.subscribe(f"MQTTServer/{thing}/will")
    began = time.monotonic()
    bare.check("systemctl", "start", "iotd")
    is_connected(observer, thing)
    print(f"claim to Connected {time.monotonic() - began:.1f} s")
    assert list(account.things) == [thing]
    assert bare.check("stat", "-c", "%U:%G %a", "/var/lib/iotd/identity", "/var/lib/iotd/identity/a.key").split(
        "\n")[:2] == ["iotd:iotd 700", "iotd:iotd 600"]
    assert bare.check("iotd", "provision").strip() == f"provisioned as {thing}"
    refused = bare.run("setpriv", "--reuid=nobody", "--regid=iotd-clients", "--clear-groups", "iotd", "renew")
    assert refused.status == 1 and "only root" in refused.err, refused
    observer.publish("fleet/renew", b"")
    wait_for("the renewal that a message asks for", lambda: bare.logged("iotd", "provision.renewed"))
    again = bare.run("iotd", "renew")
    assert again.status == 1 and "less than an hour ago" in again.err, again
    assert bare.run("ls", "/var/lib/iotd/identity").out.split() == ["b.crt", "b.key", "identity.json"]
    bare.check("systemctl", "stop", "iotd")
    assert bare.check("iotd", "provision").strip() == f"provisioned as {thing}"


def test_a_person_who_checks_is_not_told_to_take_the_certificates_away_from_the_daemon(machine: Machine) -> None:
    done = as_nobody(machine, "check")
    assert done.status == 78 and "group iotd may; look as the daemon does: sudo iotd check" in done.err
    assert "root:nogroup" not in done.err and "chown" not in done.err


@pytest.mark.parametrize("arguments, mend", [
    (("renew",), "Permission denied; run it as root"),
    (("retained", "--clear", "a"), "Permission denied; run it as root"),
    (("set", "a", "1"), "Permission denied; let the user join its group: adduser USER iotd-clients"),
    (("log",), "run it as root, or let the user join its group: adduser USER systemd-journal"),
])
def test_who_may_not_is_told_who_may(machine: Machine, arguments: tuple[str, ...], mend: str) -> None:
    done = as_nobody(machine, *arguments)
    assert done.status == 1 and mend in done.err, done.err


def as_nobody(machine: Machine, *arguments: str) -> Done:
    return machine.run("setpriv", "--reuid=nobody", "--regid=nogroup", "--clear-groups", "iotd", *arguments)


def test_a_mistake_in_the_file_shows_no_traceback_to_root(machine: Machine) -> None:
    machine.check("systemctl", "stop", "iotd")
    machine.write("/etc/iotd.yaml", "mqtt: {host: broker, prot: 1}\n")
    for command in ("check", "provision", "retained", "doctor", "policy --aws", "bundle"):
        done = machine.run("iotd", *command.split())
        assert "Traceback" not in done.out + done.err, command
    assert machine.run("iotd", "provision").status == 78
