"""The file bridge: other programs on this host join a shadow by files, without MQTT.

What lies in `reported.d/*.json` appears in the reported state, each file one JSON object; of two that name the same
key the file later in the alphabet wins, and a key or a file that is taken away is taken out of the shadow: what an
earlier boot's files said, once the programs have had the time to say it again. What is desired appears as
`desired.json`. A program writes beside its file (a name that does not end in .json) and renames.

Looked at whenever a report is due, and a file is read again only if its inode, size or time has changed: that costs no
wake-up of its own, and what is measured travels with the next report anyway.

The directory is made with mode 0755, so that root's programs alone may write; whom else to let in is the
administrator's decision (tmpfiles.d(5)). Not by membership in the group iotd: that one reads the private key.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping

from iotd.shadows import documents
from iotd.shadows.folder import Folder, Key
from iotd.vocabulary import Json

MAX_FILES = 32
MAX_BYTES = 4096  # of all files together: half of a shadow
MAX_REMEMBERED = 2 * MAX_BYTES  # with what has been taken away
MAX_DEPTH = 4  # AWS IoT is sure to take five, and the shadow itself is one
DESIRED = "desired.json"
SETTLED_S = 900.0  # after a boot, by which every program has written its file

_TOO_DEEP = f"is nested deeper than {MAX_DEPTH} levels"


class Bridge:
    """The two ends, in the folder; used from one thread. `left` are the `keys` of an earlier run."""

    def __init__(self, folder: Folder, left: Mapping[str, Json]) -> None:
        self._folder = folder
        self._left = _shape(left)
        self._files: dict[str, tuple[Key, dict[str, Json] | None, str]] = {}
        self._named: dict[str, str] = {}
        self._written = b""
        self._last: dict[str, Json] = {}

    @property
    def keys(self) -> dict[str, Json]:
        """Return what stands in the shadow or has to be taken out of it: its keys, each with null."""
        return _shape(_instead(self._left, self._last))

    def open(self) -> None:
        """Make the directory where there is none yet. Raises OSError."""
        self._folder.open()

    def reported(self, own: frozenset[str], uptime_s: float) -> tuple[dict[str, Json], dict[str, str]]:
        """Return what the files report, with null for what they did before, and the files newly found bad with why.

        `own` are the keys that iotd reports itself; a file cannot take their place.
        """
        if uptime_s >= SETTLED_S:
            self._last, self._left = _instead(self._left, self._last), {}
        problems: dict[str, str] = {}
        merged: dict[str, Json] = {}
        room = MAX_BYTES
        for name in self._names(problems):
            content, problem = self._content(name)
            taken = sorted(own.intersection(content))
            room -= len(_text(content))
            if room < 0 and not problem:
                problem = f"there are more than {MAX_BYTES} bytes in the files together; this one is left out"
                room += len(_text(content))
                content = {}
            elif taken:
                problem = f"{taken[0]} is reported by iotd itself; it is left out"
            if problem:
                problems[name] = problem
            merged = documents.merged(merged, {key: value for key, value in content.items() if key not in own})
        news = {_shown(name): why for name, why in problems.items() if self._named.get(name) != why}
        self._named = problems
        self._last = found = _instead(self._last, merged)
        if len(_text(found)) > MAX_REMEMBERED:  # a program that invents keys without end: what is gone is said once
            self._last = merged
        return found, news

    def taken(self, reported: Mapping[str, Json]) -> None:
        """The service has taken the newest report: what that took out of the shadow is out of it."""
        self._last = _without_gone(self._last, reported)

    def desired(self, state: Json) -> None:
        """Let programs read what is desired, in one step, where it differs from the last time. Raises OSError."""
        text = json.dumps(state, ensure_ascii=False).encode("utf-8", "backslashreplace")
        if text != self._written:  # not by value: to Python 0 is False
            self._folder.write(DESIRED, text, 0o644)
            self._written = text

    def _names(self, problems: dict[str, str]) -> list[str]:
        """Return the files to read in the order of their names; those beyond the bound are named."""
        try:
            names = sorted(name for name in self._folder.names()
                           if name.endswith(".json") and not name.startswith("."))
        except OSError as error:
            problems[""] = f"the directory cannot be read: {error.strerror}"
            return []
        for name in names[MAX_FILES:][:1]:
            problems[name] = f"there are more than {MAX_FILES} files; this one and what follows is left out"
        self._files = {name: known for name, known in self._files.items() if name in names}
        return names[:MAX_FILES]

    def _content(self, name: str) -> tuple[dict[str, Json], str]:
        try:
            key = self._folder.key(name)
            if name not in self._files or self._files[name][0] != key:
                self._files[name] = (key, *_object(self._folder.read(name, MAX_BYTES), MAX_BYTES))
        except OSError as error:
            self._files.pop(name, None)
            return {}, f"cannot be read: {error.strerror}"
        _, content, problem = self._files[name]
        return content or {}, problem


def _object(data: bytes, max_bytes: int) -> tuple[dict[str, Json] | None, str]:
    """Return the JSON object in the bytes, or None and what is wrong with it."""
    if len(data) > max_bytes:
        return None, f"is larger than {max_bytes} bytes"
    try:
        value = json.loads(data)
        _text(value)
    except ValueError as error:
        return None, f"is no JSON: {error}"[:120]
    except RecursionError:
        return None, _TOO_DEEP
    if not isinstance(value, dict):
        return None, f"is a JSON {type(value).__name__}, expected an object"
    if documents.depth(value, MAX_DEPTH) > MAX_DEPTH:
        return None, _TOO_DEEP
    return _without_null(value), ""


def _instead(old: dict[str, Json], new: dict[str, Json]) -> dict[str, Json]:
    """Return `new` with null for what only `old` has, which takes that out of the shadow."""
    changed: dict[str, Json] = {key: None for key in old if key not in new}
    for key, value in new.items():
        before = old.get(key)
        changed[key] = _instead(before, value) if isinstance(before, dict) and isinstance(value, dict) else value
    return changed


def _without_gone(tree: Mapping[str, Json], taken: Mapping[str, Json]) -> dict[str, Json]:
    """Return the tree without its nulls that are in `taken` as well."""
    kept = {key: value for key, value in tree.items() if value is not None or taken.get(key, "") is not None}
    return {key: _without_gone(value, taken[key]) if isinstance(value, dict) and isinstance(taken.get(key), dict)
            else value for key, value in kept.items()}


def _shape(tree: Mapping[str, Json]) -> dict[str, Json]:
    """Return the tree with null for every value."""
    return {key: _shape(value) if isinstance(value, dict) else None for key, value in tree.items()}


def _without_null(tree: dict[str, Json]) -> dict[str, Json]:
    return {key: _without_null(value) if isinstance(value, dict) else value
            for key, value in tree.items() if value is not None}


def _shown(name: str) -> str:
    return os.fsencode(name).decode("utf-8", "backslashreplace")


def _text(value: Json) -> bytes:
    """Return the JSON of a value. Raises ValueError for a number or a text that JSON cannot say."""
    return json.dumps(value, ensure_ascii=False, allow_nan=False).encode("utf-8")
