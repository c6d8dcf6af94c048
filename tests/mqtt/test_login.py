"""Logging in by name and password, and TLS in which the broker alone shows a certificate, on a real mosquitto."""

from __future__ import annotations

import os
import ssl
import subprocess
from pathlib import Path
from typing import Callable, Iterator

import pytest

from iotd.mqtt import advice, credentials
from iotd.mqtt.settings import Tls
from iotd.vocabulary import Dialled, Down
from tests.certificates import Certificates, make_certificates
from tests.mosquitto import Mosquitto, free_port
from tests.mqtt.held import Held

SECRET = "k3in-geheimnis ヨシ\t "


def passwords(directory: Path, **users: str) -> Path:
    """Return a file with these users and their passwords, as mosquitto keeps them."""
    file = directory / "users"
    file.touch(0o600)
    for name, word in users.items():
        subprocess.run(["mosquitto_passwd", "-b", str(file), name, word], check=True, capture_output=True, timeout=20)
    return file


@pytest.fixture
def door(tmp_path: Path, certificates: Certificates) -> Iterator[Mosquitto]:
    """A mosquitto that shows a certificate, asks for none, and lets nobody in without a password."""
    (tmp_path / "door").mkdir()
    with Mosquitto(tmp_path / "door", settings=[
            "allow_anonymous false", f"password_file {passwords(tmp_path, pi=SECRET)}",
            f"certfile {certificates.server.cert}", f"keyfile {certificates.server.key}"]) as broker:
        yield broker


def one_sided(ca: Path) -> Callable[[], ssl.SSLContext]:
    return lambda: credentials.context(Tls(str(ca), "", ""))


def secret(tmp_path: Path, content: bytes) -> str:
    file = tmp_path / "password"
    file.write_bytes(content)
    return str(file)


@pytest.mark.parametrize("end", [b"", b"\n", b"\r\n", b"\nmore\n"])
def test_a_device_logs_in_by_name_and_the_first_line_of_a_file(
    held: Held, door: Mosquitto, certificates: Certificates, tmp_path: Path, end: bytes
) -> None:
    file = secret(tmp_path, SECRET.encode() + end)
    held.dial(door, None, context=one_sided(certificates.ca), username="pi", password_file=file)
    assert held.next(Dialled) == Dialled(1, False)


@pytest.mark.parametrize("username, content, words", [
    ("pi", SECRET.strip().encode(), "as the user 'pi'"), ("po", SECRET.encode(), "as the user 'po'"),
    ("pi", SECRET.encode() + b"\r", "as the user 'pi'"),  # blanks belong to it, and a CR without its LF
])
def test_a_login_that_is_refused_names_the_user_and_nothing_else_of_it(
    held: Held, door: Mosquitto, certificates: Certificates, tmp_path: Path, username: str,
    content: bytes, words: str
) -> None:
    file = secret(tmp_path, content)
    held.dial(door, None, context=one_sided(certificates.ca), username=username, password_file=file)
    down = held.next(Down)
    assert (down.cause, words in down.reason, SECRET.strip() in str(down)) == ("refused", True, False)


def test_a_broker_that_asks_for_a_user_says_so(
    held: Held, door: Mosquitto, certificates: Certificates
) -> None:
    held.dial(door, None, context=one_sided(certificates.ca))
    down = held.next(Down)
    assert down.cause == "refused" and "as a client without user name; look at mqtt.username" in down.reason


def test_the_password_is_read_at_every_connect_and_without_one_nobody_is_dialled(
    held: Held, door: Mosquitto, certificates: Certificates, tmp_path: Path
) -> None:
    file = secret(tmp_path, b"old\n")
    context = one_sided(certificates.ca)
    held.dial(door, None, context=context, username="pi", password_file=file)
    assert held.next(Down).cause == "refused"
    before = door.log.read_text()
    spoilt: list[Callable[[], object]] = [
        lambda: os.truncate(file, 0), lambda: Path(file).write_text("\nsecond\n"), lambda: os.truncate(file, 1 << 40),
        lambda: Path(file).unlink(), lambda: os.mkfifo(file)]
    for line, spoil in enumerate(spoilt, 2):
        spoil()
        held.dial(door, None, line, context=context, username="pi", password_file=file)
        down = held.next(Down)
        assert (down.line, down.cause, file in down.reason) == (line, "password", True)
    assert door.log.read_text() == before
    Path(file).unlink()
    secret(tmp_path, SECRET.encode() + b"\n")
    held.dial(door, None, 9, context=context, username="pi", password_file=file)
    assert held.next(Dialled).line == 9


def test_the_broker_is_verified_all_the_same(held: Held, door: Mosquitto, tmp_path: Path) -> None:
    held.dial(door, None, context=one_sided(make_certificates(tmp_path / "other").ca), username="pi",
              password_file=secret(tmp_path, SECRET.encode()))
    down = held.next(Down)
    assert down.cause == "certificate" and "mqtt.tls.ca does not hold the authority that signed it" in down.reason


@pytest.mark.parametrize("newest", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_a_broker_that_asks_for_a_certificate_which_there_is_not_says_so(
    held: Held, broker: Mosquitto, certificates: Certificates, newest: ssl.TLSVersion
) -> None:
    def context() -> ssl.SSLContext:
        made = ssl.create_default_context(cafile=str(certificates.ca))
        made.maximum_version = newest
        return made
    held.dial(broker, None, context=context)
    down = held.next(Down)
    assert down.cause == "tls" and "ask" in down.reason and "for a certificate of this device" in down.reason


def test_tls_to_a_port_without_it_is_told_as_such(
    held: Held, plain_broker: Mosquitto, certificates: Certificates
) -> None:
    held.dial(plain_broker, None, context=one_sided(certificates.ca))
    assert held.next(Down) == Down(1, "tls", advice.TLS_ENDED, False)


def test_the_port_of_websockets_is_told_as_such(held: Held, tmp_path: Path) -> None:
    (tmp_path / "web").mkdir()
    port = free_port()
    with Mosquitto(tmp_path / "web", port=free_port(), settings=[
            f"listener {port} 127.0.0.1", "protocol websockets"]) as web:
        line = 0
        while True:  # it listens there a moment after its first port
            line += 1
            held.dial(web, None, line, port=port)
            down = held.next(Down)
            if down.cause != "tcp":
                break
    assert down.cause == "protocol" and down.reason.startswith(f"port {port} speaks HTTP and no MQTT")


def test_a_client_has_no_will_where_there_is_none(held: Held, plain_broker: Mosquitto) -> None:
    held.dial(plain_broker, None, will=None)
    held.next(Dialled)
    assert "No will message specified" in plain_broker.log.read_text()
