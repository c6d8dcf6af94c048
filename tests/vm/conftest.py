"""The machine that a scenario runs in."""

from __future__ import annotations

from typing import Iterator

import pytest

from tests.vm.machine import Machine


@pytest.fixture(scope="module")
def machine() -> Iterator[Machine]:
    """A freshly booted machine for the scenarios of one file."""
    with Machine() as booted:
        yield booted
