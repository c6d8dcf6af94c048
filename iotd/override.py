"""Settings that the configuration has opened to the cloud: which there are, and what a value from there makes of them.

    publish[0].every        a duration such as "30s", as in the file
    publish[0].payload.KEY  a text, taken as it is: braces in it are no placeholders
    shadows[0].every        a duration
    log.level               debug, info, warning or error

Pure. What a value leads to is judged by the rules of the file afterwards, all of them.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from iotd.settings import Json, Log, Settings

SHORTEST_S = 1.0

_EVERY = re.compile(r"(publish|shadows)\[([0-9]{1,4})\]\.every")
_PAYLOAD = re.compile(r"publish\[([0-9]{1,4})\]\.payload\.(.+)", re.DOTALL)
_DURATION = re.compile(r"([0-9]{1,9})(ms|s|m|h|d)")
_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_LONGEST_S = 3650 * 86400.0
_LEVELS = ("debug", "info", "warning", "error")


def problem(setting: str, settings: Settings) -> str | None:
    """Return why a setting cannot be opened to the cloud, None where it can."""
    every, payload = _EVERY.fullmatch(setting), _PAYLOAD.fullmatch(setting)
    if every:
        return _missing(every[1], int(every[2]), len(getattr(settings, every[1])))
    if payload:
        position, key = int(payload[1]), payload[2]
        lacking = _missing("publish", position, len(settings.publish))
        if lacking:
            return lacking
        if not isinstance(settings.publish[position].payload.get(key), str):
            return f"publish[{position}].payload has no text under the key {key!r}"
        return None
    if setting == "log.level":
        return None
    return ("is no setting that can be opened to the cloud; those are publish[0].every, publish[0].payload.KEY, "
            "shadows[0].every and log.level")


def applied(settings: Settings, values: Mapping[str, Json]) -> Settings:
    """Return the settings with these values in the place of the file's. Raises ValueError for one of no use."""
    for setting, value in values.items():
        lacking = problem(setting, settings)
        if lacking:
            raise ValueError(lacking)
        settings = _with(settings, setting, value)
    return settings


def origins(settings: Settings, opened: Mapping[str, Json]) -> dict[str, dict[str, Json]]:
    """Return the effective value of each setting in `opened`, and where it comes from: "file" or "shadow".

    `settings` are those in force; `opened` holds every opened setting, with the cloud's value or None.
    """
    return {setting: {"value": _value(settings, setting) if value is None else value,
                      "from": "file" if value is None else "shadow"}
            for setting, value in opened.items() if problem(setting, settings) is None}


def _with(settings: Settings, setting: str, value: Json) -> Settings:
    every, payload = _EVERY.fullmatch(setting), _PAYLOAD.fullmatch(setting)
    if every and every[1] == "publish":
        entry = settings.publish[int(every[2])]._replace(every_s=_duration(value))
        return settings._replace(publish=_put(settings.publish, int(every[2]), entry))
    if every:
        shadow = settings.shadows[int(every[2])]._replace(every_s=_duration(value))
        return settings._replace(shadows=_put(settings.shadows, int(every[2]), shadow))
    if payload:
        entry = settings.publish[int(payload[1])]
        entry = entry._replace(payload={**entry.payload, payload[2]: _literal(value)})
        return settings._replace(publish=_put(settings.publish, int(payload[1]), entry))
    if value not in _LEVELS or not isinstance(value, str):
        raise ValueError(f"expected {', '.join(_LEVELS[:-1])} or {_LEVELS[-1]}")
    return settings._replace(log=Log(value, settings.log.format))


def _value(settings: Settings, setting: str) -> Json:
    every, payload = _EVERY.fullmatch(setting), _PAYLOAD.fullmatch(setting)
    if every:
        return f"{getattr(settings, every[1])[int(every[2])].every_s:g}s"
    return settings.publish[int(payload[1])].payload[payload[2]] if payload else settings.log.level


def _duration(value: Json) -> float:
    match = _DURATION.fullmatch(value) if isinstance(value, str) else None
    if not match:
        raise ValueError("expected a duration in quotes with its unit, such as \"30s\"")
    seconds = int(match[1]) * _SECONDS[match[2]]
    if not SHORTEST_S <= seconds <= _LONGEST_S:
        raise ValueError(f"expected a duration from {SHORTEST_S:g}s to 3650d")
    return seconds


def _literal(value: Json) -> str:
    """Return a text that the template will write as it is."""
    if not isinstance(value, str):
        raise ValueError("expected a text")
    return value.replace("{", "{{").replace("}", "}}")


def _missing(section: str, position: int, count: int) -> str | None:
    return None if position < count else f"{section} has no item {position}; the first is {section}[0]"


def _put(entries: tuple[object, ...], position: int, entry: object) -> tuple:  # type: ignore[type-arg]
    return (*entries[:position], entry, *entries[position + 1:])
