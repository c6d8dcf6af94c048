"""What the broker has to allow a configuration: no more than it needs, in policies that AWS takes."""

from __future__ import annotations

import json
from typing import Any

import pytest
import yaml

from iotd.config import parse, policy
from iotd.config.section import PUBLISH, SUBSCRIBE, Claim, Use
from iotd.config.settings import Settings
from tests.aws.policy import ACCOUNT, REGION, Client, allows
from tests.aws.policy import statements as judged

WHERE = policy.Where(REGION, ACCOUNT)
EVERYTHING = """
publish: [{topic: "p/{thing}", every: 1s, payload: {}}, {topic: "q/{thing}", every: 1s, retain: false, payload: {}}]
subscribe: [{topic: "s/{thing}"}, {topic: "t/+/u/#"}]
shadows: [{name: a}, {}]
values: {v: {socket: true}}
local: {publish: ["l/{thing}/#"]}
wifi: {}
"""


def settings_of(text: str) -> Settings:
    return parse.parse("mqtt: {host: h}\n" + text, "", policy.ANY_HOST, policy.THING).settings


def device(text: str) -> list[dict[str, Any]]:
    settings = settings_of(text)
    return policy.for_device(settings, parse.uses(settings), WHERE)


def resources(documents: list[dict[str, Any]], action: str) -> list[str]:
    found = []
    for statement in (statement for document in documents for statement in document["Statement"]):
        if action in statement["Action"] if isinstance(statement["Action"], list) else action == statement["Action"]:
            listed = statement["Resource"]
            found += [arn.partition(f"{ACCOUNT}:")[2] for arn in (listed if isinstance(listed, list) else [listed])]
    return found


def test_what_a_section_subscribes_is_counted_and_named_alike() -> None:
    settings = settings_of(EVERYTHING)
    for key, section in parse.sections(settings):
        value = settings.sections[key] if key in settings.sections else getattr(settings, key)
        named = [use for use in section.uses(value, settings.thing) if use.verb == SUBSCRIBE]
        assert len(named) == section.filters(value), key


def test_a_device_may_do_what_its_configuration_says_and_nothing_else() -> None:
    granted = judged(device(EVERYTHING))
    pi = Client("pi", "pi", attributes=frozenset({"LastWill", "PersistentConnect"}))
    for action, name in (
            ("iot:Connect", "pi"), ("iot:RetainPublish", "p/pi"), ("iot:Publish", "q/pi"), ("iot:Receive", "s/pi"),
            ("iot:Subscribe", "t/+/u/#"), ("iot:Receive", "t/x/u/y/z"), ("iot:RetainPublish", "l/pi/any/thing"),
            ("iot:Publish", "$aws/things/pi/shadow/name/a/update"),
            ("iot:Subscribe", "$aws/things/pi/shadow/get/accepted")):
        assert allows(granted, action, name, pi), (action, name)
    for action, name in (
            ("iot:Connect", "other"), ("iot:RetainPublish", "q/pi"), ("iot:Publish", "p/other"),
            ("iot:Subscribe", "p/pi"), ("iot:Subscribe", "t/#"), ("iot:Receive", "q/pi"), ("iot:Publish", "s/pi"),
            ("iot:Publish", "$aws/things/pi/shadow/name/a/delete"),
            ("iot:Subscribe", "$aws/things/pi/shadow/#")):
        assert not allows(granted, action, name, pi), (action, name)


def test_each_policy_is_one_that_aws_takes_and_all_of_them_say_everything() -> None:
    topics = [{"topic": f"a/long/beginning/of/a/topic/{{thing}}/{number}"} for number in range(40)]
    documents = device(yaml.safe_dump({"subscribe": topics}))
    assert len(documents) > 2 and judged(documents)
    assert min(len(json.dumps(document, separators=(",", ":"))) for document in documents[:-1]) > 1800
    assert len(resources(documents, "iot:Subscribe")) == len(resources(documents, "iot:Receive")) == 41


def test_a_topic_that_a_wildcard_has_is_not_named_again() -> None:
    text = 'publish: [{topic: "a/{thing}/b", every: 1s, payload: {}}]\nlocal: {publish: ["a/{thing}/#"]}'
    assert "topic/a/${iot:Connection.Thing.ThingName}/b" not in resources(device(text), "iot:Publish")


@pytest.mark.parametrize("text, attributes", [
    ("", ["LastWill", "PersistentConnect"]), ("presence: off", ["PersistentConnect"]),
    ("presence: off\nmqtt: {host: h, clean_session: true}", None)])
def test_only_what_connect_asks_for_is_granted(text: str, attributes: list[str] | None) -> None:
    settings = parse.parse(text if "mqtt" in text else f"mqtt: {{host: h}}\n{text}", "", policy.ANY_HOST,
                           policy.THING).settings
    condition = policy.for_device(settings, (), WHERE)[0]["Statement"][0]["Condition"]
    assert condition.get("ForAllValues:StringEquals", {}).get("iot:ConnectAttributes") == attributes


def test_what_a_broker_does_not_know_of_a_host_becomes_a_wildcard_and_is_named() -> None:
    settings = settings_of('thing: "{hostname}"\npresence: {topic: "a/{thing}"}\n'
                           'publish: [{topic: "b/{hostname}-{machine_id}/{thing}", every: 1s, payload: {}}]')
    uses = parse.uses(settings)
    assert "topic/b/*-*/${iot:Connection.Thing.ThingName}" in resources(
        policy.for_device(settings, uses, WHERE), "iot:Publish")
    assert [warning.split(":")[0] for warning in policy.wider(settings, uses)] == [
        "b/{hostname}-{machine_id}/{thing}"] * 2
    assert "pattern write b/+/%c" in policy.for_mosquitto(settings, uses)


def test_a_client_id_that_is_not_the_thing_is_named() -> None:
    settings = parse.parse('mqtt: {host: h, client_id: "x-{thing}"}', "", policy.ANY_HOST, policy.THING).settings
    assert resources(policy.for_device(settings, (), WHERE), "iot:Connect") == [
        "client/x-${iot:Connection.Thing.ThingName}"]
    [warning] = policy.wider(settings, ())
    assert "EXCLUSIVE_THING" in warning


def test_a_claim_may_ask_for_a_certificate_and_nothing_else() -> None:
    claim = Claim("claim-", (
        Use(PUBLISH, "$aws/certificates/create-from-csr/json"),
        Use(SUBSCRIBE, "$aws/certificates/create-from-csr/json/accepted"),
        Use(SUBSCRIBE, "$aws/certificates/create-from-csr/json/rejected")))
    [document] = policy.for_claim(claim, WHERE)
    granted = judged([document])
    anyone = Client("claim-17")
    assert allows(granted, "iot:Connect", "claim-17", anyone) and not allows(granted, "iot:Connect", "pi", anyone)
    assert allows(granted, "iot:Receive", "$aws/certificates/create-from-csr/json/accepted", anyone)
    assert not allows(granted, "iot:Publish", "$aws/certificates/create/json", anyone)


def test_a_shared_subscription_receives_on_the_topics_themselves() -> None:
    documents = device('subscribe: [{topic: "$share/group/a/+"}]')
    assert "topicfilter/$share/group/a/+" in resources(documents, "iot:Subscribe")
    assert "topic/a/*" in resources(documents, "iot:Receive")
