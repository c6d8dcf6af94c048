"""The requests to the shadow service: which wait, which are unanswered, and the token that tells each answer. Pure.

Requests are never kept for a later line: the get and the report made there say more.
"""

import math
from collections.abc import Mapping
from typing import NamedTuple

from iotd.vocabulary import Json

MAX_IN_FLIGHT = 10  # unanswered requests of one thing on one connection; AWS answers 429 beyond
ANSWER_S = 10.0  # no answer by then: the request is forgotten


class Request(NamedTuple):
    """One request: which shadow, get or update, its body without the token, and when it was sent.

    `piece`: a piece of a report, sent to learn whether the service takes it; no other request makes it worthless.
    """

    shadow: int
    verb: str
    body: Mapping[str, Json]
    piece: bool = False
    sent_at: float = 0.0

    @property
    def section(self) -> str:
        """Return desired or reported, nothing for a get."""
        return "".join(self.body.get("state", {}))


class Requests(NamedTuple):
    """The requests of one line; `run` and `made`, how many there have been, make each token its own."""

    run: str
    made: int = 0
    in_flight: Mapping[str, Request] = {}
    waiting: tuple[Request, ...] = ()
    hold_until: float = 0.0
    most_in_flight: int = MAX_IN_FLIGHT


def fresh(requests: Requests, careful: bool = False) -> Requests:
    """Return what a new line begins with; tokens go on. `careful`: one request at a time."""
    return Requests(requests.run, requests.made, most_in_flight=1 if careful else MAX_IN_FLIGHT)


def asked(requests: Requests, request: Request) -> Requests:
    """Put a request in the queue, in place of a waiting one that it makes worthless."""
    kept = tuple(other for other in requests.waiting if request.piece or other.piece
                 or (other.shadow, other.verb, other.section) != (request.shadow, request.verb, request.section))
    return requests._replace(waiting=kept + (request,))


def sent(requests: Requests, now: float) -> tuple[Requests, list[tuple[str, Request]]]:
    """Take what waits, as far as the service's limit of unanswered requests allows, each with its token."""
    room = max(0, requests.most_in_flight - len(requests.in_flight))
    going = requests.waiting[:room] if now >= requests.hold_until else ()
    tokens = [f"{requests.run}-{number}" for number in range(requests.made + 1, requests.made + 1 + len(going))]
    pairs = [(token, request._replace(sent_at=now)) for token, request in zip(tokens, going)]
    return requests._replace(in_flight={**requests.in_flight, **dict(pairs)}, waiting=requests.waiting[len(going):],
                             made=requests.made + len(going)), pairs


def found(requests: Requests, index: int, token: Json) -> Request | None:
    """Return the request to this shadow that an answer with this token belongs to, None for somebody else's."""
    request = requests.in_flight.get(token) if isinstance(token, str) else None
    return request if request is not None and request.shadow == index else None


def answered(requests: Requests, token: str) -> Requests:
    """Return what is left once this request has its answer, or will have none."""
    return requests._replace(in_flight={key: request for key, request in requests.in_flight.items() if key != token})


def of(requests: Requests, index: int) -> list[Request]:
    """Return the requests to this shadow that wait or are unanswered."""
    return [request for request in (*requests.in_flight.values(), *requests.waiting) if request.shadow == index]


def late(requests: Requests, now: float) -> list[str]:
    """Return the tokens of those that have no answer in time."""
    return [token for token, request in requests.in_flight.items() if request.sent_at + ANSWER_S <= now]


def next_due(requests: Requests) -> float:
    """Return when there is something to send or to forget, math.inf for never."""
    due_at = math.inf
    if requests.waiting and len(requests.in_flight) < requests.most_in_flight:
        due_at = requests.hold_until
    return min([due_at, *(request.sent_at + ANSWER_S for request in requests.in_flight.values())])
