"""The configuration file: what it means, and what each mistake in it is told, with its line and key."""

from __future__ import annotations

import re
import time
from pathlib import Path
from typing import Any, get_args

import pytest

from iotd.config import base
from iotd.config.base import value_of, with_value
from iotd.config.parse import Loaded, parse
from iotd.config.section import Section
from iotd.config.settings import Log, Presence, Settings
from iotd.errors import ConfigError
from iotd.home_assistant.section import HomeAssistant
from iotd.host.identity import Identity
from iotd.incoming.section import Subscription
from iotd.jobs.section import Jobs
from iotd.local.section import Local
from iotd.mqtt.settings import SYSTEM_CA, Backoff, Mqtt, Proxy, Tls
from iotd.outgoing.section import Bounds, Publish
from iotd.provision.section import Claim, Provision
from iotd.shadows.kinds import KINDS
from iotd.shadows.section import Action, Check, Shadow
from iotd.wifi.section import RebootBudget, Wifi
from iotd.wings import WINGS
from iotd.wings import sections as sections_of_wing

IDENTITY = Identity(hostname="pi-7", machine_id="0123456789abcdef", cpu_serial="10000000abcdef01")
AWS = "a1b2-ats.iot.ap-northeast-1.amazonaws.com"
SAMPLE = Path(__file__).parents[2] / "etc" / "iotd.yaml"
PORT = "3: mqtt.port: expected a whole number from 1 to 65535, found "
KEEPALIVE = "3: mqtt.keepalive: expected a duration with its unit, found "
LIMITED = "mqtt: {host: broker, limits: aws}\n"


def load(text: str, identity: Identity = IDENTITY) -> Settings:
    return parse(text, "iotd.yaml", identity).settings


def refused(text: str, identity: Identity = IDENTITY) -> list[str]:
    """Return the problems of a configuration as `iotd check` prints them."""
    with pytest.raises(ConfigError) as error:
        parse(text, "iotd.yaml", identity)
    return error.value.lines()


def problem_of(text: str) -> str:
    """Return the one problem of a configuration, without the name of its file."""
    [line] = refused(text)
    return line.removeprefix("iotd.yaml").removeprefix(":")


def under_mqtt(line: str) -> str:
    return f"mqtt:\n  host: broker\n  {line}\n"


def published(lines: str) -> str:
    return f"mqtt: {{host: broker}}\npublish:\n  - topic: a\n    every: 30s\n    payload: {{}}\n    {lines}\n"


def payload(line: str) -> str:
    return f"mqtt: {{host: broker}}\npublish:\n  - topic: a\n    every: 30s\n    payload:\n      {line}\n"


@pytest.mark.parametrize("missing, wing, where, lines", [
    ("{bssid}, {essid}", "wifi", "publish[0].payload", 'payload: {a: ["x{essid}{bssid}"]}'),
    ("{updates_pending}", "jobs", "publish[0].payload", 'payload: "{updates_pending}"'),
    ("{essid}", "wifi", "shadows[0].reported", 'reported: {a: "{essid}"}'),
    ("{rssi}", "wifi", "shadows[0].desired", 'desired: {a: "{rssi}"}'),
])
def test_a_placeholder_of_a_section_that_is_left_out_is_a_warning(
    missing: str, wing: str, where: str, lines: str
) -> None:
    topic = "topic: a, " if where.startswith("publish") else ""
    text = f"mqtt: {{host: broker}}\n{where.partition('[')[0]}: [{{{topic}every: 1h, {lines}}}]\n"
    assert [(problem.line, problem.key, problem.text) for problem in parse(text, "iotd.yaml", IDENTITY).warnings] == [
        (2, where, f"{missing} is null while there is no section {wing}; add it, or leave the placeholder out")]
    assert parse(f"{text}{wing}: {{}}\n", "iotd.yaml", IDENTITY).warnings == ()


def test_entities_that_nobody_is_told_of_are_a_warning() -> None:
    text = published("entities: {}\n  - {topic: b, every: 30s, payload: {a: 1}, entities: {a: {name: A}}}")
    [warning] = parse(text, "iotd.yaml", IDENTITY).warnings
    assert (warning.line, warning.key) == (7, "publish[1].entities") and "write home_assistant: {}" in warning.text
    assert parse(f"{text}home_assistant: {{}}\n", "iotd.yaml", IDENTITY).warnings == ()


def test_the_host_is_all_that_is_required() -> None:
    assert load("mqtt: {host: broker}") == Settings(
        thing="pi-7", mqtt=Mqtt(host="broker"), presence=Presence("MQTTServer/pi-7/will"),
        sections={"publish": (), "spool": Bounds(), "local": Local()}, hostname="pi-7")


@pytest.fixture(scope="module")
def sample() -> Loaded:
    text = SAMPLE.read_text(encoding="utf-8")
    return parse(text.replace("xxxxxxxxxxxxx-ats.iot.ap-northeast-1.amazonaws.com", AWS), "etc/iotd.yaml", IDENTITY)


def test_the_sample_is_the_article_once_its_host_is_filled_in(sample: Loaded) -> None:
    assert sample.settings == Settings(
        thing="pi-7",
        mqtt=Mqtt(host=AWS, aws_limits=True, tls=Tls()),
        presence=Presence("MQTTServer/pi-7/will"),
        sections={
            "publish": (Publish("MQTTServer/pi-7/0", 30.0, {
                "Timestamp": "{timestamp}", "hostname": "{hostname}", "device_no": 0, "msg": "AWS IoT 接続ヨシッ👉"}),),
            "subscribe": (Subscription("MQTTServer/pi-7/in"),),
            "local": Local(),
            "shadows": (Shadow(
                "device_0", 30.0, {"device_no": 0, "state": "ヨシッ👉"}, {"device_no": 0, "state": "{health}"}),),
            "wifi": Wifi(essid=("fleet-ap",)),
            "spool": Bounds(max_bytes=64 * 1024 * 1024),
        }, hostname="pi-7")


def test_what_the_sample_shows_in_comments_is_right_too() -> None:
    settings = load(with_comments())
    [shadow] = settings.sections["shadows"]
    assert settings.mqtt.tls == Tls(SYSTEM_CA, "", "") and settings.mqtt.username == "pi-7"
    assert settings.mqtt.proxy == Proxy("proxy.example", 3128, "u", "/etc/iotd/certs/proxy-password")
    assert sorted(check.kind for check in shadow.checks) == sorted(KINDS)
    assert {type(action) for action in shadow.on_delta.values()} == set(get_args(Action)) and shadow.files
    assert {value.source for value in settings.sections["values"]} == {"file", "command", "socket"}
    assert settings.sections["publish"][0].on_change == {"level": 0.5, "door": None}
    assert settings.sections["publish"][0].entities == {"device_no": {"name": "Number"}}
    assert settings.sections["jobs"].handlers["clean-cache"].command[1:] == ("{args}",)
    assert settings.sections["subscribe"][0].command[1:] == ("{topic}", "{payload}")


def with_comments() -> str:
    """Return the sample with the keys that it shows in comments."""
    text = SAMPLE.read_text(encoding="utf-8").replace("xxxxxxxxxxxxx-ats.iot.ap-northeast-1.amazonaws.com", AWS)
    text = re.sub(r"(?ms)^# provision:.*?\n\n", "", text)  # which puts others out of force: `with_provision`
    text = re.sub(r"(?m)^  tls: .*\n(    .*\n)+", "", text)
    text = re.sub(r"(?m)^  # (\w+:)", r"  \1", text)
    text = re.sub(r"(?m)^# (values:|jobs:|home_assistant:|  )", r"\1", text.replace("    checks: []", "    #"))
    keys = "checks|on_delta|files|on_change|at_most|batch|encoding|entities|run|timeout|retained|log"
    return re.sub(rf"(?m)^    # (({keys}):|  )", r"    \1", text)


def with_provision() -> str:
    """Return the sample with the section `provision`, which puts others out of force."""
    text = SAMPLE.read_text(encoding="utf-8").replace("xxxxxxxxxxxxx-ats.iot.ap-northeast-1.amazonaws.com", AWS)
    before, _, after = text.partition("# provision:")
    section = after.partition("\n\n")[0].replace("\n#   ", "\n  ")
    return f"{before}provision:{section}\n"


def test_the_sample_shows_every_key_with_its_default(sample: Loaded) -> None:
    """A field of settings without its key in the sample, or with another value, would keep itself secret."""
    shown = {key.replace("[0]", "") for loaded in (parse(with_comments(), "etc/iotd.yaml", IDENTITY), sample,
                                                   parse(with_provision(), "etc/iotd.yaml", IDENTITY))
             for key in loaded.places}
    assert {*Settings._fields, *top_level()} - {"sections", "hostname", "is_named"} <= shown
    assert {field_key(kind, name) for kind in SECTIONS for name in defaults_of(kind)} <= shown
    for key in top_level().keys() - ARTICLE_KEYS:
        assert value_of(sample.settings, key) == top_level()[key].default, key
    for kind, value in sections_of(sample.settings):
        for name, default in defaults_of(kind).items():
            if (kind, name) not in ARTICLE:
                assert getattr(value, name) == default, f"{kind.__name__}.{name}"


SECTIONS: dict[type[Any], str] = {
    Mqtt: "mqtt", Tls: "mqtt.tls", Backoff: "mqtt.backoff", Proxy: "mqtt.proxy", Presence: "presence",
    Publish: "publish", Subscription: "subscribe", Shadow: "shadows", Wifi: "wifi", RebootBudget: "wifi.reboot",
    Bounds: "spool", Log: "log", Jobs: "jobs", HomeAssistant: "home_assistant", Provision: "provision",
    Claim: "provision.claim",
}
RENAMED = {"aws_limits": "limits", "strict": "durability", "filter": "topic", "command": "run",
           "corrects": "timestamps", "gzip": "encoding"}
# What the sample sets to the values of the article.
ARTICLE_KEYS = {"thing", "mqtt", "presence", "publish", "subscribe", "shadows", "wifi"}
ARTICLE = {
    (Mqtt, "tls"), (Mqtt, "aws_limits"), (Shadow, "name"), (Shadow, "desired"), (Shadow, "reported"),
    (Shadow, "on_delta"), (Wifi, "essid"),
}


def top_level() -> dict[str, Section]:
    """Return every key that can stand at the top of the file, with its section."""
    return {**base.SECTIONS, **{key: section for wing in WINGS
                                for key, section in sections_of_wing(wing).items()}}


def defaults_of(kind: type[Any]) -> dict[str, Any]:
    return dict(kind._field_defaults)


def field_key(kind: type[Any], name: str) -> str:
    step = RENAMED.get(name, re.sub(r"(?<!_)_s$", "", name))
    return f"{SECTIONS[kind]}.{step}".lstrip(".")


def sections_of(value: Any) -> list[tuple[type[Any], Any]]:
    """Return every named tuple within the settings or a part of them, the first of each list."""
    found = [] if isinstance(value, Settings) else [(type(value), value)]
    children = [*value[:-1], *value.sections.values()] if isinstance(value, Settings) else value
    for child in children:
        child = child[0] if type(child) is tuple and child else child
        found += sections_of(child) if hasattr(child, "_fields") else []
    return found


def test_the_sample_as_shipped_asks_for_the_endpoint_and_for_nothing_else() -> None:
    text = SAMPLE.read_text(encoding="utf-8")
    [line] = refused(text)
    number = text.splitlines().index("  host: xxxxxxxxxxxxx-ats.iot.ap-northeast-1.amazonaws.com") + 1
    assert line.startswith(f"iotd.yaml:{number}: mqtt.host: ")
    assert "aws iot describe-endpoint --endpoint-type iot:Data-ATS" in line


def test_every_key_has_its_line() -> None:
    loaded = parse(
        "thing: a\nmqtt:\n  host: broker\n  tls:\n    ca: x\n"
        "publish:\n  - topic: a\n    every: 1s\n    payload:\n      b: [1,\n        2]\n", "f", IDENTITY)
    assert {key: loaded.problem(key, "").line for key in (
        "thing", "mqtt.tls", "mqtt.tls.ca", "mqtt.tls.cert", "publish[0]", "publish[0].every",
        "publish[0].payload.b[1]", "publish[0].qos", "mqtt.backoff.max", "wifi", "")
    } == {
        "thing": 1, "mqtt.tls": 4, "mqtt.tls.ca": 5, "mqtt.tls.cert": 4, "publish[0]": 7, "publish[0].every": 8,
        "publish[0].payload.b[1]": 11, "publish[0].qos": 7, "mqtt.backoff.max": 2, "wifi": 0, "": 0}


def test_all_problems_come_at_once_in_the_order_of_their_lines() -> None:
    lines = refused("log: {level: loud}\nthing: '{thing}'\npublish:\n  - topic: a/#\n    evry: 1s\nmqtt:\n  port: 0\n")
    assert [line.split(": ")[:2] for line in lines] == [
        ["iotd.yaml:1", "log.level"],
        ["iotd.yaml:2", "thing"],
        ["iotd.yaml:4", "publish[0].every"],
        ["iotd.yaml:4", "publish[0].payload"],
        ["iotd.yaml:4", "publish[0].topic"],
        ["iotd.yaml:5", "publish[0].evry"],
        ["iotd.yaml:6", "mqtt.host"],
        ["iotd.yaml:7", "mqtt.port"],
    ]


def test_what_is_wrong_in_itself_hides_its_consequences_and_nothing_beside_it() -> None:
    lines = refused(
        "mqtt: {host: b, limits: aws, keepalive: 5s}\nthing: 5\n"
        "publish:\n  - 5\n  - {topic: a/#, every: 1s, payload: {}}\n"
        "shadows:\n  - {name: a}\n  - []\n  - {name: a}\n5: 5\n")
    assert [line.split(": ")[:2] for line in lines] == [
        ["iotd.yaml:1", "mqtt.keepalive"], ["iotd.yaml:2", "thing"], ["iotd.yaml:4", "publish[0]"],
        ["iotd.yaml:5", "publish[1].topic"], ["iotd.yaml:8", "shadows[1]"], ["iotd.yaml:9", "shadows[2].name"],
        ["iotd.yaml:10", "5"]]


@pytest.mark.parametrize("text, expected", [
    ("mqtt: {host: b}\nlogs: {}\n", "2: logs: unknown key; did you mean log?"),
    (under_mqtt("keep_alive: 60s"), "3: mqtt.keep_alive: unknown key; did you mean keepalive?"),
    (under_mqtt("zzz: 1"), "3: mqtt.zzz: unknown key; known here are host, port,"),
    (published("qso: 1"), "6: publish[0].qso: unknown key; did you mean qos?"),
    (under_mqtt("backoff: {frist: 1s}"), "3: mqtt.backoff.frist: unknown key; did you mean first?"),
    (under_mqtt("tls: {insecure: true}"), "3: mqtt.tls.insecure: unknown key"),
    (under_mqtt("host: other"), "3: mqtt.host: duplicate key, first in line 2"),
    ("mqtt: {host: b}\nmqtt: {host: c}\n", "2: mqtt: duplicate key, first in line 1"),
    (payload("a: 1\n      a: 1"), "7: publish[0].payload.a: duplicate key, first in line 6"),
    (under_mqtt("on: 1"), "3: mqtt.on: expected a key that is text, found 'on', which YAML reads as true"),
    (under_mqtt("5: 1"), "3: mqtt.5: expected a key that is text, found 5;"),
    (under_mqtt("? [a]\n  : 1"), "3: mqtt.?: expected a key that is text, found a list"),
    (under_mqtt("? {a: 1}\n  : 1"), "3: mqtt.?: expected a key that is text, found a mapping"),
    (under_mqtt("tls: {? [a] : 1}"), "3: mqtt.tls.?: expected a key that is text, found a list"),
    ("mqtt: {host: b}\nshadows: [{checks: [{? [a] : 1, unit: b}]}]",
     "2: shadows[0].checks[0].?: expected a key that is text, found a list"),
    ("mqtt: {host: b}\n<<: {log: {}}\n", "2: <<: expected a key that is text, found '<<', which YAML reads as a merge"),
    (under_mqtt('"a\\nb": 1'), "3: mqtt.'a\\nb': unknown key"),
])
def test_keys_that_are_not_known_or_not_keys(text: str, expected: str) -> None:
    assert problem_of(text).startswith(expected)


@pytest.mark.parametrize("line, name, value", [
    ("keepalive: 1m", "keepalive_s", 60),
    ("keepalive: 5s", "keepalive_s", 5),
    ("keepalive: 65535s", "keepalive_s", 65535),
    ("spread: 500ms", "spread_s", 0.5),
    ("spread: 1h", "spread_s", 3600.0),
    ("spread: 2d", "spread_s", 172800.0),
    ("spread: '0s'", "spread_s", 0.0),
    ("spread: 3650d", "spread_s", 3650 * 86400.0),
    ("port: 1", "port", 1),
    ("port: 65535", "port", 65535),
    ("clean_session: yes", "clean_session", True),
    ("limits: aws", "aws_limits", True),
    ("limits: auto", "aws_limits", False),
    ("tls:", "tls", Tls()),
    ("tls: {}", "tls", Tls()),
    ("tls: {ca: my.pem}", "tls", Tls(ca="my.pem")),
    ("backoff: {first: 2s}", "backoff", Backoff(first_s=2.0)),
    ("backoff: {first: 1s, max: 1s}", "backoff", Backoff(1.0, 1.0)),
])
def test_values_of_mqtt(line: str, name: str, value: object) -> None:
    assert getattr(load(under_mqtt(line)).mqtt, name) == value


@pytest.mark.parametrize("line, value", [
    ("max_bytes: 1KB", Bounds(max_bytes=1024)),
    ("max_bytes: 2GB", Bounds(max_bytes=2 * 1024 ** 3)),
    ("max_age: 90m", Bounds(max_age_s=5400.0)),
    ("durability: strict", Bounds(strict=True)),
])
def test_values_of_the_spool(line: str, value: Bounds) -> None:
    assert load(f"mqtt: {{host: b}}\nspool: {{{line}}}\n").sections["spool"] == value


def test_checks_of_two_kinds_are_never_taken_for_one() -> None:
    """Named tuples with equal values are equal, and a check is the key of its result."""
    [unit], [process] = (
        load(f"mqtt: {{host: b}}\nshadows: [{{checks: [{{name: a, {kind}: ssh}}]}}]\n").sections["shadows"][0].checks
        for kind in ("unit", "process"))
    assert unit != process
    assert unit._replace(kind="process") == process
    assert len({Check("a", kind, "ssh") for kind in KINDS}) == len(KINDS)


def test_sections_that_stand_empty_are_sections_of_defaults() -> None:
    settings = load("mqtt: {host: b}\npresence:\npublish:\nsubscribe:\nshadows:\nwifi:\nspool:\nlog:\n")
    assert settings == with_value(load("mqtt: {host: b}"), "wifi", Wifi())


@pytest.mark.parametrize("host, limits, expected", [
    (AWS, "auto", True), (AWS, "aws", True), (AWS, "none", False),
    ("broker", "auto", False), ("broker", "aws", True), ("broker", "none", False),
])
def test_limits_follow_the_host_unless_told(host: str, limits: str, expected: bool) -> None:
    assert load(f"mqtt: {{host: {host}, limits: {limits}, tls: }}").mqtt.aws_limits is expected


NAMELESS, UNBORN = Identity("localhost", "0123"), Identity("pi-7", "")


@pytest.mark.parametrize("identity, text, expected", [
    (NAMELESS, "", ": thing: this host is called 'localhost', as any host without a name is; name it: "
     "hostnamectl set-hostname NAME, or write this device's own name here"),
    (NAMELESS, "thing: 'pi-{hostname}'", ":2: thing: this host is called 'localhost'"),
    (UNBORN, "thing: '{machine_id}'", ":2: thing: this host has no machine-id yet; make one: systemd-machine-id-setup"),
    (Identity("(none)", ""), "thing: '{hostname}-{machine_id}'", ":2: thing: this host is called '(none)'"),
    (UNBORN, "subscribe: [{topic: 'a/{machine_id}'}]", ":2: subscribe[0].topic: this host has no machine-id"),
    (UNBORN, "thing: 'pi-{cpu_serial}'", ":2: thing: this machine tells no serial number, neither in "
     "/proc/device-tree/serial-number nor in /proc/cpuinfo; name it by {machine_id}, or write"),
    (NAMELESS, "thing: '{machine_id}-{cpu_serial}'", ":2: thing: this machine tells no serial number"),
    (UNBORN, "subscribe: [{topic: '{thing}/{cpu_serial}'}]", ":2: subscribe[0].topic: this machine tells no serial"),
    (NAMELESS, "thing: a\npresence: {topic: 'a/{hostname}'}", ":3: presence.topic: this host is called 'localhost'"),
])
def test_what_tells_a_device_from_no_other_is_no_name_for_it(identity: Identity, text: str, expected: str) -> None:
    [line] = refused(f"mqtt: {{host: b}}\n{text}\n", identity)
    assert line.removeprefix("iotd.yaml").startswith(expected)


@pytest.mark.parametrize("identity, text", [
    (NAMELESS, "thing: a"), (NAMELESS, "thing: 'a-{machine_id}'"), (NAMELESS, "thing: '{hostname}-{machine_id}'"),
    (NAMELESS, "thing: a\nsubscribe: [{topic: '{thing}/{hostname}'}]"), (UNBORN, ""),
    (NAMELESS, "thing: a\npublish: [{topic: a, every: 1s, payload: {a: '{hostname}{machine_id}'}}]"),
])
def test_a_device_needs_one_name_of_its_own(identity: Identity, text: str) -> None:
    load(f"mqtt: {{host: b}}\n{text}\n", identity)


@pytest.mark.parametrize("host", [
    "broker", "192.0.2.1", "::1", "2001:db8::1", "fe80::1%wlan0", "broker.example.com.", "a_b", "a" * 63, "münchen.de",
])
def test_hosts_are_names_and_addresses(host: str) -> None:
    assert load(f"mqtt: {{host: '{host}'}}").mqtt.host == host


def test_things_topics_and_filters_are_filled_and_payloads_are_not() -> None:
    settings = load(
        "publish:\n  - {topic: '{thing}/{hostname}', every: 1s, payload: {a: '{thing}', b: '{{'}}\n"
        "subscribe: [{topic: '{machine_id}/#'}]\npresence: {topic: 'x/{thing}/{cpu_serial}'}\n"
        "mqtt: {host: b}\nthing: 'gw-{hostname}-{machine_id}'\n")
    assert settings.thing == "gw-pi-7-0123456789abcdef"
    assert settings.sections["publish"][0].topic == "gw-pi-7-0123456789abcdef/pi-7"
    assert settings.sections["subscribe"][0].filter == "0123456789abcdef/#"
    assert settings.presence.topic == "x/gw-pi-7-0123456789abcdef/10000000abcdef01"
    assert settings.sections["publish"][0].payload == {"a": "{thing}", "b": "{{"}


@pytest.mark.parametrize("yaml, shadow", [
    ("{}", Shadow()),
    ("{name: }", Shadow()),
    ("{name: null, every: 1m}", Shadow(every_s=60.0)),
    ("{name: a, checks: [], healthy: ok, unhealthy: 'no'}", Shadow("a", healthy="ok", unhealthy="no")),
    ("{reported: {a: '{health} {sequence}'}, desired: {b: ['{timestamp}']}}",
     Shadow(desired={"b": ["{timestamp}"]}, reported={"a": "{health} {sequence}"})),
])
def test_shadows_without_a_name_are_the_classic_one(yaml: str, shadow: Shadow) -> None:
    assert load(f"mqtt: {{host: b}}\nshadows: [{yaml}]").sections["shadows"] == (shadow,)


@pytest.mark.parametrize("yaml, wifi", [
    ("{essid: []}", Wifi()),
    ("{essid: [工場, 'a b']}", Wifi(essid=("工場", "a b"))),
    (f"{{essid: [{'é' * 16}]}}", Wifi(essid=("é" * 16,))),
    ("{interface: fifteen-letters}", Wifi("fifteen-letters")),
    ("{recover: []}", Wifi(recover=())),
    ("{recover: [radio-cycle, reboot], reboot: {max_per_day: 0}}",
     Wifi(recover=("radio-cycle", "reboot"), reboot=RebootBudget(max_per_day=0))),
])
def test_values_of_wifi(yaml: str, wifi: Wifi) -> None:
    assert load(f"mqtt: {{host: b}}\nwifi: {yaml}").sections["wifi"] == wifi


def test_anchors_and_aliases_are_read() -> None:
    settings = load(
        "mqtt: {host: b}\npublish:\n  - {topic: a, every: &every 5s, payload: &body {x: [1, '{run}']}}\n"
        "  - {topic: b, every: *every, payload: *body}\n")
    assert settings.sections["publish"][1] == Publish("b", 5.0, {"x": [1, "{run}"]})


@pytest.mark.parametrize("line, value", [
    ("a: {b: [1, -2.5, true, null, ~, 'x', {}]}", {"a": {"b": [1, -2.5, True, None, None, "x", {}]}}),
    ("a: !!str 5", {"a": "5"}),
    ("a: '2026-01-01'", {"a": "2026-01-01"}),
    ("'1': \"\\U0001F449\"", {"1": "👉"}),
    ("a: ''", {"a": ""}),
])
def test_payloads_are_what_json_can_say(line: str, value: object) -> None:
    assert load(payload(line)).sections["publish"][0].payload == value


def test_a_topic_may_be_published_to_twice() -> None:
    text = "mqtt: {host: b}\npublish: [&a {topic: t, every: 2s, payload: {}}, *a]\n"
    assert len(load(text).sections["publish"]) == 2


@pytest.mark.parametrize("text, expected", [
    ("mqtt: {host: }", "1: mqtt.host: is empty; fill in your endpoint"),
    ("mqtt: {host: ''}", "1: mqtt.host: is empty; fill in your endpoint"),
    ("", " mqtt.host: is required; fill in your endpoint"),
    ("# nothing yet\n", " mqtt.host: is required; fill in your endpoint"),
    ("mqtt:\n", "1: mqtt.host: is required; fill in your endpoint"),
    ("mqtt: {host: 'mqtts://b'}", "1: mqtt.host: expected the name or address of the broker alone"),
    ("mqtt: {host: 'b:8883'}", "1: mqtt.host: expected the name or address of the broker alone"),
    ("mqtt: {host: 'b c'}", "1: mqtt.host: expected the name or address of the broker alone"),
    ("mqtt: {host: '[::1]'}", "1: mqtt.host: '[::1]' has brackets, which belong into a URL; write the address alone"),
    ("mqtt: {host: .example.com}", "1: mqtt.host: '.example.com' has an empty part"),
    ("mqtt: {host: a..b}", "1: mqtt.host: 'a..b' has an empty part"),
    ("mqtt: {host: .}", "1: mqtt.host: '.' has an empty part"),
    (f"mqtt: {{host: {'a' * 64}.b}}", f"1: mqtt.host: '{'a' * 64}.b' is too long"),
    (f"mqtt: {{host: {'a.' * 127}a}}", "1: mqtt.host: 'a.a.a."),
    ("mqtt: {host: é..b}", "1: mqtt.host: 'é..b' "),
    ("mqtt: {host: \"a\\x01\"}", "1: mqtt.host: 'a\\x01' has 'a\\x01'; the parts of a name are letters"),
    ("mqtt: {host: 'a:b:c'}", "1: mqtt.host: 'a:b:c' is no IPv6 address"),
    ("mqtt: {host: 'fe80::1%a/b'}", "1: mqtt.host: expected the name or address"),
    ("mqtt: {host: 'fe80::1%é'}", "1: mqtt.host: 'fe80::1%é' has a zone that is no interface"),
    (under_mqtt(f"port: 0x{'f' * 5000}"), "3: mqtt.port: YAML cannot read '0xfff"),
    ("mqtt: {host: 5}", "1: mqtt.host: expected text, found 5; put it in quotes"),
    ("mqtt: 5", "1: mqtt: expected a mapping of keys, found 5"),
    ("mqtt: [host]", "1: mqtt: expected a mapping of keys, found a list"),
    ("- mqtt", "1: expected a mapping of keys, found a list"),
    ("hello", "1: expected a mapping of keys, found text 'hello'"),
    (f"mqtt:\n  host: {AWS}\n", "1: mqtt.tls: AWS IoT takes no connection without TLS"),
    (f"mqtt:\n  host: {AWS}\n  limits: none\n", "1: mqtt.tls: AWS IoT takes no connection without TLS"),
    (under_mqtt("port: 0"), PORT + "0"),
    (under_mqtt("port: 65536"), PORT + "65536"),
    (under_mqtt("port: '8883'"), PORT + "text '8883'"),
    (under_mqtt("port: 88.5"), PORT + "88.5"),
    (under_mqtt("port: 1:30"), PORT + "'1:30', which YAML reads as 90"),
    (under_mqtt("port: 0123"), PORT + "'0123', which YAML reads as 83"),
    (under_mqtt("port: yes"), PORT + "'yes', which YAML reads as true"),
    (under_mqtt("port: [1]"), PORT + "a list"),
    (under_mqtt("port:"), PORT + "nothing"),
    (under_mqtt("clean_session: 1"), "3: mqtt.clean_session: expected true or false, found 1"),
    (under_mqtt("clean_session: 'no'"), "3: mqtt.clean_session: expected true or false, found text 'no'"),
    (under_mqtt("keepalive: 60"), KEEPALIVE + "60; write 60s"),
    (under_mqtt("keepalive: 1:30"), KEEPALIVE + "'1:30', which YAML reads as 90; write 90s"),
    (under_mqtt("keepalive: 4s"), "3: mqtt.keepalive: expected 5s to 65535s, found 4s"),
    (under_mqtt("keepalive: 65536s"), "3: mqtt.keepalive: expected 5s to 65535s, found 65536s"),
    (under_mqtt("keepalive: 5500ms"), "3: mqtt.keepalive: expected whole seconds, found text '5500ms'"),
    (under_mqtt("keepalive: 0s"), "3: mqtt.keepalive: expected a duration above zero, found text '0s'"),
    (under_mqtt("spread: -1s"),
     "3: mqtt.spread: expected a duration such as 500ms, 30s, 2m, 1h or 1d, found text '-1s'"),
    (under_mqtt("spread: 1.5h"), "3: mqtt.spread: expected a duration such as"),
    (under_mqtt("spread: 30 s"), "3: mqtt.spread: expected a duration such as"),
    (under_mqtt("spread: 30S"), "3: mqtt.spread: expected a duration such as"),
    (under_mqtt("spread: 30sec"), "3: mqtt.spread: expected a duration such as"),
    (under_mqtt("spread: 1w"), "3: mqtt.spread: expected a duration such as"),
    (under_mqtt("spread: ３s"), "3: mqtt.spread: expected a duration such as"),
    (under_mqtt("spread: 3651d"), "3: mqtt.spread: expected a duration of at most 3650d, found text '3651d'"),
    (under_mqtt("spread: true"), "3: mqtt.spread: expected a duration such as 500ms, 30s, 2m, 1h or 1d, found true"),
    (under_mqtt("limits: amazon"), "3: mqtt.limits: expected auto, aws or none, found text 'amazon'"),
    (under_mqtt("limits: off"), "3: mqtt.limits: expected auto, aws or none, found 'off', which YAML reads as false"),
    (under_mqtt("tls: true"), "3: mqtt.tls: expected a mapping of keys, found true"),
    (under_mqtt("tls: {ca: ''}"), "3: mqtt.tls.ca: is empty; expected text"),
    (under_mqtt("tls: {ca: \"a\\0b\"}"), "3: mqtt.tls.ca: 'a\\x00b' has a NUL character"),
    (under_mqtt("backoff: {first: 5m}"), "3: mqtt.backoff.first: 300s is above mqtt.backoff.max, 120s"),
    (under_mqtt("backoff: {first: 500ms, max: 900ms}"), "3: mqtt.backoff.max: expected at least 1s"),
    ("mqtt: {host: b}\nthing: NO\n",
     "2: thing: expected text, found 'NO', which YAML reads as false; put it in quotes to mean the text: 'NO'"),
    ("mqtt: {host: b}\nthing: 007\n", "2: thing: expected text, found '007', which YAML reads as 7; put it in quotes"),
    ("mqtt: {host: b}\nthing: ''\n", "2: thing: is empty"),
    ("mqtt: {host: b}\nthing:\n", "2: thing: expected text, found nothing"),
    ("mqtt: {host: b}\nthing: [a]\n", "2: thing: expected text, found a list"),
    ("mqtt: {host: b}\nthing: '{thing}'\n", "2: thing: {thing} has no value here; known here are cpu_serial, "
     "hostname, machine_id"),
    ("mqtt: {host: b}\nthing: " + "é" * 65, "2: thing: '"),
    ("mqtt: {host: b}\nspool: {max_bytes: 64}",
     "2: spool.max_bytes: expected a size above zero such as 64KB, 64MB or 1GB, found 64"),
    ("mqtt: {host: b}\nspool: {max_bytes: 0MB}", "2: spool.max_bytes: expected a size above zero"),
    ("mqtt: {host: b}\nspool: {max_bytes: 64MByte}", "2: spool.max_bytes: expected a size above zero"),
    ("mqtt: {host: b}\nspool: {max_bytes: 64mb}", "2: spool.max_bytes: expected a size above zero"),
    ("mqtt: {host: b}\nspool: {durability: strct}",
     "2: spool.durability: expected relaxed or strict, found text 'strct'; did you mean strict?"),
    ("mqtt: {host: b}\nspool: {max_age: 7}", "2: spool.max_age: expected a duration with its unit, found 7; write 7s"),
    ("mqtt: {host: b}\nlog: {level: warn}",
     "2: log.level: expected debug, info, warning or error, found text 'warn'; did you mean warning?"),
    ("mqtt: {host: b}\nlog: {format: xml}", "2: log.format: expected json or text, found text 'xml'"),
])
def test_wrong_values_say_what_was_found_and_what_would_be_right(text: str, expected: str) -> None:
    assert problem_of(text).startswith(expected)


@pytest.mark.parametrize("line, expected", [
    ("qos: 2", "6: publish[0].qos: expected a whole number from 0 to 1, found 2; AWS IoT has no QoS 2"),
    ("qos: 3", "6: publish[0].qos: expected a whole number from 0 to 1, found 3"),
    ("qos: true", "6: publish[0].qos: expected a whole number from 0 to 1, found true"),
    ("retain: 1", "6: publish[0].retain: expected true or false, found 1"),
    ("offline: keep", "6: publish[0].offline: expected queue, latest or drop, found text 'keep'"),
])
def test_wrong_values_of_a_published_message(line: str, expected: str) -> None:
    assert problem_of(published(line)).startswith(expected)


@pytest.mark.parametrize("line, expected", [
    ("a: 2026-01-01",
     "6: publish[0].payload.a: expected what JSON can say, found '2026-01-01', which YAML reads as a date"),
    ("a: 2026-13-01", "6: publish[0].payload.a: YAML cannot read '2026-13-01' as a date; put it in quotes"),
    ("a: .nan", "6: publish[0].payload.a: expected what JSON can say, found '.nan', which YAML reads as NaN"),
    ("a: [-.inf]",
     "6: publish[0].payload.a[0]: expected what JSON can say, found '-.inf', which YAML reads as -Infinity"),
    ("a: 1.0e+999",
     "6: publish[0].payload.a: expected what JSON can say, found '1.0e+999', which YAML reads as Infinity"),
    ("a: !!binary aGk=",
     "6: publish[0].payload.a: expected what JSON can say, found 'aGk=', which YAML reads as a binary"),
    ("a: !!set {x}", "6: publish[0].payload.a: expected a mapping of keys, found a set"),
    ("a: !!omap [x: 1]", "6: publish[0].payload.a: expected what JSON can say, found a omap"),
    ("a: !thing x", "6: publish[0].payload.a: YAML cannot read 'x' as a !thing"),
    ("a: !!python/object:os.system x", "6: publish[0].payload.a: YAML cannot read 'x' as a python/object:os.system"),
    ("a: !!bool x", "6: publish[0].payload.a: YAML cannot read 'x' as a bool"),
    ("a: !!int ''", "6: publish[0].payload.a: YAML cannot read '' as a number"),
    ("a: !!timestamp x", "6: publish[0].payload.a: YAML cannot read 'x' as a date"),
    ("a: " + "9" * 5000, "6: publish[0].payload.a: YAML cannot read '999"),
    ("a: 0x" + "f" * 5000, "6: publish[0].payload.a: YAML cannot read '0xfff"),
    ("a: =", "6: publish[0].payload.a: YAML cannot read '=' as a value"),
    ("a: \"\\0\"", "6: publish[0].payload.a: '\\x00' has a NUL character"),
    ("1: a", "6: publish[0].payload.1: expected a key that is text, found 1; put it in quotes"),
    ("a: {null: 1}", "6: publish[0].payload.a.null: expected a key that is text, found null"),
    ("a: '{hostnme}'", "6: publish[0].payload.a: unknown placeholder {hostnme}; did you mean {hostname}?"),
    ("a: ['{health}']", "6: publish[0].payload.a[0]: {health} has no value here"),
    ("a: '{'", "6: publish[0].payload.a: { is not closed"),
    ("- a", "5: publish[0].payload: expected a mapping of keys, a text or a number, found a list"),
    ("yes", "5: publish[0].payload: expected a mapping of keys, a text or a number, found 'yes', which YAML reads as"),
    ("''", "5: publish[0].payload: is empty; a message without payload takes a retained one away"),
    ("'{hostnme}'", "5: publish[0].payload: unknown placeholder {hostnme}; did you mean {hostname}?"),
])
def test_payloads_that_json_cannot_say_are_named_by_their_key(line: str, expected: str) -> None:
    assert problem_of(payload(line)).startswith(expected)


@pytest.mark.parametrize("yaml, expected", [
    ("{name: ''}", "2: shadows[0].name: is empty"),
    ("{name: NO}", "2: shadows[0].name: expected text, found 'NO', which YAML reads as false"),
    ("{name: a/b}", "2: shadows[0].name: 'a/b' is no shadow name"),
    ("{name: a}, {name: b}, {name: a}", "2: shadows[2].name: 'a' is already shadows[0]"),
    ("{}, {name: null}", "2: shadows[1].name: the classic shadow is already shadows[0]"),
    ("{desired: {a: '{health}'}}", "2: shadows[0].desired.a: {health} has no value here"),
    ("{desired: {a: '{sequence}'}}", "2: shadows[0].desired.a: {sequence} has no value here"),
    ("{reported: [a]}", "2: shadows[0].reported: expected a mapping of keys, found a list"),
    ("{reported: }", "2: shadows[0].reported: expected a mapping of keys, found nothing"),
    ("{checks: [{http: x}]}", "2: shadows[0].checks[0].http: unknown key"),
    ("{checks: ping}", "2: shadows[0].checks: expected a list, found text 'ping'; write - unit"),
    ("{healthy: on}", "2: shadows[0].healthy: expected text, found 'on', which YAML reads as true"),
    ("5", "2: shadows[0]: expected a mapping of keys, found 5"),
])
def test_wrong_shadows(yaml: str, expected: str) -> None:
    assert problem_of(f"mqtt: {{host: b}}\nshadows: [{yaml}]\n").startswith(expected)


@pytest.mark.parametrize("yaml, expected", [
    ("{essid: fleet-ap}", "2: wifi.essid: expected a list, found text 'fleet-ap'; write [fleet-ap]"),
    ("{essid: }", "2: wifi.essid: expected a list, found nothing; write [fleet-ap]"),
    ("{essid: [a, NO]}", "2: wifi.essid[1]: expected text, found 'NO', which YAML reads as false; put it in quotes"),
    ("{essid: ['']}", "2: wifi.essid[0]: is empty"),
    (f"{{essid: [{'é' * 16}a]}}", "2: wifi.essid[0]: 'ééééééééééééééééa' is 33 bytes long; an ESSID has at most 32"),
    ("{recover: [reboot, reconnect, reboot]}", "2: wifi.recover: reboot comes twice"),
    ("{recover: [restart]}",
     "2: wifi.recover[0]: expected reconnect, radio-cycle, restart-network or reboot, found text 'restart'"),
    ("{recover: }", "2: wifi.recover: expected a list, found nothing; write [] to report only"),
    ("{recover: reboot}", "2: wifi.recover: expected a list, found text 'reboot'"),
    ("{interface: wlan0/../x}", "2: wifi.interface: expected the name of a network interface"),
    ("{interface: sixteencharacter}", "2: wifi.interface: expected the name of a network interface"),
    ("{interface: -a}", "2: wifi.interface: expected the name of a network interface"),
    ("{interface: é}", "2: wifi.interface: expected the name of a network interface"),
    ("{grace: 120}", "2: wifi.grace: expected a duration with its unit, found 120; write 120s"),
    ("{reboot: {max_per_day: 25}}", "2: wifi.reboot.max_per_day: expected a whole number from 0 to 24, found 25"),
    ("{reboot: {min_uptime: 0m}}", "2: wifi.reboot.min_uptime: expected a duration above zero"),
])
def test_wrong_wifi(yaml: str, expected: str) -> None:
    assert problem_of(f"mqtt: {{host: b}}\nwifi: {yaml}\n").startswith(expected)


@pytest.mark.parametrize("text, expected", [
    ("subscribe: [{topic: 'a/#/b'}]", "2: subscribe[0].topic: 'a/#/b' has # amid other text"),
    ("subscribe: [{topic: a, qos: 2}]", "2: subscribe[0].qos: expected a whole number from 0 to 1, found 2"),
    ("subscribe: [{topic: a}, {topic: a}]", "2: subscribe[1].topic: 'a' is already subscribe[0]"),
    ("subscribe: [{topic: '{thing}'}, {topic: '{hostname}'}]", "2: subscribe[1].topic: 'pi-7' is already subscribe[0]"),
    ("subscribe: [{}]", "2: subscribe[0].topic: is required"),
    ("subscribe: [{topic: '{essid}'}]", "2: subscribe[0].topic: {essid} has no value here"),
    ("subscribe: a", "2: subscribe: expected a list, found text 'a'"),
    ("presence: {topic: 'a/+'}", "2: presence.topic: 'a/+' has a wildcard"),
    ("presence: {topic: \"a\\nb\"}", "2: presence.topic: 'a\\nb' has U+000A"),
    ("thing: 'line#4'\npresence: {topic: a}", "2: thing: 'line#4' has a wildcard"),
    ("publish: [{topic: 'MQTTServer/{thing}/will', every: 1s, payload: {}}]",
     "2: publish[0].topic: 'MQTTServer/pi-7/will' is presence.topic"),
])
def test_wrong_topics(text: str, expected: str) -> None:
    assert problem_of(f"mqtt: {{host: b}}\n{text}\n").startswith(expected)


@pytest.mark.parametrize("text, expected", [
    ("thing: a.b", "2: thing: 'a.b' is no thing name"),
    ("presence: {topic: $aws/rules/r/a, retain: false}", "2: presence.topic: '$aws/rules/r/a' is reserved"),
    ("publish: [{topic: a/b/c/d/e/f/g/h/i, every: 1s, payload: {}}]",
     "2: publish[0].topic: 'a/b/c/d/e/f/g/h/i' has 8 slashes"),
    ("publish: [{topic: $aws/rules/r/a, every: 1s, payload: {}}]",
     "2: publish[0].topic: '$aws/rules/r/a' cannot be retained, as no topic under $ can; write retain: false"),
    ("publish: [{topic: $aws/things/x, every: 1s, payload: {}, retain: false}]",
     "2: publish[0].topic: '$aws/things/x' is reserved"),
    ("publish: [{topic: a, every: 999ms, payload: {}}]",
     "2: publish[0].every: 'a' would be retained 1.001 times a second in all"),
    ("publish: [{topic: a, every: 1s, payload: {}}, {topic: a, every: 1s, payload: {}}]",
     "2: publish[1].every: 'a' would be retained 2 times a second in all; AWS IoT takes one a second"),
    (f"publish: [{{topic: a, every: 1s, payload: {{a: {'x' * 131072}}}}}]",
     "2: publish[0].payload: the payload has 131080 bytes"),
    ("subscribe: [{topic: a/b/c/d/e/f/g/h/#}]", "2: subscribe[0].topic: 'a/b/c/d/e/f/g/h/#' has 8 slashes"),
    ("subscribe: [" + ",".join(f"{{topic: a{n}}}" for n in range(50)) + "]",
     "2: subscribe: 51 subscriptions in all (presence 1, subscribe 50); AWS IoT allows 50"),
    ("shadows: [" + ",".join(f"{{name: a{n}}}" for n in range(9)) + "]",
     "2: shadows: 55 subscriptions in all (presence 1, shadows 54); AWS IoT allows 50"),
    ("shadows: [{name: a.b}]", "2: shadows[0].name: 'a.b' is no shadow name"),
    ("shadows: [{desired: {a: {b: {c: {d: [1]}}}}}]", None),
    ("shadows: [{desired: {a: {b: {c: {d: {e: []}}}}}}]", "2: shadows[0].desired: 6 levels deep"),
    ("shadows: [{reported: {a: {b: {c: {d: {e: {}}}}}}}]", "2: shadows[0].reported: 6 levels deep"),
    (f"shadows: [{{reported: {{a: {'x' * 4000}}}, desired: {{a: {'é' * 2088}}}}}]", None),
    (f"shadows: [{{reported: {{a: {'x' * 4001}}}, desired: {{a: {'é' * 2088}}}}}]",
     "2: shadows[0]: desired and reported have 8193 bytes"),
])
def test_what_aws_would_refuse_is_refused_under_its_limits_alone(text: str, expected: str | None) -> None:
    load(f"mqtt: {{host: broker, limits: none}}\n{text}\n")
    if expected is None:
        load(LIMITED + text)
    else:
        assert problem_of(LIMITED + text).startswith(expected)


@pytest.mark.parametrize("keepalive, right", [("29s", False), ("30s", True), ("1200s", True), ("1201s", False)])
def test_the_keep_alive_that_aws_honours(keepalive: str, right: bool) -> None:
    text = f"mqtt:\n  host: broker\n  limits: aws\n  keepalive: {keepalive}\n"
    if right:
        load(text)
    else:
        assert problem_of(text) == f"4: mqtt.keepalive: expected 30s to 1200s on AWS, found {keepalive}"


@pytest.mark.parametrize("text", [
    "publish: [{topic: a, every: 2s, payload: {}}, {topic: a, every: 2s, payload: {}}]",
    "publish: [{topic: a, every: 1s, payload: {}}, {topic: b, every: 1s, payload: {}}]",
    "publish: [{topic: a, every: 10ms, payload: {}, retain: false}]",
    "publish: [{topic: $aws/rules/r/a/b/c/d/e/f/g/h, every: 1s, payload: {}, retain: false}]",
    "subscribe: [" + ",".join(f"{{topic: a{n}}}" for n in range(49)) + "]",
    "shadows: [" + ",".join(f"{{name: a{n}}}" for n in range(8)) + "]",
])
def test_what_aws_just_takes_is_taken(text: str) -> None:
    load(LIMITED + text)


@pytest.mark.parametrize("text, expected", [
    ("mqtt:\n\thost: a\n", "2: is no YAML: 'host: a': it has a tab; indent with spaces"),
    ("a: b: c\n", "1: is no YAML: 'a: b: c': a text with a colon and a blank in it has to stand in quotes"),
    ("mqtt: {host: a\n", "1: is no YAML: "),
    ("a: \"b\n", "1: is no YAML: "),
    ("a:\n  *b\n", "2: is no YAML: '*b': found undefined alias"),
    ("a: 1\n---\nb: 2\n", "2: is no YAML: '---': a second document begins here; leave this line out"),
    ("a: 1\nb: \0\n", "2: is no YAML: control characters are not allowed: U+0000"),
    ("é: 1\nb: \x07\n", "2: is no YAML: control characters are not allowed: U+0007"),
    ("a: 1\nb: \udcff\n", "2: is no UTF-8 text; save it as UTF-8"),
    ('a: "\\ud83d\\udc49"\n', "1: is no YAML: "),
    ("%YAML 9.9\n---\na: 1\n", "1: is no YAML: '%YAML 9.9': found incompatible YAML document"),
])
def test_what_is_no_yaml_is_told_its_line(text: str, expected: str) -> None:
    assert problem_of(text).startswith(expected)


def test_files_may_be_deep_and_large_within_reason() -> None:
    assert load(payload("a: " + "[" * 27 + "]" * 27)).sections["publish"][0].payload["a"]
    many = load("mqtt: {host: b}\npublish:\n  - topic: a\n    every: 1s\n    payload:\n"
                f"      a: &a [{'1,' * 300}]\n      b: [{'*a,' * 300}]\n").sections["publish"][0].payload
    assert sum(len(row) for row in many["b"]) == 90_000


LAUGHS = "mqtt: {host: b}\nx0: &x0 [a,a,a,a,a,a,a,a,a,a]\n" + "".join(
    f"x{n}: &x{n} [{','.join([f'*x{n - 1}'] * 10)}]\n" for n in range(1, 10))


@pytest.mark.parametrize("text, expected", [
    ("#" * (1024 * 1024 + 1), "is larger than 1048576 bytes"),
    ("[" * 500_000, "1: nested deeper than 32 levels"),
    ("{a: " * 100_000, "1: nested deeper than 32 levels"),
    ("- " * 100_000, "1: nested deeper than 32 levels"),
    ("? " * 100_000, "1: nested deeper than 32 levels"),
    ("a: [" + "b," * 200_000 + "]", "1: more than 100000 values"),
    (payload("a: &a [*a]"), "6: nested deeper than 32 levels; does an alias contain itself?"),
    (payload("a: &a {b: *a}"), "6: nested deeper than 32 levels; does an alias contain itself?"),
    (payload("a: &a [*a, *a, *a]"), "6: nested deeper than 32 levels; does an alias contain itself?"),
    (LAUGHS + "publish: [{topic: a, every: 1s, payload: {a: *x9}}]",
     "2: its aliases stand for more than 100000 values"),
])
def test_hostile_files_end_quickly_with_one_problem(text: str, expected: str) -> None:
    began = time.monotonic()
    assert problem_of(text).strip().startswith(expected)
    assert time.monotonic() - began < 5


@pytest.mark.parametrize("text", [
    "mqtt: &m {host: b, tls: *m}",
    "mqtt: {host: b}\npublish: &p [*p]",
    "&root {mqtt: *root}",
    "mqtt: {host: b}\npublish: [" + "{topic: a+, every: 1s, payload: {}}," * 9000 + "]",
    "mqtt: {host: b}\n" + "".join(f"k{n}: 1\n" for n in range(20_000)),
])
def test_hostile_files_may_have_many_problems_but_end_quickly(text: str) -> None:
    began = time.monotonic()
    assert refused(text)
    assert time.monotonic() - began < 10


@pytest.mark.parametrize("text", [
    payload('"a\\nb\\u2028c": {"\\x1b": .nan}'),
    under_mqtt('port: "1\\n2\\r\\x1b[2J"'), LIMITED + 'thing: "a\\nb"'])
def test_a_problem_is_one_line_whatever_the_file_says(text: str) -> None:
    for line in refused(text):
        assert line.isprintable()
