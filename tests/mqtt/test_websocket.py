"""MQTT in websockets: on a real mosquitto, and on a scripted server that does what a broker should not."""

from __future__ import annotations

import socket
import subprocess
import sys
import threading
from contextlib import suppress
from pathlib import Path
from typing import Any, Callable, Iterator

import pytest
from wsproto import ConnectionType, WSConnection
from wsproto.events import AcceptConnection, BytesMessage, CloseConnection, Ping, Pong, Request, TextMessage

from iotd.mqtt.settings import Proxy
from iotd.mqtt.stream import WRITE_BYTES
from iotd.mqtt.websocket import MAX_ANSWER_BYTES, WebSocketStream
from iotd.vocabulary import Acknowledged, Dialled, Down, Message, PassedOver, Received, Subscribed
from tests.certificates import Certificates
from tests.connect_proxy import ConnectProxy
from tests.faults import packets
from tests.mosquitto import Mosquitto, free_port
from tests.mqtt.held import Held

ROOT = Path(__file__).parents[2]


@pytest.fixture(params=["plain", "tls", "proxy"])
def web(request: pytest.FixtureRequest, tmp_path: Path, certificates: Certificates) -> Iterator[dict[str, Any]]:
    """What to dial mosquitto's websockets with: in the clear, under TLS, and under TLS behind a proxy."""
    (tmp_path / "web").mkdir()
    port = free_port()
    settings = [f"listener {port} 127.0.0.1", "protocol websockets", "message_size_limit 0"]
    if request.param != "plain":
        settings += [f"cafile {certificates.ca}", f"certfile {certificates.server.cert}",
                     f"keyfile {certificates.server.key}", "require_certificate true"]
    with Mosquitto(tmp_path / "web", settings=settings) as broker:
        while True:  # it listens there a moment after its first port
            with suppress(OSError), socket.create_connection((broker.host, port)):
                break
        dialled: dict[str, Any] = {"broker": broker, "certificates": None if request.param == "plain" else certificates,
                                   "port": port, "path": "/mqtt"}
        if request.param == "proxy":
            with ConnectProxy() as proxy:
                yield {**dialled, "proxy": Proxy(proxy.host, proxy.port)}
        else:
            yield dialled


def test_messages_of_any_size_go_both_ways_and_a_session_is_kept(held: Held, web: dict[str, Any]) -> None:
    held.dial(**web)
    assert held.next(Dialled) == Dialled(1, False)
    held.session.subscribe(1, [("t/#", 1)])
    held.next(Subscribed)
    for token, size in enumerate((0, 1, 125, 126, 10_000), 1):  # mosquitto 2.0.11 gives 4 KB in 100 ms
        message = Message(f"t/{token}", bytes(range(256)) * (size // 256) + bytes(size % 256))
        held.session.publish(1, token, message)
        assert held.next(Received) == Received(1, message.topic, message.payload, 1, False)
    held.session.publish(1, 99, Message("large", bytes(900_000)))
    while held.next(Acknowledged).token != 99:
        pass
    held.session.hang_up(1)
    assert held.next(Down) == Down(1, "asked", "asked to disconnect", True)
    assert "Received DISCONNECT from test-thing" in web["broker"].log.read_text()
    held.dial(**web, line=2)
    assert held.next(Dialled) == Dialled(2, True)
    web["broker"].kill()
    assert held.next(Down).cause in ("closed", "reset")


class Server:
    """A websocket server of one line: `script` takes what was unmasked so far and a function that sends events."""

    def __init__(self, script: Callable[[Server], None]) -> None:
        self.frames = WSConnection(ConnectionType.SERVER)
        self.events: list[Any] = []
        self._server = socket.create_server(("127.0.0.1", 0))
        self.port = self._server.getsockname()[1]
        self._thread = threading.Thread(target=self._run, args=(script,))

    def __enter__(self) -> Server:
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._thread.join()
        self._server.close()

    def accept(self) -> Request:
        """Take the request and say yes."""
        request = self.next(Request)
        assert isinstance(request, Request)
        self.send(AcceptConnection(subprotocol="mqtt"))
        return request

    def next(self, kind: type) -> Any:
        """Return the next event of this kind."""
        while True:
            while self.events:
                event = self.events.pop(0)
                if isinstance(event, kind):
                    return event
            self.frames.receive_data(self.sock.recv(4096) or None)
            self.events += self.frames.events()

    def send(self, event: Any) -> None:
        """Send an event."""
        self.sock.sendall(self.frames.send(event))

    def raw(self, data: bytes) -> None:
        """Send bytes."""
        self.sock.sendall(data)

    def _run(self, script: Callable[[Server], None]) -> None:
        self.sock = self._server.accept()[0]
        with self.sock:
            script(self)


def down_of(held: Held, script: Callable[[Server], None]) -> Down:
    with Server(script) as server:
        held.dial(Mosquitto(Path("/none"), port=server.port), None, path="/a?b")
        down = held.next(Down)
    assert isinstance(down, Down)
    return down


def test_the_request_asks_for_mqtt_on_this_path_and_a_packet_may_come_in_many_frames(held: Held) -> None:
    asked: list[Any] = []

    def script(server: Server) -> None:
        request = server.accept()
        asked.append((request.target, request.host, request.subprotocols))
        connect = server.next(BytesMessage).data
        assert connect[0] == packets.CONNECT
        for byte in packets.connack(0):
            server.send(BytesMessage(bytes([byte]), message_finished=False))
        server.send(Ping(b"there?"))
        assert server.next(Pong).payload == b"there?"
        server.send(BytesMessage(b"", message_finished=True))
        server.send(CloseConnection(1001))
        server.next(CloseConnection)

    with Server(script) as server:
        held.dial(Mosquitto(Path("/none"), port=server.port), None, path="/a?b")
        assert held.next(Dialled) == Dialled(1, False)
        assert held.next(Down) == Down(1, "closed", "the broker closed the websocket with the code 1001", True)
    assert asked == [("/a?b", f"127.0.0.1:{server.port}", ["mqtt"])]


def test_a_large_message_comes_in_whole_and_a_larger_one_is_passed_over(held: Held) -> None:
    def publish(size: int) -> bytes:
        body = b"\x00\x01t" + bytes(size)
        left, length = len(body), b""
        while left:
            length += bytes([left & 0x7F | (0x80 if left > 0x7F else 0)])
            left >>= 7
        return b"\x30" + length + body

    def script(server: Server) -> None:
        server.accept()
        server.next(BytesMessage)
        server.send(BytesMessage(packets.connack(0)))
        server.send(BytesMessage(publish(1_000_000) + publish(3_000_000) + publish(1)))
        with suppress(OSError):
            server.sock.recv(4096)

    with Server(script) as server:
        held.dial(Mosquitto(Path("/none"), port=server.port), None, path="/")
        assert len(held.next(Received).payload) == 1_000_000
        assert held.next(PassedOver) == PassedOver(1, "t", 3_000_000)
        assert held.next(Received).payload == bytes(1)
        held.session.hang_up(1)
        held.next(Down)


def test_what_comes_right_behind_the_answer_is_read(held: Held) -> None:
    def script(server: Server) -> None:
        server.next(Request)
        accepted = server.frames.send(AcceptConnection(subprotocol="mqtt"))
        server.raw(accepted + server.frames.send(BytesMessage(packets.connack(5))))
        server.sock.recv(4096)

    assert down_of(held, script).cause == "refused"


def test_a_websocket_that_ends_is_over_though_the_socket_is_not(held: Held) -> None:
    def script(server: Server) -> None:
        server.accept()
        server.next(BytesMessage)
        connack = server.frames.send(BytesMessage(packets.connack(0)))
        server.raw(connack + server.frames.send(CloseConnection(1012)))
        with suppress(OSError):
            while server.sock.recv(4096):
                pass

    down = down_of(held, script)
    assert (down.was_up, down.reason) == (True, "the broker closed the websocket with the code 1012")


@pytest.mark.parametrize("do, words", [
    (lambda server: server.send(TextMessage("hello")), "the broker sent text in the websocket"),
    (lambda server: server.raw(b"\xff\xff" * 9), "the broker sent no frame of a websocket"),
    (lambda server: server.send(BytesMessage(b"\xff" * 64)), "the broker sent what is no MQTT"),
])
def test_what_is_no_mqtt_in_a_websocket_ends_the_line(held: Held, do: Callable[[Server], None], words: str) -> None:
    def script(server: Server) -> None:
        server.accept()
        server.next(BytesMessage)
        do(server)
        with suppress(OSError):
            server.sock.recv(4096)

    down = down_of(held, script)
    assert (down.cause, down.reason.startswith(words)) == ("protocol", True)


@pytest.mark.parametrize("answer, words", [
    (b"HTTP/1.1 404 x\r\n\r\n", "the broker has no websocket under this mqtt.path (404 Not Found)"),
    (b"HTTP/1.1 400 x\r\nContent-Length: 0\r\n\r\n", "the broker opens no websocket: it answers 400 Bad Request"),
    (b"HTTP/1.1 200 OK\r\n\r\nhello", "the broker opens no websocket: it answers 200 OK"),
    (b"\x15\x03\x01\x00\x02\x02\x46\r\n\r\n", "what answers there speaks no HTTP, or refuses a websocket by it"),
    (b"HTTP/1.1 101 x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: x\r\n\r\n",
     "what answers there speaks no HTTP, or refuses a websocket by it"),
    (b"", "the broker ended the line instead of opening a websocket"),
    (b"HTTP/1.1 101 x\r\n", "the broker ended the line instead of opening a websocket"),
    (b"HTTP/1.1 101 x\r\n" + b"X: y\r\n" * MAX_ANSWER_BYTES, f"the broker answers more than {MAX_ANSWER_BYTES} bytes"),
])
def test_an_answer_that_opens_no_websocket_is_told_as_such(held: Held, answer: bytes, words: str) -> None:
    def script(server: Server) -> None:
        server.next(Request)
        with suppress(OSError):
            server.raw(answer)
            server.sock.shutdown(socket.SHUT_WR)
            while server.sock.recv(4096):
                pass

    down = down_of(held, script)
    assert (down.cause, down.reason.startswith(words)) == ("websocket", True), down


def test_a_plain_port_is_told_as_such(held: Held, plain_broker: Mosquitto) -> None:
    held.dial(plain_broker, None, path="/mqtt")
    assert held.next(Down).reason.startswith("the broker ended the line instead of opening a websocket; is this mqtt.p")


def test_a_peer_that_pings_and_reads_nothing_does_not_fill_the_memory() -> None:
    server = WSConnection(ConnectionType.SERVER)
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.setblocking(False)
        stream = WebSocketStream(ours)

        def wait(what: Any, events: int, deadline: float) -> bool:
            server.receive_data(theirs.recv(4096))
            list(server.events())
            theirs.sendall(server.send(AcceptConnection(subprotocol="mqtt")))
            return True

        stream.open("broker", "/mqtt", wait)
        pings = server.send(Ping(bytes(125))) * 100
        for _ in range(200):
            theirs.sendall(pings)
            with pytest.raises(BlockingIOError):
                stream.recv(1)
        assert WRITE_BYTES <= len(stream._output) <= WRITE_BYTES + 200


def run(script: str) -> str:
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, timeout=30)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_who_has_no_websocket_does_not_load_the_library() -> None:
    assert run("import sys, iotd.cli.load, iotd.mqtt.session; print('wsproto' in sys.modules)") == "False\n"


def test_without_the_library_check_and_the_line_say_which_package_it_is(tmp_path: Path) -> None:
    file = tmp_path / "iotd.yaml"
    file.write_text("mqtt:\n  host: localhost\n  transport: websockets\n")
    told = run(f"""
import socket, sys
sys.modules["wsproto"] = None
from iotd.cli.load import load
from iotd.errors import ConfigError
from iotd.mqtt.stream import StreamError, open_stream
try:
    load({str(file)!r}, False)
except ConfigError as error:
    print(*error.lines())
with socket.create_server(("127.0.0.1", 0)) as server:
    try:
        open_stream("127.0.0.1", server.getsockname()[1], None, lambda *_: True, path="/")
    except StreamError as error:
        print(error.cause, error)
""").splitlines()
    assert told[0] == f"{file}:3: mqtt.transport: websockets need the package python3-wsproto; " \
                      "run: apt install python3-wsproto"
    assert told[1].startswith("websocket ") and told[1].endswith("install the package python3-wsproto")
