"""AWS IoT Device Advisor's cases of MQTT and TLS, re-created: the broker's part of each, and its rule.

The names are Device Advisor's. Where its guide gives no number the rule says which one is held to here.
"""

from __future__ import annotations

import json
import random
import ssl
import time
from datetime import timedelta

from tests.certificates import LOOPBACK, RSA, Identity
from tests.faults import backoff, hello, packets
from tests.faults.broker import Broker, Connection, Ended, Silence, Until
from tests.faults.lab import TOPIC, TRIGGER, Bench, Verdict, case, failed, judged, passed, warned
from tests.faults.packets import CONNECT, PINGREQ, PUBACK, PUBLISH, SUBSCRIBE, Connect, Packet, Publish
from tests.faults.tap import Tap

SOON_S = 20.0  # for what a device does at once, on a busy test host
CONNACK_S = 10.0
ACK_S = 10.0
LATE_S = 3.0


def published(topic: str = TOPIC) -> Until:
    """Until a PUBLISH on this topic."""
    return lambda packet: packet.kind == PUBLISH and Publish.read(packet).topic == topic


def subscribed(name: str = TRIGGER) -> Until:
    """Until a SUBSCRIBE that has this filter."""
    return lambda packet: packet.kind == SUBSCRIBE and name in [each for each, _ in packets.filters(packet)]


def acknowledged(identifier: int) -> Until:
    """Until the PUBACK of this packet identifier."""
    return lambda packet: packet.kind == PUBACK and packet.identifier == identifier


def number(packet: Packet) -> int:
    """Return the sequence number in a PUBLISH on TOPIC."""
    return int(json.loads(Publish.read(packet).payload)["n"])


@case("TLS_Connect", "handshake completed, no TLS alert from either side")
def tls_connect(bench: Bench) -> Verdict:
    """A TLS handshake, once with TLS 1.3 and once with TLS 1.2; every record is looked at."""
    for version in (ssl.TLSVersion.TLSv1_3, ssl.TLSVersion.TLSv1_2):
        broker = bench.broker(bench.certificates.context(newest=version))
        tap = bench.keep(Tap(broker.port))
        bench.device(broker, mqtt={"port": tap.port})
        broker.next(SOON_S).serve(published(), SOON_S)
        if tap.alerts():
            return warned(f"{tap.alerts()} TLS alerts in the clear with {version.name}")
    return passed("both completed, no alert")


@case("TLS_Support_AWS_IoT_Cipher_Suites",
      "at least one recommended suite offered and none that AWS IoT does not support")
def tls_suites(bench: Bench) -> Verdict:
    """The ClientHello is read from the socket and its suites compared with the lists of AWS IoT."""
    broker = bench.broker(bench.certificates.context())
    bench.device(broker)
    offer = hello.read(broker.accept(SOON_S).peek(SOON_S))
    unsupported = [suite for suite in offer.suites if suite not in hello.SUPPORTED]
    recommended = [suite for suite in offer.suites if suite in hello.RECOMMENDED]
    seen = f"{len(recommended)} recommended, {len(unsupported)} unsupported of {len(offer.suites)}"
    if offer.server_name != "localhost":
        return failed(f"server name {offer.server_name!r} in the ClientHello, expected the host")
    if len(unsupported) == len(offer.suites):
        return failed(seen)
    return passed(seen) if recommended and not unsupported else warned(seen)


@case("TLS_Receive_Maximum_Size_Fragments", "the large message is acknowledged and logged whole")
def tls_fragments(bench: Bench) -> Verdict:
    """128 KB at QoS 1 on the subscribed topic, in TLS records of the full 16 KB."""
    broker = bench.broker(bench.certificates.context())
    device = bench.device(broker)
    connection = broker.next(SOON_S)
    connection.serve(subscribed(), SOON_S)
    connection.send(packets.publish(TRIGGER, b"x" * 131_072, qos=1, identifier=77))
    connection.serve(acknowledged(77), SOON_S)
    line = device.wait_for("message.received", SOON_S, lambda line: bool(line["topic"] == TRIGGER))
    return judged(line is not None, "acknowledged, and " + ("logged" if line else "never logged"))


@case("TLS_Large_Size_Server_Cert", "handshake completed")
def tls_large(bench: Bench) -> Verdict:
    """A server certificate more than 20 % larger than that of TLS_Connect."""
    usual = bench.certificates.server
    large = bench.certificates.issue("large", [*LOOPBACK, *(f"DNS:name-{number}.example.net" for number in range(500))],
                                     key=RSA)
    factor = large.cert.stat().st_size / usual.cert.stat().st_size
    broker = bench.broker(bench.certificates.context(large))
    bench.device(broker)
    broker.next(SOON_S).serve(published(), SOON_S)
    return judged(factor > 1.2, f"completed with a certificate {factor:.0f} times as large")


def refused_certificate(bench: Bench, identity: Identity) -> Verdict:
    """Offer this certificate with TLS 1.3 and with 1.2; the device must refuse it by an alert, and come again."""
    worst = passed("refused by an alert")
    broker = bench.broker(bench.certificates.context(identity))
    device = bench.device(broker)
    for version in (ssl.TLSVersion.TLSv1_3, ssl.TLSVersion.TLSv1_2):
        connection = broker.accept(SOON_S)
        try:
            connection.secure(bench.certificates.context(identity, version), SOON_S)
            return failed(f"the handshake was completed with {version.name}")
        except ssl.SSLError as error:
            if "ALERT" not in (error.reason or ""):
                worst = warned(f"refused without an alert with {version.name}: {error.reason}")
        except OSError as error:
            worst = warned(f"refused without an alert with {version.name}: {error}")
    line = device.wait_for("session.connect_failed", SOON_S)
    return worst if line else failed("the log does not say why")


@case("TLS_Unsecure_Server_Cert", "the device closes; here with a TLS alert, and says why in its log")
def tls_unsecure(bench: Bench) -> Verdict:
    """A server certificate of an authority that the device does not trust."""
    return refused_certificate(bench, bench.certificates.issue("server", LOOPBACK, stranger=True))


@case("TLS_Incorrect_Subject_Name_Server_Cert", "the device closes; here with a TLS alert, and says why in its log")
def tls_wrong_name(bench: Bench) -> Verdict:
    """A server certificate of the right authority for another name."""
    return refused_certificate(bench, bench.certificates.issue("elsewhere", ["DNS:elsewhere.example.net"]))


@case("TLS_Expired_Server_Cert", "the device refuses and sends a TLS alert before it closes")
def tls_expired(bench: Bench) -> Verdict:
    """A server certificate that expired yesterday."""
    return refused_certificate(bench, bench.certificates.issue(
        "expired", LOOPBACK, starts=timedelta(days=-30), ends=timedelta(days=-1)))


@case("MQTT_Connect", "CONNECT is sent, of MQTT 3.1.1, with the thing as client id, a keep-alive and a will")
def mqtt_connect(bench: Bench) -> Verdict:
    """CONNECT is read and decoded."""
    broker = bench.broker()
    bench.device(broker)
    connect = Connect.read(broker.next(SOON_S).packets[0])
    will = json.loads(connect.will_payload)["status"]
    return judged(connect.client_id == "fault-lab" and connect.keepalive_s == 30 and connect.will_retain
                  and connect.will_qos == 1 and not connect.clean_session and will == "Communication lost",
                  f"client id {connect.client_id}, keep-alive {connect.keepalive_s} s, will {will!r}")


@case("MQTT_Client_Puback_QoS1", "PUBACK with the identifier of the message")
def mqtt_puback(bench: Bench) -> Verdict:
    """A message at QoS 1 on the subscribed topic."""
    broker = bench.broker()
    bench.device(broker)
    connection = broker.next(SOON_S)
    connection.serve(subscribed(), SOON_S)
    connection.send(packets.publish(TRIGGER, b'{"a": 1}', qos=1, identifier=4711))
    connection.serve(acknowledged(4711), SOON_S)
    return passed("acknowledged")


def withheld(broker: Broker, attempts: int) -> tuple[list[float], list[float]]:
    """Withhold CONNACK so often; return how long each attempt waited for it, and the pauses that followed."""
    waits, pauses = [], []
    connection = broker.dialled(SOON_S)
    for _ in range(attempts):
        connection.until_ended(CONNACK_S + LATE_S, mute=(CONNECT,))
        assert connection.ended_at is not None
        waits.append(connection.ended_at - connection.packets[0].at)
        after = broker.dialled(16 + LATE_S)
        pauses.append(after.opened_at - connection.ended_at)
        connection = after
    connection.send(packets.connack())
    return waits, pauses


@case("MQTT_Connect_Exponential_Backoff_Retries", "the pauses grow under a doubling ceiling, none under 1 s; here "
      "with jitter as well, and no attempt waits for CONNACK longer than 10 s")
def mqtt_exponential(bench: Bench) -> Verdict:
    """CONNACK withheld from seven attempts, given to the eighth."""
    broker = bench.broker()
    bench.device(broker)
    waits, pauses = withheld(broker, 7)
    if max(waits) > CONNACK_S + 1.5:
        return failed(f"waited {max(waits):.1f} s for CONNACK")
    return backoff.judge(pauses, 1, 16)


@case("MQTT_Connect_Jitter_Backoff_Retries", "at least 12 CONNECTs, their pauses jittered (strictly exponential is a "
      "warning), none under 1 s", slow=True)
def mqtt_jitter(bench: Bench) -> Verdict:
    """CONNACK withheld from five attempts and given to the sixth; the line closed, and all of it once more."""
    broker = bench.broker()
    bench.device(broker)
    _, pauses = withheld(broker, 5)
    connection = broker.connections[-1]
    connection.serve(published(), SOON_S)
    connection.close()
    closed_at = time.monotonic()
    _, again = withheld(broker, 5)
    whole = [*pauses, broker.connections[6].opened_at - closed_at, *again]
    return backoff.judge(whole, 1, 16) if len(broker.connections) >= 12 else failed("too few CONNECTs")


@case("MQTT_ReconnectionAfterSuccessfulConnection", "the next CONNECT comes no sooner than 1 s, here within 5 s")
def mqtt_reconnection(bench: Bench) -> Verdict:
    """Disconnected straight after a good connection."""
    broker = bench.broker()
    bench.device(broker)
    connection = broker.next(SOON_S)
    connection.serve(published(), SOON_S)
    connection.close()
    closed_at = time.monotonic()
    pause = broker.dialled(SOON_S).opened_at - closed_at
    return judged(0.99 <= pause <= 5, f"after {pause:.1f} s")


def kicked(bench: Bench, greet: bool) -> Verdict:
    """Close seven connections right after CONNECT, or after CONNACK, and judge the pauses."""
    broker = bench.broker()
    bench.device(broker)
    pauses = []
    connection = broker.dialled(SOON_S)
    for _ in range(7):
        if greet:
            connection.send(packets.connack())
            connection.serve_for(0.2)
        connection.close()
        closed_at = time.monotonic()
        connection = broker.dialled(16 + LATE_S)
        pauses.append(connection.opened_at - closed_at)
    return backoff.judge(pauses, 1, 16)


@case("MQTT_Reconnect_Backoff_Retries_On_Server_Disconnect",
      "backoff with jitter; strictly exponential is a warning, linear or constant a failure")
def mqtt_server_disconnect(bench: Bench) -> Verdict:
    """Seven connections closed by the broker in answer to CONNECT."""
    return kicked(bench, greet=False)


@case("MQTT_Reconnect_Backoff_Retries_On_Unstable_Connection",
      "backoff with jitter although every connection succeeded; strictly exponential is a warning")
def mqtt_unstable(bench: Bench) -> Verdict:
    """Seven connections closed by the broker 0.2 s after CONNACK."""
    return kicked(bench, greet=True)


@case("MQTT_Publish", "a PUBLISH at QoS 0 with topic and payload as configured")
def mqtt_publish(bench: Bench) -> Verdict:
    """A message is configured at QoS 0."""
    broker = bench.broker()
    bench.device(broker, publish=[{"topic": TOPIC, "every": "1s", "qos": 0, "payload": {"a": "温度"}}])
    found = Publish.read(broker.next(SOON_S).serve(published(), SOON_S))
    return judged(found.qos == 0 and json.loads(found.payload) == {"a": "温度"}, f"seen at QoS {found.qos}")


def repeated(connection: Connection, first: Packet, within_s: float) -> Packet:
    """Withhold the acknowledgement of `first` alone until it is repeated; return the repetition."""
    def again(packet: Packet) -> bool:
        return packet.kind == first.kind and packet.identifier == first.identifier
    while True:
        packet = connection.read_packet(first.at + within_s - time.monotonic())
        if again(packet):
            return packet
        connection.answer(packet)


@case("MQTT_Publish_Retry_No_Puback", "repeated with the same packet identifier on the same connection; here within "
      "15 s, with DUP set and nothing else changed")
def mqtt_publish_retry(bench: Bench) -> Verdict:
    """PUBACK withheld from one message at QoS 1."""
    broker = bench.broker()
    bench.device(broker)
    connection = broker.next(SOON_S)
    first = connection.serve(published(), SOON_S, mute=(PUBLISH,))
    again = repeated(connection, first, 15)
    connection.answer(again)
    connection.serve(published(), SOON_S)
    same = again.body == first.body and again.flags == first.flags | 8
    return judged(same, f"repeated after {again.at - first.at:.1f} s, " + ("DUP set" if same else "but not the same"))


@case("MQTT_Publish_Retained_Messages", "PUBLISH carries RETAIN")
def mqtt_retained(bench: Bench) -> Verdict:
    """A message is configured to be retained, which is the default."""
    broker = bench.broker()
    bench.device(broker)
    found = Publish.read(broker.next(SOON_S).serve(published(), SOON_S))
    return judged(found.retain, f"RETAIN is {int(found.retain)}")


@case("MQTT_Subscribe", "SUBSCRIBE has the configured filter; here no packet has more than 8")
def mqtt_subscribe(bench: Bench) -> Verdict:
    """Twenty filters are configured."""
    names = [f"lab/in/{number}" for number in range(20)]
    broker = bench.broker()
    bench.device(broker, subscribe=[{"topic": name} for name in names])
    connection = broker.next(SOON_S)
    asked: list[list[tuple[str, int]]] = []
    while not set(names) <= {name for entry in asked for name, _ in entry}:
        asked.append(packets.filters(connection.serve(lambda packet: packet.kind == SUBSCRIBE, SOON_S)))
    return judged(max(map(len, asked)) <= 8, f"{sum(map(len, asked))} filters in {len(asked)} packets")


@case("MQTT_Subscribe_Retry_No_Suback", "repeated with the same packet identifier; here within 15 s")
def mqtt_subscribe_retry(bench: Bench) -> Verdict:
    """SUBACK withheld from one SUBSCRIBE."""
    broker = bench.broker()
    bench.device(broker)
    connection = broker.next(SOON_S)
    first = connection.serve(subscribed(), SOON_S, mute=(SUBSCRIBE,))
    again = repeated(connection, first, 15)
    connection.answer(again)
    connection.serve_for(2)
    return judged(again.body == first.body, f"repeated after {again.at - first.at:.1f} s")


@case("MQTT_No_Ack_PingResp", "the device drops the line; here within 1.5 keep-alives + 10 s of the last word it heard")
def mqtt_no_ack(bench: Bench) -> Verdict:
    """After CONNACK nothing is answered: no PUBLISH, no SUBSCRIBE, no PINGREQ. Keep-alive 6 s."""
    broker = bench.broker()
    bench.device(broker, mqtt={"keepalive": "6s"})
    connection = broker.next(SOON_S)
    how = connection.until_ended(30, mute=(PUBLISH, SUBSCRIBE, PINGREQ))
    took_s = (connection.ended_at or 0.0) - (connection.greeted_at or 0.0)
    broker.next(SOON_S)
    pinged = any(packet.kind == PINGREQ for packet in connection.packets)
    return judged(took_s <= 1.5 * 6 + 10 + 0.5 and pinged, f"{how} after {took_s:.1f} s")


def before_a_kick(bench: Bench) -> Broker:
    """Let the device subscribe in a persistent session, and end its connection."""
    broker = bench.broker()
    bench.device(broker)
    connection = broker.next(SOON_S)
    if Connect.read(connection.packets[0]).clean_session:
        raise Ended("asked for a clean session")
    connection.serve(subscribed(), SOON_S)
    connection.serve_for(0.5)
    connection.close()
    return broker


@case("MQTT_Persistent_Session_Happy_Case", "the stored message is acknowledged, and no SUBSCRIBE is sent again")
def mqtt_persistent(bench: Bench) -> Verdict:
    """Disconnected after its SUBSCRIBE; on the next connection the session is present and a message waits in it."""
    broker = before_a_kick(bench)
    connection = broker.next(SOON_S, session_present=True)
    connection.send(packets.publish(TRIGGER, b"stored", qos=1, identifier=9))
    connection.serve(acknowledged(9), SOON_S)
    connection.serve_for(5)
    extra = [packet for packet in connection.packets if packet.kind == SUBSCRIBE]
    return judged(not extra, f"acknowledged, {len(extra)} SUBSCRIBE")


@case("MQTT_Expired_Persistent_Session", "SUBSCRIBE for the same filter again")
def mqtt_expired_session(bench: Bench) -> Verdict:
    """Disconnected after its SUBSCRIBE; on the next connection the broker has no session."""
    before_a_kick(bench).next(SOON_S).serve(subscribed(), SOON_S)
    return passed("subscribed again")


@case("Long: PUBLISH and SUBSCRIBE", "both repeated with their packet identifiers before the acknowledgement comes; "
      "without that it passes with a warning")
def long_acknowledgements(bench: Bench) -> Verdict:
    """The acknowledgements of one PUBLISH and one SUBSCRIBE are held for 15 s."""
    broker = bench.broker()
    bench.device(broker)
    connection = broker.next(SOON_S)
    held: dict[int, Packet] = {}
    repeats: set[int] = set()
    deadline = time.monotonic() + SOON_S + 15
    while len(held) < 2 or time.monotonic() < max(packet.at for packet in held.values()) + 15:
        try:
            packet = connection.read_packet(0.2)
        except Silence:
            if time.monotonic() > deadline:
                raise
            continue
        if packet.kind in held and held[packet.kind].identifier == packet.identifier:
            repeats.add(packet.kind)
        elif packet.kind not in held and (published()(packet) or subscribed()(packet)):
            held[packet.kind] = packet
        else:
            connection.answer(packet)
    for packet in held.values():
        connection.answer(packet)
    connection.serve(published(), SOON_S)
    return passed("both repeated") if repeats == {PUBLISH, SUBSCRIBE} else warned(f"{len(repeats)} of 2 repeated")


@case("Long: INTERMITTENT_CONNECTIVITY", "every sequence number arrives")
def long_intermittent(bench: Bench) -> Verdict:
    """The line is closed four times at random moments, in order or by a reset."""
    chance = random.Random(4)
    broker = bench.broker()
    bench.device(broker, publish=[{"topic": TOPIC, "every": "100ms", "payload": {"n": "{sequence}"}}])
    for _ in range(4):
        connection = broker.next(30)
        connection.serve(published(), SOON_S)
        connection.serve_for(chance.uniform(0, 2))
        chance.choice((connection.close, connection.reset))()
    connection = broker.next(30)
    last = number(connection.serve(published(), SOON_S))
    connection.serve(lambda packet: published()(packet) and number(packet) > last + 50, SOON_S)
    return judged(*complete(broker))


@case("Long: RECONNECT_BACK_OFF", "exponential or jittered; linear and constant are reported as such", slow=True)
def long_back_off(bench: Bench) -> Verdict:
    """Ten connections closed by the broker in answer to CONNECT."""
    broker = bench.broker()
    bench.device(broker)
    pauses = []
    connection = broker.dialled(SOON_S)
    for _ in range(10):
        connection.close()
        closed_at = time.monotonic()
        connection = broker.dialled(16 + LATE_S)
        pauses.append(connection.opened_at - closed_at)
    return backoff.judge(pauses, 1, 16)


@case("Long: LONG_SERVER_DISCONNECT", "connects again by itself, and every sequence number arrives; the two hours "
      "of the original are a minute here", slow=True)
def long_server_disconnect(bench: Bench) -> Verdict:
    """Nobody listens on the broker's port for a minute."""
    broker = bench.broker()
    bench.device(broker, publish=[{"topic": TOPIC, "every": "100ms", "payload": {"n": "{sequence}"}}])
    connection = broker.next(SOON_S)
    connection.serve(published(), SOON_S)
    broker.refuse()
    connection.reset()
    bench.wait(60)
    broker.listen()
    listening_at = time.monotonic()
    connection = broker.next(16 + LATE_S)
    took_s = connection.opened_at - listening_at
    connection.serve(lambda packet: len(connection.publishes(TOPIC)) > 700, SOON_S)
    holds, seen = complete(broker)
    return judged(holds, f"connected after {took_s:.1f} s; {seen}")


def complete(broker: Broker) -> tuple[bool, str]:
    """Tell whether every sequence number up to the highest seen on TOPIC was acknowledged by the broker."""
    arrived = [entry for connection in broker.connections for entry in connection.acknowledged(TOPIC)]
    numbers = {int(json.loads(entry.payload)["n"]) for entry in arrived}
    missing = set(range(1, max(numbers) + 1)) - numbers
    return not missing, f"{len(numbers)} messages, {len(missing)} missing"
