"""One key is written into a configuration, and nothing else of it changes."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from iotd.config import edit
from iotd.config.document import Unreadable

SAMPLE = (Path(__file__).parents[2] / "etc" / "iotd.yaml").read_text("utf-8")


def test_the_sample_is_changed_in_two_places_and_keeps_every_comment() -> None:
    text = edit.written(edit.written(SAMPLE, "b.example", "mqtt", "host"), '"pi-7"', "thing")
    changed = [(before, after) for before, after in zip(SAMPLE.splitlines(), text.splitlines()) if before != after]
    assert len(text.splitlines()) == len(SAMPLE.splitlines())
    assert [after.strip() for _, after in changed][1] == "host: b.example"
    assert changed[0][1].startswith('thing: "pi-7"') and changed[0][1].endswith(changed[0][0].split("#")[1])


@pytest.mark.parametrize("before, after", [
    ("", "mqtt:\n  host: b\n"),
    ("# all\n", "# all\nmqtt:\n  host: b\n"),
    ("# all", "# all\nmqtt:\n  host: b\n"),
    ("thing: a  # mine\n", "mqtt:\n  host: b\nthing: a  # mine\n"),
    ("mqtt:\n", "mqtt:\n  host: b\n"),
    ("mqtt:  # to come\nthing: a\n", "mqtt:  # to come\n  host: b\nthing: a\n"),
    ("mqtt: {}\n", "mqtt: {host: b}\n"),
    ("mqtt: {port: 1}\n", "mqtt: {host: b, port: 1}\n"),
    ("mqtt:\n    # the port\n    port: 1\n", "mqtt:\n    # the port\n    host: b\n    port: 1\n"),
    ("mqtt:\n  host:\n  port: 1\n", "mqtt:\n  host: b\n  port: 1\n"),
    ("mqtt:\n  host: 'x'  # here\n", "mqtt:\n  host: b  # here\n"),
    ("mqtt: {host: \"x\", port: 1}\n", "mqtt: {host: b, port: 1}\n"),
    ("---\nmqtt:\r\n  host: x\r\n  port: 1\n", "---\nmqtt:\r\n  host: b\r\n  port: 1\n"),
    ("もの: '👉'\nmqtt: {host: 👉}\n", "もの: '👉'\nmqtt: {host: b}\n"),
])
def test_a_key_of_two_is_replaced_or_becomes_the_first(before: str, after: str) -> None:
    text = edit.written(before, "b", "mqtt", "host")
    assert yaml.safe_load(text)["mqtt"]["host"] == "b"
    assert text == after


@pytest.mark.parametrize("text", [
    "x: &a b\nmqtt: {host: *a}\n", "mqtt: [a]\n", "[a]\n", "mqtt: text\n", "mqtt: {host: {a: b}}\n",
    "a: &m {host: x}\nmqtt: *m\n", "mqtt: {host: x, host: y}\n",
    "mqtt:\n  host: >-\n    x\n    y\n  port: 1\n",
])
def test_what_cannot_be_changed_without_changing_more_is_left_to_a_person(text: str) -> None:
    with pytest.raises(Unreadable, match="by hand: b"):
        edit.written(text, "b", "mqtt", "host")


def test_what_is_no_yaml_is_no_configuration() -> None:
    with pytest.raises(Unreadable):
        edit.written("a: [", "b", "thing")


@pytest.mark.parametrize("value, text", [
    ("pi-7", "pi-7"), ("a1-ats.iot.eu-central-1.amazonaws.com", "a1-ats.iot.eu-central-1.amazonaws.com"),
    ("7", '"7"'), ("yes", '"yes"'), ("1.5", '"1.5"'), ("a: b", '"a: b"'), ("もの", '"もの"'), ("::1", '"::1"'),
    ("0x10", '"0x10"'), ("null", '"null"'), ("2026-01-01", '"2026-01-01"'), ("-", '"-"'),
])
def test_a_text_is_quoted_where_yaml_would_read_something_else(value: str, text: str) -> None:
    assert edit.scalar(value) == text and yaml.safe_load(text) == value


@pytest.mark.parametrize("text, path, expected", [
    ("mqtt: {host: 'x'}", ("mqtt", "host"), "x"), ("mqtt: {host: }", ("mqtt", "host"), ""), ("", ("thing",), ""),
    ("mqtt: {host: }", ("mqtt", "port"), ""), ("mqtt: {tls: {}}", ("mqtt", "tls"), None),
    ("mqtt: {tls: {ca: /x}}", ("mqtt", "tls", "ca"), "/x"),
])
def test_what_stands_there(text: str, path: tuple[str, ...], expected: str | None) -> None:
    assert edit.found(text, *path) == expected
