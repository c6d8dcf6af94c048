"""The way through a scripted HTTP proxy to a real mosquitto, and what every other answer of a proxy is told as."""

from __future__ import annotations

import select
import socket
import subprocess
import sys
import time
from base64 import b64encode
from pathlib import Path
from typing import Any, Iterator

import pytest

from iotd.mqtt.addresses import HasFileno
from iotd.mqtt.proxy import MAX_ANSWER_BYTES, judge, tunnel
from iotd.mqtt.settings import Proxy
from iotd.mqtt.stream import StreamError
from iotd.vocabulary import Dialled, Down
from tests.certificates import Certificates, make_certificates
from tests.connect_proxy import ESTABLISHED, ConnectProxy
from tests.mosquitto import Mosquitto
from tests.mqtt.held import Held

SECRET = "proxy-geheimnis: ü "
AUTHORIZATION = b"Proxy-Authorization: Basic " + b64encode(f"u:{SECRET}".encode()) + b"\r\n"


@pytest.fixture
def password_file(tmp_path: Path) -> str:
    (tmp_path / "password").write_text(f"{SECRET}\n", "utf-8")
    return str(tmp_path / "password")


@pytest.fixture
def named(tmp_path: Path) -> Iterator[tuple[Mosquitto, Certificates]]:
    """A broker whose certificate has a name that no name server knows."""
    certificates = make_certificates(tmp_path / "named", names=("DNS:broker.invalid",))
    (tmp_path / "named-broker").mkdir()
    with Mosquitto(tmp_path / "named-broker", certificates) as broker:
        yield broker, certificates


def at(proxy: ConnectProxy, **login: Any) -> Proxy:
    return Proxy(proxy.host, proxy.port, **login)


def test_the_way_leads_through_the_proxy_whose_the_brokers_name_is_to_look_up(
    held: Held, named: tuple[Mosquitto, Certificates], password_file: str
) -> None:
    broker, certificates = named
    with ConnectProxy({"broker.invalid": broker.port}, lambda request: (
            ESTABLISHED if AUTHORIZATION in request else b"HTTP/1.1 407 No\r\n\r\n")) as proxy:
        held.dial(broker, certificates, host="broker.invalid", port=8883,
                  proxy=at(proxy, username="u", password_file=password_file))
        assert held.next(Dialled) == Dialled(1, False)
        held.session.hang_up(1)
        assert held.next(Down).cause == "asked"
    assert proxy.requests == [b"CONNECT broker.invalid:8883 HTTP/1.1\r\nHost: broker.invalid:8883\r\n"
                              + AUTHORIZATION + b"\r\n"]


def test_the_certificate_is_verified_behind_a_proxy_all_the_same(
    held: Held, named: tuple[Mosquitto, Certificates]
) -> None:
    broker, certificates = named
    with ConnectProxy({"other.invalid": broker.port}) as proxy:
        held.dial(broker, certificates, host="other.invalid", proxy=at(proxy))
        down = held.next(Down)
    assert (down.cause, "mismatch" in down.reason) == ("certificate", True)


def test_a_plain_line_without_a_login_passes_too_and_an_address_has_its_brackets(
    held: Held, plain_broker: Mosquitto
) -> None:
    with ConnectProxy({"[::1]": plain_broker.port}) as proxy:
        held.dial(plain_broker, None, host="::1", proxy=at(proxy))
        held.next(Dialled)
    assert proxy.requests[0].startswith(b"CONNECT [::1]:") and b"Authorization" not in proxy.requests[0]


def test_what_the_broker_says_right_behind_the_answer_is_the_brokers(held: Held) -> None:
    """A broker that speaks first is none of MQTT; but no byte behind the head may be the proxy's."""
    with ConnectProxy(answer=lambda request: b"HTTP/1.0 200 OK\r\nVia: x\r\n\r\n\x20\x02\x00\x04") as proxy:
        held.dial(Mosquitto(Path("/none"), port=1883), None, proxy=at(proxy))
        assert held.next(Down).cause == "refused"


@pytest.mark.parametrize("answer, words", [
    (b"HTTP/1.1 407 x\r\nProxy-Authenticate: Basic realm=x\r\n\r\n", "does not accept the user 'u'; look at mqtt"),
    (b"HTTP/1.1 407 x\r\nProxy-Authenticate: NTLM\r\n\r\n", "asks for authentication by NTLM, and iotd knows Basic al"),
    (b"HTTP/1.1 403 x\r\n\r\n", "does not allow a tunnel to broker.invalid:"),
    (b"HTTP/1.1 503 x\r\n\r\n", "does not reach broker.invalid:"),
    (b"HTTP/1.1 302 x\r\n\r\n", "opens no tunnel to broker.invalid:"),
    (b"SSH-2.0-x\r\n\r\n", "answers no HTTP"),
    (b"", "closed the connection instead of an answer"),
    (b"HTTP/1.1 200 OK\r\n", "closed the connection instead of an answer"),
    (b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * MAX_ANSWER_BYTES, f"answers more than {MAX_ANSWER_BYTES} bytes"),
])
def test_what_goes_wrong_at_the_proxy_names_it(held: Held, password_file: str, answer: bytes, words: str) -> None:
    with ConnectProxy(answer=lambda request: answer) as proxy:
        held.dial(Mosquitto(Path("/none"), port=8883), None, host="broker.invalid",
                  proxy=at(proxy, username="u", password_file=password_file))
        down = held.next(Down)
    assert (down.cause, down.was_up) == ("proxy", False)
    assert down.reason.startswith(f"the proxy 127.0.0.1 port {proxy.port} {words}")
    assert SECRET.strip() not in down.reason


def test_a_proxy_that_repeats_what_it_was_sent_puts_nothing_of_it_into_a_reason() -> None:
    """Its own words are its own; a careless one has the header in them."""
    for code in (b"407", b"400", b"502", b"999"):
        told = judge(b"HTTP/1.1 " + code + b" " + AUTHORIZATION + b"\r\n\r\n", "broker:8883", "u")
        assert told and AUTHORIZATION.split()[-1].decode() not in told
    assert judge(b"HTTP/1.1 407\r\n\r\n", "b:1", None) == (
        "asks for a user name; write mqtt.proxy.username and mqtt.proxy.password_file "
        "(407 Proxy Authentication Required)")


def test_a_proxy_that_is_not_there_or_has_no_name_is_the_proxys_fault(held: Held) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    broker = Mosquitto(Path("/none"), port=8883)
    held.dial(broker, None, proxy=Proxy("127.0.0.1", port))
    assert held.next(Down) == Down(1, "proxy", f"the proxy 127.0.0.1 port {port} is not reached: "
                                               f"127.0.0.1 port {port}: connection refused", False)
    held.dial(broker, None, 2, proxy=Proxy("proxy.invalid", 3128))
    down = held.next(Down)
    assert (down.cause, "proxy.invalid port 3128 is not reached: the name" in down.reason) == ("proxy", True)


def test_a_proxy_without_its_password_is_not_even_asked(held: Held, tmp_path: Path) -> None:
    with ConnectProxy() as proxy:
        held.dial(Mosquitto(Path("/none"), port=8883), None,
                  proxy=at(proxy, username="u", password_file=str(tmp_path / "none")))
        down = held.next(Down)
    assert (down.cause, "does not exist" in down.reason, proxy.requests) == ("proxy", True, [])


def test_a_proxy_has_ten_seconds_for_its_answer() -> None:
    deadlines = []

    def wait(what: HasFileno, events: int, deadline: float) -> bool:
        deadlines.append(deadline - time.monotonic())
        return events == select.POLLIN and not isinstance(what, socket.socket)  # connected, and then no word

    with socket.create_server(("127.0.0.1", 0)) as silent:
        with pytest.raises(StreamError) as caught:
            tunnel(Proxy(*silent.getsockname()), "broker", 1883, wait)
    assert (caught.value.cause, "gave no answer within 10 s" in str(caught.value)) == ("proxy", True)
    assert 9.0 < deadlines[-1] <= 10.0


def test_who_has_no_proxy_does_not_load_it() -> None:
    script = "import sys, iotd.mqtt.session; print('iotd.mqtt.proxy' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=30,
                          cwd=Path(__file__).parents[2])
    assert done.stdout == "False\n", done.stderr


def test_a_proxy_that_never_answers_can_be_hung_up_on(held: Held) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        host, port = silent.getsockname()
        held.dial(Mosquitto(Path("/none"), port=8883), None, proxy=Proxy(host, port))
        with silent.accept()[0] as peer:
            assert peer.recv(4096).startswith(b"CONNECT ")
            held.session.hang_up(1)
            assert held.next(Down).cause == "asked"
