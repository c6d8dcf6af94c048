"""One thing wrong at a time on a device beside its broker: named as the cause in time, and gone once it is mended."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from tests.certificates import Certificates, Identity, make_certificates
from tests.doctor.asked import found, lowest_but_daemon
from tests.mosquitto import Mosquitto
from tests.running import Iotd, configuration

LIMIT_S = 10.0  # a gateway that is silent, as that of a container may be, takes its time


class Device:
    """A device with certificates of its own, whose daemon does not run."""

    def __init__(self, path: Path, broker: Mosquitto, certificates: Certificates) -> None:
        self.authority = certificates.authority
        self.cert, self.key = path / "device.pem", path / "device.key"
        self.settings = configuration(broker, certificates)
        self.settings["mqtt"]["tls"].update(cert=str(self.cert), key=str(self.key))
        self.iotd = Iotd(path / "iotd", self.settings)
        self.bear(certificates.client)

    def bear(self, identity: Identity) -> None:
        """Put this certificate into place."""
        shutil.copy(identity.cert, self.cert)
        shutil.copy(identity.key, self.key)

    def says(self) -> tuple[str | None, str]:
        """Return the layer that is to blame, and its finding with what to do; it has to come within the limit."""
        self.iotd.configure(self.settings)
        started = time.monotonic()
        body = found(self.iotd)
        assert time.monotonic() - started < LIMIT_S
        layer = lowest_but_daemon(body)
        finding = body["layers"][layer] if layer else {"finding": "", "fix": ""}
        assert layer is None or finding["fix"] or layer == "configuration", finding
        return layer, f"{finding['finding']}; {finding['fix']}"


@pytest.fixture
def device(tmp_path: Path, broker: Mosquitto, certificates: Certificates) -> Device:
    return Device(tmp_path, broker, certificates)


def expired(device: Device) -> None:
    device.bear(device.authority.issue("test-thing", starts=timedelta(days=-9), ends=timedelta(days=-1)))


def of_the_future(device: Device) -> None:
    device.bear(device.authority.issue("test-thing", starts=timedelta(days=5), ends=timedelta(days=9)))


def missing(device: Device) -> None:
    device.cert.unlink()


def damaged(device: Device) -> None:
    device.cert.write_bytes(device.cert.read_bytes()[:-200])


def without_its_key(device: Device) -> None:
    device.key.write_bytes(b"")


@pytest.mark.parametrize("harm, layer, words", [
    (expired, "certificates", "expired"),
    (of_the_future, "clock", "before the certificate begins"),
    (missing, "certificates", "does not exist"),
    (damaged, "certificates", "holds no certificate"),
    (without_its_key, "certificates", "private key"),
])
def test_a_certificate_that_is_wrong_is_named_until_the_right_one_is_there(
    device: Device, certificates: Certificates, harm: Callable[[Device], None], layer: str, words: str
) -> None:
    harm(device)
    cause, said = device.says()
    assert cause == layer and words in said
    device.bear(certificates.client)
    assert device.says() == (None, "; ")


def test_a_certificate_that_the_broker_does_not_know_is_named(
    device: Device, certificates: Certificates, tmp_path: Path
) -> None:
    device.bear(make_certificates(tmp_path / "other").client)
    cause, said = device.says()
    assert cause in ("tls", "mqtt") and "registered and active" in said
    device.bear(certificates.client)
    assert device.says() == (None, "; ")


def test_a_password_that_is_wrong_is_named_with_its_user(tmp_path: Path) -> None:
    (tmp_path / "broker").mkdir()
    accounts, secret = tmp_path / "accounts", tmp_path / "secret"
    subprocess.run(["mosquitto_passwd", "-b", "-c", str(accounts), "pi-7", "right"], check=True, capture_output=True)
    limits = ["allow_anonymous false", f"password_file {accounts}"]
    with Mosquitto(tmp_path / "broker", None, settings=limits) as strict:
        settings = configuration(strict, None)
        settings["mqtt"] |= {"username": "pi-7", "password_file": str(secret)}
        iotd = Iotd(tmp_path / "iotd", settings)
        secret.write_text("wrong\n")
        body = found(iotd)
        assert lowest_but_daemon(body) == "mqtt" and "'pi-7'" in body["layers"]["mqtt"]["finding"]
        secret.write_text("right\n")
        assert lowest_but_daemon(found(iotd)) is None


def test_a_proxy_that_is_not_there_is_tcp_and_named(device: Device) -> None:
    device.settings["mqtt"]["proxy"] = {"host": "127.0.0.1", "port": 9}
    cause, said = device.says()
    assert cause == "tcp" and "127.0.0.1 port 9" in said
    del device.settings["mqtt"]["proxy"]
    assert device.says() == (None, "; ")


@contextmanager
def mounted(place: Path, *options: str) -> Iterator[None]:
    """Have the state directory on a file system of its own."""
    subprocess.run(["mount", "-t", "tmpfs", *options, "tmpfs", str(place)], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", str(place)], check=True)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount")
def test_a_full_disk_is_named_until_there_is_room(device: Device) -> None:
    state = device.iotd.directory / "state"
    with mounted(state, "-o", "size=64m"):
        (state / "log").write_bytes(bytes((64 << 20) - 4096))
        cause, said = device.says()
        assert cause == "disk" and "is full" in said
        (state / "log").unlink()
        assert device.says()[0] is None


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount")
def test_a_disk_that_has_turned_read_only_is_named_until_it_is_written_again(device: Device) -> None:
    state = device.iotd.directory / "state"
    with mounted(state, "-o", "ro"):
        cause, said = device.says()
        assert cause == "disk" and "is read-only" in said
        subprocess.run(["mount", "-o", "remount,rw", str(state)], check=True)
        assert device.says()[0] is None


def test_a_second_device_of_the_same_name_is_named_until_it_goes(
    tmp_path: Path, broker: Mosquitto, certificates: Certificates
) -> None:
    settings: dict[str, Any] = configuration(broker, certificates)
    with Iotd(tmp_path / "one", settings) as first:
        first.wait_for("session.connected")
        with Iotd(tmp_path / "copy", settings):
            first.wait_for("session.contested")
            body = found(first)
            assert body["cause"] == "mqtt" and "same client id" in body["layers"]["mqtt"]["finding"]
