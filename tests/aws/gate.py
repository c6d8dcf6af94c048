"""The gate before mosquitto: packet by packet what AWS IoT Core does and mosquitto does not. MQTT 3.1.1.

A client that is denied something loses its line, as on AWS; what each client may is said by the policies of its
certificate. What the broker sends passes the gate as well: what the policy does not let a client receive is withheld
without a word, as are stored messages for a wildcard. The services of the cloud connect to the broker itself.

Not imitated: MQTT 5, the throughput of 512 KB/s, that redelivery ends after an hour, quotas of a whole account.
"""

from __future__ import annotations

import asyncio
import ssl
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from types import TracebackType
from typing import Any, NamedTuple

from tests.aws import limits, policy
from tests.aws.stream import Closing, closed, common_name, packet_from
from tests.certificates import Certificates
from tests.faults import packets
from tests.faults.packets import (
    CONNACK, CONNECT, DISCONNECT, PUBLISH, SUBACK, SUBSCRIBE, UNSUBSCRIBE, Connect, Malformed, Packet, Publish)
from tests.mosquitto import HOST, Mosquitto, free_port

PATIENCE_S = 10.0


class Ruling(NamedTuple):
    """What the gate did to a client: closed its line, refused a filter, withheld or discarded a message, or left a
    packet unanswered; and over what.
    """

    client_id: str
    deed: str
    what: str


class Session:
    """What outlives a line: the filters, and the topics whose stored message is owed to an exact subscription."""

    def __init__(self) -> None:
        self.filters: set[str] = set()
        self.owed: set[str] = set()


class Gate:
    """A listener of its own before a plain broker. With `certificates` it asks for mutual TLS.

    `policies` has those of each certificate by its common name, which is the thing that it is attached to; without
    TLS the client id stands for both. None: everybody may do everything. `denied_filter_closes`: false for a SUBACK
    with 0x80 in the place of the end of the line; AWS has been seen to do either. `tell` is told every ruling.
    """

    def __init__(
        self, broker: Mosquitto, certificates: Certificates | None = None,
        policies: Mapping[str, Sequence[Any]] | None = None, *, port: int | None = None,
        clock: Callable[[], float] = time.monotonic, denied_filter_closes: bool = True,
        tell: Callable[[Ruling], None] = lambda ruling: None,
    ) -> None:
        assert broker.certificates is None, "the gate speaks TLS, the broker behind it is plain"
        self.host = HOST
        self.port = port or free_port()
        self.certificates = certificates
        self.clock = clock
        self.denied_filter_closes = denied_filter_closes
        self.sessions: dict[str, Session] = {}
        self.lines: dict[str, Line] = {}
        self.connects = limits.Spacing(limits.MIN_CONNECT_GAP_S)
        self.retained = limits.Spacing(limits.MIN_RETAINED_GAP_S)
        self._policies: dict[str, list[policy.Statement]] | None = None
        self._broker = broker
        self._tell = tell
        self._open: set[Line] = set()
        self._rulings: list[Ruling] = []
        self._changed = threading.Condition()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._listening = threading.Event()
        for name, documents in (policies or {}).items():
            self.attach(name, documents)

    def attach(self, name: str, documents: Sequence[Any]) -> None:
        """Attach policies to a certificate; from the first one on, nobody may do what no policy says."""
        self._policies = {**(self._policies or {}), name: policy.statements(documents)}

    def __enter__(self) -> Gate:
        self._thread.start()
        assert self._listening.wait(PATIENCE_S), "the gate does not listen"
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._loop.call_soon_threadsafe(self._ending.set)
        self._thread.join()
        self._loop.close()

    @property
    def rulings(self) -> list[Ruling]:
        """Everything that it did so far, in order."""
        with self._changed:
            return list(self._rulings)

    def wait_for(self, deed: str = "", what: str = "", timeout_s: float = PATIENCE_S) -> Ruling:
        """Return the first ruling of this kind, or any, whose words contain `what`, one that was made before included.

        Raises AssertionError.
        """
        found: list[Ruling] = []

        def look() -> bool:
            found[:] = [ruling for ruling in self._rulings if deed in ruling.deed and what in ruling.what]
            return bool(found)

        with self._changed:
            assert self._changed.wait_for(look, timeout_s), f"no {deed} {what!r} but {self._rulings}"
        return found[0]

    def rule(self, client_id: str, deed: str, what: str) -> None:
        """Write down what is done to a client."""
        ruling = Ruling(client_id, deed, what)
        self._tell(ruling)
        with self._changed:
            self._rulings.append(ruling)
            self._changed.notify_all()

    def allows(self, action: str, name: str, client: policy.Client) -> bool:
        """Tell whether the policies let the client do it."""
        if self._policies is None:
            return True
        return policy.allows(self._policies.get(client.thing or "", ()), action, name, client)

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.run_until_complete(self._serve())

    async def _serve(self) -> None:
        self._ending = asyncio.Event()
        server = await asyncio.start_server(self._accept, self.host, self.port, ssl=self._context())
        self._listening.set()
        await self._ending.wait()
        server.close()
        for line in self._open:
            line.drop()
        await asyncio.gather(*asyncio.all_tasks() - {asyncio.current_task()}, return_exceptions=True)

    def _context(self) -> ssl.SSLContext | None:
        if self.certificates is None:
            return None
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.certificates.server.cert, self.certificates.server.key)
        context.load_verify_locations(self.certificates.ca)
        context.verify_mode = ssl.CERT_REQUIRED
        return context

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            far_reader, far_writer = await asyncio.open_connection(self._broker.host, self._broker.port)
        except OSError:
            writer.transport.abort()
            return
        line = Line(self, writer, far_writer, common_name(writer))
        self._open.add(line)
        await line.run(reader, far_reader)
        self._open.discard(line)


class Line:
    """One connection of a client, and the one to the broker behind it."""

    def __init__(
        self, gate: Gate, near: asyncio.StreamWriter, far: asyncio.StreamWriter, common_name: str | None
    ) -> None:
        self.client = policy.Client("", common_name)
        self._gate = gate
        self._near = near
        self._far = far
        self._session = Session()
        self._clean = True
        self._passed: deque[float] = deque()
        self._codes: dict[int, list[int | None]] = {}  # of a SUBSCRIBE; None: the broker's to say
        self._older: Line | None = None
        self._ended = asyncio.Event()

    async def run(self, reader: asyncio.StreamReader, far_reader: asyncio.StreamReader) -> None:
        """Relay until either side ends, or what the client does is not allowed."""
        directions = [asyncio.create_task(self._relay(reader, self.from_client, self._far)),
                      asyncio.create_task(self._relay(far_reader, self.from_broker, self._near))]
        try:
            await asyncio.wait(directions, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for direction in directions:
                direction.cancel()
            await asyncio.gather(*directions, return_exceptions=True)
            self.drop()
            with suppress(OSError, TimeoutError):  # until the broker has seen it, and said the will
                await asyncio.wait_for(far_reader.read(-1), PATIENCE_S)
            await asyncio.gather(closed(self._near), closed(self._far))
            self._ended.set()
            if self._gate.lines.get(self.client.client_id) is self:
                del self._gate.lines[self.client.client_id]
                if self._clean:
                    self._gate.sessions.pop(self.client.client_id, None)

    def drop(self) -> None:
        """End it on both sides without a word, over which the broker says the will."""
        self._near.close()
        with suppress(OSError):
            self._far.write_eof()

    async def _relay(
        self, reader: asyncio.StreamReader, judge: Callable[[int, bytes], bytes], writer: asyncio.StreamWriter
    ) -> None:
        try:
            while True:
                first, body = await packet_from(reader)
                forwarded = judge(first, body)
                if first == CONNECT and self._older:
                    await self._older._ended.wait()
                if forwarded:
                    writer.write(forwarded)
                    await writer.drain()
                if first == DISCONNECT:
                    return
        except (Closing, Malformed) as error:
            self._gate.rule(self.client.client_id, "closed", str(error))
        except (OSError, asyncio.IncompleteReadError):
            pass

    def from_client(self, first: int, body: bytes) -> bytes:
        """Return what goes on to the broker of a packet of the client's. Raises Closing, Malformed."""
        packet = Packet(first & 0xF0, first & 0x0F, body, 0.0)
        if (packet.kind == CONNECT) == bool(self.client.client_id):
            raise Closing("CONNECT comes first, and once")
        if packet.kind == CONNECT:
            return self._connect(packet)
        if packet.kind == PUBLISH:
            return self._publish(packet)
        if packet.kind == SUBSCRIBE:
            return self._subscribe(packet)
        if packet.kind == UNSUBSCRIBE:
            self._session.filters -= set(limits.unsubscribed(packet.body))
        return packets.whole(first, body)

    def from_broker(self, first: int, body: bytes) -> bytes:
        """Return what goes on to the client of a packet of the broker's."""
        kind = first & 0xF0
        if kind == CONNACK and not body[0] & 1:
            self._session.filters.clear()
            self._session.owed.clear()
        if kind == SUBACK:
            ours = iter(body[2:])
            codes = self._codes.pop(int.from_bytes(body[:2], "big"), [None] * (len(body) - 2))
            return packets.suback(int.from_bytes(body[:2], "big"),
                                  [next(ours) if code is None else code for code in codes])
        if kind == PUBLISH:
            publish = Publish.read(Packet(PUBLISH, first & 0x0F, body, 0.0))
            if reason := self._withheld(publish):
                self._gate.rule(self.client.client_id, *reason)
                if publish.qos:
                    self._far.write(packets.puback(publish.identifier))
                return b""
        return packets.whole(first, body)

    def _connect(self, packet: Packet) -> bytes:
        connect = Connect.read(packet)
        attributes = {"LastWill": connect.will_topic, "PersistentConnect": not connect.clean_session}
        self.client = policy.Client(connect.client_id, self.client.thing or connect.client_id,
                                    attributes=frozenset(name for name, there in attributes.items() if there))
        if problem := limits.client_problem(connect.client_id):
            raise Closing(problem)
        if not self._gate.connects.take(connect.client_id, self._gate.clock()):
            raise Closing("CONNECT more than once a second")
        self._demand("iot:Connect", connect.client_id)
        has_will = connect.will_topic and not connect.will_topic.startswith("$")  # which AWS ignores
        if has_will:
            self._judge_topic(connect.will_topic, connect.will_retain, connect.will_qos, connect.will_payload)
        self._older = self._gate.lines.get(connect.client_id)
        if self._older:
            self._gate.rule(connect.client_id, "closed", "another line has come with this client id")
            self._older.drop()
        self._gate.lines[connect.client_id] = self
        self._clean = connect.clean_session
        self._session = Session() if self._clean else self._gate.sessions.get(connect.client_id, Session())
        self._gate.sessions[connect.client_id] = self._session
        return limits.connect(packet.body, limits.keepalive(connect.keepalive_s), bool(has_will))

    def _publish(self, packet: Packet) -> bytes:
        publish = Publish.read(packet)
        if publish.qos == 2:
            self._gate.rule(self.client.client_id, "unanswered", f"PUBLISH {publish.topic} at QoS 2")
            return b""
        self._judge_topic(publish.topic, publish.retain, publish.qos, publish.payload)
        now = self._gate.clock()
        if not limits.take_place(self._passed, now):
            self._gate.rule(self.client.client_id, "discarded", f"{publish.topic}: more than 100 publishes a second")
            return b""
        if publish.retain and not self._gate.retained.take(publish.topic, now):
            self._gate.rule(self.client.client_id, "discarded", f"{publish.topic}: retained more than once a second")
            return b""
        return packets.whole(packet.kind | packet.flags, packet.body)

    def _judge_topic(self, topic: str, retain: bool, qos: int, payload: bytes) -> None:
        """Raise Closing for what may not be published, now or as the will."""
        if qos == 2:
            raise Closing(f"will on {topic} at QoS 2")
        if problem := limits.publish_problem(topic, retain, len(payload)):
            raise Closing(problem)
        self._demand("iot:Publish", topic)
        if retain:
            self._demand("iot:RetainPublish", topic)

    def _subscribe(self, packet: Packet) -> bytes:
        asked = packets.filters(packet)
        if len(asked) > limits.MAX_FILTERS:
            raise Closing(f"{len(asked)} filters in one SUBSCRIBE; {limits.MAX_FILTERS} are allowed")
        if max(qos for _, qos in asked) == 2:
            self._gate.rule(self.client.client_id, "unanswered", f"SUBSCRIBE {asked[0][0]} at QoS 2")
            return b""
        codes: list[int | None] = []
        granted = []
        for name, qos in asked:
            if self._grants(name):
                self._session.filters.add(name)
                self._session.owed.add(name)
                granted.append((name, qos))
                codes.append(None)
            else:
                codes.append(0x80)
        if not granted:
            self._near.write(packets.suback(packet.identifier, [0x80] * len(asked)))
            return b""
        self._codes[packet.identifier] = codes
        return packets.subscribe(packet.identifier, granted)

    def _grants(self, name: str) -> bool:
        if problem := limits.filter_problem(name):
            raise Closing(problem)
        if self._gate.denied_filter_closes:
            self._demand("iot:Subscribe", name)
        denied = not self._gate.allows("iot:Subscribe", name, self.client)
        if denied or name not in self._session.filters and len(self._session.filters) >= limits.MAX_SUBSCRIPTIONS:
            self._gate.rule(self.client.client_id, "refused", f"iot:Subscribe {name}" if denied else
                            f"{name}: more than {limits.MAX_SUBSCRIPTIONS} subscriptions")
            return False
        return True

    def _withheld(self, publish: Publish) -> tuple[str, str] | None:
        """Return the deed and over what, where a message does not get to the client."""
        topic = publish.topic
        if not self._gate.allows("iot:Receive", topic, self.client):
            return "withheld", f"iot:Receive {topic}"
        matching = [name for name in self._session.filters if limits.matches(name, topic)]
        if not matching:
            return "withheld", f"{topic}: no filter matches; a/# does not match a"
        if publish.retain and not publish.duplicate:
            if topic not in self._session.owed:
                return "withheld", f"{topic}: what is stored is for subscriptions of the exact topic"
            self._session.owed.discard(topic)
        if not limits.take_place(self._passed, self._gate.clock()):
            return "discarded", f"{topic}: more than 100 publishes a second"
        return None

    def _demand(self, action: str, name: str) -> None:
        if not self._gate.allows(action, name, self.client):
            raise Closing(f"{action} {name}")
