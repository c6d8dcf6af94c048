"""The shadow document against what the public sources say of it; what was observed of the cloud comes first."""

from __future__ import annotations

from typing import Any

import pytest

from tests.aws.document import Document, Refusal, Rules, Updated, delete, dump, get, parse, update

NOW = 1700000000
STAMP = {"timestamp": NOW}


def updated(*states: Any, rules: Rules = Rules()) -> Updated:
    """Apply one update after the other, a second apart, and return the last."""
    document = None
    for index, state in enumerate(states):
        result = update(document, {"state": state}, NOW + index, rules)
        document = result.document
    return result


def state_after(*states: Any) -> Any:
    return get(updated(*states).document, "name", {}, NOW)["state"]


def reported_after(*values: Any) -> Any:
    return state_after(*({"reported": value} for value in values)).get("reported")


def delta_between(desired: Any, reported: Any) -> Any:
    message = updated({"desired": desired, "reported": reported}).delta
    return message and message["state"]


@pytest.mark.parametrize(
    "values, stored",
    [
        ([{"a": 1}, {"b": 2}], {"a": 1, "b": 2}),
        ([{"a": 1}, {"a": {"b": 2}}], {"a": {"b": 2}}),
        ([{"a": {"b": 2}}, {"a": 1}], {"a": 1}),
        ([{"a": {"b": 1, "c": 2}}, {"a": {"c": 3}}], {"a": {"b": 1, "c": 3}}),
        ([{"a": [1, 2, 3]}, {"a": [4]}], {"a": [4]}),
        ([{"a": 1, "b": 2}, {"a": None}], {"b": 2}),
        ([{"a": 1}, {"a": None}], None),
        ([{"a": 1}, {}], {"a": 1}),
        ([{"a": {}}], {"a": {}}),
        ([{"a": {"b": None, "c": 1}}], {"a": {"c": 1}}),
        ([{"a": 1}, None], None),
    ],
)
def test_updates_merge(values: list[Any], stored: Any) -> None:
    assert reported_after(*values) == stored


@pytest.mark.parametrize("state", [{}, {"desired": {}}, {"desired": {}, "reported": None}])
def test_an_empty_update_makes_a_shadow_without_sections(state: Any) -> None:
    result = updated(state)
    assert (result.document.version, result.document.state) == (1, {})


def test_a_null_state_clears_both_sections_and_is_echoed() -> None:
    result = updated({"desired": {"a": 1}, "reported": {"a": 1}}, None)
    assert dict(result.accepted) == {
        "state": None, "metadata": {"timestamp": NOW + 1}, "version": 2, "timestamp": NOW + 1
    }
    cleared = get(result.document, "name", {}, NOW + 2)
    assert (cleared["state"], cleared["metadata"], cleared["version"]) == ({}, {}, 2)


def test_accepted_echoes_the_request_and_nothing_else() -> None:
    first = update(None, {"state": {"desired": {"other": 1}}}, NOW)
    request = {"state": {"reported": {"fan": {"rpm": 900}, "tags": ["a", "b"]}}, "clientToken": "t1"}
    assert dict(update(first.document, request, NOW).accepted) == {
        "state": {"reported": {"fan": {"rpm": 900}, "tags": ["a", "b"]}},
        "metadata": {"reported": {"fan": {"rpm": STAMP}, "tags": [STAMP, STAMP]}},
        "version": 2,
        "timestamp": NOW,
        "clientToken": "t1",
    }


def test_accepted_repeats_nulls_with_a_stamp() -> None:
    accepted = updated({"reported": {"a": 1}}, {"reported": {"a": None}, "desired": None}).accepted
    assert accepted["state"] == {"reported": {"a": None}, "desired": None}
    later = {"timestamp": NOW + 1}
    assert accepted["metadata"] == {"reported": {"a": later}, "desired": later}


def test_only_what_an_update_touches_is_stamped_anew() -> None:
    document = updated({"reported": {"a": 1, "b": {"c": 1, "d": 1}}}, {"reported": {"b": {"d": 1}}}).document
    assert document.metadata == {"reported": {"a": STAMP, "b": {"c": STAMP, "d": {"timestamp": NOW + 1}}}}


def test_a_deleted_key_leaves_no_stamp_behind() -> None:
    document = updated({"reported": {"a": 1, "b": 2}}, {"reported": {"a": None}}).document
    assert document.metadata == {"reported": {"b": STAMP}}


@pytest.mark.parametrize(
    "desired, reported, delta",
    [
        ({"m": "eco"}, {"m": "on"}, {"m": "eco"}),
        ({"m": "eco"}, {"m": "eco"}, None),
        ({"m": "eco"}, {}, {"m": "eco"}),
        ({}, {"m": "on"}, None),
        ({"a": {"b": 1, "c": 2}}, {"a": {"b": 1, "c": 3}}, {"a": {"c": 2}}),
        ({"a": {"b": 1}}, {"a": {"b": 1, "c": 2}}, None),
        ({"a": {"b": 1}}, {"a": 1}, {"a": {"b": 1}}),
        ({"a": {}}, {}, {"a": {}}),
        ({"a": [1, 2]}, {"a": [1, 3]}, {"a": [1, 2]}),
        ({"a": [1, 2]}, {"a": [1, 2]}, None),
        ({"a": 1}, {"a": 1.0}, None),
        ({"a": 1}, {"a": True}, {"a": 1}),
        ({"a": [0]}, {"a": [False]}, {"a": [0]}),
    ],
)
def test_delta_is_what_desired_has_otherwise(desired: Any, reported: Any, delta: Any) -> None:
    assert delta_between(desired, reported) == delta


def test_delta_comes_after_every_update_while_anything_differs() -> None:
    message = updated({"desired": {"m": "eco"}}, {"reported": {"m": "on"}}, {"reported": {"temperature": 20}}).delta
    assert message is not None
    assert dict(message) == {
        "version": 3, "timestamp": NOW + 2, "state": {"m": "eco"}, "metadata": {"m": {"timestamp": NOW}}
    }


def test_get_shows_a_delta_only_where_there_is_one() -> None:
    assert state_after({"desired": {"m": 1}, "reported": {"m": 2}})["delta"] == {"m": 1}
    assert "delta" not in state_after({"desired": {"m": 1}, "reported": {"m": 1}})


def test_documents_show_before_and_after_without_delta() -> None:
    request = {"state": {"reported": {"m": 2}}, "clientToken": "t"}
    before = update(None, {"state": {"desired": {"m": 1}}}, NOW).document
    assert dict(update(before, request, NOW + 1).documents) == {
        "previous": {"state": {"desired": {"m": 1}}, "metadata": {"desired": {"m": STAMP}}, "version": 1},
        "current": {
            "state": {"desired": {"m": 1}, "reported": {"m": 2}},
            "metadata": {"desired": {"m": STAMP}, "reported": {"m": {"timestamp": NOW + 1}}},
            "version": 2,
        },
        "timestamp": NOW + 1,
        "clientToken": "t",
    }


def test_documents_of_the_first_update_have_no_previous_in_either_spelling() -> None:
    assert updated({}).documents["previous"] is None
    assert "previous" not in updated({}, rules=Rules(first_previous_is_null=False)).documents


def test_the_first_version_is_1_and_an_update_without_effect_counts() -> None:
    assert [updated(*[{"reported": {"a": 1}}] * times).document.version for times in (1, 2, 3)] == [1, 2, 3]


def test_all_answers_to_an_update_carry_the_same_version() -> None:
    result = updated({"desired": {"a": 1}}, {"desired": {"a": 2}})
    assert result.delta is not None
    assert {result.accepted["version"], result.delta["version"], result.documents["current"]["version"]} == {2}


def nested(levels: int) -> Any:
    value: Any = {"leaf": 1}
    for _ in range(levels - 1):
        value = {"below": value}
    return value


@pytest.mark.parametrize(
    "request_, message",
    [
        ({}, "Missing required node: state"),
        ({"state": 1}, "State node must be an object"),
        ({"state": []}, "State node must be an object"),
        ({"state": {"desired": 1}}, "Desired node must be an object"),
        ({"state": {"reported": "on"}}, "Reported node must be an object"),
        ({"state": {"foo": {}}}, "State contains an invalid node: 'foo'"),
        ({"state": {"reported": {"a": [1, None]}}}, "State contains an invalid node"),
        ({"state": {}, "version": "1"}, "Invalid version"),
        ({"state": {}, "version": True}, "Invalid version"),
        ({"state": {}, "version": 2}, "Invalid version"),
        ({"state": {}, "clientToken": 1}, "Invalid clientToken"),
        ({"state": {}, "clientToken": "x" * 65}, "Invalid clientToken"),
        ({"state": {}, "clientToken": "ヨ" * 22}, "Invalid clientToken"),
        ({"state": {"desired": nested(7)}}, "JSON contains too many levels of nesting; maximum is 6"),
    ],
)
def test_a_malformed_update_is_refused_with_400(request_: Any, message: str) -> None:
    with pytest.raises(Refusal) as refusal:
        update(None, request_, NOW)
    assert (refusal.value.code, refusal.value.message) == (400, message)


@pytest.mark.parametrize(
    "request_", [{"state": {}, "clientToken": "x" * 64}, {"state": {}, "version": 1}, {"state": {"desired": nested(6)}}]
)
def test_an_update_just_within_the_limits_is_accepted(request_: Any) -> None:
    assert update(None, request_, NOW).document.version == 1


def test_the_depth_limit_is_a_rule() -> None:
    assert update(None, {"state": {"desired": nested(8)}}, NOW, Rules(max_depth=8)).document.version == 1


@pytest.mark.parametrize(
    "payload, code",
    [
        (b"", 400),
        (b"{", 400),
        (b"[]", 400),
        (b'{"state":NaN}', 400),
        (b'{"state":{"reported":{"a":"\\ud800"}}}', 400),
        (b"[" * 100_000, 400),
        (b'{"a":' * 100_000, 400),
        (b'{"state":"\xff"}', 415),
        ("{}".encode("utf-16"), 415),
    ],
)
def test_a_payload_that_is_no_json_in_utf_8_is_refused(payload: bytes, code: int) -> None:
    with pytest.raises(Refusal) as refusal:
        parse(payload)
    assert refusal.value.code == code


def test_a_stale_version_conflicts_and_changes_nothing() -> None:
    document = updated({"reported": {"a": 1}}, {"reported": {"a": 2}}).document
    for version in (1, 3):
        with pytest.raises(Refusal, match="409 Version conflict"):
            update(document, {"state": {"reported": {"a": 3}}, "version": version}, NOW)
    assert update(document, {"state": {"reported": {"a": 3}}, "version": 2}, NOW).document.version == 3
    assert document.state == {"reported": {"a": 2}}


def test_the_size_limit_counts_both_sections_after_the_merge_and_not_the_metadata() -> None:
    def half(size: int) -> Any:
        return {"a": "x" * (size - len(dump({"a": ""})))}

    full = updated({"desired": half(4096)}, {"reported": half(4096)}).document
    with pytest.raises(Refusal) as refusal:
        update(full, {"state": {"reported": half(4097)}}, NOW)
    assert (refusal.value.code, refusal.value.message) == (413, "The payload exceeds the maximum size allowed")


def test_a_missing_shadow_is_404_for_get_and_delete() -> None:
    with pytest.raises(Refusal, match="404 No shadow exists with name: 'device_0'"):
        get(None, "device_0", {}, NOW)
    with pytest.raises(Refusal, match="404 No shadow exists with name: 'device_0'"):
        delete(None, "device_0", {}, NOW)


def test_delete_answers_the_version_that_it_deleted() -> None:
    tombstone, deleted = delete(updated({}, {}, {}).document, "name", {"clientToken": "t"}, NOW)
    assert dict(deleted) == {"version": 3, "timestamp": NOW, "clientToken": "t"}
    with pytest.raises(Refusal, match="404"):
        get(tombstone, "name", {}, NOW)
    with pytest.raises(Refusal, match="404"):
        delete(tombstone, "name", {}, NOW)


def test_delete_minds_the_version() -> None:
    with pytest.raises(Refusal, match="409"):
        delete(updated({}, {}).document, "name", {"version": 1}, NOW)


@pytest.mark.parametrize(
    "rules, after_s, version",
    [
        (Rules(), 1, 5),
        (Rules(delete_takes_a_version=False), 1, 4),
        (Rules(), 48 * 3600 - 1, 5),
        (Rules(), 48 * 3600, 1),
    ],
)
def test_numbering_goes_on_for_48_hours_after_a_delete(rules: Rules, after_s: int, version: int) -> None:
    tombstone, _ = delete(updated({}, {}, {"reported": {"a": 1}}).document, "name", {}, NOW, rules)
    born_again = update(tombstone, {"state": {}}, NOW + after_s, rules)
    assert born_again.document == Document(version)
    assert born_again.documents["previous"] is None


def test_a_rejection_carries_code_text_time_and_token() -> None:
    assert dict(Refusal(409).payload(NOW, "t")) == {
        "code": 409, "message": "Version conflict", "timestamp": NOW, "clientToken": "t"
    }
    assert "clientToken" not in Refusal(409).payload(NOW, None)
