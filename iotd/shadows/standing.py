"""What is known of one shadow on this line, and what of all that comes may be believed. Pure.

A kept session replays what the service said while the device was away, before the answer to the get and after it, and
any of it may have been withdrawn since. So nothing is believed before the get of this line was answered, or has failed
for good; after it, what is older by its version, or by the service's own time: a shadow that was deleted counts from 1
again two days later. A shadow that is not yet born is known once the service has taken a report of ours.
"""

import math
from collections.abc import Mapping
from typing import NamedTuple

from iotd.shadows.documents import desired_of, difference
from iotd.shadows.limits import Refusal
from iotd.vocabulary import Json

PAUSE_FIRST_S, PAUSE_MAX_S = 10.0, 300.0  # before a get is made again on the same line, doubling
GET_TRIES = 3  # unanswered, or refused for the moment; then the get has failed for good
WHOLE_S = 1.0  # for the documents that tell the whole of what a delta tells a part of; then they are asked for
SKEW_S = 5.0  # between the clocks of the service's own hosts
MAX_TIME_S = 1e11  # beyond, it is no time in seconds


class Standing(NamedTuple):
    """What is known of one shadow.

    `stage`: silent (no line), getting (the document is asked for), reporting.
    `sure`: what comes may be believed. `unborn`: the service has said that there is no such shadow. `unsure_version`
    is the newest that was heard before, `since` the service's time (epoch seconds) from when on things are believed.
    `delta` is the difference last logged, kept across lines, so that the service's repetition of it after every report
    says nothing twice; `lacking` is one that waits for the whole of what is desired, and is asked for at `whole_at`.
    `document` is the state as last heard whole. `doubtful_version`: what the get that is to be made finds below it was
    made anew.
    `left_out` tells by section and key what is not said, and why; `refused` are those of them that only the service
    knows the reason of, which is searched for by `halvings`; `report_due`: the next report waits for the end of that.
    `rejected` is the refusal (verb, code, text) that stands since it was logged.
    """

    stage: str = "silent"
    get_at: float = math.inf
    get_pause_s: float = PAUSE_FIRST_S
    get_failures: int = 0
    sure: bool = False
    unborn: bool = False
    doubted: bool = False
    unsure_version: int = 0
    since: float = 0.0
    delta: Json = None
    delta_version: int = 0
    doubtful_version: int = 0
    lacking: Json = None
    whole_at: float = math.inf
    document: Mapping[str, Json] = {}
    document_version: int = 0
    left_out: Mapping[tuple[str, str], str] = {}
    refused: Mapping[tuple[str, str], Refusal] = {}
    halvings: int = 0
    report_due: bool = False
    rejected: tuple[str, str, str] | None = None


def opened(old: Standing) -> Standing:
    """Return what a new line begins with; what its kept session has replayed already is remembered."""
    return Standing("getting", unsure_version=old.unsure_version, delta=old.delta, left_out=old.left_out,
                    refused=old.refused, rejected=old.rejected)


def closed(old: Standing) -> Standing:
    """Return what is left when the line is down."""
    return opened(old)._replace(stage="silent", unsure_version=0)


def is_later(standing: Standing, timestamp: Json) -> bool:
    """Tell whether the service said this after it answered the get, by its own time."""
    return not isinstance(timestamp, (int, float)) or timestamp >= standing.since - SKEW_S


def heard_unsure(standing: Standing, version: int) -> Standing:
    """Remember that there is something newer than what the get may tell."""
    return standing._replace(unsure_version=max(standing.unsure_version, version))


def got(standing: Standing, version: int, timestamp: Json, state: Mapping[str, Json]) -> Standing:
    """Return what is known once the get was answered."""
    return _sure(standing, timestamp)._replace(document=state, document_version=version)


def born(standing: Standing, version: int, timestamp: Json) -> Standing:
    """Return what is known once the service has taken the report that makes the shadow."""
    return _sure(standing, timestamp)._replace(delta_version=version)


def not_born(standing: Standing, timestamp: Json) -> Standing:
    """Return what is known once the service has said that there is no such shadow."""
    return _sure(standing, timestamp)._replace(
        sure=False, unborn=True, delta=None, delta_version=0, document_version=0,
        unsure_version=standing.unsure_version)


def get_failed(standing: Standing, for_good: bool, timestamp: Json) -> Standing:
    """Return what is known once a get was refused or not answered; a device without one still reports."""
    failures = standing.get_failures + 1
    if standing.sure or not for_good and failures < GET_TRIES:
        return standing._replace(stage="reporting", get_failures=failures)
    return _sure(standing, timestamp)._replace(get_failures=failures)


def get_later(standing: Standing, now: float) -> Standing:
    """Make the get again after a growing pause: what is found there decides what is still to be seeded."""
    pause_s = standing.get_pause_s
    return standing._replace(get_at=now + pause_s, get_pause_s=min(PAUSE_MAX_S, 2 * pause_s))


def doubt_numbers(standing: Standing, now: float) -> Standing:
    """What was taken of ours has a lower version than what was heard already: it is late, or the shadow was deleted and
    made anew meanwhile, and counts from 1 again. A get that is made from now on tells which; nothing older is believed
    until then. After a pause, since whoever answers each report with an order makes every one late.
    """
    later = get_later(standing, now) if standing.get_at == math.inf else standing
    return later._replace(doubtful_version=standing.delta_version)


def get_again(standing: Standing, now: float) -> Standing:
    """Make the get again, since something newer was heard that is not believed: at once, but only once a line so."""
    if standing.get_at < math.inf:
        return standing
    return get_later(standing, now) if standing.doubted else standing._replace(get_at=now, doubted=True)


def whole(standing: Standing, version: int, delta: Mapping[str, Json], acted_on: Mapping[str, object]) -> Json:
    """Return the keys of a delta with all that is desired of each, None where that is not known yet.

    A delta tells of an object only the members that differ.
    """
    if standing.document_version >= version:
        desired = desired_of(standing.document)
        if standing.document_version > version:
            delta = difference(desired, standing.document.get("reported"))
        return {key: desired[key] for key in delta if key in desired}
    if any(isinstance(value, dict) and key in acted_on for key, value in delta.items()):
        return None
    return delta


def _sure(standing: Standing, timestamp: Json) -> Standing:
    since = timestamp if isinstance(timestamp, (int, float)) and 0 <= timestamp < MAX_TIME_S else 0.0
    return standing._replace(stage="reporting", get_at=math.inf, sure=True, unborn=False, unsure_version=0,
                             doubtful_version=0, since=since, lacking=None, whole_at=math.inf, document={})
