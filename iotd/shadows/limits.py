"""What the shadow service would refuse of a section, key by key, by the rules that are known of it. Pure.

One key that it refuses would silence the whole shadow, so that key alone is left out.

Source: AWS IoT Core developer guide, "Device Shadow service documents" and "Device Shadow error messages"; the quotas.
"""

import json
from collections.abc import Mapping
from typing import NamedTuple

from iotd.shadows.documents import MAX_BYTES, MAX_DEPTH, depth, has_null_in_list, merged, size_of
from iotd.shadows.section import OWN_KEY
from iotd.vocabulary import Json

PAUSE_FIRST_S, PAUSE_MAX_S = 60.0, 3600.0  # before a key that the service has refused is tried again, doubling
MAX_HALVINGS = 32  # in one search for the key that the service refuses
MAX_AGAIN = 8  # keys that are tried again with one report


class Refusal(NamedTuple):
    """Why the service has refused a key, and when it is tried again."""

    reason: str
    again_at: float
    pause_s: float


def problem(key: str, value: Json) -> str:
    """Return why the service would refuse this under a key of a section, empty where it would not."""
    if depth(value, MAX_DEPTH - 1) >= MAX_DEPTH:
        return f"it is nested so that the shadow would be deeper than {MAX_DEPTH} levels"
    if has_null_in_list(value):
        return "a list in it has a null, which a shadow cannot hold"
    try:
        size = len(json.dumps({key: value}, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode("utf-8"))
    except ValueError:
        return "it is no JSON: a number that is none, or half a character"
    return f"it has {size} bytes, a whole shadow at most {MAX_BYTES}" if size > MAX_BYTES else ""


def fitted(
    document: Mapping[str, Json], section: str, content: Mapping[str, Json]
) -> tuple[dict[str, Json], dict[str, str]]:
    """Return what of the content may be said under a section of a shadow that is `document`, and why not the rest.

    Where all together are too large the largest go first, and what iotd reports of itself last. What the shadow still
    has under a key that cannot be reported now is taken out of it.
    """
    left_out = {key: why for key, value in content.items() if (why := problem(key, value))}
    other, here = (document.get(name) for name in ("desired" if section == "reported" else "reported", section))
    old = here if isinstance(here, dict) else {}
    kept = {key: value for key, value in content.items() if key not in left_out}
    if section == "reported":
        kept.update({key: None for key in left_out if key in old})
    while (total := size_of(other) + size_of(merged(old, kept))) > MAX_BYTES:
        sizes = {key: size_of({key: value}) for key, value in kept.items() if value is not None}
        if not sizes:
            break
        key = max(sizes, key=lambda key: (key != OWN_KEY, sizes[key]))
        left_out[key] = f"it has {sizes[key]} bytes, and all of the shadow would have {total}, at most {MAX_BYTES}"
        del kept[key]
        if section == "reported" and key in old:
            kept[key] = None
    return kept, left_out


def refused(old: Refusal | None, code: Json, text: str, now: float) -> Refusal:
    """Return the refusal of one key by the service, which is tried again after a growing pause."""
    pause_s = PAUSE_FIRST_S if old is None else min(PAUSE_MAX_S, 2 * old.pause_s)
    return Refusal(f"the service refuses it: {code} {text}".strip(), now + pause_s, pause_s)


def halves(content: Mapping[str, Json]) -> tuple[dict[str, Json], dict[str, Json]]:
    """Return the smaller and the larger keys, so that of what is too large together the larger are found guilty."""
    keys = sorted(content, key=lambda key: (key == OWN_KEY) - size_of({key: content[key]}), reverse=True)
    middle = len(keys) // 2
    return {key: content[key] for key in keys[:middle]}, {key: content[key] for key in keys[middle:]}
