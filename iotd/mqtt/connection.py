"""One MQTT connection on an open stream, from CONNECT to its end; every wait in it has a deadline.

    CONNACK 10 s, SUBACK, UNSUBACK and PUBACK 10 s until the packet is repeated on the same connection under the same
    packet identifier, PINGRESP 10 s, any packet 1.5 keep-alives + 10 s until it is here whole. Amid a packet that takes
    so long no acknowledgement can come, and none is missed. A message that is too large to take has that time for each
    64 KB of it: it may come as slowly as it likes, and not stand still.
"""

import math
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any, NamedTuple

from iotd.mqtt import advice
from iotd.mqtt.client import ACK_S, MAX_REPEATS, SUCCESS, Client, error_string
from iotd.mqtt.packets import CONNACK, Malformed, Oversize, Packet, Piece, Reader
from iotd.mqtt.settings import Proxy
from iotd.mqtt.stream import Stream, StreamError
from iotd.vocabulary import Dialled, Down, Message, PassedOver, Received, Spent, Subscribed

CONNACK_S = 10.0
PINGRESP_S = 10.0
PACKETS_PER_TURN = 256

_DISCONNECT = b"\xe0\x00"


class Dial(NamedTuple):
    """Everything one connection needs. `context` makes the ssl.SSLContext, or gives None for a plain line.

    The password is read from its file at every dialling; `path` is that of a websocket.
    """

    line: int
    host: str
    port: int
    client_id: str
    clean_session: bool
    keepalive_s: int
    will: Message | None
    context: Callable[[], Any]
    username: str | None = None
    password_file: str | None = None
    proxy: Proxy | None = None
    path: str | None = None


class Connection:
    """One MQTT connection on an open stream; a StreamError ends it."""

    def __init__(
        self, dial: Dial, stream: Stream, post: Callable[[Any], None], acknowledge: Callable[[int, int], None],
        clock: Callable[[], float] = time.monotonic, password: bytes | None = None
    ) -> None:
        self.number = dial.line
        self.stream = stream
        self.up = False
        self.spent: Spent | None = None
        self._dial = dial
        self._post = post
        self._acknowledge = acknowledge
        self._clock = clock
        self._tokens: dict[int, int] = {}
        self._filters: dict[int, list[tuple[str, int]]] = {}
        self._reader = Reader(stream.recv)
        self._sent_at = clock()
        self._received_at = self._alive_at = self._sent_at  # alive: a packet has come whole, or a piece of a large one
        self._pinged_at: float | None = None
        self._client = client = Client(dial.client_id, dial.clean_session, stream, self._on_puback, clock)
        if dial.will is not None:
            client.will_set(dial.will.topic, dial.will.payload, dial.will.qos, dial.will.retain)
        client.username_pw_set(dial.username, password)
        client.on_subscribe = self._on_subscribe
        client.on_unsubscribe = self._on_unsubscribe
        client.on_message = self._on_message

    def start(self) -> None:
        """Send CONNECT."""
        self._started_at = self._clock()
        self._client.connect(self._dial.host, self._dial.port, self._dial.keepalive_s)

    def publish(self, token: int | None, message: Message) -> None:
        """Send PUBLISH."""
        mid = self._client.send(message)
        if token is not None:
            self._tokens[mid] = token

    def subscribe(self, filters: list[tuple[str, int]]) -> None:
        """Send SUBSCRIBE."""
        _, mid = self._client.subscribe(filters)
        self._filters[mid] = filters

    def unsubscribe(self, filters: list[str]) -> None:
        """Send UNSUBSCRIBE."""
        self._client.unsubscribe(filters)

    def disconnect(self) -> None:
        """Send DISCONNECT, where there is a session to end. Past paho, which would close the line before it is out."""
        self.flush()
        if self.up:
            with suppress(BlockingIOError):  # too much waits for it to be taken: the broker says the will
                self.stream.send(_DISCONNECT)

    def flush(self) -> bool:
        """Write what paho has queued; tell whether the socket would not take all of it."""
        while self._client.has_output:
            self._client.loop_write()
            self._client.has_output = self._client.want_write()
            self._sent_at = self._clock()
            if self.stream.flush():
                return True
        return self.stream.flush()

    def read(self) -> None:
        """Read and handle the packets that have come, and what has come of the last."""
        now = self._clock()
        try:
            for _ in range(PACKETS_PER_TURN):
                item = self._reader.next()
                if item is None:
                    return
                self._alive_at = now
                if isinstance(item, Piece):
                    continue
                self._received_at, self._pinged_at = now, None
                if isinstance(item, Oversize):
                    self._pass_over(item)
                else:
                    self._take(item)
                if not (self.stream.has_input() or self._client.unacknowledged):  # each PUBACK may be a record of TLS
                    return
        except Malformed as error:
            raise StreamError("protocol", f"the broker sent what is no MQTT: {error}") from error

    def next_due(self) -> float:
        """Return when `keep` has something to do, in monotonic seconds."""
        if not self.up:
            return self._started_at + CONNACK_S
        due_at = min(self._dead_at(), self._silent_at(), self._ping_at())
        for entry in self._client.unacknowledged.values():  # in the order of their deadlines
            return min(due_at, entry.sent_at + ACK_S)
        return due_at

    def keep(self, now: float, deaf: bool) -> None:
        """Do what is due: repeat packets, ping, give up. While we are `deaf` no silence is the broker's."""
        if deaf:
            self._received_at = self._alive_at = now
            self._pinged_at = self._pinged_at and now
        if not self.up:
            if now >= self._started_at + CONNACK_S:
                raise StreamError("connack", f"no CONNACK within {CONNACK_S:.0f} s")
            return
        self._repeat(now, deaf or self._reader.is_amid and now >= self._received_at + ACK_S / 2)
        if now >= self._silent_at():
            raise StreamError("silent", f"no PINGRESP within {PINGRESP_S:.0f} s: the line is dead")
        if now >= self._dead_at():
            raise StreamError("silent", f"no packet came whole within {now - self._alive_at:.0f} s: the line is dead")
        if now >= self._ping_at():
            self._pinged_at = now
            self._client.ping()

    def down(self, error: StreamError) -> Down:
        """Return how the line ended; before CONNACK, with what it looks like from here."""
        cause, reason, stream, dial = error.cause, str(error), self.stream, self._dial
        if not self.up:
            cause, reason = advice.before_connack(
                cause, reason, stream.head, dial.port if dial.path is None else 0, stream.is_secured, dial.client_id,
                dial.will is not None)
        return Down(self.number, cause, reason, self.up, spent=self.spent)

    def _ping_at(self) -> float:
        """Return when PINGREQ is due: after a keep-alive in which either side was silent; amid a packet, our own."""
        if self._reader.is_amid:
            return self._sent_at + self._dial.keepalive_s
        return min(self._sent_at, self._received_at) + self._dial.keepalive_s if self._pinged_at is None else math.inf

    def _silent_at(self) -> float:
        """Return when PINGRESP is overdue, which cannot come amid a packet."""
        return math.inf if self._pinged_at is None or self._reader.is_amid else self._pinged_at + PINGRESP_S

    def _dead_at(self) -> float:
        return self._alive_at + 1.5 * self._dial.keepalive_s + PINGRESP_S

    def _repeat(self, now: float, is_hindered: bool) -> None:
        """Repeat what is not acknowledged in time, or wait on where no acknowledgement could have come."""
        for mid, entry in list(self._client.unacknowledged.items()):
            if now < entry.sent_at + ACK_S:
                return
            if is_hindered:
                self._client.postpone(mid, now)
            elif entry.repeats == MAX_REPEATS:
                self.spent = Spent(*entry.says(), self._tokens.get(mid))
                raise StreamError("unacknowledged", f"the broker never acknowledged the {self.spent.kind} of "
                                  f"{', '.join(self.spent.names)}, which was sent {MAX_REPEATS + 1} times")
            else:
                self._client.repeat(mid, now)

    def _take(self, packet: Packet) -> None:
        is_connack = packet.first & 0xF0 == CONNACK and len(packet.body) == 2
        if is_connack and packet.body[1]:
            dial = self._dial
            raise StreamError("refused", advice.refused(packet.body[1], dial.client_id, dial.username))
        try:
            code = self._client.take(packet)
        except Exception as error:  # whatever paho makes of bytes that are no MQTT
            raise Malformed(repr(error)) from error
        if code != SUCCESS:
            raise Malformed(error_string(code))
        if is_connack:
            self.up = True
            self._post(Dialled(self.number, bool(packet.body[0] & 1)))

    def _pass_over(self, message: Oversize) -> None:
        self._client.acknowledge(message.qos, message.identifier)
        self._post(PassedOver(self.number, message.topic.decode("utf-8", "backslashreplace"), message.bytes))

    def _on_puback(self, mid: int) -> None:
        self._client.unacknowledged.pop(mid, None)
        token = self._tokens.pop(mid, None)
        if token is not None:
            self._acknowledge(self.number, token)

    def _on_subscribe(self, client: Any, userdata: Any, mid: int, codes: Any, *rest: Any) -> None:
        self._client.unacknowledged.pop(mid, None)
        filters = self._filters.pop(mid, [])
        numbers = [_number(code) for code in codes] + [128] * len(filters)  # a filter without a code is not granted
        self._post(Subscribed(self.number, tuple((name, code) for (name, _), code in zip(filters, numbers))))

    def _on_unsubscribe(self, client: Any, userdata: Any, mid: int, *rest: Any) -> None:
        self._client.unacknowledged.pop(mid, None)

    def _on_message(self, client: Any, userdata: Any, message: Any) -> None:
        try:
            topic = message.topic
        except UnicodeDecodeError as error:
            topic = error.object.decode("utf-8", "backslashreplace")
        self._post(Received(self.number, topic, bytes(message.payload), message.qos, bool(message.retain)))


def _number(code: Any) -> int:
    """Return a code of SUBACK as a number; paho 2.x dresses it as a ReasonCode."""
    return code if isinstance(code, int) else int(code.value)
