"""The mistakes that everyone makes in YAML, and what was meant. Pure."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence

import yaml

from iotd.errors import nearest
from iotd.vocabulary import Json

# What others call it, or what one looks for in another place.
_SYNONYMS = {"interval": "every", "period": "every", "ssid": "essid", "service": "unit", "client_id": "thing",
             "clientid": "thing", "broker": "host", "server": "host", "endpoint": "host", "user": "username"}
_PLACES = {"thing": "thing at the top of the file", "host": "host under mqtt", "essid": "essid under wifi"}

_WITHOUT_BLANK = r"\s*(?:- +)?([A-Za-z_]\w*):([^\s/].*)"  # not a URL
_MAP = "tag:yaml.org,2002:map"
_NULL = "tag:yaml.org,2002:null"
_MISREAD = {"tag:yaml.org,2002:bool", "tag:yaml.org,2002:int", "tag:yaml.org,2002:float"}


def meant_by(key: str, known: Iterable[str]) -> str:
    """Return what to write in the place of a key that is not known here."""
    names = list(known)
    synonym = _SYNONYMS.get(key.lower().replace("-", "_"))
    meant = synonym if synonym in names else None
    if synonym and not meant and synonym in _PLACES:
        return f"did you mean {_PLACES[synonym]}?"
    meant = meant or nearest(key, names)
    return f"did you mean {meant}?" if meant else f"known here are {', '.join(names)}"


def lacks_quotes(node: yaml.Node) -> str:
    """Return the placeholder that was written without quotes, so that YAML reads a mapping with one null; else nothing.
    """
    if not isinstance(node, yaml.MappingNode) or not node.flow_style or len(node.value) != 1 or node.tag != _MAP:
        return ""
    [(key, value)] = node.value
    is_bare = isinstance(key, yaml.ScalarNode) and value.tag == _NULL and not value.value
    return f"{{{key.value}}}" if is_bare and re.fullmatch(r"[\w.]+", key.value) else ""


def misread(node: yaml.Node, value: Json) -> bool:
    """Tell whether a plain scalar became something else than is written, as `off`, `1.10`, `01234` and `12:30` do."""
    return isinstance(node, yaml.ScalarNode) and node.tag in _MISREAD and json.dumps(value) != node.value


def blank_missing(node: yaml.Node) -> str:
    """Return what to say of a text in the place of a mapping whose colon has no blank behind it."""
    found = re.fullmatch(_WITHOUT_BLANK, node.value) if isinstance(node, yaml.ScalarNode) else None
    return f"; write {found[1]}: {found[2]}, with a blank behind the colon" if found else ""


def explained(error: yaml.MarkedYAMLError, lines: Sequence[str]) -> tuple[int, str]:
    """Return the line in which a mistake begins, from 1, and what it is."""
    at = error.problem_mark.line
    if error.context_mark is not None and "quoted scalar" in str(error.context):
        return error.context_mark.line + 1, "the quote that is opened here is never closed"
    if "\t" in "".join(lines[at:at + 1]):
        return at + 1, "it has a tab; indent with spaces"
    for line in _before(at, lines):
        if found := re.fullmatch(_WITHOUT_BLANK, lines[line]):
            return line + 1, f"a blank is missing behind the colon; write {found[1]}: {found[2]}"
    if error.context_mark is not None and "flow" in str(error.context):
        opened = error.context_mark.line
        if not "".join(lines[opened:opened + 1]).strip():  # the parser looked for what is to follow it
            opened = _previous(opened, lines)
        return opened + 1, "the bracket that is opened here is not closed, or an item is not " \
            "separated by a comma"
    if "block" in str(error.context) or "mapping values" in str(error.problem):
        if _indent(at, lines) != _indent(_previous(at, lines), lines):
            return at + 1, f"its indentation is another than that of its neighbours; {error.problem}"
    return at + 1, str(error.problem)


def _before(at: int, lines: Sequence[str]) -> list[int]:
    """Return the line of an error, and the one before it that says something."""
    return [line for line in (at, _previous(at, lines)) if 0 <= line < len(lines)]


def _previous(at: int, lines: Sequence[str]) -> int:
    return next((line for line in range(min(at, len(lines)) - 1, -1, -1)
                 if lines[line].strip() and not lines[line].lstrip().startswith("#")), -1)


def _indent(at: int, lines: Sequence[str]) -> int:
    return len(lines[at]) - len(lines[at].lstrip()) if 0 <= at < len(lines) else 0
