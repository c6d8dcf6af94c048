"""The conversation with the Device Shadow service, for all shadows of the thing. Pure.

On every new line: get each shadow, report, seed what is desired and lacking; then report whenever asked. What the
service says is translated into log entries and into effects: `Report`, which the part answers by filling the templates
and calling `report`; `Wanted` and `Desired`, which tell what is to be done.
Requests are never kept for a later line: the get and the report made there say more.

Source: AWS IoT Core developer guide, "Device Shadow MQTT topics" and "Device Shadow service documents".
"""

import json
import logging
import math
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from iotd.shadows.documents import desired_of, difference, lacking, same, size_of
from iotd.shadows.section import Shadow
from iotd.vocabulary import Entry, Json, Message, Received, Send

ANSWERS = ("update/accepted", "update/rejected", "update/delta", "update/documents", "get/accepted", "get/rejected")

MAX_IN_FLIGHT = 10  # unanswered requests of one thing on one connection; AWS answers 429 beyond
MAX_DOCUMENT_BYTES = 8192  # desired and reported, without metadata
ANSWER_S = 10.0  # no answer by then: the request is forgotten
PAUSE_FIRST_S, PAUSE_MAX_S = 10.0, 300.0  # before a get is made again on the same line, doubling
THROTTLED_S = 5.0  # no request at all after a 429

Effect = Any  # Entry, Send, Report, Wanted or Desired


class Report(NamedTuple):
    """Fill the templates of this shadow and hand them to `report`; `desired` is what to seed, still unfilled."""

    shadow: int
    desired: Mapping[str, Json] = {}


class Wanted(NamedTuple):
    """All of what is desired and not reported, None where the two agree; said each time it is heard, news or not."""

    shadow: int
    delta: Json


class Desired(NamedTuple):
    """The whole desired state."""

    shadow: int
    state: Mapping[str, Json]


class Request(NamedTuple):
    """One request: which shadow, get or update, its body without the token, and when it was sent."""

    shadow: int
    verb: str
    body: Mapping[str, Json]
    sent_at: float = 0.0


class Standing(NamedTuple):
    """What is known of one shadow.

    `stage`: silent (no line), getting (the document is asked for), reporting. `delta` is the difference last logged,
    kept across lines, so that the service's repetition of it after every report says nothing twice.
    `delta_version` holds for one line only: a shadow deleted and made anew counts from 1 again.
    """

    stage: str = "silent"
    get_at: float = math.inf
    get_pause_s: float = PAUSE_FIRST_S
    delta: Json = None
    delta_version: int = 0
    too_large: bool = False


class Conversation(NamedTuple):
    """The state of all shadows of one thing."""

    thing: str
    shadows: tuple[Shadow, ...]
    run: str
    standings: tuple[Standing, ...]
    in_flight: Mapping[str, Request] = {}
    waiting: tuple[Request, ...] = ()
    requests: int = 0
    hold_until: float = 0.0
    mute_told: bool = False
    most_in_flight: int = MAX_IN_FLIGHT
    resting: frozenset[str] = frozenset()


def start(thing: str, shadows: tuple[Shadow, ...], run: str) -> Conversation:
    """Return the conversation of a run (`run` makes its tokens its own) that has not spoken yet."""
    return Conversation(thing, shadows, run, tuple(Standing() for _ in shadows))


def prefix(thing: str, name: str | None) -> str:
    """Return the topic prefix of a shadow; `name` None is the classic one."""
    classic = f"$aws/things/{thing}/shadow"
    return classic if name is None else f"{classic}/name/{name}"


def filters(conversation: Conversation) -> tuple[str, ...]:
    """Return the filters to subscribe. One by one: AWS may add topics below `shadow/` and asks to avoid `#`."""
    prefixes = (prefix(conversation.thing, shadow.name) for shadow in conversation.shadows)
    return tuple(f"{start_of_topic}/{answer}" for start_of_topic in prefixes for answer in ANSWERS)


def action(conversation: Conversation, index: int) -> str:
    """Return what is called denied where the broker takes no request to this shadow, or none of its filters."""
    name = conversation.shadows[index].name
    return "the classic shadow" if name is None else f"shadow {name}"


def actions(conversation: Conversation) -> dict[str, str]:
    """Return the action that each topic and filter of a shadow is part of."""
    return {f"{prefix(conversation.thing, shadow.name)}/{end}": action(conversation, index)
            for index, shadow in enumerate(conversation.shadows) for end in (*ANSWERS, "get", "update")}


def unanswered(conversation: Conversation) -> list[str]:
    """Return the actions that the service has yet to answer."""
    return [action(conversation, request.shadow) for request in conversation.in_flight.values()]


def opened(
    conversation: Conversation, now: float, careful: bool = False, resting: Iterable[str] = ()
) -> tuple[Conversation, list[Effect]]:
    """The line is up and the filters are subscribed: get every shadow.

    `careful`: ask for one thing at a time. `resting` names the actions that are not to be asked for at all.
    """
    standings = tuple(Standing("getting", delta=old.delta) for old in conversation.standings)
    conversation = conversation._replace(
        standings=standings, in_flight={}, waiting=(), hold_until=0.0, mute_told=False,
        most_in_flight=1 if careful else MAX_IN_FLIGHT, resting=frozenset(resting))
    for index in range(len(conversation.shadows)):
        conversation = _ask(conversation, Request(index, "get", {}))
    return _pump(conversation, now)


def closed(conversation: Conversation) -> Conversation:
    """The line is down: no answer will come any more."""
    standings = tuple(standing._replace(stage="silent", get_at=math.inf) for standing in conversation.standings)
    return conversation._replace(standings=standings, in_flight={}, waiting=())


def report(
    conversation: Conversation, index: int, reported: Json, desired: Json, now: float
) -> tuple[Conversation, list[Effect]]:
    """Send what the templates gave; nothing while the shadow is silent or its get is under way.

    A report still waiting for its turn is replaced: only the newest is worth a request.
    """
    standing = conversation.standings[index]
    if standing.stage != "reporting":
        return conversation, []
    size = size_of(reported) + size_of(desired)
    if size > MAX_DOCUMENT_BYTES:
        name = conversation.shadows[index].name
        entry = Entry(logging.WARNING, "shadow.rejected", "the report is too large and was not sent; shorten it",
                      {"shadow": name, "code": 413, "reason": f"{size} bytes, at most {MAX_DOCUMENT_BYTES}"})
        return _stand(conversation, index, too_large=True), [] if standing.too_large else [entry]
    conversation = _stand(conversation, index, too_large=False)
    conversation = _ask(conversation, Request(index, "update", {"state": {"reported": reported}}))
    if desired:
        conversation = _ask(conversation, Request(index, "update", {"state": {"desired": desired}}))
    return _pump(conversation, now)


def heard(conversation: Conversation, received: Received, now: float) -> tuple[Conversation, list[Effect]]:
    """Take a message on one of `filters`; anything that is not as the service writes it is one log entry."""
    place = _place(conversation, received.topic)
    if place is None:
        return conversation, []
    index, answer = place
    name = conversation.shadows[index].name
    body, reason = _parsed(received.payload)
    if body is None:
        return conversation, [Entry(logging.WARNING, "shadow.unreadable", "a shadow message makes no sense; ignored",
                                    {"shadow": name, "topic": received.topic, "reason": reason})]
    handle = {"get/accepted": _get_accepted, "update/accepted": _update_accepted, "update/delta": _delta,
              "update/documents": _documents}.get(answer, _rejected)
    try:
        conversation, effects = handle(conversation, index, body, now)
    except RecursionError:
        return conversation, [_nonsense(conversation, index, "nested too deep")]
    conversation, sent = _pump(conversation, now)
    return conversation, effects + sent


def keep(conversation: Conversation, now: float) -> tuple[Conversation, list[Effect]]:
    """Do what is due: forget requests without an answer, make failed gets again, send what was held back."""
    effects: list[Effect] = []
    late = [token for token, request in conversation.in_flight.items() if request.sent_at + ANSWER_S <= now]
    for token in late:
        request = conversation.in_flight[token]
        conversation = _forget(conversation, token)
        if not conversation.mute_told:
            conversation = conversation._replace(mute_told=True)
            effects.append(Entry(logging.WARNING, "shadow.unanswered",
                                 "the shadow service does not answer; reporting goes on without it",
                                 {"shadow": conversation.shadows[request.shadow].name, "verb": request.verb}))
        if request.verb == "get":
            conversation, more = _get_failed(conversation, request.shadow, now)
            effects += more
        elif "desired" in request.body["state"]:
            conversation = _get_later(conversation, request.shadow, now)
    for index, standing in enumerate(conversation.standings):
        if standing.get_at <= now:
            conversation = _ask(_stand(conversation, index, get_at=math.inf), Request(index, "get", {}))
    conversation, sent = _pump(conversation, now)
    return conversation, effects + sent


def next_due(conversation: Conversation) -> float:
    """Return when `keep` has something to do, math.inf for never."""
    due_at = math.inf
    if conversation.waiting and len(conversation.in_flight) < conversation.most_in_flight:
        due_at = conversation.hold_until
    for request in conversation.in_flight.values():
        due_at = min(due_at, request.sent_at + ANSWER_S)
    for standing in conversation.standings:
        due_at = min(due_at, standing.get_at)
    return due_at


def _get_accepted(
    conversation: Conversation, index: int, body: dict[str, Json], now: float
) -> tuple[Conversation, list[Effect]]:
    if not _ours(conversation, index, "get", body):
        return conversation, []
    conversation = _forget(conversation, body["clientToken"])
    state, version = body.get("state"), _version(body)
    if not isinstance(state, dict) or version is None:
        conversation, more = _get_failed(conversation, index, now)
        return conversation, [_nonsense(conversation, index, "a document without state and version"), *more]
    effects: list[Effect] = [_accepted(conversation, index, version)]
    standing = conversation.standings[index]
    if version >= standing.delta_version:
        conversation, more = _differs(conversation, index, version, state.get("delta") or None)
        effects += [*more, Desired(index, desired_of(state))]
    desired = state.get("desired") or {}
    seed = lacking(conversation.shadows[index].desired, desired) if isinstance(desired, dict) else {}
    conversation = _stand(conversation, index, stage="reporting", get_at=math.inf)
    return conversation, [*effects, Report(index, seed)]


def _update_accepted(
    conversation: Conversation, index: int, body: dict[str, Json], now: float
) -> tuple[Conversation, list[Effect]]:
    version = _version(body)
    if not _ours(conversation, index, "update", body) or version is None:
        return conversation, []
    conversation = _forget(conversation, body["clientToken"])
    effects: list[Effect] = [_accepted(conversation, index, version)]
    if version < conversation.standings[index].delta_version:
        # The shadow was deleted and made anew while we listened: its numbers started again, so does our knowledge.
        # Or it is only late. After a pause, since whoever answers each report with an order makes every one late.
        conversation = _get_later(_stand(conversation, index, delta_version=0), index, now)
    return conversation, effects


def _delta(
    conversation: Conversation, index: int, body: dict[str, Json], now: float
) -> tuple[Conversation, list[Effect]]:
    state, version = body.get("state"), _version(body)
    if not isinstance(state, dict) or version is None:
        return conversation, [_nonsense(conversation, index, "a delta without state and version")]
    # Accepted, delta and documents of one update share a version and come in any order: only older is stale.
    if version < conversation.standings[index].delta_version:
        return conversation, []
    return _differs(conversation, index, version, state)


def _documents(
    conversation: Conversation, index: int, body: dict[str, Json], now: float
) -> tuple[Conversation, list[Effect]]:
    current = body.get("current")
    version = _version(current) if isinstance(current, dict) else None
    state = current.get("state") if isinstance(current, dict) else None
    if version is None or not isinstance(state, dict):
        return conversation, [_nonsense(conversation, index, "documents without a current state and version")]
    fields = {"shadow": conversation.shadows[index].name, "version": version,
              "previous": body.get("previous"), "current": current}
    effects: list[Effect] = [Entry(logging.DEBUG, "shadow.documents", "the shadow has changed", fields)]
    if version >= conversation.standings[index].delta_version:
        effects.append(Desired(index, desired_of(state)))
        if not difference(state.get("desired"), state.get("reported")):
            conversation, more = _differs(conversation, index, version, None)
            effects += more
    return conversation, effects


def _rejected(
    conversation: Conversation, index: int, body: dict[str, Json], now: float
) -> tuple[Conversation, list[Effect]]:
    token = body.get("clientToken")
    request = conversation.in_flight.get(token) if isinstance(token, str) else None
    if request is None or request.shadow != index:
        return conversation, []
    conversation = _forget(conversation, str(token))
    code = body.get("code")
    if request.verb == "get" and code == 404:
        # Not yet born: the first report creates it.
        conversation = _stand(conversation, index, stage="reporting", delta=None, delta_version=0)
        seed = lacking(conversation.shadows[index].desired, {})
        return conversation, [Wanted(index, None), Desired(index, {}), Report(index, seed)]
    effects: list[Effect] = [Entry(logging.WARNING, "shadow.rejected", f"the shadow service refused the {request.verb}",
                                   {"shadow": conversation.shadows[index].name, "code": code,
                                    "reason": str(body.get("message", ""))[:200]})]
    if code == 429:
        conversation = conversation._replace(hold_until=now + THROTTLED_S)
    if request.verb == "get":
        conversation, more = _get_failed(conversation, index, now)
        effects += more
    elif code == 409 or (code in (429, 500) and "desired" in request.body["state"]):
        conversation = _get_later(conversation, index, now)
    return conversation, effects


def _get_failed(conversation: Conversation, index: int, now: float) -> tuple[Conversation, list[Effect]]:
    """A device whose get fails still reports; the get is made again."""
    first = conversation.standings[index].stage == "getting"
    conversation = _get_later(_stand(conversation, index, stage="reporting"), index, now)
    return conversation, [Report(index)] if first else []


def _get_later(conversation: Conversation, index: int, now: float) -> Conversation:
    """Make the get again after a growing pause: what is found there decides what is still to be seeded."""
    pause_s = conversation.standings[index].get_pause_s
    return _stand(conversation, index, get_at=now + pause_s, get_pause_s=min(PAUSE_MAX_S, 2 * pause_s))


def _differs(
    conversation: Conversation, index: int, version: int, delta: Json
) -> tuple[Conversation, list[Effect]]:
    """Take the whole difference as of `version`; it is news only where its content is."""
    news = delta is not None and not same(delta, conversation.standings[index].delta)
    conversation = _stand(conversation, index, delta=delta, delta_version=version)
    wanted = Wanted(index, delta)
    if not news:
        return conversation, [wanted]
    fields = {"shadow": conversation.shadows[index].name, "version": version, "state": delta}
    entry = Entry(logging.INFO, "shadow.delta", "what is desired differs from what is reported", fields)
    return conversation, [entry, wanted]


def _ask(conversation: Conversation, request: Request) -> Conversation:
    """Put a request in the queue, in place of a waiting one that it makes worthless; not where its shadow rests."""
    if action(conversation, request.shadow) in conversation.resting:
        return conversation
    section = list(request.body.get("state", {}))
    kept = tuple(other for other in conversation.waiting
                 if (other.shadow, other.verb, list(other.body.get("state", {}))) !=
                 (request.shadow, request.verb, section))
    return conversation._replace(waiting=kept + (request,))


def _pump(conversation: Conversation, now: float) -> tuple[Conversation, list[Effect]]:
    """Send what waits, as far as the service's limit of unanswered requests allows."""
    room = max(0, conversation.most_in_flight - len(conversation.in_flight))
    going = conversation.waiting[:room] if now >= conversation.hold_until else ()
    if not going:
        return conversation, []
    in_flight, effects = dict(conversation.in_flight), []
    for number, request in enumerate(going, conversation.requests + 1):
        token = f"{conversation.run}-{number}"
        in_flight[token] = request._replace(sent_at=now)
        topic = f"{prefix(conversation.thing, conversation.shadows[request.shadow].name)}/{request.verb}"
        payload = json.dumps({**request.body, "clientToken": token}, ensure_ascii=False, separators=(",", ":"))
        effects.append(Send(Message(topic, payload.encode("utf-8"))))
    return conversation._replace(in_flight=in_flight, waiting=conversation.waiting[len(going):],
                                 requests=conversation.requests + len(going)), effects


def _place(conversation: Conversation, topic: str) -> tuple[int, str] | None:
    """Return which shadow and which answer a topic stands for, or None for one that is not ours."""
    for index, shadow in enumerate(conversation.shadows):
        start_of_topic = prefix(conversation.thing, shadow.name) + "/"
        if topic.startswith(start_of_topic) and topic[len(start_of_topic):] in ANSWERS:
            return index, topic[len(start_of_topic):]
    return None


def _parsed(payload: bytes) -> tuple[dict[str, Json] | None, str]:
    try:
        body = json.loads(payload)
    except (ValueError, RecursionError) as error:
        return None, f"not JSON: {error}"[:200]
    if not isinstance(body, dict):
        return None, f"a JSON {type(body).__name__}, not an object"
    return body, ""


def _version(body: Mapping[str, Json]) -> int | None:
    version = body.get("version")
    return version if isinstance(version, int) and not isinstance(version, bool) else None


def _ours(conversation: Conversation, index: int, verb: str, body: Mapping[str, Json]) -> bool:
    token = body.get("clientToken")
    request = conversation.in_flight.get(token) if isinstance(token, str) else None
    return request is not None and request.shadow == index and request.verb == verb


def _forget(conversation: Conversation, token: str) -> Conversation:
    return conversation._replace(in_flight={key: request for key, request in conversation.in_flight.items()
                                            if key != token})


def _stand(conversation: Conversation, index: int, **changes: Any) -> Conversation:
    standings = list(conversation.standings)
    standings[index] = standings[index]._replace(**changes)
    return conversation._replace(standings=tuple(standings))


def _accepted(conversation: Conversation, index: int, version: int) -> Entry:
    return Entry(logging.DEBUG, "shadow.accepted", "the shadow service has taken the request",
                 {"shadow": conversation.shadows[index].name, "version": version})


def _nonsense(conversation: Conversation, index: int, reason: str) -> Entry:
    return Entry(logging.WARNING, "shadow.unreadable", "a shadow message makes no sense; ignored",
                 {"shadow": conversation.shadows[index].name, "reason": reason})
