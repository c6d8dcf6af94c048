"""Several files as one: what lies on top is merged into what is below. Pure.

Mappings merge, key by key, and null takes a key away that is below (RFC 7386); everything else, lists too, takes the
place of what was there. Each value keeps the mark of the file that it stands in.
"""

from __future__ import annotations

from collections.abc import Iterable

import yaml

from iotd.config.document import MAX_BYTES, MAX_DEPTH, MAX_NODES, Place, Unreadable, compose, is_mapping, place

MAX_FILES = 100
SUFFIX = ".yaml"


def folder_of(file: str) -> str:
    """Return the folder of what lies on top of a file: /etc/iotd.d for /etc/iotd.yaml."""
    return file.removesuffix(SUFFIX) + ".d"


def chosen(names: Iterable[str]) -> list[str]:
    """Return the names of the files in that folder that are read, in their order: each lies on those before it."""
    return sorted(name for name in names if name.endswith(SUFFIX) and not name.startswith("."))


def merged(text: str, above: Iterable[tuple[str, str]] = ()) -> yaml.Node | None:
    """Return the root of a text with others, each after its file, on top of it; None where all are empty.

    Raises Unreadable, with the file where it is one of the others.
    """
    root, left = compose(text), [MAX_NODES]
    for file, other in above:
        top = compose(other, file)
        if top is not None and not is_mapping(top):
            raise Unreadable(place(top).line, "expected a mapping of keys, as in the file that it lies on", file)
        if top is not None:
            root = top if root is None else _laid(root, top, MAX_DEPTH, left)
    return root


def text_of(root: yaml.Node | None) -> str:
    """Return a merged configuration as the text of one file. Raises Unreadable where that is too large for one."""
    text = "" if root is None else str(yaml.serialize(root, allow_unicode=True))
    if len(text.encode()) > MAX_BYTES:
        raise Unreadable(0, f"is with what lies on top of it larger than {MAX_BYTES} bytes")
    return text


def _laid(below: yaml.Node, top: yaml.Node, depth: int, left: list[int]) -> yaml.Node:
    """Return a node with another on top. A key that comes twice in one file does so afterwards, to be named."""
    if not (is_mapping(below) and is_mapping(top)):
        return top
    left[0] -= len(below.value) + len(top.value)
    if not depth or left[0] < 0:
        where: Place = place(top)
        raise Unreadable(where.line, "its aliases stand for too much; write them out", where.file)
    entries: list[tuple[yaml.Node, yaml.Node] | None] = list(below.value)
    merged_keys = set()
    for key, value in top.value:
        found = next((number for number, (other, _) in enumerate(below.value)
                      if (other.tag, other.value) == (key.tag, key.value)), None)
        if found is None or found in merged_keys:
            entries.append((key, value))
        else:
            merged_keys.add(found)
            gone = value.tag == "tag:yaml.org,2002:null"
            entries[found] = None if gone else (key, _laid(below.value[found][1], value, depth - 1, left))
    return yaml.MappingNode(below.tag, list(filter(None, entries)), below.start_mark, below.end_mark, below.flow_style)
