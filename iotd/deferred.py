"""What a package of another's brings along and iotd hardly touches waits until it is used: modules and patterns."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache, partial
from importlib import import_module
from types import ModuleType

from iotd.typed import Any


@contextmanager
def deferred(name: str) -> Iterator[None]:
    """Have the imports of this module in the block load nothing before a function of it is called.

    importlib's own LazyLoader loads at once under `import package.module`, the form that paho 2 has, and under
    `from module import function`, that of the JSON logger of Debian 12.
    """
    if name in sys.modules:
        yield
        return
    stand_in = ModuleType(name)
    stand_in.__dict__["__getattr__"] = lambda function: partial(_call, name, function)
    sys.modules[name] = stand_in
    package, _, last = name.rpartition(".")
    if package:
        setattr(import_module(package), last, stand_in)  # `from package import module` looks there
    try:
        yield
    finally:
        del sys.modules[name]


@contextmanager
def deferred_patterns() -> Iterator[None]:
    """Have the regular expressions that modules make as they are imported in the block compiled at their first use."""
    at_once = re.compile
    setattr(re, "compile", partial(_Pattern, at_once))
    try:
        yield
    finally:
        setattr(re, "compile", at_once)


class _Pattern:
    def __init__(self, compile_now: Callable[..., Any], *arguments: Any, **named: Any) -> None:
        self._compiled = cache(partial(compile_now, *arguments, **named))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._compiled(), name)


def _call(module: str, function: str, *arguments: Any, **named: Any) -> Any:
    return getattr(import_module(module), function)(*arguments, **named)
