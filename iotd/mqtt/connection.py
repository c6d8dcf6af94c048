"""One MQTT connection on an open stream, from CONNECT to its end; every wait in it has a deadline.

    CONNACK 10 s, SUBACK, UNSUBACK and PUBACK 10 s until the packet is repeated on the same connection under the same
    packet identifier, PINGRESP 10 s.
"""

import time
from collections.abc import Callable
from typing import Any, NamedTuple

from iotd.mqtt.client import ACK_S, CLOSED, MAX_REPEATS, SUCCESS, Client, error_string
from iotd.mqtt.stream import Stream, StreamError
from iotd.vocabulary import Dialled, Message, Received, Subscribed

CONNACK_S = 10.0
PINGRESP_S = 10.0
PACKETS_PER_TURN = 256

_DISCONNECT = b"\xe0\x00"

_REFUSALS = {  # MQTT 3.1.1, table 3.1, and what paho 2.x makes of the same codes
    1: "it does not speak MQTT 3.1.1", 2: "it does not take this client id", 3: "it is not available",
    4: "bad user name or password", 5: "this client is not authorised",
}
_REFUSALS.update({132: _REFUSALS[1], 133: _REFUSALS[2], 136: _REFUSALS[3], 134: _REFUSALS[4], 135: _REFUSALS[5]})


class Dial(NamedTuple):
    """Everything one connection needs. `context` makes the ssl.SSLContext, or gives None for a plain line."""

    line: int
    host: str
    port: int
    client_id: str
    clean_session: bool
    keepalive_s: int
    will: Message
    context: Callable[[], Any]


class Connection:
    """One MQTT connection on an open stream; a StreamError ends it."""

    def __init__(
        self, dial: Dial, stream: Stream, post: Callable[[Any], None], acknowledge: Callable[[int, int], None]
    ) -> None:
        self.number = dial.line
        self.stream = stream
        self.up = False
        self._dial = dial
        self._post = post
        self._acknowledge = acknowledge
        self._tokens: dict[int, int] = {}
        self._filters: dict[int, list[tuple[str, int]]] = {}
        self._refused: int | None = None
        self._received_at = self._sent_at = time.monotonic()
        self._pinged_at: float | None = None
        self._client = client = Client(dial.client_id, dial.clean_session, stream, self._on_puback)
        client.will_set(dial.will.topic, dial.will.payload, dial.will.qos, dial.will.retain)
        client.on_connect = self._on_connect
        client.on_subscribe = self._on_subscribe
        client.on_unsubscribe = self._on_unsubscribe
        client.on_message = self._on_message

    def start(self) -> None:
        """Send CONNECT."""
        self._started_at = time.monotonic()
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
            self.stream.send(_DISCONNECT)

    def flush(self) -> bool:
        """Write what paho has queued; tell whether the socket would not take all of it."""
        try:
            while self._client.has_output:
                self._client.loop_write()
                self._client.has_output = self._client.want_write()
                self._sent_at = time.monotonic()
                if self.stream.flush():
                    return True
            return self.stream.flush()
        except ConnectionError as error:
            raise StreamError("reset", str(error)) from error

    def read(self) -> None:
        """Read and handle the packets that have come, and what has come of the last."""
        self._received_at = time.monotonic()
        self._pinged_at = None
        code = SUCCESS
        try:
            for _ in range(PACKETS_PER_TURN):
                code = self._client.loop_read()
                more = self.stream.has_input() or self._client.unacknowledged  # each PUBACK may be a record of TLS
                if code != SUCCESS or self.stream.is_dry or not more:
                    break
        except Exception as error:  # whatever paho makes of bytes that are no MQTT
            raise StreamError("protocol", f"the broker sent what is no MQTT: {error!r}") from error
        if self._refused is not None:
            why = _REFUSALS.get(self._refused, f"code {self._refused}")
            raise StreamError("refused", f"the broker refused the connection: {why}")
        if code != SUCCESS:
            if self.stream.failure:
                raise StreamError("reset", self.stream.failure)
            if code in CLOSED:
                raise StreamError("closed", "the broker closed the line")
            raise StreamError("protocol", f"the broker sent what is no MQTT: {error_string(code)}")

    def next_due(self) -> float:
        """Return when `keep` has something to do, in monotonic seconds."""
        if not self.up:
            return self._started_at + CONNACK_S
        if self._pinged_at is not None:
            due_at = self._pinged_at + PINGRESP_S
        else:
            due_at = min(self._sent_at, self._received_at) + self._dial.keepalive_s
        for entry in self._client.unacknowledged.values():  # in the order of their deadlines
            return min(due_at, entry.sent_at + ACK_S)
        return due_at

    def keep(self, now: float, deaf: bool) -> None:
        """Do what is due: repeat packets, ping, give up. While we are `deaf` no silence is the broker's."""
        if deaf:
            self._received_at = now
            self._pinged_at = self._pinged_at and now
        if not self.up:
            if now >= self._started_at + CONNACK_S:
                raise StreamError("connack", f"no CONNACK within {CONNACK_S:.0f} s")
            return
        for mid, entry in list(self._client.unacknowledged.items()):
            if now < entry.sent_at + ACK_S:
                break
            if entry.repeats == MAX_REPEATS:
                raise StreamError("unacknowledged", f"packet {mid} was not acknowledged, {MAX_REPEATS + 1} times")
            self._client.repeat(mid, now)
        if self._pinged_at is not None and now >= self._pinged_at + PINGRESP_S:
            raise StreamError("silent", f"no PINGRESP within {PINGRESP_S:.0f} s: the line is dead")
        if self._pinged_at is None and now >= min(self._sent_at, self._received_at) + self._dial.keepalive_s:
            self._pinged_at = now
            self._client.ping()

    def _on_connect(self, client: Any, userdata: Any, flags: Any, code: Any, *rest: Any) -> None:
        number = _number(code)
        if number != 0:
            self._refused = number
            return
        present = flags["session present"] if isinstance(flags, dict) else flags.session_present
        self.up = True
        self._post(Dialled(self.number, bool(present)))

    def _on_puback(self, mid: int) -> None:
        self._client.acknowledged(mid)
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
    """Return a CONNACK or SUBACK code as a number; paho 2.x dresses it as a ReasonCode."""
    return code if isinstance(code, int) else int(code.value)
