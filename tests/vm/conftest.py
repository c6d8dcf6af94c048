"""The machine that a scenario runs in, and the table of times that a run leaves."""

from __future__ import annotations

from typing import Iterator

import pytest

from tests.vm.machine import CHECKOUT, Machine
from tests.vm.timetable import Timetable


def pytest_addoption(parser: pytest.Parser) -> None:
    """--write: renew docs/wifi.md from the times of this run."""
    parser.addoption("--write", action="store_true", help="renew docs/wifi.md from the times of this run")


@pytest.fixture(scope="module")
def machine() -> Iterator[Machine]:
    """A freshly booted machine for the scenarios of one file."""
    with Machine() as booted:
        yield booted


@pytest.fixture(scope="session")
def timetable(pytestconfig: pytest.Config) -> Iterator[Timetable]:
    """The times of this run, told at its end."""
    collected = Timetable()
    yield collected
    print(f"\n{collected.table()}")
    if pytestconfig.getoption("--write"):
        (CHECKOUT / "docs/wifi.md").write_text(collected.document(), "utf-8")
