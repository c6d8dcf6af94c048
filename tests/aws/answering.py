"""What each service of the stand-in is to the broker: a client that answers requests on reserved topics."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from types import TracebackType
from typing import Any, Self

import paho.mqtt.client as mqtt

from tests.mosquitto import Mosquitto
from tests.observer import client_of


class Answering:
    """A client under the `name` of the service, which takes up its subscriptions again on every line."""

    def __init__(self, broker: Mosquitto, name: str, filters: Sequence[str]) -> None:
        self._broker = broker
        self._name = name
        self._filters = [(each, 1) for each in filters]
        self._subscribed = threading.Event()
        self._client = client_of(broker, name, clean_session=False)
        soon_s: Any = 0.1  # paho's annotation asks for whole seconds, its code does not
        self._client.reconnect_delay_set(soon_s, soon_s)
        self._client.on_connect = self._on_connect
        self._client.on_subscribe = self._on_subscribe
        self._client.on_message = self._on_message

    def __enter__(self) -> Self:
        self._client.connect(self._broker.host, self._broker.port)
        self._client.loop_start()
        try:
            self.wait_until_ready()
        except BaseException:
            self._client.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._client.close()

    def wait_until_ready(self, timeout_s: float = 10.0) -> None:
        """Return once the broker of this moment has acknowledged the subscriptions; ask again after its restart."""
        self._subscribed.clear()
        self._client.subscribe(self._filters)  # on a line that is gone, the one of the next connect is awaited
        assert self._subscribed.wait(timeout_s), f"the {self._name} was not subscribed within {timeout_s:g} s"

    def _on_connect(self, client: mqtt.Client, userdata: Any, flags: Any, code: Any, properties: Any = None) -> None:
        if code == 0:
            client.subscribe(self._filters)

    def _on_subscribe(self, client: mqtt.Client, userdata: Any, mid: int, codes: Any, properties: Any = None) -> None:
        self._subscribed.set()

    def _on_message(self, client: mqtt.Client, userdata: Any, message: mqtt.MQTTMessage) -> None:
        raise NotImplementedError
