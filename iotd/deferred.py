"""Imports that wait until the module is used: what a package of another's brings along and iotd never touches."""

from __future__ import annotations

import sys
from contextlib import contextmanager
from functools import partial
from importlib import import_module
from types import ModuleType
from typing import Any, Iterator


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


def _call(module: str, function: str, *arguments: Any, **named: Any) -> Any:
    return getattr(import_module(module), function)(*arguments, **named)
