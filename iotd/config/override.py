"""Settings that the configuration has opened to the cloud: which there are, and what a value from there makes of them.

Each section says which of its settings can be opened: publish[0].every, log.level and so on. Pure. What a value leads
to is judged by the rules of the file afterwards, all of them.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

from iotd.config.base import value_of, with_value
from iotd.config.parse import sections
from iotd.config.section import Setting
from iotd.config.settings import Settings
from iotd.vocabulary import Json

Found = tuple[str, Setting, re.Match[str]]


def problem(name: str, settings: Settings) -> str | None:
    """Return why a setting cannot be opened to the cloud, None where it can."""
    found = _find(name, settings)
    if found is None:
        names = [setting.name for _, setting in _settable(settings)]
        return f"is no setting that can be opened to the cloud; those are {', '.join(names[:-1])} and {names[-1]}"
    key, setting, match = found
    return setting.problem(value_of(settings, key), match)


def applied(settings: Settings, values: Mapping[str, Json]) -> Settings:
    """Return the settings with these values in the place of the file's. Raises ValueError for one of no use."""
    for name, value in values.items():
        found = _find(name, settings)
        lacking = problem(name, settings)
        if lacking or found is None:
            raise ValueError(lacking)
        key, setting, match = found
        settings = with_value(settings, key, setting.put(value_of(settings, key), match, value))
    return settings


def origins(settings: Settings, opened: Mapping[str, Json]) -> dict[str, dict[str, Json]]:
    """Return the effective value of each setting in `opened`, and where it comes from: "file" or "shadow".

    `settings` are those in force; `opened` holds every opened setting, with the cloud's value or None.
    """
    origin = {}
    for name, value in opened.items():
        found = _find(name, settings)
        if found is not None and problem(name, settings) is None:
            key, setting, match = found
            origin[name] = {"value": setting.get(value_of(settings, key), match) if value is None else value,
                            "from": "file" if value is None else "shadow"}
    return origin


def _settable(settings: Settings) -> Iterator[tuple[str, Setting]]:
    for key, section in sections(settings):
        for setting in section.settable:
            yield key, setting


def _find(name: str, settings: Settings) -> Found | None:
    for key, setting in _settable(settings):
        match = re.fullmatch(setting.pattern, name[len(key):]) if name.startswith(key) else None
        if match:
            return key, setting, match
    return None
