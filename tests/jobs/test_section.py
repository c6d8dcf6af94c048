"""What the configuration opens to jobs, and what is wrong in it."""

from __future__ import annotations

import pytest

from iotd.config import parse
from iotd.errors import ConfigError
from iotd.host.identity import Identity
from iotd.jobs.section import Handler, Jobs

HOST = Identity("pi", "0" * 32)


def jobs(yaml: str) -> Jobs:
    found: Jobs = parse.parse(f"mqtt: {{host: b}}\njobs: {yaml}\n", "f", HOST).settings.sections["jobs"]
    return found


def problems(yaml: str) -> list[str]:
    with pytest.raises(ConfigError) as raised:
        jobs(yaml)
    return [line.removeprefix("f:2: ") for line in raised.value.lines()]


def test_everything_is_closed_until_it_is_opened() -> None:
    assert jobs("{}") == jobs("") == Jobs({}, False, (), (), False, False)


def test_what_is_opened_is_read() -> None:
    assert jobs("{handlers: {clean: {run: [/bin/x, '{args}', '{{'], timeout: 5m}}, reboot: true, bundle: true, "
                "restart: [kiosk.service], upgrade: [iotd, 'kiosk*'], commands: true}") == Jobs(
        {"clean": Handler(("/bin/x", "{args}", "{{"), 300.0)}, True, ("kiosk.service",), ("iotd", "kiosk*"), True, True)


@pytest.mark.parametrize("yaml, told", [
    ("{handlers: {a: {run: [/bin/x, 'x{args}']}}}", "jobs.handlers.a.run: 'x{args}': {args} stands for any number"),
    ("{handlers: {a: {run: ['{args}']}}}", "would let others choose the program"),
    ("{handlers: {a: {run: [/bin/x, '{payload}']}}}", "unknown placeholder {payload}"),
    ("{handlers: {a: {}}}", "jobs.handlers.a.run: is required"),
    ("{handlers: {reboot: {run: [/bin/x]}}}", "reboot is an operation of iotd's own"),
    ("{handlers: {'a/b': {run: [/bin/x]}}}", "expected a name of A to Z"),
    ("{restart: [kiosk]}", "jobs.restart[0]: expected the whole name of a unit such as kiosk.service"),
    ("{restart: [--all.service]}", "expected the whole name of a unit"),
    ("{upgrade: ['*']}", "would let a job install anything"),
    ("{upgrade: [iotd=1]}", "expected the name of a package"),
    ("{reboot: yes please}", "jobs.reboot: expected true or false"),
    ("{rebot: true}", "did you mean reboot"),
])
def test_what_is_wrong_is_told_with_its_key(yaml: str, told: str) -> None:
    [problem] = problems(yaml)
    assert told in problem
