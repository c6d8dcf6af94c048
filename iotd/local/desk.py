"""What programs ask for is done here, on the main thread, and answered: by the kernel, and by what is permitted."""

from __future__ import annotations

import json
import traceback
from collections.abc import Callable, Iterable, Sequence
from itertools import groupby
from typing import Any

from iotd.config.settings import Settings
from iotd.daemon.part import Kernel
from iotd.host import log
from iotd.local import permits
from iotd.local.door import Asked, Door
from iotd.local.orders import Answer, Heard, Release
from iotd.local.requests import Ask, Clear, Listen, Request, Status, Tell
from iotd.mqtt import topics
from iotd.vocabulary import Offer, Received, Taken

FILTERS = 50  # of one connection

_BUG = "a bug in iotd, which its journal tells of"
_encode = json.JSONEncoder(ensure_ascii=False, allow_nan=False).encode


class Desk:
    """The programs' requests and who listens to what; those that are ahead of the line wait until `held_until`."""

    def __init__(self, kernel: Kernel, door: Door, settings: Settings) -> None:
        self.settings = settings
        self.held_until = 0.0
        self._kernel = kernel
        self._door = door
        self._listeners: dict[int, set[str]] = {}

    def asked(self, event: Asked, now: float) -> None:
        """Do what is asked for and answer; a bug in that ends nothing else."""
        requests = event.requests
        clear = requests[-1] if isinstance(requests[-1], Clear) else None  # the door lets nothing follow it
        try:
            lines = self._answers(event, requests if clear is None else requests[:-1], now)
        except Exception:
            log.error("program.fault", "a bug in iotd; the program is told so", traceback=traceback.format_exc())
            lines = [_line({"refused": _BUG})] * len(requests)
        hold = False
        if any(isinstance(request, Offer) for request in requests):
            until = self._kernel.crowded_until(now)
            hold = until > now
            self.held_until = max(self.held_until, until)

        def tell(*more: str) -> None:
            answers = "".join([*lines, *more]).encode("utf-8", "backslashreplace")
            self._door.order(Answer(event.connection, answers, hold, event.connection in self._listeners))

        if clear is None:
            tell()
        else:
            self._clear(clear.topic, event.trusted, lambda answer: tell(_line(answer)))

    @property
    def listeners(self) -> int:
        """How many connections listen."""
        return len(self._listeners)

    def keep(self, now: float) -> None:
        """Let the programs that wait go on, once it is time or there is room."""
        if self.held_until and (now >= self.held_until or not self._kernel.crowded_until(now)):
            self.held_until = 0.0
            self._door.order(Release())

    def heard(self, received: Received) -> None:
        """Hand a message on to those who listen to it."""
        if not self._listeners:
            return
        shared = self._kernel.shared()
        listeners = [number for number, filters in self._listeners.items()
                     if permits.hears(filters, shared, received.topic, self.settings)]
        if listeners:
            line = _message(received).encode("utf-8", "backslashreplace")
            self._door.order(Heard(tuple(listeners), line))

    def left(self, connection: int) -> None:
        """A connection that listened has gone."""
        self._listeners.pop(connection, None)

    def _answers(self, event: Asked, requests: Sequence[Request], now: float) -> list[str]:
        lines: list[str] = []
        for kind, group in groupby(requests, type):
            if kind is Offer:
                lines += self._publish([offer for offer in group if isinstance(offer, Offer)], now)
            else:
                lines += [_line(self._answer(event, request, now)) for request in group]
        return lines

    def _answer(self, event: Asked, request: Any, now: float) -> Any:
        connection = event.connection
        match request:
            case Tell(name, value):
                why = self._kernel.tell(name, value, now)
                return {"refused": why} if why else {"set": name}
            case Listen(name):
                listened = self._listeners.get(connection, set())
                why = permits.listen_problem(name, self._kernel.shared(), self.settings) or ""
                if not why and len(listened | {name}) > FILTERS:
                    why = f"this connection listens to {FILTERS} filters already; open another one"
                if why:
                    return {"refused": why}
                self._listeners[connection] = listened | {name}
                return {"listening": name}
            case Ask(word):
                why = self._kernel.ask(word, now) if event.trusted else \
                    "only root and the user that the daemon runs as may ask for that; run it by sudo"
                return {"refused": why} if why else {"asked": word}
            case Status():
                return self._kernel.status()
        return {"refused": request.why}

    def _clear(self, topic: str | None, trusted: bool, tell: Callable[[Any], None]) -> None:
        """Have retained messages cleared for those who may ask for that; `tell` once the broker has answered."""
        why = None if trusted else "clear_retained is for root and the user of iotd alone"
        if why is None and topic is not None:
            why = topics.topic_problem(topic, self.settings.mqtt.aws_limits, retain=True)
        if why:
            tell({"refused": why})
        else:
            self._kernel.clear_retained(
                topic, lambda cleared, why: tell({**({"refused": why} if why else {}), "cleared": cleared}))

    def _publish(self, offers: Sequence[Offer], now: float) -> Iterable[str]:
        """Return the answers to messages that follow each other, all of which are kept with one write."""
        problems: dict[tuple[str, bool], str | None] = {}
        refused: dict[int, str] = {}
        limited = self.settings.mqtt.aws_limits
        for position, (message, _) in enumerate(offers):
            topic, payload, _, retain = message
            place = topic, retain
            if place not in problems:
                problems[place] = permits.publish_problem(topic, retain, self.settings)
            problem = problems[place] or topics.payload_problem(len(payload), limited)
            if problem:
                refused[position] = problem
        allowed = [offer for position, offer in enumerate(offers) if position not in refused] if refused else offers
        taken = iter(self._kernel.publish(allowed, now) if allowed else ())
        return [_line({"refused": refused[position]}) if position in refused else _became(next(taken))
                for position in range(len(offers))]


def _became(taken: Taken) -> str:
    kept, dropped, refused = taken
    if kept:
        return f'{{"kept": {kept}}}\n'
    return _line({"refused": refused} if refused else {"dropped": dropped} if dropped else {"sent": True})


def _message(received: Received) -> str:
    fields = {"topic": received.topic, "qos": received.qos, "retain": received.retain}
    try:
        return _line({**fields, **log.readable(received.payload)})
    except (ValueError, RecursionError):  # a number beyond JSON's, or nested deeper than can be followed from here
        return _line({**fields, "payload": received.payload.decode("utf-8", "replace")})


def _line(answer: Any) -> str:
    return _encode(answer) + "\n"
