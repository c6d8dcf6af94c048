"""The section `subscribe` as the file says it."""

from __future__ import annotations

import pytest

from iotd.config import parse
from iotd.errors import ConfigError
from iotd.host.identity import Identity
from iotd.incoming.section import Subscription

HOST = Identity("pi", "0" * 32)


def load(yaml: str) -> Subscription:
    text = f"mqtt: {{host: b}}\nsubscribe: [{{topic: t, {yaml}}}]\n"
    found: tuple[Subscription, ...] = parse.parse(text, "f", HOST).settings.sections["subscribe"]
    [only] = found
    return only


@pytest.mark.parametrize("yaml, subscription", [
    ("", Subscription("t")), ("log: false", Subscription("t", log=False)),
    ("run: [horn, '{topic}', 'is {payload}'], timeout: 5s, retained: true",
     Subscription("t", 1, ("horn", "{topic}", "is {payload}"), 5.0, True)),
])
def test_a_subscription(yaml: str, subscription: Subscription) -> None:
    assert load(yaml) == subscription


@pytest.mark.parametrize("yaml, problem", [
    ("run: horn", ".run: expected a list"), ("run: []", ".run: is empty"),
    ("run: [horn, '{value}']", ".run[1]: unknown placeholder {value}"),
    ("run: ['{payload}']", ".run: '{payload}' would let others choose the program; write it out"),
    ("run: ['/bin/{topic}']", ".run: '/bin/{topic}' would let others choose the program"),
    ("timeout: 3s", ": timeout is for run"), ("retained: true", ": retained is for run"),
    ("run: [horn], retained: 1", ".retained: expected true or false"), ("rn: [horn]", ".rn: unknown key"),
])
def test_a_wrong_subscription_is_one_problem(yaml: str, problem: str) -> None:
    with pytest.raises(ConfigError) as raised:
        load(yaml)
    [found] = raised.value.lines()
    assert found.startswith(f"f:2: subscribe[0]{problem}")


def doubts(yaml: str) -> list[tuple[str, str]]:
    loaded = parse.parse(f"thing: pi-7\nmqtt: {{host: b}}\n{yaml}\n", "f", HOST)
    return [(problem.key, problem.text) for problem in loaded.warnings]


@pytest.mark.parametrize("filter, words", [
    ("plant/{thing}/state", "'plant/pi-7/state' takes what this device itself publishes: each"),
    ("plant/+/state", "'plant/+/state' takes what this device itself publishes on 'plant/pi-7/state': each"),
    ("$share/a/plant/#", "'$share/a/plant/#' takes what this device itself publishes on 'plant/pi-7/state': each"),
])
def test_a_subscription_that_takes_what_the_device_publishes_is_doubted(filter: str, words: str) -> None:
    [(key, text)] = doubts(f"publish: [{{topic: 'plant/{{thing}}/state', every: 1s, payload: {{}}}}]\n"
                           f"subscribe: [{{topic: other}}, {{topic: '{filter}'}}]")
    assert key == "subscribe[1].topic" and text.startswith(words) and "paid twice" in text


@pytest.mark.parametrize("yaml", [
    "publish: [{topic: 'plant/{thing}/state', every: 1s, payload: {}}]\nsubscribe: [{topic: 'plant/{thing}/in'}]",
    "subscribe: [{topic: 'MQTTServer/+/will'}]",  # whoever watches others; iotd listens to its own anyway
    "local: {publish: ['plant/#']}\nsubscribe: [{topic: plant/horn}]",  # programs may, and perhaps never do
])
def test_another_is_not(yaml: str) -> None:
    assert doubts(yaml) == []
