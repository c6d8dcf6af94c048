"""Imports that wait until the module is used: what a package of another's brings along and iotd never touches."""

from __future__ import annotations

import sys
from contextlib import contextmanager
from importlib import import_module
from types import ModuleType
from typing import Iterator


@contextmanager
def deferred(name: str) -> Iterator[None]:
    """Have the imports of this submodule in the block load nothing before an attribute of it is asked for.

    importlib's own LazyLoader loads at once under `import package.module`, the form that paho 2 has.
    """
    if name in sys.modules:
        yield
        return
    stand_in = ModuleType(name)
    stand_in.__dict__["__getattr__"] = lambda attribute: getattr(import_module(name), attribute)
    sys.modules[name] = stand_in
    package, _, last = name.rpartition(".")
    setattr(import_module(package), last, stand_in)  # `from package import module` looks there
    try:
        yield
    finally:
        del sys.modules[name]
