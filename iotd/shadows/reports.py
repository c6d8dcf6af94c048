"""What is said to the shadow service, without what it would refuse or has refused. Pure.

The service takes all of a report or nothing. What breaks its rules is left out beforehand (`limits`); where it refuses
for another reason, the key is found by halving, left out, and tried again after pauses that grow to an hour.
"""

import logging
from collections.abc import Mapping

from iotd.shadows import limits, requests
from iotd.shadows.exchange import Conversation, Effect, Outcome, ask, pump, stand
from iotd.shadows.requests import Request
from iotd.vocabulary import Entry, Json

Place = tuple[str, str]  # section and key


def unreported(conversation: Conversation, index: int) -> dict[str, str]:
    """Return the keys that cannot be reported, and why."""
    return {key: why for (section, key), why in conversation.standings[index].left_out.items() if section == "reported"}


def problems(conversation: Conversation) -> list[str]:
    """Return what the service does not take, a sentence each."""
    found = []
    for shadow, standing in zip(conversation.shadows, conversation.standings):
        name = "the classic shadow" if shadow.name is None else f"shadow {shadow.name}"
        if standing.rejected is not None:
            verb, code, text = standing.rejected
            found.append(f"the {verb} of {name} is refused: {code} {text}".strip())
        found += [f"{key} of {name} is left out of what is {section}: {why}"
                  for (section, key), why in standing.left_out.items()]
    return found


def report(conversation: Conversation, index: int, reported: Json, desired: Json, now: float) -> Outcome:
    """Send what the templates gave; nothing while the shadow is silent or its get is under way.

    A report still waiting for its turn is replaced: only the newest is worth a request. While a refused one is searched
    for its guilty key the next one waits.
    """
    standing = conversation.standings[index]
    if standing.stage != "reporting":
        return conversation, []
    left_out = dict(standing.left_out)
    for section, content in (("reported", reported), ("desired", desired)):
        if section == "reported" and is_searching(conversation, index):
            conversation = stand(conversation, index, report_due=True)
        elif section == "reported" or content:
            conversation, found = _section(stand(conversation, index, halvings=0), index, section, content, now)
            left_out = {**{place: why for place, why in left_out.items() if place[0] != section}, **found}
    return _left_out(conversation, index, left_out, now)


def _section(
    conversation: Conversation, index: int, section: str, content: Mapping[str, Json], now: float
) -> tuple[Conversation, dict[Place, str]]:
    """Say a section; return what of it is left out, and why."""
    standing = conversation.standings[index]
    refused = {key: refusal for (name, key), refusal in standing.refused.items() if name == section and key in content}
    kept, left_out = limits.fitted(
        standing.document, section, {key: value for key, value in content.items() if key not in refused})
    if kept or not content:
        conversation = _say(conversation, index, section, kept)
    again = [key for key, refusal in refused.items() if refusal.again_at <= now]
    for key in again[:limits.MAX_AGAIN]:
        if not limits.problem(key, content[key]):
            conversation = _say(conversation, index, section, {key: content[key]}, piece=True)
    left_out.update({key: refusal.reason for key, refusal in refused.items()})
    return conversation, {(section, key): why for key, why in left_out.items()}


def refused(conversation: Conversation, request: Request, code: Json, text: str, now: float) -> Outcome:
    """The service takes all of this or nothing: find the key that it will not have by halving, and leave that out."""
    index, section = request.shadow, request.section
    standing, content = conversation.standings[index], request.body["state"][section]
    if len(content) > 1 and standing.halvings < limits.MAX_HALVINGS:
        conversation = stand(conversation, index, halvings=standing.halvings + 1)
        for half in limits.halves(content):
            conversation = _say(conversation, index, section, half, piece=True)
        return conversation, []
    found = {(section, key): limits.refused(standing.refused.get((section, key)), code, text, now) for key in content}
    conversation = stand(conversation, index, refused={**standing.refused, **found})
    return _left_out(conversation, index, {
        **standing.left_out, **{place: refusal.reason for place, refusal in found.items()}}, now)


def taken(conversation: Conversation, index: int, section: str, content: Mapping[str, Json], now: float) -> Outcome:
    """The service has taken this: what it had refused of it is no trouble any more."""
    standing = conversation.standings[index]
    over = {(section, key) for key in content if (section, key) in standing.refused}
    if not over:
        return conversation, []
    conversation = stand(conversation, index, refused={
        place: refusal for place, refusal in standing.refused.items() if place not in over})
    return _left_out(
        conversation, index, {place: why for place, why in standing.left_out.items() if place not in over}, now)


def _left_out(conversation: Conversation, index: int, left_out: Mapping[Place, str], now: float) -> Outcome:
    """Send the rest, and name what is left out now, and what is not any more."""
    name, before = conversation.shadows[index].name, conversation.standings[index].left_out
    effects: list[Effect] = [
        Entry(logging.WARNING, "shadow.left_out", f"{key} is left out of what is {section}: {why}",
              {"shadow": name, "section": section, "key": key, "reason": why})
        for (section, key), why in left_out.items() if (section, key) not in before]
    effects += [Entry(logging.INFO, "shadow.put_back", f"{key} is {section} again",
                      {"shadow": name, "section": section, "key": key})
                for section, key in before if (section, key) not in left_out]
    conversation, sent = pump(stand(conversation, index, left_out=left_out), now)
    return conversation, effects + sent


def _say(
    conversation: Conversation, index: int, section: str, content: Mapping[str, Json], piece: bool = False
) -> Conversation:
    return ask(conversation, Request(index, "update", {"state": {section: content}}, piece))


def is_searching(conversation: Conversation, index: int) -> bool:
    """Tell whether pieces of a report are on their way."""
    return any(request.piece for request in requests.of(conversation.requests, index))
