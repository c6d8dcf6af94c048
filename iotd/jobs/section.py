"""The section `jobs`: what a job may have done on this device. What is not opened here is rejected."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import NamedTuple

from iotd.config import template
from iotd.config.document import Cursor, Wrong, quoted
from iotd.config.readers import boolean, command, listed, text, timeout
from iotd.config.section import PUBLISH, SUBSCRIBE, Named, Section, Use
from iotd.config.settings import Settings
from iotd.jobs.names import PATTERN, is_unit

# What follows the topic of all jobs of the thing: what is subscribed, and what is published (AWS IoT "Jobs device MQTT
# API operations").
HEARD = ("notify-next", "+/get/accepted", "+/get/rejected", "+/update/accepted", "+/update/rejected")
SAID = ("+/get", "+/update")
BUILT_IN = ("reboot", "restart", "upgrade", "install", "bundle")
ARGUMENTS = "args"


class Handler(NamedTuple):
    """A command that jobs can have run by its name; in the place of `{args}` come the arguments of the job."""

    command: tuple[str, ...]
    timeout_s: float = 300.0


class Jobs(NamedTuple):
    """`restart` are units, `upgrade` patterns of packages; `commands`: a job may bring a command of its own."""

    handlers: Mapping[str, Handler] = {}
    reboot: bool = False
    restart: tuple[str, ...] = ()
    upgrade: tuple[str, ...] = ()
    bundle: bool = False
    commands: bool = False


def prefix(thing: str) -> str:
    """Return what all topics begin with."""
    return f"$aws/things/{thing}/jobs"


def jobs(at: Cursor) -> Jobs:
    """Read the section."""
    return Jobs(**at.fields({
        "handlers": ("handlers", _handlers),
        "reboot": ("reboot", boolean),
        "restart": ("restart", listed(_unit, "[kiosk.service]")),
        "upgrade": ("upgrade", listed(_pattern, "[iotd]")),
        "bundle": ("bundle", boolean),
        "commands": ("commands", boolean),
    }))


def _handlers(at: Cursor) -> dict[str, Handler]:
    found: dict[str, Handler] = {}
    for name, child in () if at.is_empty() else at.entries():
        if name in BUILT_IN:
            child.note(f"{name} is an operation of iotd's own; give the handler another name")
        elif not re.fullmatch(r"[A-Za-z0-9_.-]{1,64}", name):
            child.note(f"expected a name of A to Z, a to z, 0 to 9, _, . and -, found {quoted(name)}")
        else:
            found.update((name, handler) for handler in child.read(_handler))
    return found


def _handler(at: Cursor) -> Handler:
    fields = at.fields({"run": ("command", _command), "timeout": ("timeout_s", timeout)}, run=("",))
    return Handler(**fields)


def _command(at: Cursor) -> tuple[str, ...]:
    found = command(frozenset({ARGUMENTS}))(at)
    for argument in found:
        if template.placeholders(argument) and argument != f"{{{ARGUMENTS}}}":
            raise Wrong(f"{quoted(argument)}: {{{ARGUMENTS}}} stands for any number of arguments, "
                        "so it can only be an argument by itself")
    return found


def _unit(at: Cursor) -> str:
    name = text(at)
    if not is_unit(name):
        raise Wrong(f"expected the whole name of a unit such as kiosk.service, found {quoted(name)}")
    return name


def _pattern(at: Cursor) -> str:
    name = text(at)
    if not PATTERN.fullmatch(name):
        raise Wrong(f"expected the name of a package, or a pattern such as kiosk*, found {quoted(name)}")
    if not name.strip("*?"):
        raise Wrong(f"{quoted(name)} would let a job install anything; name the packages")
    return name


def _names(settings: Settings) -> list[Named]:
    return [Named(f"jobs.handlers.{name}.run", handler.command, True)
            for name, handler in settings.sections["jobs"].handlers.items()]


SECTIONS = {"jobs": Section(
    jobs, None, filters=lambda section: len(HEARD), names=_names,
    uses=lambda section, thing: [*(Use(SUBSCRIBE, f"{prefix(thing)}/{end}") for end in HEARD),
                                 *(Use(PUBLISH, f"{prefix(thing)}/{end}") for end in SAID)])}
