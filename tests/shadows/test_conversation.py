"""The conversation with the shadow service: its rules as tables, and whole scenarios with the line lost anywhere."""

from __future__ import annotations

import json
import logging
import math
import random
from collections import deque
from collections.abc import Callable
from typing import Any

import pytest

from iotd.shadows import limits
from iotd.shadows.conversation import THROTTLED_S, closed, heard, keep, next_due, opened
from iotd.shadows.documents import MAX_BYTES, difference, lacking
from iotd.shadows.exchange import Conversation, Desired, Report, Taken, Wanted, filters, stand, start, unanswered
from iotd.shadows.messages import ANSWERS, prefix
from iotd.shadows.reports import problems, report
from iotd.shadows.requests import ANSWER_S, MAX_IN_FLIGHT
from iotd.shadows.section import Run, Shadow
from iotd.shadows.standing import PAUSE_FIRST_S, PAUSE_MAX_S
from iotd.vocabulary import Entry, Message, Received, Send
from tests.aws import document

NAMED = Shadow("s", 30.0, {"mode": "eco"}, {"state": "ok"})
CLASSIC = Shadow(None, 30.0, {}, {"state": "ok"})
PREFIX = "$aws/things/t/shadow/name/s/"


def begun(*shadows: Shadow) -> tuple[Conversation, list[Any]]:
    return opened(start("t", shadows or (NAMED,), "run"), 0.0)


def sent(effects: list[Any]) -> list[tuple[str, dict[str, Any]]]:
    """Return what is asked of the service: topic and body."""
    return [(effect.message.topic, json.loads(effect.message.payload)) for effect in effects
            if isinstance(effect, Send)]


def events(effects: list[Any]) -> list[str]:
    return [effect.event for effect in effects if isinstance(effect, Entry)]


def reports(effects: list[Any]) -> list[Report]:
    return [effect for effect in effects if isinstance(effect, Report)]


def told(effects: list[Any]) -> list[Any]:
    """Return what is said of what is desired: a difference as it is, the desired state in a tuple."""
    return [effect.delta if isinstance(effect, Wanted) else (effect.state,) for effect in effects
            if isinstance(effect, (Wanted, Desired))]


def hear(conversation: Conversation, answer: str, body: Any, now: float = 1.0) -> tuple[Conversation, list[Any]]:
    payload = body if isinstance(body, bytes) else json.dumps(body).encode()
    return heard(conversation, Received(1, PREFIX + answer, payload, 1, False), now)


def reporting(version: int = 5, state: Any = None) -> Conversation:
    """Return a conversation whose get was answered."""
    conversation, _ = begun()
    conversation, _ = hear(conversation, "get/accepted", {
        "state": state or {"desired": {"mode": "eco"}, "reported": {"mode": "eco"}}, "version": version,
        "clientToken": "run-1"})
    return conversation


@pytest.mark.parametrize("wanted, present, missing", [
    ({"a": 1}, {}, {"a": 1}),
    ({"a": 1}, {"a": 2}, {}),
    ({"a": 1, "b": 2}, {"a": 0, "c": 3}, {"b": 2}),
    ({"a": None}, {}, {}),
    ({"a": 1}, {"a": None}, {}),
    ({"a": {"x": 1}}, {"a": None}, {}),
    ({"a": {"x": 1, "y": 2}}, {"a": {"x": 9}}, {"a": {"y": 2}}),
    ({"a": {"x": 1}}, {"a": {"x": 9}}, {}),
    ({"a": {"x": 1}}, {"a": "text"}, {}),
    ({"a": {"x": 1}}, {"a": [1]}, {}),
    ({"a": 1}, {"a": {"x": 1}}, {}),
    ({"a": [1, 2]}, {"a": [1]}, {}),
    ({"a": {}}, {}, {"a": {}}),
    ({"a": {}}, {"a": {"x": 1}}, {}),
    ({"a": False, "b": 0, "c": ""}, {}, {"a": False, "b": 0, "c": ""}),
    ({}, {"a": 1}, {}),
])
def test_only_what_the_shadow_lacks_is_seeded(wanted: Any, present: Any, missing: Any) -> None:
    assert lacking(wanted, present) == missing


@pytest.mark.parametrize("desired, reported, found", [
    ({"a": 1}, {"a": 1}, {}),
    ({"a": 1}, {"a": 1.0}, {}),
    ({"a": 1}, {"a": True}, {"a": 1}),
    ({"a": [0]}, {"a": [False]}, {"a": [0]}),
    ({"a": [{"x": 1}]}, {"a": [{"x": 1}]}, {}),
    ({"a": [{"x": 1}]}, {"a": [{"x": True}]}, {"a": [{"x": 1}]}),
    ({"a": 1}, {}, {"a": 1}),
    ({"a": 1}, None, {"a": 1}),
    ({}, {"a": 1}, {}),
    (None, {"a": 1}, {}),
    ({"a": {"x": 1, "y": 2}}, {"a": {"x": 1, "y": 3, "z": 4}}, {"a": {"y": 2}}),
    ({"a": {"x": 1}}, {"a": 1}, {"a": {"x": 1}}),
    ({"a": {}}, {}, {"a": {}}),
    ({"a": {}}, {"a": {"x": 1}}, {}),
    ({"a": None}, {}, {"a": None}),
])
def test_the_difference_is_the_services_own(desired: Any, reported: Any, found: Any) -> None:
    assert json.dumps(difference(desired, reported)) == json.dumps(found)


def test_the_difference_agrees_with_the_service_on_whatever_a_shadow_may_hold() -> None:
    chance = random.Random(1)
    for _ in range(3000):
        desired, reported = ({key: tree(chance, 2, no_null=True) for key in chance.sample("abc", 2)} for _ in "dr")
        requested = document.update(None, {"state": {"desired": desired, "reported": reported}}, 0)
        state = requested.document.state
        expected, _ = document.delta(requested.document)
        assert json.dumps(difference(state.get("desired"), state.get("reported"))) == json.dumps(expected)


def test_a_new_line_gets_each_shadow_before_it_reports() -> None:
    conversation, effects = begun(NAMED, CLASSIC)
    assert sent(effects) == [(PREFIX + "get", {"clientToken": "run-1"}),
                             ("$aws/things/t/shadow/get", {"clientToken": "run-2"})]
    assert all(effect.message.qos == 1 and not effect.message.retain for effect in effects)
    assert report(conversation, 0, {"state": "ok"}, {}, 1.0) == (conversation, [])
    assert filters(conversation) == tuple(
        f"{prefix}{answer}" for prefix in (PREFIX, "$aws/things/t/shadow/") for answer in ANSWERS)


def test_after_the_get_it_reports_and_seeds_what_is_lacking() -> None:
    conversation, _ = begun()
    conversation, effects = hear(conversation, "get/accepted", {
        "state": {"desired": {"other": 1}}, "version": 5, "clientToken": "run-1"})
    assert reports(effects) == [Report(0, {"mode": "eco"})] and events(effects) == ["shadow.accepted"]
    conversation, effects = report(conversation, 0, {"state": "ヨシッ👉"}, {"mode": "eco"}, 1.0)
    assert [body for _, body in sent(effects)] == [
        {"state": {"reported": {"state": "ヨシッ👉"}}, "clientToken": "run-2"},
        {"state": {"desired": {"mode": "eco"}}, "clientToken": "run-3"}]
    assert {topic for topic, _ in sent(effects)} == {PREFIX + "update"}
    assert "ヨシッ👉".encode() in effects[0].message.payload


@pytest.mark.parametrize("state, seed", [
    ({}, {"mode": "eco"}),
    ({"desired": None}, {"mode": "eco"}),
    ({"desired": {"mode": "boost"}}, {}),
    ({"desired": {"mode": None}}, {}),
    ({"desired": {"mode": {"x": 1}}}, {}),
    ({"desired": ["odd"]}, {}),
])
def test_what_the_cloud_wrote_is_never_overwritten(state: Any, seed: Any) -> None:
    _, effects = hear(begun()[0], "get/accepted", {"state": state, "version": 5, "clientToken": "run-1"})
    assert reports(effects) == [Report(0, seed)]


DELTA = {"mode": "boost"}


@pytest.mark.parametrize("answer, body, expected", [
    ("get/accepted", {"state": {"desired": DELTA, "delta": DELTA}, "version": 5, "clientToken": "run-1"},
     [DELTA, (DELTA,)]),
    ("get/accepted", {"state": {"desired": DELTA, "reported": DELTA}, "version": 5, "clientToken": "run-1"},
     [None, (DELTA,)]),
    ("get/accepted", {"state": {"desired": "odd"}, "version": 5, "clientToken": "run-1"}, [None, ({},)]),
    ("get/rejected", {"code": 404, "clientToken": "run-1"}, [None, ({},)]),
    ("get/rejected", {"code": 500, "clientToken": "run-1"}, []),
    ("update/delta", {"state": DELTA, "version": 6}, [DELTA]),
    ("update/documents", {"current": {"state": {"desired": DELTA, "reported": DELTA}, "version": 5}}, [(DELTA,), None]),
    ("update/documents", {"current": {"state": {"desired": DELTA}, "version": 5}}, [(DELTA,)]),
    ("update/documents", {"current": {"state": {"reported": DELTA}, "version": 5}}, [({},), None]),
])
def test_what_is_desired_is_told_each_time_it_is_heard(answer: str, body: Any, expected: list[Any]) -> None:
    conversation, effects = hear(begun()[0] if answer.startswith("get") else reporting(), answer, body)
    assert told(effects) == expected
    if answer.startswith("update"):
        assert told(hear(conversation, answer, body)[1]) == expected


def test_what_was_desired_before_is_not_told() -> None:
    conversation, _ = hear(reporting(), "update/delta", {"state": DELTA, "version": 6})
    conversation, _ = keep(stand(conversation, 0, get_at=1.0), 1.0)
    for answer, body in [
        ("update/delta", {"state": {"mode": "old"}, "version": 4}),
        ("update/documents", {"current": {"state": {"desired": {"mode": "old"}}, "version": 4}}),
        ("get/accepted", {"state": {"delta": {"mode": "old"}}, "version": 4, "clientToken": "run-2"}),
    ]:
        assert told(hear(conversation, answer, body)[1]) == []


def test_a_shadow_not_yet_born_is_no_rejection() -> None:
    _, effects = hear(begun()[0], "get/rejected", {"code": 404, "message": "No shadow", "clientToken": "run-1"})
    assert reports(effects) == [Report(0, {"mode": "eco"})] and events(effects) == []


@pytest.mark.parametrize("token", ["run-2", "other-1", None, 1, ["run-1"], {}, ...])
def test_the_answer_to_somebody_elses_get_says_nothing(token: Any) -> None:
    conversation, _ = begun()
    body = {"state": {}, "version": 5, "code": 404, "clientToken": token}
    if token is ...:
        del body["clientToken"]
    assert hear(conversation, "get/accepted", body) == (conversation, [])
    assert hear(conversation, "get/rejected", body) == (conversation, [])


@pytest.mark.parametrize("versions, seen", [
    ([6, 7, 8], [6, 7, 8]),
    ([6, 6], [6, 6]),
    ([7, 6, 8], [7, 8]),
    ([4, 6], [6]),
    ([5], [5]),
])
def test_only_a_delta_that_is_strictly_older_is_stale(versions: list[int], seen: list[int]) -> None:
    conversation, found = reporting(version=5), []
    for turn, version in enumerate(versions):
        conversation, effects = hear(conversation, "update/delta", {"version": version, "state": {"m": turn}})
        found += [effect.fields["version"] for effect in effects if isinstance(effect, Entry)]
    assert found == seen


def test_an_accepted_update_does_not_make_its_own_delta_stale() -> None:
    """Accepted, delta and documents of one update share a version and come in any order."""
    conversation, effects = report(reporting(version=5), 0, {"state": "ok"}, {}, 1.0)
    conversation, _ = hear(conversation, "update/accepted", {"version": 7, "clientToken": "run-2"})
    assert events(hear(conversation, "update/delta", {"version": 6, "state": {"m": 1}})[1]) == ["shadow.delta"]


@pytest.mark.parametrize("found_version, told_then", [(21, []), (2, [{"m": 3}])])
def test_a_late_answer_has_nothing_older_believed_before_a_get_tells_that_the_numbers_began_again(
        found_version: int, told_then: list[Any]) -> None:
    """What was taken at 6 after a delta at 20 is late, or the shadow was deleted and made anew."""
    conversation, _ = report(reporting(version=5), 0, {"state": "ok"}, {}, 1.0)
    conversation, _ = hear(conversation, "update/delta", {"version": 20, "state": {"m": 20}})
    conversation, _ = hear(conversation, "update/accepted", {"version": 6, "clientToken": "run-2"})
    assert told(hear(conversation, "update/delta", {"version": 7, "state": {"m": 7}})[1]) == []
    conversation, effects = keep(conversation, next_due(conversation))
    assert sent(effects)[0][0] == f"{PREFIX}get"
    conversation, _ = hear(conversation, "get/accepted", {
        "version": found_version, "clientToken": "run-3",
        "state": {"desired": {"m": found_version}, "delta": {"m": found_version}}}, 20.0)
    effects = hear(conversation, "update/delta", {"version": 3, "state": {"m": 3}}, 21.0)[1]
    assert told(effects) == told_then


def test_a_delta_repeated_after_every_report_is_said_once_even_across_lines() -> None:
    conversation, said = reporting(version=5), []
    for version in range(6, 20):
        conversation, effects = hear(conversation, "update/delta", {"version": version, "state": {"m": {"x": 1}}})
        said += events(effects)
        if version % 5 == 0:
            conversation, _ = opened(closed(conversation), 1.0)
    assert said == ["shadow.delta"]


def test_the_same_order_given_anew_is_news() -> None:
    conversation, _ = hear(reporting(version=5), "update/delta", {"version": 6, "state": {"m": 1}})
    in_sync = {"current": {"version": 7, "state": {"desired": {"m": 1}, "reported": {"m": 1}}}}
    conversation, _ = hear(conversation, "update/documents", in_sync)
    assert events(hear(conversation, "update/delta", {"version": 8, "state": {"m": 1}})[1]) == ["shadow.delta"]


@pytest.mark.parametrize("first, second, news", [
    ({"m": 1}, {"m": 1.0}, 1), ({"m": 1}, {"m": True}, 2), ({"m": 1}, {"m": [1]}, 2), ({"m": 1, "n": 2}, {"m": 1}, 2),
])
def test_a_delta_is_news_where_its_content_is(first: Any, second: Any, news: int) -> None:
    conversation, one = hear(reporting(), "update/delta", {"version": 6, "state": first})
    conversation, two = hear(conversation, "update/delta", {"version": 7, "state": second})
    assert len(events(one) + events(two)) == news


def test_documents_are_logged_with_both_sides_also_for_a_new_shadow() -> None:
    body = {"previous": None, "current": {"version": 1, "state": {"reported": {"a": 1}}}}
    _, effects = hear(reporting(), "update/documents", body)
    assert [(effect.event, effect.level, dict(effect.fields)) for effect in effects] == [(
        "shadow.documents", logging.DEBUG, {"shadow": "s", "version": 1, **body})]


@pytest.mark.parametrize("code", [401, 403, 500, 9999, None, "409", True, {}])
def test_a_rejected_report_is_said_and_not_repeated(code: Any) -> None:
    conversation, _ = report(reporting(), 0, {"state": "ok"}, {}, 1.0)
    conversation, effects = hear(conversation, "update/rejected", {"code": code, "clientToken": "run-2"})
    assert [(effect.event, effect.level, effect.fields["code"]) for effect in effects] == [
        ("shadow.rejected", logging.WARNING, code)]
    assert next_due(conversation) == math.inf and not conversation.requests.in_flight


@pytest.mark.parametrize("code, again", [(429, True), (500, True), (409, True), (400, False), (403, False)])
def test_a_seed_that_may_be_taken_later_is_offered_again_after_another_get(code: int, again: bool) -> None:
    conversation, _ = report(reporting(), 0, {"state": "ok"}, {"mode": "eco"}, 1.0)
    conversation, _ = hear(conversation, "update/accepted", {"version": 6, "clientToken": "run-2"})
    conversation, _ = hear(conversation, "update/rejected", {"code": code, "clientToken": "run-3"})
    conversation, effects = keep(conversation, 1.0 + PAUSE_FIRST_S)
    assert [topic for topic, _ in sent(effects)] == ([PREFIX + "get"] if again else [])


def test_a_seed_without_an_answer_is_offered_again_after_another_get() -> None:
    conversation, _ = report(reporting(), 0, {"state": "ok"}, {"mode": "eco"}, 1.0)
    conversation, _ = keep(conversation, 1.0 + ANSWER_S)
    conversation, effects = keep(conversation, 1.0 + ANSWER_S + PAUSE_FIRST_S)
    assert [topic for topic, _ in sent(effects)] == [PREFIX + "get"]


def test_after_too_many_requests_nothing_is_asked_for_a_while() -> None:
    conversation, _ = report(reporting(), 0, {"state": "ok"}, {}, 1.0)
    conversation, _ = hear(conversation, "update/rejected", {"code": 429, "clientToken": "run-2"}, 1.0)
    conversation, effects = report(conversation, 0, {"state": "ok"}, {}, 2.0)
    assert effects == [] and next_due(conversation) == 1.0 + THROTTLED_S
    assert [topic for topic, _ in sent(keep(conversation, 1.0 + THROTTLED_S)[1])] == [PREFIX + "update"]


@pytest.mark.parametrize("verdict", ["conflict", "late", "throttled", "broken", "silent", "mute get"])
def test_a_service_that_always_answers_wrongly_is_not_asked_in_a_circle(verdict: str) -> None:
    """Ten minutes of it, reporting every 30 s: no request that the pauses do not explain."""
    conversation, effects = begun()
    now, asked, queue = 0.0, 0, deque(effects)
    while now < 600.0:
        while queue:
            effect = queue.popleft()
            if isinstance(effect, Report):
                conversation, more = report(conversation, 0, {"state": "ok"}, dict(effect.desired), now)
            elif isinstance(effect, Send):
                asked += 1
                assert asked < 200, f"{asked} requests within {now} s"
                conversation, more = answer_wrongly(conversation, effect.message, verdict, now)
            else:
                more = []
            queue.extend(more)
        now = min(at for at in (next_due(conversation), now // 30 * 30 + 30) if at > now)
        conversation, more = keep(conversation, now)
        queue.extend([*more, *([Report(0)] if now % 30 == 0 else [])])
    assert 20 < asked < 120


def answer_wrongly(
    conversation: Conversation, message: Message, verdict: str, now: float
) -> tuple[Conversation, list[Any]]:
    token = {"clientToken": json.loads(message.payload)["clientToken"]}
    if message.topic.endswith("/get"):
        if verdict == "mute get":
            return conversation, []
        if verdict == "broken":
            return hear(conversation, "get/accepted", {"state": None, "version": 1, **token}, now)
        return hear(conversation, "get/accepted", {"state": {}, "version": 100, **token}, now)
    if verdict == "silent":
        return conversation, []
    if verdict in ("conflict", "throttled", "broken"):
        code = {"conflict": 409, "throttled": 429, "broken": 500}[verdict]
        return hear(conversation, "update/rejected", {"code": code, **token}, now)
    return hear(conversation, "update/accepted", {"version": 1, **token}, now)


def test_a_careful_line_asks_for_one_thing_at_a_time_and_nothing_of_a_shadow_that_rests() -> None:
    shadows = (NAMED, CLASSIC, Shadow("third"))
    conversation, effects = opened(start("t", shadows, "run"), 0.0, True, ["the classic shadow"])
    assert [topic for topic, _ in sent(effects)] == [PREFIX + "get"]
    assert unanswered(conversation) == ["shadow s"]
    token = sent(effects)[0][1]["clientToken"]
    conversation, effects = hear(conversation, "get/rejected", {"code": 404, "clientToken": token})
    assert [topic for topic, _ in sent(effects)] == ["$aws/things/t/shadow/name/third/get"]
    assert report(conversation, 1, {"a": 1}, {}, 1.0)[1] == []


def test_at_most_ten_requests_are_unanswered_and_the_others_wait_their_turn() -> None:
    shadows = tuple(Shadow(f"s{number}") for number in range(25))
    conversation, effects = opened(start("t", shadows, "run"), 0.0)
    assert len(sent(effects)) == len(conversation.requests.in_flight) == MAX_IN_FLIGHT
    body = {"code": 404, "clientToken": "run-3"}
    conversation, effects = heard(conversation, Received(
        1, "$aws/things/t/shadow/name/s2/get/rejected", json.dumps(body).encode(), 1, False), 1.0)
    assert [topic for topic, _ in sent(effects)] == ["$aws/things/t/shadow/name/s10/get"]
    conversation, effects = keep(conversation, ANSWER_S)
    assert len(sent(effects)) == 9 and events(effects) == ["shadow.unanswered"]
    assert conversation.mute_told
    token, request = next(iter(conversation.requests.in_flight.items()))
    topic, body = f"$aws/things/t/shadow/name/s{request.shadow}/get/rejected", {"code": 404, "clientToken": token}
    conversation, _ = heard(conversation, Received(1, topic, json.dumps(body).encode(), 1, False), ANSWER_S)
    assert not conversation.mute_told, "until it is silent again"


def test_a_report_that_waits_is_replaced_by_a_newer_one() -> None:
    shadows = tuple(Shadow(f"s{number}") for number in range(MAX_IN_FLIGHT))
    conversation, _ = opened(start("t", shadows, "run"), 0.0)
    for number in range(MAX_IN_FLIGHT):
        body = json.dumps({"code": 404, "clientToken": f"run-{number + 1}"}).encode()
        conversation, _ = heard(conversation, Received(
            1, f"$aws/things/t/shadow/name/s{number}/get/rejected", body, 1, False), 0.0)
        conversation, _ = report(conversation, number, {"n": 0}, {}, 0.0)
    for number in range(5):
        conversation, effects = report(conversation, 0, {"n": number}, {}, 1.0)
        assert effects == []
    conversation, effects = keep(conversation, ANSWER_S)
    assert [body["state"] for _, body in sent(effects)] == [{"reported": {"n": 4}}]


def test_a_device_whose_get_is_not_answered_still_reports_and_gets_again_after_growing_pauses() -> None:
    conversation, _ = begun()
    gets, now = [], 0.0
    said: list[str] = []
    while now < 2000.0:
        due_at = next_due(conversation)
        assert now < due_at < math.inf
        now = due_at
        conversation, effects = keep(conversation, now)
        gets += [now for topic, _ in sent(effects) if topic.endswith("/get")]
        said += events(effects) + [type(effect).__name__ for effect in reports(effects)]
    assert said == ["shadow.unanswered", "Report"]
    pauses = [later - earlier - ANSWER_S for earlier, later in zip([0.0] + gets, gets)]
    assert pauses[:5] == [10, 20, 40, 80, 160] and pauses[5:] == [PAUSE_MAX_S] * (len(pauses) - 5)


def nested(levels: int) -> Any:
    value: Any = 1
    for _ in range(levels):
        value = {"x": value}
    return value


def test_a_report_of_eight_kilobytes_is_sent_and_of_a_larger_one_the_guilty_key_is_left_out_and_named_once() -> None:
    conversation = reporting(state={"reported": {}})
    fits = {"a": "x" * (MAX_BYTES - len('{"a":""}'))}
    conversation, effects = report(conversation, 0, fits, {}, 1.0)
    assert len(sent(effects)) == 1 and problems(conversation) == []
    large = {"a": fits["a"] + "x", "b": 1}
    conversation, effects = report(conversation, 0, large, {}, 1.0)
    assert [(effect.event, effect.fields["key"]) for effect in effects if isinstance(effect, Entry)] == [
        ("shadow.left_out", "a")]
    assert [body["state"] for _, body in sent(effects)] == [{"reported": {"b": 1}}]
    assert "a of shadow s is left out" in problems(conversation)[0]
    conversation, effects = report(conversation, 0, large, {}, 1.0)
    assert events(effects) == []
    conversation, effects = report(conversation, 0, {"a": "é" * 4092}, {}, 1.0)
    assert events(effects) == ["shadow.put_back"] and problems(conversation) == []


@pytest.mark.parametrize("guilty, why", [
    ([None, None], "null"), ({"deep": [1, {"x": [None]}]}, "null"), (float("nan"), "no JSON"),
    ({"x": float("inf")}, "no JSON"), ("\ud800", "half a character"), (nested(8), "deeper than 8"),
    (nested(9000), "deeper than 8"), ("x" * 9000, "whole shadow"),
], ids=["nulls", "null in part", "nan", "infinity", "surrogate", "deep", "deeper", "large"])
def test_a_key_that_the_service_would_refuse_is_left_out_alone_and_named_until_it_is_well(
    guilty: Any, why: str
) -> None:
    conversation = reporting(state={"reported": {"net": "old"}})
    for turn in range(3):
        conversation, effects = report(conversation, 0, {"net": guilty, "state": "ok"}, {}, 1.0)
        assert events(effects) == (["shadow.left_out"] if turn == 0 else [])
        assert [body["state"] for _, body in sent(effects)] == [{"reported": {"net": None, "state": "ok"}}]
        conversation = taken(conversation, effects)
    assert why in problems(conversation)[0]
    conversation, _ = opened(closed(conversation), 2.0)
    assert why in problems(conversation)[0]
    conversation, effects = report(reporting_again(conversation), 0, {"net": ["ap"], "state": "ok"}, {}, 2.0)
    assert events(effects) == ["shadow.put_back"] and problems(conversation) == []


def test_what_is_desired_and_reported_together_is_bounded_and_the_largest_key_goes() -> None:
    """4,500 bytes are desired, and done: both sections have them then."""
    text = "x" * 4500
    conversation = reporting(state={"desired": {"msg": text}, "reported": {"state": "ok"}})
    conversation, effects = report(conversation, 0, {"msg": text, "state": "ok", "pump": "y" * 500}, {}, 1.0)
    assert [body["state"]["reported"] for _, body in sent(effects)] == [{"state": "ok", "pump": "y" * 500}]
    assert [effect.fields["key"] for effect in effects if isinstance(effect, Entry)] == ["msg"]


def test_what_is_left_out_for_its_size_leaves_no_former_value_in_the_shadow() -> None:
    document = {"desired": {"a": "x" * 5000}, "reported": {"a": "y" * 3000, "b": 1}}
    kept, left_out = limits.fitted(document, "reported", {"a": "x" * 5000, "b": 2})
    assert kept == {"a": None, "b": 2} and list(left_out) == ["a"]


def test_what_iotd_reports_of_itself_goes_last() -> None:
    content = {"iotd": "x" * 6000, **{f"key {number}": "y" * 1000 for number in range(5)}}
    kept, left_out = limits.fitted({}, "reported", content)
    assert "iotd" in kept and len(left_out) == 3
    assert len(json.dumps(kept, separators=(",", ":"))) <= MAX_BYTES


def test_a_seed_that_would_be_refused_is_left_out_alone() -> None:
    conversation, effects = report(reporting(), 0, {"state": "ok"}, {"mode": [None], "other": 1}, 1.0)
    assert [body["state"] for _, body in sent(effects)] == [{"reported": {"state": "ok"}}, {"desired": {"other": 1}}]
    assert events(effects) == ["shadow.left_out"] and "left out of what is desired" in problems(conversation)[0]


def taken(conversation: Conversation, effects: list[Any], version: int = 6) -> Conversation:
    """Return the conversation once the service has taken all that was sent."""
    for _, body in sent(effects):
        conversation, _ = hear(conversation, "update/accepted", {"version": version, **body})
    return conversation


def reporting_again(conversation: Conversation) -> Conversation:
    """Return the conversation once the get of a new line was answered."""
    [token] = conversation.requests.in_flight
    return hear(conversation, "get/accepted", {"state": {"reported": {}}, "version": 7, "clientToken": token})[0]


class Refusing:
    """A service that refuses every update in which one of the `guilty` keys is, and does not say which."""

    def __init__(self, code: int, guilty: set[str]) -> None:
        self.conversation = reporting()
        self.guilty = guilty
        self.code = code
        self.stored: dict[str, Any] = {}
        self.asked = 0
        self.entries: list[tuple[str, str]] = []

    def report(self, content: dict[str, Any], now: float) -> None:
        """Report, and exchange whatever follows from that."""
        self.conversation, effects = report(self.conversation, 0, content, {}, now)
        queue = deque(effects)
        while queue:
            effect = queue.popleft()
            if isinstance(effect, Entry) and effect.level > logging.DEBUG:
                self.entries.append((effect.event, str(effect.fields.get("key", ""))))
            elif isinstance(effect, Send):
                self.asked += 1
                body = json.loads(effect.message.payload)
                said, token = body["state"]["reported"], body["clientToken"]
                is_refused = bool(self.guilty & said.keys())
                self.stored.update({} if is_refused else said)
                self.conversation, more = hear(
                    self.conversation, "update/rejected" if is_refused else "update/accepted",
                    {"version": 6, "code": self.code, "message": "no", "clientToken": token}, now)
                queue.extend(more)


TEN = {f"k{number}": number for number in range(10)}


@pytest.mark.parametrize("code", [400, 413])
@pytest.mark.parametrize("guilty", [{"k3"}, {"k0", "k9"}, {"k1", "k2", "k3"}, set(TEN)], ids=len)
def test_a_key_that_is_refused_by_no_known_rule_is_found_by_halving_and_left_out_alone(
    guilty: set[str], code: int
) -> None:
    service = Refusing(code, guilty)
    service.report(TEN, 1.0)
    assert set(service.stored) == TEN.keys() - guilty
    assert sorted(service.entries) == sorted(
        [("shadow.rejected", ""), *(("shadow.left_out", key) for key in guilty)])
    assert service.asked <= 1 + 8 * len(guilty)
    for number in range(480):  # four hours: each is tried again now and then, and nothing more is said
        service.report(TEN, 31.0 + 30.0 * number)
    assert len(service.entries) == 1 + len(guilty)
    assert service.asked < 480 + 1 + 8 * len(guilty) + 10 * len(guilty)
    assert sum("left out" in problem for problem in problems(service.conversation)) == len(guilty)


def test_a_key_that_the_service_takes_after_all_is_put_back() -> None:
    service = Refusing(400, {"k3"})
    service.report(TEN, 1.0)
    service.guilty.clear()
    service.report(TEN, 50.0)
    assert "k3" not in service.stored
    service.report(TEN, 62.0)
    assert service.stored == TEN, "and it is no problem until the next report, which may be hours away"
    assert service.entries[-1] == ("shadow.put_back", "k3") and problems(service.conversation) == []


def test_a_search_that_finds_no_end_is_bounded() -> None:
    content = {f"key {number}": number for number in range(500)}
    service = Refusing(400, set(content))
    service.report(content, 1.0)
    assert service.asked <= 1 + 2 * limits.MAX_HALVINGS and service.stored == {}
    assert sum(event == "shadow.left_out" for event, _ in service.entries) == 500


def test_a_report_that_comes_while_the_guilty_key_is_searched_waits_for_the_end_of_that() -> None:
    conversation, _ = report(reporting(), 0, {"a": 1, "b": 2}, {}, 1.0)
    conversation, effects = hear(conversation, "update/rejected", {"code": 400, "clientToken": "run-2"})
    assert [body["state"]["reported"] for _, body in sent(effects)] == [{"a": 1}, {"b": 2}]
    conversation, effects = report(conversation, 0, {"a": 3, "b": 2}, {}, 1.0)
    assert effects == []
    conversation, _ = hear(conversation, "update/accepted", {"version": 6, "clientToken": "run-3"})
    conversation, effects = hear(conversation, "update/rejected", {"code": 400, "clientToken": "run-4"})
    assert reports(effects) == [Report(0)]


@pytest.mark.parametrize("code", [401, 403, 500])
def test_a_refusal_that_lasts_is_said_once_and_stands_until_it_is_over(code: int) -> None:
    conversation, said = reporting(), []
    for number in range(5):
        conversation, effects = report(conversation, 0, {"state": "ok"}, {}, 1.0)
        conversation, more = hear(conversation, "update/rejected", {
            "code": code, "message": "no", "clientToken": sent(effects)[0][1]["clientToken"]})
        said += events(more)
    assert said == ["shadow.rejected"] and f"the update of shadow s is refused: {code} no" in problems(conversation)
    conversation, effects = report(conversation, 0, {"state": "ok"}, {}, 1.0)
    assert problems(taken(conversation, effects)) == []


def get_answer(version: int, token: str = "run-1", **more: Any) -> dict[str, Any]:
    return {"state": {"desired": {"mode": "eco"}, "reported": {"mode": "eco"}}, "version": version,
            "clientToken": token, **more}


def orders(effects: list[Any]) -> list[Any]:
    """Return what is to be done, and what other programs are told is desired."""
    return [effect for effect in effects if isinstance(effect, (Wanted, Desired))]


REPLAYED = [("update/delta", {"state": {"gate": "open"}, "version": 3}),
            ("update/documents", {"current": {"state": {"desired": {"gate": "open"}}, "version": 3}})]


@pytest.mark.parametrize("answer, body", REPLAYED)
def test_what_a_kept_session_replays_before_the_get_is_answered_is_no_order(answer: str, body: Any) -> None:
    silent = start("t", (NAMED,), "run")
    silent, effects = hear(silent, answer, body)
    assert orders(effects) == []
    conversation, _ = opened(silent, 0.0)
    conversation, effects = hear(conversation, answer, body)
    assert orders(effects) == [] and "shadow.delta" not in events(effects)
    conversation, effects = hear(conversation, "get/accepted", get_answer(5))
    assert told(effects) == [None, ({"mode": "eco"},)]
    assert orders(hear(conversation, answer, body)[1]) == []
    assert orders(hear(closed(conversation), answer, body)[1]) == []


@pytest.mark.parametrize("answer, body", REPLAYED)
def test_what_was_heard_before_the_get_was_answered_and_is_newer_has_it_made_again_at_once(
    answer: str, body: Any
) -> None:
    conversation, _ = hear(begun()[0], answer, body)
    conversation, _ = hear(conversation, "get/accepted", get_answer(2))
    conversation, effects = keep(conversation, 1.0)
    assert [topic for topic, _ in sent(effects)] == [PREFIX + "get"]
    conversation, effects = hear(conversation, "get/accepted", get_answer(2, "run-2"))
    assert told(effects) == [None, ({"mode": "eco"},)]
    assert next_due(conversation) == math.inf


@pytest.mark.parametrize("answer, body", REPLAYED)
def test_after_a_404_nothing_is_an_order_before_the_shadow_is_known_to_be_there(answer: str, body: Any) -> None:
    conversation, _ = hear(begun()[0], "get/rejected", {"code": 404, "clientToken": "run-1"})
    conversation, effects = report(conversation, 0, {"state": "ok"}, {}, 1.0)
    conversation, heard_effects = hear(conversation, answer, body)
    assert orders(heard_effects) == []
    conversation, _ = hear(conversation, "update/accepted", {"version": 5, "clientToken": "run-2"})
    assert orders(hear(conversation, answer, body)[1]) == []
    _, effects = hear(conversation, "update/delta", {"state": {"gate": "open"}, "version": 5})
    assert told(effects) == [{"gate": "open"}]


def test_a_shadow_that_the_cloud_makes_after_a_404_is_got() -> None:
    conversation, _ = hear(begun()[0], "get/rejected", {"code": 404, "clientToken": "run-1"})
    for version in range(1, 20):
        conversation, _ = hear(conversation, "update/delta", {"state": {"mode": version}, "version": version})
    conversation, effects = keep(conversation, 1.0)
    assert [topic for topic, _ in sent(effects)] == [PREFIX + "get"]
    _, effects = hear(conversation, "get/accepted", {"state": {"desired": DELTA, "delta": DELTA}, "version": 19,
                                                     "clientToken": "run-2"})
    assert told(effects) == [DELTA, (DELTA,)]


@pytest.mark.parametrize("answer, body", REPLAYED)
def test_what_is_older_than_the_get_by_the_services_own_time_is_no_order_whatever_its_number(
    answer: str, body: Any
) -> None:
    conversation, _ = hear(begun()[0], "get/accepted", get_answer(2, timestamp=200_000))
    conversation, effects = hear(conversation, answer, {**body, "timestamp": 10_000})
    assert orders(effects) == []
    assert [topic for topic, _ in sent(keep(conversation, 1.0)[1])] == [PREFIX + "get"]
    assert orders(hear(conversation, answer, {**body, "timestamp": 200_000})[1]) != []


@pytest.mark.parametrize("code, for_good", [(403, True), (400, True), (500, False), (429, False), (None, False)])
def test_a_get_that_has_failed_for_good_lets_orders_be_orders(code: Any, for_good: bool) -> None:
    conversation, _ = hear(begun()[0], "get/rejected", {"code": code, "clientToken": "run-1"})
    delta = {"state": DELTA, "version": 3}
    assert bool(orders(hear(conversation, "update/delta", delta)[1])) == for_good
    now = 1.0
    for _ in range(20):
        now = min(next_due(conversation), now + 1000.0)
        conversation, _ = keep(conversation, now)
    assert told(hear(conversation, "update/delta", delta, now)[1]) == [DELTA]


def test_what_comes_of_a_shadow_that_rests_is_no_order() -> None:
    conversation, _ = opened(start("t", (CLASSIC,), "run"), 0.0, True, ["the classic shadow"])
    delta = Received(1, "$aws/things/t/shadow/update/delta", b'{"state": {"a": 1}, "version": 3}', 1, False)
    assert heard(conversation, delta, 1.0)[1] == []


FAN = Shadow("s", on_delta={"fan": Run(("fan", "{value}"))})
SPEED = {"desired": {"fan": {"speed": 2, "mode": "eco"}, "free": {"a": 1, "b": 1}},
         "reported": {"fan": {"speed": 1, "mode": "eco"}, "free": {"a": 1}}}
PART = {"fan": {"speed": 2}, "free": {"b": 1}}


def fan() -> Conversation:
    conversation, _ = opened(start("t", (FAN,), "run"), 0.0)
    return hear(conversation, "get/accepted", {
        "state": {**SPEED, "desired": SPEED["reported"]}, "version": 5, "clientToken": "run-1"})[0]


def wanted(effects: list[Any]) -> list[Any]:
    return [effect.delta for effect in effects if isinstance(effect, Wanted)]


def test_what_is_wanted_of_an_object_is_the_whole_of_it() -> None:
    _, effects = hear(opened(start("t", (FAN,), "run"), 0.0)[0], "get/accepted", {
        "state": {**SPEED, "delta": PART}, "version": 5, "clientToken": "run-1"})
    assert wanted(effects) == [SPEED["desired"]]


@pytest.mark.parametrize("order", [("update/delta", "update/documents"), ("update/documents", "update/delta")])
def test_a_delta_that_tells_a_part_waits_for_the_document_that_tells_all(order: tuple[str, str]) -> None:
    body = {"update/delta": {"state": PART, "version": 6},
            "update/documents": {"current": {"state": SPEED, "version": 6}}}
    conversation, first = hear(fan(), order[0], body[order[0]])
    conversation, second = hear(conversation, order[1], body[order[1]])
    assert wanted(first) == [] and wanted(second) == [SPEED["desired"]]
    assert next_due(conversation) == math.inf


def test_a_document_that_does_not_come_is_asked_for_once() -> None:
    conversation, effects = hear(fan(), "update/delta", {"state": PART, "version": 6})
    assert wanted(effects) == []
    conversation, effects = keep(conversation, 2.0)
    assert [topic for topic, _ in sent(effects)] == [PREFIX + "get"]
    conversation, effects = hear(conversation, "get/accepted", {
        "state": {**SPEED, "delta": PART}, "version": 6, "clientToken": "run-2"})
    assert wanted(effects) == [SPEED["desired"]] and reports(effects) == []
    assert next_due(conversation) == math.inf


def test_a_newer_document_tells_what_is_wanted_of_an_older_delta() -> None:
    conversation, _ = hear(fan(), "update/delta", {"state": PART, "version": 6})
    newer = {"desired": {"fan": {"speed": 1, "mode": "eco"}, "free": {"b": 1}}, "reported": SPEED["reported"]}
    assert wanted(hear(conversation, "update/documents", {"current": {"state": newer, "version": 7}})[1]) == [
        {"free": {"b": 1}}]


@pytest.mark.parametrize("delta", [{"fan": 3}, {"fan": [{"a": 1}]}, {"free": {"b": 1}, "fan": "fast"}])
def test_a_delta_that_tells_all_of_what_has_an_action_waits_for_nothing(delta: Any) -> None:
    assert wanted(hear(fan(), "update/delta", {"state": delta, "version": 6})[1]) == [delta]


def test_the_token_of_an_update_answers_no_get_and_the_other_way_round() -> None:
    conversation, _ = report(reporting(), 0, {"state": "ok"}, {}, 1.0)
    assert hear(conversation, "get/accepted", {"state": {}, "version": 9, "clientToken": "run-2"}) == (conversation, [])
    conversation, _ = begun()
    assert hear(conversation, "update/accepted", {"version": 9, "clientToken": "run-1"}) == (conversation, [])


def test_when_the_line_is_down_no_answer_is_awaited_and_nothing_is_reported() -> None:
    conversation, _ = report(reporting(), 0, {"state": "ok"}, {}, 1.0)
    conversation = closed(conversation)
    assert next_due(conversation) == math.inf
    assert report(conversation, 0, {"state": "ok"}, {}, 2.0) == (conversation, [])
    assert hear(conversation, "update/accepted", {"version": 6, "clientToken": "run-2"}) == (conversation, [])


@pytest.mark.parametrize("topic", ["", "$aws/things/t/shadow/name/s/get", "$aws/things/t/shadow/name/s/delete/accepted",
                                   "$aws/things/u/shadow/name/s/get/accepted", "$aws/things/t/shadow/get/accepted",
                                   "$aws/things/t/shadow/name/s2/get/accepted", "x" + PREFIX + "get/accepted"])
def test_other_topics_are_none_of_its_business(topic: str) -> None:
    conversation, _ = begun()
    assert heard(conversation, Received(1, topic, b"garbage", 1, False), 1.0) == (conversation, [])


def tree(chance: random.Random, depth: int, no_null: bool = False) -> Any:
    """Return a JSON value of any type."""
    kind = chance.randrange(9 if depth else 6)
    if kind < 6:
        return [0 if no_null else None, True, 1, 1.5, "x", chance.randrange(-2, 3)][kind]
    if kind == 6:
        return [tree(chance, depth - 1, no_null) for _ in range(chance.randrange(3))]
    return {key: tree(chance, depth - 1, no_null) for key in chance.sample("abcde", chance.randrange(3))}


HOSTILE: list[Any] = [
    None, True, False, 0, -1, 1, 5, 6, 10**30, 1.5, float("inf"), "", "run-1", "\ud800", [], [None], {},
    {"desired": None}, {"desired": {"mode": []}}, {"delta": 3}, {"delta": {"a": None}}, {"state": {}, "version": 3}]
KEYS = ("state", "version", "clientToken", "code", "message", "current", "previous", "timestamp")


@pytest.mark.parametrize("answer", ANSWERS)
def test_whatever_comes_never_raises_and_is_at_most_one_warning(answer: str) -> None:
    chance = random.Random(answer)
    base = [begun()[0], reporting(), report(reporting(), 0, {"a": 1}, {"b": 2}, 1.0)[0], closed(reporting())]
    for turn in range(4000):
        conversation = chance.choice(base)
        body: Any = {key: chance.choice([chance.choice(HOSTILE), tree(chance, 3)])
                     for key in KEYS if chance.random() < 0.7}
        if chance.random() < 0.6:
            body["clientToken"] = chance.choice(list(conversation.requests.in_flight) or ["run-1"])
        if chance.random() < 0.4:
            body["version"] = chance.randrange(10)
        after, effects = hear(conversation, answer, chance.choice([body, body, body, tree(chance, 2)]))
        assert sum(effect.level >= logging.WARNING for effect in effects if isinstance(effect, Entry)) <= 1
        assert len(after.requests.in_flight) <= MAX_IN_FLIGHT
        keep(after, 30.0)


@pytest.mark.parametrize("answer", ANSWERS)
@pytest.mark.parametrize("payload", [
    b"", b"\xff", b"null", b"[]", b"7", b'"x"', b"{", b'{"state":', b"[" * 100_000, b'{"a":' * 50_000, b"9" * 5000,
])
def test_what_is_no_json_object_is_one_warning(answer: str, payload: bytes) -> None:
    conversation, _ = begun()
    after, effects = hear(conversation, answer, payload)
    assert after == conversation and [effect.level for effect in effects] == [logging.WARNING]


@pytest.mark.parametrize("depth", [*range(800, 1000, 7), 3000, 9000])
def test_no_depth_of_nesting_raises(depth: int) -> None:
    deep = b'{"a":' * depth + b"1" + b"}" * depth
    for answer, body in [
        ("update/delta", b'{"version":9,"state":%s}' % deep),
        ("update/documents", b'{"current":{"version":9,"state":{"desired":%s,"reported":%s}}}' % (deep, deep)),
        ("get/accepted", b'{"clientToken":"run-1","version":9,"state":{"desired":%s,"delta":%s}}' % (deep, deep)),
        ("get/rejected", b'{"clientToken":"run-1","code":400,"message":%s}' % deep),
    ]:
        conversation, _ = hear(begun()[0], answer, body)
        conversation, effects = hear(conversation, answer, body)
        assert sum(effect.level >= logging.WARNING for effect in effects if isinstance(effect, Entry)) <= 1


class World:
    """The device and the service, and the messages between them in flight.

    The line is lost once, after `cut_after` messages; all others in flight are lost with it. `order` is the order in
    which the service's answers to one request arrive.
    """

    def __init__(self, order: tuple[int, ...], cut_after: int | None) -> None:
        self.conversation = start("t", (NAMED, CLASSIC), "run")
        self.stored: dict[str | None, document.Document | None] = {"s": None, None: None}
        self.reported: list[dict[str, Any]] = [{"state": "ok"}, {"count": 1}]
        self.orders: list[Any] = []
        self.wanted: dict[int, Any] = {}
        self.desired: dict[int, Any] = {}
        self.messages = 0
        self.now = 0.0
        self._order, self._cut_after = order, cut_after
        self._line: deque[Message | Received] = deque()

    def connect(self) -> None:
        self.conversation, effects = opened(self.conversation, self.now)
        self.perform(effects)

    def lose_the_line(self) -> None:
        self._line.clear()
        self.conversation = closed(self.conversation)
        self.now += 3.0
        self.connect()

    def device_reports(self) -> None:
        for index in range(2):
            self.perform([Report(index)])

    def device_obeys(self) -> None:
        self.reported[0]["mode"] = "boost"
        self.device_reports()

    def cloud_orders(self, mode: str) -> None:
        self.request("s", "update", {"state": {"desired": {"mode": mode}}})

    def cloud_deletes(self) -> None:
        if document.exists(self.stored["s"]):
            self.stored["s"], _ = document.delete(self.stored["s"], "s", {}, int(self.now))

    def perform(self, effects: list[Any]) -> None:
        for effect in effects:
            if isinstance(effect, Send):
                self._line.append(effect.message)
            elif isinstance(effect, Report):
                self.conversation, more = report(self.conversation, effect.shadow, self.reported[effect.shadow],
                                                 dict(effect.desired), self.now)
                self.perform(more)
            elif isinstance(effect, Wanted):
                self.wanted[effect.shadow] = effect.delta
            elif isinstance(effect, Desired):
                self.desired[effect.shadow] = effect.state
            elif isinstance(effect, Taken):
                pass
            elif effect.event == "shadow.delta":
                self.orders.append(effect.fields["state"])
            else:
                assert effect.level < logging.WARNING or effect.event == "shadow.unanswered", effect

    def exchange(self) -> None:
        """Deliver everything."""
        while self._line:
            message = self._line.popleft()
            if isinstance(message, Received):
                self.conversation, effects = heard(self.conversation, message, self.now)
                self.perform(effects)
            else:
                self.serve(message)
            self.messages += 1
            if self.messages == self._cut_after:
                self.lose_the_line()

    def serve(self, message: Message) -> None:
        name = "s" if message.topic.startswith(PREFIX) else None
        self.request(name, message.topic.rsplit("/", 1)[1], json.loads(message.payload))

    def request(self, name: str | None, verb: str, body: Any) -> None:
        """Let the service take a request; whoever made it, the device hears the answers."""
        start_of_topic = prefix("t", name)
        answers: list[tuple[str, document.Object]]
        try:
            if verb == "get":
                answers = [("get/accepted", document.get(self.stored[name], str(name), body, int(self.now)))]
            else:
                done = document.update(self.stored[name], body, int(self.now))
                self.stored[name] = done.document
                answers = [("update/accepted", done.accepted), ("update/documents", done.documents)]
                answers += [("update/delta", done.delta)] if done.delta else []
        except document.Refusal as refusal:
            answers = [(f"{verb}/rejected", refusal.payload(int(self.now), body.get("clientToken")))]
        for index in self._order:
            if index < len(answers):
                answer, payload = answers[index]
                self._line.append(Received(1, f"{start_of_topic}/{answer}", document.dump(payload), 1, False))

    def pass_time(self, seconds: float) -> None:
        """Do what is due, and report every 30 s."""
        until = self.now + seconds
        while self.now < until:
            due_at = min(next_due(self.conversation), self.now + 30.0, until)
            self.now = max(due_at, self.now + 0.001)
            self.conversation, effects = keep(self.conversation, self.now)
            self.perform(effects)
            self.device_reports()
            self.exchange()

    def outcome(self) -> Any:
        """Return what both sides know in the end, without the numbers that a lost line changes."""
        return ([(name, stored and stored.deleted_at is None and stored.state) for name, stored in self.stored.items()],
                [(standing.stage, standing.delta) for standing in self.conversation.standings],
                self.orders[-1:], self.wanted, self.desired,
                bool(self.conversation.requests.in_flight or self.conversation.requests.waiting))


SCENARIOS: dict[str, list[Callable[[World], None]]] = {
    "a first day": [World.device_reports, World.device_reports],
    "an order that is obeyed": [lambda world: world.cloud_orders("boost"), World.device_reports, World.device_obeys],
    "an order that is not obeyed": [lambda world: world.cloud_orders("boost"), World.device_reports],
    "an order that is taken back": [lambda world: world.cloud_orders("boost"), lambda world: world.cloud_orders("eco")],
    "an order over an order": [lambda world: world.cloud_orders("boost"), lambda world: world.cloud_orders("off")],
    "a shadow that is deleted": [lambda world: world.cloud_orders("boost"), World.cloud_deletes, World.device_reports,
                                 World.lose_the_line],
}


def play(steps: list[Callable[[World], None]], order: tuple[int, ...], cut_after: int | None) -> World:
    world = World(order, cut_after)
    world.connect()
    world.exchange()
    for step in steps:
        step(world)
        world.exchange()
        world.now += 1.0
    world.pass_time(400.0)
    return world


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 1, 0), (1, 2, 0)])
@pytest.mark.parametrize("scenario", SCENARIOS)
def test_a_line_lost_after_any_message_ends_in_the_same_state(scenario: str, order: tuple[int, ...]) -> None:
    undisturbed = play(SCENARIOS[scenario], order, None)
    expected = undisturbed.outcome()
    assert expected[0][0][1] and expected[5] is False
    assert undisturbed.messages > 20
    for cut_after in range(1, 60):
        assert play(SCENARIOS[scenario], order, cut_after).outcome() == expected, f"cut after message {cut_after}"
