"""The independent client of a test: it sees what really arrived at the broker, in which order."""

from __future__ import annotations

import json
import ssl
import threading
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Callable

import paho.mqtt.client as mqtt

from tests.certificates import Identity
from tests.mosquitto import Mosquitto

PATIENCE_S = 10.0


class Client(mqtt.Client):  # type: ignore[misc]
    """A paho client of 1.6 or 2.x whose thread outlives a broken line and which leaves nothing open.

    Callbacks that fit both: `on_connect(client, userdata, flags, code, properties=None)`,
    `on_subscribe(client, userdata, mid, codes, properties=None)`, `on_message(client, userdata, message)`;
    codes compare with numbers.
    """

    def __init__(self, client_id: str, *, clean_session: bool = True) -> None:
        arguments: dict[str, Any] = {"client_id": client_id, "clean_session": clean_session}
        if versions := getattr(mqtt, "CallbackAPIVersion", None):
            arguments["callback_api_version"] = versions.VERSION2
        super().__init__(**arguments)
        self._closing = threading.Event()

    def loop_forever(self, *arguments: Any, **keywords: Any) -> Any:
        """Run the loop of `loop_start`; an OSError, of which the thread of paho 1.6 dies, is a line to take up again.

        It lets through what is no ConnectionError: SSLEOFError on a write, no route to the host.
        """
        while True:
            with suppress(OSError):
                return super().loop_forever(*arguments, **keywords)
            if self._closing.wait(0.1):
                return mqtt.MQTT_ERR_SUCCESS
            with suppress(OSError):
                self.reconnect()

    def close(self) -> None:
        """Disconnect, end the thread and close all sockets.

        paho closes its wake-up sockets only when the client is freed; the callbacks lead back to it and would keep
        it, and its open sockets, until the next run of the garbage collector.
        """
        self._closing.set()
        self.disconnect()
        self.loop_stop()
        for callback in ("on_connect", "on_subscribe", "on_message"):
            setattr(self, callback, None)


def tls_context(ca: Path, identity: Identity) -> ssl.SSLContext:
    """Return a context that verifies the broker and shows `identity` to it."""
    context = ssl.create_default_context(cafile=str(ca))
    context.load_cert_chain(identity.cert, identity.key)
    return context


def client_of(broker: Mosquitto, name: str, *, clean_session: bool = True) -> Client:
    """Return a client for this broker, with a certificate of its own where that asks for one."""
    client = Client(name, clean_session=clean_session)
    if broker.certificates is not None:
        identity = broker.certificates.authority.issue(name)
        client.tls_set_context(tls_context(broker.certificates.ca, identity))
    return client


@dataclass(frozen=True, slots=True)
class Message:
    """One message as it arrived; `order` counts from 0 for each observer."""

    order: int
    topic: str
    payload: bytes
    qos: int
    retain: bool

    def json(self) -> Any:
        """Return the payload parsed; raises ValueError when it is not JSON in UTF-8."""
        return json.loads(self.payload.decode("utf-8"))


class Observer:
    """A client with its own certificate that records every message; each wait ends at its deadline."""

    def __init__(self, broker: Mosquitto, name: str = "observer", login: tuple[str, str] | None = None) -> None:
        self._changed = threading.Condition()
        self._messages: list[Message] = []
        self._subscribed: dict[int | None, list[int]] = {}
        self._connected = False
        self._refused: str | None = None
        self._client = client_of(broker, name)
        if login is not None:
            self._client.username_pw_set(*login)
        self._client.on_connect = self._on_connect
        self._client.on_subscribe = self._on_subscribe
        self._client.on_message = self._on_message
        self._broker = broker

    def __enter__(self) -> Observer:
        self._client.connect(self._broker.host, self._broker.port)
        self._client.loop_start()
        try:
            self._wait(lambda: self._connected or self._refused is not None, PATIENCE_S, "a CONNACK")
            assert self._refused is None, f"the broker refused the observer: {self._refused}"
        except BaseException:
            self._client.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._client.close()

    @property
    def messages(self) -> tuple[Message, ...]:
        """Everything that has arrived so far, in order."""
        with self._changed:
            return tuple(self._messages)

    def subscribe(self, *filters: str, qos: int = 1) -> None:
        """Return once the broker has granted all filters; retained messages follow."""
        with self._changed:
            code, mid = self._client.subscribe([(filter_, qos) for filter_ in filters])
            assert code == mqtt.MQTT_ERR_SUCCESS, f"subscribe to {filters}: {mqtt.error_string(code)}"
        self._wait(lambda: mid in self._subscribed, PATIENCE_S, f"a SUBACK for {filters}")
        assert max(self._subscribed[mid]) < 0x80, f"the broker refused one of {filters}: {self._subscribed[mid]}"

    def publish(self, topic: str, payload: bytes | str | dict[str, Any], *, qos: int = 1, retain: bool = False) -> None:
        """Return once the broker has the message (QoS 1: its PUBACK); a dict is sent as JSON."""
        body = json.dumps(payload, ensure_ascii=False).encode() if isinstance(payload, dict) else payload
        sent = self._client.publish(topic, body, qos=qos, retain=retain)
        sent.wait_for_publish(PATIENCE_S)
        assert sent.is_published(), f"no PUBACK for {topic} within {PATIENCE_S:g} s"

    def wait_for(
        self,
        topic: str,
        matches: Callable[[Message], object] = lambda message: True,
        *,
        since: int = 0,
        timeout_s: float = PATIENCE_S,
    ) -> Message:
        """Return the first message on a topic filter that matches, one that came before included.

        `since` skips the messages whose `order` is smaller. Raises AssertionError with everything that did come.
        """
        found: list[Message] = []

        def look() -> bool:
            found[:] = [
                message
                for message in self._messages[since:]
                if mqtt.topic_matches_sub(topic, message.topic) and matches(message)
            ][:1]
            return bool(found)

        self._wait(look, timeout_s, f"the awaited message on {topic}")
        return found[0]

    def _wait(self, condition: Callable[[], bool], timeout_s: float, what: str) -> None:
        with self._changed:
            arrived = self._changed.wait_for(condition, timeout_s)
            seen = "\n".join(str(message) for message in self._messages) or "nothing"
        assert arrived, f"{what} did not come within {timeout_s:g} s; what came:\n{seen}"

    def _on_connect(self, client: mqtt.Client, userdata: Any, flags: Any, code: Any, properties: Any = None) -> None:
        with self._changed:
            self._connected = code == 0
            self._refused = None if self._connected else str(code)
            self._changed.notify_all()

    def _on_subscribe(self, client: mqtt.Client, userdata: Any, mid: int, codes: Any, properties: Any = None) -> None:
        with self._changed:
            self._subscribed[mid] = [getattr(code, "value", code) for code in codes]
            self._changed.notify_all()

    def _on_message(self, client: mqtt.Client, userdata: Any, message: mqtt.MQTTMessage) -> None:
        with self._changed:
            self._messages.append(
                Message(len(self._messages), message.topic, bytes(message.payload), message.qos, bool(message.retain))
            )
            self._changed.notify_all()
