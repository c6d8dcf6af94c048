"""The stand-in judges policies as AWS IoT Core does."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.aws.policy import Client, allows, statements

ARN = "arn:aws:iot:*:*:"
PI = Client("pi", thing="pi")


def policy(action: str, resource: str, effect: str = "Allow", **more: Any) -> dict[str, Any]:
    statement = {"Effect": effect, "Action": action, "Resource": ARN + resource, **more}
    return {"Version": "2012-10-17", "Statement": [statement]}


@pytest.mark.parametrize("resource, topic, allowed", [
    ("topic/a/b", "a/b", True),
    ("topic/a/b", "a/b/c", False),
    ("topic/a/*", "a/b/c", True),
    ("topic/a/?", "a/b", True),
    ("topic/a/?", "a/bc", False),
    ("topic/a/+", "a/b", False),
    ("topic/a/#", "a/b", False),
    ("topic/${iot:Connection.Thing.ThingName}/state", "pi/state", True),
    ("topic/${iot:Connection.Thing.ThingName}/state", "other/state", False),
    ("topic/${iot:ClientId}/*", "pi/state", True),
    ("topic/a.b", "axb", False),
])
def test_a_resource_is_compared_with_wildcards_and_variables(resource: str, topic: str, allowed: bool) -> None:
    assert allows(statements([policy("iot:Publish", resource)]), "iot:Publish", topic, PI) is allowed


def test_a_thing_that_does_not_connect_under_its_name_has_no_name_in_a_policy() -> None:
    granted = statements([policy("iot:Publish", "topic/${iot:Connection.Thing.ThingName}")])
    assert not allows(granted, "iot:Publish", "pi", Client("another", thing="pi"))
    assert allows(granted, "iot:Publish", "pi", Client("another", thing="pi", exclusive=True))
    assert not allows(granted, "iot:Publish", "pi", Client("pi"))


def test_what_is_denied_in_so_many_words_stays_so() -> None:
    granted = statements([policy("iot:Publish", "topic/*"), policy("iot:Publish", "topic/a", "Deny")])
    assert allows(granted, "iot:Publish", "b", PI) and not allows(granted, "iot:Publish", "a", PI)


@pytest.mark.parametrize("listed, allowed", [
    (("LastWill", "PersistentConnect"), True), (("LastWill",), False), ((), False)])
def test_a_will_and_a_persistent_session_are_granted_by_a_condition(listed: tuple[str, ...], allowed: bool) -> None:
    condition = {"ForAllValues:StringEquals": {"iot:ConnectAttributes": list(listed)}} if listed else {}
    granted = statements([policy("iot:Connect", "client/pi", Condition=condition)])
    both = PI._replace(attributes=frozenset({"LastWill", "PersistentConnect"}))
    assert allows(granted, "iot:Connect", "pi", both) is allowed
    assert allows(granted, "iot:Connect", "pi", PI)


def test_whether_the_thing_is_attached_is_a_condition() -> None:
    granted = statements([policy("iot:Connect", "client/*",
                                 Condition={"Bool": {"iot:Connection.Thing.IsAttached": "true"}})])
    assert allows(granted, "iot:Connect", "pi", PI)
    assert not allows(granted, "iot:Connect", "pi", Client("pi"))


@pytest.mark.parametrize("wrong", [
    policy("iot:Conect", "client/*"),
    policy("iot:Publish", "topicfilter/a"),
    policy("iot:Subscribe", "topic/a"),
    policy("iot:Publish", "topic/a", "allow"),
    policy("iot:Publish", "topic/a", Conditions={}),
    policy("iot:Publish", "topic/a", Condition={"Bool": {"aws:SecureTransport": "true"}}),
    {"Version": "2012-10-17", "Statement": [
        {"Effect": "Allow", "Action": "iot:Publish", "Resource": "arn:aws:iot:us-east-1:*:topic/a"}]},
    {"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": "iot:Publish", "Resource": "topic/a"}]},
    policy("iot:Publish", "topic/" + "a" * 2048),
])
def test_what_would_match_nothing_or_is_too_long_is_an_error(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError):
        statements([wrong])


def test_an_unknown_variable_is_an_error() -> None:
    granted = statements([policy("iot:Publish", "topic/${iot:ThingName}")])
    with pytest.raises(ValueError, match="iot:ThingName"):
        allows(granted, "iot:Publish", "pi", PI)


def test_white_space_does_not_count_and_ten_policies_are_the_most() -> None:
    long = policy("iot:Publish", "topic/" + "a" * 1900)
    assert statements([json.dumps(long, indent=400)] * 10)
    with pytest.raises(ValueError, match="11"):
        statements([long] * 11)
