"""The section `values`: what is measured, how it is read, and what is made of it."""

import re
from collections.abc import Iterator
from typing import Any, NamedTuple

from iotd.config.document import Cursor, Wrong
from iotd.config.readers import boolean, choice, command, duration, number, path, timeout, whole
from iotd.config.section import Named, Section
from iotd.config.settings import Settings
from iotd.config.template import REPORT

FORMS = ("auto", "number", "json", "text")
SOURCES = ("file", "command", "socket")
MAX_DECIMALS = 15
# A file there is answered by a driver, which may take a second (1-wire) or hang; any other file is there at once.
OF_DRIVERS = "/sys/"
NAME_CHARACTERS = 64


class Value(NamedTuple):
    """One value. `source` is file, command or socket; `subject` is the path or the arguments.

    Without `every_s` it is read for each message that names it. `form` is one of FORMS. A number becomes number × scale
    + offset, rounded to so many decimals.
    """

    name: str
    source: str
    subject: str | tuple[str, ...] = ""
    timeout_s: float = 5.0
    every_s: float | None = None
    max_age_s: float | None = None
    form: str = "auto"
    scale: float | None = None
    offset: float | None = None
    decimals: int | None = None

    @property
    def is_scaled(self) -> bool:
        """Whether it has to be a number, since something is made of that."""
        return (self.scale, self.offset, self.decimals) != (None, None, None)

    @property
    def may_wait(self) -> bool:
        """Whether to read it may keep its reader waiting."""
        return self.source == "command" or str(self.subject).startswith(OF_DRIVERS)

    @property
    def stands(self) -> bool:
        """Whether it stands from one reading to the next, and a change of it is noticed."""
        return self.every_s is not None or self.source == "socket"


def _values(at: Cursor) -> tuple[Value, ...]:
    if at.is_empty():
        return ()
    found: list[Value] = []
    for name, child in at.entries():
        if not re.fullmatch("[a-z][a-z0-9_]*", name) or len(name) > NAME_CHARACTERS:
            child.note(f"expected a name of a-z, 0-9 and _ that begins with a letter, of at most {NAME_CHARACTERS}")
        elif name in REPORT:
            child.note(f"{{{name}}} is a placeholder of iotd's own; choose another name")
        else:
            # Known from here on, even where the rest is wrong: that it is named elsewhere is no mistake of its own.
            child.document.defined[name] = not child.keys().isdisjoint(("every", "socket"))
            found += child.read(lambda below: _value(name, below))
    return tuple(found)


def _value(name: str, at: Cursor) -> Value:
    fields = at.fields({
        "file": ("file", path),
        "command": ("command", command(frozenset())),
        "socket": ("socket", _true),
        "timeout": ("timeout_s", timeout),
        "every": ("every_s", duration),
        "max_age": ("max_age_s", duration),
        "as": ("form", choice(*FORMS)),
        "scale": ("scale", number),
        "offset": ("offset", number),
        "round": ("decimals", whole(0, MAX_DECIMALS)),
    })
    written = at.keys()
    sources = [source for source in SOURCES if source in written]
    if len(sources) != 1:
        if not at.is_mapping() or not sources and written - {"timeout", "every", "max_age", "as", "scale", "offset",
                                                             "round"}:
            return Value(name, "socket")  # its problem is noted already, and may be meant for the source
        raise Wrong(f"expected one of file, command or socket, found {' and '.join(sources) or 'none'}")
    [source] = sources
    _check_together(source, written, fields)
    subject: Any = fields.pop(source, None)  # None: its problem is noted already
    for other in SOURCES:
        fields.pop(other, None)
    return Value(name, source, "" if source == "socket" or subject is None else subject, **fields)


def _check_together(source: str, written: set[str], fields: dict[str, Any]) -> None:
    if "timeout" in written and source != "command":
        raise Wrong("timeout is for a command")
    if "max_age" in written and source == "command":
        raise Wrong("max_age is for a file or a socket; a command says how it is when it runs")
    if "every" in written and source == "socket":
        raise Wrong("every is for a file or a command; what comes by the socket is told by programs")
    scaling = [key for key in ("scale", "offset", "round") if key in written]
    if scaling and fields.get("form") == "text":
        raise Wrong(f"{scaling[0]} is for numbers, and as: text makes none")


def _true(at: Cursor) -> bool:
    if not boolean(at):
        raise Wrong("expected true; or leave it out and write file or command")
    return True


def _names(settings: Settings) -> Iterator[Named]:
    for value in settings.sections["values"]:
        words = (value.subject,) if isinstance(value.subject, str) else value.subject
        if value.source != "socket":
            yield Named(f"values.{value.name}.{value.source}", words, value.source == "command")


SECTIONS = {"values": Section(_values, names=_names, of_host=True)}
