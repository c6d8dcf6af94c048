"""A paho client on a socket that is given to it; nobody else knows paho's internals.

Runs with paho-mqtt 1.6.1 and 2.x. Four of its internals are overridden: where the socket comes from, the queue of
outgoing packets, to keep a packet until it is acknowledged, and who takes a PUBACK and a message that came in. Packets
are read by `packets` and handed to paho whole. A PUBLISH at QoS 1 goes past paho's own table of them, which would keep
each a second time, with a lock of its own.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from types import ModuleType
from typing import Any

from iotd.mqtt.packets import PUBLISH, Packet
from iotd.mqtt.stream import Stream
from iotd.vocabulary import Message

# paho imports urllib.request for proxies of its own, which nothing here uses: 2 MB of PSS and a third of the time that
# importing paho takes. While it is imported an empty module stands there; whoever imports urllib.request later gets it.
_unused = "urllib.request"
_stand_in = sys.modules.setdefault(_unused, ModuleType(_unused))
import paho.mqtt.client as paho  # noqa: E402

if not hasattr(_stand_in, "urlopen"):
    del sys.modules[_unused]

ACK_S = 10.0
MAX_REPEATS = 6  # then the line is good for nothing, and is opened anew

_SUBSCRIBE, _UNSUBSCRIBE, _PINGREQ = 0x80, 0xA0, 0xC0
_DUP = 0x08
_KINDS = {PUBLISH: "PUBLISH", _SUBSCRIBE: "SUBSCRIBE", _UNSUBSCRIBE: "UNSUBSCRIBE"}

SUCCESS = paho.MQTT_ERR_SUCCESS
error_string = paho.error_string


class Unacknowledged:
    """A packet that the broker has yet to acknowledge, since when, and how often it was sent again."""

    def __init__(self, packet: bytearray, sent_at: float, repeats: int = 0) -> None:
        self.packet = packet
        self.sent_at = sent_at
        self.repeats = repeats

    def says(self) -> tuple[str, tuple[str, ...]]:
        """Return what kind of packet it is, PUBLISH, SUBSCRIBE or UNSUBSCRIBE, and its topic or filters."""
        kind = _KINDS[self.packet[0] & 0xF0]
        at = 1
        while self.packet[at] & 0x80:  # the remaining length, MQTT 3.1.1, 2.2.3
            at += 1
        at += 1 if kind == "PUBLISH" else 3  # the identifier stands before the filters
        names: list[str] = []
        while at < len(self.packet) and not (kind == "PUBLISH" and names):
            end = at + 2 + int.from_bytes(self.packet[at:at + 2], "big")
            names.append(self.packet[at + 2:end].decode())
            at = end + (kind == "SUBSCRIBE")  # the QoS
        return kind, tuple(names)


class Client(paho.Client):  # type: ignore[misc]
    """A client on a stream that is given to it, which keeps each packet until it is acknowledged.

    `puback` takes the packet identifier of each PUBLISH that is.
    """

    def __init__(
        self, client_id: str, clean_session: bool, stream: Stream, puback: Callable[[int], None],
        clock: Callable[[], float] = time.monotonic
    ) -> None:
        more: dict[str, Any] = {}
        if hasattr(paho, "CallbackAPIVersion"):  # 2.x
            more["callback_api_version"] = paho.CallbackAPIVersion.VERSION2
        super().__init__(client_id=client_id, clean_session=clean_session, protocol=paho.MQTTv311,
                         reconnect_on_failure=False, **more)
        self._stream = stream
        self._puback = puback
        self._clock = clock
        self.unacknowledged: dict[int, Unacknowledged] = {}
        self.has_output = False  # whether packets are queued; to ask paho costs it an exception where none are
        self.on_publish = lambda client, userdata, mid, *rest: puback(mid)  # at QoS 0, once it is written
        # With a callback for it, paho leaves writing to us instead of doing it inside publish().
        self.on_socket_register_write = lambda *_: None

    def _create_socket_connection(self) -> Stream:
        return self._stream

    def _packet_queue(self, command: int, packet: bytearray, mid: int, qos: int, *rest: Any, **named: Any) -> Any:
        self.has_output = True
        kind = command & 0xF0
        if kind in (_SUBSCRIBE, _UNSUBSCRIBE) or (kind == PUBLISH and qos == 1):
            self.unacknowledged[mid] = Unacknowledged(packet, self._clock())
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

    def take(self, packet: Packet) -> int:
        """Handle a packet that came in; return an error number of paho's. What is no MQTT may raise anything."""
        self._in_packet: dict[str, Any] = {"command": packet.first, "packet": packet.body,
                                           "remaining_length": len(packet.body)}
        return int(self._packet_handle() or SUCCESS)  # of a SUBACK paho 2.2 says nothing

    def acknowledge(self, qos: int, identifier: int) -> None:
        """Acknowledge a message that paho has not seen."""
        if qos == 1:
            self._send_puback(identifier)
        elif qos == 2:
            self._send_pubrec(identifier)

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
        if entry.packet[0] & 0xF0 == PUBLISH:
            entry.packet[0] |= _DUP  # MQTT-3.3.1-1
        super()._packet_queue(entry.packet[0], entry.packet, mid, 1)
        self.has_output = True
        self.unacknowledged[mid] = Unacknowledged(entry.packet, now, entry.repeats + 1)
        return entry.repeats + 1

    def postpone(self, mid: int, now: float) -> None:
        """Wait for the acknowledgement anew from now on, last in the order of deadlines."""
        entry = self.unacknowledged.pop(mid)
        entry.sent_at = now
        self.unacknowledged[mid] = entry

    def ping(self) -> None:
        """Send a PINGREQ."""
        self._packet_queue(_PINGREQ, bytearray((_PINGREQ, 0)), 0, 0)
