"""The MQTT session against a real mosquitto with mutual TLS, or a scripted peer, on whichever paho is installed."""

from __future__ import annotations

import socket
import ssl
import struct
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from typing import Any

import paho.mqtt.client as paho
import pytest

from iotd.mqtt import credentials
from iotd.mqtt.client import ACK_S, MAX_REPEATS, Client
from iotd.mqtt.connection import Connection, Dial
from iotd.mqtt.settings import Tls
from iotd.mqtt.stream import Stream, StreamError
from iotd.vocabulary import Acknowledged, Dialled, Down, Message, PassedOver, Received, Spent, Subscribed
from tests.certificates import Certificates, make_certificates
from tests.faults import packets
from tests.mosquitto import Mosquitto
from tests.mqtt.held import PATIENCE_S, WILL, Held, context_of
from tests.observer import Observer


@pytest.fixture
def up(held: Held, broker: Mosquitto, certificates: Certificates) -> Held:
    """A session with a line to `broker`."""
    held.dial(broker, certificates)
    assert held.next(Dialled) == Dialled(1, False)
    return held


def test_a_publish_arrives_and_is_acknowledged_under_its_token(up: Held, observer: Observer) -> None:
    observer.subscribe("t/#")
    up.session.publish(1, 7, Message("t/1", "接続ヨシッ👉".encode(), 1, False))
    up.session.publish(1, 8, Message("t/0", b"", 0, False))
    assert {up.next(Acknowledged).token, up.next(Acknowledged).token} == {7, 8}
    assert observer.wait_for("t/1").payload.decode() == "接続ヨシッ👉"
    assert observer.wait_for("t/0").qos == 0


def test_a_message_comes_in_as_it_was_sent(up: Held, observer: Observer) -> None:
    up.session.subscribe(1, [("t/in", 1)])
    assert up.next(Subscribed) == Subscribed(1, (("t/in", 1),))
    observer.publish("t/in", b"\x00\xff", retain=True)
    assert up.next(Received) == Received(1, "t/in", b"\x00\xff", 1, False)


def test_more_filters_than_a_subscribe_may_hold_are_split(up: Held, broker: Mosquitto) -> None:
    wanted = [(f"t/{number}", 1) for number in range(19)]
    up.session.subscribe(1, wanted)
    answers = [up.next(Subscribed).codes for _ in range(3)]
    assert [len(codes) for codes in answers] == [8, 8, 3]
    assert [pair for codes in answers for pair in codes] == wanted


def test_a_clean_end_says_disconnect_and_no_will_follows(up: Held, observer: Observer, broker: Mosquitto) -> None:
    observer.subscribe("t/#")
    up.session.hang_up(1)
    assert up.next(Down) == Down(1, "asked", "asked to disconnect", True)
    assert "Received DISCONNECT from test-thing" in broker.log.read_text()
    assert observer.messages == ()


def test_an_end_that_is_not_in_order_says_no_disconnect_and_the_will_follows(
        up: Held, observer: Observer, broker: Mosquitto) -> None:
    observer.subscribe("t/#")
    assert up.session.close(PATIENCE_S, in_order=False)
    assert observer.wait_for("t/will").payload == WILL.payload
    assert "Received DISCONNECT from test-thing" not in broker.log.read_text()


def test_a_broker_that_goes_away_is_a_closed_line(up: Held, broker: Mosquitto) -> None:
    broker.kill()
    down = up.next(Down)
    assert (down.cause in ("closed", "reset"), down.was_up) == (True, True)


def test_a_kept_session_is_told_on_the_next_line(up: Held, broker: Mosquitto, certificates: Certificates) -> None:
    up.session.subscribe(1, [("t/in", 1)])
    up.next(Subscribed)
    up.session.hang_up(1)
    up.next(Down)
    up.dial(broker, certificates, line=2)
    assert up.next(Dialled) == Dialled(2, True)


def test_an_order_for_an_earlier_line_goes_nowhere(
    up: Held, broker: Mosquitto, certificates: Certificates, observer: Observer
) -> None:
    observer.subscribe("t/#")
    up.session.hang_up(1)
    up.next(Down)
    up.dial(broker, certificates, line=2)
    up.next(Dialled)
    up.session.publish(1, 1, Message("t/late", b"1"))
    up.session.publish(2, 2, Message("t/new", b"2"))
    assert up.next(Acknowledged) == Acknowledged(2, 2)
    observer.wait_for("t/new")
    assert [message.topic for message in observer.messages] == ["t/new"]


def test_a_line_can_be_hung_up_while_it_is_dialled(held: Held, certificates: Certificates) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        held.session.dial(Dial(1, "127.0.0.1", port, "t", False, 60, WILL, context_of(certificates)))
        held.session.hang_up(1)
        assert held.next(Down).cause == "asked"


def test_a_plain_line_serves_as_well(held: Held, plain_broker: Mosquitto) -> None:
    held.dial(plain_broker, None)
    assert held.next(Dialled).line == 1


@pytest.mark.parametrize(("shape", "cause", "words"), [
    ({"names": ("DNS:elsewhere",)}, "certificate", "mismatch"),
    ({"starts": -3, "ends": -1}, "certificate", "expired"),
    ({"starts": 1, "ends": 9}, "clock", "not yet valid"),
])
def test_a_certificate_that_does_not_fit_is_refused(
    held: Held, tmp_path: Path, shape: dict[str, Any], cause: str, words: str
) -> None:
    shape = {key: timedelta(days=value) if isinstance(value, int) else value for key, value in shape.items()}
    certificates = make_certificates(tmp_path / "certificates", **shape)
    (tmp_path / "broker").mkdir()
    with Mosquitto(tmp_path / "broker", certificates) as broker:
        held.dial(broker, certificates)
        down = held.next(Down)
    assert (down.cause, down.was_up) == (cause, False)
    assert words in down.reason


def test_a_broker_of_another_authority_is_refused(held: Held, broker: Mosquitto, tmp_path: Path) -> None:
    held.dial(broker, make_certificates(tmp_path / "other"))
    down = held.next(Down)
    assert (down.cause, "self-signed" in down.reason or "local issuer" in down.reason) == ("certificate", True)


def test_a_port_that_nobody_listens_on_is_named(held: Held, broker: Mosquitto, certificates: Certificates) -> None:
    broker.stop()
    held.dial(broker, certificates)
    assert held.next(Down) == Down(1, "tcp", f"127.0.0.1 port {broker.port}: connection refused", False)


def test_a_name_without_an_address_is_named(held: Held, broker: Mosquitto, certificates: Certificates) -> None:
    held.dial(broker, certificates, host="broker.invalid")
    down = held.next(Down)
    assert (down.cause, "broker.invalid" in down.reason) == ("dns", True)


def test_certificates_that_went_missing_are_named(held: Held, broker: Mosquitto) -> None:
    tls = Tls("/nonexistent/ca.pem", "/nonexistent/cert.pem", "/nonexistent/key.pem")
    held.dial(broker, None, context=lambda: credentials.context(tls))
    assert held.next(Down).cause == "certificate"


def test_bytes_that_are_no_mqtt_end_the_line_and_nothing_else(held: Held) -> None:
    with socket.create_server(("127.0.0.1", 0)) as hostile:
        for line, answer in enumerate((b"\x20\x02\x00\x00\x30\x02\xff\xff", b"\xff" * 64, b"HTTP/1.1 400 Bad\r\n" * 9,
                                       b"\x20\x02\x00\x00\x40\xff\xff\xff\x7f"), 1):
            host, port = hostile.getsockname()
            held.session.dial(Dial(line, host, port, "t", True, 60, WILL, lambda: None))
            peer = hostile.accept()[0]
            with peer:
                peer.recv(4096)
                peer.sendall(answer)
                down = held.next(Down)
            assert (down.line, down.cause in ("protocol", "reset", "closed")) == (line, True)


@pytest.mark.parametrize(("code", "words"), [
    (1, "does not speak MQTT 3.1.1"), (2, "client id"), (3, "not available"), (4, "bad user name or password"),
    (5, "not authorised")])
def test_a_connack_that_refuses_is_named_with_its_reason(held: Held, code: int, words: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        host, port = server.getsockname()
        held.session.dial(Dial(1, host, port, "t", True, 60, WILL, lambda: None))
        with server.accept()[0] as peer:
            peer.recv(4096)
            peer.sendall(packets.connack(code))
            down = held.next(Down)
    assert (down.cause, words in down.reason, down.was_up) == ("refused", True, False)


@pytest.mark.parametrize("reset", [False, True])
def test_a_line_that_ends_before_connack_has_one_reason(held: Held, reset: bool) -> None:
    """Whether FIN or RST is met is chance, and a reason that changes is logged at every attempt."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        host, port = server.getsockname()
        held.session.dial(Dial(1, host, port, "t", True, 60, None, lambda: None))
        with server.accept()[0] as peer:
            peer.recv(4096)
            if reset:
                peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        assert held.next(Down) == Down(1, "closed", "the broker closed the line instead of a CONNACK", False)


@pytest.mark.parametrize("shape", ["stranger", "expired"])
@pytest.mark.parametrize("newest", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_a_client_certificate_that_the_broker_refuses_has_one_reason(
    held: Held, certificates: Certificates, tmp_path: Path, shape: str, newest: ssl.TLSVersion
) -> None:
    """TLS 1.3 tells of it after the handshake, amid the CONNECT, and the connection may be reset by then."""
    if shape == "stranger":
        own = make_certificates(tmp_path / "other").client
    else:
        own = certificates.authority.issue("old", starts=timedelta(days=-9), ends=timedelta(days=-1))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.maximum_version = newest
    context.load_cert_chain(certificates.server.cert, certificates.server.key)
    context.load_verify_locations(certificates.ca)
    context.verify_mode = ssl.CERT_REQUIRED
    downs = set()
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        tls = Tls(str(certificates.ca), str(own.cert), str(own.key))
        for line in range(1, 21):
            held.session.dial(
                Dial(line, "127.0.0.1", port, "t", True, 60, WILL, lambda: credentials.context(tls)))
            peer = server.accept()[0]
            with suppress(ssl.SSLError):
                context.wrap_socket(peer, server_side=True)
            peer.close()
            downs.add(held.next(Down)._replace(line=0))
    assert len(downs) == 1
    down = downs.pop()
    assert (down.cause, down.was_up) == ("tls", False)
    assert "the broker does not accept this device's certificate" in down.reason


@pytest.mark.parametrize("qos", [0, 1])
def test_a_message_that_is_too_large_is_passed_over_and_does_not_come_again(
    held: Held, tmp_path: Path, qos: int
) -> None:
    with Mosquitto(tmp_path, settings=["message_size_limit 0"]) as broker, Observer(broker) as camera:
        held.dial(broker, None)
        held.session.subscribe(1, [("cam/+/image", 1)])
        held.next(Subscribed)
        camera.publish("cam/1/image", bytes(1_200_000), qos=qos)
        camera.publish("cam/1/image", b"small", qos=qos)
        assert held.next(PassedOver) == PassedOver(1, "cam/1/image", 1_200_000)
        assert held.next(Received).payload == b"small"
        held.session.hang_up(1)
        assert held.next(Down).cause == "asked"
        held.dial(broker, None, line=2)
        assert held.next(Dialled) == Dialled(2, True)
        camera.publish("cam/1/image", b"later", qos=qos)
        assert held.next(Received) == Received(2, "cam/1/image", b"later", qos, False)
        camera.publish("cam/1/image", bytes(1_300_000), qos=qos)
        assert held.next(PassedOver) == PassedOver(2, "cam/1/image", 1_300_000)


def test_a_bug_while_a_line_is_opened_ends_that_line_and_is_told(held: Held, broker: Mosquitto) -> None:
    def buggy() -> ssl.SSLContext:
        raise KeyError("nobody expected this")
    held.dial(broker, None, context=buggy)
    down = held.next(Down)
    assert (down.cause, down.was_up) == ("fault", False)
    assert "nobody expected this" in down.reason and "in buggy" in down.traceback
    held.dial(broker, None, line=2, host="a..b")
    assert (held.next(Down).cause, held.session.alive(time.monotonic())) == ("dns", True)


def test_a_bug_on_a_line_that_is_up_ends_that_line_and_is_told(up: Held) -> None:
    up.session.publish(1, 1, Message("t/\ud800", b"1"))
    down = up.next(Down)
    assert (down.cause, down.was_up, "UnicodeEncodeError" in down.traceback) == ("fault", True, True)
    assert up.session.alive(time.monotonic())


@pytest.mark.parametrize("host", ["ü..example", "ü" * 70, "x" * 300, ".example.com", "[::1]"])
def test_a_name_that_nobody_can_have_is_a_line_that_does_not_come_up(held: Held, host: str) -> None:
    held.session.dial(Dial(1, host, 1883, "t", True, 60, WILL, lambda: None))
    down = held.next(Down)
    assert (down.cause, down.was_up) == ("dns", False)


def test_the_thread_is_alive_while_it_waits_and_not_after_its_end(held: Held) -> None:
    assert held.session.alive(time.monotonic() + 1e6)
    held.session.close(PATIENCE_S)
    assert not held.session.alive(time.monotonic())


def test_what_is_overridden_of_paho_is_still_there() -> None:
    """Of paho's internals the session overrides four and calls five; a paho without them must not pass unnoticed."""
    for name in ("_create_socket_connection", "_packet_queue", "_handle_pubackcomp", "_handle_on_message",
                 "_mid_generate", "_send_publish", "_packet_handle", "_send_puback", "_send_pubrec"):
        assert callable(getattr(paho.Client, name))


def test_an_acknowledgement_that_nobody_waits_for_is_no_event(up: Held) -> None:
    up.session.eager = False
    up.session.publish(1, 5, Message("t/1", b"1"))
    up.session.publish(1, None, Message("t/1", b"2"))
    up.session.publish(1, -1, Message("t/1", b"3"))
    assert up.next(Acknowledged) == Acknowledged(1, -1)
    assert up.session.acknowledged(1) == [5]
    assert up.session.acknowledged(1) == []


def test_a_packet_identifier_still_in_use_is_passed_over() -> None:
    """They come round after 65,535 messages (MQTT 3.1.1, 2.3.1)."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        client = Client("t", True, Stream(ours), lambda mid: None)
        client.connect("broker", 1883, 60)
        first = client.send(Message("t", b"1"))
        client._last_mid = first - 1
        assert client.send(Message("t", b"2")) == first + 1
        assert list(client.unacknowledged) == [first, first + 1]


@pytest.mark.parametrize("do, spent", [
    (lambda line: line.publish(5, Message("a/温度", b"x" * 300)), Spent("PUBLISH", ("a/温度",), 5)),
    (lambda line: line.publish(None, Message("t", b"")), Spent("PUBLISH", ("t",))),
    (lambda line: line.subscribe([("a/+", 1), ("b" * 200, 0)]), Spent("SUBSCRIBE", ("a/+", "b" * 200))),
    (lambda line: line.unsubscribe(["a/#", "b"]), Spent("UNSUBSCRIBE", ("a/#", "b"))),
])
def test_a_packet_that_is_never_acknowledged_is_named_when_all_repeats_are_spent(
        do: Callable[[Connection], None], spent: Spent) -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        dial = Dial(1, "broker", 1883, "t", True, 1000, WILL, lambda: None)
        line = Connection(dial, Stream(ours), lambda event: None, lambda number, token: None)
        line.start()
        line.up = True
        line._client._state = 1  # past CONNACK, as far as paho knows
        do(line)
        now = time.monotonic()
        with pytest.raises(StreamError) as error:
            for repeat in range(MAX_REPEATS + 2):
                assert line.spent is None and repeat <= MAX_REPEATS
                now += ACK_S + 0.1
                line.keep(now, False)
    assert (error.value.cause, line.spent) == ("unacknowledged", spent)
    assert all(name in str(error.value) for name in spent.names)
