"""The device as Home Assistant's MQTT discovery takes it, in one message (2024.11 and later). Pure.

Home Assistant refuses the whole device over one key at the root that it does not know, and drops a component's.
Source: home-assistant.io, "MQTT", "Device discovery payload".
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from hashlib import sha256
from typing import NamedTuple

from iotd import __version__
from iotd.config.settings import Settings
from iotd.vocabulary import Json

SENSOR, BINARY_SENSOR = PLATFORMS = ("sensor", "binary_sensor")
# A state that is none, which both platforms show as unknown.
_NOTHING = "None"


class About(NamedTuple):
    """What is known of the board, None where it tells nothing."""

    model: str | None = None
    serial: str | None = None
    has_temperature: bool = False


def topic(prefix: str, thing: str) -> str:
    """Return the topic of the announcement."""
    return f"{prefix}/device/{identifier(thing)}/config"


def state_topic(prefix: str, thing: str) -> str:
    """Return the topic of the state that the entities of iotd's own read."""
    return f"{prefix}/device/{identifier(thing)}/state"


def birth_topic(prefix: str) -> str:
    """Return the topic on which Home Assistant says that it is there."""
    return f"{prefix}/status"


def identifier(name: str) -> str:
    """Return the name in A to Z, a to z, 0 to 9, _ and -, which is never that of another one.

    What has other characters ends with a digest of 64 bits, and so does a name that looks as if it did.
    """
    if re.fullmatch(r"[A-Za-z0-9_-]+", name) and not re.search(r"-[0-9a-f]{16}\Z", name):
        return name
    return f"{re.sub('[^A-Za-z0-9_-]+', '-', name)[:64]}-{sha256(name.encode()).hexdigest()[:16]}"


def announcement(settings: Settings, about: About, left: Mapping[str, str] = {}) -> dict[str, Json]:
    """Return the message; `left` are components of the last one that are not there any more, with their platforms."""
    components = _components(settings, about)
    model = about.model
    device = {
        "identifiers": [f"iotd-{identifier(settings.thing)}"], "name": settings.thing, "model": model,
        "manufacturer": "Raspberry Pi" if (model or "").startswith("Raspberry Pi") else None,
        "serial_number": about.serial, "sw_version": f"iotd {__version__}"}
    return {
        "device": {key: value for key, value in device.items() if value is not None},
        "origin": {"name": "iotd", "sw_version": __version__}, "qos": 1,
        "components": {**{name: {"platform": platform} for name, platform in left.items() if name not in components},
                       **components}}


def platforms(announced: Mapping[str, Json]) -> dict[str, str]:
    """Return the platform of each component of a message."""
    return {name: component["platform"] for name, component in announced["components"].items()}


def state(settings: Settings, about: About, problems: list[str], values: Mapping[str, Json]) -> dict[str, Json]:
    """Return what the entities of iotd's own read."""
    shown = ["uptime", *["rssi"] * _has_wifi(settings), *["temperature"] * about.has_temperature]
    return {"problem": bool(problems), "problems": [problem[:200] for problem in problems[:5]],
            **{name: values.get(name) for name in shown}}


def _components(settings: Settings, about: About) -> dict[str, Json]:
    found = _own(settings, about)
    for entry in settings.sections["publish"]:
        for key, entity in entry.entities.items():
            name = identifier(key)
            if entity.get("platform", SENSOR) != SENSOR:
                name = f"{name}-{entity['platform']}"
            if name in found:
                name = f"{name}-{sha256(entry.topic.encode()).hexdigest()[:8]}"
            found[name] = _entity(key, entity, entry.topic, "value_json[-1]" if entry.batch else "value_json")
    online = _online(settings, "online", "offline")
    for name, component in found.items():
        component["unique_id"] = f"iotd-{identifier(settings.thing)}-{name}"
        component.setdefault("default_entity_id", f"{component['platform']}.{_slug(f'{settings.thing} {name}')}")
        if online and component.get("device_class") != "connectivity":  # which would be unavailable, and never off
            component["availability"] = [{"topic": settings.presence.topic, "value_template": online}]
    return found


def _own(settings: Settings, about: About) -> dict[str, dict[str, Json]]:
    """Return the components that nobody has to ask for."""
    at = state_topic(settings.sections["home_assistant"].discovery, settings.thing)
    sensor = {"platform": SENSOR, "state_topic": at, "entity_category": "diagnostic"}
    found: dict[str, dict[str, Json]] = {}
    if settings.presence.topic:
        found["iotd-connectivity"] = {
            "platform": BINARY_SENSOR, "name": "Connectivity", "device_class": "connectivity",
            "entity_category": "diagnostic", "state_topic": settings.presence.topic,
            "value_template": _online(settings, "ON", "OFF")}
    found["iotd-problem"] = {
        **sensor, "platform": BINARY_SENSOR, "name": "Problem", "device_class": "problem",
        "value_template": "{{ 'ON' if value_json.problem else 'OFF' }}", "json_attributes_topic": at,
        "json_attributes_template": "{{ {'problems': value_json.problems} | tojson }}"}
    found["iotd-uptime"] = {**sensor, "name": "Uptime", "device_class": "duration", "unit_of_measurement": "s",
                            "state_class": "measurement", "value_template": _template("uptime")}
    if _has_wifi(settings):
        found["iotd-wifi-signal"] = {
            **sensor, "name": "Wi-Fi signal", "device_class": "signal_strength", "unit_of_measurement": "dBm",
            "state_class": "measurement", "value_template": _template("rssi")}
    if about.has_temperature:
        found["iotd-temperature"] = {
            **sensor, "name": "Board temperature", "device_class": "temperature", "unit_of_measurement": "°C",
            "state_class": "measurement", "value_template": _template("temperature")}
    return found


def _entity(key: str, entity: Mapping[str, Json], at: str, value: str) -> dict[str, Json]:
    is_binary = entity.get("platform", SENSOR) == BINARY_SENSOR and not {"payload_on", "payload_off"} & entity.keys()
    return {"platform": SENSOR, "name": key, "state_topic": at, "value_template": _template(key, value, is_binary),
            **entity}


def _template(key: str, value: str = "value_json", is_binary: bool = False) -> str:
    member = f"{value}[{json.dumps(key, ensure_ascii=False)}]"  # a text of JSON is one of Jinja's
    if is_binary:
        return f"{{{{ '{_NOTHING}' if {member} is none else 'ON' if {member} else 'OFF' }}}}"
    return f"{{{{ {member} }}}}"


def _online(settings: Settings, yes: str, no: str) -> str:
    """Return how presence tells whether the device is there, nothing where there is none."""
    return f"{{{{ '{yes}' if value_json.status == 'Connected' else '{no}' }}}}" if settings.presence.topic else ""


def _has_wifi(settings: Settings) -> bool:
    return settings.sections.get("wifi") is not None


def _slug(name: str) -> str:
    return re.sub("[^a-z0-9]+", "_", name.lower()).strip("_")
