"""What is too large or never comes whole, and the addresses of a name: what iotd itself refuses ends no line."""

from __future__ import annotations

import random
import socket
import ssl
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from tests.faults import packets
from tests.faults.advisor import SOON_S, acknowledged, complete, published, subscribed
from tests.faults.broker import Broker, Connection, Ended
from tests.faults.lab import BROKER, BYTES, LINE, TOPIC, TRIGGER, Bench, Verdict, case, judged
from tests.faults.lines import Resolver, came, resolved_by
from tests.faults.packets import PINGREQ, PUBLISH, SUBSCRIBE

LARGEST = 268_435_455  # the remaining length that MQTT ends at


def subscribed_line(bench: Bench, **settings: Any) -> tuple[Broker, Connection]:
    """Return a broker and the first line of a device, once its filters are granted."""
    broker = bench.broker()
    bench.device(broker, **settings)
    connection = broker.next(SOON_S)
    connection.serve(subscribed(), SOON_S)
    return broker, connection


@case("Message of 1.2 MB", "acknowledged, named once with topic and size; the line stays, no message is lost", BYTES)
def too_large(bench: Bench) -> Verdict:
    """1.2 MB come twice at QoS 1 and once at QoS 0 on the subscribed topic, and a small message behind them."""
    broker, connection = subscribed_line(bench)
    for qos, identifier in ((1, 5), (1, 6), (0, 0)):
        connection.send(packets.publish(TRIGGER, bytes(1_200_000), qos, identifier, retain=identifier == 6))
        if qos:
            connection.serve(acknowledged(identifier), SOON_S)
    connection.send(packets.publish(TRIGGER, b"small", qos=1, identifier=7))
    connection.serve(acknowledged(7), SOON_S)
    connection.serve(came(connection, 5), SOON_S)
    named = [(line["topic"], line["bytes"]) for line in bench.devices[0].said("message.passed_over")]
    holds, seen = complete(broker)
    return judged(holds and named == [(TRIGGER, 1_200_000)] and len(broker.connections) == 1, f"{named}; {seen}")


@case("Packet of 256 MB", "acknowledged, named with topic and size; the line stays, memory stays below 100 MB", BYTES)
def largest(bench: Bench) -> Verdict:
    """A PUBLISH at QoS 1 of 268,435,455 bytes comes whole."""
    broker, connection = subscribed_line(bench)
    head = b"\x32" + packets.length(LARGEST) + packets.publish(TRIGGER, b"", qos=1, identifier=5)[2:]
    piece, left = bytes(1 << 20), LARGEST - (len(head) - 5)
    connection.send(head)
    while left:
        connection.send(piece[:left])
        left -= len(piece[:left])
    connection.serve(acknowledged(5), SOON_S)
    connection.serve(came(connection, 3), SOON_S)
    device = bench.devices[0]
    peak = int(next(line for line in Path(f"/proc/{device.pid}/status").read_text().splitlines()
                    if line.startswith("VmHWM")).split()[1]) // 1024
    named = device.wait_for("message.passed_over", SOON_S)
    return judged(named is not None and len(broker.connections) == 1 and peak < 100, f"{peak} MB at most")


@case("Large message on a slow line", "acknowledged; the line stays, and nothing is sent twice meanwhile", BYTES)
def slow(bench: Bench) -> Verdict:
    """1.2 MB come at QoS 1 within 24 s, longer than a dead line is waited for. Keep-alive 5 s."""
    broker, connection = subscribed_line(bench, mqtt={"keepalive": "5s"})
    data = packets.publish(TRIGGER, bytes(1_200_000), qos=1, identifier=5)
    heard, began_at = len(connection.packets), time.monotonic()
    for start in range(0, len(data), 10_000):
        connection.serve_for(0.2, mute=(PINGREQ, PUBLISH))
        connection.send(data[start:start + 10_000])
    took_s = time.monotonic() - began_at
    meanwhile = connection.packets[heard:]
    for packet in meanwhile:
        connection.answer(packet)
    connection.serve(acknowledged(5), SOON_S)
    connection.serve(came(connection, len(connection.publishes(TOPIC)) + 3), SOON_S)
    repeated = sum(entry.duplicate for entry in connection.publishes())
    holds, seen = complete(broker)
    return judged(holds and len(broker.connections) == 1 and not repeated,
                  f"came within {took_s:.0f} s, {repeated} repeated; {seen}")


@case("Packet that never comes whole", "dropped within 1.5 keep-alives + 10 s, connected again, every sequence number "
      "arrives", BYTES)
def unfinished(bench: Bench) -> Verdict:
    """A PUBLISH announces 800 KB, and PINGRESP comes ten times a second instead. Keep-alive 5 s."""
    broker, connection = subscribed_line(bench, mqtt={"keepalive": "5s"})
    began_at = time.monotonic()
    with suppress(Ended):
        connection.send(b"\x30" + packets.length(800_000) + b"\x00\x05")
        while time.monotonic() < began_at + 30:
            connection.send(packets.pingresp())
            bench.wait(0.1)
    took_s = time.monotonic() - began_at
    line = bench.devices[0].wait_for("session.disconnected", SOON_S)
    after = broker.next(SOON_S)
    after.serve(came(after, 5), SOON_S)
    holds, seen = complete(broker)
    return judged(holds and line is not None and line["cause"] == "silent" and took_s <= 1.5 * 5 + 10.5,
                  f"dropped after {took_s:.1f} s; {seen}")


@case("Four of five addresses are black holes", "connected within 10 s, over TLS as the name without its last dot",
      LINE)
def black_holes(bench: Bench) -> Verdict:
    """The name of the broker, written with the dot that ends it, has five addresses; of four no SYN is answered."""
    server = bench.certificates.issue("broker", ["DNS:broker.example.net"])
    broker = bench.broker(bench.certificates.context(server))
    addresses = [f"127.{random.randrange(1, 255)}.{random.randrange(256)}.{random.randrange(1, 255)}"
                 for _ in range(4)]
    for address in addresses:
        hole = bench.keep(socket.create_server((address, broker.port), backlog=0))
        bench.keep(socket.create_connection(hole.getsockname()))
    resolver = bench.keep(Resolver([*addresses, "127.0.0.1"]))
    resolver.answers = True
    began_at = time.monotonic()
    bench.device(broker, resolved_by(bench, resolver), mqtt={"host": "broker.example.net."})
    connection = broker.next(SOON_S)
    took_s = connection.opened_at - began_at
    connection.serve(published(), SOON_S)
    return judged(took_s <= 11 and not bench.devices[0].said("session.connect_failed"), f"after {took_s:.1f} s")


@case("Certificate of the device unknown", "logged once, with cause tls and as what it is", LINE)
def client_unknown(bench: Bench) -> Verdict:
    """The broker does not know the authority of the device's certificate, which TLS 1.3 tells after the handshake."""
    own = bench.certificates.issue("fault-lab", stranger=True)
    broker = bench.broker(bench.certificates.context())
    device = bench.device(broker, mqtt={"backoff": {"first": "1s", "max": "1s"}, "tls": {
        "ca": str(bench.certificates.trusted.root), "cert": str(own.cert), "key": str(own.key)}})
    for _ in range(8):
        connection = broker.accept(SOON_S)
        with suppress(ssl.SSLError, OSError):
            connection.secure(bench.certificates.context(), SOON_S)
        connection.close()
    told = [(line["cause"], line["reason"]) for line in device.said("session.connect_failed")]
    return judged(len(told) == 1 and told[0][0] == "tls" and "this device's certificate" in told[0][1], f"{told}")


@case("Quality of service granted lower", "told once, the line stays", BROKER)
def downgraded(bench: Bench) -> Verdict:
    """The filter is granted QoS 0 on two lines, after it was asked for QoS 1."""
    broker = bench.broker()
    device = bench.device(broker)
    for _ in range(2):
        connection = broker.next(SOON_S)
        packet = connection.serve(subscribed(TRIGGER), SOON_S, mute=(SUBSCRIBE,))
        connection.send(packets.suback(packet.identifier, [0 if name == TRIGGER else qos
                                                           for name, qos in packets.filters(packet)]))
        connection.serve(came(connection, 2), SOON_S)
        connection.close()
    told = [(line["filter"], line["asked"], line["granted"]) for line in device.said("subscription.downgraded")]
    return judged(told == [(TRIGGER, 1, 0)], f"{told}")
