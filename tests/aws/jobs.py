"""The Jobs service on the reserved topics of a broker, usable by any client, with hooks for what goes wrong.

AWS hands an answer to who has asked, past the broker, and to nobody else; here it is published, and has to be
subscribed.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

import paho.mqtt.client as mqtt

from tests.aws.answering import Answering
from tests.aws.executions import Answer, Execution, Executions, Json
from tests.mosquitto import Mosquitto

NAME = "jobs-service"
FILTERS = [f"$aws/things/+/jobs/{verb}" for verb in ("get", "start-next", "+/get", "+/update")]


class JobsService(Answering):
    """A client of the broker that keeps the job executions of all things, in memory.

    `courier` is given the answers to each request and what they bring about, and returns what is delivered of them:
    it may drop, double or reorder. It may be replaced at any time.
    """

    def __init__(self, broker: Mosquitto, *, clock: Callable[[], float] = time.time) -> None:
        self.courier: Callable[[Sequence[Answer]], Sequence[Answer]] = lambda answers: answers
        self.executions = Executions(clock)
        self._lock = threading.RLock()
        self._failures: list[str] = []
        super().__init__(broker, NAME, FILTERS)

    def create(self, thing: str, job: str, document: Json, in_progress_s: float | None = None) -> None:
        """Queue a job for a thing, or its next attempt."""
        with self._lock:
            self._deliver(self.executions.create(thing, job, document, in_progress_s))

    def cancel(self, thing: str, job: str, force: bool = False) -> None:
        """Cancel a job; one that is in progress only by force."""
        with self._lock:
            self._deliver(self.executions.cancel(thing, job, force))

    def run_timers(self) -> None:
        """End what has taken too long by the clock."""
        with self._lock:
            self._deliver(self.executions.run_timers())

    def execution(self, thing: str, job: str, number: int | None = None) -> Execution:
        """Return an execution, the newest where no number is given."""
        with self._lock:
            return self.executions.find(thing, job, number)

    def fail_next(self, code: str) -> None:
        """Refuse the next request with a word such as RequestThrottled; several calls queue up."""
        with self._lock:
            self._failures.append(code)

    def _on_message(self, client: mqtt.Client, userdata: Any, message: mqtt.MQTTMessage) -> None:
        if message.retain:  # AWS takes no RETAIN on a reserved topic
            return
        with self._lock:
            if self._failures:
                told = {"code": self._failures.pop(0), "message": "as the test has it"}
                try:
                    told["clientToken"] = json.loads(message.payload)["clientToken"]
                except (KeyError, ValueError):
                    pass
                self._deliver([(f"{message.topic}/rejected", told)])
            else:
                self._deliver(self.executions.asked(message.topic, bytes(message.payload)))

    def _deliver(self, answers: Sequence[Answer]) -> None:
        for topic, payload in self.courier(answers):
            self._client.publish(topic, json.dumps(payload, ensure_ascii=False).encode(), qos=1)
