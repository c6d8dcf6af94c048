"""What `iotd check` accepts does not end the daemon: hostile values in every place of the file, lived for a minute."""

from __future__ import annotations

import random
import socket
import ssl
from contextlib import suppress
from typing import Any

import paho.mqtt.client as paho
import pytest
import yaml

from iotd.errors import ConfigError
from iotd.mqtt.addresses import host_problem
from tests.aws.document import Refusal
from tests.sim.world import Simulation

SEEDS, DOCUMENTS = 6, 60
FAULTS = ("daemon.fault", "check.fault", "desired.fault")

TEXTS = [
    "a", "é", "日本", "a b", "a\tb", "\x01", "\x7f", "\x85", "\ufffe", "\U0001ffff", "\u2028", "#", "+", "/", "a/b", "a#",
    "+a", "$x", "$share/g/a", "-x", "--", "%", "%s", "..", "a" * 64, "é" * 64, "a" * 300, "{", "{{}}", "{hostname}",
    "{thing}/a", "{machine_id}", "localhost", "(none)", "", "\\", "'", '"', "a\r\nb", "true",
]
DURATIONS = ["30s", "10ms", "500ms", "1s", "59s", "25d", "50d", "3650d", "3651d", "0s", "999999999ms", "1", "1w"]
SIZES = ["1KB", "1MB", "999999999GB", "0KB", "1"]
PATHS = ["/", "/nowhere", "/é", "/日本", "/a\tb", "/\ufffe", f"/{'a' * 300}", f"/{'a/' * 3000}", "/proc/self/mem", "a"]
HOSTS = ["127.0.0.1", "::1", "localhost", "a..b", ".a", "a" * 64, "é" * 64, "[::1]", "[", "a:b:c", "fe80::1%é", "a\x01"]
NUMBERS = [1, 0, -1, 2 ** 63, 10 ** 400, 1e308, float("inf"), True, None]
COMMANDS = [["true"], ["false"], ["/nowhere"], ["/"], ["é"], ["\ufffe"], ["true", "a" * 200_000], ["true", "{value}"],
            [""], []]
LEAVES: dict[str, list[Any]] = {
    "topic": ["a/b", *TEXTS], "every": DURATIONS, "timeout": DURATIONS, "max_age": DURATIONS, "grace": DURATIONS,
    "min_uptime": DURATIONS, "spread": DURATIONS, "first": DURATIONS, "max": DURATIONS, "keepalive": DURATIONS,
    "max_bytes": SIZES, "min_free": SIZES, "disk": PATHS, "file": PATHS, "unit": TEXTS, "process": TEXTS,
    "name": TEXTS, "healthy": TEXTS, "thing": TEXTS, "command": COMMANDS, "run": COMMANDS,
    "interface": ["wlan0", *TEXTS], "discovery": ["homeassistant", *TEXTS], "essid": [[text] for text in TEXTS],
    "tcp": [f"{host}:1" for host in HOSTS] + TEXTS, "host": [*HOSTS, "broker"],
    "port": NUMBERS, "qos": [0, 1, 2], "retain": [True, False], "offline": ["queue", "latest", "drop"],
    "temperature": ["80C", "-999C", "1000C"], "clean_session": [True, False], "files": [True, False],
    "limits": ["none", "aws", "auto"], "durability": ["relaxed", "strict"], "max_per_day": [0, 1, 24, 25],
    "level": ["debug", "error"], "set": ["publish[0].every", "log.level", "shadows[0].every", "publish[9].every"],
    "payload": [{"a": value} for value in [*TEXTS, *NUMBERS]] + [{text: {text: [text]}} for text in TEXTS],
    "desired": [{text: text} for text in TEXTS] + [{"a": value} for value in NUMBERS],
    "reported": [{text: "{health}{uptime}"} for text in TEXTS] + [{"a": value} for value in NUMBERS],
}
DESIRED: list[Any] = [*TEXTS, *NUMBERS, *DURATIONS, [], {}, [[[[[[[[[[1]]]]]]]]]], {"a": {"\x01": None}}, "warning"]


class Author:
    """Writes configurations, each with a few values out of the ordinary."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)

    def document(self) -> dict[str, Any]:
        """Return a configuration."""
        document: dict[str, Any] = {
            "thing": "pi", "mqtt": {"host": "broker", **self._some("port spread keepalive limits clean_session"),
                                    "backoff": self._some("first max")},
            "presence": self._some("topic retain qos"),
            "publish": [{"topic": "a", "every": "20s", "payload": {"msg": "a"}, **self._some("qos retain offline")}],
            "subscribe": [{"topic": "b", **self._some("qos")}],
            "shadows": [{"name": "s", "every": "20s", "checks": [self._check(), self._check()],
                         "on_delta": {"key": self._action()}, **self._some("desired reported healthy files")}],
            "spool": self._some("durability max_bytes max_age"), "log": self._some("level"),
        }
        if self._random.random() < 0.3:
            document["wifi"] = {**self._some("interface essid every grace"), "reboot": self._some("max_per_day")}
        if self._random.random() < 0.3:
            document["home_assistant"] = self._some("discovery")
            document["publish"][0]["entities"] = {"msg": self._some("name")}
        for _ in range(self._random.randrange(3)):
            self._spoil(document)
        return document

    def desired(self) -> Any:
        """Return what the cloud may desire."""
        return self._random.choice(DESIRED)

    def _check(self) -> dict[str, Any]:
        kind, more = self._random.choice([
            ("unit", ""), ("process", ""), ("tcp", ""), ("file", "max_age"), ("command", ""), ("disk", "min_free"),
            ("temperature", "")])
        return {kind: self._leaf(kind), **{key: self._leaf(key) for key in more.split()},
                **self._some("name every timeout")}

    def _action(self) -> dict[str, Any]:
        if self._random.random() < 0.5:
            return {"set": self._leaf("set")}
        return {"run": self._leaf("run"), **self._some("timeout")}

    def _some(self, keys: str) -> dict[str, Any]:
        return {key: self._leaf(key) for key in keys.split() if self._random.random() < 0.2}

    def _leaf(self, key: str) -> Any:
        return LEAVES[key][0] if self._random.random() < 0.8 else self._random.choice(LEAVES[key])

    def _spoil(self, tree: Any) -> None:
        """Give one value in the tree another one of its kind."""
        while True:
            keys = list(tree) if isinstance(tree, dict) else list(range(len(tree)))
            if not keys:
                return
            key = self._random.choice(keys)
            if key in LEAVES:
                tree[key] = self._leaf(key)
                return
            if not isinstance(tree[key], (dict, list)):
                return
            tree = tree[key]


@pytest.mark.parametrize("seed", range(SEEDS))
def test_what_is_accepted_lives(seed: int) -> None:
    author = Author(seed)
    accepted = 0
    for _ in range(DOCUMENTS):
        document = author.document()
        text = yaml.safe_dump(document, allow_unicode=True)
        simulation = Simulation(text, seed)
        try:
            simulation.start()
        except ConfigError as error:
            assert all(problem.isprintable() for problem in error.lines())
            continue
        accepted += 1
        simulation.run(10.0)
        assert simulation.daemon is not None
        settings = simulation.daemon.settings
        for shadow in settings.sections["shadows"]:
            with suppress(Refusal):
                simulation.broker.shadows.desire(settings.thing, shadow.name, {"key": author.desired()})
        simulation.run(50.0)
        assert [entry for event in FAULTS for entry in simulation.entries(event)] == [], text
        assert simulation.daemon.exit_status is None, text
        assert_can_be_said(simulation)
    assert accepted > DOCUMENTS / 5


def assert_can_be_said(simulation: Simulation) -> None:
    """Assert that paho takes every topic and filter that was used, which raises for those that MQTT does not have."""
    client = paho.Client(*([paho.CallbackAPIVersion.VERSION2] if hasattr(paho, "CallbackAPIVersion") else []))
    for delivered in simulation.broker.seen:
        client.publish(delivered.message.topic, delivered.message.payload, delivered.message.qos)
    for known in simulation.broker.clients.values():
        if known.filters:
            client.subscribe(list(known.filters.items()))


@pytest.mark.parametrize("seed", range(SEEDS))
def test_a_host_that_is_accepted_can_be_asked_for(seed: int) -> None:
    chance = random.Random(seed)
    context = ssl.create_default_context()
    accepted = 0
    for _ in range(2000):
        alphabet = chance.choice(["ab.", "a.-é日。ß", "0123456789.", "abcdef0123456789:%", "a[]/@ :\x01\ufffe_*'"])
        host = "".join(chance.choice(alphabet) for _ in range(chance.choice([1, 2, 5, 20, 64, 70, 260])))
        if host_problem(host) is None:
            accepted += 1
            with suppress(OSError):  # that nobody has the name
                socket.getaddrinfo(host, 8883, flags=socket.AI_NUMERICHOST)
            context.wrap_bio(ssl.MemoryBIO(), ssl.MemoryBIO(), server_hostname=host)
    assert accepted > 200
