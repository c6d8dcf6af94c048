"""The conversation with the Device Shadow service, for all shadows of the thing. Pure.

On every new line: get each shadow, report, seed what is desired and lacking; then report whenever asked. What the
service says is translated into log entries and into effects: `Report`, which the part answers by filling the templates
and calling `report`; `Wanted` and `Desired`, which tell what is to be done; `Taken`, which tells what has arrived.
What of it may be believed is judged by `standing`; what is said, by `reports`.

Source: AWS IoT Core developer guide, "Device Shadow MQTT topics" and "Device Shadow service documents".
"""

import logging
import math
from collections.abc import Iterable, Mapping

from iotd.shadows import messages, reports, requests, standing as known
from iotd.shadows.documents import desired_of, difference, lacking, same
from iotd.shadows.exchange import Conversation, Desired, Effect, Outcome, Report, Taken, Wanted, ask, pump, put, stand
from iotd.shadows.messages import version_in
from iotd.shadows.requests import Request
from iotd.vocabulary import Entry, Json, Received

THROTTLED_S = 5.0  # no request at all after a 429


def opened(conversation: Conversation, now: float, careful: bool = False, resting: Iterable[str] = ()) -> Outcome:
    """The line is up and the filters are subscribed: get every shadow.

    `careful`: ask for one thing at a time. `resting` names the actions that are not to be asked for at all; what comes
    of such a shadow is no order.
    """
    conversation = conversation._replace(
        standings=tuple(map(known.opened, conversation.standings)), mute_told=False, resting=frozenset(resting),
        requests=requests.fresh(conversation.requests, careful))
    for index in range(len(conversation.shadows)):
        conversation = ask(conversation, Request(index, "get", {}))
    return pump(conversation, now)


def closed(conversation: Conversation) -> Conversation:
    """The line is down: no answer will come any more."""
    return conversation._replace(standings=tuple(map(known.closed, conversation.standings)),
                                 requests=requests.fresh(conversation.requests))


def heard(conversation: Conversation, received: Received, now: float) -> Outcome:
    """Take a message on one of `filters`; anything that is not as the service writes it is one log entry."""
    place = messages.place(conversation.thing, conversation.shadows, received.topic)
    if place is None:
        return conversation, []
    index, answer = place
    body, reason = messages.parsed(received.payload)
    if body is None:
        return conversation, [Entry(logging.WARNING, "shadow.unreadable", "a shadow message makes no sense; ignored",
                                    {"shadow": conversation.shadows[index].name, "topic": received.topic,
                                     "reason": reason})]
    handle = {"get/accepted": _get_accepted, "update/accepted": _update_accepted, "update/delta": _delta,
              "update/documents": _documents}.get(answer, _rejected)
    try:
        conversation, effects = handle(conversation, index, body, now)
    except RecursionError:
        return conversation, [_nonsense(conversation, index, "nested too deep")]
    return _go_on(conversation, effects, now)


def keep(conversation: Conversation, now: float) -> Outcome:
    """Do what is due: forget requests without an answer, make failed gets again, send what was held back."""
    effects: list[Effect] = []
    for token in requests.late(conversation.requests, now):
        request = conversation.requests.in_flight[token]
        conversation = _forget(conversation, token)
        if not conversation.mute_told:
            conversation = conversation._replace(mute_told=True)
            effects.append(Entry(logging.WARNING, "shadow.unanswered",
                                 "the shadow service does not answer; reporting goes on without it",
                                 {"shadow": conversation.shadows[request.shadow].name, "verb": request.verb}))
        if request.verb == "get":
            conversation, more = _get_failed(conversation, request.shadow, now)
            effects += more
        elif request.section == "desired":
            conversation = put(
                conversation, request.shadow, known.get_later(conversation.standings[request.shadow], now))
    for index, standing in enumerate(conversation.standings):
        if min(standing.get_at, standing.whole_at) <= now:
            conversation = stand(conversation, index, get_at=math.inf, whole_at=math.inf)
            conversation = ask(conversation, Request(index, "get", {}))
    return _go_on(conversation, effects, now)


def next_due(conversation: Conversation) -> float:
    """Return when `keep` has something to do, math.inf for never."""
    return min([requests.next_due(conversation.requests),
                *(min(standing.get_at, standing.whole_at) for standing in conversation.standings)])


def _get_accepted(conversation: Conversation, index: int, body: dict[str, Json], now: float) -> Outcome:
    if not _ours(conversation, index, "get", body):
        return conversation, []
    conversation = _forget(conversation, body["clientToken"])._replace(mute_told=False)
    state, version = body.get("state"), version_in(body)
    if not isinstance(state, dict) or version is None:
        conversation, more = _get_failed(conversation, index, now)
        return conversation, [_nonsense(conversation, index, "a document without state and version"), *more]
    effects: list[Effect] = [_accepted(conversation, index, version)]
    old = conversation.standings[index]
    if not old.sure or version >= old.delta_version or version < old.doubtful_version:
        delta = state.get("delta") if isinstance(state.get("delta"), dict) else None
        conversation = put(conversation, index, known.got(old, version, body.get("timestamp"), state))
        conversation, more = _differs(conversation, index, version, delta or None, now)
        effects += [*more, Desired(index, desired_of(state))]
        if old.unsure_version > version:
            conversation = put(conversation, index, known.get_again(conversation.standings[index], now))
    elif old.lacking is not None:
        conversation = put(conversation, index, known.get_later(old, now))
    desired = state.get("desired") or {}
    seed = lacking(conversation.shadows[index].desired, desired) if isinstance(desired, dict) else {}
    if old.rejected is not None and old.rejected[0] == "get":
        conversation = stand(conversation, index, rejected=None)
    # A later get on the same line tells what is desired; the report of this line was made, and would only ask for more.
    return conversation, effects if old.sure and not seed else [*effects, Report(index, seed)]


def _update_accepted(conversation: Conversation, index: int, body: dict[str, Json], now: float) -> Outcome:
    version = version_in(body)
    if not _ours(conversation, index, "update", body) or version is None:
        return conversation, []
    request = conversation.requests.in_flight[body["clientToken"]]
    conversation = _forget(conversation, body["clientToken"])._replace(mute_told=False)
    effects: list[Effect] = [_accepted(conversation, index, version)]
    section, taken = request.section, request.body["state"][request.section]
    conversation, more = reports.taken(conversation, index, section, taken, now)
    effects += more
    standing = conversation.standings[index]
    if section == "reported":
        effects.append(Taken(index, taken, version))
        standing = standing._replace(rejected=None)
    if standing.unborn:
        newest = standing.unsure_version
        standing = known.born(standing, version, body.get("timestamp"))
        standing = known.get_again(standing, now) if newest >= version else standing
    elif version < standing.delta_version and not _gets(conversation, index):
        standing = known.doubt_numbers(standing, now)
    return put(conversation, index, standing), effects


def _delta(conversation: Conversation, index: int, body: dict[str, Json], now: float) -> Outcome:
    state, version = body.get("state"), version_in(body)
    if not isinstance(state, dict) or version is None:
        return conversation, [_nonsense(conversation, index, "a delta without state and version")]
    conversation, is_believed = _believed(conversation, index, version, body.get("timestamp"), now)
    return _differs(conversation, index, version, state, now) if is_believed else (conversation, [])


def _documents(conversation: Conversation, index: int, body: dict[str, Json], now: float) -> Outcome:
    current = body.get("current")
    version = version_in(current) if isinstance(current, dict) else None
    state = current.get("state") if isinstance(current, dict) else None
    if version is None or not isinstance(state, dict):
        return conversation, [_nonsense(conversation, index, "documents without a current state and version")]
    fields = {"shadow": conversation.shadows[index].name, "version": version,
              "previous": body.get("previous"), "current": current}
    effects: list[Effect] = [Entry(logging.DEBUG, "shadow.documents", "the shadow has changed", fields)]
    conversation, is_believed = _believed(conversation, index, version, body.get("timestamp"), now)
    standing = conversation.standings[index]
    if is_believed and version >= standing.document_version:
        conversation = stand(conversation, index, document=state, document_version=version)
        effects.append(Desired(index, desired_of(state)))
        if not difference(state.get("desired"), state.get("reported")):
            conversation, more = _differs(conversation, index, version, None, now)
            effects += more
        elif standing.lacking is not None:
            conversation, more = _wanted(conversation, index, standing.delta_version, standing.lacking, now)
            effects += more
    return conversation, effects


def _rejected(conversation: Conversation, index: int, body: dict[str, Json], now: float) -> Outcome:
    request = requests.found(conversation.requests, index, body.get("clientToken"))
    if request is None:
        return conversation, []
    conversation = _forget(conversation, body["clientToken"])._replace(mute_told=False)
    code, text = body.get("code"), str(body.get("message", ""))[:200]
    if request.verb == "get" and code == 404:
        # Not yet born: the first report creates it.
        conversation = put(conversation, index, known.not_born(conversation.standings[index], body.get("timestamp")))
        seed = lacking(conversation.shadows[index].desired, {})
        return conversation, [Wanted(index, None, 0), Desired(index, {}), Report(index, seed)]
    effects: list[Effect] = []
    rejected = conversation.standings[index].rejected
    if not request.piece and (rejected is None or rejected[:2] != (request.verb, str(code))):
        effects.append(Entry(logging.WARNING, "shadow.rejected", f"the shadow service refused the {request.verb}",
                             {"shadow": conversation.shadows[index].name, "code": code, "reason": text}))
        conversation = stand(conversation, index, rejected=(request.verb, str(code), text))
    if code == 429:
        conversation = conversation._replace(requests=conversation.requests._replace(hold_until=now + THROTTLED_S))
    if request.verb == "get":
        for_good = isinstance(code, int) and 400 <= code < 500 and code not in (409, 429)
        conversation, more = _get_failed(conversation, index, now, for_good, body.get("timestamp"))
        effects += more
    elif code in (400, 413):
        conversation, more = reports.refused(conversation, request, code, text, now)
        effects += more
    elif code == 409 or (code in (429, 500) and request.section == "desired"):
        conversation = put(conversation, index, known.get_later(conversation.standings[index], now))
    return conversation, effects


def _believed(
    conversation: Conversation, index: int, version: int, timestamp: Json, now: float
) -> tuple[Conversation, bool]:
    """Tell whether the service said this after the get; where that is not certain, the get is made again."""
    standing = conversation.standings[index]
    # Accepted, delta and documents of one update share a version and come in any order: only older is stale.
    if standing.sure and (version < standing.delta_version or known.is_later(standing, timestamp)):
        return conversation, version >= standing.delta_version
    if not standing.sure:
        standing = known.heard_unsure(standing, version)
    if (standing.sure or standing.unborn) and not _gets(conversation, index):
        standing = known.get_again(standing, now)
    return put(conversation, index, standing), False


def _gets(conversation: Conversation, index: int) -> bool:
    """Tell whether the shadow is being asked for."""
    return any(request.verb == "get" for request in requests.of(conversation.requests, index))


def _get_failed(
    conversation: Conversation, index: int, now: float, for_good: bool = False, timestamp: Json = None
) -> Outcome:
    """A device whose get fails still reports; the get is made again."""
    old = conversation.standings[index]
    conversation = put(conversation, index, known.get_later(known.get_failed(old, for_good, timestamp), now))
    return conversation, [Report(index)] if old.stage == "getting" else []


def _differs(conversation: Conversation, index: int, version: int, delta: Json, now: float) -> Outcome:
    """Take the whole difference as of `version`; it is news only where its content is."""
    news = delta is not None and not same(delta, conversation.standings[index].delta)
    conversation = stand(conversation, index, delta=delta, delta_version=version, lacking=None, whole_at=math.inf)
    conversation, effects = _wanted(conversation, index, version, delta, now)
    if not news:
        return conversation, effects
    fields = {"shadow": conversation.shadows[index].name, "version": version, "state": delta}
    entry = Entry(logging.INFO, "shadow.delta", "what is desired differs from what is reported", fields)
    return conversation, [entry, *effects]


def _wanted(conversation: Conversation, index: int, version: int, delta: Json, now: float) -> Outcome:
    """Tell what is to be done, once all of that is known."""
    standing = conversation.standings[index]
    whole = known.whole(standing, version, delta, conversation.shadows[index].on_delta) if delta else {}
    if whole is None:
        return stand(conversation, index, lacking=delta, whole_at=now + known.WHOLE_S), []
    version = max(version, standing.document_version)
    return stand(conversation, index, lacking=None, whole_at=math.inf), [Wanted(index, whole or None, version)]


def _go_on(conversation: Conversation, effects: list[Effect], now: float) -> Outcome:
    """Send what may go; where a search has ended, ask for the report that waited for it."""
    conversation, sent = pump(conversation, now)
    for index, standing in enumerate(conversation.standings):
        if standing.report_due and not reports.is_searching(conversation, index):
            conversation = stand(conversation, index, report_due=False)
            effects = [*effects, Report(index)]
    return conversation, effects + sent


def _ours(conversation: Conversation, index: int, verb: str, body: Mapping[str, Json]) -> bool:
    request = requests.found(conversation.requests, index, body.get("clientToken"))
    return request is not None and request.verb == verb


def _forget(conversation: Conversation, token: str) -> Conversation:
    return conversation._replace(requests=requests.answered(conversation.requests, token))


def _accepted(conversation: Conversation, index: int, version: int) -> Entry:
    return Entry(logging.DEBUG, "shadow.accepted", "the shadow service has taken the request",
                 {"shadow": conversation.shadows[index].name, "version": version})


def _nonsense(conversation: Conversation, index: int, reason: str) -> Entry:
    return Entry(logging.WARNING, "shadow.unreadable", "a shadow message makes no sense; ignored",
                 {"shadow": conversation.shadows[index].name, "reason": reason})
