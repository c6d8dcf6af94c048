"""How one value stands: what it is, since when and how long, and whether it is missing. Pure."""

import json
import logging
import math
from typing import NamedTuple

from iotd.values.reading import Reading
from iotd.values.section import Value
from iotd.vocabulary import Entry, Json

NOT_YET = {"socket": "nothing told yet"}
SHOWN_BYTES = 512  # of JSON: what status.json has of a value, since it is written every few seconds
SHOWN_CHARACTERS = 80


class Standing(NamedTuple):
    """What is known of a value: `data`, or why there is none in `reason`.

    `at` is when it was measured, None before the first reading; it holds until `until`. `said` tells whether the log
    has named it as missing.
    """

    data: Json = None
    reason: str = "not read yet"
    at: float | None = None
    until: float = math.inf
    said: bool = False


def start(value: Value) -> Standing:
    """Return how a value stands that was never read."""
    return Standing(reason=NOT_YET.get(value.source, Standing().reason))


def taken(old: Standing, reading: Reading, now: float) -> tuple[Standing, Entry | None]:
    """Return how the value stands after a reading, and what the log should say of it."""
    value, at = reading.value, now - reading.age_s
    until = math.inf if reading.reason or value.max_age_s is None or not value.stands else at + value.max_age_s
    return _turned(old, Standing(reading.data, reading.reason, at, until), value)


def kept(old: Standing, value: Value, now: float) -> tuple[Standing, Entry | None]:
    """Return how the value stands by now: what is too old is no value any more."""
    if now < old.until or value.max_age_s is None:
        return old, None
    return _turned(old, old._replace(data=None, reason=f"older than {value.max_age_s:g} s", until=math.inf), value)


def differs(old: Json, new: Json) -> bool:
    """Tell whether the two are not the same as JSON: 1 is 1.0, and no true."""
    return isinstance(old, bool) is not isinstance(new, bool) or old != new


def shown(standing: Standing, now: float) -> dict[str, Json]:
    """Return what status.json has of it; a large value is shown by the beginning of its JSON."""
    text = json.dumps(standing.data, ensure_ascii=False)
    return {"value": standing.data if len(text) <= SHOWN_BYTES else f"{text[:SHOWN_BYTES]}…",
            "age_s": None if standing.at is None else round(now - standing.at, 1), "missing": standing.reason or None}


def sentence(name: str, standing: Standing, now: float) -> str:
    """Return what `iotd status` says of it."""
    if standing.reason or standing.at is None:
        return f"value {name}: none, {standing.reason}"
    text = json.dumps(standing.data, ensure_ascii=False)
    text = text if len(text) <= SHOWN_CHARACTERS else f"{text[:SHOWN_CHARACTERS]}…"
    return f"value {name}: {text}, {now - standing.at:.0f} s old"


def _turned(old: Standing, new: Standing, value: Value) -> tuple[Standing, Entry | None]:
    if new.reason:
        entry = None if old.said else Entry(
            logging.WARNING, "value.missing", f"{value.name} has no value: {new.reason}",
            {"value": value.name, "reason": new.reason})
    else:
        entry = Entry(logging.INFO, "value.restored", f"{value.name} has a value again",
                      {"value": value.name}) if old.said else None
    return new._replace(said=bool(new.reason)), entry
