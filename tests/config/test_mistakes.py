"""What everyone gets wrong in YAML is named where it is, with what was meant."""

from __future__ import annotations

import pytest

from iotd.config.parse import Loaded, parse
from iotd.errors import ConfigError
from iotd.host.identity import Identity

IDENTITY = Identity("pi-7", "0123")
PAYLOAD = "mqtt: {host: b}\npublish:\n  - topic: a\n    every: 30s\n    payload:\n      "


def loaded(text: str) -> Loaded:
    return parse(text, "f", IDENTITY)


def problem(text: str) -> str:
    with pytest.raises(ConfigError) as error:
        loaded(text)
    [line] = error.value.lines()
    return line.removeprefix("f:")


@pytest.mark.parametrize("text, found", [
    (PAYLOAD + "at: {timestamp}\n", '6: publish[0].payload.at: expected what JSON can say, found {timestamp} without '
     'quotes, which YAML reads as a mapping; write "{timestamp}"'),
    (PAYLOAD + "at: [{uptime}]\n", "6: publish[0].payload.at[0]: expected what JSON can say, found {uptime} without"),
    (PAYLOAD + "at: {a: 1}\n    qso: 1\n", "7: publish[0].qso: unknown key; did you mean qos?"),
    ("mqtt: {host: b}\nthing: {hostname}\n", "2: thing: expected text, found {hostname} without quotes"),
    ("mqtt: {host: b}\nsubscribe: [{topic: {thing}}]\n", "2: subscribe[0].topic: expected text, found {thing} without"),
])
def test_a_placeholder_without_quotes(text: str, found: str) -> None:
    assert problem(text).startswith(found)


@pytest.mark.parametrize("written, sent", [
    ("off", "false"), ("NO", "false"), ("yes", "true"), ("1.10", "1.1"), ("01234", "668"), ("12:30", "750"),
    ("0x10", "16"), ("1_000", "1000"),
])
def test_what_yaml_1_1_makes_of_a_payload_is_a_warning(written: str, sent: str) -> None:
    [warning] = loaded(f"{PAYLOAD}a: {written}\n").warnings
    assert (warning.line, warning.key) == (6, "publish[0].payload.a")
    assert warning.text.startswith(f"'{written}', which YAML reads as {sent}, is sent as {sent};")
    assert warning.render("f", "warning: ").startswith("f:6: warning: publish[0].payload.a: ")


@pytest.mark.parametrize("written", [
    "true", "false", "5", "-5", "1.5", "1.0", "'off'", "null", "~", "", "text", "1e3x"])
def test_what_is_sent_as_it_is_written_is_none(written: str) -> None:
    assert loaded(f"{PAYLOAD}a: {written}\n").warnings == ()


@pytest.mark.parametrize("text, found", [
    ('mqtt: {host: b}\nthing: "abc\nlog: {level: info}\n', "2: is no YAML: 'thing: \"abc': the quote that is opened"),
    ("mqtt: {host: b}\nthing: 'abc\nlog: {level: info}\n", "2: is no YAML: \"thing: 'abc\": the quote that is opened"),
    ("mqtt: {host: b\nthing: abc\nlog: info\n", "1: is no YAML: 'mqtt: {host: b': the bracket that is opened here"),
    ("mqtt: {host: b}\nsubscribe: [{topic: a}\nthing: abc\n", "2: is no YAML: 'subscribe: [{topic: a}': the bracket"),
    ("mqtt: [\n", "1: is no YAML: 'mqtt: [': the bracket"), ("mqtt: {\n\n\n", "1: is no YAML: 'mqtt: {': the bracket"),
    ("mqtt:\n  host:broker\n  port: 1883\n", "2: is no YAML: 'host:broker': a blank is missing behind the colon; write "
     "host: broker"),
    ("mqtt:\n  host: broker\n  port:1883\n", "3: is no YAML: 'port:1883': a blank is missing behind the colon"),
    ("mqtt:\n  host:broker\n", "1: mqtt: expected a mapping of keys, found text 'host:broker'; write host: broker"),
    ("mqtt:\n  host: broker\n    port: 1883\n", "3: is no YAML: 'port: 1883': its indentation is another than"),
    ("mqtt:\n  host: broker\n port: 1883\n", "3: is no YAML: 'port: 1883': its indentation is another than"),
    ("mqtt:\n  host: broker\n\tport: 1\n", "3: is no YAML: 'port: 1': it has a tab; indent with spaces"),
])
def test_a_mistake_is_named_in_the_line_where_it_begins(text: str, found: str) -> None:
    assert problem(text).startswith(found)


@pytest.mark.parametrize("text, meant", [
    ("mqtt: {host: b, clientid: x}\n", "thing at the top of the file"), ("mqtt: {broker: b, host: b}\n", "host"),
    ("mqtt: {host: b}\nbroker: b\n", "host under mqtt"), ("mqtt: {host: b}\nclient_id: x\n", "thing"),
    ("mqtt: {host: b}\nwifi: {ssid: [x]}\n", "essid"),
    ("mqtt: {host: b}\npublish: [{topic: a, every: 1s, payload: {}, interval: 5s}]\n", "every"),
    ("mqtt: {host: b}\nshadows: [{checks: [{service: ssh}]}]\n", "unit"),
])
def test_what_others_call_it_is_known(text: str, meant: str) -> None:
    assert problem(text).endswith(f"unknown key; did you mean {meant}?")
