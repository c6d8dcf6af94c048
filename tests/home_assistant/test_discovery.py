"""The announcement is one that Home Assistant takes, and its templates make the right states of what is published."""

from __future__ import annotations

import json
from itertools import combinations
from typing import Any

import pytest

from iotd.config import template
from iotd.config.parse import parse
from iotd.config.settings import Settings
from iotd.errors import ConfigError
from iotd.home_assistant import discovery
from iotd.home_assistant.discovery import About
from iotd.host.identity import Identity
from tests.home_assistant import hub

BOARD = About("Raspberry Pi 4 Model B Rev 1.5", "10000000abcdef01", True)
CONFIGURATION = """\
thing: "pi:1"
mqtt: {host: broker}
wifi: {}
home_assistant: {}
publish:
  - topic: "plant/{thing}/state"
    every: 30s
    payload: {celsius: "{temperature}", level: 3.5, "on": true, "no": null, "a\\"}}b' 👉\\\\": "{{x}}", word: open}
    entities:
      celsius: {name: Processor, device_class: temperature, unit_of_measurement: "°C", state_class: measurement}
      level: {name: Tank, unit_of_measurement: "%", value_template: "{{ value_json.level * 2 }}"}
      "on": {platform: binary_sensor, device_class: power}
      "no": {platform: binary_sensor}
      word: {platform: binary_sensor, device_class: door, payload_on: open, payload_off: shut}
      "a\\"}}b' 👉\\\\":
  - topic: plant/other
    every: 1h
    payload: {celsius: 1, level: null}
    entities: {celsius: {}, level: {default_entity_id: sensor.second}}
"""


def settings(text: str = CONFIGURATION, thing: str = "pi") -> Settings:
    return parse(text, "iotd.yaml", Identity(thing, "0" * 32)).settings


def published(of: Settings, about: About = BOARD, problems: list[str] = [], **values: Any) -> dict[str, bytes]:
    """Return what stands retained once everything was published."""
    found = {entry.topic: template.compile_payload(entry.payload)({"temperature": 41.5}).encode()
             for entry in of.sections["publish"]}
    body = discovery.state(of, about, problems, {"uptime": 60, "rssi": -61, "temperature": 41.5, **values})
    return {**found, discovery.state_topic("homeassistant", of.thing): json.dumps(body).encode(),
            of.presence.topic: b'{"status": "Connected"}'}


def announced(of: Settings, about: About = BOARD) -> dict[str, dict[str, Any]]:
    body = json.dumps(discovery.announcement(of, about), ensure_ascii=False).encode()
    return hub.take(discovery.topic("homeassistant", of.thing), body)


def test_every_entity_shows_what_was_published() -> None:
    of = settings()
    shown = hub.states(announced(of), published(of))
    celsius, level = (name for name in shown if name.startswith(("celsius-", "level-")))
    odd = discovery.identifier("a\"}}b' 👉\\")
    assert shown == {
        "celsius": "41.5", "level": "7.0", "on-binary_sensor": "ON", "no-binary_sensor": "None",
        "word-binary_sensor": "open", odd: "{x}", celsius: "1", level: "None", "iotd-connectivity": "ON",
        "iotd-problem": "OFF", "iotd-uptime": "60", "iotd-wifi-signal": "-61", "iotd-temperature": "41.5"}


def test_of_a_batch_the_newest_is_shown() -> None:
    of = settings("mqtt: {host: broker}\nhome_assistant: {}\npublish: [{topic: a, every: 1s, payload: {n: 1}, "
                  "batch: {count: 2, within: 1m}, entities: {n: {}}}]")
    assert hub.states(announced(of), {**published(of), "a": b'[{"n": 1}, {"n": 2}]'})["n"] == "2"


@pytest.mark.parametrize("word", ["Stopped", "Rebooting", "Communication lost"])
def test_without_a_line_everything_is_unavailable_and_connectivity_is_off(word: str) -> None:
    of = settings()
    retained = {**published(of), of.presence.topic: json.dumps({"status": word}).encode()}
    shown = hub.states(announced(of), retained)
    assert shown.pop("iotd-connectivity") == "OFF" and set(shown.values()) == {"unavailable"}


def test_a_problem_shows_and_what_is_not_known_shows_as_unknown() -> None:
    of = settings()
    shown = hub.states(announced(of), published(of, problems=["a check failed"], rssi=None, temperature=None))
    assert (shown["iotd-problem"], shown["iotd-wifi-signal"], shown["iotd-temperature"]) == ("ON", "None", "None")


def test_what_this_device_has_not_is_not_announced() -> None:
    of = settings("mqtt: {host: broker}\nhome_assistant:\npresence: off")
    assert announced(of, About()).keys() == {"iotd-problem", "iotd-uptime"}
    assert hub.states(announced(of, About()), published(of, About())) == {"iotd-problem": "OFF", "iotd-uptime": "60"}


def test_the_device_is_described() -> None:
    device = discovery.announcement(settings(), BOARD)["device"]
    assert device | {"sw_version": ""} == {
        "identifiers": [f"iotd-{discovery.identifier('pi:1')}"], "name": "pi:1", "manufacturer": "Raspberry Pi",
        "model": BOARD.model, "serial_number": BOARD.serial, "sw_version": ""}


def test_what_has_left_is_its_platform_alone_unless_it_is_back() -> None:
    message = discovery.announcement(settings(), BOARD, {"gone": "sensor", "celsius": "sensor"})
    assert message["components"]["gone"] == {"platform": "sensor"}
    assert "unique_id" in message["components"]["celsius"]
    hub.take("homeassistant/device/a/config", json.dumps(message).encode())


def test_two_names_never_have_the_same_id() -> None:
    names = ["a", "a:b", "a-b", "a_b", "a--b", "a b", "é", "è", "日本", "日本語", "A", "-", ":", "a" * 300, "a" * 299 + ":"]
    names += [discovery.identifier(name) for name in names if not name.isascii() or ":" in name]
    ids = {name: discovery.identifier(name) for name in names}
    assert all(ids[one] != ids[other] for one, other in combinations(set(names), 2))
    assert all(set(found) <= set("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_-") and found
               for found in ids.values())
    assert ids["a-b"] == "a-b" and ids["a_b"] == "a_b"


ENTRY = "publish: [{topic: a, every: 1s, payload: {level: 1}, entities: "


@pytest.mark.parametrize(("text", "said"), [
    (ENTRY + "{levle: {}}}]", "publish[0].entities.levle: the payload has no such key; did you mean level?"),
    (ENTRY + "{level: 5}}]", "publish[0].entities.level: expected a mapping such as {name: Tank}, found 5"),
    (ENTRY + "[level]}]", "publish[0].entities: expected a mapping of keys"),
    (ENTRY + "{level: {platform: switch}}}]", "publish[0].entities.level.platform: expected sensor or binary_sensor"),
    (ENTRY + "{level: {unique_id: a}}}]", "publish[0].entities.level.unique_id: iotd says that itself"),
    (ENTRY + "{level: {name: 5}}}]", "publish[0].entities.level.name: expected text, found 5"),
    ("publish: [{topic: a, every: 1s, payload: word, entities: {level: {}}}]", "it has none at all"),
    ("publish: [{topic: a, every: 1s, payload: {level: 1}, encoding: gzip, retain: false, entities: {level: {}}}]",
     "publish[0].entities: no entity can be read from gzip"),
    ("home_assistant: {discovery: a/+}", "home_assistant.discovery: "),
    ("home_assistant: {prefix: a}", "home_assistant.prefix: unknown key"),
    ("home_assistant: {discovery: }", "home_assistant.discovery: "),
])
def test_what_home_assistant_would_not_take_is_a_line_that_says_what_to_write(text: str, said: str) -> None:
    more = "" if "home_assistant" in text else "home_assistant: {}\n"
    with pytest.raises(ConfigError) as caught:
        settings(f"mqtt: {{host: broker}}\n{more}{text}")
    assert said in "\n".join(caught.value.lines())
