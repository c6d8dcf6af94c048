"""A stream under TLS: which name is verified, and what a broker's last words say of its end."""

from __future__ import annotations

import select
import socket
import ssl
import threading
import time
from contextlib import suppress
from pathlib import Path

import pytest

from iotd.mqtt import credentials
from iotd.mqtt.addresses import HasFileno
from iotd.mqtt.settings import Tls
from iotd.mqtt.stream import Stream, StreamError, secured
from tests.certificates import Certificates, Identity, make_certificates
from tests.mosquitto import Mosquitto


def wait(what: HasFileno, events: int, deadline: float) -> bool:
    poll = select.poll()
    poll.register(what, events)
    return bool(poll.poll(max(0.0, deadline - time.monotonic()) * 1000))


def context_of(certificates: Certificates, own: Identity) -> ssl.SSLContext:
    return credentials.context(Tls(str(certificates.ca), str(own.cert), str(own.key)))


def test_the_dot_that_ends_a_name_is_no_part_of_what_is_verified(
    broker: Mosquitto, certificates: Certificates
) -> None:
    context = context_of(certificates, certificates.client)
    for name in (b"localhost.", b"localhost", b"::1%lo"):
        with secured(socket.create_connection((broker.host, broker.port)), context, name, wait):
            pass
    with pytest.raises(StreamError):
        secured(socket.create_connection((broker.host, broker.port)), context, b"localhost..", wait)


def test_what_the_broker_said_before_it_went_explains_why_nothing_can_be_written(
    certificates: Certificates, tmp_path: Path
) -> None:
    """The alert of TLS 1.3 is here unread while our own words already meet a connection that was reset."""
    broker = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    broker.load_cert_chain(certificates.server.cert, certificates.server.key)
    broker.load_verify_locations(certificates.ca)
    broker.verify_mode = ssl.CERT_REQUIRED
    with socket.create_server(("127.0.0.1", 0)) as server:
        def refuse() -> None:
            with server.accept()[0] as peer, suppress(ssl.SSLError):
                broker.wrap_socket(peer, server_side=True).close()
        thread = threading.Thread(target=refuse)
        thread.start()
        sock = socket.create_connection(server.getsockname())
        sock.setblocking(False)
        line = secured(sock, context_of(certificates, make_certificates(tmp_path / "other").client), b"127.0.0.1", wait)
        thread.join()
    stream = Stream(line)
    for _ in range(3):
        stream.send(b"CONNECT")
        assert stream.flush() is False
        wait(line, select.POLLHUP, time.monotonic() + 0.2)
    with pytest.raises(StreamError) as caught:
        stream.recv(1)
    stream.close()
    assert caught.value.cause == "tls"
    assert "the broker does not accept this device's certificate" in str(caught.value)
