"""The section `subscribe`: whose messages are taken."""

from typing import NamedTuple

from iotd.config.document import Cursor, quoted
from iotd.config.readers import listed, qos, template_text
from iotd.config.section import Note, Section, note_if
from iotd.config.settings import Settings
from iotd.config.template import EVERYWHERE
from iotd.mqtt import topics


class Subscription(NamedTuple):
    """One topic filter whose messages are logged."""

    filter: str
    qos: int = 1


def _subscription(at: Cursor) -> Subscription:
    return Subscription(**at.fields({
        "topic": ("filter", template_text(EVERYWHERE)),
        "qos": ("qos", qos),
    }, topic=""))


def _check(settings: Settings, note: Note) -> None:
    first: dict[str, int] = {}
    for position, entry in enumerate(settings.sections["subscribe"]):
        key = f"subscribe[{position}].topic"
        note_if(note, key, topics.filter_problem(entry.filter, settings.mqtt.aws_limits))
        if first.setdefault(entry.filter, position) != position:
            note(key, f"{quoted(entry.filter)} is already subscribe[{first[entry.filter]}]; keep one of the two")


SECTIONS = {"subscribe": Section(
    listed(_subscription, "- topic: …"), (), check=_check, filters=len,
    fill=lambda entries, fill: tuple(entry._replace(filter=fill(entry.filter)) for entry in entries))}
