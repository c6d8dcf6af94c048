"""The manual pages say everything there is: keys, placeholders, events, options."""

from __future__ import annotations

import ast
import re
from pathlib import Path
from typing import Any, Iterator

import yaml

from iotd import template

ROOT = Path(__file__).parents[1]
# Beneath these the names are the user's own.
FREE = ("publish[].payload", "shadows[].desired", "shadows[].reported")


def words(page: str) -> set[str]:
    """Return the words of a page as its reader sees them."""
    text = re.sub(r"\\f.", " ", (ROOT / "docs/man" / page).read_text("utf-8")).replace("\\-", "-")
    return set(re.split(r'[\s",;]+', text))


def keys(tree: Any, path: str = "") -> Iterator[str]:
    """Return the path of every leaf of the sample configuration."""
    if isinstance(tree, dict) and path not in FREE:
        for key, value in tree.items():
            yield from keys(value, f"{path}.{key}" if path else key)
    elif isinstance(tree, list) and tree and isinstance(tree[0], dict):
        for item in tree:
            yield from keys(item, f"{path}[]")
    else:
        yield path


def events() -> Iterator[str]:
    """Return the slug of every entry that the source can log."""
    for path in (ROOT / "iotd").glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.Call) and re.fullmatch(r"log\.\w+|Entry", ast.unparse(node.func)):
                for argument in node.args[:2]:
                    if isinstance(argument, ast.Constant) and re.fullmatch(r"[a-z]+\.[a-z_]+", str(argument.value)):
                        yield argument.value


def test_every_key_has_its_entry() -> None:
    sample = set(keys(yaml.safe_load((ROOT / "etc/iotd.yaml").read_text("utf-8"))))
    assert len(sample) > 30 and sample - words("iotd.yaml.5") == set()


def test_every_placeholder_has_its_entry() -> None:
    assert {f"{{{name}}}" for name in template.REPORT} - words("iotd.yaml.5") == set()


def test_every_event_has_its_entry() -> None:
    found = set(events())
    assert len(found) > 30 and found - words("iotd.8") == set()
