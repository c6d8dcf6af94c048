"""What AWS IoT Core does and mosquitto does not, on the wire."""

from __future__ import annotations

import signal
import socket
import ssl
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from tests.aws import limits
from tests.aws.gate import Gate
from tests.aws.raw import PATIENCE_S, Raw
from tests.aws.service import ShadowService
from tests.certificates import make_certificates
from tests.faults import packets
from tests.faults.packets import CONNACK, PUBACK
from tests.mosquitto import Mosquitto
from tests.observer import Client, Observer, tls_context
from tests.running import Iotd, configuration

ARN = "arn:aws:iot:*:*:"


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[Mosquitto]:
    with Mosquitto(tmp_path) as broker:
        yield broker


@pytest.fixture
def cloud(broker: Mosquitto) -> Iterator[Observer]:
    """A client of the broker itself, which nothing of this concerns."""
    with Observer(broker, "cloud") as observer:
        yield observer


@pytest.fixture
def gate(broker: Mosquitto) -> Iterator[Gate]:
    with Gate(broker) as gate:
        yield gate


def statement(action: str, *resources: str, **more: Any) -> dict[str, Any]:
    return {"Effect": "Allow", "Action": action, "Resource": [ARN + resource for resource in resources], **more}


def policies(*statements: Mapping[str, Any]) -> dict[str, Sequence[Any]]:
    return {"pi": [{"Version": "2012-10-17", "Statement": list(statements)}]}


CONNECT = statement("iot:Connect", "client/${iot:Connection.Thing.ThingName}")


# What the policy does not allow

def test_a_certificate_that_is_not_allowed_to_connect_is_closed_without_a_connack(broker: Mosquitto) -> None:
    with Gate(broker, policies=policies(CONNECT)) as gate:
        with Raw(gate, "other", greet=False) as client:
            assert client.read() is None
        gate.wait_for("closed", "iot:Connect other")
        with Raw(gate, "pi"):
            pass


@pytest.mark.parametrize("packet, what", [
    (packets.publish("a", b"x", qos=1), "iot:Publish a"),
    (packets.publish("a", b"x"), "iot:Publish a"),
    (packets.publish("b", b"x", qos=1, retain=True), "iot:RetainPublish b"),
    (packets.subscribe(1, [("b", 1)]), "iot:Subscribe b"),
])
def test_an_action_that_is_not_allowed_ends_the_line(broker: Mosquitto, packet: bytes, what: str) -> None:
    with Gate(broker, policies=policies(CONNECT, statement("iot:Publish", "topic/b"))) as gate, Raw(gate) as client:
        client.send(packet)
        assert client.read() is None
        gate.wait_for("closed", what)


def test_a_filter_that_is_not_allowed_is_refused_where_the_service_answers(broker: Mosquitto) -> None:
    granted = policies(CONNECT, statement("iot:Subscribe", "topicfilter/a"))
    with Gate(broker, policies=granted, denied_filter_closes=False) as gate, Raw(gate) as client:
        assert client.subscribe("b", "a") == [0x80, 1]
        assert client.subscribe("b") == [0x80]
        gate.wait_for("refused", "iot:Subscribe b")


@pytest.mark.parametrize("granted, what", [
    ((), "iot:Connect pi"),
    ((statement("iot:Publish", "topic/w"),), "iot:Connect pi"),
    ((statement("iot:Publish", "topic/w"), "condition"), "iot:RetainPublish w"),
    (("condition",), "iot:Publish w"),
])
def test_a_will_needs_all_that_its_message_needs(broker: Mosquitto, granted: Sequence[Any], what: str) -> None:
    condition = {"ForAllValues:StringEquals": {"iot:ConnectAttributes": ["LastWill"]}}
    connect = {**CONNECT, "Condition": condition} if "condition" in granted else CONNECT
    others = [each for each in granted if each != "condition"]
    with Gate(broker, policies=policies(connect, *others)) as gate:
        with Raw(gate, will=("w", b"gone", 1, True), greet=False) as client:
            assert client.read() is None
        gate.wait_for("closed", what)


def test_what_a_client_may_not_receive_does_not_come_and_nothing_else_is_held_up(
    broker: Mosquitto, cloud: Observer
) -> None:
    granted = policies(CONNECT, statement("iot:Subscribe", "topicfilter/*"), statement("iot:Receive", "topic/b"))
    with Gate(broker, policies=granted) as gate, Raw(gate) as client:
        assert client.subscribe("a", "b") == [1, 1]
        for _ in range(150):  # mosquitto sends no more than a hundred that are not acknowledged
            cloud.publish("a", b"secret")
        cloud.publish("b", b"open")
        assert client.next_publish().payload == b"open"
        gate.wait_for("withheld", "iot:Receive a")


def test_a_policy_holds_for_the_name_in_the_certificate(broker: Mosquitto, tmp_path: Path) -> None:
    certificates = make_certificates(tmp_path / "certificates", "pi")
    with Gate(broker, certificates, policies(CONNECT)) as gate:
        for client_id, code in (("pi", 0), ("another", None)):
            connected = threading.Event()
            with closing(Client(client_id)) as client:
                client.tls_set_context(tls_context(certificates.ca, certificates.client))
                client.on_connect = lambda *arguments: connected.set()
                client.connect(gate.host, gate.port)
                client.loop_start()
                assert connected.wait(PATIENCE_S) if code == 0 else gate.wait_for("closed", "iot:Connect another")
                assert connected.is_set() is (code == 0)


def test_who_shows_no_certificate_is_not_let_in(broker: Mosquitto, tmp_path: Path) -> None:
    certificates = make_certificates(tmp_path / "certificates", "pi")
    context = ssl.create_default_context(cafile=str(certificates.ca))
    with Gate(broker, certificates) as gate, pytest.raises(OSError):
        with socket.create_connection((gate.host, gate.port), timeout=PATIENCE_S) as plain:
            with context.wrap_socket(plain, server_hostname="localhost") as client:
                client.sendall(packets.connect("pi"))
                assert client.recv(4) == b""
                raise ConnectionResetError


# What is too much

@pytest.mark.parametrize("packet, what", [
    (packets.publish("a", b"x" * (limits.MAX_PAYLOAD_BYTES + 1), qos=1), "131073 bytes"),
    (packets.publish("a", b"x" * (1 << 20), qos=1), "a packet of"),
    (packets.publish("a" * 257, b"", qos=1), "257 bytes"),
    (packets.publish("1/2/3/4/5/6/7/8/9", b"", qos=1), "8 slashes"),
    (packets.publish("$mine/a", b"", qos=1), "reserved"),
    (packets.publish("$aws/things/pi/shadow/update", b"{}", qos=1, retain=True), "RETAIN on $aws"),
    (packets.subscribe(1, [(f"a/{number}", 1) for number in range(9)]), "9 filters"),
    (packets.subscribe(1, [("a" * 257, 1)]), "257 bytes"),
    (packets.subscribe(1, [("$SYS/#", 1)]), "reserved"),
    (packets.subscribe(1, [("1/2/3/4/5/6/7/8/#", 1)]), "8 slashes"),
    (packets.connect("pi"), "CONNECT comes first"),
], ids=lambda value: value if isinstance(value, str) else "")
def test_what_is_too_large_or_reserved_ends_the_line(gate: Gate, packet: bytes, what: str) -> None:
    with Raw(gate) as client:
        client.send(packet)
        assert client.read() is None
    gate.wait_for("closed", what)


@pytest.mark.parametrize("packet", [
    packets.publish("a", b"x" * limits.MAX_PAYLOAD_BYTES, qos=1),
    packets.publish("a" * 256, b"", qos=1),
    packets.publish("1/2/3/4/5/6/7/8", b"", qos=1),
    packets.publish("$aws/rules/mine/1/2/3/4/5/6/7/8", b"", qos=1),
    packets.subscribe(1, [(f"a/{number}", 1) for number in range(8)]),
], ids=lambda packet: str(len(packet)))
def test_what_is_just_small_enough_passes(gate: Gate, packet: bytes) -> None:
    with Raw(gate) as client:
        client.send(packet)
        assert client.answers()
    assert gate.rulings == []


@pytest.mark.parametrize("client_id", ["$pi", "p" * 129, ""])
def test_a_client_id_that_is_no_use_is_not_greeted(gate: Gate, client_id: str) -> None:
    with Raw(gate, client_id, greet=False) as client:
        assert client.read() is None


def test_a_session_outlives_its_line_with_its_subscriptions(broker: Mosquitto, cloud: Observer) -> None:
    now = [0.0]
    cloud.publish("a", b"stored", retain=True)
    with Gate(broker, clock=lambda: now[0]) as gate:
        with Raw(gate, clean_session=False) as client:
            client.subscribe("a", "b/#")
            assert client.next_publish().retain
        now[0] = 1.0
        cloud.publish("b/1", b"meanwhile")
        with Raw(gate, clean_session=False, greet=False) as client:
            assert client.read() == (CONNACK, b"\1\0")
            assert {client.next_publish().payload for _ in range(2)} == {b"stored", b"meanwhile"}
        assert "withheld" not in [ruling.deed for ruling in gate.rulings]


def test_fifty_subscriptions_are_the_most(gate: Gate) -> None:
    with Raw(gate) as client:
        for begin in range(0, 48, 8):
            client.subscribe(*(f"a/{number}" for number in range(begin, begin + 8)))
        assert client.subscribe("b/1", "b/2", "b/3", "a/0") == [1, 1, 0x80, 1]
        client.send(packets.whole(packets.UNSUBSCRIBE | 2, b"\0\1\0\3a/0"))
        assert client.read() is not None
        assert client.subscribe("b/3", "b/4") == [1, 0x80]
        gate.wait_for("refused", "more than 50")


def test_qos_2_is_never_answered(gate: Gate) -> None:
    with Raw(gate) as client:
        client.send(packets.publish("a", b"x", qos=2))
        client.send(packets.subscribe(3, [("a", 2)]))
        client.send(packets.publish("b", b"x", qos=1, identifier=5))
        assert client.read() == (PUBACK, b"\0\5")
    assert [ruling.deed for ruling in gate.rulings] == ["unanswered"] * 2


def test_a_will_at_qos_2_is_refused(gate: Gate) -> None:
    with Raw(gate, will=("w", b"", 2, False), greet=False) as client:
        assert client.read() is None
    gate.wait_for("closed", "QoS 2")


def test_a_will_on_a_reserved_topic_is_ignored(broker: Mosquitto, gate: Gate, cloud: Observer) -> None:
    cloud.subscribe("$aws/things/pi/#", "w")
    will = ("$aws/things/pi/shadow/update", b"{}", 1, False)
    for client_id, told in (("pi", will), ("other", ("w", b"gone", 1, False))):
        with Raw(gate, client_id, will=told):
            pass
    cloud.wait_for("w")
    assert [message.topic for message in cloud.messages] == ["w"]


# What is stored

def test_a_wildcard_gets_nothing_that_is_stored_and_what_comes_live(gate: Gate, cloud: Observer) -> None:
    cloud.publish("a/b", b"stored", retain=True)
    with Raw(gate) as client:
        client.subscribe("a/+", "a/#")
        cloud.publish("a/c", b"live", retain=True)
        assert client.next_publish().payload == b"live"
    gate.wait_for("withheld", "a/b")


def test_the_exact_topic_gets_what_is_stored_once(gate: Gate, cloud: Observer) -> None:
    cloud.publish("a/b", b"stored", retain=True)
    with Raw(gate) as client:
        client.subscribe("a/#", "a/b")
        first = client.next_publish()
        assert (first.payload, first.retain) == (b"stored", True)
        cloud.publish("a/b", b"live")
        assert client.next_publish().payload == b"live"


def test_a_filter_that_ends_in_a_hash_does_not_match_its_own_stem(gate: Gate, cloud: Observer) -> None:
    with Raw(gate) as client:
        client.subscribe("a/#")
        cloud.publish("a", b"stem")
        cloud.publish("a/b", b"below")
        assert client.next_publish().topic == "a/b"


# How often

def test_more_than_a_hundred_publishes_a_second_are_discarded(broker: Mosquitto, cloud: Observer) -> None:
    now = [0.0]
    cloud.subscribe("a/#")
    with Gate(broker, clock=lambda: now[0]) as gate, Raw(gate) as client:
        for number in range(1, 121):
            client.send(packets.publish(f"a/{number}", b"", qos=1, identifier=number))
        gate.wait_for("discarded", "a/120")
        now[0] = 1.0
        client.send(packets.publish("a/later", b"", qos=1, identifier=121))
        cloud.wait_for("a/later")
    assert len(cloud.messages) == 101


def test_what_comes_in_counts_as_well(broker: Mosquitto, cloud: Observer) -> None:
    with Gate(broker, clock=lambda: 5.0) as gate, Raw(gate) as client:
        client.subscribe("a", qos=0)
        for number in range(120):
            cloud.publish("a", str(number))
        gate.wait_for("discarded", "a")
        assert [client.next_publish().payload for _ in range(100)][-1] == b"99"


def test_a_topic_is_retained_once_a_second_and_others_meanwhile(broker: Mosquitto, cloud: Observer) -> None:
    now = [0.0]
    cloud.subscribe("#")
    with Gate(broker, clock=lambda: now[0]) as gate, Raw(gate) as client:
        for topic, payload, retain in (("a", b"1", True), ("a", b"2", True), ("b", b"3", True), ("a", b"4", False)):
            client.send(packets.publish(topic, payload, retain=retain))
        cloud.wait_for("a", lambda message: message.payload == b"4")
        now[0] = 1.0
        client.send(packets.publish("a", b"5", retain=True))
        cloud.wait_for("a", lambda message: message.payload == b"5")
        gate.wait_for("discarded", "a: retained")
    assert [message.payload for message in cloud.messages] == [b"1", b"3", b"4", b"5"]


def test_a_client_that_connects_twice_a_second_is_not_greeted(broker: Mosquitto) -> None:
    now = [0.0]
    with Gate(broker, clock=lambda: now[0]) as gate:
        with Raw(gate), Raw(gate, greet=False) as second:
            assert second.read() is None
        with Raw(gate, "other"):
            now[0] = 1.0
        with Raw(gate):
            pass


@pytest.mark.parametrize("asked_s, kept_s", [(5, 30), (60, 60), (0, 1200), (65535, 1200)])
def test_a_keepalive_is_held_within_bounds(broker: Mosquitto, gate: Gate, asked_s: int, kept_s: int) -> None:
    with Raw(gate, keepalive_s=asked_s):
        assert f"k{kept_s}" in [word.rstrip(").") for word in broker.log.read_text().split() if word.startswith("k")]


def test_of_two_lines_with_one_client_id_the_older_ends_and_its_will_is_said(
    broker: Mosquitto, gate: Gate, cloud: Observer
) -> None:
    cloud.subscribe("w")
    with Raw(gate, will=("w", b"gone", 1, False), clean_session=False) as older:
        time.sleep(limits.MIN_CONNECT_GAP_S)
        with Raw(gate, clean_session=False, greet=False) as newer:
            assert newer.read() == (CONNACK, b"\1\0")
            assert older.read() is None
            cloud.wait_for("w")
            assert newer.answers()
    assert [ruling.deed for ruling in gate.rulings] == ["closed"]


def test_a_client_that_says_goodbye_leaves_no_will(gate: Gate, cloud: Observer) -> None:
    cloud.subscribe("w")
    with Raw(gate, will=("w", b"gone", 1, False)) as client:
        client.send(packets.whole(packets.DISCONNECT, b""))
        assert client.read() is None
    with Raw(gate, "other", will=("w", b"last", 1, False)):
        pass
    cloud.wait_for("w")
    assert [message.payload for message in cloud.messages] == [b"last"]


def test_iotd_does_its_work_without_a_ruling(broker: Mosquitto, cloud: Observer, tmp_path: Path) -> None:
    certificates = make_certificates(tmp_path / "certificates")
    cloud.subscribe("#")
    with ShadowService(broker) as service, Gate(broker, certificates) as gate:
        settings = configuration(
            gate, certificates, subscribe=[{"topic": "plant/{thing}/horn"}], shadows=[{"name": "a", "every": "1s"}, {}],
            publish=[{"topic": "plant/{thing}/state", "every": "1s", "payload": {"n": "{sequence}"}}])
        settings["mqtt"]["limits"] = "aws"
        with Iotd(tmp_path / "device", settings) as device:
            for number in range(3):
                cloud.wait_for("plant/test-thing/state", lambda message: message.json()["n"] >= number)
            cloud.publish("plant/test-thing/horn", b"!")
            device.wait_for("message.received", topic="plant/test-thing/horn")
            service.update("test-thing", "a", {"desired": {"fan": 1}})
            device.wait_for("shadow.delta")
            device.signal(signal.SIGTERM)
            assert device.end() == 0
        assert gate.rulings == []
    assert [message.json()["status"] for message in cloud.messages if message.topic.endswith("/will")] == [
        "Connected", "Stopped"]
