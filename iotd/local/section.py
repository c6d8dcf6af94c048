"""The section `local`: what programs on the device may do."""

from typing import NamedTuple

from iotd.config.document import Cursor
from iotd.config.readers import listed, template_text
from iotd.config.section import RETAIN, Note, Section, Use, note_if
from iotd.config.settings import Settings
from iotd.config.template import EVERYWHERE
from iotd.mqtt import topics


class Local(NamedTuple):
    """`publish` are the filters of the topics that programs may publish on."""

    publish: tuple[str, ...] = ()


def _local(at: Cursor) -> Local:
    return Local(**at.fields({"publish": ("publish", listed(template_text(EVERYWHERE), '["plant/{thing}/#"]'))}))


def _check(settings: Settings, note: Note) -> None:
    for position, name in enumerate(settings.sections["local"].publish):
        note_if(note, f"local.publish[{position}]", topics.filter_problem(name, settings.mqtt.aws_limits))


SECTIONS = {"local": Section(
    _local, Local(), check=_check, fill=lambda local, fill: Local(tuple(fill(name) for name in local.publish)),
    uses=lambda local, thing: [Use(RETAIN, name) for name in local.publish])}
