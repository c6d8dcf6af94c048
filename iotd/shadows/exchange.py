"""The state of the conversation with all shadows of the thing, its effects, and how a request goes out. Pure."""

import json
from collections.abc import Mapping
from typing import Any, NamedTuple

from iotd.shadows import messages, requests
from iotd.shadows.messages import ANSWERS, prefix
from iotd.shadows.requests import Request, Requests
from iotd.shadows.section import Shadow
from iotd.shadows.standing import Standing
from iotd.vocabulary import Json, Message, Send

Effect = Any  # Entry, Send, Report, Wanted, Desired or Taken
Outcome = tuple["Conversation", list[Effect]]


class Report(NamedTuple):
    """Fill the templates of this shadow and hand them to `report`; `desired` is what to seed, still unfilled."""

    shadow: int
    desired: Mapping[str, Json] = {}


class Wanted(NamedTuple):
    """Each key that is not reported as it is desired, with the whole of what is desired of it, as of `version`.

    None where the two agree. Said each time it is heard, news or not.
    """

    shadow: int
    delta: Json
    version: int


class Desired(NamedTuple):
    """The whole desired state."""

    shadow: int
    state: Mapping[str, Json]


class Taken(NamedTuple):
    """The service has taken what was reported; the shadow has this version since."""

    shadow: int
    reported: Mapping[str, Json]
    version: int


class Conversation(NamedTuple):
    """The state of all shadows of one thing."""

    thing: str
    shadows: tuple[Shadow, ...]
    standings: tuple[Standing, ...]
    requests: Requests
    mute_told: bool = False
    resting: frozenset[str] = frozenset()


def start(thing: str, shadows: tuple[Shadow, ...], run: str, made: int = 0) -> Conversation:
    """Return a conversation that has not spoken yet; `run` and the requests it has `made` make its tokens its own."""
    return Conversation(thing, shadows, tuple(Standing() for _ in shadows), Requests(run, made))


def filters(conversation: Conversation) -> tuple[str, ...]:
    """Return the filters to subscribe."""
    return messages.filters(conversation.thing, conversation.shadows)


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
    return [action(conversation, request.shadow) for request in conversation.requests.in_flight.values()]


def is_reporting(conversation: Conversation, index: int) -> bool:
    """Tell whether a report of this shadow waits or is unanswered."""
    return any(request.section == "reported" for request in requests.of(conversation.requests, index))


def ask(conversation: Conversation, request: Request) -> Conversation:
    """Put a request in the queue, but not where its shadow rests."""
    if action(conversation, request.shadow) in conversation.resting:
        return conversation
    return conversation._replace(requests=requests.asked(conversation.requests, request))


def pump(conversation: Conversation, now: float) -> Outcome:
    """Send what waits and may go."""
    queue, going = requests.sent(conversation.requests, now)
    effects: list[Effect] = []
    for token, request in going:
        topic = f"{prefix(conversation.thing, conversation.shadows[request.shadow].name)}/{request.verb}"
        payload = json.dumps({**request.body, "clientToken": token}, ensure_ascii=False, separators=(",", ":"))
        effects.append(Send(Message(topic, payload.encode("utf-8"))))
    return conversation._replace(requests=queue), effects


def stand(conversation: Conversation, index: int, **changes: Any) -> Conversation:
    """Return the conversation with these changes of the standing of one shadow."""
    return put(conversation, index, conversation.standings[index]._replace(**changes))


def put(conversation: Conversation, index: int, standing: Standing) -> Conversation:
    """Return the conversation with this standing of one shadow."""
    standings = list(conversation.standings)
    standings[index] = standing
    return conversation._replace(standings=tuple(standings))
