"""Which keys differ between two texts of the configuration, both of which were accepted. Pure."""

from __future__ import annotations

from collections.abc import Iterator

import yaml

from iotd.config.document import compose


def changed(old: str, new: str) -> list[str]:
    """Return the path of every key whose value is another, was added or is gone, in the order of the newer text."""
    before, after = dict(_leaves(compose(old), "")), dict(_leaves(compose(new), ""))
    paths = [path for path in after if before.get(path) != after[path]]
    return paths + [path for path in before if path not in after]


def _leaves(node: yaml.Node | None, path: str) -> Iterator[tuple[str, tuple[str, str]]]:
    """Yield each value that has none below it, by its path: its type and how it is written."""
    if isinstance(node, yaml.MappingNode) and node.value:
        for key, child in node.value:
            yield from _leaves(child, f"{path}.{key.value}" if path else str(key.value))
    elif isinstance(node, yaml.SequenceNode) and node.value:
        for position, child in enumerate(node.value):
            yield from _leaves(child, f"{path}[{position}]")
    elif node is not None:
        yield path, (node.tag, node.value if isinstance(node, yaml.ScalarNode) else "")
