"""MQTT in the frames of a websocket (RFC 6455; MQTT 3.1.1, 6), which wsproto makes and reads. Loaded where one is
configured; runs on the MQTT thread.
"""

from __future__ import annotations

import select
import socket
import time
from http import HTTPStatus

from wsproto import ConnectionType, WSConnection
from wsproto.connection import ConnectionState
from wsproto.events import AcceptConnection, BytesMessage, CloseConnection, Ping, RejectConnection, Request, TextMessage
from wsproto.utilities import ProtocolError

from iotd.mqtt.addresses import Wait
from iotd.mqtt.stream import WRITE_BYTES, Stream, StreamError

HANDSHAKE_S = 10.0
MAX_ANSWER_BYTES = 1 << 14

_GOING_AWAY = 1001  # RFC 6455, 7.4.1


class WebSocketStream(Stream):
    """A stream whose bytes go in binary frames; what is in them need not begin or end with a packet of MQTT."""

    def __init__(self, sock: socket.socket) -> None:
        super().__init__(sock)
        self._frames = WSConnection(ConnectionType.CLIENT)
        self._ended: StreamError | None = None

    def open(self, place: str, path: str, wait: Wait) -> None:
        """Have the line upgraded to a websocket. Raises StreamError with the cause websocket, and as `wait`."""
        self._output += self._frames.send(Request(host=place, target=path, subprotocols=["mqtt"]))
        deadline = time.monotonic() + HANDSHAKE_S
        answered = 0
        while not self._accepted():
            if answered >= MAX_ANSWER_BYTES:
                raise StreamError("websocket", f"the broker answers more than {MAX_ANSWER_BYTES} bytes")
            if not wait(self, select.POLLOUT if self.flush() else select.POLLIN, deadline):
                raise StreamError("websocket", f"the websocket was not there within {HANDSHAKE_S:.0f} s")
            answered += self._receive()
        self._input, self._position = self._unframed(), 0

    def has_input(self) -> bool:
        """Tell whether `recv` has something to say that poll(2) does not know of."""
        return self._ended is not None or super().has_input()

    def send(self, data: bytes | bytearray) -> int:
        """Take the bytes for the next `flush`; raise BlockingIOError where too many wait already."""
        if len(self._output) >= WRITE_BYTES:
            raise BlockingIOError
        if self._ended is None:
            self._output += self._frames.send(BytesMessage(bytes(data)))
        return len(data)

    def finish(self, wait: Wait) -> None:
        """Say that the websocket ends, then end the line."""
        if self._frames.state is ConnectionState.OPEN:
            self._output += self._frames.send(CloseConnection(_GOING_AWAY))
        super().finish(wait)

    def _read(self) -> bytes:
        """Return what the next frames carry, however many it takes for a byte; b"" at the end of the line."""
        data = b""
        while not data:
            if self._ended is not None:
                raise self._ended
            raw = super()._read()
            if not raw:
                return b""
            self._frames.receive_data(raw)
            data = self._unframed()
        return data

    def _receive(self) -> int:
        """Take what has come of the answer; return how much that is."""
        try:
            raw = super()._read()
            if not raw:
                raise StreamError("closed", _ENDED)
            self._frames.receive_data(raw)
        except BlockingIOError:
            return 0
        except ProtocolError as error:
            raise StreamError("websocket", "what answers there speaks no HTTP, or refuses a websocket by it; write the "
                                           f"broker's port for websockets under mqtt.port ({error})") from None
        except StreamError as error:
            raise StreamError("websocket", _ENDED) from error
        return len(raw)

    def _accepted(self) -> bool:
        """Tell whether the broker has said yes; raises StreamError where it has said no."""
        for event in self._frames.handshake.events():
            if isinstance(event, RejectConnection):
                raise StreamError("websocket", _refusal(event.status_code))
            if isinstance(event, AcceptConnection):
                return True
        return False

    def _unframed(self) -> bytes:
        data = b""
        for event in self._frames.events():
            if isinstance(event, BytesMessage):
                data += event.data
            elif isinstance(event, Ping) and len(self._output) < WRITE_BYTES:
                self._output += self._frames.send(event.response())
            elif isinstance(event, TextMessage):
                self._ended = StreamError("protocol", "the broker sent text in the websocket, where MQTT is binary")
            elif isinstance(event, CloseConnection) and self._frames.state is ConnectionState.OPEN:
                self._ended = StreamError("protocol", f"the broker sent no frame of a websocket: {event.reason}")
            elif isinstance(event, CloseConnection):
                self._ended = StreamError("closed", f"the broker closed the websocket with the code {int(event.code)}")
        return data


_ENDED = "the broker ended the line instead of opening a websocket; is this mqtt.port for them, with TLS or without?"


def _refusal(status: int) -> str:
    said = f"{status} {HTTPStatus(status).phrase}" if status in set(HTTPStatus) else str(status)
    if status == HTTPStatus.NOT_FOUND:
        return f"the broker has no websocket under this mqtt.path ({said})"
    return f"the broker opens no websocket: it answers {said}; look at mqtt.port, mqtt.path and mqtt.tls"
