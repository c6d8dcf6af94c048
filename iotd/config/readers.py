"""Typed readers for the values of a configuration: what is right, and what to say of anything else."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from typing import Any

from iotd.config import template
from iotd.config.document import Cursor, Reader, Wrong, check_text, quoted
from iotd.errors import nearest
from iotd.vocabulary import Json

_DURATION = r"([0-9]{1,9})(ms|s|m|h|d)"
_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_SIZE = r"([0-9]{1,9})(KB|MB|GB)"
_BYTES = {"KB": 1024, "MB": 1024 ** 2, "GB": 1024 ** 3}
LONGEST_S = 3650 * 86400.0  # what threads can wait for at once ends not far above
LONGEST_TIMEOUT_S = 86400.0  # what hangs for a day hangs


def text(at: Cursor) -> str:
    """Read a text that is not empty."""
    value = at.scalar()
    if not isinstance(value, str):
        raise Wrong(f"expected text, found {at.found()}" + _quotes(at))
    if not value:
        raise Wrong("is empty; expected text")
    check_text(value)
    return value


def boolean(at: Cursor) -> bool:
    """Read true or false."""
    value = at.scalar()
    if not isinstance(value, bool):
        raise Wrong(f"expected true or false, found {at.found()}")
    return value


def whole(low: int, high: int, others: Mapping[int, str] = {}) -> Reader[int]:
    """Return a reader of whole numbers from `low` to `high`; `others` says why one that might be meant is not."""
    def read(at: Cursor) -> int:
        value = at.scalar()
        # Written in any other way, as 010 or 1:30, it is not what it seems: YAML 1.1 reads 8 and 90.
        if type(value) is not int or not low <= value <= high or at.found() != str(value):
            meant = re.match(r"0*([0-9]{1,18})(?![\w.])", value) if isinstance(value, str) else None
            write = f"; write {meant[1]}" if meant and low <= int(meant[1]) <= high else others.get(value, "")
            raise Wrong(f"expected a whole number from {low} to {high}, found {at.found()}{write}")
        return value
    return read


def number(at: Cursor) -> float:
    """Read a number, whole or not."""
    value = at.scalar()
    if type(value) is int or type(value) is float and math.isfinite(value):
        return value
    raise Wrong(f"expected a number such as 20 or 0.5, found {at.found()}")


def choice(*names: str) -> Reader[str]:
    """Return a reader of one of `names`."""
    def read(at: Cursor) -> str:
        value = at.scalar()
        if value not in names:
            meant = nearest(str(value), names)
            hint = f"; did you mean {meant}?" if meant else ""
            raise Wrong(f"expected {_or(names)}, found {at.found()}{hint}")
        return str(value)
    return read


def duration(at: Cursor) -> float:
    """Read a duration above zero, in seconds."""
    value = duration_or_zero(at)
    if value == 0:
        raise Wrong(f"expected a duration above zero, found {at.found()}")
    return value


def duration_or_zero(at: Cursor) -> float:
    """Read a duration, in seconds."""
    value = at.scalar()
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        raise Wrong(f"expected a duration with its unit, found {at.found()}; write {value}s")
    seconds = seconds_of(value)
    if seconds is None:
        raise Wrong(f"expected a duration such as 500ms, 30s, 2m, 1h or 1d, found {at.found()}")
    if seconds > LONGEST_S:
        raise Wrong(f"expected a duration of at most 3650d, found {at.found()}")
    return seconds


def seconds_of(written: Json) -> float | None:
    """Return how long a text such as 30s means, None for anything else."""
    match = re.fullmatch(_DURATION, written) if isinstance(written, str) else None
    return int(match[1]) * _SECONDS[match[2]] if match else None


def timeout(at: Cursor) -> float:
    """Read a duration after which something is given up, in seconds."""
    seconds = duration(at)
    if seconds > LONGEST_TIMEOUT_S:
        raise Wrong(f"expected a timeout of at most 1d, found {at.found()}")
    return seconds


def size(at: Cursor) -> int:
    """Read a size above zero, in bytes; 1 KB has 1024."""
    value = at.scalar()
    match = re.fullmatch(_SIZE, value) if isinstance(value, str) else None
    if not match or not int(match[1]):
        raise Wrong(f"expected a size above zero such as 64KB, 64MB or 1GB, found {at.found()}")
    return int(match[1]) * _BYTES[match[2]]


def qos(at: Cursor) -> int:
    """Read 0 or 1."""
    return whole(0, 1, {2: "; AWS IoT has no QoS 2, and iotd makes doubles harmless rather than impossible"})(at)


def file_path(at: Cursor) -> str:
    """Read a path, in which nothing is expanded."""
    written = text(at)
    if unexpanded := _unexpanded(written):
        raise Wrong(unexpanded)
    return written


def path(at: Cursor) -> str:
    """Read an absolute path."""
    written = file_path(at)
    if not written.startswith("/"):
        raise Wrong(f"expected a path from /, found {quoted(written)}")
    return written


def listed(reader: Reader[Any], example: str) -> Reader[tuple[Any, ...]]:
    """Return a reader of a list whose key may stand there with nothing behind it; `example` shows a right one."""
    return lambda at: () if at.is_empty() else at.items(reader, example)


def optional(reader: Reader[Any]) -> Reader[Any]:
    """Return a reader that takes nothing for None."""
    return lambda at: None if at.is_empty() else reader(at)


def template_text(known: frozenset[str]) -> Reader[str]:
    """Return a reader of a text whose placeholders are `known`, and that is to be this device's own."""
    def read(at: Cursor) -> str:
        written = text(at)
        _check_template(written, known)
        problem = identity_problem(written, at.document.lacking)
        if problem:
            raise Wrong(problem)
        return written
    return read


def identity_problem(written: str, lacking: Mapping[str, str]) -> str | None:
    """Return why a template makes the same text on many hosts, since all its placeholders are `lacking`; a serial
    number that is lacking is a problem in any company, since it was written to tell boards apart.
    """
    names = template.placeholders(written)
    lacks = names & lacking.keys()
    if not lacks or lacks != names and "cpu_serial" not in lacks:
        return None
    return f"{lacking[min(lacks)]}, or write this device's own name here"


def template_mapping(known: frozenset[str]) -> Reader[dict[str, Json]]:
    """Return a reader of a mapping with placeholders in its texts: `known` ones, and those that the file defines."""
    def read(at: Cursor) -> dict[str, Json]:
        tree = at.tree(lambda written: _check_template(written, known, at.document.defined))
        if not isinstance(tree, dict):
            raise Wrong(f"expected a mapping of keys, found {at.found()}")
        return tree
    return read


def template_payload(known: frozenset[str]) -> Reader[Json]:
    """Return a reader of what a message may be: a mapping, a text or a number; its texts with `known` placeholders,
    and those that the file defines.
    """
    def read(at: Cursor) -> Json:
        tree = at.tree(lambda written: _check_template(written, known, at.document.defined))
        if tree == "":
            raise Wrong("is empty; a message without payload takes a retained one away, and says nothing else")
        if not isinstance(tree, (dict, str, int, float)) or isinstance(tree, bool):
            raise Wrong(f"expected a mapping of keys, a text or a number, found {at.found()}")
        return tree
    return read


def command(known: frozenset[str]) -> Reader[tuple[str, ...]]:
    """Return a reader of a command as a list of arguments, whose placeholders are `known`; none: braces are braces."""
    def argument(at: Cursor) -> str:
        written = at.scalar()
        if not isinstance(written, str):
            raise Wrong(f"expected text, found {at.found()}; put it in quotes")
        if known:
            _check_template(written, known)
        if unexpanded := _unexpanded(written, "~"):
            raise Wrong(unexpanded)
        if "\0" in written:
            raise Wrong("has a NUL character, which no argument can have")
        return written

    def read(at: Cursor) -> tuple[str, ...]:
        arguments = at.items(argument, "[/usr/bin/program, argument]; there is no shell")
        if not arguments or not arguments[0]:
            raise Wrong("is empty; expected a program and its arguments")
        if unexpanded := _unexpanded(arguments[0]):
            raise Wrong(unexpanded)
        if known and template.placeholders(arguments[0]):
            raise Wrong(f"{quoted(arguments[0])} would let others choose the program; write it out")
        return arguments
    return read


def _check_template(written: str, known: frozenset[str], defined: Iterable[str] = ()) -> None:
    try:
        template.check(written, known, defined)
    except template.TemplateError as error:
        raise Wrong(str(error)) from None


def _unexpanded(written: str, marks: str = "~$") -> str:
    """Return what to say of a path that only a shell would find, since it begins with ~ or a variable."""
    if not re.match(f"[{marks}][A-Za-z{{_-]*[A-Za-z}}0-9_-]*(/|$)", written):
        return ""
    return f"expected a path from /, found {quoted(written)}; there is no shell that would expand {written[0]}, and " \
        "iotd runs as a user of its own: write it whole"


def _quotes(at: Cursor) -> str:
    if at.node.id != "scalar":
        return ""
    if not at.node.value:
        return "; one that begins with # or & has to stand in quotes"
    return f"; put it in quotes to mean the text: {quoted(at.node.value)}"


def _or(names: tuple[str, ...]) -> str:
    return " or ".join(filter(None, (", ".join(names[:-1]), names[-1])))
