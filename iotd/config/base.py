"""The sections that the kernel itself needs: thing, mqtt, presence and log."""

from __future__ import annotations

import re
from typing import Any

from iotd.config import broker
from iotd.config.document import Cursor, Wrong, quoted
from iotd.config.readers import boolean, choice, duration, duration_or_zero, qos, template_text, text, whole
from iotd.config.section import PUBLISH, RETAIN, SUBSCRIBE, Fill, Note, Section, Setting, Use, note_if
from iotd.config.settings import Log, Presence, Settings
from iotd.config.template import EVERYWHERE
from iotd.mqtt import topics
from iotd.mqtt.addresses import host_problem
from iotd.mqtt.settings import Backoff, Mqtt
from iotd.vocabulary import Json

PRESENCE_TOPIC = "MQTTServer/{thing}/will"
LEVELS = ("debug", "info", "warning", "error")

_ENDPOINT = "fill in your endpoint, which `aws iot describe-endpoint --endpoint-type iot:Data-ATS` prints"


def _mqtt(at: Cursor) -> Mqtt:
    values = at.fields({
        "host": ("host", _host),
        "port": ("port", whole(1, 65535)),
        "keepalive": ("keepalive_s", _whole_seconds),
        "clean_session": ("clean_session", boolean),
        "spread": ("spread_s", duration_or_zero),
        "limits": ("aws_limits", choice("auto", "aws", "none")),
        "tls": ("tls", broker.tls),
        "backoff": ("backoff", _backoff),
        "client_id": ("client_id", template_text(EVERYWHERE)),
        "username": ("username", template_text(EVERYWHERE)),
        "password": ("", broker.password),
        "password_file": ("password_file", broker.password_file),
        "alpn": ("alpn", broker.alpn),
        "proxy": ("proxy", broker.proxy),
        "transport": ("transport", choice("tcp", "websockets")),
        "path": ("path", broker.path),
        "protocol": ("", broker.never("is not known yet: iotd speaks MQTT 3.1.1; leave it out")),
    })
    values.setdefault("host", "")
    is_aws, limits = topics.is_aws_endpoint(values["host"]), values.pop("aws_limits", "auto")
    mqtt = Mqtt(**values, aws_limits=limits == "aws" or limits == "auto" and is_aws)
    if "path" in at.keys() and mqtt.transport != "websockets":
        at.document.note(f"{at.path}.path", "is that of a websocket; write mqtt.transport: websockets beside it, or "
                                            "leave it out")
    if not (is_aws and mqtt.tls and mqtt.transport == "tcp" and mqtt.port == broker.ALPN_PORT) or mqtt.alpn is not None:
        return mqtt
    return mqtt._replace(alpn=broker.ALPN)


def _filled(mqtt: Mqtt, fill: Fill) -> Mqtt:
    """Fill what the broker is told of who this is."""
    client_id, username = (written and fill(written) for written in (mqtt.client_id, mqtt.username))
    return mqtt._replace(client_id=client_id, username=username)


def _backoff(at: Cursor) -> Backoff:
    return Backoff(**at.fields({"first": ("first_s", duration), "max": ("max_s", duration)}))


def _host(at: Cursor) -> str:
    host = "" if at.is_empty() or at.scalar() == "" else text(at)
    if not host:
        raise Wrong(f"is empty; {_ENDPOINT}")
    if re.search(r"[\s/@]|^[^:]*:[^:]*$", host):
        more = ", and mqtt.transport: websockets" if re.match("wss?://", host) else ""
        raise Wrong(f"expected the name or address of the broker alone, found {quoted(broker.without_user(host))}; "
                    f"leave out scheme, user and path, and write the port under mqtt.port{more}")
    problem = host_problem(host)
    if problem:
        raise Wrong(problem)
    return host


def _whole_seconds(at: Cursor) -> int:
    seconds = duration(at)
    if seconds != int(seconds):
        raise Wrong(f"expected whole seconds, found {at.found()}; MQTT counts the keep-alive in seconds")
    return int(seconds)


def _check_mqtt(settings: Settings, note: Note) -> None:
    mqtt = settings.mqtt
    if not mqtt.host:
        note("mqtt.host", f"is required; {_ENDPOINT}")
    if is_placeholder(mqtt.host):
        note("mqtt.host", f"{quoted(mqtt.host)} is the sample's placeholder; {_ENDPOINT}")
    if topics.is_aws_endpoint(mqtt.host) and not mqtt.tls:
        note("mqtt.tls", "AWS IoT takes no connection without TLS; add the section, `tls:` alone means the defaults")
    low, high = (30, 1200) if mqtt.aws_limits else (5, 65535)
    if not low <= mqtt.keepalive_s <= high:
        note("mqtt.keepalive", f"expected {low}s to {high}s{' on AWS' * mqtt.aws_limits}, found {mqtt.keepalive_s}s")
    if mqtt.backoff.max_s < 1:
        note("mqtt.backoff.max", "expected at least 1s; no retry comes sooner")
    elif mqtt.backoff.first_s > mqtt.backoff.max_s:
        note("mqtt.backoff.first", f"{mqtt.backoff.first_s:g}s is above mqtt.backoff.max, {mqtt.backoff.max_s:g}s")
    broker.check(settings, note)


def _check_thing(settings: Settings, note: Note) -> None:
    note_if(note, "thing", topics.thing_problem(settings.thing, settings.mqtt.aws_limits))


def _presence(at: Cursor) -> Presence:
    if not at.is_mapping() and at.scalar() in (False, "off"):  # YAML 1.1 reads off as false
        return Presence("")
    values = at.fields({
        "topic": ("topic", template_text(EVERYWHERE)),
        "retain": ("retain", boolean),
        "qos": ("qos", qos),
    })
    values.setdefault("topic", PRESENCE_TOPIC)
    return Presence(**values)


def _check_presence(settings: Settings, note: Note) -> None:
    presence, aws = settings.presence, settings.mqtt.aws_limits
    if not presence.topic:
        return
    if aws and presence.topic.startswith("$"):
        note("presence.topic", f"{quoted(presence.topic)} is reserved, a will is not sent to topics under $")
    note_if(note, "presence.topic", topics.topic_problem(presence.topic, aws, presence.retain))


def _presence_uses(presence: Presence, thing: str) -> list[Use]:
    verbs = (RETAIN if presence.retain else PUBLISH, SUBSCRIBE) if presence.topic else ()
    return [Use(verb, presence.topic) for verb in verbs]


def _log(at: Cursor) -> Log:
    return Log(**at.fields({"level": ("level", choice(*LEVELS)), "format": ("format", choice("json", "text"))}))


def _with_level(log: Log, found: re.Match[str], value: Json) -> Log:
    if value not in LEVELS or not isinstance(value, str):
        raise ValueError(f"expected {', '.join(LEVELS[:-1])} or {LEVELS[-1]}")
    return log._replace(level=value)


SECTIONS: dict[str, Section] = {
    "thing": Section(template_text(EVERYWHERE - {"thing"}), "{hostname}", check=_check_thing),
    "mqtt": Section(_mqtt, Mqtt(host=""), check=_check_mqtt, fill=_filled),
    "presence": Section(_presence, Presence(PRESENCE_TOPIC), check=_check_presence,
                        filters=lambda presence: 1 if presence.topic else 0, uses=_presence_uses,
                        fill=lambda presence, fill: presence._replace(topic=fill(presence.topic))),
    "log": Section(_log, Log(), settable=(Setting(
        "log.level", r"\.level", lambda log, found: None, lambda log, found: log.level, _with_level),)),
}


def is_placeholder(host: str) -> bool:
    """Tell whether this host is the sample's, which nobody has filled in."""
    return re.match(r"x+-ats\.", host) is not None


def value_of(settings: Settings, key: str) -> Any:
    """Return what the settings have under a key at the top of the file, None for one that is left out."""
    return getattr(settings, key) if key in SECTIONS else settings.sections.get(key)


def with_value(settings: Settings, key: str, value: Any) -> Settings:
    """Return the settings with another value under a key at the top of the file."""
    if key in SECTIONS:
        return settings._replace(**{key: value})
    return settings._replace(sections={**settings.sections, key: value})
