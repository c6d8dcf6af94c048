"""Checks and orders from the cloud as the configuration file says them."""

from __future__ import annotations

import pytest

from iotd.config import parse
from iotd.config.base import with_value
from iotd.errors import ConfigError
from iotd.host.identity import Identity
from iotd.shadows.section import Action, Check, Run, Set, Shadow

HOST = Identity("pi", "0" * 32)
HEAD = "mqtt: {host: b}\npublish: [{topic: a, every: 30s, payload: {msg: hello, n: 1}}]\n"


def shadow(yaml: str) -> Shadow:
    found: tuple[Shadow, ...] = parse.parse(f"{HEAD}shadows: [{yaml}]\n", "f", HOST).settings.sections["shadows"]
    [only] = found
    return only


def problems(yaml: str) -> list[str]:
    with pytest.raises(ConfigError) as raised:
        shadow(yaml)
    return [line.removeprefix("f:3: shadows[0]") for line in raised.value.lines()]


@pytest.mark.parametrize("yaml, check", [
    ("unit: ssh.service", Check("unit ssh.service", "unit", "ssh.service")),
    ("process: kiosk", Check("process kiosk", "process", "kiosk")),
    ("tcp: 'localhost:80'", Check("tcp localhost:80", "tcp", ("localhost", 80))),
    ("tcp: '[::1]:80'", Check("tcp ::1:80", "tcp", ("::1", 80))),
    ("file: /a, max_age: 2m", Check("file /a", "file", "/a", 120.0)),
    ("command: [/bin/x, '{y}', '']", Check("command x", "command", ("/bin/x", "{y}", ""))),
    ("disk: /, min_free: 2MB", Check("disk /", "disk", "/", 2 << 20)),
    ("temperature: 80C", Check("temperature", "temperature", 80.0)),
    ("throttled: false", Check("throttled", "throttled", False)),
    ("gateway: true", Check("gateway", "gateway", True, timeout_s=10.0)),
    ("process: x, name: it, every: 1s, timeout: 1d", Check("it", "process", "x", None, 1.0, 86400.0)),
])
def test_a_check(yaml: str, check: Check) -> None:
    assert shadow(f"{{checks: [{{{yaml}}}]}}").checks == (check,)


@pytest.mark.parametrize("yaml, problem", [
    ("{}", ".checks[0]: expected one of unit, process, tcp,"),
    ("{every: 3s}", ".checks[0]: expected one of unit, process, tcp,"),
    ("{process: a, unit: b}", ".checks[0]: expected one of unit, process, tcp, file, command, disk, temperature, "
     "throttled, gateway, value, found unit and process"),
    ("{proces: a}", ".checks[0].proces: unknown key; did you mean process?"),
    ("{file: /a}", ".checks[0]: max_age is required with file"),
    ("{disk: /}", ".checks[0]: min_free is required with disk"),
    ("{process: a, max_age: 3s}", ".checks[0]: max_age says nothing about a check of process"),
    ("{file: a, max_age: 3s}", ".checks[0].file: expected a path from /"),
    ("{file: /a, max_age: 3}", ".checks[0].max_age: expected a duration with its unit"),
    ("{process: /bin/a}", ".checks[0].process: expected a name without its path"),
    ("{tcp: localhost}", ".checks[0].tcp: expected HOST:PORT"), ("{tcp: 'a:0'}", ".checks[0].tcp: expected HOST:PORT"),
    ("{tcp: 'db..example.com:80'}", ".checks[0].tcp: 'db..example.com' has an empty part"),
    ("{tcp: '[:80'}", ".checks[0].tcp: '[' has brackets"),
    ("{process: a, timeout: 25d}", ".checks[0].timeout: expected a timeout of at most 1d, found text '25d'"),
    ("{tcp: 'a:70000'}", ".checks[0].tcp: expected"), ("{tcp: 80}", ".checks[0].tcp: expected text"),
    ("{command: ls}", ".checks[0].command: expected a list"), ("{command: []}", ".checks[0].command: is empty"),
    ("{command: [ls, 1]}", ".checks[0].command[1]: expected text, found 1"),
    ("{temperature: 80}", ".checks[0].temperature: expected degrees such as 80C"),
    ("{throttled: true}", ".checks[0].throttled: expected false"),
    ("{gateway: false}", ".checks[0].gateway: expected true"),
    ("{gateway: true, timeout: 2s}", ".checks[0]: timeout of a gateway's check is at least 10s"),
    ("{process: a, every: 3}", ".checks[0].every: expected a duration with its unit"),
    ("{process: a, name: ''}", ".checks[0].name: is empty"),
    ("[unit]", ".checks[0]: expected a mapping"), ("unit", ".checks[0]: expected a mapping"),
    ("~", ".checks[0]: expected one of unit"),
])
def test_a_wrong_check_is_one_problem(yaml: str, problem: str) -> None:
    [found] = problems(f"{{checks: [{yaml}]}}")
    assert found.startswith(problem)


def test_two_checks_cannot_have_one_name() -> None:
    [found] = problems("{checks: [{process: a}, {unit: b}, {process: a}]}")
    assert found.startswith(".checks[2]: 'process a' is already the name of checks[0]")


@pytest.mark.parametrize("yaml, action", [
    ("run: [/bin/fan, '{value}']", Run(("/bin/fan", "{value}"))),
    ("run: [/bin/fan, '--speed={value}', '{{}}'], timeout: 5s", Run(("/bin/fan", "--speed={value}", "{{}}"), 5.0)),
    ("set: 'publish[0].every'", Set("publish[0].every")),
    ("set: 'publish[0].payload.msg'", Set("publish[0].payload.msg")),
    ("set: 'shadows[0].every'", Set("shadows[0].every")), ("set: log.level", Set("log.level")),
])
def test_an_action(yaml: str, action: Action) -> None:
    assert shadow(f"{{on_delta: {{key: {{{yaml}}}}}}}").on_delta == {"key": action}


@pytest.mark.parametrize("yaml, problem", [
    ("{}", "key: expected either run"), ("{run: [a], set: log.level}", "key: expected either run"),
    ("{run: [a], timeout: 2d}", "key.timeout: expected a timeout of at most 1d"),
    ("{timeout: 3s}", "key: expected either run"), ("{set: log.level, timeout: 3s}", "key: timeout is for run"),
    ("{run: a}", "key.run: expected a list"), ("{run: [a, '{valu}']}", "key.run[1]: unknown placeholder {valu}"),
    ("{run: [a, '{']}", "key.run[1]: "), ("{set: mqtt.host}", "key.set: is no setting that can be opened"),
    ("{set: 'publish[1].every'}", "key.set: publish has no item 1"),
    ("{set: 'publish[0].payload.n'}", "key.set: publish[0].payload has no text under the key 'n'"),
    ("{set: 3}", "key.set: expected text"), ("[a]", "key: expected a mapping"),
    ("log.level", "key: expected a mapping"), ("~", "key: expected either run"),
])
def test_a_wrong_action_is_one_problem(yaml: str, problem: str) -> None:
    [found] = problems(f"{{on_delta: {{key: {yaml}}}}}")
    assert found.startswith(f".on_delta.{problem}")


def test_what_is_left_empty_is_nothing() -> None:
    found = shadow("{checks: , on_delta: }")
    assert (found.checks, found.on_delta, found.files) == ((), {}, False)


@pytest.mark.parametrize("yaml, place", [
    ("{reported: {iotd: 1}}", ".reported.iotd"), ("{on_delta: {iotd: {set: log.level}}}", ".on_delta.iotd"),
])
def test_the_key_that_iotd_reports_under_is_taken(yaml: str, place: str) -> None:
    [found] = problems(yaml)
    assert found.startswith(f"{place}: iotd reports")


def test_a_null_in_a_list_is_refused_where_the_limits_of_aws_hold() -> None:
    head = HEAD.replace("host: b", "host: b, limits: aws")
    yaml = head + "shadows: [{desired: {b: ~}, reported: {a: [1, {x: [~]}]}}]\n"
    with pytest.raises(ConfigError) as raised:
        parse.parse(yaml, "f", HOST)
    [found] = raised.value.lines()
    assert found.startswith("f:3: shadows[0].reported.a: a list in it has a null")


def test_one_shadow_at_most_has_the_files() -> None:
    [found] = problems("{files: true}, {name: b, files: true}")
    assert "f:3: shadows[1].files: another shadow" in found


def test_a_value_from_the_cloud_is_judged_by_the_rules_of_the_file() -> None:
    settings = parse.parse(f"{HEAD.replace('host: b', 'host: b, limits: aws')}", "f", HOST).settings
    assert parse.problems(settings) == []
    fast = settings.sections["publish"][0]._replace(every_s=0.5, payload={})
    [problem] = parse.problems(with_value(settings, "publish", (fast,)))
    assert problem.key == "publish[0].every"
