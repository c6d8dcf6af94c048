"""What a line of a program's asks for, and what is said of one that asks for nothing."""

from __future__ import annotations

import itertools
import json
from typing import Any

import pytest

from iotd.local.requests import Ask, Listen, Refused, Status, Tell, parse
from iotd.vocabulary import Message, Offer


@pytest.mark.parametrize(("asked", "message", "offline"), [
    ({"publish": "a/b", "payload": {"x": [1, 2.5, None, "é"]}}, Message("a/b", '{"x": [1, 2.5, null, "é"]}'.encode()),
     "queue"),
    ({"publish": "a", "payload": None, "qos": 0, "retain": True}, Message("a", b"null", 0, True), "queue"),
    ({"publish": "a", "payload": "text", "offline": "latest"}, Message("a", b'"text"'), "latest"),
    ({"publish": "a", "payload": "half \ud800"}, Message("a", b'"half \\ud800"'), "queue"),
    ({"publish": "a", "text": "ヨシッ👉", "offline": "drop"}, Message("a", "ヨシッ👉".encode()), "drop"),
    ({"publish": "a", "text": ""}, Message("a", b""), "queue"),
    ({"publish": "a", "base64": "AP8="}, Message("a", b"\x00\xff"), "queue"),
])
def test_a_message_is_taken_with_its_payload_as_it_will_be_sent(
    asked: dict[str, Any], message: Message, offline: str
) -> None:
    assert parse(json.dumps(asked).encode()) == Offer(message, offline)


def test_a_value_a_filter_and_the_status_are_asked_for() -> None:
    assert parse(b'{"set": "door", "value": {"open": true}}') == Tell("door", {"open": True})
    assert parse(b'{"set": "door", "value": null}') == Tell("door", None)
    assert parse(b' {"listen": "a/#"} \r') == Listen("a/#")
    assert parse(b'{"ask": "renew"}') == Ask("renew")
    assert parse(b'{"status": true}') == Status()


@pytest.mark.parametrize(("line", "why"), [
    (b"", "no JSON"), (b"garbage", "no JSON"), (b'{"publish": "a", "payl', "no JSON"),
    (b'{"publish": "\xff"}', "UTF-8"),
    (b"\x00" * 100, "no JSON"), (b"[" * 100_000, "nested too deep"), (b'{"publish": "a", "payload": NaN}', "NaN"),
    (b"9" * 5000, "no JSON"), ("{}".encode("utf-16"), "UTF-8"), (b"[1]", "no JSON object"),
    (b'"publish"', "no JSON object"),
    (b"{}", "publish, set, listen, ask, status"), (b'{"pubish": "a"}', "publish, set"),
    (b'{"publish": 1, "payload": 1}', "publish: expected a topic, found 1"),
    (b'{"publish": "a"}', "expected one of payload, text and base64, found none"),
    (b'{"publish": "a", "payload": 1, "text": "x"}', "found payload and text"),
    (b'{"publish": "a", "payload": 1, "qso": 0}', "did you mean qos"),
    (b'{"publish": "a", "payload": 1, "qos": 2}', "qos: expected 0 or 1, found 2"),
    (b'{"publish": "a", "payload": 1, "qos": true}', "qos: expected 0 or 1, found true"),
    (b'{"publish": "a", "payload": 1, "qos": 1.0}', "qos: expected 0 or 1"),
    (b'{"publish": "a", "payload": 1, "retain": 1}', "retain: expected true or false, found 1"),
    (b'{"publish": "a", "payload": 1, "offline": "keep"}', 'found "keep"'),
    (b'{"publish": "a", "payload": 1, "offline": ["queue"]}', "offline: expected"),
    (b'{"publish": "a", "payload": 1e400}', "a number beyond JSON's"),
    (b'{"publish": "a", "text": 1}', "text: expected text, found 1"),
    (b'{"publish": "a", "text": "\\ud800"}', "send bytes as base64"),
    (b'{"publish": "\\ud800", "text": ""}', "is no text in UTF-8"),
    (b'{"publish": "a", "base64": "A"}', "base64: "), (b'{"publish": "a", "base64": "\xc3\xa9"}', "base64: "),
    (b'{"set": "a"}', "value: is missing"), (b'{"set": 1, "value": 1}', "set: expected the name"),
    (b'{"set": "a", "value": 1, "valeu": 2}', "did you mean value"),
    (b'{"listen": 1}', "listen: expected a topic filter"), (b'{"listen": "a", "x": 1}', "unknown key"),
    (b'{"ask": 1}', "ask: expected a word, found 1"), (b'{"ask": "renew", "x": 1}', "unknown key"),
    (b'{"status": 1}', "status: expected true"), (b'{"status": true, "x": 1}', "unknown key"),
    (b'{"publish": "a", "set": "b", "payload": 1}', '"set": unknown key'),
], ids=itertools.count())
def test_what_is_no_request_is_refused_with_its_reason(line: bytes, why: str) -> None:
    refused = parse(line)
    assert isinstance(refused, Refused) and why in refused.why and len(refused.why) < 300
