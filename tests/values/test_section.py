"""The section `values` as the file says it, and what its names are elsewhere in the file."""

from __future__ import annotations

import pytest

from iotd.config import parse
from iotd.config.settings import Settings
from iotd.errors import ConfigError
from iotd.host.identity import Identity
from iotd.values.section import Value

HOST = Identity("pi", "0" * 32)
HEAD = "mqtt: {host: b}\n"
NAMES = "{a: {file: /a}, b: {command: [b], every: 5s}, c: {socket: true}}"


def load(text: str) -> Settings:
    return parse.parse(HEAD + text, "f", HOST).settings


def problems(text: str) -> list[str]:
    with pytest.raises(ConfigError) as raised:
        load(text)
    return [line.partition(": ")[2] for line in raised.value.lines()]


@pytest.mark.parametrize("yaml, value", [
    ("{file: /x}", Value("v", "file", "/x")),
    ("{file: /x, scale: 0.001, offset: -2, round: 1, as: number}",
     Value("v", "file", "/x", form="number", scale=0.001, offset=-2, decimals=1)),
    ("{file: /x, max_age: 2m, every: 1s}", Value("v", "file", "/x", max_age_s=120.0, every_s=1.0)),
    ("{command: [x, '{y}'], timeout: 1s, every: 10s}", Value("v", "command", ("x", "{y}"), 1.0, 10.0)),
    ("{socket: true, max_age: 1h, as: text}", Value("v", "socket", max_age_s=3600.0, form="text")),
])
def test_a_value(yaml: str, value: Value) -> None:
    assert load(f"values: {{v: {yaml}}}\n").sections["values"] == (value,)


@pytest.mark.parametrize("yaml, problem", [
    ("{v: {}}", "values.v: expected one of file, command or socket, found none"),
    ("{v: ~}", "values.v: expected one of file, command or socket, found none"),
    ("{v: 5}", "values.v: expected a mapping of keys, found 5"),
    ("{v: {file: /a, socket: true}}", "values.v: expected one of file, command or socket, found file and socket"),
    ("{v: {fil: /a}}", "values.v.fil: unknown key; did you mean file?"),
    ("{v: {file: a}}", "values.v.file: expected a path from /"),
    ("{v: {command: ls}}", "values.v.command: expected a list"),
    ("{v: {socket: false}}", "values.v.socket: expected true"),
    ("{v: {file: /a, timeout: 3s}}", "values.v: timeout is for a command"),
    ("{v: {command: [a], max_age: 3s}}", "values.v: max_age is for a file or a socket"),
    ("{v: {socket: true, every: 3s}}", "values.v: every is for a file or a command"),
    ("{v: {file: /a, as: text, round: 1}}", "values.v: round is for numbers"),
    ("{v: {file: /a, as: xml}}", "values.v.as: expected auto, number, json or text"),
    ("{v: {file: /a, scale: big}}", "values.v.scale: expected a number such as 20 or 0.5, found text 'big'"),
    ("{v: {file: /a, scale: .inf}}", "values.v.scale: expected a number"),
    ("{v: {file: /a, round: -1}}", "values.v.round: expected a whole number from 0 to 15"),
    ("{Level: {file: /a}}", "values.Level: expected a name of a-z, 0-9 and _ that begins with a letter"),
    ("{a.b: {file: /a}}", "values.a.b: expected a name"), ("{1a: {file: /a}}", "values.1a: expected a name"),
    ("{uptime: {file: /a}}", "values.uptime: {uptime} is a placeholder of iotd's own; choose another name"),
    ("{health: {file: /a}}", "values.health: {health} is a placeholder of iotd's own"),
    ("[]", "values: expected a mapping"),
])
def test_a_wrong_value_is_one_problem(yaml: str, problem: str) -> None:
    [found] = problems(f"values: {yaml}\n")
    assert found.startswith(problem)


@pytest.mark.parametrize("payload", [
    "'{a}'", "'{a.x.0.y}'", "'is {b} and {c}'", "['{a}', {x: '{b}'}]", "'{a} {hostname}'",
])
def test_a_payload_and_a_report_know_the_names_wherever_they_stand_in_the_file(payload: str) -> None:
    load(f"publish: [{{topic: t, every: 1s, payload: {{x: {payload}}}}}]\n"
         f"shadows: [{{reported: {{x: {payload}}}, desired: {{y: '{{a}}'}}}}]\nvalues: {NAMES}\n")


@pytest.mark.parametrize("written, words", [
    ("{d}", "unknown placeholder {d}; known here are a, b, "), ("{A}", "unknown placeholder {A}"),
    ("{hostname.x}", "{hostname} has no members"), ("{a.}", "expected a name behind each dot"),
    ("{a..b}", "expected a name behind each dot"), ("{.a}", "unknown placeholder {.a}"),
])
def test_a_name_that_is_none_is_refused(written: str, words: str) -> None:
    [found] = problems(f"values: {NAMES}\npublish: [{{topic: t, every: 1s, payload: {{x: '{written}'}}}}]\n")
    assert found.startswith("publish[0].payload.x: ") and words in found


def test_the_nearest_name_is_named_with_its_members() -> None:
    [found] = problems("values: {level: {file: /a}}\n"
                       "publish: [{topic: t, every: 1s, payload: {x: '{leve.x.0}'}}]\n")
    assert "did you mean {level.x.0}?" in found


def test_in_a_topic_there_are_none() -> None:
    [found] = problems(f"values: {NAMES}\npublish: [{{topic: 't/{{a}}', every: 1s, payload: {{}}}}]\n")
    assert "publish[0].topic: unknown placeholder {a}" in found


def test_a_value_that_is_wrong_is_known_all_the_same() -> None:
    [found] = problems("values: {a: {file: b, every: 1s}}\n"
                       "publish: [{topic: t, every: 1s, on_change: {a: any}, payload: {x: '{a}'}}]\n")
    assert found.startswith("values.a.file: ")


@pytest.mark.parametrize("on_change, problem", [
    ("{a: any}", "publish[0].on_change.a: a is read for each message that names it"),
    ("{d: any}", "publish[0].on_change.d: there is no value d; define it in values"),
    ("{uptime: 1}", "publish[0].on_change.uptime: there is no value uptime"),
    ("{b: 0}", "publish[0].on_change.b: expected a number above zero, or any, found 0"),
    ("{b: -1}", "publish[0].on_change.b: expected a number above zero"),
    ("{b: all}", "publish[0].on_change.b: expected a number such as"),
    ("[b]", "publish[0].on_change: expected a mapping"),
])
def test_what_cannot_be_followed_says_so(on_change: str, problem: str) -> None:
    [found] = problems(f"values: {NAMES}\n"
                       f"publish: [{{topic: t, every: 1m, on_change: {on_change}, payload: {{}}}}]\n")
    assert found.startswith(problem)


def test_what_is_followed() -> None:
    [entry] = load(f"values: {NAMES}\npublish: [{{topic: t, every: 1m, on_change: {{b: 0.5, c.x: any}}, at_most: 5s, "
                   "payload: {}}]\n").sections["publish"]
    assert entry.on_change == {"b": 0.5, "c.x": None} and entry.at_most_s == 5.0


@pytest.mark.parametrize("keys, problem", [
    ("at_most: 5s", "publish[0]: at_most is for on_change"),
    ("on_change: {b: any}, at_most: 2m", "publish[0].at_most: 120s is above publish[0].every, 60s"),
])
def test_how_often_at_most(keys: str, problem: str) -> None:
    [found] = problems(f"values: {NAMES}\npublish: [{{topic: t, every: 1m, {keys}, payload: {{}}}}]\n")
    assert found.startswith(problem)


def test_what_would_be_retained_too_often_for_aws_is_refused() -> None:
    entry = "{topic: t, every: 1m, on_change: {b: any}, at_most: 500ms, payload: {}}"
    text = f"values: {NAMES}\npublish: [{entry}]\n"
    with pytest.raises(ConfigError) as raised:
        parse.parse("mqtt: {host: b, limits: aws}\n" + text, "f", HOST)
    [found] = raised.value.lines()
    assert "publish[0].at_most: 't' would be retained 2 times a second" in found


@pytest.mark.parametrize("check, problem", [
    ("{value: d}", ".value: there is no value 'd'"), ("{value: a, min: 5, max: 1}", ": min, 5, is above max, 1"),
    ("{value: a, min: low}", ".min: expected a number"), ("{value: a, max_age: 3s}", ": max_age says nothing"),
    ("{process: a, for: 3s}", ": for says nothing about a check of process"),
])
def test_a_wrong_check_on_a_value(check: str, problem: str) -> None:
    [found] = problems(f"values: {NAMES}\nshadows: [{{checks: [{check}]}}]\n")
    assert found.startswith(f"shadows[0].checks[0]{problem}")
