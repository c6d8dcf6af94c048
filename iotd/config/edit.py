"""One key of a configuration written anew in its text, every comment and all else left as it stands. Pure."""

from __future__ import annotations

import json
import re
from typing import Any

from iotd.config.document import Unreadable, compose

_PLAIN = r"[A-Za-z0-9_][A-Za-z0-9._/-]*"  # what YAML reads as text without quotes, were it no number or such


def found(text: str, *path: str) -> str | None:
    """Return the scalar that stands at a path of keys, as it was meant, empty for none, or for a key with nothing
    behind it; None for a mapping or a list. Raises Unreadable.
    """
    node = _at(compose(text), path)
    return "" if node is None or node.tag.endswith(":null") else node.value if node.id == "scalar" else None


def stands(text: str, *path: str) -> bool:
    """Tell whether there is such a key. Raises Unreadable."""
    return _at(compose(text), path) is not None


def written(text: str, value: str, *path: str) -> str:
    """Return the text with this value, as YAML, at a path of one key or two.

    What stood there is replaced, else it becomes the first key. Raises Unreadable for a text that is none, and for one
    that cannot be changed so, as where an alias stands.
    """
    root = compose(text)
    node, above = _at(root, path), _at(root, path[:-1])
    if node is not None and node.id == "scalar":
        start, end = node.start_mark.index, node.end_mark.index
        blank = "" if end > start or text[start - 1:start].isspace() else " "
        after = text[:start] + blank + value + text[end:]
    elif root is None:
        after = text + ("\n" if text and not text.endswith("\n") else "") + _nested(path, value)
    elif above is None:
        line = _line_start(text, root)
        after = text[:line] + _nested(path, value) + text[line:]
    else:
        after = _first(text, above, f"{path[-1]}: {value}")
    try:
        if _is_changed(root, compose(after), path, value):
            return after
    except Unreadable:
        pass
    line = 0 if node is None else node.start_mark.line + 1
    raise Unreadable(line, f"{'.'.join(path)} cannot be written here without changing more; write it by hand: {value}")


def scalar(value: str) -> str:
    """Return how a text is written in YAML."""
    is_plain = re.fullmatch(_PLAIN, value) and isinstance(_meant(value), str)
    return value if is_plain else json.dumps(value, ensure_ascii=False)


def _first(text: str, mapping: Any, entry: str) -> str:
    """Return the text with an entry before all others of a mapping."""
    start = mapping.start_mark.index
    if mapping.id == "scalar":  # a key with nothing behind it
        place = text.find("\n", start)
        place = len(text) if place < 0 else place
        return f"{text[:place]}\n  {entry}{text[place:]}"
    if mapping.flow_style:
        return f"{text[:start + 1]}{entry}{', ' * bool(mapping.value)}{text[start + 1:]}"
    indent = " " * mapping.start_mark.column
    return f"{text[:start]}{entry}\n{indent}{text[start:]}"


def _nested(path: tuple[str, ...], value: str) -> str:
    return f"{path[0]}: {value}\n" if len(path) == 1 else f"{path[0]}:\n  {path[1]}: {value}\n"


def _line_start(text: str, node: Any) -> int:
    return text.rfind("\n", 0, node.start_mark.index) + 1


def _at(node: Any, path: tuple[str, ...]) -> Any:
    for key in path:
        if node is None or node.id != "mapping":
            return None
        node = next((value for name, value in node.value if name.value == key), None)
    return node


def _is_changed(before: Any, after: Any, path: tuple[str, ...], value: str) -> bool:
    """Tell whether one document is the other with this value, and nothing else of it another."""
    wanted: Any = {} if before is None else _plain(before)
    if not isinstance(wanted, dict) or after is None:
        return False
    place = wanted
    for key in path[:-1]:
        if not isinstance(place.get(key), dict):
            place[key] = {}
        place = place[key]
    place[path[-1]] = _plain(compose(value))
    return bool(_plain(after) == wanted)


def _plain(node: Any) -> Any:
    if node.id == "scalar":
        return node.tag, node.value
    if node.id == "sequence":
        return [_plain(child) for child in node.value]
    return {key.value if key.id == "scalar" else str(key): _plain(child) for key, child in node.value}


def _meant(value: str) -> Any:
    node = compose(value)
    return node.value if node is not None and node.tag.endswith(":str") else None
