"""The sections that the kernel itself needs: thing, mqtt, presence and log."""

from __future__ import annotations

import re
from typing import Any

from iotd.config.document import Cursor, Wrong, quoted
from iotd.config.readers import boolean, choice, duration, duration_or_zero, qos, template_text, text, whole
from iotd.config.section import Note, Section, Setting, note_if
from iotd.config.settings import Log, Presence, Settings
from iotd.config.template import EVERYWHERE
from iotd.mqtt import topics
from iotd.mqtt.addresses import host_problem
from iotd.mqtt.settings import Backoff, Mqtt, Tls
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
        "tls": ("tls", _tls),
        "backoff": ("backoff", _backoff),
    })
    values.setdefault("host", "")
    limits = values.pop("aws_limits", "auto")
    return Mqtt(**values, aws_limits=limits == "aws" or limits == "auto" and topics.is_aws_endpoint(values["host"]))


def _tls(at: Cursor) -> Tls:
    return Tls(**at.fields({"ca": ("ca", text), "cert": ("cert", text), "key": ("key", text)}))


def _backoff(at: Cursor) -> Backoff:
    return Backoff(**at.fields({"first": ("first_s", duration), "max": ("max_s", duration)}))


def _host(at: Cursor) -> str:
    host = "" if at.is_empty() or at.scalar() == "" else text(at)
    if not host:
        raise Wrong(f"is empty; {_ENDPOINT}")
    if re.search(r"[\s/@]|^[^:]*:[^:]*$", host):
        raise Wrong(f"expected the name or address of the broker alone, found {quoted(host)}; "
                    "leave out scheme, user and path, and write the port under mqtt.port")
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
    if re.match(r"x+-ats\.", mqtt.host):
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


def _check_thing(settings: Settings, note: Note) -> None:
    note_if(note, "thing", topics.thing_problem(settings.thing, settings.mqtt.aws_limits))


def _presence(at: Cursor) -> Presence:
    values = at.fields({
        "topic": ("topic", template_text(EVERYWHERE)),
        "retain": ("retain", boolean),
        "qos": ("qos", qos),
    })
    values.setdefault("topic", PRESENCE_TOPIC)
    return Presence(**values)


def _check_presence(settings: Settings, note: Note) -> None:
    presence, aws = settings.presence, settings.mqtt.aws_limits
    if aws and presence.topic.startswith("$"):
        note("presence.topic", f"{quoted(presence.topic)} is reserved, a will is not sent to topics under $")
    note_if(note, "presence.topic", topics.topic_problem(presence.topic, aws, presence.retain))


def _log(at: Cursor) -> Log:
    return Log(**at.fields({"level": ("level", choice(*LEVELS)), "format": ("format", choice("json", "text"))}))


def _with_level(log: Log, found: re.Match[str], value: Json) -> Log:
    if value not in LEVELS or not isinstance(value, str):
        raise ValueError(f"expected {', '.join(LEVELS[:-1])} or {LEVELS[-1]}")
    return log._replace(level=value)


SECTIONS: dict[str, Section] = {
    "thing": Section(template_text(frozenset({"hostname", "machine_id"})), "{hostname}", check=_check_thing),
    "mqtt": Section(_mqtt, Mqtt(host=""), check=_check_mqtt),
    "presence": Section(_presence, Presence(PRESENCE_TOPIC), check=_check_presence, filters=lambda presence: 1,
                        fill=lambda presence, fill: presence._replace(topic=fill(presence.topic))),
    "log": Section(_log, Log(), settable=(Setting(
        "log.level", r"\.level", lambda log, found: None, lambda log, found: log.level, _with_level),)),
}


def value_of(settings: Settings, key: str) -> Any:
    """Return what the settings have under a key at the top of the file, None for one that is left out."""
    return getattr(settings, key) if key in SECTIONS else settings.sections.get(key)


def with_value(settings: Settings, key: str, value: Any) -> Settings:
    """Return the settings with another value under a key at the top of the file."""
    if key in SECTIONS:
        return settings._replace(**{key: value})
    return settings._replace(sections={**settings.sections, key: value})
