"""JSON of shadow documents: what differs and what lacks, the way the service computes it. Pure.

Source: AWS IoT Core developer guide, "Device Shadow service documents".
"""

from __future__ import annotations

import json
from collections.abc import Mapping

from iotd.vocabulary import Json

MAX_BYTES = 8192  # of desired and reported together, without metadata
MAX_DEPTH = 8  # the highest of the three numbers that AWS documents


def lacking(wanted: Mapping[str, Json], present: Mapping[str, Json]) -> dict[str, Json]:
    """Return the part of `wanted` whose keys `present` does not have, at any depth; a null is a value that it has."""
    found = {}
    for key, value in wanted.items():
        if key not in present:
            if value is not None:
                found[key] = value
        elif isinstance(value, dict) and isinstance(present[key], dict):
            below = lacking(value, present[key])
            if below:
                found[key] = below
    return found


def difference(desired: Json, reported: Json) -> dict[str, Json]:
    """Return what is desired and not reported, the way the service computes a delta."""
    if not isinstance(desired, dict):
        return {}
    found = {}
    for key, value in desired.items():
        other = reported.get(key) if isinstance(reported, dict) else None
        if isinstance(value, dict) and isinstance(other, dict):
            below = difference(value, other)
            if below:
                found[key] = below
        elif not isinstance(reported, dict) or key not in reported or not same(value, other):
            found[key] = value
    return found


def same(one: Json, other: Json) -> bool:
    """Compare as JSON does: 1 equals 1.0, but never true."""
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(same, one, other))
    return isinstance(one, bool) == isinstance(other, bool) and bool(one == other)


def merged(old: Json, new: Mapping[str, Json]) -> dict[str, Json]:
    """Return `new` laid over `old` as the service does it: objects into each other, and a null takes its key out."""
    found = dict(old) if isinstance(old, dict) else {}
    for key, value in new.items():
        if value is None:
            found.pop(key, None)
        else:
            found[key] = merged(found.get(key), value) if isinstance(value, dict) else value
    return found


def size_of(section: Json) -> int:
    """Return how many bytes of a document the section takes."""
    text = json.dumps(section, ensure_ascii=False, separators=(",", ":")) if section else ""
    return len(text.encode("utf-8", "backslashreplace"))


def desired_of(state: Mapping[str, Json]) -> Mapping[str, Json]:
    """Return what a state desires, nothing where it says nothing that makes sense."""
    desired = state.get("desired")
    return desired if isinstance(desired, dict) else {}


def depth(value: Json, most: int) -> int:
    """Return how many lists and objects a value has inside each other, without recursion, `most` + 1 for any more."""
    level, layer = 0, [value]
    while level <= most:
        layer = [parent for parent in layer if isinstance(parent, (dict, list))]
        if not layer:
            return level
        layer = [child for parent in layer for child in (parent.values() if isinstance(parent, dict) else parent)]
        level += 1
    return level


def has_null_in_list(value: Json) -> bool:
    """Tell whether a list has a null, which the service refuses; one in an object only takes its key out."""
    if isinstance(value, dict):
        return any(map(has_null_in_list, value.values()))
    return isinstance(value, list) and any(child is None or has_null_in_list(child) for child in value)


def canonical(value: Json) -> tuple[str, str]:
    """Return the JSON text by which a value is compared, or what keeps it from being acted on."""
    if depth(value, MAX_DEPTH) > MAX_DEPTH:
        return "", f"it is nested deeper than {MAX_DEPTH} levels"
    try:
        text = json.dumps(value, ensure_ascii=False, sort_keys=True, allow_nan=False)
        size = len(text.encode("utf-8"))
    except ValueError:
        return "", "it is no JSON: a number that is none, or half a character"
    return (text, "") if size <= MAX_BYTES else ("", f"it has {size} bytes, at most {MAX_BYTES} are taken")


def alike(one: str, other: str) -> bool:
    """Compare two JSON texts by what they mean, as `same` does."""
    return one == other or same(json.loads(one), json.loads(other))


def is_json(text: Json) -> bool:
    """Tell whether this is the JSON text of something."""
    try:
        json.loads(text)
    except (TypeError, ValueError, RecursionError):
        return False
    return isinstance(text, str)
