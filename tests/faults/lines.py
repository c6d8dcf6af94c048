"""What Device Advisor does not ask, and a line or a broker does all the same."""

from __future__ import annotations

import json
import os
import random
import socket
import ssl
import threading
import time
from collections import Counter
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from types import TracebackType
from typing import Any, Callable, Sequence

from tests.certificates import LOOPBACK
from tests.connect_proxy import ConnectProxy
from tests.faults import backoff, hello, packets
from tests.faults.advisor import LATE_S, SOON_S, acknowledged, complete, number, published, subscribed
from tests.faults.broker import Broker, Connection, Ended, Silence
from tests.faults.lab import BROKER, BYTES, LINE, PRESENCE, TOPIC, TRIGGER, Bench, Verdict, case, failed, judged, passed
from tests.faults.packets import PINGREQ, PUBLISH, SUBSCRIBE, Connect, Packet, Publish

TLS_S = 20.0
DNS_S = 10.0
FAST = [{"topic": TOPIC, "every": "100ms", "payload": {"n": "{sequence}"}}]


def came(connection: Connection, count: int) -> Callable[[Packet], bool]:
    """Until so many messages have come on TOPIC in this connection."""
    return lambda packet: published()(packet) and len(connection.publishes(TOPIC)) >= count


# The line.

@case("Half-open line", "dropped within 1.5 keep-alives + 10 s, connected again, every sequence number arrives", LINE)
def half_open(bench: Bench) -> Verdict:
    """The peer reads nothing more and says nothing more, and never closes. Keep-alive 6 s."""
    broker = bench.broker()
    device = bench.device(broker, publish=FAST, mqtt={"keepalive": "6s"})
    connection = broker.next(SOON_S)
    last_at = connection.serve(came(connection, 20), SOON_S).at
    line = device.wait_for("session.disconnected", 1.5 * 6 + 10 + LATE_S)
    took_s = time.monotonic() - last_at
    if line is None:
        return failed(f"still connected after {took_s:.1f} s")
    after = broker.next(SOON_S)
    after.serve(came(after, 150), SOON_S)
    holds, seen = complete(broker)
    return judged(holds and took_s <= 1.5 * 6 + 10.5, f"dropped after {took_s:.1f} s ({line['cause']}); {seen}")


@case("Line that takes no bytes", "dropped within 1.5 keep-alives + 10 s, connected again", LINE)
def zero_window(bench: Bench) -> Verdict:
    """The peer stops reading while 100 KB messages come every 100 ms: the socket is full. Keep-alive 6 s."""
    broker = bench.broker()
    device = bench.device(broker, mqtt={"keepalive": "6s"}, publish=[
        {"topic": TOPIC, "every": "100ms", "payload": {"n": "{sequence}", "text": "x" * 100_000}}])
    last_at = broker.next(SOON_S).serve(published(), SOON_S).at
    line = device.wait_for("session.disconnected", 1.5 * 6 + 10 + LATE_S)
    took_s = time.monotonic() - last_at
    broker.next(SOON_S)
    return judged(line is not None and took_s <= 1.5 * 6 + 10.5, f"dropped after {took_s:.1f} s")


@case("Idle line, PINGRESP never", "dropped within a keep-alive + 10 s", LINE)
def no_pingresp(bench: Bench) -> Verdict:
    """Nothing to publish, everything answered but PINGREQ. Keep-alive 5 s."""
    broker = bench.broker()
    bench.device(broker, publish=[], mqtt={"keepalive": "5s"})
    connection = broker.next(SOON_S)
    connection.until_ended(30, mute=(PINGREQ,))
    last = connection.packets[-1]
    took_s = (connection.ended_at or 0.0) - connection.packets[-2].at
    return judged(last.kind == PINGREQ and took_s <= 5 + 10 + 0.5, f"dropped {took_s:.1f} s after the last answer")


@case("Idle line, all well", "PINGREQ comes within every keep-alive, and the line stays", LINE)
def idle(bench: Bench) -> Verdict:
    """Nothing to publish, everything answered, for four keep-alives of 5 s."""
    broker = bench.broker()
    bench.device(broker, publish=[], mqtt={"keepalive": "5s"})
    connection = broker.next(SOON_S)
    connection.serve_for(20)
    moments = [packet.at for packet in connection.packets] + [time.monotonic()]
    gap_s = max(after - before for before, after in zip(moments, moments[1:]))
    return judged(gap_s <= 5 * 1.5, f"at most {gap_s:.1f} s of silence, {len(moments) - 1} packets")


@case("TLS that stalls at once", "given up within 20 s, and tried again", LINE)
def tls_silent(bench: Bench) -> Verdict:
    """The connection is accepted and the ClientHello never answered."""
    broker = bench.broker(bench.certificates.context())
    device = bench.device(broker)
    first = broker.accept(SOON_S)
    line = device.wait_for("session.connect_failed", TLS_S + LATE_S)
    took_s = time.monotonic() - first.opened_at
    broker.next(SOON_S).serve(published(), SOON_S)
    return judged(line is not None and line["cause"] == "tls" and took_s <= TLS_S + 1.5,
                  f"given up after {took_s:.1f} s")


@case("TLS that stalls half-way", "given up within 20 s although bytes keep coming, and tried again", LINE)
def tls_slow(bench: Bench) -> Verdict:
    """The ClientHello is answered by one byte a second of a record that never ends."""
    broker = bench.broker(bench.certificates.context())
    device = bench.device(broker)
    first = broker.accept(SOON_S)
    first.send(b"\x16\x03\x03\x3f\x00\x02\x00\x3e\xfc\x03\x03")
    with suppress(Ended):
        while time.monotonic() < first.opened_at + TLS_S + LATE_S:
            bench.wait(1)
            first.send(b"x")
            if device.said("session.connect_failed"):
                break
    took_s = time.monotonic() - first.opened_at
    failures = device.said("session.connect_failed")
    broker.next(SOON_S).serve(published(), SOON_S)
    return judged(bool(failures) and took_s <= TLS_S + 2.5, f"given up after {took_s:.1f} s")


@case("Name server that never answers", "given up within 10 s and named; connected once it answers", LINE)
def dns_hangs(bench: Bench) -> Verdict:
    """The resolver of the device is a socket that takes every question and answers none, later all of them."""
    broker = bench.broker()
    resolver = bench.keep(Resolver())
    device = bench.device(broker, resolved_by(bench, resolver), mqtt={"host": "broker.example.net"})
    started_at = time.monotonic()
    line = device.wait_for("session.connect_failed", DNS_S + 5)
    took_s = time.monotonic() - started_at
    resolver.answers = True
    broker.next(2 * SOON_S).serve(published(), SOON_S)
    return judged(line is not None and line["cause"] == "dns" and took_s <= DNS_S + 2,
                  f"given up after {took_s:.1f} s: {line and line['reason']}")


def resolved_by(bench: Bench, resolver: Resolver) -> list[str]:
    """Return the command before iotd that gives it this name server."""
    configured = bench.directory / "resolv.conf"
    configured.write_text(f"nameserver {resolver.address}\noptions timeout:3 attempts:5\n")
    return ["unshare", *([] if os.geteuid() == 0 else ["-r"]), "--mount", "sh", "-c",
            f'mount --bind "{configured}" /etc/resolv.conf && exec "$0" "$@"']


class Resolver:
    """A name server on port 53 of a loopback address of its own; it gives these addresses to everything, or nothing."""

    def __init__(self, addresses: Sequence[str] = ("127.0.0.1",)) -> None:
        self.answers = False
        self._addresses = addresses
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.address = f"127.{random.randrange(1, 255)}.{random.randrange(256)}.{random.randrange(1, 255)}"
        self._socket.bind((self.address, 53))
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def __enter__(self) -> Resolver:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as last_word:
            last_word.sendto(b"", (self.address, 53))
        self._thread.join()
        self._socket.close()

    def _run(self) -> None:
        with suppress(OSError):
            while True:
                question, client = self._socket.recvfrom(512)
                if not question:
                    return
                if self.answers:
                    self._socket.sendto(_answer(question, self._addresses), client)


def _answer(question: bytes, addresses: Sequence[str]) -> bytes:
    """Return the DNS response (RFC 1035, 4.1) that gives these for an A question, and nothing for another."""
    end = question.index(b"\0", 12) + 5
    records = [b"\xc0\x0c\0\1\0\1\0\0\0\1\0\4" + socket.inet_aton(address) for address in addresses
               if question[end - 4:end - 2] == b"\0\1"]
    counts = b"\0\1" + len(records).to_bytes(2, "big") + b"\0\0\0\0"
    return question[:2] + b"\x84\0" + counts + question[12:end] + b"".join(records)


@case("Certificate of the broker not yet valid", "refused by an alert, named as a matter of validity, and tried again "
      "without a growing pause where the clock is not set", LINE)
def not_yet_valid(bench: Bench) -> Verdict:
    """The clock of the device lies a year behind the broker's certificate; then the certificate is mended."""
    early = bench.certificates.issue("early", LOOPBACK, starts=timedelta(days=365), ends=timedelta(days=730))
    broker = bench.broker(bench.certificates.context())
    device = bench.device(broker)
    alert = ""
    try:
        broker.accept(SOON_S).secure(bench.certificates.context(early), SOON_S)
    except ssl.SSLError as error:
        alert = error.reason or ""
    line = device.wait_for("session.connect_failed", SOON_S)
    broker.next(SOON_S).serve(published(), SOON_S)
    return judged("ALERT" in alert and line is not None and "not yet valid" in line["reason"]
                  and line["cause"] in ("clock", "certificate"), f"{alert}; {line and line['reason']}")


@case("Certificate of the device expired", "the log names the certificate and the date; dialled again with backoff",
      LINE)
def client_expired(bench: Bench) -> Verdict:
    """The device's own certificate expired yesterday, and the broker refuses it."""
    own = bench.certificates.issue("fault-lab", starts=timedelta(days=-30), ends=timedelta(days=-1))
    broker = bench.broker(bench.certificates.context())
    device = bench.device(broker, mqtt={"tls": {
        "ca": str(bench.certificates.trusted.root), "cert": str(own.cert), "key": str(own.key)}})
    refused_at, pauses = time.monotonic(), []
    for attempt in range(3):
        connection = broker.accept(SOON_S)
        pauses.append(connection.opened_at - refused_at)
        with suppress(ssl.SSLError, OSError):
            connection.secure(bench.certificates.context(), SOON_S)
            return failed("the broker took it")
        refused_at = time.monotonic()
        connection.close()
    named = [line for line in device.lines if line["level"] in ("warning", "error")
             and "expired" in json.dumps(line, ensure_ascii=False)]
    return judged(bool(named) and min(pauses[1:]) >= 0.98, named[0]["message"] if named else "the log does not name it")


@case("Port 443", "the ClientHello asks AWS for the protocol x-amzn-mqtt-ca, any other broker for none", LINE)
def alpn(bench: Bench) -> Verdict:
    """The broker is on port 443 of a name of AWS, and of another, behind a scripted proxy."""
    own = bench.certificates.client
    offers = []
    for name in ("a1b2-ats.iot.eu-central-1.amazonaws.com", "broker.invalid"):
        with socket.create_server(("127.0.0.1", 0)) as listener, \
                ConnectProxy({name: listener.getsockname()[1]}) as proxy:
            bench.device(bench.broker(), mqtt={
                "host": name, "port": 443, "proxy": {"host": proxy.host, "port": proxy.port}, "tls": {
                    "ca": str(bench.certificates.trusted.root), "cert": str(own.cert), "key": str(own.key)}})
            listener.settimeout(SOON_S)
            with listener.accept()[0] as sock:
                offers.append(hello.read(Connection(sock).peek(SOON_S)).protocols)
    return judged(offers == [("x-amzn-mqtt-ca",), ()], f"asked for {offers}")


# The broker.

@case("Late will of an older session", "Connected is said again within 5 s, with the id of this session, retained",
      BROKER)
def late_will(bench: Bench) -> Verdict:
    """The will of the connection before arrives after Connected of this one."""
    broker = bench.broker()
    bench.device(broker)
    connection = broker.next(SOON_S)
    will = Connect.read(connection.packets[0]).will_payload
    connection.serve(subscribed(PRESENCE), SOON_S)
    connection.serve(published(), SOON_S)
    connection.close()
    connection = broker.next(SOON_S)
    session = json.loads(Connect.read(connection.packets[0]).will_payload)["session"]
    connection.serve(published(PRESENCE), SOON_S)
    connection.serve(subscribed(PRESENCE), SOON_S)
    connection.send(packets.publish(PRESENCE, will, qos=1, identifier=3))
    sent_at = time.monotonic()
    packet = connection.serve(published(PRESENCE), 5)
    said = Publish.read(packet)
    body = json.loads(said.payload)
    return judged(body["status"] == "Connected" and body["session"] == session and said.retain and said.qos == 1,
                  f"{body['status']} after {packet.at - sent_at:.1f} s")


@case("Subscription refused", "named with filter and code 128; the line stays, everything else goes on", BROKER)
def suback_refused(bench: Bench) -> Verdict:
    """One of three filters gets 0x80 in its SUBACK."""
    broker = bench.broker()
    device = bench.device(broker, subscribe=[{"topic": TRIGGER}, {"topic": "lab/denied"}])
    connection = broker.next(SOON_S)
    packet = connection.serve(subscribed("lab/denied"), SOON_S, mute=(SUBSCRIBE,))
    connection.send(packets.suback(packet.identifier, [
        0x80 if name == "lab/denied" else qos for name, qos in packets.filters(packet)]))
    line = device.wait_for("subscription.refused", SOON_S)
    connection.serve_for(4)
    asked = sum(subscribed("lab/denied")(packet) for packet in connection.packets)
    return judged(line is not None and line["filter"] == "lab/denied" and line["code"] == 128 and asked == 1,
                  f"named, asked for {asked} times")


def closing(bench: Bench, broker: Broker, poison: Callable[[Packet], bool], until: Callable[[], bool],
            within_s: float) -> int:
    """Serve, and close the line over every packet that is poison, until it is enough; return how often it was."""
    closed = 0
    deadline = time.monotonic() + within_s
    connection = broker.next(SOON_S)
    while not until():
        left_s = deadline - time.monotonic()
        if left_s <= 0:
            raise Silence(f"not enough after {within_s:g} s and {closed} closed lines")
        try:
            packet = connection.read_packet(min(left_s, 0.5))
        except Silence:
            continue
        if poison(packet):
            closed += 1
            connection.close()
            connection = broker.next(left_s)
        else:
            connection.answer(packet)
    return closed


@case("Poison message", "set aside and named after it brought the line down; every other message arrives", BROKER)
def poison(bench: Bench) -> Verdict:
    """The broker closes the line whenever the third message comes."""
    broker = bench.broker()
    device = bench.device(broker, publish=[{"topic": TOPIC, "every": "300ms", "payload": {"n": "{sequence}"}}])

    def seen() -> set[int]:
        return {json.loads(entry.payload)["n"] for connection in broker.connections
                for entry in connection.acknowledged(TOPIC)}
    closed = closing(bench, broker, lambda packet: published()(packet) and number(packet) == 3,
                     lambda: len(seen()) >= 40, 90)
    missing = set(range(1, max(seen()) + 1)) - seen()
    named = device.said("publish.set_aside")
    # Two lines as usual, then by turns a careful one, on which it is tried alone, and one as usual.
    return judged(len(named) == 1 and missing == {3} and closed <= 5,
                  f"named {len(named)} times after {closed} closed lines; missing {sorted(missing)}")


@case("Denied topic", "named after three closed lines and given a rest; the messages of other topics arrive", BROKER)
def denied(bench: Bench) -> Verdict:
    """The broker closes the line over every message of one topic, as AWS IoT does where the policy denies it."""
    broker = bench.broker()
    device = bench.device(broker, publish=[
        {"topic": TOPIC, "every": "300ms", "payload": {"n": "{sequence}"}},
        {"topic": "lab/denied", "every": "300ms", "payload": {"n": "{sequence}"}}])
    closed = closing(bench, broker, published("lab/denied"),
                     lambda: bool(device.said("publish.denied"))
                     and len(broker.connections[-1].acknowledged(TOPIC)) > 30, 120)
    named = device.said("publish.denied")
    holds, seen = complete(broker)
    aside = device.said("publish.set_aside")
    return judged(holds and named[0]["topic"] == "lab/denied",
                  f"named after {closed} closed lines, {len(aside)} set aside; {seen} of the other topic")


@case("Denied subscription", "the filter is named and left out; everything else goes on", BROKER)
def denied_subscription(bench: Bench) -> Verdict:
    """The broker closes the line over a SUBSCRIBE of one filter, as AWS IoT does where the policy denies it."""
    broker = bench.broker()
    device = bench.device(broker, subscribe=[{"topic": TRIGGER}, {"topic": "lab/denied"}])

    def up() -> bool:
        last = broker.connections[-1]
        return bool(device.said("session.denied")) and len(last.acknowledged(TOPIC)) > 3 and \
            any(subscribed(TRIGGER)(packet) for packet in last.packets)
    closed = closing(bench, broker, subscribed("lab/denied"), up, 100)
    named = [line for line in device.lines if line["level"] == "warning" and "lab/denied" in json.dumps(line)]
    return judged(bool(named), f"{'' if named else 'not '}named after {closed} closed lines")


@case("Denied shadow", "the shadow is named and rests; the scheduled messages arrive", BROKER)
def denied_shadow(bench: Bench) -> Verdict:
    """The broker closes the line over every request to a shadow, as AWS IoT does where the policy denies it."""
    broker = bench.broker()
    device = bench.device(broker, shadows=[{"name": "a", "every": "5s", "reported": {"state": "{health}"}}])

    def named() -> list[dict[str, Any]]:
        return device.said("session.denied")

    def shadowed(packet: Packet) -> bool:
        return packet.kind == PUBLISH and "/shadow/" in Publish.read(packet).topic
    closed = closing(bench, broker, shadowed,
                     lambda: bool(named()) and len(broker.connections[-1].acknowledged(TOPIC)) > 15, 240)
    return judged(bool(named()), f"{'' if named() else 'not '}named after {closed} closed lines")


@case("Denied filters of a shadow", "the shadow is named once, after few lines; the scheduled messages arrive", BROKER)
def denied_filters(bench: Bench) -> Verdict:
    """The broker closes the line over a SUBSCRIBE with any filter of a shadow, as AWS IoT does."""
    broker = bench.broker()
    device = bench.device(broker, shadows=[{"name": "a", "every": "5s", "reported": {"state": "{health}"}}])

    def shadowed(packet: Packet) -> bool:
        return packet.kind == SUBSCRIBE and any("/shadow/" in name for name, _ in packets.filters(packet))
    closed = closing(bench, broker, shadowed,
                     lambda: bool(device.said("session.denied"))
                     and len(broker.connections[-1].acknowledged(TOPIC)) > 15, 120)
    named = [line["action"] for line in device.said("session.denied")]
    return judged(named == ["shadow a"] and closed <= 4, f"{named} named after {closed} closed lines")


@case("Subscription refused and the line closed", "named, and asked for once in four lines; everything else goes on",
      BROKER)
def suback_refused_and_closed(bench: Bench) -> Verdict:
    """One of three filters gets 0x80 in its SUBACK, and the line is closed as well, as RabbitMQ 4 does."""
    broker = bench.broker()
    device = bench.device(broker, subscribe=[{"topic": TRIGGER}, {"topic": "lab/denied"}])
    asked = 0
    for _ in range(4):
        connection = broker.next(SOON_S)
        with suppress(Silence):
            packet = connection.serve(subscribed("lab/denied"), 5, mute=(SUBSCRIBE,))
            asked += 1
            connection.send(packets.suback(packet.identifier, [
                0x80 if name == "lab/denied" else qos for name, qos in packets.filters(packet)]))
        connection.close()
    connection = broker.next(SOON_S)
    connection.serve(came(connection, 5), SOON_S)
    refused = device.said("subscription.refused")
    return judged(asked == len(refused) == 1 and not device.said("session.contested"),
                  f"asked for {asked} times, named {len(refused)} times")


@case("Message that is never acknowledged", "set aside and named when all repeats are spent for the second time; never "
      "more than a quarter of the places are its topic's, and all of another topic arrive", BROKER, slow=True)
def never_acknowledged(bench: Bench) -> Verdict:
    """No PUBLISH of one topic, four a second, gets its PUBACK; all else is answered."""
    broker = bench.broker()
    device = bench.device(broker, publish=[
        {"topic": TOPIC, "every": "500ms", "payload": {"n": "{sequence}"}},
        {"topic": "lab/mute", "every": "250ms", "payload": {"n": "{sequence}"}}])
    most, deadline = 0, time.monotonic() + 240
    connection = broker.next(SOON_S)
    while not device.said("publish.set_aside") and time.monotonic() < deadline:
        try:
            packet = connection.read_packet(5)
        except Ended:
            connection = broker.next(SOON_S)
            continue
        if not published("lab/mute")(packet):
            connection.answer(packet)
        most = max(most, len({entry.identifier for entry in connection.packets if published("lab/mute")(entry)}))
    named = device.said("publish.set_aside")
    holds, seen = complete(broker)
    told = [line for line in device.said("session.disconnected") if "lab/mute" in line["reason"]]
    return judged(holds and len(named) == 1 and named[0]["topic"] == "lab/mute" and most <= 25 and len(told) == 2,
                  f"{len(named)} named after {len(told)} lines, {most} in flight at most; {seen} of the other topic")


@case("Second device with the same client id", "named as the probable cause, and the pauses grow", BROKER)
def duplicate(bench: Bench) -> Verdict:
    """Every connection is taken away 1.5 s after CONNACK, as AWS IoT does when another client takes the id over."""
    broker = bench.broker()
    device = bench.device(broker, subscribe=[], mqtt={"backoff": {"first": "1s", "max": "8s"}})
    pauses = []
    connection = broker.next(SOON_S)
    for _ in range(7):
        connection.serve_for(1.5)
        connection.close()
        closed_at = time.monotonic()
        connection = broker.next(SOON_S)
        pauses.append(connection.opened_at - closed_at)
    named = [line for line in device.lines if line["level"] == "warning" and "client id" in line["message"]
             + str(line.get("reason"))]
    verdict = backoff.judge(pauses, 1, 8)
    return verdict if verdict.word != "pass" else judged(bool(named), f"{'' if named else 'not '}named; {verdict.seen}")


@case("CONNECT refused", "named with its reason, tried again with backoff", BROKER)
def refused(bench: Bench) -> Verdict:
    """CONNACK with each of the return codes 1 to 5."""
    broker = bench.broker()
    device = bench.device(broker)
    for code in range(1, 6):
        connection = broker.dialled(SOON_S)
        connection.send(packets.connack(code))
        connection.until_ended(5)
    broker.next(SOON_S * 2).serve(published(), SOON_S)
    reasons = {line["reason"] for line in device.said("session.connect_failed") if line["cause"] == "refused"}
    return judged(len(reasons) == 5, f"{len(reasons)} reasons")


@case("Limits of AWS IoT", "never more than 100 unacknowledged, 100 publishes in any second, or a retained one of the "
      "same topic within a second; the retained slot ends at the newest", BROKER)
def limits(bench: Bench) -> Verdict:
    """A backlog of some 300 messages of 30 topics, half of them retained, drains under `limits: aws`; no PUBACK for
    the first 5 s, then one for every message."""
    broker = bench.broker()
    broker.refuse()
    bench.device(broker, mqtt={"limits": "aws", "backoff": {"first": "1s", "max": "2s"}}, publish=[
        *({"topic": f"lab/kept/{number}", "every": "1s", "payload": {"n": "{sequence}"}} for number in range(20)),
        *({"topic": f"lab/event/{number}", "every": "500ms", "retain": False, "payload": {"n": "{sequence}"}}
          for number in range(10))])
    bench.wait(8)
    broker.listen()
    connection = broker.next(SOON_S)
    connection.serve_for(5, mute=(PUBLISH,))
    in_flight = len({packet.identifier for packet in connection.packets if packet.kind == PUBLISH})
    for packet in [packet for packet in connection.packets if packet.kind == PUBLISH and packet.flags & 6]:
        connection.answer(packet)
    kept = Counter[str]()

    def thrice(packet: Packet) -> bool:
        kept.update([entry.topic for entry in [Publish.read(packet)] if entry.retain and "kept" in entry.topic]
                    if packet.kind == PUBLISH else [])
        return len(kept) == 20 and min(kept.values()) >= 3
    connection.serve(thrice, 60)
    sent = [(packet.at, Publish.read(packet)) for packet in connection.packets if packet.kind == PUBLISH]
    rate = max(sum(at <= other < at + 1 for other, _ in sent) for at, _ in sent)
    latest: dict[str, float] = {}
    gap_s = 9.0
    for at, entry in sent:
        if entry.retain and not entry.duplicate:
            gap_s = min(gap_s, at - latest.get(entry.topic, -9.0))
            latest[entry.topic] = at
    # Seen here, where a busy machine may read the first of two late; without its pause it would be half a second.
    return judged(in_flight <= 100 and rate <= 100 and gap_s >= 0.8,
                  f"{in_flight} in flight, at most {rate} a second, a retained topic again after {gap_s:.2f} s")


@case("Retained slot while a backlog drains", "of a topic's backlog the newest alone carries RETAIN", BROKER)
def retained_newest(bench: Bench) -> Verdict:
    """Some 50 retained messages of a topic wait while nobody listens."""
    broker = bench.broker()
    broker.refuse()
    bench.device(broker, publish=FAST, mqtt={"backoff": {"first": "1s", "max": "2s"}})
    bench.wait(5)
    broker.listen()
    connection = broker.next(SOON_S)
    first = number(connection.serve(lambda packet: published()(packet) and Publish.read(packet).retain, SOON_S))
    connection.serve(lambda packet: published()(packet) and number(packet) >= first + 20, SOON_S)
    retained = [json.loads(entry.payload)["n"] for entry in connection.publishes(TOPIC) if entry.retain]
    return judged(first > 20 and retained == sorted(retained), f"{first - 1} went without RETAIN")


# Hostile bytes. The device may drop the line, and must not fall over; then it goes on as if nothing had been.

def hostile(
    bench: Bench, data: bytes, *, may_drop: bool, before_connack: bool = False, tell: str = "", **settings: Any
) -> Verdict:
    """Send these bytes after the SUBSCRIBE (or before CONNACK), and look at the messages that follow."""
    broker = bench.broker()
    device = bench.device(broker, **settings)
    connection = broker.dialled(SOON_S)
    if not before_connack:
        connection.send(packets.connack())
        connection.serve(subscribed(), SOON_S)
    connection.send(data)
    if before_connack:
        with suppress(Ended):
            connection.send(packets.connack())
    dropped = False
    try:
        connection.serve(came(connection, 3), SOON_S)
        with suppress(Silence):
            connection.serve(lambda packet: False, 1)
    except Ended:
        dropped = True
        connection = broker.next(SOON_S)
        connection.serve(came(connection, 3), SOON_S)
    if tell and device.wait_for(tell, 5) is None:
        return failed(f"no {tell} in the log")
    return judged(may_drop or not dropped, "the line was dropped and is up again" if dropped else "nothing happened")


SURVIVES = "the daemon goes on, on the same line or on a new one"
STAYS = "the daemon goes on, on the same line"


@case("PUBLISH before CONNACK", SURVIVES, BYTES)
def early_publish(bench: Bench) -> Verdict:
    """A PUBLISH at QoS 1 comes where CONNACK should."""
    return hostile(bench, packets.publish(TRIGGER, b"{}", qos=1), may_drop=True, before_connack=True)


@case("CONNACK twice", SURVIVES, BYTES)
def connack_twice(bench: Bench) -> Verdict:
    """A second CONNACK comes on an open session."""
    return hostile(bench, packets.connack(), may_drop=True)


@case("CONNACK twice, the second refuses", SURVIVES, BYTES)
def connack_refused_later(bench: Bench) -> Verdict:
    """A second CONNACK comes on an open session, with return code 5."""
    return hostile(bench, packets.connack(5), may_drop=True)


@case("PUBACK and SUBACK of nothing", STAYS, BYTES)
def unknown_acknowledgements(bench: Bench) -> Verdict:
    """PUBACK, SUBACK and UNSUBACK come for packet identifiers that were never sent."""
    return hostile(bench, packets.puback(60_001) + packets.suback(60_002, [0]) + packets.unsuback(60_003),
                   may_drop=False)


@case("Cut acknowledgements", SURVIVES, BYTES)
def short_acknowledgements(bench: Bench) -> Verdict:
    """PUBACK, SUBACK, CONNACK and PUBLISH come with bodies too short to be any."""
    return hostile(bench, b"\x40\x00" b"\x90\x01\x00" b"\x20\x00" b"\x30\x01\x00", may_drop=True)


@case("Length without end", SURVIVES, BYTES)
def endless_length(bench: Bench) -> Verdict:
    """A remaining length of five bytes, which MQTT has not."""
    return hostile(bench, b"\x30\xff\xff\xff\xff\x7f", may_drop=True)


@case("Random bytes", SURVIVES, BYTES)
def noise(bench: Bench) -> Verdict:
    """A thousand random bytes come after SUBSCRIBE, six times others, each on a line of their own."""
    broker = bench.broker()
    bench.device(broker, mqtt={"backoff": {"first": "1s", "max": "1s"}})
    for seed in range(6):
        connection = broker.next(SOON_S)
        with suppress(Ended):
            connection.serve(published(), SOON_S)
            connection.send(random.Random(seed).randbytes(1000))
            connection.serve_for(2)
        connection.close()
    connection = broker.next(SOON_S)
    connection.serve(came(connection, 3), SOON_S)
    return passed("up again after each")


@case("Random bytes before CONNACK", SURVIVES, BYTES)
def early_noise(bench: Bench) -> Verdict:
    """A thousand random bytes come where CONNACK should."""
    return hostile(bench, random.Random(2).randbytes(1000), may_drop=True, before_connack=True)


@case("HTTP", SURVIVES, BYTES)
def http(bench: Bench) -> Verdict:
    """What answers is a web server, as behind the portal of a shop's Wi-Fi."""
    return hostile(bench, b"HTTP/1.1 302 Found\r\nLocation: http://portal/\r\n\r\n", may_drop=True, before_connack=True)


@case("Byte by byte", STAYS, BYTES)
def dribble(bench: Bench) -> Verdict:
    """A PUBLISH at QoS 1 comes in single bytes, 20 ms apart; it is acknowledged."""
    broker = bench.broker()
    bench.device(broker)
    connection = broker.next(SOON_S)
    connection.serve(subscribed(), SOON_S)
    for byte in packets.publish(TRIGGER, b'{"slow": true}', qos=1, identifier=5):
        connection.send(bytes((byte,)))
        bench.wait(0.02)
    connection.serve(acknowledged(5), SOON_S)
    return passed("acknowledged")


@case("Topic that is no UTF-8", SURVIVES, BYTES)
def bad_topic(bench: Bench) -> Verdict:
    """A PUBLISH comes whose topic is no UTF-8."""
    return hostile(bench, packets.publish(b"lab/\xff\xfe", b"{}", qos=1), may_drop=True)


@case("Payload that is no UTF-8", STAYS + "; logged in base64", BYTES)
def bad_payload(bench: Bench) -> Verdict:
    """A PUBLISH comes whose payload is no UTF-8."""
    verdict = hostile(bench, packets.publish(TRIGGER, b"\xff\xfe\x00"), may_drop=False, tell="message.received")
    return judged(verdict.word == "pass" and bool(bench.devices[0].said("message.received")[0].get("payload_base64")),
                  verdict.seen)


@case("Deep JSON", STAYS, BYTES)
def deep(bench: Bench) -> Verdict:
    """60,000 brackets on the subscribed topic, on the presence topic and on every topic of a shadow."""
    payload = b"[" * 60_000 + b"]" * 60_000
    return everywhere(bench, payload)


@case("128 KB everywhere", STAYS, BYTES)
def large(bench: Bench) -> Verdict:
    """128 KB of JSON on the subscribed topic, on the presence topic and on every topic of a shadow."""
    return everywhere(bench, b'{"state": {"a": "' + b"x" * 131_000 + b'"}, "version": 1}')


@case("JSON of the wrong shape", STAYS, BYTES)
def wrong_shape(bench: Bench) -> Verdict:
    """Null, a list, a number and surprises on the subscribed topic, on presence and on every topic of a shadow."""
    surprises = b'{"state": 7, "version": {}, "code": [], "clientToken": {"a": 1}, "status": [], "Hostname": null, ' \
                b'"timestamp": 1e400, "current": "x", "previous": false, "session": {}, "desired": -0.0}'
    worst = passed("")
    for payload in (b"null", b"[1]", b"7", b'"\\ud800"', b"NaN", surprises):
        worst = everywhere(bench, payload)
        if worst.word != "pass":
            return failed(f"{payload[:40]!r}: {worst.seen}")
    return worst


def everywhere(bench: Bench, payload: bytes) -> Verdict:
    """Send the payload on every topic that a device of two shadows has subscribed."""
    names = [PRESENCE, TRIGGER]
    for root in ("$aws/things/fault-lab/shadow", "$aws/things/fault-lab/shadow/name/a"):
        names += [f"{root}/{name}" for name in ("update/accepted", "update/rejected", "update/delta",
                                                "update/documents", "get/accepted", "get/rejected")]
    data = b"".join(packets.publish(name, payload, qos=1, identifier=at) for at, name in enumerate(names, start=1))
    return hostile(bench, data, may_drop=False, tell="message.received",
                   shadows=[{"reported": {"a": 1}}, {"name": "a", "reported": {"a": 1}}])


@case("QoS 2", SURVIVES, BYTES)
def qos_2(bench: Bench) -> Verdict:
    """A PUBLISH at QoS 2 comes, which was never asked for."""
    return hostile(bench, packets.publish(TRIGGER, b"{}", qos=2), may_drop=True)


@case("QoS 3", SURVIVES, BYTES)
def qos_3(bench: Bench) -> Verdict:
    """A PUBLISH at QoS 3 comes, which MQTT has not."""
    return hostile(bench, packets.publish(TRIGGER, b"{}", qos=3), may_drop=True)


@case("A flood of messages", "no message of the device is lost, and its memory stays below 150 MB", BYTES)
def flood(bench: Bench) -> Verdict:
    """20,000 messages of 1 KB come at QoS 1 as fast as the device takes them."""
    broker = bench.broker()
    device = bench.device(broker, publish=FAST)
    connection = broker.next(SOON_S)
    connection.serve(subscribed(), SOON_S)
    data = b"".join(packets.publish(TRIGGER, b"x" * 1000, qos=1, identifier=at) for at in range(1, 101))

    def send() -> None:
        for _ in range(200):
            connection.send(data)
    sender = threading.Thread(target=send, daemon=True)
    sender.start()
    count = 0
    while count < 20_000:
        packet = connection.read_packet(SOON_S)
        count += packet.kind == packets.PUBACK
        connection.answer(packet)
    sender.join()
    connection.serve(came(connection, len(connection.publishes(TOPIC)) + 5), SOON_S)
    peak = int(next(line for line in Path(f"/proc/{device.pid}/status").read_text().splitlines()
                    if line.startswith("VmHWM")).split()[1]) // 1024
    holds, seen = complete(broker)
    return judged(holds and peak < 150, f"{seen}; {peak} MB at most")
