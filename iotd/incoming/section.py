"""The section `subscribe`: whose messages are taken, and what is done with them."""

from collections.abc import Sequence
from typing import NamedTuple

from iotd.config.document import Cursor, Wrong, quoted
from iotd.config.readers import boolean, command, listed, qos, template_text, timeout
from iotd.config.section import SUBSCRIBE, Named, Note, Section, Use, note_if
from iotd.config.settings import Settings
from iotd.config.template import EVERYWHERE
from iotd.mqtt import topics


class Subscription(NamedTuple):
    """One topic filter. `command` is run for its messages, where it is not empty; `retained`: for retained ones too."""

    filter: str
    qos: int = 1
    command: tuple[str, ...] = ()
    timeout_s: float = 30.0
    retained: bool = False
    log: bool = True


def _subscription(at: Cursor) -> Subscription:
    fields = at.fields({
        "topic": ("filter", template_text(EVERYWHERE)),
        "qos": ("qos", qos),
        "run": ("command", command(frozenset({"topic", "payload"}))),
        "timeout": ("timeout_s", timeout),
        "retained": ("retained", boolean),
        "log": ("log", boolean),
    }, topic="")
    for key in ("timeout", "retained"):
        if key in at.keys() and "run" not in at.keys():
            raise Wrong(f"{key} is for run; without a command it says nothing")
    return Subscription(**fields)


def _check(settings: Settings, note: Note) -> None:
    first: dict[str, int] = {}
    for position, entry in enumerate(settings.sections["subscribe"]):
        key = f"subscribe[{position}].topic"
        note_if(note, key, topics.filter_problem(entry.filter, settings.mqtt.aws_limits))
        if first.setdefault(entry.filter, position) != position:
            note(key, f"{quoted(entry.filter)} is already subscribe[{first[entry.filter]}]; keep one of the two")


def _names(settings: Settings) -> list[Named]:
    return [Named(f"subscribe[{position}].run", entry.command, True)
            for position, entry in enumerate(settings.sections["subscribe"]) if entry.command]


def _advise(settings: Settings, others: Sequence[Use], note: Note) -> None:
    """Note a subscription that takes what this device itself publishes. A topic that its section subscribes as well,
    as presence does, is meant to come back; a filter of what programs may publish says nothing of what they do.
    """
    heard = {use.filter for use in others if use.verb == SUBSCRIBE}
    said = [use.filter for use in others
            if use.verb != SUBSCRIBE and use.filter not in heard and not set(use.filter) & set("+#")]
    for position, entry in enumerate(settings.sections["subscribe"]):
        for own in (topic for topic in said if topics.matches(entry.filter, topic)):
            where = "" if own == entry.filter else f" on {quoted(own)}"
            note(f"subscribe[{position}].topic",
                 f"{quoted(entry.filter)} takes what this device itself publishes{where}: each message comes back, and "
                 "is paid twice where messages cost; subscribe what others publish")
            break


SECTIONS = {"subscribe": Section(
    listed(_subscription, "- topic: …"), (), check=_check, filters=len, names=_names,
    uses=lambda entries, thing: [Use(SUBSCRIBE, entry.filter) for entry in entries],
    fill=lambda entries, fill: tuple(entry._replace(filter=fill(entry.filter)) for entry in entries), advise=_advise)}
