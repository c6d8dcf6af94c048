"""The section `home_assistant`, and what of a message's `entities` Home Assistant would not take."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import NamedTuple

from iotd.config.document import Cursor, quoted
from iotd.config.readers import text
from iotd.config.section import RETAIN, SUBSCRIBE, Note, Section, Use, note_if
from iotd.config.settings import Settings
from iotd.home_assistant import discovery
from iotd.mqtt import topics
from iotd.vocabulary import Json

# What an announcement says of an entity itself.
OWN = ("unique_id", "state_topic", "availability", "availability_topic", "availability_template", "availability_mode",
       "device", "origin", "qos", "command_topic")
TEXTS = ("name", "device_class", "unit_of_measurement", "state_class", "entity_category", "icon", "value_template",
         "default_entity_id")


class HomeAssistant(NamedTuple):
    """`discovery` is the prefix of the topics that Home Assistant listens to."""

    discovery: str = "homeassistant"


def _home_assistant(at: Cursor) -> HomeAssistant:
    return HomeAssistant(**at.fields({"discovery": ("discovery", text)}))


def _uses(section: HomeAssistant, thing: str) -> list[Use]:
    prefix = section.discovery
    return [Use(RETAIN, discovery.topic(prefix, thing)), Use(RETAIN, discovery.state_topic(prefix, thing)),
            Use(SUBSCRIBE, discovery.birth_topic(prefix))]


def _check(settings: Settings, note: Note) -> None:
    section, aws = settings.sections["home_assistant"], settings.mqtt.aws_limits
    announced = discovery.topic(section.discovery, settings.thing)
    note_if(note, "home_assistant.discovery", topics.topic_problem(announced, aws, retain=True))
    for position, entry in enumerate(settings.sections["publish"]):
        for key, entity in entry.entities.items():
            _check_entity(f"publish[{position}].entities.{key}", entity, note)
    body = json.dumps(discovery.announcement(settings, discovery.About()), ensure_ascii=False)
    note_if(note, "home_assistant", topics.payload_problem(len(body.encode()), aws))


def _check_entity(path: str, entity: Mapping[str, Json], note: Note) -> None:
    platform = entity.get("platform", discovery.SENSOR)
    if platform not in discovery.PLATFORMS:
        note(f"{path}.platform", f"expected {' or '.join(discovery.PLATFORMS)}, which show what is published, found "
                                 f"{quoted(str(platform))}")
    for name in OWN:
        if name in entity:
            note(f"{path}.{name}", "iotd says that itself; leave it out")
    for name in TEXTS:
        if not isinstance(entity.get(name, ""), str):
            note(f"{path}.{name}", f"expected text, found {json.dumps(entity[name], ensure_ascii=False)[:80]}")


SECTIONS = {"home_assistant": Section(
    _home_assistant, None, check=_check, filters=lambda section: 1, uses=_uses, transient=True)}
