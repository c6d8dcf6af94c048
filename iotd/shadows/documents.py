"""JSON of shadow documents: what differs and what lacks, the way the service computes it. Pure.

Source: AWS IoT Core developer guide, "Device Shadow service documents".
"""

from __future__ import annotations

import json
from collections.abc import Mapping

from iotd.vocabulary import Json


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


def size_of(section: Json) -> int:
    """Return how many bytes of a document the section takes."""
    return len(json.dumps(section, ensure_ascii=False, separators=(",", ":")).encode("utf-8")) if section else 0


def desired_of(state: Mapping[str, Json]) -> Mapping[str, Json]:
    """Return what a state desires, nothing where it says nothing that makes sense."""
    desired = state.get("desired")
    return desired if isinstance(desired, dict) else {}
