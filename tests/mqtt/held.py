"""A session on a thread of its own, whose events a test takes one by one."""

from __future__ import annotations

import ssl
import time
from queue import SimpleQueue
from typing import Any, Callable

from iotd.mqtt import credentials
from iotd.mqtt.connection import Dial
from iotd.mqtt.session import Session
from iotd.mqtt.settings import Tls
from iotd.vocabulary import Message
from tests.certificates import Certificates
from tests.mosquitto import Mosquitto

PATIENCE_S = 15.0
WILL = Message("t/will", b"lost", 1, True)


class Held:
    """A session whose events a test takes one by one."""

    def __init__(self) -> None:
        self.events: SimpleQueue[Any] = SimpleQueue()
        self.session = Session(self.events.put, lambda: 0)
        self.session.start()

    def dial(self, broker: Mosquitto, certificates: Certificates | None, line: int = 1, **changes: Any) -> None:
        settings: dict[str, Any] = {
            "line": line, "host": broker.host, "port": broker.port, "client_id": "test-thing", "clean_session": False,
            "keepalive_s": 60, "will": WILL, "context": context_of(certificates)}
        self.session.dial(Dial(**{**settings, **changes}))

    def next(self, kind: type) -> Any:
        """Return the next event of this kind, whatever comes before it; nothing in time fails the test."""
        self.session.go()
        deadline = time.monotonic() + PATIENCE_S
        while True:
            event = self.events.get(timeout=max(0.001, deadline - time.monotonic()))
            if isinstance(event, kind):
                return event


def context_of(certificates: Certificates | None) -> Callable[[], ssl.SSLContext | None]:
    if certificates is None:
        return lambda: None
    tls = Tls(str(certificates.ca), str(certificates.client.cert), str(certificates.client.key))
    return lambda: credentials.context(tls)
