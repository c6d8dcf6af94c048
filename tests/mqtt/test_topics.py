"""The rules of topics and names: a table for each."""

from __future__ import annotations

import pytest

from iotd.mqtt.topics import (
    AWS_MAX_PAYLOAD_BYTES, covers, filter_problem, is_aws_endpoint, matches, payload_problem, shadow_problem,
    thing_problem, topic_problem,
)

DEEP = "a/b/c/d/e/f/g/h"  # seven slashes
LONG = "é" * 128  # 256 bytes


@pytest.mark.parametrize("topic, aws, retain, word", [
    ("a", True, True, None),
    ("/", True, True, None),
    ("温度/👉", True, True, None),
    (DEEP, True, False, None),
    (DEEP + "/", True, False, "8 slashes"),
    (DEEP + "/", False, False, None),
    (LONG, True, False, None),
    (LONG + "a", True, False, "257 bytes"),
    (LONG + "a", False, False, None),
    ("a" * 65535, False, False, None),
    ("a" * 65536, False, False, "65536 bytes"),
    ("", False, False, "empty"),
    ("a\0b", False, False, "NUL"),
    ("a\nb", False, False, "U+000A"),
    ("a\x7f", True, False, "U+007F"),
    ("a\x85", False, False, "U+0085"),
    ("\ufffe", False, False, "U+FFFE"),
    ("a/\U0010ffff", False, False, "U+10FFFF"),
    ("\ufdd0", False, False, "U+FDD0"),
    ("a\udcff", False, False, "U+DCFF"),
    ("a\u2028\u3000\ufffd", False, False, None),
    ("a/+/b", False, False, "wildcard"),
    ("a#", False, False, "wildcard"),
    ("$aws/rules/r/" + DEEP, True, False, None),
    ("$aws/rules/r/" + DEEP + "/", True, False, "8 slashes"),
    ("$aws/rules/r/" + LONG, True, False, None),
    ("$aws/rules/r/" + LONG + "a", True, False, "257 bytes"),
    ("$aws/rules/r/a", True, True, "retain: false"),
    ("$aws/rules/r", True, False, "reserved"),
    ("$aws/things/t/shadow/update", True, False, "reserved"),
    ("$mine", True, False, "reserved"),
    ("$mine", False, True, None),
])
def test_topics_to_publish_to(topic: str, aws: bool, retain: bool, word: str | None) -> None:
    assert_says(topic_problem(topic, aws, retain), word)


@pytest.mark.parametrize("filter, aws, word", [
    ("#", True, None),
    ("+", True, None),
    ("a/#", True, None),
    ("+/a/+/#", True, None),
    ("$aws/things/t/shadow/#", True, None),
    ("a/#/b", False, "# amid other text"),
    ("a#", False, "# amid other text"),
    ("#/", False, "# amid other text"),
    ("a/b+", False, "+ beside other text"),
    ("++", False, "+ beside other text"),
    ("", False, "empty"),
    ("a\0", False, "NUL"),
    ("a\r/#", False, "U+000D"),
    ("\ud800/+", False, "U+D800"),
    (DEEP + "/#", True, "8 slashes"),
    (DEEP + "/#", False, None),
    (LONG + "/#", True, "258 bytes"),
    ("$share/group/a/+/#", True, None),
    ("$share/group//", False, None),
    ("$share/group/a+", False, "+ beside other text"),
    ("$share", False, "no shared subscription"),
    ("$share/group", False, "no shared subscription"),
    ("$share/group/", False, "no shared subscription"),
    ("$share//a", False, "no shared subscription"),
    ("$share/+/a", False, "no shared subscription"),
    ("$share/g#/a", False, "no shared subscription"),
])
def test_filters_to_subscribe_to(filter: str, aws: bool, word: str | None) -> None:
    assert_says(filter_problem(filter, aws), word)


@pytest.mark.parametrize("name, aws, word", [
    ("pi-7_a:B", True, None),
    ("a" * 128, True, None),
    ("a" * 129, True, "1 to 128"),
    ("", True, "1 to 128"),
    ("a.b", True, "no thing name"),
    ("pi\n", True, "no thing name"),
    ("$pi", True, "no thing name"),
    ("a.b", False, None),
    ("é" * 64, False, None),
    ("a" * 129, False, "129 bytes"),
    ("", False, "at least one character"),
    ("a\0", False, "NUL"),
    ("a\x1b", False, "U+001B"),
    ("a\udc80", False, "U+DC80"),
    ("line#4", False, "wildcard"),
    ("+", False, "wildcard"),
    ("plant/4", False, None),
])
def test_thing_names_are_client_ids_too(name: str, aws: bool, word: str | None) -> None:
    assert_says(thing_problem(name, aws), word)


@pytest.mark.parametrize("name, aws, word", [
    ("device_0", True, None),
    ("$package", True, None),
    ("a" * 64, True, None),
    ("a" * 65, True, "1 to 64"),
    ("a/b", True, "no shadow name"),
    ("ヨシ", True, "no shadow name"),
    ("ヨシ", False, None),
    ("a/b", False, "one level"),
    ("a+", False, "one level"),
    ("#", False, "one level"),
    ("", False, "one level"),
    ("a\n", False, "U+000A"),
])
def test_shadow_names(name: str, aws: bool, word: str | None) -> None:
    assert_says(shadow_problem(name, aws), word)


@pytest.mark.parametrize("size_bytes, aws, word", [
    (AWS_MAX_PAYLOAD_BYTES, True, None),
    (AWS_MAX_PAYLOAD_BYTES + 1, True, "131073 bytes"),
    (AWS_MAX_PAYLOAD_BYTES + 1, False, None),
])
def test_payloads_end_at_128_kilobytes_on_aws(size_bytes: int, aws: bool, word: str | None) -> None:
    assert_says(payload_problem(size_bytes, aws), word)


@pytest.mark.parametrize("filter, topic, expected", [
    ("a/b", "a/b", True),
    ("a/b", "a/B", False),
    ("a/b", "a", False),
    ("a", "a/b", False),
    ("a", "/a", False),
    ("a/+", "a/b", True),
    ("a/+", "a/", True),
    ("a/+", "a", False),
    ("a/+", "a/b/c", False),
    ("+", "a", True),
    ("+", "/a", False),
    ("+/+", "/a", True),
    ("/+", "/a", True),
    ("+/b/#", "a/b", True),
    ("a/#", "a", True),
    ("a/#", "a/b/c", True),
    ("a/#", "ab", False),
    ("#", "a/b", True),
    ("#", "/", True),
    ("#", "$SYS/a", False),
    ("+/a", "$SYS/a", False),
    ("$SYS/#", "$SYS/a", True),
    ("$SYS/+", "$SYS/a", True),
    ("a/#", "a/$b", True),
    ("$share/group/a/b", "a/b", True),
    ("$share/group/a/+", "a/b", True),
    ("$share/group/#", "a/b", True),
    ("$share/group/a/b", "a/c", False),
    ("$share/group/#", "$SYS/a", False),
    ("$share/group/$SYS/#", "$SYS/a", True),
    ("$share/group//a", "/a", True),
    ("$shared/group/a", "a", False),
])
def test_filters_match_as_mqtt_says(filter: str, topic: str, expected: bool) -> None:
    assert matches(filter, topic) is expected


@pytest.mark.parametrize("host, expected", [
    ("a1b2-ats.iot.ap-northeast-1.amazonaws.com", True),
    ("A1B2-ATS.IOT.AP-NORTHEAST-1.AMAZONAWS.COM", True),
    ("a1b2-ats.iot.eu-west-1.amazonaws.com.", True),
    ("a1b2.ats.iot.cn-north-1.amazonaws.com.cn", True),
    ("data.iot-fips.us-east-1.amazonaws.com", True),
    ("t1.deviceadvisor.iot.us-east-1.amazonaws.com", True),
    ("vpce-1.data.iot.eu-west-1.vpce.amazonaws.com", True),
    ("ec2-1-2-3-4.eu-west-1.compute.amazonaws.com", False),
    ("iot.example.com", False),
    ("a-ats.iot.eu-west-1.amazonaws.com.example.com", False),
    ("a-ats.iot.eu-west-1.notamazonaws.com", False),
    ("patriot.eu-west-1.amazonaws.com", False),
    ("localhost", False),
    ("", False),
])
def test_aws_endpoints_are_known_by_their_names(host: str, expected: bool) -> None:
    assert is_aws_endpoint(host) is expected


def assert_says(problem: str | None, word: str | None) -> None:
    """Assert that there is no problem, or one that says `word`."""
    assert problem is None if word is None else problem is not None and word in problem, problem


@pytest.mark.parametrize(("filter", "other", "expected"), [
    ("a", "a", True), ("a", "b", False), ("#", "a/b", True), ("#", "#", True), ("#", "+", True), ("a/#", "a", True),
    ("a/#", "a/+/#", True), ("a/#", "b/#", False), ("+", "a", True), ("+", "+", True), ("+", "#", False),
    ("+", "a/b", False), ("a/+", "a/#", False), ("a/+/c", "a/b/c", True), ("a/b", "a/+", False),
    ("#", "$SYS/#", False), ("+/a", "$SYS/a", False), ("$SYS/#", "$SYS/a", True), ("a/b", "a", False),
])
def test_a_filter_covers_another_where_it_matches_all_of_its_topics(filter: str, other: str, expected: bool) -> None:
    assert covers(filter, other) == expected
