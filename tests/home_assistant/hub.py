"""Home Assistant as far as its documentation says what it takes: the device's schema, and what its templates make.

Strict at the root and in `device` and `origin`, as `MQTT_DEVICE_DISCOVERY_SCHEMA` is; a component's keys are those that
its platform documents. Source: home-assistant.io, "MQTT" (discovery), "MQTT sensor", "MQTT binary sensor".
"""

from __future__ import annotations

import json
import re
from typing import Any

from jinja2.sandbox import ImmutableSandboxedEnvironment

ROOT = {"device", "origin", "components", "qos", "state_topic", "command_topic", "encoding", "availability",
        "availability_mode", "availability_topic", "availability_template", "payload_available",
        "payload_not_available"}
DEVICE = {"identifiers", "connections", "name", "manufacturer", "model", "model_id", "hw_version", "sw_version",
          "serial_number", "suggested_area", "via_device", "configuration_url"}
ORIGIN = {"name", "sw_version", "support_url"}
ENTITY = {"platform", "unique_id", "default_entity_id", "name", "icon", "entity_category", "enabled_by_default",
          "entity_picture", "availability", "availability_mode", "qos", "encoding", "state_topic", "value_template",
          "json_attributes_topic", "json_attributes_template", "device_class", "expire_after", "force_update"}
PLATFORMS = {
    "sensor": ENTITY | {"unit_of_measurement", "state_class", "suggested_display_precision", "options",
                        "last_reset_value_template"},
    "binary_sensor": ENTITY | {"payload_on", "payload_off", "off_delay"},
}
UNITS = {"temperature": {"°C", "°F", "K"}, "signal_strength": {"dB", "dBm"}, "duration": {"d", "h", "min", "s", "ms"},
         "humidity": {"%"}, "battery": {"%"}}
BINARY_CLASSES = {"connectivity", "problem", "door", "power", "motion", "opening", "running"}

_jinja = ImmutableSandboxedEnvironment()
_jinja.filters["tojson"] = lambda value: json.dumps(value, ensure_ascii=False)


def take(topic: str, payload: bytes) -> dict[str, dict[str, Any]]:
    """Return the components of an announcement, a removed one as its platform alone. Raises AssertionError."""
    found = re.fullmatch(r"[a-z/]+/device/([a-zA-Z0-9_-]+)/config", topic)
    assert found, topic
    body = json.loads(payload)
    assert body.keys() <= ROOT and {"device", "origin", "components"} <= body.keys(), body.keys()
    device, origin = body["device"], body["origin"]
    assert device.keys() <= DEVICE and device["identifiers"] and all(
        isinstance(value, str) for key, value in device.items() if key != "identifiers"), device
    assert origin.keys() <= ORIGIN and origin["name"], origin
    assert body.get("qos", 0) in (0, 1, 2)
    for name, component in body["components"].items():
        assert re.fullmatch(r"[a-zA-Z0-9_-]+", name), name
        if component.keys() != {"platform"}:
            _check(component)
    ids = [component["unique_id"] for component in body["components"].values() if "unique_id" in component]
    assert len(set(ids)) == len(ids)
    components: dict[str, dict[str, Any]] = body["components"]
    return components


def state(template: str, payload: bytes) -> str:
    """Return what a template makes of a message."""
    return str(_jinja.from_string(template).render(value=payload.decode(), value_json=json.loads(payload)))


def states(components: dict[str, dict[str, Any]], retained: dict[str, bytes]) -> dict[str, str]:
    """Return what each entity shows, by its id, of what stands retained."""
    shown = {}
    for name, component in components.items():
        if component.keys() == {"platform"}:
            continue
        online = all(state(source["value_template"], retained[source["topic"]]) == "online"
                     for source in component.get("availability", []))
        shown[name] = "unavailable" if not online else state(
            component["value_template"], retained[component["state_topic"]])
        if "json_attributes_template" in component:
            attributes = state(component["json_attributes_template"], retained[component["json_attributes_topic"]])
            assert isinstance(json.loads(attributes), dict)
        if component["platform"] == "binary_sensor":
            assert shown[name] in (component.get("payload_on", "ON"), component.get("payload_off", "OFF"), "None",
                                   "unavailable"), (name, shown[name])
    return shown


def _check(component: dict[str, Any]) -> None:
    assert component.keys() <= PLATFORMS[component["platform"]], component
    assert component["unique_id"] and component["state_topic"], component
    assert re.fullmatch(rf"{component['platform']}\.[a-z0-9_]+", component["default_entity_id"]), component
    assert all(source.keys() <= {"topic", "value_template", "payload_available", "payload_not_available"}
               for source in component.get("availability", [])), component
    device_class = component.get("device_class")
    assert component.get("entity_category") in (None, "diagnostic")
    if component["platform"] == "binary_sensor":
        assert device_class in {None, *BINARY_CLASSES}, component
    elif device_class is not None:
        assert component["unit_of_measurement"] in UNITS[device_class], component
    if device_class == "connectivity":
        assert "availability" not in component
