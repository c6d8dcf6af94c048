"""The sections `publish` and `spool`: what is published, and within which bounds it waits."""

import json
import math
import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from functools import partial
from typing import NamedTuple

from iotd.config.document import Cursor, Wrong, quoted
from iotd.config.readers import (
    boolean, choice, duration, listed, number, qos, size, template_payload, template_text, whole,
)
from iotd.config.section import (
    PUBLISH, RETAIN, Note, Section, Setting, Use, advise_of_placeholders, advise_of_readers, missing_item, note_if,
    period_of_an_item, with_item,
)
from iotd.config.settings import Settings
from iotd.config.template import EVERYWHERE, PAYLOAD
from iotd.errors import nearest
from iotd.mqtt import topics
from iotd.vocabulary import Json


MAX_COUNT = 1000  # payloads in a batch


class Batch(NamedTuple):
    """So many payloads are one message, or as many as there are `within_s` after the first."""

    most: int
    within_s: float


class Publish(NamedTuple):
    """One scheduled message. `offline` is queue, latest or drop; `payload` a mapping, a text or a number.

    `on_change` has by the name of a value how much a number has to change for the message to be sent at once, None
    where any change is enough; that is not done more often than every `at_most_s`. `entities` say what keys of the
    payload are to a home automation, in its own words.
    """

    topic: str
    every_s: float
    payload: Json
    retain: bool = True
    qos: int = 1
    offline: str = "queue"
    on_change: Mapping[str, float | None] = {}
    at_most_s: float = 1.0
    batch: Batch | None = None
    gzip: bool = False
    entities: Mapping[str, Mapping[str, Json]] = {}


class Bounds(NamedTuple):
    """The bounds of what waits for its PUBACK. `strict` commits to disk before anything is sent; `corrects`: the times
    in what waits are filled in when it goes out.
    """

    strict: bool = False
    max_bytes: int = 64 * 1024 * 1024
    max_age_s: float = 7 * 86400.0
    corrects: bool = True


def _publish(at: Cursor) -> Publish:
    if "at_most" in at.keys() and "on_change" not in at.keys():
        at.note("at_most is for on_change; without it the message is sent every so often alone")
    return Publish(**at.fields({
        "topic": ("topic", template_text(EVERYWHERE)),
        "every": ("every_s", duration),
        "retain": ("retain", boolean),
        "qos": ("qos", qos),
        "offline": ("offline", choice("queue", "latest", "drop")),
        "on_change": ("on_change", _on_change),
        "at_most": ("at_most_s", duration),
        "payload": ("payload", template_payload(PAYLOAD)),
        "batch": ("batch", _batch),
        "entities": ("entities", _entities),
        "encoding": ("gzip", lambda at: choice("json", "gzip")(at) == "gzip"),
    }, topic="", every=86400.0, payload={}))


def _entities(at: Cursor) -> dict[str, dict[str, Json]]:
    return {} if at.is_empty() else {key: entity for key, child in at.entries() for entity in child.read(_entity)}


def _entity(at: Cursor) -> dict[str, Json]:
    tree = {} if at.is_empty() else at.tree(lambda written: None)
    if not isinstance(tree, dict):
        raise Wrong(f"expected a mapping such as {{name: Tank}}, found {at.found()}")
    return tree


def _check_entities(key: str, entry: Publish, note: Note) -> None:
    if entry.entities and entry.gzip:
        note(f"{key}.entities", "no entity can be read from gzip; leave out encoding")
    payload = entry.payload if isinstance(entry.payload, dict) else {}
    for name in entry.entities:
        if name not in payload:
            meant = nearest(name, payload)
            note(f"{key}.entities.{name}", "the payload has no such key; " + (
                f"did you mean {meant}?" if meant else f"it has {', '.join(payload) or 'none at all'}"))


def _batch(at: Cursor) -> Batch:
    return Batch(**at.fields({"count": ("most", whole(2, MAX_COUNT)), "within": ("within_s", duration)},
                             count=2, within=math.inf))


def _on_change(at: Cursor) -> dict[str, float | None]:
    return {} if at.is_empty() else {
        name: threshold for name, child in at.entries() for threshold in child.read(partial(_threshold, name))}


def _threshold(name: str, at: Cursor) -> float | None:
    stands = at.document.defined.get(name.partition(".")[0])
    if stands is None:
        meant = nearest(name, at.document.defined)
        raise Wrong(f"there is no value {name}; " + (f"did you mean {meant}?" if meant else "define it in values"))
    if not stands:
        raise Wrong(f"{name} is read for each message that names it, so that nobody would notice a change; "
                    "give it an every of its own, or have it told by socket")
    if at.scalar() == "any":
        return None
    threshold = number(at)
    if threshold <= 0:
        raise Wrong(f"expected a number above zero, or any, found {at.found()}")
    return threshold


def _bounds(at: Cursor) -> Bounds:
    return Bounds(**at.fields({
        "durability": ("strict", lambda at: choice("relaxed", "strict")(at) == "strict"),
        "max_bytes": ("max_bytes", size),
        "max_age": ("max_age_s", duration),
        "timestamps": ("corrects", lambda at: choice("correct", "keep")(at) == "correct"),
    }))


def _check(settings: Settings, note: Note) -> None:
    aws = settings.mqtt.aws_limits
    retained_per_s: dict[str, float] = defaultdict(float)
    for position, entry in enumerate(settings.sections["publish"]):
        key = f"publish[{position}]"
        note_if(note, f"{key}.topic", topics.topic_problem(entry.topic, aws, entry.retain))
        _check_entities(key, entry, note)
        written = entry.payload if isinstance(entry.payload, str) else json.dumps(
            entry.payload, ensure_ascii=False, separators=(",", ":"))
        size = len(written.encode()) * (entry.batch.most if entry.batch else 1)
        note_if(note, f"{key}.{'batch' if entry.batch else 'payload'}", topics.payload_problem(size, aws))
        if entry.gzip and entry.retain:
            note(f"{key}.retain", "is true, as always where it is not written, and who subscribes later would not know "
                                  "that the payload is gzip; write retain: false, or leave out encoding")
        if entry.batch and entry.batch.within_s < entry.every_s:
            note(f"{key}.batch.within", f"{entry.batch.within_s:g}s is below {key}.every, {entry.every_s:g}s: no two "
                                        "payloads would come together")
        if entry.batch and settings.sections["spool"].strict:
            note(f"{key}.batch", "is collected in memory, and spool.durability: strict asks that a power cut takes "
                                 "nothing; leave out one of the two")
        if entry.topic == settings.presence.topic:
            note(f"{key}.topic", f"{quoted(entry.topic)} is presence.topic; publish under a topic of its own")
        if entry.on_change and entry.at_most_s > entry.every_s:
            note(f"{key}.at_most", f"{entry.at_most_s:g}s is above publish[{position}].every, {entry.every_s:g}s")
        if entry.retain:
            retained_per_s[entry.topic] += 1 / (entry.at_most_s if entry.on_change else entry.every_s)
            if aws and retained_per_s[entry.topic] > 1 + 1e-9:
                note(f"{key}.{'at_most' if entry.on_change else 'every'}",
                     f"{quoted(entry.topic)} would be retained {retained_per_s[entry.topic]:.4g} times a second in "
                     "all; AWS IoT takes one a second, or write retain: false")


def _advise(settings: Settings, others: Sequence[Use], note: Note) -> None:
    for position, entry in enumerate(settings.sections["publish"]):
        if entry.entities:
            advise_of_readers(settings, note, f"publish[{position}].entities", "entities")
        advise_of_placeholders(settings, note, f"publish[{position}].payload", entry.payload)


def _no_text(entries: tuple[Publish, ...], found: re.Match[str]) -> str | None:
    position, key = int(found[1]), found[2]
    lacking = missing_item("publish", entries, position)
    payload = None if lacking else entries[position].payload
    if lacking or isinstance(payload, dict) and isinstance(payload.get(key), str):
        return lacking
    return f"publish[{position}].payload has no text under the key {key!r}"


def _with_text(entries: tuple[Publish, ...], found: re.Match[str], value: Json) -> tuple[Publish, ...]:
    """Put a text there that the template will write as it is: braces in it are no placeholders."""
    if not isinstance(value, str):
        raise ValueError("expected a text")
    entry = entries[int(found[1])]
    payload = {**entry.payload, found[2]: value.replace("{", "{{").replace("}", "}}")}
    return with_item(entries, int(found[1]), entry._replace(payload=payload))


SECTIONS = {
    "publish": Section(
        listed(_publish, "- topic: …"), (), check=_check, advise=_advise,
        fill=lambda entries, fill: tuple(entry._replace(topic=fill(entry.topic)) for entry in entries),
        uses=lambda entries, thing: [Use(RETAIN if entry.retain else PUBLISH, entry.topic) for entry in entries],
        settable=(period_of_an_item("publish"), Setting(
            "publish[0].payload.KEY", r"(?s)\[([0-9]{1,4})\]\.payload\.(.+)", _no_text,
            lambda entries, found: entries[int(found[1])].payload[found[2]], _with_text))),
    "spool": Section(_bounds, Bounds(), of_host=True),
}
