"""`iotd adopt` finds certificate, key and authorities by what is in them, and puts all of it into place or nothing."""

from __future__ import annotations

import io
import os
import subprocess
import sys
import zipfile
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest
import yaml

from iotd.cli.adopt import AMAZON_ROOTS
from iotd.cli.adoption import Block, Item, Key, Known, Refused, chosen, thing_of
from iotd.host import openssl
from tests.certificates import RSA, Certificates, Identity
from tests.running import ROOT

ENDPOINT = "a1b2c3-ats.iot.eu-central-1.amazonaws.com"
SAMPLE = (ROOT / "etc" / "iotd.yaml").read_text("utf-8")


class Device:
    """A device's files below a directory: the sample's configuration, with its three paths in there."""

    def __init__(self, directory: Path, text: str = SAMPLE) -> None:
        self.directory = directory
        self.file = directory / "iotd.yaml"
        self.certs = directory / "certs"
        self.handed = directory / "handed out"
        self.handed.mkdir()
        self.file.write_text(text.replace("/etc/iotd/certs", str(self.certs)), "utf-8")
        self.before = self.file.read_text("utf-8")
        self.said = ""

    def hand(self, name: str, content: bytes | Path) -> Path:
        """Put a file among those that were handed out."""
        path = self.handed / name
        path.write_bytes(content.read_bytes() if isinstance(content, Path) else content)
        return path

    def adopt(self, *arguments: str | Path) -> int:
        """Return the exit status; what was said is `said`."""
        done = subprocess.run(
            [os.path.realpath(sys.executable), "-m", "iotd", "adopt", *map(str, arguments or (self.handed,)), "-c",
             str(self.file)], cwd=ROOT, capture_output=True, text=True, timeout=60, stdin=subprocess.DEVNULL,
            env={"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT), "LANG": "C.UTF-8"})
        self.said = done.stdout + done.stderr
        assert "Traceback" not in self.said
        return done.returncode

    def is_untouched(self) -> bool:
        """Return whether nothing was changed, nor left half-written."""
        return self.file.read_text("utf-8") == self.before and not self.certs.exists() and \
            {path.name for path in self.directory.iterdir()} == {"iotd.yaml", "handed out"}


@pytest.fixture
def device(tmp_path: Path) -> Device:
    return Device(tmp_path)


def package(identity: Identity, thing: str = "pi-7") -> bytes:
    """Return the zip of the console, as it has been since 2022."""
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.write(identity.cert, f"{thing}.cert.pem")
        archive.write(identity.key, f"{thing}.private.key")
        archive.writestr(f"{thing}.public.key", "-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n")
        archive.writestr(f"{thing}-Policy", '{"Version": "2012-10-17"}')
        archive.writestr("start.sh", f"python3 pubsub.py --endpoint {ENDPOINT} --ca_file root-CA.crt\n")
    return packed.getvalue()


def test_the_package_of_the_console_is_all_it_takes(device: Device, certificates: Certificates) -> None:
    archive = device.hand("connect_device_package.zip", package(certificates.client))
    assert device.adopt(archive) == 0, device.said
    assert "iotd.yaml: no problem found\n" in device.said  # and that here is no wlan0, where there is none
    assert (device.certs / "certificate.pem.crt").read_text() == certificates.client.cert.read_text()
    assert (device.certs / "private.pem.key").read_text() == certificates.client.key.read_text()
    roots = (device.certs / "AmazonRootCA1.pem").read_text()
    assert all(root.read_text() in roots for root in AMAZON_ROOTS) and len(AMAZON_ROOTS) == 4
    assert {path.name: oct(path.stat().st_mode & 0o777) for path in device.certs.iterdir()} == {
        "certificate.pem.crt": "0o640", "private.pem.key": "0o640", "AmazonRootCA1.pem": "0o640"}
    text = device.file.read_text("utf-8")
    assert yaml.safe_load(text)["thing"] == "pi-7" and yaml.safe_load(text)["mqtt"]["host"] == ENDPOINT
    assert text.count("#") == SAMPLE.count("#") and len(text.splitlines()) == len(SAMPLE.splitlines())
    assert device.adopt(archive) == 0, "what is in place already is nothing that is overwritten"


def test_a_dry_run_says_it_all_and_does_none_of_it(device: Device, certificates: Certificates) -> None:
    archive = device.hand("connect_device_package.zip", package(certificates.client))
    assert device.adopt(archive, "--dry-run") == 0
    assert device.is_untouched()
    for word in ("certificate.pem.crt", "private.pem.key", "AmazonRootCA1.pem", "thing: pi-7", f"mqtt.host: {ENDPOINT}",
                 "nothing was changed"):
        assert word in device.said


def test_files_are_known_by_what_is_in_them(device: Device, certificates: Certificates) -> None:
    device.hand("a", certificates.client.key)
    device.hand("b", certificates.ca)
    device.hand("c.txt", b"leaf\r\n" + certificates.client.cert.read_bytes().replace(b"\n", b"\r\n"))
    assert device.adopt(device.handed, "--host", "broker.example") == 0, device.said
    assert (device.certs / "AmazonRootCA1.pem").read_text() == certificates.ca.read_text()
    written = yaml.safe_load(device.file.read_text("utf-8"))
    assert (written["thing"], written["mqtt"]["host"]) == ("test-thing", "broker.example"), "the CN, for want of a name"


def test_one_file_may_hold_all_of_them(device: Device, certificates: Certificates) -> None:
    device.hand("all.pem", certificates.client.key.read_bytes() + certificates.client.cert.read_bytes() +
                certificates.ca.read_bytes())
    assert device.adopt(device.handed, "--host", "broker.example") == 0, device.said
    assert (device.certs / "certificate.pem.crt").read_text() == certificates.client.cert.read_text()


def test_what_is_still_missing_is_said_by_check(device: Device, certificates: Certificates) -> None:
    device.hand("cert", certificates.client.cert)
    device.hand("key", certificates.client.key)
    assert device.adopt() == 78
    assert "mqtt.host: 'xxxxxxxxxxxxx-ats" in device.said and (device.certs / "private.pem.key").exists()


def test_an_empty_configuration_has_all_that_it_needs(tmp_path: Path, certificates: Certificates) -> None:
    device = Device(tmp_path, "# mine\nmqtt:\n  tls: {cert: /etc/iotd/certs/c, key: /etc/iotd/certs/k, ca: system}\n")
    archive = device.hand("connect_device_package.zip", package(certificates.client))
    assert device.adopt(archive) == 0, device.said
    assert device.file.read_text("utf-8").startswith("# mine\nthing: pi-7\nmqtt:\n  host: a1b2c3-ats")
    assert sorted(path.name for path in device.certs.iterdir()) == ["c", "k"]


def der(device: Device, certificates: Certificates) -> None:
    device.hand("key", certificates.client.key)
    device.hand("cert.der", subprocess.run(["openssl", "x509", "-outform", "der", "-in", certificates.client.cert],
                                           check=True, capture_output=True).stdout)


def passphrase(device: Device, certificates: Certificates) -> None:
    device.hand("cert", certificates.client.cert)
    device.hand("key", subprocess.run(["openssl", "pkey", "-aes128", "-passout", "pass:x123", "-in",
                                       certificates.client.key], check=True, capture_output=True).stdout)


def another_key(device: Device, certificates: Certificates) -> None:
    device.hand("cert", certificates.client.cert)
    device.hand("key", certificates.server.key)


def two_pairs(device: Device, certificates: Certificates) -> None:
    for name, identity in (("one", certificates.client), ("two", certificates.server)):
        device.hand(f"{name}.cert.pem", identity.cert)
        device.hand(f"{name}.private.key", identity.key)


def out_of_date(device: Device, certificates: Certificates) -> None:
    identity = certificates.authority.issue("old", ends=timedelta(days=-1), starts=timedelta(days=-9), key=RSA)
    device.hand("cert", identity.cert)
    device.hand("key", identity.key)


def two_endpoints(device: Device, certificates: Certificates) -> None:
    device.hand("p.zip", package(certificates.client))
    device.hand("notes", b"old: xyz-ats.iot.us-east-1.amazonaws.com")


@pytest.mark.parametrize("prepare, words", [
    (der, "cert.der is no PEM file, perhaps DER; a certificate is converted by openssl x509 -inform der"),
    (passphrase, "key: the key is protected by a passphrase"),
    (another_key, "do not fit, the key is another certificate's"),
    (two_pairs, "more than one certificate with its key"),
    (out_of_date, "cert expired on "),
    (two_endpoints, "more than one endpoint: a1b2c3-ats.iot.eu-central-1.amazonaws.com, xyz-ats"),
    (lambda device, certificates: device.hand("cert", certificates.client.cert), "has no private key beside it"),
    (lambda device, certificates: device.hand("key", certificates.client.key), "key has no certificate beside it"),
    (lambda device, certificates: device.hand("x", b"hello"), "neither a certificate nor a private key"),
    (lambda device, certificates: device.hand("c", certificates.client.cert.read_bytes()[:300] + b"\n-----END "
                                              b"CERTIFICATE-----\n"), "c: exit status 1"),
])
def test_what_cannot_be_adopted_is_named_and_nothing_changes(
    device: Device, certificates: Certificates, prepare: Callable[[Device, Certificates], None], words: str
) -> None:
    prepare(device, certificates)
    assert device.adopt() == 1 and device.is_untouched()
    assert words in device.said and "nothing was changed" in device.said


LEAF = openssl.Certificate("CN=a", "CN=root", "a", 100.0, 200.0, False, "public")
PAIR = [Known(Block("c", "CERTIFICATE", "C"), LEAF)], [Key(Block("k", "PRIVATE KEY", "K"), "public")]


@pytest.mark.parametrize("now, clock_is_set, words", [
    (150.0, True, ""), (150.0, False, ""), (50.0, False, ""), (50.0, True, "c is not in force before 1970-01-01 00:01"),
    (250.0, True, "c expired on 1970-01-01 00:03"), (250.0, False, "c expired on "),
])
def test_a_clock_that_nobody_has_set_is_behind(now: float, clock_is_set: bool, words: str) -> None:
    try:
        chosen(*PAIR, [], now, clock_is_set)
        assert not words
    except Refused as refused:
        assert words and refused.lines[0].startswith(words)


def test_of_two_certificates_of_one_key_the_one_in_force_is_meant() -> None:
    old = Known(Block("old", "CERTIFICATE", "O"), LEAF._replace(ends_at=120.0))
    assert chosen([old, *PAIR[0]], PAIR[1], [], 150.0, True).cert_file == "c"


@pytest.mark.parametrize("cert, key, name, thing", [
    ("x/pi-7.cert.pem", "k", "cn", "pi-7"), ("c", "pi-7.private.key", "cn", "pi-7"), ("c", "k", "cn", "cn"),
    ("0a1b-certificate.pem.crt", "0a1b-private.pem.key", "AWS IoT Certificate", ""), ("c", "k", "a name", ""),
    ("a b.cert.pem", "k", "", ""),
])
def test_a_thing_is_named_by_its_files_or_its_certificate(cert: str, key: str, name: str, thing: str) -> None:
    choice = chosen(*PAIR, [], 150.0, True)._replace(cert_file=cert, key_file=key, name=name)
    assert thing_of(choice, []) == thing
    assert thing_of(choice._replace(cert_file="c", key_file="k"), [Item("p.zip/pi-9-Policy", b"")]) == "pi-9"


def test_each_of_two_pairs_is_named(device: Device, certificates: Certificates) -> None:
    two_pairs(device, certificates)
    device.adopt()
    assert all(f"{name}.cert.pem with " in device.said for name in ("one", "two"))


def archive_with(name: str, content: bytes = b"x", compression: int = zipfile.ZIP_DEFLATED) -> bytes:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", compression) as archive:
        archive.writestr(zipfile.ZipInfo(name), content, compression)
    return packed.getvalue()


def many() -> bytes:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        for number in range(1000):
            archive.writestr(str(number), b"")
    return packed.getvalue()


@pytest.mark.parametrize("content, words", [
    (archive_with("../../etc/cron.d/x"), "is a path out of the archive"),
    (archive_with("/etc/cron.d/x"), "is a path out of the archive"),
    (archive_with("a\\..\\..\\x"), "is a path out of the archive"),
    (archive_with("C:\\x"), "is a path out of the archive"),
    (archive_with("big", bytes(1 << 24)), "big is larger than anything that AWS hands out"),
    (archive_with("x", b"x", zipfile.ZIP_LZMA), "packed in a way that no zip of AWS's is"),
    (many(), "holds more than 500 files"),
    (archive_with("x")[:-30], "cannot be unpacked"),
    (archive_with("x", bytes(1000))[:36] + b"\xff\xff\xff" + archive_with("x", bytes(1000))[39:], "cannot be unpacked"),
    (b"PK\x03\x04", "cannot be unpacked"),
    (bytes(2 << 20), "is larger than 1048576 bytes"),
], ids=range(11))
def test_an_archive_that_is_none_of_ours_is_refused(
    device: Device, certificates: Certificates, content: bytes, words: str
) -> None:
    good = device.hand("good.zip", package(certificates.client))
    assert device.adopt(good, device.hand("bad.zip", content)) == 1 and device.is_untouched()
    assert words in device.said


def test_paths_that_cannot_be_read_are_named_all_of_them(device: Device) -> None:
    os.mkfifo(device.directory / "handed out" / "pipe")
    assert device.adopt("/no/such", device.handed / "pipe", "/dev/zero") == 1
    assert "/no/such: No such file" in device.said and "pipe is no file" in device.said
    assert "/dev/zero is no file" in device.said and device.is_untouched()


def test_what_a_folder_links_to_is_not_in_it(device: Device, certificates: Certificates) -> None:
    (device.handed / "cert").symlink_to(certificates.client.cert)
    (device.handed / "key").symlink_to(certificates.client.key)
    assert device.adopt() == 1 and "neither a certificate" in device.said


def test_nothing_is_overwritten_but_by_force(device: Device, certificates: Certificates) -> None:
    archive = device.hand("p.zip", package(certificates.client))
    assert device.adopt(archive) == 0
    other = certificates.authority.issue("pi-8")
    another = device.hand("q.zip", package(other, "pi-8"))
    renewed = device.hand("r.zip", package(other, "pi-7"))
    before = {path: path.read_bytes() for path in (*device.certs.iterdir(), device.file)}
    assert device.adopt(renewed) == 1 and "private.pem.key is there already" in device.said
    assert device.adopt(another, "--host", "other.example") == 1
    for words in ("certificate.pem.crt is there already", "private.pem.key is there already", "thing is 'pi-7', and",
                  "mqtt.host is 'a1b2c3-ats"):
        assert words in device.said
    assert {path: path.read_bytes() for path in (*device.certs.iterdir(), device.file)} == before
    assert device.adopt(another, "--host", ENDPOINT, "--force") == 0, device.said
    assert (device.certs / "private.pem.key").read_text() == other.key.read_text()
    assert yaml.safe_load(device.file.read_text("utf-8"))["thing"] == "pi-8"


def test_what_lies_on_top_of_the_file_counts_and_is_not_written(tmp_path: Path, certificates: Certificates) -> None:
    device = Device(tmp_path, "mqtt: {host: xxx-ats.iot.eu-central-1.amazonaws.com}\n")
    above = tmp_path / "iotd.d"
    above.mkdir()
    (above / "fleet.yaml").write_text(f"mqtt: {{host: b.example, tls: {{cert: {tmp_path}/c, key: {tmp_path}/k, "
                                      "ca: system}}\n")
    archive = device.hand("p.zip", package(certificates.client))
    assert device.adopt(archive, "--host", "other.example", "--force") == 1
    assert f"mqtt.host is 'b.example' in {above}/fleet.yaml, which lies on top of this file" in device.said
    assert not (tmp_path / "c").exists() and device.file.read_text() == device.before
    assert device.adopt(archive, "--host", "b.example") == 0, device.said
    assert (tmp_path / "k").exists() and device.file.read_text() == f"thing: pi-7\n{device.before}"


def test_what_would_lie_below_the_same_again_is_refused(tmp_path: Path, certificates: Certificates) -> None:
    device = Device(tmp_path, "mqtt: {host: b.example}\nthing: pi-1\n")
    above = tmp_path / "iotd.d"
    above.mkdir()
    (above / "device.yaml").write_text("thing: pi-1\nmqtt: {host: b.example}\n")
    archive = device.hand("p.zip", package(certificates.client))
    assert device.adopt(archive, "--host", "other.example", "--force") == 1
    for words in ("mqtt.host is 'b.example' in", "thing is 'pi-1' in", "device.yaml, which lies on top of this file"):
        assert words in device.said
    assert device.file.read_text() == device.before and not device.certs.exists()


def test_a_place_that_cannot_be_written_changes_nothing(device: Device, certificates: Certificates) -> None:
    text = device.before.replace(f"{device.certs}/private.pem.key", f"{device.file}/key")
    device.file.write_text(text, "utf-8")
    device.before = text
    assert device.adopt(device.hand("p.zip", package(certificates.client))) == 1
    assert "iotd.yaml: File exists" in device.said
    assert device.file.read_text("utf-8") == text and not list(device.certs.glob("*"))


@pytest.mark.parametrize("host", ["mqtts://a.example", "a.example:8883", "", "a b", "user@a.example"])
def test_a_host_is_a_name_or_an_address(device: Device, certificates: Certificates, host: str) -> None:
    assert device.adopt(device.hand("p.zip", package(certificates.client)), "--host", host) == 1
    assert "--host" in device.said and device.is_untouched()


def test_a_broker_that_asks_for_no_certificate_gets_none(tmp_path: Path, certificates: Certificates) -> None:
    device = Device(tmp_path, "mqtt: {host: b, tls: {ca: system, cert: none}}\n")
    assert device.adopt(device.hand("p.zip", package(certificates.client))) == 1
    assert "mqtt.tls.cert is none" in device.said


def test_without_a_path_it_is_no_command(device: Device) -> None:
    done = subprocess.run([sys.executable, "-m", "iotd", "adopt"], cwd=ROOT, capture_output=True, text=True, timeout=20)
    assert done.returncode == 2 and "PATH" in done.stderr
