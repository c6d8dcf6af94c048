"""The ground the other tests stand on: certificates, mosquitto and the observer do what they say."""

from __future__ import annotations

import socket
import ssl
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from tests.certificates import RSA, Certificates, make_certificates
from tests.mosquitto import Mosquitto
from tests.observer import Observer, tls_context


def handshake(broker: Mosquitto, ca: Path, identity: Any) -> None:
    with socket.create_connection((broker.host, broker.port), timeout=10) as raw:
        with tls_context(ca, identity).wrap_socket(raw, server_hostname="localhost"):
            pass


@pytest.mark.parametrize("server", [{}, {"intermediates": 3}, {"key": RSA}])
def test_a_good_server_certificate_is_trusted(tmp_path: Path, server: dict[str, Any]) -> None:
    certificates = make_certificates(tmp_path, **server)
    with Mosquitto(tmp_path, certificates) as broker:
        handshake(broker, certificates.ca, certificates.client)


@pytest.mark.parametrize(
    "server, reason",
    [
        ({"ends": timedelta(hours=-1)}, "certificate has expired"),
        ({"starts": timedelta(hours=1)}, "certificate is not yet valid"),
        ({"names": ["DNS:elsewhere.example"]}, "Hostname mismatch"),
    ],
)
def test_a_bad_server_certificate_is_bad_in_the_way_asked_for(
    tmp_path: Path, server: dict[str, Any], reason: str
) -> None:
    certificates = make_certificates(tmp_path, **server)
    with Mosquitto(tmp_path, certificates) as broker:
        with pytest.raises(ssl.SSLCertVerificationError, match=reason):
            handshake(broker, certificates.ca, certificates.client)


def test_an_authority_is_not_trusted_for_another(tmp_path: Path, broker: Mosquitto) -> None:
    stranger = make_certificates(tmp_path / "stranger")
    with pytest.raises(ssl.SSLCertVerificationError, match="verify failed"):
        handshake(broker, stranger.ca, stranger.client)


def test_a_large_certificate_is_large(tmp_path: Path) -> None:
    names = [f"DNS:padding-{number}.example" for number in range(400)]
    certificates = make_certificates(tmp_path, names=["DNS:localhost", *names])
    with Mosquitto(tmp_path, certificates) as broker:
        handshake(broker, certificates.ca, certificates.client)
    assert certificates.server.cert.stat().st_size > 10_000


def test_mutual_tls_turns_away_a_client_of_another_authority(
    tmp_path: Path, certificates: Certificates, broker: Mosquitto
) -> None:
    context = tls_context(certificates.ca, make_certificates(tmp_path / "stranger").client)
    with pytest.raises((ssl.SSLError, ConnectionResetError)):
        with socket.create_connection((broker.host, broker.port), timeout=10) as raw:
            with context.wrap_socket(raw, server_hostname="localhost") as line:
                assert line.recv(1) != b"", "closed without an alert"  # TLS 1.3 learns of the refusal on reading


def test_a_restart_keeps_the_port_and_retained_messages(broker: Mosquitto) -> None:
    port = broker.port
    with Observer(broker) as before:
        before.publish("a/b", "kept", retain=True)
    broker.restart()
    assert broker.port == port
    with Observer(broker) as after:
        after.subscribe("a/b")
        message = after.wait_for("a/b")
    assert (message.payload, message.retain) == (b"kept", True)


def test_a_kill_loses_what_was_not_saved(broker: Mosquitto) -> None:
    with Observer(broker) as before:
        before.publish("a/b", "lost", retain=True)
    broker.kill()
    broker.start()
    with Observer(broker) as after:
        after.subscribe("a/b")
        after.publish("a/b", "new")
        assert after.wait_for("a/b").payload == b"new"


def test_two_brokers_live_side_by_side(broker: Mosquitto, plain_broker: Mosquitto) -> None:
    with Observer(plain_broker) as client, Observer(broker) as other:
        for observer in (client, other):
            observer.subscribe("a")
        client.publish("a", "plain")
        other.publish("a", "tls")
        assert [client.wait_for("a").payload, other.wait_for("a").payload] == [b"plain", b"tls"]


def test_a_port_that_is_asked_for_and_taken_is_named(tmp_path: Path, broker: Mosquitto) -> None:
    with pytest.raises(RuntimeError, match=f"127.0.0.1:{broker.port}, the port is taken"):
        Mosquitto(tmp_path, port=broker.port).start()


def test_a_broker_that_cannot_start_shows_its_log(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="Unknown configuration variable"):
        Mosquitto(tmp_path, settings=["nonsense true"]).start()


def test_the_observer_records_everything_in_order(observer: Observer) -> None:
    observer.subscribe("a/+", qos=1)
    observer.publish("a/b", b"\xff", qos=0)
    observer.publish("a/c", {"word": "ヨシッ"}, retain=True)
    assert observer.wait_for("a/c").json() == {"word": "ヨシッ"}
    assert [(m.order, m.topic, m.payload[:1], m.qos, m.retain) for m in observer.messages] == [
        (0, "a/b", b"\xff", 0, False),
        (1, "a/c", b"{", 1, False),
    ]


def test_the_observer_waits_for_the_message_that_matches(observer: Observer) -> None:
    observer.subscribe("a")
    for word in ("first", "second", "first"):
        observer.publish("a", word)
    second = observer.wait_for("a", lambda message: message.payload == b"second")
    assert observer.wait_for("a", lambda message: message.payload == b"first", since=second.order).order == 2


def test_a_message_that_never_comes_fails_with_what_came(observer: Observer) -> None:
    observer.subscribe("a")
    observer.publish("a", "something else")
    observer.wait_for("a")
    with pytest.raises(AssertionError, match="something else"):
        observer.wait_for("b", timeout_s=0.05)
