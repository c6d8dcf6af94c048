"""The MQTT session: paho on a thread of its own, driven by our own poll(2) with exact deadlines.

Commands come in from the main thread, events go out to its inbox; nobody else knows paho. A connection gets a new
paho client, which is thrown away with it, and paho's own queue, timers and reconnects are never used: what waits
is in the spool, and when to dial again is the daemon's decision. Every wait has an end:

    DNS 10 s, TCP 10 s, TLS 20 s (line), CONNACK 10 s, SUBACK, UNSUBACK and PUBACK 10 s until the packet is
    repeated on the same connection under the same packet identifier, PINGRESP 10 s.

Runs with paho-mqtt 1.6.1 and 2.x. Of paho's internals it overrides four: where the socket comes from, the queue of
outgoing packets, to keep a packet until it is acknowledged, and who takes a PUBACK and a message that came in. A
PUBLISH at QoS 1 goes past paho's own table of them, which would keep each a second time, with a lock of its own.
"""

from __future__ import annotations

import math
import os
import select
import ssl
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable
from queue import SimpleQueue

from iotd.deferred import deferred
from iotd.line import HasFileno, Line, LineError, open_line
from iotd.model import Acknowledged, Dialled, Down, Message, Received, Subscribed, ThreadFailed
from iotd.typed import Any, NamedTuple

with deferred("urllib.request"):  # only for its proxies, which we do not use: 2 MB, and a tenth of our start
    import paho.mqtt.client as paho

CONNACK_S = 10.0
ACK_S = 10.0
PINGRESP_S = 10.0
MAX_REPEATS = 6  # then the line is good for nothing, and is opened anew
FILTERS_PER_SUBSCRIBE = 8  # AWS IoT Core takes no more
FULL_INBOX = 256  # events the main thread has yet to take; the socket is not read beyond that
FULL_INBOX_PAUSE_S = 0.05
PACKETS_PER_TURN = 256
STUCK_S = 30.0

_PUBLISH, _SUBSCRIBE, _UNSUBSCRIBE, _PINGREQ = 0x30, 0x80, 0xA0, 0xC0
_DUP = 0x08
_DISCONNECT = b"\xe0\x00"

_REFUSALS = {  # MQTT 3.1.1, table 3.1, and what paho 2.x makes of the same codes
    1: "it does not speak MQTT 3.1.1", 2: "it does not take this client id", 3: "it is not available",
    4: "bad user name or password", 5: "this client is not authorised",
}
_REFUSALS.update({132: _REFUSALS[1], 133: _REFUSALS[2], 136: _REFUSALS[3], 134: _REFUSALS[4], 135: _REFUSALS[5]})


class Dial(NamedTuple):
    """Everything one connection needs. `context` makes the TLS context, or gives None for a plain line."""

    line: int
    host: str
    port: int
    client_id: str
    clean_session: bool
    keepalive_s: int
    will: Message
    context: Callable[[], ssl.SSLContext | None]


class _Unacknowledged:
    def __init__(self, packet: bytearray, sent_at: float, repeats: int = 0) -> None:
        self.packet = packet
        self.sent_at = sent_at
        self.repeats = repeats


class Session:
    """The thread and its commands; `post` takes the events of `model`, on that thread.

    What is to be published and subscribed is only noted; `go` at the end of a turn has the thread take all of it.
    """

    def __init__(self, post: Callable[[Any], None], backlog: Callable[[], int]) -> None:
        self._post = post
        self._backlog = backlog
        self._commands: SimpleQueue[tuple[int, Callable[..., None], tuple[Any, ...]]] = SimpleQueue()
        self._dials: SimpleQueue[Dial | None] = SimpleQueue()
        self._wake = _Wake()
        self._poller = _Poller(self._wake)
        self._quiet: deque[tuple[int, int]] = deque()
        self._events: list[Any] = []
        self.eager = True  # whether each acknowledgement is an event; else they wait for `acknowledged`
        self._ordered = False
        self._stopping = False
        self._hang_up = 0
        self._thread = threading.Thread(target=self._run, name="mqtt", daemon=True)

    def start(self) -> None:
        """Start the thread; it waits for `dial`."""
        self._thread.start()

    def dial(self, dial: Dial) -> None:
        """Open a line; ends in Dialled or Down. Only after the line before it is Down."""
        self._dials.put(dial)
        self._wake.up()

    def publish(self, line: int, token: int | None, message: Message) -> None:
        """Publish on this line, or nowhere; ends in Acknowledged, unless the token is None, or Down.

        The acknowledgement of a positive token is an event only while `eager`: to wake the main thread for each
        would double what a message costs, and where nothing waits for its place it can be taken at the next turn.
        """
        self._order(line, _Connection.publish, token, message)

    def subscribe(self, line: int, filters: list[tuple[str, int]]) -> None:
        """Subscribe the (filter, QoS) pairs, at most 8 in a packet; ends in Subscribed for all of them, or Down."""
        for start in range(0, len(filters), FILTERS_PER_SUBSCRIBE):
            self._order(line, _Connection.subscribe, filters[start:start + FILTERS_PER_SUBSCRIBE])

    def unsubscribe(self, line: int, filters: list[str]) -> None:
        """Unsubscribe the filters."""
        for start in range(0, len(filters), FILTERS_PER_SUBSCRIBE):
            self._order(line, _Connection.unsubscribe, filters[start:start + FILTERS_PER_SUBSCRIBE])

    def acknowledged(self, line: int) -> list[int]:
        """Return the tokens acknowledged on this line that were no events."""
        tokens = []
        while self._quiet:
            number, token = self._quiet.popleft()
            if number == line:
                tokens.append(token)
        return tokens

    def go(self) -> None:
        """Have the thread take what was ordered; woken amid the turn it would only fight for the interpreter."""
        if self._ordered:
            self._ordered = False
            self._wake.up()

    def hang_up(self, line: int) -> None:
        """Send DISCONNECT and close; ends in Down with the cause asked. Also ends a dialling under way."""
        self._hang_up = line
        self._wake.up()

    def close(self, timeout_s: float) -> bool:
        """Hang up and end the thread; tell whether it ended in time."""
        self._stopping = True
        self._dials.put(None)
        self._wake.up()
        if self._thread.ident is not None:
            self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def alive(self, now: float) -> bool:
        """Tell whether the thread lives and keeps its own deadlines."""
        return self._thread.is_alive() and now < self._poller.due_at + STUCK_S

    def _order(self, line: int, do: Callable[..., None], *arguments: Any) -> None:
        self._commands.put((line, do, arguments))
        self._ordered = True

    def _run(self) -> None:
        try:
            while True:
                self._poller.due_at = math.inf
                dial = self._dials.get()
                self._poller.due_at = time.monotonic()
                if dial is None:
                    return
                self._events.append(self._live(dial))
                self._deliver()
        except BaseException:  # a bug: the main thread must hear of it, whatever it is
            self._post(ThreadFailed("mqtt", traceback.format_exc()))

    def _live(self, dial: Dial) -> Down:
        """Live through one connection, from DNS to its end."""
        try:
            context = dial.context()
        except (OSError, ValueError) as error:
            return Down(dial.line, "certificate", f"the certificates cannot be used: {error}", False)

        def wait(what: HasFileno, events: int, deadline: float) -> bool:
            return self._wait(dial.line, what, events, deadline)

        try:
            line = open_line(dial.host, dial.port, context, wait)
        except LineError as error:
            return Down(dial.line, error.cause, str(error), False)
        connection = _Connection(dial, line, self._events.append, self._acknowledge)
        try:
            connection.start()
            while not self._told_to_stop(dial.line):
                self._turn(connection)
            connection.disconnect()
            self._deliver()
            line.finish(lambda what, events, deadline: self._poller.wait(what, events, deadline) != 0)
            return Down(dial.line, "asked", "asked to disconnect", connection.up)
        except LineError as error:
            return Down(dial.line, error.cause, str(error), connection.up)
        finally:
            line.close()

    def _acknowledge(self, line: int, token: int) -> None:
        if token > 0 and not self.eager:
            self._quiet.append((line, token))
        else:
            self._events.append(Acknowledged(line, token))

    def _turn(self, connection: _Connection) -> None:
        """Wait for the socket, a command or a deadline; do what there is to do."""
        line, full = connection.line, self._backlog() >= FULL_INBOX
        events = (0 if full else select.POLLIN) | (select.POLLOUT if connection.flush() else 0)
        self._deliver()
        deadline = due_at = connection.next_due()
        if full:
            deadline = min(due_at, time.monotonic() + FULL_INBOX_PAUSE_S)
        elif line.has_input():
            deadline = 0.0
        ready = self._poller.wait(line, events, deadline)
        if not full and (ready & ~select.POLLOUT or line.has_input()):
            connection.read()
        for _ in range(self._commands.qsize()):
            number, do, arguments = self._commands.get_nowait()
            if number == connection.number:  # an order for an earlier line came too late
                do(connection, *arguments)
        now = time.monotonic()
        if full or now >= due_at:
            connection.keep(now, full)

    def _deliver(self) -> None:
        """Post what has come: last, since the main thread, once woken, fights with this one for the interpreter."""
        for event in self._events:
            self._post(event)
        self._events.clear()

    def _wait(self, number: int, what: HasFileno, events: int, deadline: float) -> bool:
        """Wait while the line is being opened; only hanging up interrupts it."""
        while True:
            ready = self._poller.wait(what, events, deadline)
            if self._told_to_stop(number):
                raise LineError("asked", "asked to stop dialling")
            if ready or time.monotonic() >= deadline:
                return ready != 0

    def _told_to_stop(self, number: int) -> bool:
        return self._stopping or self._hang_up == number


class _Wake:
    """An eventfd(2) that wakes a poll from another thread."""

    def __init__(self) -> None:
        self._fd: int = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)  # type: ignore[attr-defined]

    def fileno(self) -> int:
        return self._fd

    def up(self) -> None:
        os.eventfd_write(self._fd, 1)  # type: ignore[attr-defined]

    def clear(self) -> None:
        os.eventfd_read(self._fd)  # type: ignore[attr-defined]


class _Poller:
    """poll(2) on one descriptor and the wake, which says beforehand when it will be back."""

    def __init__(self, wake: _Wake) -> None:
        self._wake = wake
        self._poll = select.poll()
        self._poll.register(wake.fileno(), select.POLLIN)
        self._registered = (-1, 0)
        self.due_at = math.inf

    def wait(self, what: HasFileno, events: int, deadline: float) -> int:
        """Return the events of `what`, 0 where there were none by the deadline or the wake came first."""
        fd = what.fileno()
        if (fd, events) != self._registered:
            if self._registered[0] not in (-1, fd):
                self._poll.unregister(self._registered[0])
            self._poll.register(fd, events)
            self._registered = fd, events
        self.due_at = deadline
        timeout_ms = max(0, math.ceil((deadline - time.monotonic()) * 1000))
        ready = dict(self._poll.poll(timeout_ms))
        self.due_at = time.monotonic()
        if self._wake.fileno() in ready:
            self._wake.clear()
        return ready.get(fd, 0)


class _Client(paho.Client):  # type: ignore[misc]
    """A paho client on a socket that is given to it, which keeps each packet until it is acknowledged.

    `puback` takes the packet identifier of each PUBLISH that is.
    """

    def __init__(self, client_id: str, clean_session: bool, line: Line, puback: Callable[[int], None]) -> None:
        more: dict[str, Any] = {}
        if hasattr(paho, "CallbackAPIVersion"):  # 2.x
            more["callback_api_version"] = paho.CallbackAPIVersion.VERSION2
        super().__init__(client_id=client_id, clean_session=clean_session, protocol=paho.MQTTv311,
                         reconnect_on_failure=False, **more)
        self._line = line
        self._puback = puback
        self.unacknowledged: dict[int, _Unacknowledged] = {}
        self.has_output = False  # whether packets are queued; to ask paho costs it an exception where none are
        self.on_publish = lambda client, userdata, mid, *rest: puback(mid)  # at QoS 0, once it is written
        # With a callback for it, paho leaves writing to us instead of doing it inside publish().
        self.on_socket_register_write = lambda *_: None

    def _create_socket_connection(self) -> Line:
        return self._line

    def _packet_queue(self, command: int, packet: bytearray, mid: int, qos: int, *rest: Any, **named: Any) -> Any:
        self.has_output = True
        kind = command & 0xF0
        if kind in (_SUBSCRIBE, _UNSUBSCRIBE) or (kind == _PUBLISH and qos == 1):
            self.unacknowledged[mid] = _Unacknowledged(packet, time.monotonic())
        return super()._packet_queue(command, packet, mid, qos, *rest, **named)

    def send(self, message: Message) -> int:
        """Send PUBLISH; return its packet identifier."""
        if message.qos == 0:
            return int(self.publish(message.topic, message.payload, 0, message.retain).mid)
        mid: int = self._mid_generate()
        while mid in self.unacknowledged:
            mid = self._mid_generate()
        self._send_publish(mid, message.topic.encode(), message.payload, 1, message.retain)
        return mid

    def _handle_pubackcomp(self, kind: str) -> Any:
        packet = self._in_packet["packet"]
        if len(packet) != 2:  # MQTT 3.1.1, 3.4
            return paho.MQTT_ERR_PROTOCOL
        self._puback(int.from_bytes(packet, "big"))
        return paho.MQTT_ERR_SUCCESS

    def _handle_on_message(self, message: Any) -> None:
        """Go past paho's callbacks by filter: each search for one leaves a cycle to the garbage collector."""
        self.on_message(self, None, message)

    def repeat(self, mid: int, now: float) -> int:
        """Send the packet once more under its identifier, last in the order of deadlines; return how often it was."""
        entry = self.unacknowledged.pop(mid)
        if entry.packet[0] & 0xF0 == _PUBLISH:
            entry.packet[0] |= _DUP  # MQTT-3.3.1-1
        super()._packet_queue(entry.packet[0], entry.packet, mid, 1)
        self.has_output = True
        self.unacknowledged[mid] = _Unacknowledged(entry.packet, now, entry.repeats + 1)
        return entry.repeats + 1

    def ping(self) -> None:
        """Send a PINGREQ."""
        self._packet_queue(_PINGREQ, bytearray((_PINGREQ, 0)), 0, 0)


class _Connection:
    """One MQTT connection on an open line; a LineError ends it."""

    def __init__(
        self, dial: Dial, line: Line, post: Callable[[Any], None], acknowledge: Callable[[int, int], None]
    ) -> None:
        self.number = dial.line
        self.line = line
        self.up = False
        self._dial = dial
        self._post = post
        self._acknowledge = acknowledge
        self._tokens: dict[int, int] = {}
        self._filters: dict[int, list[tuple[str, int]]] = {}
        self._refused: int | None = None
        self._received_at = self._sent_at = time.monotonic()
        self._pinged_at: float | None = None
        self._client = client = _Client(dial.client_id, dial.clean_session, line, self._on_puback)
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
            self.line.send(_DISCONNECT)

    def flush(self) -> bool:
        """Write what paho has queued; tell whether the socket would not take all of it."""
        try:
            while self._client.has_output:
                self._client.loop_write()
                self._client.has_output = self._client.want_write()
                self._sent_at = time.monotonic()
                if self.line.flush():
                    return True
            return self.line.flush()
        except ConnectionError as error:
            raise LineError("reset", str(error)) from error

    def read(self) -> None:
        """Read and handle the packets that have come, and what has come of the last."""
        self._received_at = time.monotonic()
        self._pinged_at = None
        code = paho.MQTT_ERR_SUCCESS
        try:
            for _ in range(PACKETS_PER_TURN):
                code = self._client.loop_read()
                more = self.line.has_input() or self._client.unacknowledged  # each PUBACK may be a record of TLS
                if code != paho.MQTT_ERR_SUCCESS or self.line.is_dry or not more:
                    break
        except Exception as error:  # whatever paho makes of bytes that are no MQTT
            raise LineError("protocol", f"the broker sent what is no MQTT: {error!r}") from error
        if self._refused is not None:
            why = _REFUSALS.get(self._refused, f"code {self._refused}")
            raise LineError("refused", f"the broker refused the connection: {why}")
        if code != paho.MQTT_ERR_SUCCESS:
            if self.line.failure:
                raise LineError("reset", self.line.failure)
            if code in (paho.MQTT_ERR_CONN_LOST, paho.MQTT_ERR_NO_CONN):
                raise LineError("closed", "the broker closed the line")
            raise LineError("protocol", f"the broker sent what is no MQTT: {paho.error_string(code)}")

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
                raise LineError("connack", f"no CONNACK within {CONNACK_S:.0f} s")
            return
        for mid, entry in list(self._client.unacknowledged.items()):
            if now < entry.sent_at + ACK_S:
                break
            if entry.repeats == MAX_REPEATS:
                raise LineError("unacknowledged", f"packet {mid} was not acknowledged, {MAX_REPEATS + 1} times")
            self._client.repeat(mid, now)
        if self._pinged_at is not None and now >= self._pinged_at + PINGRESP_S:
            raise LineError("silent", f"no PINGRESP within {PINGRESP_S:.0f} s: the line is dead")
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
    """Return a CONNACK or SUBACK code as a number; paho 2.x dresses it as a ReasonCode."""
    return code if isinstance(code, int) else int(code.value)
