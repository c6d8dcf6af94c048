"""The text of a configuration without what is nobody else's business: comments and secrets. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable

import yaml

from iotd.config.document import compose

HIDDEN = "***"
_SECRET = re.compile(r"(?i)pass(word|wd|phrase)|secret|token|psk|credential|authorization|api[_-]?key")
_PATTERNS = (
    (re.compile(r"(?s)-----BEGIN [A-Z0-9 ]*PRIVATE KEY-----.*?(-----END [A-Z0-9 ]*PRIVATE KEY-----|\Z)"), HIDDEN),
    (re.compile(r"(?i)(\b[\w-]*(?:pass(?:word|wd|phrase)|secret|token|psk|authorization|api[_-]?key)[\w-]*"
                r"\\?[\"']?\s*[:=]\s*)(?:\\?\"[^\"\n]*\"|'[^'\n]*'|(?!/)[^\s,}\]\"'][^\n,}\]\"']*)"), rf"\1{HIDDEN}"),
    (re.compile(r"(?i)\b(bearer|basic)\s+[\w.~+/=-]{8,}"), rf"\1 {HIDDEN}"),
    (re.compile(r"(://)[^/\s@\"']+@"), rf"\1{HIDDEN}@"),
)


def bare(text: str) -> str:
    """Return a configuration without comments, the values of keys that name a secret hidden. Raises Unreadable."""
    root = compose(text)
    if root is None:
        return ""
    _hide(root, set())
    return str(yaml.serialize(root, allow_unicode=True))


def without_secrets(text: str, known: Iterable[str] = ()) -> str:
    """Return any text with what looks like a secret hidden, and each of those that are known."""
    for secret in known:
        text = text.replace(secret, HIDDEN)
    for pattern, instead in _PATTERNS:
        text = pattern.sub(instead, text)
    return text


def _hide(node: yaml.Node, seen: set[int]) -> None:
    if id(node) in seen or isinstance(node, yaml.ScalarNode):
        return
    seen.add(id(node))
    for child in node.value:
        key, value = child if isinstance(node, yaml.MappingNode) else (None, child)
        is_secret = isinstance(key, yaml.ScalarNode) and _SECRET.search(key.value)
        if is_secret and isinstance(value, yaml.ScalarNode) and not value.value.startswith("/"):
            value.value = HIDDEN
        _hide(value, seen)
